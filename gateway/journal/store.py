"""The one SQLite file and the only SQL that touches it.

One connection, exclusive locking, write-ahead log, ``synchronous=FULL``: SQLite before 3.51.3 can corrupt a WAL database when
two connections write, and with NORMAL a power cut takes back commits that were acknowledged. A commit therefore is one append
to ``journal.db-wal`` and one ``fdatasync`` of it; every :data:`_LOG_PAGES` pages the log is copied back into ``journal.db``,
which costs one more sync of each file.

Errors leave here in three kinds, because the writer must treat them differently: :class:`Duplicate` and :class:`DiskFull` were
rolled back cleanly, :class:`Broken` is final.
"""

# ruff: noqa: S608  # statements are put together from constants of this module and question marks only

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final, TypeVar, cast

import aiosqlite

from gateway.errors import IntegrityError, OperatorError
from gateway.journal.tip import Row

T = TypeVar("T")
#: Written into the file's header: "EGWJ" and the version of the schema.
APPLICATION_ID: Final = 0x4547574A
SCHEMA_VERSION: Final = 2
#: Kinds that come once or more per certificate; all others are found by an index, so start-up never reads everything.
COMMON_KINDS: Final = ("intent", "issued", "refused")

COMMON: Final = "('intent','issued','refused')"
#: Kinds that a serial number has once.
UNIQUE: Final = "('intent','issued')"
SCHEMA: Final = (
    # leaf stands before body: reading leaves for a proof then skips the overflow pages of long bodies
    """CREATE TABLE record (
        seq INTEGER PRIMARY KEY, kind TEXT NOT NULL, time INTEGER NOT NULL, serial BLOB, idem BLOB,
        leaf BLOB NOT NULL, body BLOB NOT NULL) STRICT""",
    f"CREATE UNIQUE INDEX record_certificate ON record (serial, kind) WHERE kind IN {UNIQUE}",
    f"CREATE INDEX record_status ON record (serial) WHERE serial IS NOT NULL AND kind NOT IN {UNIQUE}",
    f"CREATE INDEX record_rare ON record (kind) WHERE kind NOT IN {COMMON}",
    "CREATE INDEX record_idem ON record (idem) WHERE idem IS NOT NULL",
    "CREATE TABLE tally (scope TEXT PRIMARY KEY, used INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    """CREATE TABLE head (
        only INTEGER PRIMARY KEY CHECK (only = 0), size INTEGER NOT NULL, frontier BLOB NOT NULL,
        open BLOB NOT NULL, note TEXT NOT NULL) STRICT""",
    # what is given away once, and the last record of each open unit of the line
    "CREATE TABLE claim (name BLOB PRIMARY KEY, seq INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    "CREATE TABLE open_unit (seq INTEGER PRIMARY KEY) STRICT",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
COLUMNS: Final = "seq, kind, time, serial, idem, leaf, body"
_INSERT = f"INSERT INTO record ({COLUMNS}) VALUES"
_INSERT_ROW = "(?, ?, ?, ?, ?, ?, ?)"
_TALLY = "INSERT INTO tally (scope, used) VALUES {} ON CONFLICT (scope) DO UPDATE SET used = used + excluded.used"
_HEAD = """INSERT INTO head (only, size, frontier, open, note) VALUES (0, ?, ?, ?, ?)
    ON CONFLICT (only) DO UPDATE
    SET size = excluded.size, frontier = excluded.frontier, open = excluded.open, note = excluded.note"""
_CLAIM = "INSERT INTO claim (name, seq) VALUES "
_END_UNITS = "DELETE FROM open_unit WHERE seq IN ({})"
_BEGIN_UNITS = "INSERT INTO open_unit (seq) VALUES "
#: Pages of 4 KiB in the log before it is copied back (SQLite's own choice). Everybody waits for the two syncs of it.
_LOG_PAGES = 1_000
#: What a transaction adds to the log: pages of the head, the tallies and the indexes, and octets of records to a page.
_PAGES_A_BATCH, _OCTETS_A_PAGE = 8, 2_000
#: Longest list of values in one statement; lists are padded to powers of two so that few statements are ever prepared.
_MOST_VALUES = 512
#: Rows inserted by one statement at most. A statement for each number of them stays prepared.
_MOST_ROWS = 64
_PREPARED = 256


class StoreError(Exception):
    """Root of what can go wrong in the store; never leaves the package."""


class Duplicate(StoreError):
    """A serial number is already recorded, or something was claimed before. Nothing was written."""


class DiskFull(StoreError):
    """No space left. Nothing was written; writing may work again when there is space."""


class Broken(StoreError):
    """Anything else: the file, the disk or our idea of it is wrong. Nothing may be written any more."""


@dataclass(frozen=True, slots=True)
class HeadRow:
    """The one row that says where the journal ends, rewritten by every transaction."""

    size: int
    frontier: bytes
    open_intents: tuple[int, ...]
    note: str

    def columns(self) -> tuple[int, bytes, bytes, str]:
        return self.size, self.frontier, b"".join(seq.to_bytes(8, "big") for seq in self.open_intents), self.note

    @classmethod
    def of(cls, size: int, frontier: bytes, intents: bytes, note: str) -> HeadRow:
        numbers = tuple(int.from_bytes(intents[at : at + 8], "big") for at in range(0, len(intents), 8))
        return cls(size, frontier, numbers, note)


@dataclass(frozen=True, slots=True)
class UnitRows:
    """What a batch does beside its rows for the line: claims (name, seq), and of open units the last records that are none
    any more and those that are new."""

    claims: Sequence[tuple[bytes, int]] = ()
    gone: Sequence[int] = ()
    new: Sequence[int] = ()


NO_UNITS: Final = UnitRows()


def file_uri(path: Path, mode: str) -> str:
    return f"{path.absolute().as_uri()}?mode={mode}"


def _new_file(path: Path) -> None:
    """An empty file for this user alone. SQLite would leave that to the umask; its log takes the mode of the file."""
    path.touch(mode=0o600)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise Duplicate(str(error)) from error
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        raise (DiskFull if code == sqlite3.SQLITE_FULL else Broken)(str(error)) from error


class _Connection(aiosqlite.Connection):
    """aiosqlite's connection with one method more (``docs/adr/0010``), and with an end that is the end."""

    async def close(self) -> None:
        await super().close()
        self._thread.join()  # it has said that it stops, which is the last thing it does

    def in_thread(self, work: Callable[[sqlite3.Connection], None]) -> asyncio.Future[None]:
        """Have all of ``work`` run in the connection's thread, one hop there and back. The thread has it when this returns."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tx.put_nowait((done, partial(work, self._conn)))
        return done


class Store:
    """The open file. Only the writer calls it. Calls are carried out one after the other, in the order they were begun."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._log = _Log()

    @classmethod
    async def open(cls, path: Path, *, create: bool = False) -> Store:
        """Open ``path``; with ``create`` make the tables in the same transaction as the first records.

        Raises OperatorError when another process has the journal open, IntegrityError when the file is no journal.
        """
        if create:
            _new_file(path)
        connect = partial(sqlite3.connect, file_uri(path, "rw"), uri=True, timeout=0.5, cached_statements=_PREPARED)
        connection = _Connection(connect, iter_chunk_size=64)
        try:
            await connection
        except sqlite3.Error as error:
            raise OperatorError(f"{path} cannot be opened: {error}") from error
        store = cls(connection)
        try:
            await store._prepare(create)
        except sqlite3.Error as error:
            await connection.close()
            if "locked" in str(error):
                raise OperatorError("the journal is open in another process") from error
            raise IntegrityError(f"the journal cannot be opened: {error}") from error
        except IntegrityError:
            await connection.close()
            raise
        return store

    async def _prepare(self, create: bool) -> None:
        await self._pragma("locking_mode = EXCLUSIVE")  # before WAL: then SQLite needs no shared memory file
        # A new file gets its final name by rename when it is complete, so nothing of it may stand in a log beside it: closing
        # a database does not report that copying the log back failed.
        await self._pragma("journal_mode = DELETE" if create else "journal_mode = WAL")
        await self._pragma(self._synchronous())
        await self._pragma("wal_autocheckpoint = 0")  # see _copy_back
        await self._pragma("cache_size = -8192")  # KiB
        await self._pragma("trusted_schema = OFF")
        await self._pragma("cell_size_check = ON")
        if create:
            await self._connection.execute("BEGIN IMMEDIATE")
            for statement in SCHEMA:
                await self._connection.execute(statement)
        elif (await self._pragma("application_id"), await self._pragma("user_version")) != (APPLICATION_ID, SCHEMA_VERSION):
            raise IntegrityError("this file is not a journal of this version")

    @staticmethod
    def _synchronous() -> str:
        return "synchronous = FULL"

    async def _pragma(self, text: str) -> object:
        rows = list(await self._connection.execute_fetchall(f"PRAGMA {text}"))
        return rows[0][0] if rows else None

    def write(
        self, rows: Sequence[Row], tallies: Sequence[tuple[str, int]], head: HeadRow | None, units: UnitRows = NO_UNITS
    ) -> Coroutine[None, None, None]:
        """Make one batch durable: all of it, or (Duplicate, DiskFull) none of it, or (Broken) nobody knows.

        It is begun when this returns; the result, which must be awaited, says how it ended. One hop to the connection's thread.
        Only a copy of another journal that is not complete yet is written without a head.
        """
        return _outcome(self._connection.in_thread(partial(_write, rows, tallies, head, units, self._log)))

    def empty(self, numbers: Sequence[int]) -> Coroutine[None, None, None]:
        """Take the bodies of these records away for good, all of them or (DiskFull) none; everything else of them stays."""
        return _outcome(self._connection.in_thread(partial(_empty, numbers, self._log)))

    async def head(self) -> HeadRow | None:
        for size, frontier, intents, note in await self._fetch("SELECT size, frontier, open, note FROM head"):
            return HeadRow.of(cast(int, size), cast(bytes, frontier), cast(bytes, intents), cast(str, note))
        return None

    async def tallies(self) -> dict[str, int]:
        return {cast(str, scope): cast(int, used) for scope, used in await self._fetch("SELECT scope, used FROM tally")}

    async def open_units(self) -> list[int]:
        """The last record of each open unit, by seq."""
        return [cast(int, seq) for (seq,) in await self._fetch("SELECT seq FROM open_unit ORDER BY seq")]

    async def claimed(self, names: Iterable[bytes]) -> dict[bytes, int]:
        """The record that made each of these claims, of those that were made."""
        found: dict[bytes, int] = {}
        for values in _padded(list(names)):
            marks = ",".join("?" * len(values))
            for name, seq in await self._fetch(f"SELECT name, seq FROM claim WHERE name IN ({marks})", *values):
                found[cast(bytes, name)] = cast(int, seq)
        return found

    async def rows(self, start: int, limit: int) -> list[Row]:
        """Up to ``limit`` whole rows from ``start`` on, by seq."""
        found = await self._fetch(f"SELECT {COLUMNS} FROM record WHERE seq >= ? ORDER BY seq LIMIT ?", start, limit)
        return [Row(*row) for row in cast("list[Row]", found)]

    async def last_seq(self) -> int:
        """The highest seq, or -1."""
        return cast(int, (await self._fetch("SELECT coalesce(max(seq), -1) FROM record"))[0][0])

    async def leaves(self, start: int, stop: int) -> list[bytes]:
        found = await self._fetch("SELECT leaf FROM record WHERE seq >= ? AND seq < ? ORDER BY seq", start, stop)
        return [cast(bytes, leaf) for (leaf,) in found]

    async def bodies(self, start: int, limit: int) -> list[bytes]:
        found = await self._fetch("SELECT body FROM record WHERE seq >= ? ORDER BY seq LIMIT ?", start, limit)
        return [cast(bytes, body) for (body,) in found]

    async def bodies_at(self, numbers: Iterable[int]) -> dict[int, bytes]:
        """The bodies of these records, those that exist."""
        found: dict[int, bytes] = {}
        for values in _padded(list(numbers)):
            marks = ",".join("?" * len(values))
            for seq, body in await self._fetch(f"SELECT seq, body FROM record WHERE seq IN ({marks})", *values):
                found[cast(int, seq)] = cast(bytes, body)
        return found

    async def bodies_by_idem(self, keys: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
        """(idem, body) of the issued records with one of these idem columns, in no order."""
        found: list[tuple[bytes, bytes]] = []
        for values in _padded(list(keys)):
            marks = ",".join("?" * len(values))
            query = f"SELECT idem, body FROM record INDEXED BY record_idem WHERE idem IN ({marks})"
            found += cast("list[tuple[bytes, bytes]]", await self._fetch(query, *values))
        return found

    async def idems(self, after: bytes, limit: int) -> list[bytes]:
        """Up to ``limit`` idem columns greater than ``after``, in order; from the index alone."""
        query = "SELECT idem FROM record INDEXED BY record_idem WHERE idem > ? ORDER BY idem LIMIT ?"
        return [cast(bytes, idem) for (idem,) in await self._fetch(query, after, limit)]

    async def bodies_by_serial(self, serials: Iterable[bytes]) -> list[tuple[bytes, bytes]]:
        """(serial, body) of all records about these serial columns; those of one serial by seq."""
        found: list[tuple[bytes, bytes]] = []
        for values in _padded(list(serials)):
            marks = ",".join("?" * len(values))
            query = (
                f"SELECT serial, body, seq FROM record WHERE serial IN ({marks}) AND kind IN {UNIQUE} UNION ALL "
                f"SELECT serial, body, seq FROM record WHERE serial IN ({marks}) AND kind NOT IN {UNIQUE} ORDER BY seq"
            )
            rows = await self._fetch(query, *values, *values)
            found += [(cast(bytes, serial), cast(bytes, body)) for serial, body, _ in rows]
        return found

    async def bodies_of_kinds(self, kinds: Sequence[str], start: int, limit: int) -> list[tuple[int, bytes]]:
        """(seq, body) of up to ``limit`` records of these kinds from ``start`` on; by index when no kind is a common one."""
        if set(kinds) & set(COMMON_KINDS):
            marks = ",".join("?" * len(kinds))
            query = f"SELECT seq, body FROM record WHERE seq >= ? AND kind IN ({marks}) ORDER BY seq LIMIT ?"
            return cast("list[tuple[int, bytes]]", await self._fetch(query, start, *kinds, limit))
        part = (
            "SELECT * FROM (SELECT seq, body FROM record INDEXED BY record_rare "
            f"WHERE kind = ? AND kind NOT IN {COMMON} AND seq >= ? ORDER BY seq LIMIT ?)"
        )
        query = " UNION ALL ".join([part] * len(kinds)) + " ORDER BY seq LIMIT ?"
        values = [value for kind in kinds for value in (kind, start, limit)]
        return cast("list[tuple[int, bytes]]", await self._fetch(query, *values, limit))

    async def close(self) -> None:
        with _translated():
            await self._connection.close()

    async def trace(self, callback: Callable[[str], None] | None) -> None:
        """Have every statement told to ``callback``: for counting them."""
        await self._connection.set_trace_callback(cast(Callable[[str], None], callback))

    async def _fetch(self, query: str, *values: object) -> list[tuple[object, ...]]:
        with _translated():
            return cast("list[tuple[object, ...]]", await self._connection.execute_fetchall(query, values))


async def _outcome(work: asyncio.Future[None]) -> None:
    with _translated():
        await work


@dataclass(slots=True)
class _Log:
    """How full the write-ahead log is, in pages, nearly: SQLite tells only who copies it back."""

    pages: int = 0


def _write(  # noqa: PLR0917  # a partial is made of it
    rows: Sequence[Row],
    tallies: Sequence[tuple[str, int]],
    head: HeadRow | None,
    units: UnitRows,
    log: _Log,
    connection: sqlite3.Connection,
) -> None:
    """One transaction; its first statement opens it. Python gives up its lock for every statement and must then wait for the
    event loop to let go of it, so rows are inserted many at a time."""
    try:
        for start in range(0, len(rows), _MOST_ROWS):
            part = rows[start : start + _MOST_ROWS]
            connection.execute(_INSERT + ",".join([_INSERT_ROW] * len(part)), tuple(chain.from_iterable(part)))
        for start in range(0, len(tallies), _MOST_ROWS):
            changes = tallies[start : start + _MOST_ROWS]
            connection.execute(_TALLY.format(",".join(["(?, ?)"] * len(changes))), tuple(chain.from_iterable(changes)))
        for statement, values in _unit_statements(units):
            connection.execute(statement, values)
        if head is not None:
            connection.execute(_HEAD, head.columns())
        connection.commit()
    except sqlite3.Error:
        connection.rollback()
        raise
    log.pages += _PAGES_A_BATCH + sum(len(row.body) for row in rows) // _OCTETS_A_PAGE
    if log.pages >= _LOG_PAGES:
        _copy_back(log, connection)


def _unit_statements(units: UnitRows) -> Iterator[tuple[str, tuple[object, ...]]]:
    for claims in _parts(units.claims):
        yield _CLAIM + ",".join(["(?, ?)"] * len(claims)), tuple(chain.from_iterable(claims))
    for gone in _parts(units.gone):
        yield _END_UNITS.format(",".join("?" * len(gone))), tuple(gone)
    for new in _parts(units.new):
        yield _BEGIN_UNITS + ",".join(["(?)"] * len(new)), tuple(new)


def _parts(values: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(values), _MOST_ROWS):
        yield values[start : start + _MOST_ROWS]


def _empty(numbers: Sequence[int], log: _Log, connection: sqlite3.Connection) -> None:
    try:
        connection.executemany("UPDATE record SET body = x'' WHERE seq = ?", [(number,) for number in numbers])
        connection.commit()
    except sqlite3.Error:
        connection.rollback()
        raise
    log.pages += len(numbers)
    if log.pages >= _LOG_PAGES:
        _copy_back(log, connection)


def _copy_back(log: _Log, connection: sqlite3.Connection) -> None:
    """The log into the file. SQLite would do it by itself and tell nobody of an error: the next attempt would then count
    although the first error is final here. On a full disk the log goes on growing, which the disk's thresholds see."""
    try:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    except sqlite3.Error as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_FULL:
            raise
    else:
        log.pages = 0


def empty_log(path: Path) -> None:
    """Copy what is in the log back into the file, writing and syncing it anew, and cut the log to nothing. Blocks.

    Raises OperatorError when that is not possible.
    """
    connection = sqlite3.connect(file_uri(path, "rw"), uri=True, timeout=0.5, isolation_level=None)
    try:
        for pragma in ("locking_mode = EXCLUSIVE", "synchronous = FULL", "wal_checkpoint(TRUNCATE)"):
            connection.execute(f"PRAGMA {pragma}").fetchall()
    except sqlite3.Error as error:
        raise OperatorError(f"the journal's log cannot be written back: {error}") from error
    finally:
        connection.close()


def _padded(values: list[T]) -> Iterator[list[T]]:
    """``values`` in lists whose length is a power of two, the last value repeated: few statements stay prepared."""
    for start in range(0, len(values), _MOST_VALUES):
        part = values[start : start + _MOST_VALUES]
        yield part + part[-1:] * ((1 << (len(part) - 1).bit_length()) - len(part))

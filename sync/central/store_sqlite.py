"""Central's database in one SQLite file: for a workshop, and for everybody without a database server.

One connection, owned by one thread, exclusive locking, write-ahead log, ``synchronous=FULL``, for the reasons that
:mod:`gateway.journal.store` gives; and as there the first I/O error is final, because nobody knows what the disk has. The next
start then copies the log back, has SQLite check the file, and computes every journal's root again.
"""

# ruff: noqa: S608  # the number of question marks is ours

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager, suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final, TypeVar, cast

from gateway.errors import AlreadyExists, IntegrityError, MalformedRequest, OperatorError
from gateway.journal.anchor import sync_directory, write_durably
from sync.central.audit import root_problems
from sync.central.row import R, Row
from sync.central.rows import TABLE_OF, Certificate, Journal, Kept
from sync.central.statements import RECORD_COLUMNS, SCHEMA_VERSION, Dialect, ordered, place_of, seq_of, values_of
from sync.central.store import MOST_ROWS, News, Page, Search, StoreFailed, StoreFull, Value

T = TypeVar("T")
#: "EGWC" in the file's header.
APPLICATION_ID: Final = 0x45475743
_DIALECT: Final = Dialect("?", {int: "INTEGER", str: "TEXT", bytes: "BLOB"}, " STRICT", "LIKE")
#: Values in one statement at most; lists are padded to powers of two, so that few statements are ever prepared.
_MOST_VALUES: Final = 512
#: Rows in one INSERT: the thread gives up Python's lock for every statement and must wait to get it back.
_MOST_ROWS: Final = 64
#: Pages of 4 KiB in the log before it is copied back, and what is reckoned to go into it: octets of records to a page; for any
#: other row itself and its indexes; for every transaction what it touches besides.
_LOG_PAGES: Final = 1_000
_OCTETS_A_PAGE, _PAGES_A_ROW, _PAGES_A_TRANSACTION = 2_000, 2, 4
_RETRY_FULL_S, _RETRY_FAILED_S = 60, 30


class SqliteStore:
    """The open file; a :class:`sync.central.store.CentralStore`."""

    def __init__(self, thread: ThreadPoolExecutor, connection: sqlite3.Connection, path: Path) -> None:
        self._thread, self._connection, self._path = thread, connection, path
        self._turn = asyncio.Lock()
        self._news = News()
        self._log_pages = 0
        self._failed: StoreFailed | None = None
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @classmethod
    async def open(cls, path: Path) -> SqliteStore:
        """Open ``path``, or make it.

        Raises OperatorError when another process has it or it is of another version, IntegrityError when it is damaged.
        """
        thread = ThreadPoolExecutor(1, "central-store")
        loop = asyncio.get_running_loop()
        try:
            connection = await loop.run_in_executor(thread, _opened, path)
        except BaseException:
            thread.shutdown()
            raise
        store = cls(thread, connection, path)
        if _marker(path).exists():
            await store._check_after_failure()
        return store

    async def _check_after_failure(self) -> None:
        """What an error left is only believed when it is on the disk anew and all of it fits together."""
        try:
            problems = await self.run(_structure_problems)
            if not problems:
                problems = await root_problems(self)
            if problems:
                raise IntegrityError(f"central's database was damaged: {'; '.join(problems[:5])}")
        except BaseException:
            await self.close()
            raise
        _marker(self._path).unlink()

    @property
    def failure(self) -> asyncio.Future[None]:
        return self._failure

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqliteTransaction]:
        transaction = SqliteTransaction(self)
        async with self._turn:
            try:
                await self.run(_begin)
                yield transaction
            except BaseException:
                with suppress(StoreFailed):  # then there is nothing to take back, and the first error says more
                    await self.run(_rollback)
                raise
            try:
                await self.run(_commit)
                await self._copy_back(transaction.pages)
            finally:  # also when nobody knows: a look too many harms nobody
                self._news.tell(transaction.topics)

    async def _copy_back(self, pages: int) -> None:
        """The log into the file, now and then. SQLite would do it by itself and tell nobody of an error, which is final here as
        any other. On a full disk the log goes on growing."""
        if not pages:
            return
        self._log_pages += pages + _PAGES_A_TRANSACTION
        if self._log_pages >= _LOG_PAGES:
            with suppress(StoreFull):
                await self.run(lambda connection: connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall())
                self._log_pages = 0

    def listening(self, topic: str) -> AbstractContextManager[asyncio.Event]:
        return self._news.listening(topic)

    async def backup(self, target: Path) -> None:
        """A complete copy in a new file, durable. Everybody else waits meanwhile. Raises AlreadyExists, OperatorError."""
        async with self._turn:
            await self.run(partial(_copy, target))

    async def close(self) -> None:
        if not self._failure.done():
            self._failure.set_result(None)
        with suppress(sqlite3.Error):  # what could not be copied back is still in the log
            await asyncio.get_running_loop().run_in_executor(self._thread, self._connection.close)
        self._thread.shutdown()

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Do ``work`` in the thread, all of it even if the caller is cancelled; what is asked next is done after it."""
        if self._failed is not None:
            raise StoreFailed(str(self._failed), retry_after=_RETRY_FAILED_S)
        done = asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, work)
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            done.add_done_callback(lambda future: future.exception())  # nobody else asks; a failure is latched already
            raise

    def _guarded(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """In the thread: an error in the words of the package. The first one of the disk is the last thing that happens."""
        if self._failed is not None:
            raise self._failed
        try:
            return work(self._connection)
        except sqlite3.IntegrityError as error:
            raise IntegrityError(f"central's database contradicts itself: {error}") from error
        except (OverflowError, UnicodeError, sqlite3.DataError) as error:
            raise MalformedRequest("a value that the database cannot hold") from error
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
                raise StoreFull("central's disk is full", retry_after=_RETRY_FULL_S) from error
            self._latch(error)
            raise self._failed from error  # type: ignore[misc]  # set by the line before

    def _latch(self, error: sqlite3.Error) -> None:
        self._failed = StoreFailed(f"central's database failed: {error}", retry_after=_RETRY_FAILED_S)
        with suppress(OSError):  # the disk may be what failed
            write_durably(_marker(self._path), str(error).encode())
        self._failure.get_loop().call_soon_threadsafe(self._report, self._failed)

    def _report(self, failed: StoreFailed) -> None:
        if not self._failure.done():
            self._failure.set_exception(failed)
            self._failure.exception()  # whoever awaits it still gets it


class SqliteTransaction:
    """A :class:`sync.central.store.Transaction`."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.topics: set[str] = set()
        self.pages = 0  # that this adds to the log, nearly

    async def find(self, row: type[R], *key: Value, lock: bool = False) -> R | None:  # there is no other transaction
        found = await self._rows(row, _DIALECT.find(row), key)
        return found[0] if found else None

    async def select(self, row: type[R], *, after: Sequence[Value] = (), limit: int = MOST_ROWS, **equal: Value) -> list[R]:
        query = _DIALECT.select(row, tuple(equal), after=bool(after))
        return await self._rows(row, query, (*equal.values(), *after, limit))

    async def select_in(self, row: type[R], column: str, values: Sequence[Value]) -> list[R]:
        found: list[R] = []
        for part, marks in _padded(values):
            found += await self._rows(row, _DIALECT.select_in(row, column, f"IN ({marks})"), part)
        return found

    async def count(self, row: type[R], **equal: Value) -> int:
        rows = await self._fetch(_DIALECT.count(row, tuple(equal)), tuple(equal.values()))
        return cast(int, rows[0][0])

    async def put(self, *rows: Row) -> None:
        await self._insert(rows, replace=True)

    async def add(self, *rows: Row) -> None:
        await self._insert(rows, replace=False)

    async def change(self, row: type[R], *key: Value, **columns: Value) -> bool:
        return await self._change(_DIALECT.change(row, tuple(columns)), (*columns.values(), *key)) > 0

    async def remove(self, row: type[R], **equal: Value) -> int:
        return await self._change(_DIALECT.remove(row, tuple(equal)), tuple(equal.values()))

    async def lock(self, origin: str) -> Journal | None:
        return await self.find(Journal, origin)

    async def next_number(self) -> int:
        return cast(int, (await self._fetch('SELECT coalesce(max("number"), 0) + 1 FROM "journal"', ()))[0][0])

    async def append(self, journal: Journal, start: int, leaves: Sequence[bytes], bodies: Sequence[bytes], at: int) -> None:
        first = place_of(journal.number, start)
        rows = [(first + index, at, leaf, body) for index, (leaf, body) in enumerate(zip(leaves, bodies, strict=True))]
        self.pages += sum(map(len, bodies)) // _OCTETS_A_PAGE + 1
        await self._store.run(partial(_insert, f"INSERT INTO record ({', '.join(RECORD_COLUMNS)})", "", rows))

    async def records(self, journal: Journal, start: int, limit: int = MOST_ROWS) -> list[Kept]:
        query = "SELECT place, leaf, body, received FROM record WHERE place >= ? AND place < ? ORDER BY place LIMIT ?"
        return _kept(await self._fetch(query, (place_of(journal.number, start), place_of(journal.number + 1, 0), limit)))

    async def records_at(self, journal: Journal, numbers: Sequence[int]) -> list[Kept]:
        found: list[Kept] = []
        for part, marks in _padded([place_of(journal.number, seq) for seq in numbers]):
            query = f"SELECT place, leaf, body, received FROM record WHERE place IN ({marks})"
            found += _kept(await self._fetch(query, part))
        return found

    async def leaves(self, journal: Journal, start: int, stop: int) -> list[bytes]:
        query = "SELECT leaf FROM record WHERE place >= ? AND place < ? ORDER BY place"
        rows = await self._fetch(query, (place_of(journal.number, start), place_of(journal.number, stop)))
        return [cast(bytes, leaf) for (leaf,) in rows]

    async def search(self, search: Search, *, after: tuple[bytes, bytes] | None = None, limit: int = 100) -> Page:
        scan = _DIALECT.search(search, after, limit)
        found = await self._rows(Certificate, scan.page, scan.page_values)
        stop = await self._fetch(scan.stop, scan.stop_values) if len(found) < limit else []
        return scan.page_of(found, limit, cast("list[tuple[bytes, bytes]]", stop))

    def announce(self, topic: str) -> None:
        self.topics.add(topic)

    async def _insert(self, rows: Sequence[Row], *, replace: bool) -> None:
        if not rows:
            return
        table = TABLE_OF[type(rows[0])]
        values = [*map(values_of(table), ordered(table, rows))]
        self.pages += _PAGES_A_ROW * len(values)
        await self._store.run(partial(_insert, _DIALECT.insert(table), _DIALECT.conflict(table, replace=replace), values))

    async def _rows(self, row: type[R], query: str, values: Sequence[Value]) -> list[R]:
        return [row(*each) for each in await self._fetch(query, values)]  # the schema is the row's

    async def _fetch(self, query: str, values: Sequence[Value]) -> list[tuple[object, ...]]:
        return await self._store.run(lambda connection: connection.execute(query, values).fetchall())

    async def _change(self, query: str, values: Sequence[Value]) -> int:
        count = await self._store.run(lambda connection: connection.execute(query, values).rowcount)
        self.pages += _PAGES_A_ROW * count
        return count


# In the thread.


def _opened(path: Path) -> sqlite3.Connection:
    try:
        new = not path.exists()
        if new:
            path.touch(mode=0o600)  # SQLite would leave that to the umask
            sync_directory(path.parent)
        connection = sqlite3.connect(path, timeout=0.5, isolation_level=None, cached_statements=256)
    except (OSError, sqlite3.Error) as error:
        raise OperatorError(f"central's database {path} cannot be opened: {error}") from error
    try:
        _prepare(connection, after_failure=_marker(path).exists())
    except sqlite3.Error as error:
        connection.close()
        if "locked" in str(error):
            raise OperatorError("central's database is open in another process") from error
        raise IntegrityError(f"central's database cannot be opened: {error}") from error
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, *, after_failure: bool) -> None:
    def pragma(text: str) -> object:
        row = connection.execute(f"PRAGMA {text}").fetchone()
        return row[0] if row else None

    pragma("locking_mode = EXCLUSIVE")  # before WAL: then SQLite needs no shared memory file
    pragma("journal_mode = WAL")
    pragma("synchronous = FULL")
    pragma("wal_autocheckpoint = 0")  # see _copy_back
    pragma("cache_size = -32768")  # KiB
    pragma("trusted_schema = OFF")
    pragma("cell_size_check = ON")
    if after_failure:
        pragma("wal_checkpoint(TRUNCATE)")
    connection.execute("BEGIN IMMEDIATE")
    if pragma("application_id") == 0 and pragma("user_version") == 0 and pragma("schema_version") == 0:
        for statement in _DIALECT.schema():
            connection.execute(statement)
        pragma(f"application_id = {APPLICATION_ID}")
        pragma(f"user_version = {SCHEMA_VERSION}")
    connection.execute("COMMIT")
    if (pragma("application_id"), pragma("user_version")) != (APPLICATION_ID, SCHEMA_VERSION):
        raise OperatorError("this file is not a database of central, or of another version of it")


def _marker(path: Path) -> Path:
    return path.with_name(path.name + ".failed")


def _begin(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN IMMEDIATE")


def _commit(connection: sqlite3.Connection) -> None:
    try:
        connection.execute("COMMIT")
    except sqlite3.Error:
        _rollback(connection)
        raise


def _rollback(connection: sqlite3.Connection) -> None:
    if connection.in_transaction:  # some errors have ended it already
        connection.execute("ROLLBACK")


def _insert(head: str, tail: str, rows: Sequence[tuple[Value, ...]], connection: sqlite3.Connection) -> None:
    for start in range(0, len(rows), _MOST_ROWS):
        part = rows[start : start + _MOST_ROWS]
        marks = ",".join([f"({','.join('?' * len(part[0]))})"] * len(part))
        connection.execute(f"{head} VALUES {marks}{tail}", tuple(chain.from_iterable(part)))


def _structure_problems(connection: sqlite3.Connection) -> list[str]:
    return [text for (text,) in connection.execute("PRAGMA integrity_check(20)") if text != "ok"]


def _copy(target: Path, connection: sqlite3.Connection) -> None:
    try:
        target.touch(mode=0o600, exist_ok=False)
    except FileExistsError as error:
        raise AlreadyExists(f"{target} exists") from error
    except OSError as error:
        raise OperatorError(f"the backup cannot be written: {error}") from error
    try:
        connection.execute("VACUUM INTO ?", (str(target),))
        descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        sync_directory(target.parent)
    except (OSError, sqlite3.Error) as error:  # of the target's disk: ours is read only
        target.unlink(missing_ok=True)
        raise OperatorError(f"the backup cannot be written: {error}") from error


def _kept(rows: Sequence[tuple[object, ...]]) -> list[Kept]:
    found = cast("list[tuple[int, bytes, bytes, int]]", rows)
    return [Kept(seq_of(place), leaf, body, received) for place, leaf, body, received in found]


def _padded(values: Sequence[Value]) -> Iterator[tuple[list[Value], str]]:
    """``values`` in lists whose length is a power of two, the last value repeated, and as many question marks."""
    for start in range(0, len(values), _MOST_VALUES):
        part = list(values[start : start + _MOST_VALUES])
        part += part[-1:] * ((1 << (len(part) - 1).bit_length()) - len(part))
        yield part, ",".join("?" * len(part))

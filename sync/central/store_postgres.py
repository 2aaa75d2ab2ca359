"""Central's database in PostgreSQL: for fleets, with any number of workers that keep nothing themselves.

A journal's row is the lock of everything about it. Workers hear of changes by NOTIFY on one channel. A server that may forget
what it has confirmed (``fsync`` or ``full_page_writes`` off) is refused, and a session never runs with a weaker
``synchronous_commit`` than ``on``.
"""

# ruff: noqa: S608  # statements are put together from the names of row types, values are parameters

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final, TypeAlias, cast

import asyncpg

from gateway.errors import IntegrityError, MalformedRequest, OperatorError
from sync.central.row import R, Row
from sync.central.rows import TABLE_OF, Certificate, Journal, Kept
from sync.central.statements import RECORD_COLUMNS, SCHEMA_VERSION, Dialect, ordered, place_of, seq_of, values_of
from sync.central.store import MOST_ROWS, News, Page, Search, StoreBusy, StoreFull, Value

_log = logging.getLogger(__name__)
_TYPES: Final = {int: "bigint", str: 'text COLLATE "C"', bytes: "bytea"}
_DIALECT: Final = Dialect("$", _TYPES, "", "ILIKE")
_ARRAYS: Final = {int: "bigint[]", str: "text[]", bytes: "bytea[]"}
_CHANNEL: Final = "edge_central"
#: Held while the tables are made: "EGWC".
_SCHEMA_LOCK: Final = 0x45475743
_RETRY_S, _RETRY_FULL_S = 2, 60
_RECONNECT_S = 1.0
#: How often the connection that only listens is tried.
_PROBE_S = 30.0
#: Of one statement; a worker that hangs must not hold a journal's lock.
_TIMEOUT_S = 60.0
#: What may go away by itself: the server is restarting, unreachable, overloaded, or chose us to end a deadlock.
_PASSING = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.TransactionRollbackError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.CannotConnectNowError,
    OSError,
    TimeoutError,
)
_Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except asyncpg.DiskFullError as error:
        raise StoreFull("the database server's disk is full", retry_after=_RETRY_FULL_S) from error
    except asyncpg.IntegrityConstraintViolationError as error:
        raise IntegrityError(f"central's database contradicts itself: {error}") from error
    except (asyncpg.DataError, asyncpg.ProgramLimitExceededError, UnicodeError) as error:
        raise MalformedRequest("a value that the database cannot hold") from error
    except _PASSING as error:
        if isinstance(error, ValueError):  # asyncpg itself cannot encode it
            raise MalformedRequest("a value that the database cannot hold") from error
        raise StoreBusy(f"central's database: {error or type(error).__name__}", retry_after=_RETRY_S) from error


class PostgresStore:
    """A pool of connections and one that listens; a :class:`sync.central.store.CentralStore`."""

    def __init__(self, dsn: str, password: str | None) -> None:
        self._dsn, self._password = dsn, password
        self._settings = {"application_name": "edge-central"}
        self._news = News()
        self._failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._listener: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, dsn: str, *, password: str | None = None, connections: int = 8) -> PostgresStore:
        """Connect to ``postgresql://…`` and make the tables where there are none.

        Raises StoreBusy when the server cannot be reached, OperatorError when it is not fit or has another version's tables.
        """
        store = cls(dsn, password)
        try:
            with _translated():
                await store._prepare()
                store._pool = await asyncpg.create_pool(
                    dsn, password=password, min_size=1, max_size=connections, server_settings=store._settings,
                    command_timeout=_TIMEOUT_S,
                )  # fmt: skip
            heard = asyncio.Event()
            store._listener = asyncio.create_task(store._listen(heard), name="central-listener")
            await heard.wait()
        except asyncpg.PostgresError as error:  # whatever it is, an operator has to look
            await store.close()
            raise OperatorError(f"central's database cannot be used: {error}") from error
        return store

    async def _prepare(self) -> None:
        connection = await self._connect()
        try:
            for setting in ("fsync", "full_page_writes"):
                if await connection.fetchval(f"SHOW {setting}") != "on":
                    raise OperatorError(f"the database server runs with {setting} off: it could forget what it confirmed")
            if await connection.fetchval("SHOW synchronous_commit") == "off":
                self._settings["synchronous_commit"] = "on"
            async with connection.transaction():
                await connection.execute("SELECT pg_advisory_xact_lock($1)", _SCHEMA_LOCK)
                await connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version bigint NOT NULL)")
                version = await connection.fetchval("SELECT max(version) FROM schema_version")
                if version is None:
                    for statement in (*_DIALECT.schema(), "CREATE SEQUENCE journal_numbers"):
                        await connection.execute(statement)
                    await connection.execute("INSERT INTO schema_version VALUES ($1)", SCHEMA_VERSION)
                elif version != SCHEMA_VERSION:
                    raise OperatorError(f"the database has tables of version {version}, this program knows {SCHEMA_VERSION}")
        finally:
            await connection.close()

    async def _connect(self) -> _Connection:
        return await asyncpg.connect(
            self._dsn, password=self._password, server_settings=self._settings, command_timeout=_TIMEOUT_S
        )

    @property
    def failure(self) -> asyncio.Future[None]:
        return self._failure

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[PostgresTransaction]:
        if self._pool is None:
            raise StoreBusy("central's database is closed", retry_after=_RETRY_S)
        with _translated():
            connection = await self._pool.acquire(timeout=_TIMEOUT_S)
        try:
            with _translated():
                frame = connection.transaction()
                await frame.start()
            transaction = PostgresTransaction(cast(_Connection, connection))
            try:
                yield transaction
            except BaseException:
                with suppress(asyncpg.PostgresError, *_PASSING):  # the server takes back what a lost connection began
                    await frame.rollback()
                raise
            try:
                with _translated():
                    if transaction.topics:
                        query = "SELECT pg_notify($1, topic) FROM unnest($2::text[]) AS topic"
                        await connection.execute(query, _CHANNEL, list(transaction.topics))
                    await frame.commit()
            finally:  # also when nobody knows: a look too many harms nobody
                self._news.tell(transaction.topics)
        finally:
            with suppress(asyncpg.PostgresError, *_PASSING):
                await self._pool.release(connection)

    def listening(self, topic: str) -> AbstractContextManager[asyncio.Event]:
        return self._news.listening(topic)

    async def _listen(self, heard: asyncio.Event) -> None:
        while True:
            try:
                connection = await self._connect()
                try:
                    await self._hear(connection, heard)
                finally:
                    await connection.close(timeout=_RECONNECT_S)
            except (asyncpg.PostgresError, *_PASSING) as error:
                _log.warning("central's database cannot be listened to: %s", error or type(error).__name__)
            self._news.tell_all()
            await asyncio.sleep(_RECONNECT_S)

    async def _hear(self, connection: _Connection, heard: asyncio.Event) -> None:
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _connection: lost.set())
        await connection.add_listener(_CHANNEL, lambda _connection, _pid, _channel, topic: self._news.tell((str(topic),)))
        self._news.tell_all()
        heard.set()
        while not lost.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(lost.wait(), _PROBE_S)
                return
            await connection.execute("SELECT 1")  # a connection that died silently says so now

    async def close(self) -> None:
        if not self._failure.done():
            self._failure.set_result(None)
        if self._listener is not None:
            self._listener.cancel()
            await asyncio.gather(self._listener, return_exceptions=True)
        if self._pool is not None:
            pool, self._pool = self._pool, None
            with suppress(asyncpg.PostgresError, *_PASSING):
                await pool.close()


@dataclass(slots=True)
class PostgresTransaction:
    """A :class:`sync.central.store.Transaction`."""

    connection: _Connection
    topics: set[str] = field(default_factory=set)

    async def find(self, row: type[R], *key: Value, lock: bool = False) -> R | None:
        found = await self._rows(row, _DIALECT.find(row) + (" FOR UPDATE" if lock else ""), key)
        return found[0] if found else None

    async def select(self, row: type[R], *, after: Sequence[Value] = (), limit: int = MOST_ROWS, **equal: Value) -> list[R]:
        query = _DIALECT.select(row, tuple(equal), after=bool(after))
        return await self._rows(row, query, (*equal.values(), *after, limit))

    async def select_in(self, row: type[R], column: str, values: Sequence[Value]) -> list[R]:
        return await self._rows(row, _DIALECT.select_in(row, column, "= ANY($1)"), (list(values),)) if values else []

    async def count(self, row: type[R], **equal: Value) -> int:
        with _translated():
            return cast(int, await self.connection.fetchval(_DIALECT.count(row, tuple(equal)), *equal.values()))

    async def put(self, *rows: Row) -> None:
        await self._insert(rows, replace=True)

    async def add(self, *rows: Row) -> None:
        await self._insert(rows, replace=False)

    async def change(self, row: type[R], *key: Value, **columns: Value) -> bool:
        return await self._change(_DIALECT.change(row, tuple(columns)), (*columns.values(), *key)) > 0

    async def remove(self, row: type[R], **equal: Value) -> int:
        return await self._change(_DIALECT.remove(row, tuple(equal)), tuple(equal.values()))

    async def lock(self, origin: str) -> Journal | None:
        return await self.find(Journal, origin, lock=True)

    async def next_number(self) -> int:
        with _translated():
            return cast(int, await self.connection.fetchval("SELECT nextval('journal_numbers')"))

    async def append(self, journal: Journal, start: int, leaves: Sequence[bytes], bodies: Sequence[bytes], at: int) -> None:
        first = place_of(journal.number, start)
        rows = [(first + index, at, leaf, body) for index, (leaf, body) in enumerate(zip(leaves, bodies, strict=True))]
        with _translated():
            await self.connection.copy_records_to_table("record", records=rows, columns=RECORD_COLUMNS)

    async def records(self, journal: Journal, start: int, limit: int = MOST_ROWS) -> list[Kept]:
        query = "SELECT place, leaf, body, received FROM record WHERE place >= $1 AND place < $2 ORDER BY place LIMIT $3"
        return _kept(await self._fetch(query, (place_of(journal.number, start), place_of(journal.number + 1, 0), limit)))

    async def records_at(self, journal: Journal, numbers: Sequence[int]) -> list[Kept]:
        query = "SELECT place, leaf, body, received FROM record WHERE place = ANY($1)"
        return _kept(await self._fetch(query, ([place_of(journal.number, seq) for seq in numbers],)))

    async def leaves(self, journal: Journal, start: int, stop: int) -> list[bytes]:
        query = "SELECT leaf FROM record WHERE place >= $1 AND place < $2 ORDER BY place"
        rows = await self._fetch(query, (place_of(journal.number, start), place_of(journal.number, stop)))
        return [cast(bytes, row[0]) for row in rows]

    async def search(self, search: Search, *, after: tuple[bytes, bytes] | None = None, limit: int = 100) -> Page:
        scan = _DIALECT.search(search, after, limit)
        found = await self._rows(Certificate, scan.page, scan.page_values)
        stop = await self._fetch(scan.stop, scan.stop_values) if len(found) < limit else []
        return scan.page_of(found, limit, [(row[0], row[1]) for row in stop])

    def announce(self, topic: str) -> None:
        self.topics.add(topic)

    async def _insert(self, rows: Sequence[Row], *, replace: bool) -> None:
        if not rows:
            return
        table = TABLE_OF[type(rows[0])]
        columns = [list(column) for column in zip(*map(values_of(table), ordered(table, rows)), strict=True)]
        arrays = ", ".join(f"${at}::{_ARRAYS[kind]}" for at, (_, kind) in enumerate(table.columns, 1))
        query = f"{_DIALECT.insert(table)} SELECT * FROM unnest({arrays}){_DIALECT.conflict(table, replace=replace)}"
        with _translated():
            await self.connection.execute(query, *columns)

    async def _rows(self, row: type[R], query: str, values: Sequence[object]) -> list[R]:
        return [row(*each) for each in await self._fetch(query, values)]  # the schema is the row's

    async def _fetch(self, query: str, values: Sequence[object]) -> list[asyncpg.Record]:
        with _translated():
            return cast(list[asyncpg.Record], await self.connection.fetch(query, *values))

    async def _change(self, query: str, values: Sequence[Value]) -> int:
        with _translated():
            status = await self.connection.execute(query, *values)
        return int(status.rpartition(" ")[2])


def _kept(rows: Sequence[asyncpg.Record]) -> list[Kept]:
    return [Kept(seq_of(place), leaf, body, received) for place, leaf, body, received in rows]

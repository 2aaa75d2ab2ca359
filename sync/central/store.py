"""How central's database is asked; the SQL is in :mod:`sync.central.store_sqlite` and ``store_postgres``.

The tables are the row types of :mod:`sync.central.rows`, and what is common to all of them needs no code for each::

    async with store.transaction() as t:
        journal = await t.lock(origin)
        await t.put(replace(journal, group="line-3"))
        open_alerts = await t.select(Alert, closed=0)

A transaction is durable when its block was left without an error, and has left no trace otherwise. It is short: in SQLite it
is the only one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

from gateway.errors import JournalFailed, JournalFull, Unavailable
from sync.central.row import R, Row
from sync.central.rows import Certificate, Journal, Kept

Value: TypeAlias = int | str | bytes
#: Of one answer, unless the caller asks for less.
MOST_ROWS: Final = 1_000
#: Rows looked at for one page of a search by a part of the name, or for a list of values.
MOST_SCANNED: Final = 20_000
#: A topic that is announced when records arrived.
RECORDS: Final = "records"


def desired_topic(origin: str) -> str:
    """What is announced when the gateway ``origin`` has another document."""
    return f"desired:{origin}"


class StoreFailed(JournalFailed):
    """An I/O error was seen: final, because nobody knows what a power cut would leave of what was written last."""

    hint = "Restart central: it checks its whole database before it takes records again."


class StoreFull(JournalFull):
    """No space left. Nothing was written."""

    hint = "Free space on central's disk; gateways keep what they could not send."


class StoreBusy(Unavailable):
    """The database is out of reach, or two transactions stood in each other's way. Nothing was written, or nobody knows."""


@dataclass(frozen=True, slots=True)
class Search:
    """Which certificates; what is empty does not matter. ``text`` stands anywhere in subject or SANs, in any case."""

    text: str = ""
    serial: bytes = b""
    device: str = ""
    spki: bytes = b""
    origin: str = ""
    profile: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """Certificates, newest serial first. ``after`` continues the search; empty at its end. A page may be short or empty
    and still have a next one, because one search looks at :data:`MOST_SCANNED` certificates."""

    certificates: tuple[Certificate, ...]
    after: tuple[bytes, bytes] | None


class News:
    """Who in this process listens for which topic."""

    def __init__(self) -> None:
        self._events: dict[str, set[asyncio.Event]] = {}

    @contextmanager
    def listening(self, topic: str) -> Iterator[asyncio.Event]:
        event = asyncio.Event()
        events = self._events.setdefault(topic, set())
        events.add(event)
        try:
            yield event
        finally:
            events.discard(event)
            if not events:
                self._events.pop(topic, None)

    def tell(self, topics: Iterable[str]) -> None:
        for topic in topics:
            for event in self._events.get(topic, ()):
                event.set()

    def tell_all(self) -> None:
        """Nobody knows what was announced meanwhile."""
        self.tell(list(self._events))


class Transaction(Protocol):
    """One transaction. Column names are those of the row; a wrong one raises KeyError."""

    async def find(self, row: type[R], *key: Value, lock: bool = False) -> R | None:
        """The row with this whole key. With ``lock`` nobody else finds it so, or changes it, until the transaction ends."""

    async def select(self, row: type[R], *, after: Sequence[Value] = (), limit: int = MOST_ROWS, **equal: Value) -> list[R]:
        """Rows whose columns have these values, in the order of their keys, beginning behind the key ``after``."""

    async def select_in(self, row: type[R], column: str, values: Sequence[Value]) -> list[R]:
        """Rows whose ``column`` has one of ``values``, in no order, and :data:`MOST_SCANNED` of them at most."""

    async def count(self, row: type[R], **equal: Value) -> int: ...

    async def put(self, *rows: Row) -> None:
        """Write whole rows, in place of those with the same keys. All of one type."""

    async def add(self, *rows: Row) -> None:
        """Write the rows whose keys are not there yet; the others stay as they are. All of one type."""

    async def change(self, row: type[R], *key: Value, **columns: Value) -> bool:
        """Give some columns of one row new values; whether there is such a row."""

    async def remove(self, row: type[R], **equal: Value) -> int:
        """Delete the rows whose columns have these values; how many there were."""

    async def lock(self, origin: str) -> Journal | None:
        """The journal's row, locked. At most one for a transaction, and before anything else is written."""

    async def next_number(self) -> int:
        """A ``number`` for a new journal."""

    async def append(self, journal: Journal, start: int, leaves: Sequence[bytes], bodies: Sequence[bytes], at: int) -> None:
        """Keep records from seq ``start`` on. The caller holds the journal's lock and writes its new size."""

    async def records(self, journal: Journal, start: int, limit: int = MOST_ROWS) -> list[Kept]:
        """Up to ``limit`` records from ``start`` on, by seq."""

    async def records_at(self, journal: Journal, numbers: Sequence[int]) -> list[Kept]:
        """These records, those that are there, in no order."""

    async def leaves(self, journal: Journal, start: int, stop: int) -> list[bytes]:
        """The leaf hashes of the records from ``start`` up to ``stop``."""

    async def search(self, search: Search, *, after: tuple[bytes, bytes] | None = None, limit: int = 100) -> Page: ...

    def announce(self, topic: str) -> None:
        """Wake whoever listens for ``topic``, once this transaction is durable."""


class CentralStore(Protocol):
    """The open database. One for a process; with PostgreSQL many processes share one database."""

    @property
    def failure(self) -> asyncio.Future[None]:
        """Done with StoreFailed at the first I/O error; then the process must end."""

    def transaction(self) -> AbstractAsyncContextManager[Transaction]:
        """Raises StoreFailed, StoreFull, StoreBusy, on entering or on leaving."""

    def listening(self, topic: str) -> AbstractContextManager[asyncio.Event]:
        """An event that is set when ``topic`` is announced, here or in another process, from the beginning of the block on;
        also when nobody knows (the connection was lost meanwhile). Whoever waits clears it, looks, and only then waits."""

    async def close(self) -> None: ...

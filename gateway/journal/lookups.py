"""What is asked of the store between two transactions, many questions in one statement.

Questions of one kind wait together (:class:`Waiting`) and are answered together, in the order they were asked. Nothing is
changed here; what cannot be read back raises IntegrityError or the store's own error.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, TypeVar

from gateway.errors import JournalFailed
from gateway.journal.absence import MOST_KEYS, KeyFilter
from gateway.journal.records import Issued, Record, decode
from gateway.journal.store import Store
from gateway.journal.tip import DAY_MS, Row, idem_column

T = TypeVar("T")
K = TypeVar("K")
#: Idempotency keys read at once at the beginning.
_KEYS_READ = 1_000
#: The oldest answer that a retry can get: longer windows are cut to this. Ten years.
_LONGEST_WINDOW_MS = 3_653 * DAY_MS


@dataclass(slots=True)
class Waiting(Generic[K, T]):
    """Questions of one kind that wait to be asked in one statement."""

    questions: list[tuple[K, asyncio.Future[T]]] = field(default_factory=list)

    def take(self) -> list[tuple[K, asyncio.Future[T]]]:
        taken, self.questions = self.questions, []
        return taken


async def records_at(store: Store, numbers: Sequence[int]) -> list[Record | None]:
    """The record of each number; None where there is none, or where it was pruned."""
    bodies = await store.bodies_at(numbers)
    return [decode(bodies[seq]) if bodies.get(seq) else None for seq in numbers]


async def records_about(store: Store, serials: Sequence[bytes]) -> list[tuple[Record, ...]]:
    """For each serial column all records about it that were not pruned, by seq."""
    found: dict[bytes, list[Record]] = {serial: [] for serial in serials}
    for serial, body in await store.bodies_by_serial(found):
        if body:
            found[serial].append(decode(body))
    return [tuple(found[serial]) for serial in serials]


async def latest_issued(
    store: Store, questions: Sequence[tuple[bytes, int]], now_ms: int
) -> list[tuple[Record, Record] | None]:
    """For each (idempotency key, not before, ms) the latest (intent, issued) of that window; ``now_ms`` ends all windows."""
    wanted: set[bytes] = set()
    for key, not_before_ms in questions:  # a place in the index for each day of the window
        wanted.update(idem_column(day, key) for day in range(first_day(now_ms, not_before_ms), now_ms // DAY_MS + 1))
    issued: dict[bytes, list[Record]] = {}
    for _, body in await store.bodies_by_idem(wanted):
        if not body:
            continue
        record = decode(body)
        issued.setdefault(_issued(record).idempotency_key, []).append(record)
    latest = [
        max((record for record in issued.get(key, ()) if record.time >= not_before_ms), key=lambda it: it.seq, default=None)
        for key, not_before_ms in questions
    ]
    bodies = await store.bodies_at({_issued(record).intent for record in latest if record is not None})
    return [None if record is None else (decode(bodies[_issued(record).intent]), record) for record in latest]


class UsedKeys:
    """Which idempotency keys were surely never used, known without asking the database.

    Every idem column of this run is remembered before it is written. Every older one from day ``_known_from`` on is known once
    the learning is done. ``read`` runs a question on the store between two transactions, as the writer does.
    """

    def __init__(self, read: Callable[[Callable[[Store], Awaitable[list[bytes]]]], Awaitable[list[bytes]]]) -> None:
        self._read = read
        self._filter = KeyFilter()
        self._known_from: int | None = None
        self.learning: asyncio.Task[None] | None = None

    def surely_new(self, key: bytes, day: int) -> bool:
        """Whether ``key`` was not used on ``day`` or later. False also means "unknown"; then learning begins."""
        if self._known_from is not None and self._known_from <= day:
            return not self._filter.may_hold(idem_column(day, key))
        if self.learning is None:
            self.learning = asyncio.create_task(self._learn(day), name="journal-keys")
        return False

    def remember(self, rows: Iterable[Row]) -> None:
        """Before these rows are written."""
        if self._filter.count > MOST_KEYS and self.learning is None:
            # Mostly keys whose window is over: begin anew, with what is in the database when the next question is asked.
            self._filter, self._known_from = KeyFilter(), None
        for row in rows:
            if row.idem is not None:
                self._filter.add(row.idem)

    def stop(self) -> None:
        if self.learning is not None:
            self.learning.cancel()

    async def _learn(self, day: int) -> None:
        """Read the keys used from ``day`` on into the filter, page by page between the transactions.

        A window with more keys than the filter can tell apart stays unknown: its questions go to the database, until the next
        start.
        """
        after = day.to_bytes(4, "big")  # sorts before every column of that day
        with suppress(JournalFailed):  # then nobody is answered any more
            while page := await self._read(partial(Store.idems, after=after, limit=_KEYS_READ)):
                for idem in page:
                    self._filter.add(idem)
                if self._filter.count > MOST_KEYS:
                    return
                after = page[-1]
            self._known_from, self.learning = day, None


def first_day(now_ms: int, not_before_ms: int) -> int:
    """The first day (since the epoch) of a window that ends ``now_ms``."""
    return max(0, not_before_ms, now_ms - _LONGEST_WINDOW_MS) // DAY_MS


def _issued(record: Record) -> Issued:
    assert isinstance(record.payload, Issued)  # noqa: S101  # the idem column stands on issued records only
    return record.payload

"""Feeding adapters: each follows every journal by its own durable cursor, and nobody waits for it.

Records are delivered in the order of their journal and at least once: the cursor moves after the delivery, so a crash in
between repeats it. Every item carries an ``id`` that is the same each time, by which a receiver tells a repetition. What
cannot be delivered is tried again with growing pauses, for ever; that an adapter is behind is an alert.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from gateway.clock import Clock
from gateway.errors import GatewayError, IntegrityError, JournalFailed, Unavailable
from gateway.journal.certificates import certificate_of
from gateway.journal.checkpoint import open_note
from gateway.journal.records import Intent, Issued, Record, decode
from sync.central.alarms import close_alert, open_alert
from sync.central.alerts import ADAPTER
from sync.central.listing import every
from sync.central.rows import Alert, Ca, Cursor, Journal, Kept
from sync.central.store import RECORDS, CentralStore

_log = logging.getLogger(__name__)
#: Records of one delivery.
PAGE: Final = 256
_LOOK_S = 5.0
#: Full-jitter backoff between these, in seconds.
_LEAST_S, _MOST_S = 1.0, 300.0
#: So many failures in a row are an alert.
PATIENCE: Final = 3
_MOST_TEXT = 500
_RANDOM = random.SystemRandom()


class NotDelivered(Unavailable):
    """The other system did not take it."""

    hint = "Check the system that the adapter delivers to; it is tried again by itself."


@dataclass(frozen=True, slots=True)
class Item:
    """A record as it goes out. ``record`` is ``None`` for one that this version cannot read; ``certificate`` (DER) is there for
    what completed one, with its ``intent``."""

    origin: str
    seq: int
    received: int
    body: bytes
    leaf: bytes
    record: Record | None
    certificate: bytes = b""
    intent: Intent | None = None

    @property
    def id(self) -> str:
        """The same whenever this record is delivered."""
        return hashlib.sha256(f"{self.origin}\n{self.seq}\n".encode() + self.leaf).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Delivery:
    """Adjacent records of a journal. ``receipt`` is there when they reach the size that it confirms; ``cas`` are the CA
    certificates (DER) by generation, as far as they are projected."""

    journal: Journal
    items: tuple[Item, ...]
    receipt: str = ""
    cas: Mapping[int, bytes] = field(default_factory=dict)

    @property
    def start(self) -> int:
        return self.items[0].seq

    @property
    def stop(self) -> int:
        return self.items[-1].seq + 1


class Adapter(Protocol):
    """One way out. ``align``: its deliveries begin at multiples of this, some records coming again."""

    @property
    def name(self) -> str: ...

    @property
    def align(self) -> int: ...

    async def deliver(self, delivery: Delivery) -> None:
        """Raises NotDelivered; whatever else it raises is a failure, too."""

    async def close(self) -> None: ...


class Feed:
    """Feeds one adapter."""

    def __init__(
        self, store: CentralStore, clock: Clock, adapter: Adapter, *, jitter: Callable[[], float] = _RANDOM.random
    ) -> None:
        self._store, self._clock, self._adapter, self._jitter = store, clock, adapter, jitter
        self._reader = f"adapter:{adapter.name}"
        self._failures = 0

    async def run(self) -> None:
        """For ever. Raises StoreFailed alone."""
        try:
            with self._store.listening(RECORDS) as news:
                while True:
                    news.clear()
                    pause_s = await self.attempt()
                    if pause_s:
                        await asyncio.sleep(pause_s)
                    elif pause_s is None:
                        try:
                            await asyncio.wait_for(news.wait(), _LOOK_S)
                        except TimeoutError:
                            continue
        finally:
            await self._adapter.close()

    async def attempt(self) -> float | None:
        """One delivery of every journal that has something; for how many seconds to pause, ``None`` when all is delivered."""
        try:
            count = await self.step()
            if self._failures or not count:
                await self._recovered()
        except JournalFailed:
            raise
        except Exception as error:  # whatever an adapter raises holds up nobody else
            return await self._failed(error)
        return 0.0 if count else None

    async def step(self) -> int:
        """Deliver one page of every journal; how many records. What the adapter raises."""
        async with self._store.transaction() as t:
            positions = {cursor.origin: cursor.position async for cursor in every(t, Cursor, reader=self._reader)}
            behind = [each.origin async for each in every(t, Journal) if positions.get(each.origin, 0) < each.size]
        count = 0
        troubles: list[Exception] = []
        for origin in behind:
            try:
                count += await self._advance(origin, positions.get(origin, 0))
            except JournalFailed:
                raise
            except Exception as error:  # the others' records are delivered all the same
                troubles.append(error)
        if troubles:
            raise troubles[0]
        return count

    async def _advance(self, origin: str, position: int) -> int:
        start = position - position % self._adapter.align
        async with self._store.transaction() as t:
            journal = await t.find(Journal, origin)
            kept = await t.records(journal, start, PAGE) if journal is not None else []
            cas = {row.generation: row.certificate for row in await t.select(Ca, origin=origin) if row.activated}
        if journal is None or not kept:
            return 0
        if kept[0].seq != start or kept[-1].seq + 1 <= position:
            raise IntegrityError(f"record {start} of {origin} is missing at central")
        items = await self._items(journal, kept)
        stop = kept[-1].seq + 1
        receipt = journal.receipt if journal.receipt and open_note(journal.receipt, journal.vkey).size == stop else ""
        await self._adapter.deliver(Delivery(journal, items, receipt, cas))
        async with self._store.transaction() as t:
            await t.add(Cursor(self._reader, origin, 0))
            cursor = await t.find(Cursor, self._reader, origin, lock=True)
            if cursor is not None and cursor.position < stop:
                await t.put(Cursor(self._reader, origin, stop))
        return stop - position

    async def _items(self, journal: Journal, kept: Sequence[Kept]) -> tuple[Item, ...]:
        records = {each.seq: _record(each) for each in kept}
        wanted = {
            record.payload.intent
            for record in records.values()
            if record is not None and isinstance(record.payload, Issued) and record.payload.intent not in records
        }
        async with self._store.transaction() as t:
            earlier = await t.records_at(journal, sorted(wanted)) if wanted else []
        known = records | {each.seq: _record(each) for each in earlier}
        return await asyncio.to_thread(lambda: tuple(_item(journal.origin, each, known) for each in kept))

    async def _recovered(self) -> None:
        self._failures = 0
        async with self._store.transaction() as t:
            await close_alert(t, ADAPTER, "", self._clock.now_ms(), self._adapter.name)

    async def _failed(self, error: Exception) -> float:
        self._failures += 1
        known = isinstance(error, GatewayError | OSError)
        _log.log(
            logging.WARNING if known else logging.ERROR, "%s does not deliver: %s", self._reader, error, exc_info=not known
        )  # fmt: skip
        if self._failures >= PATIENCE:
            text = f"{self._adapter.name} does not deliver: {str(error) or type(error).__name__}"[:_MOST_TEXT]
            try:
                async with self._store.transaction() as t:
                    await open_alert(t, Alert(ADAPTER, "", self._adapter.name, text, self._clock.now_ms()))
            except JournalFailed:
                raise
            except Unavailable:
                _log.warning("the alert about %s is opened later", self._reader)
        return max(_LEAST_S, self._jitter() * min(_MOST_S, _LEAST_S * (1 << min(self._failures, 16))))


def _record(kept: Kept) -> Record | None:
    try:
        record = decode(kept.body)
    except IntegrityError:
        return None
    return record if record.seq == kept.seq else None


def _item(origin: str, kept: Kept, known: dict[int, Record | None]) -> Item:
    record = known[kept.seq]
    certificate, intent = b"", None
    if record is not None and isinstance(record.payload, Issued):
        plan = known.get(record.payload.intent)
        if plan is not None and isinstance(plan.payload, Intent):
            try:
                certificate, intent = certificate_of(plan.payload, record.payload), plan.payload
            except IntegrityError:  # the projector sets it aside and says so
                intent = None
    return Item(origin, kept.seq, kept.received, kept.body, kept.leaf, record, certificate, intent)

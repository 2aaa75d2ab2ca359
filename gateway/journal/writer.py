"""Group commit: one task owns the store, and everything that waits shares one transaction and one fsync.

The life of an append: :meth:`Writer.append` puts the payloads and a future into a queue. The task takes all that waits (up to
:data:`MOST_GROUPS`), gives each record its seq and time, encodes and hashes it, signs one checkpoint over the new end, and
hands records, tallies and head to the store as one transaction. Only when ``COMMIT`` has returned, so after the ``fdatasync``
of the log, are the futures resolved: whoever holds a result holds something durable. A caller that is cancelled meanwhile
changes nothing: its records stay. Lookups are served by the same task between transactions, so nobody ever reads what is not
durable.

An error of the disk other than "full" is final. After a failed ``fsync`` the kernel may have dropped the dirty pages and call
the next one a success, so a retry would acknowledge what a power cut then takes away. The writer latches FAILED: every
waiting and later append raises JournalFailed, and a marker file asks the next start for a full verify.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

from gateway.clock import Clock, elapsed_ms
from gateway.errors import Conflict, Fenced, GatewayError, IntegrityError, JournalFailed, JournalFull
from gateway.journal.absence import MOST_KEYS, KeyFilter
from gateway.journal.anchor import write_durably
from gateway.journal.checkpoint import Checkpoint, NoteSigner
from gateway.journal.disk import DiskLevel, DiskWatch
from gateway.journal.records import Issued, Payload, Record, decode
from gateway.journal.store import Broken, DiskFull, Duplicate, HeadRow, Store, StoreError
from gateway.journal.tip import DAY_MS, Batch, Row, Tip, idem_column

_log = logging.getLogger(__name__)
T = TypeVar("T")
K = TypeVar("K")
#: Groups in one transaction: bounds the time of one commit and the event loop's share of it (about 10 ms).
MOST_GROUPS = 512
#: Idempotency keys read at once at the beginning.
_KEYS_READ = 1_000
#: How long a client should wait when the disk is full, and when the daemon is about to restart. Seconds.
_RETRY_FULL, _RETRY_FAILED = 60, 30


@dataclass(slots=True, eq=False)
class _Group:
    payloads: tuple[Payload, ...]
    urgent: bool
    done: asyncio.Future[tuple[Record, ...]]
    settled: bool = False  # committed or turned down; ``done`` may be done earlier, when its caller was cancelled

    def settle(self, outcome: tuple[Record, ...] | GatewayError) -> None:
        self.settled = True
        _resolve(self.done, outcome)


@dataclass(slots=True)
class _Lookups(Generic[K, T]):
    """Questions of one kind that wait to be asked in one statement."""

    waiting: list[tuple[K, asyncio.Future[T]]] = field(default_factory=list)

    def take(self) -> list[tuple[K, asyncio.Future[T]]]:
        taken, self.waiting = self.waiting, []
        return taken


class Writer:
    """Owns ``store`` and ``tip`` from the moment :meth:`start` is called until :meth:`stop` returns."""

    def __init__(
        self,
        store: Store,
        tip: Tip,
        *,
        origin: str,
        signer: NoteSigner,
        clock: Clock,
        disk: DiskWatch,
        failed_marker: Path,
        note: str,
    ) -> None:
        self._store, self.tip = store, tip
        self._origin, self._signer, self._clock, self._disk = origin, signer, clock, disk
        self._marker = failed_marker
        self.note = note
        self.fenced: str | None = None
        self.full = False
        self.warning = False
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._failed: JournalFailed | None = None
        self._groups: deque[_Group] = deque()
        self._issued: _Lookups[tuple[bytes, int], tuple[Record, Record] | None] = _Lookups()
        self._serials: _Lookups[bytes, tuple[Record, ...]] = _Lookups()
        self._numbers: _Lookups[int, Record | None] = _Lookups()
        self._reads: deque[tuple[Callable[[Store], Awaitable[object]], asyncio.Future[object]]] = deque()
        # Every idem column of this run is in ``_keys`` before it is written, every older one from day ``_known_from`` on is too
        # once ``_learning`` is done.
        self._keys = KeyFilter()
        self._known_from: int | None = None
        self._learning: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self.on_commit: Callable[[], None] | None = None

    @property
    def failed(self) -> bool:
        return self._failed is not None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="journal-writer")

    async def stop(self) -> None:
        """Finish what waits, then close the file. Nothing may be asked afterwards."""
        self._stopping = True
        if self._learning is not None:
            self._learning.cancel()
        self._wake.set()
        if self._task is not None:
            await self._task
        if not self.failure.done():
            self.failure.set_result(None)
        try:
            await self._store.close()
        except Broken as error:
            # Whatever the last checkpoint could not copy is still in the log, and the next start reads it there.
            self._latch(error)

    # What callers ask for. Each awaits its own future, so a cancelled caller takes nothing back.

    async def append(self, payloads: tuple[Payload, ...], *, urgent: bool = False) -> tuple[Record, ...]:
        self._refuse_if_closed()
        if self.fenced is not None:
            raise Fenced(self.fenced, retry_after=_RETRY_FAILED)
        done: asyncio.Future[tuple[Record, ...]] = asyncio.get_running_loop().create_future()
        self._groups.append(_Group(payloads, urgent, done))
        self._wake.set()
        return await done

    async def find_issued(self, key: bytes, not_before_ms: int) -> tuple[Record, Record] | None:
        self._refuse_if_closed()
        day = self._first_day(not_before_ms)
        if self._known_from is not None and self._known_from <= day:
            if not self._keys.may_hold(idem_column(day, key)):
                return None
        elif self._learning is None:
            self._learning = asyncio.create_task(self._learn(day), name="journal-keys")
        return await self._ask(self._issued, (key, not_before_ms))

    async def by_serial(self, serial: bytes) -> tuple[Record, ...]:
        return await self._ask(self._serials, serial)

    async def get(self, seq: int) -> Record | None:
        return await self._ask(self._numbers, seq)

    async def read(self, question: Callable[[Store], Awaitable[T]]) -> T:
        """Run ``question`` on the store between two transactions; keep it short, everybody waits meanwhile."""
        self._refuse_if_closed()
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._reads.append((question, done))  # type: ignore[arg-type]  # the pair belongs together
        self._wake.set()
        return await done

    async def _ask(self, lookups: _Lookups[K, T], key: K) -> T:
        self._refuse_if_closed()
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        lookups.waiting.append((key, done))
        self._wake.set()
        return await done

    def _refuse_if_closed(self) -> None:
        if self._failed is not None:
            raise JournalFailed(str(self._failed), retry_after=_RETRY_FAILED)
        if self._stopping:
            raise JournalFailed("the journal is closed", retry_after=_RETRY_FAILED)

    # The task.

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                while self._failed is None and await self._turn():
                    pass
            except Exception as error:  # whatever it is, the state in memory is not to be trusted any more
                self._latch(error)
            if self._failed is not None:
                self._reject_all()
            if self._stopping:
                return

    async def _turn(self) -> bool:
        """Serve what waits now: lookups first, then one transaction. False when nothing waited."""
        numbers, serials, issued = self._numbers.take(), self._serials.take(), self._issued.take()
        if not (numbers or serials or issued or self._reads or self._groups):
            return False
        lookups = []
        if numbers:
            lookups.append(asyncio.create_task(self._answering(numbers, self._serve_numbers)))
        if serials:
            lookups.append(asyncio.create_task(self._answering(serials, self._serve_serials)))
        if issued:
            lookups.append(asyncio.create_task(self._answering(issued, self._serve_issued)))
        for _ in range(len(self._reads)):
            await self._serve_read(*self._reads.popleft())
        # In this tick the lookups begin, so the store serves them before the transaction, and whoever is about to append gets
        # on board. To wait longer saves little on a fast disk, and on a slow one it takes the time that overlaps its fsync.
        await asyncio.sleep(0)
        if self._groups and self._failed is None:
            await self._commit([self._groups.popleft() for _ in range(min(len(self._groups), MOST_GROUPS))])
        for lookup in lookups:
            await lookup
        return True

    async def _answering(
        self, waiting: list[tuple[K, asyncio.Future[T]]], serve: Callable[[list[K]], Awaitable[list[T]]]
    ) -> None:
        try:
            answers = await serve([key for key, _ in waiting])
        except Exception as error:  # an answer that cannot be read back is as bad as an I/O error, and nobody may wait for ever
            self._latch(error)
            for _, done in waiting:
                self._reject(done)
            return
        for (_, done), answer in zip(waiting, answers, strict=True):
            if not done.done():
                done.set_result(answer)

    async def _serve_numbers(self, numbers: list[int]) -> list[Record | None]:
        bodies = await self._store.bodies_at(numbers)
        return [decode(bodies[seq]) if seq in bodies else None for seq in numbers]

    async def _serve_serials(self, serials: list[bytes]) -> list[tuple[Record, ...]]:
        found: dict[bytes, list[Record]] = {serial: [] for serial in serials}
        for serial, body in await self._store.bodies_by_serial(found):
            found[serial].append(decode(body))
        return [tuple(found[serial]) for serial in serials]

    async def _serve_issued(self, questions: list[tuple[bytes, int]]) -> list[tuple[Record, Record] | None]:
        wanted: set[bytes] = set()
        for key, not_before_ms in questions:
            wanted.update(self._idem_columns(key, not_before_ms))
        issued: dict[bytes, list[Record]] = {}
        for _, body in await self._store.bodies_by_idem(wanted):
            record = decode(body)
            issued.setdefault(_issued(record).idempotency_key, []).append(record)
        latest = [
            max((record for record in issued.get(key, ()) if record.time >= not_before_ms), key=lambda it: it.seq, default=None)
            for key, not_before_ms in questions
        ]
        bodies = await self._store.bodies_at({_issued(record).intent for record in latest if record is not None})
        return [None if record is None else (decode(bodies[_issued(record).intent]), record) for record in latest]

    def _idem_columns(self, key: bytes, not_before_ms: int) -> list[bytes]:
        """The places in the index where this key may stand: one for each day of the window."""
        return [idem_column(day, key) for day in range(self._first_day(not_before_ms), self.tip.time // DAY_MS + 1)]

    def _first_day(self, not_before_ms: int) -> int:
        return max(0, not_before_ms, self.tip.time - _LONGEST_WINDOW_MS) // DAY_MS

    async def _learn(self, day: int) -> None:
        """Read the keys used from ``day`` on into the filter, page by page between the transactions.

        A window with more keys than the filter can tell apart stays unknown: its questions go to the database, until the next
        start.
        """
        after = day.to_bytes(4, "big")  # sorts before every column of that day
        with suppress(JournalFailed):  # then nobody is answered any more
            while page := await self.read(partial(Store.idems, after=after, limit=_KEYS_READ)):
                for idem in page:
                    self._keys.add(idem)
                if self._keys.count > MOST_KEYS:
                    return
                after = page[-1]
            self._known_from, self._learning = day, None

    def _remember_keys(self, rows: Sequence[Row]) -> None:
        if self._keys.count > MOST_KEYS and self._learning is None:
            # Mostly keys whose window is over: begin anew, with what is in the database when the next question is asked.
            self._keys, self._known_from = KeyFilter(), None
        for row in rows:
            if row.idem is not None:
                self._keys.add(row.idem)

    async def _serve_read(self, question: Callable[[Store], Awaitable[object]], done: asyncio.Future[object]) -> None:
        try:
            answer = await question(self._store)
        except (StoreError, IntegrityError) as error:
            self._latch(error)
            self._reject(done)
            return
        except Exception as error:  # a question that cannot be asked is its asker's mistake and nobody else's
            if not done.done():
                done.set_exception(error)
            return
        if not done.done():
            done.set_result(answer)

    async def _commit(self, groups: list[_Group]) -> None:
        try:
            await self._commit_what_fits(groups)
        except (
            Exception
        ) as error:  # not only Broken: after any surprise nobody knows what is on the disk, and nobody may wait for ever
            self._latch(error)
            for group in groups:
                self._reject(group.done)

    async def _commit_what_fits(self, groups: list[_Group]) -> None:
        level = self._disk.level(elapsed_ms())
        self.warning, self.full = level is DiskLevel.WARNING, level is DiskLevel.FULL
        if self.full:
            groups = self._only_urgent(groups)
        if not groups:
            return
        try:
            await self._transaction(groups)
        except DiskFull:
            self._disk.give_up_reserve()
            self.full = True
            await self._commit_urgent(self._only_urgent([group for group in groups if not group.settled]))

    async def _commit_urgent(self, groups: list[_Group]) -> None:
        """Once more with what the reserve is for. A second "full" is an answer; it was rolled back like the first."""
        if not groups:
            return
        try:
            await self._transaction(groups)
        except DiskFull:
            for group in groups:
                group.settle(JournalFull("the disk is full", retry_after=_RETRY_FULL))

    async def _transaction(self, groups: Sequence[_Group]) -> None:
        batch = self.tip.plan([group.payloads for group in groups], self._clock.now_ms())
        if batch.rows:
            note = self._signer.sign(Checkpoint(self._origin, batch.frontier.size, batch.frontier.root()))
            self._remember_keys(batch.rows)
            head = HeadRow(batch.frontier.size, batch.frontier.to_bytes(), tuple(self.tip.open_after(batch)), note)
            try:
                await self._store.write(batch.rows, list(batch.tallies.items()), head)
            except Duplicate as error:
                await self._one_by_one(groups, error)
                return
            if self._failed is not None:  # a lookup met an I/O error meanwhile: nothing is acknowledged after it
                raise self._failed
            self._adopt(batch, note)
        for group, outcome in zip(groups, batch.groups, strict=True):
            group.settle(outcome)

    async def _one_by_one(self, groups: Sequence[_Group], error: Duplicate) -> None:
        """One group repeats a serial number; it must not take the others down with it."""
        if len(groups) > 1:
            for group in groups:
                await self._transaction([group])
            return
        conflict = Conflict("this serial number is already recorded")
        conflict.__cause__ = error
        groups[0].settle(conflict)

    def _adopt(self, batch: Batch, note: str) -> None:
        self.tip.adopt(batch)
        self.note = note
        if self.on_commit is not None:
            self.on_commit()

    def _only_urgent(self, groups: list[_Group]) -> list[_Group]:
        for group in groups:
            if not group.urgent:
                group.settle(JournalFull("the gateway's disk is too full to issue", retry_after=_RETRY_FULL))
        return [group for group in groups if group.urgent]

    # The latch.

    def _latch(self, error: Exception) -> None:
        if self._failed is not None:
            return
        self._failed = JournalFailed("the journal had an I/O error", retry_after=_RETRY_FAILED)
        self._failed.__cause__ = error
        _log.critical("the journal failed and stops for good until a restart has verified it: %s", error)
        try:
            write_durably(self._marker, f"{error}\n".encode())
        except OSError as marker_error:  # the disk is failing: the start-up check still finds what is wrong with the journal
            _log.critical("the mark of the failure could not be written: %s", marker_error)
        if not self.failure.done():
            self.failure.set_exception(self._failed)
            self.failure.exception()  # whoever watches sees it; nobody watching is no second error
        self._wake.set()

    def _reject(self, done: asyncio.Future[T]) -> None:
        failed = JournalFailed(str(self._failed), retry_after=_RETRY_FAILED)
        failed.__cause__ = self._failed
        _resolve(done, failed)

    def _reject_all(self) -> None:
        while self._groups:
            self._reject(self._groups.popleft().done)
        while self._reads:
            self._reject(self._reads.popleft()[1])
        for number in self._numbers.take():
            self._reject(number[1])
        for serial in self._serials.take():
            self._reject(serial[1])
        for issued in self._issued.take():
            self._reject(issued[1])


#: The oldest answer that a retry can get: longer windows are cut to this. Ten years.
_LONGEST_WINDOW_MS = 3_653 * DAY_MS


def _issued(record: Record) -> Issued:
    assert isinstance(record.payload, Issued)  # noqa: S101  # the idem column stands on issued records only
    return record.payload


def _resolve(done: asyncio.Future[T], outcome: T | GatewayError) -> None:
    if done.done():  # the caller was cancelled
        return
    if isinstance(outcome, GatewayError):
        done.set_exception(outcome)
    else:
        done.set_result(outcome)

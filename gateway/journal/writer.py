"""Group commit: one task owns the store, and everything that waits shares one transaction and one fsync.

The life of an append: :meth:`Writer.append` puts the payloads and a future into a queue. All that waits (up to
:data:`MOST_GROUPS`) gets seq and time, is encoded and hashed, one checkpoint is signed over the new end, and records, tallies
and head go to the store as one transaction. Only when ``COMMIT`` has returned, so after the ``fdatasync`` of the log, are the
futures resolved: whoever holds a result holds something durable. A caller that is cancelled meanwhile changes nothing: its
records stay. Lookups are served by the same task, in the thread that commits, so nobody ever reads what is not durable.

There is one transaction at a time. Many groups begin theirs at once, in the middle of a turn of the event loop: its sync then
overlaps with the rest of that turn, and a crowd of clients does not march in step, all waiting for the same sync while the
processor has nothing to do (``docs/adr/0011``).

An error of the disk other than "full" is final. After a failed ``fsync`` the kernel may have dropped the dirty pages and call
the next one a success, so a retry would acknowledge what a power cut then takes away. The writer latches FAILED: every
waiting and later append raises JournalFailed, and a marker file asks the next start for a full verify.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from gateway.clock import Clock, elapsed_ms
from gateway.errors import Conflict, Fenced, GatewayError, IntegrityError, JournalFailed, JournalFull
from gateway.journal.anchor import write_durably
from gateway.journal.checkpoint import Checkpoint, NoteSigner
from gateway.journal.disk import DiskLevel, DiskWatch
from gateway.journal.lookups import UsedKeys, Waiting, first_day, latest_issued, records_about, records_at
from gateway.journal.records import Payload, Record
from gateway.journal.store import NO_UNITS, Broken, DiskFull, Duplicate, HeadRow, Store, StoreError, UnitRows
from gateway.journal.tip import Batch, Tip

_log = logging.getLogger(__name__)
T = TypeVar("T")
K = TypeVar("K")
#: Groups in one transaction: bounds the time of one commit and the event loop's share of it (about 10 ms).
MOST_GROUPS = 512
#: Groups for which a transaction begins in the middle of the loop's turn (``docs/adr/0011``).
_ENOUGH = 32
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


@dataclass(frozen=True, slots=True)
class _Begun:
    """A transaction that the store is writing, or one that has nothing to write."""

    groups: list[_Group]
    batch: Batch
    note: str
    written: Awaitable[None] | None


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
        self._begun: _Begun | None = None
        self._busy = False  # settling a transaction or reading: what waits must go on waiting
        self._issued: Waiting[tuple[bytes, int], tuple[Record, Record] | None] = Waiting()
        self._serials: Waiting[bytes, tuple[Record, ...]] = Waiting()
        self._numbers: Waiting[int, Record | None] = Waiting()
        self._reads: deque[tuple[Callable[[Store], Awaitable[object]], asyncio.Future[object]]] = deque()
        self._keys = UsedKeys(self.read)
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
        self._keys.stop()
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
        if len(self._groups) >= _ENOUGH and self._begun is None and not self._busy:
            self._begin_next()
        return await done

    async def find_issued(self, key: bytes, not_before_ms: int) -> tuple[Record, Record] | None:
        self._refuse_if_closed()
        if self._keys.surely_new(key, first_day(self.tip.time, not_before_ms)):
            return None
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

    async def _ask(self, lookups: Waiting[K, T], key: K) -> T:
        self._refuse_if_closed()
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        lookups.questions.append((key, done))
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
            except Exception as error:  # the state in memory is not to be trusted any more
                self._latch(error)
            if self._failed is not None:
                await self._settle_begun()  # an append may have begun it while a lookup met the error
                self._reject_all()
            if self._stopping:
                return

    async def _turn(self) -> bool:
        """Serve what waits now: lookups and reads, then one transaction. False when nothing waited."""
        numbers, serials, issued = self._numbers.take(), self._serials.take(), self._issued.take()
        if not (numbers or serials or issued or self._reads or self._groups or self._begun):
            return False
        lookups = []
        if numbers:
            lookups.append(asyncio.create_task(self._answering(numbers, partial(records_at, self._store))))
        if serials:
            lookups.append(asyncio.create_task(self._answering(serials, partial(records_about, self._store))))
        if issued:
            serve = partial(latest_issued, self._store, now_ms=self.tip.time)
            lookups.append(asyncio.create_task(self._answering(issued, serve)))
        await self._settle_begun()
        await self._serve_reads()
        # In this tick the lookups begin, so the store serves them before the transaction, and whoever is about to append gets
        # on board. Waiting longer makes larger and cheaper transactions, but then a few clients all wait for the same sync.
        await asyncio.sleep(0)
        if self._begun is None and self._groups and self._failed is None:
            self._begin_next()
        await self._settle_begun()
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

    async def _serve_reads(self) -> None:
        self._busy = True  # a question may be several statements: no transaction begins between them
        try:
            for _ in range(len(self._reads)):
                await self._serve_read(*self._reads.popleft())
        finally:
            self._busy = False

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

    def _begin_next(self) -> None:
        """Hand what waits to the store as one transaction; the task settles it. Never raises: a surprise latches."""
        groups = [self._groups.popleft() for _ in range(min(len(self._groups), MOST_GROUPS))]
        try:
            level = self._disk.level(elapsed_ms())
            self.warning, self.full = level is DiskLevel.WARNING, level is DiskLevel.FULL
            fitting = self._only_urgent(groups) if self.full else groups
            if fitting:
                self._begun = self._begin(fitting)
        except Exception as error:  # nobody may wait for ever
            self._latch_and_reject(error, groups)

    async def _settle_begun(self) -> None:
        if self._begun is None:
            return
        begun, self._begun, self._busy = self._begun, None, True
        try:
            await self._settle_what_fits(begun)
        except Exception as error:  # after any surprise nobody knows what is on the disk, and nobody may wait for ever
            self._latch_and_reject(error, begun.groups)
        finally:
            self._busy = False

    async def _settle_what_fits(self, begun: _Begun) -> None:
        try:
            await self._settle(begun)
        except DiskFull:
            self._disk.give_up_reserve()
            self.full = True
            await self._commit_urgent(self._only_urgent([group for group in begun.groups if not group.settled]))

    async def _commit_urgent(self, groups: list[_Group]) -> None:
        """Once more with what the reserve is for. A second "full" is an answer; it was rolled back like the first."""
        if not groups:
            return
        try:
            await self._settle(self._begin(groups))
        except DiskFull:
            for group in groups:
                if not group.settled:
                    group.settle(JournalFull("the disk is full", retry_after=_RETRY_FULL))

    def _begin(self, groups: list[_Group]) -> _Begun:
        """Plan ``groups`` and let the store write them, while everybody else goes on."""
        batch = self.tip.plan([group.payloads for group in groups], self._clock.now_ms())
        if not batch.rows:
            return _Begun(groups, batch, self.note, None)
        note = self._signer.sign(Checkpoint(self._origin, batch.frontier.size, batch.frontier.root()))
        self._keys.remember(batch.rows)
        head = HeadRow(batch.frontier.size, batch.frontier.to_bytes(), tuple(self.tip.open_after(batch)), note)
        units = UnitRows(batch.claims, *self.tip.units_changed(batch)) if batch.units or batch.claims else NO_UNITS
        return _Begun(groups, batch, note, self._store.write(batch.rows, list(batch.tallies.items()), head, units))

    async def _settle(self, begun: _Begun) -> None:
        """Wait until it is durable, then tell. Raises DiskFull and Broken like the store."""
        if begun.written is not None:
            try:
                await begun.written
            except Duplicate as error:
                await self._one_by_one(begun.groups, error)
                return
            if self._failed is not None:  # a lookup met an I/O error meanwhile: nothing is acknowledged after it
                raise self._failed
            self._adopt(begun.batch, begun.note)
        for group, outcome in zip(begun.groups, begun.batch.groups, strict=True):
            group.settle(outcome)

    async def _one_by_one(self, groups: Sequence[_Group], error: Duplicate) -> None:
        """One group repeats a serial number; it must not take the others down with it."""
        if len(groups) > 1:
            for group in groups:
                await self._settle(self._begin([group]))
            return
        conflict = Conflict("this serial number, device or key is already recorded")
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

    def _latch_and_reject(self, error: Exception, groups: Sequence[_Group]) -> None:
        self._latch(error)
        for group in groups:
            self._reject(group.done)

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


def _resolve(done: asyncio.Future[T], outcome: T | GatewayError) -> None:
    if done.done():  # the caller was cancelled
        return
    if isinstance(outcome, GatewayError):
        done.set_exception(outcome)
    else:
        done.set_result(outcome)

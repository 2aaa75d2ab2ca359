"""The face of the journal: create, open, append, look up, close.

Opening checks before it trusts: the signed head must be the root of the frontier, the last records must be what their leaves
say, and the anchor must be part of this journal's past. A run that latched FAILED leaves a mark, and then the whole
journal is verified. Intents that a crash left open become Void before :meth:`Journal.open` returns.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway import __version__
from gateway.clock import MonotonicClock
from gateway.errors import AlreadyExists, Fenced, JournalFailed, JournalFull, NotFound
from gateway.journal.anchor import Anchor, FileAnchor, sync_directory
from gateway.journal.anchoring import AnchorKeeper, AnchorStatus
from gateway.journal.backup import check_room, copy_journal
from gateway.journal.checkpoint import NoteSigner, read_verifier_key, verifier_key
from gateway.journal.disk import DiskWatch
from gateway.journal.merkle import inclusion_ranges
from gateway.journal.proof import Proof, RecordProof, range_root
from gateway.journal.pruning import Retention, prune
from gateway.journal.records import (
    Genesis,
    Issued,
    OperatorAction,
    Payload,
    Record,
    Started,
    Stopped,
    Void,
    decode,
)  # fmt: skip
from gateway.journal.startup import StartingPoint, check_start, compare_anchor, settle_failed_run
from gateway.journal.store import Store
from gateway.journal.tip import Tip, serial_column
from gateway.journal.writer import Writer

_log = logging.getLogger(__name__)
T = TypeVar("T")
#: Records fetched by one question of :meth:`Journal.scan`.
_PAGE = 1024
#: Seconds between two writings of the anchor. It follows the journal anyway and only has to be newer than any copy one could
#: put back; writing it after every commit costs as much processor time as the commits themselves, and wears a stick out.
ANCHOR_INTERVAL_S = 0.5


@dataclass(frozen=True, slots=True)
class JournalOptions:
    """Where the journal lives, and its anchor if that is a file. ``disk_warn`` and ``disk_refuse`` are fractions of the file
    system in use."""

    path: Path
    anchor: Path | None
    disk_warn: float = 0.80
    disk_refuse: float = 0.95
    reserve_bytes: int = 8 << 20
    anchor_interval_s: float = ANCHOR_INTERVAL_S

    @property
    def reserve(self) -> Path:
        return self.path.with_suffix(".reserve")

    @property
    def failed_marker(self) -> Path:
        """Left by a run that latched FAILED; asks the next start for a full verify."""
        return self.path.with_suffix(".failed")

    def opened_anchor(self) -> Anchor | None:
        return FileAnchor(self.anchor) if self.anchor is not None else None


class JournalState(Enum):
    OK = "ok"
    WARNING = "warning"  # the disk fills, or the anchor is out of reach
    FULL = "full"  # only urgent records are accepted
    FAILED = "failed"  # an I/O error was seen; final
    FENCED = "fenced"  # older than its own anchor, or told to stop; final


@dataclass(frozen=True, slots=True)
class Head:
    """The durable end of the journal. ``tallies``: intents minus voids per quota name."""

    size: int
    root: bytes
    note: str  # C2SP signed note over size and root
    open_intents: tuple[int, ...]
    tallies: Mapping[str, int]
    open_units: Mapping[str, int]  # unit of the line -> seq of its last record


class Journal:
    """One open journal. Everything it hands out is durable and covered by a signed checkpoint."""

    def __init__(self, options: JournalOptions, genesis: Genesis, writer: Writer) -> None:
        self.genesis = genesis
        self.options = options
        self._writer = writer
        self._anchor: AnchorKeeper | None = None
        self._closed = False
        self._watchers: list[Callable[[], None]] = []

    @classmethod
    async def create(
        cls,
        options: JournalOptions,
        *,
        origin: str,
        key_name: str,
        key: Ed25519PrivateKey,
        clock: MonotonicClock,
        random: bytes,
        anchor: Anchor | None = None,
        predecessor: str = "",
    ) -> Journal:
        """A new journal with its Genesis record, opened. ``random`` (16 octets or more) names this incarnation, ``predecessor``
        is the origin of the journal that this one replaces.

        Raises AlreadyExists when there is a journal, or an anchor that says there was one; SignerUnavailable or PinError when
        the anchor's token is out of reach. The file gets its name last, so a crash leaves no journal or a whole one.
        """
        if len(random) < 16:
            raise ValueError("an incarnation takes at least 16 random octets")
        anchor = anchor or options.opened_anchor()
        if options.path.exists():
            raise AlreadyExists(f"{options.path} exists")
        if anchor is not None and await anchor.load() is not None:
            raise AlreadyExists("the anchor belongs to a journal that is not here; restore that one, or give another anchor")
        beside = options.path.with_name(options.path.name + ".new")
        for leftover in (beside, beside.with_name(beside.name + "-journal"), options.failed_marker):
            leftover.unlink(missing_ok=True)
        genesis = Genesis(origin, verifier_key(key_name, key.public_key()), random.hex(), __version__, predecessor)
        store = await Store.open(beside, create=True)
        watch = DiskWatch(beside.with_suffix(".reserve"), reserve_bytes=0, warn=1, refuse=2)
        signer = NoteSigner(key_name, key)
        writer = Writer(
            store, Tip(), origin=origin, signer=signer, clock=clock, disk=watch, failed_marker=options.failed_marker, note=""
        )
        writer.start()
        try:
            await writer.append((genesis,))
        finally:
            await writer.stop()
        if writer.failed:
            raise JournalFailed("the new journal could not be written")
        beside.rename(options.path)
        sync_directory(options.path.parent)
        return await cls.open(options, key=key, clock=clock, anchor=anchor)

    @classmethod
    async def open(
        cls, options: JournalOptions, *, key: Ed25519PrivateKey, clock: MonotonicClock, anchor: Anchor | None = None
    ) -> Journal:
        """Open and check an existing journal; append Started, and Void for each intent left open. ``anchor`` stands in for the
        file of ``options``.

        Raises NotFound (no such file), IntegrityError (the journal contradicts itself or another key signed it), OperatorError
        (another process has it open), JournalFull. A journal behind its anchor opens in state FENCED: it can be read only.
        """
        if not options.path.exists():
            raise NotFound(f"there is no journal at {options.path}")
        anchor = anchor or options.opened_anchor()
        await asyncio.to_thread(settle_failed_run, options.path, options.failed_marker, key.public_key())
        store = await Store.open(options.path)
        try:
            point = await check_start(store, key.public_key())
            clock.observe(point.tip.time)
            finding = await compare_anchor(anchor, store, point)
        except BaseException:  # also when cancelled: an open connection keeps its thread and the file's lock
            await store.close()
            raise
        watch = DiskWatch(
            options.reserve, reserve_bytes=options.reserve_bytes, warn=options.disk_warn, refuse=options.disk_refuse
        )
        key_name, _ = read_verifier_key(point.genesis.verifier_key)
        writer = Writer(
            store, point.tip, origin=point.genesis.origin, signer=NoteSigner(key_name, key), clock=clock, disk=watch,
            failed_marker=options.failed_marker, note=point.note,
        )  # fmt: skip
        journal = cls(options, point.genesis, writer)
        writer.on_commit = journal._committed
        writer.start()
        if finding.fence:
            journal.fence(finding.fence)
            return journal
        try:
            await journal._begin(point, clock, finding.note)
        except BaseException:  # the same: the writer owns the connection now
            await writer.stop()
            raise
        if anchor is not None:
            journal._anchor = AnchorKeeper(
                anchor, writer, point.genesis,
                clock=clock, interval_s=options.anchor_interval_s, away=finding.away, fence=journal.fence,
            )  # fmt: skip
        return journal

    async def _begin(self, point: StartingPoint, clock: MonotonicClock, anchor_note: str) -> None:
        voids = [Void(seq, intent.serial, "open at start-up", intent.quota) for seq, intent in point.tip.open_intents.items()]
        started: list[Payload] = [Started(__version__, point.clean, clock.behind_ms() == 0)]
        if anchor_note:
            started.append(OperatorAction("anchor-renewed", "gateway", anchor_note))
        await self._writer.append((*started, *voids), urgent=True)

    # What the rest of the gateway does with it.

    async def append(self, *payloads: Payload, urgent: bool = False) -> tuple[Record, ...]:
        """Record ``payloads`` as one adjacent, atomic group; durable and under a signed checkpoint when this returns.

        ``urgent`` (revocations, voids) is accepted even when the disk is full. Raises JournalFull, JournalFailed, Fenced;
        Conflict when a serial number is already recorded or an intent is not open; MalformedRequest for a value that no record
        can hold. A cancelled caller changes nothing: its records are still committed.
        """
        if self._anchor is not None:
            await self._anchor.before_append()
        return await self._writer.append(payloads, urgent=urgent)

    async def find_issued(self, idempotency_key: bytes, not_before_ms: int) -> tuple[Record, Record] | None:
        """The latest (intent, issued) under this key that was issued at ``not_before_ms`` or later."""
        return await self._writer.find_issued(idempotency_key, not_before_ms)

    async def by_serial(self, serial: int) -> tuple[Record, ...]:
        """Everything recorded about a serial number, by seq: intent, issued, void, revoked, released."""
        try:
            column = serial_column(f"{serial:x}")
        except ValueError:
            return ()
        return await self._writer.by_serial(column)

    async def claimed(self, *names: bytes) -> dict[bytes, int]:
        """The record that made each of these claims (:func:`gateway.journal.line_records.claims_of`), where there is one."""
        return await self._writer.read(lambda store: store.claimed(names))

    async def get(self, seq: int) -> Record | None:
        """The record ``seq``; None when there is none, or when it was pruned."""
        return await self._writer.get(seq) if 0 <= seq < self._writer.tip.size else None

    async def read(self, start: int, limit: int) -> list[bytes]:
        """Canonical bytes of up to ``limit`` records from ``start`` on; empty for one that was pruned."""
        return await self._writer.read(lambda store: store.bodies(max(0, start), max(0, limit)))

    async def scan(self, *kinds: type[Payload], start: int = 0) -> AsyncIterator[Record]:
        """All records of these kinds by seq, from ``start`` on, as far as they exist when the scan gets there."""
        async for page in self.pages(*kinds, start=start):
            for body in page:
                yield decode(body)

    async def pages(self, *kinds: type[Payload], start: int = 0) -> AsyncIterator[list[bytes]]:
        """The canonical bytes of what :meth:`scan` gives, many at a time."""
        names = [cls.kind for cls in kinds]
        while True:
            page = await self._page_of(names, start)
            if page:
                yield [body for _, body in page if body]
                start = page[-1][0] + 1
            if len(page) < _PAGE:
                return

    async def _page_of(self, kinds: list[str], start: int) -> list[tuple[int, bytes]]:
        return await self._writer.read(lambda store: store.bodies_of_kinds(kinds, start, _PAGE))

    async def prove(self, seq: int) -> Proof:
        """The proof that record ``seq`` (with an Issued also its Intent) is in the journal as signed now. Raises NotFound."""
        head = self.head
        record = await self.get(seq)
        if record is None:
            pruned = 0 <= seq < head.size
            raise NotFound(f"record {seq} was pruned; central has it" if pruned else f"there is no record {seq}")
        numbers = [seq]
        if isinstance(record.payload, Issued):
            numbers.append(record.payload.intent)
        proofs: list[RecordProof] = []
        for number in numbers:
            (body,) = await self.read(number, 1)
            path = [await range_root(self.leaves, start, stop) for start, stop in inclusion_ranges(number, head.size)]
            proofs.append(RecordProof(number, body, tuple(path)))
        return Proof.of(head.note, self.genesis.verifier_key, proofs)

    async def prove_serial(self, serial: int) -> Proof:
        """The proof for the certificate with this serial number. Raises NotFound when none was issued."""
        for record in await self.by_serial(serial):
            if isinstance(record.payload, Issued):
                return await self.prove(record.seq)
        raise NotFound("no certificate with this serial number was issued, or it expired and was pruned; then central has it")

    async def leaves(self, start: int, stop: int) -> list[bytes]:
        """Leaf hashes of the records from ``start`` up to, not including, ``stop``; as many as there are."""
        return await self._writer.read(lambda store: store.leaves(start, stop))

    async def backup(self, target: Path) -> None:
        """Copy the journal as it is now to the new file ``target``, with a manifest beside it; appends go on meanwhile.

        Raises AlreadyExists, OperatorError when the target cannot be written or has too little space.
        """
        await asyncio.to_thread(check_room, self.options.path, target, self.options.disk_refuse)
        tip, note = self._writer.tip, self._writer.note
        frontier, open_intents, tallies = tip.frontier.copy(), tuple(tip.open_intents), dict(tip.tallies)
        open_units = tuple(tip.open_units.values())
        await copy_journal(
            lambda start, stop: self._writer.read(lambda store: store.rows(start, stop - start)),
            target, frontier=frontier, open_intents=open_intents, tallies=tallies, open_units=open_units, note=note,
        )  # fmt: skip

    async def prune(self, retention: Retention) -> int:
        """Empty old bodies that central has; how many. See :func:`gateway.journal.pruning.prune`."""
        return await prune(self._writer, self.append, self.genesis, retention)

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call ``watcher`` after every commit; it must be quick and must not raise."""
        self._watchers.append(watcher)

    def _committed(self) -> None:
        if self._anchor is not None:
            self._anchor.committed()
        for watcher in self._watchers:
            watcher()

    def fence(self, reason: str) -> None:
        """Accept nothing from now on: central said stop."""
        _log.critical("the journal is fenced: %s", reason)
        self._writer.fenced = reason

    async def close(self) -> None:
        """Append Stopped, write the anchor a last time, close the file. Never raises for a journal that already failed."""
        if self._closed:
            return
        self._closed = True
        if self.state not in (JournalState.FAILED, JournalState.FENCED):
            try:
                await self._writer.append((Stopped(),), urgent=True)
            except (JournalFull, Fenced, JournalFailed) as error:  # the file and its thread must be given back all the same
                _log.warning("the journal closes without its last record: %s", error)
        if self._anchor is not None:
            await self._anchor.close()
        await self._writer.stop()

    @property
    def head(self) -> Head:
        tip = self._writer.tip
        tallies, units = MappingProxyType(tip.tallies), MappingProxyType(tip.open_units)
        return Head(tip.size, tip.frontier.root(), self._writer.note, tuple(tip.open_intents), tallies, units)

    @property
    def state(self) -> JournalState:
        if self._writer.failed:
            return JournalState.FAILED
        if self._writer.fenced is not None:
            return JournalState.FENCED
        if self._writer.full:
            return JournalState.FULL
        if self._writer.warning or self._anchor_trouble():
            return JournalState.WARNING
        return JournalState.OK

    @property
    def state_detail(self) -> str:
        """One sentence for a human on why the state is not OK; empty when it is."""
        match self.state:
            case JournalState.FAILED:
                return "An I/O error was seen; restart the gateway, it verifies the whole journal."
            case JournalState.FENCED:
                return self._writer.fenced or ""
            case JournalState.FULL:
                return "The disk is full; only revocations are recorded."
            case JournalState.WARNING:
                return self._anchor_trouble() or "The disk fills up."
            case JournalState.OK:
                return ""

    @property
    def failure(self) -> asyncio.Future[None]:
        """Completes with JournalFailed when the journal latched, with None when it was closed in order."""
        return self._writer.failure

    @property
    def anchor(self) -> AnchorStatus | None:
        """How the anchor is; None when there is none, or when it fenced the journal at start."""
        return self._anchor.status if self._anchor is not None else None

    def _anchor_trouble(self) -> str:
        return self._anchor.status.trouble if self._anchor is not None else ""

"""Pruning: bodies of old records that central has and nothing here needs are emptied. Their leaf hashes stay for ever.

What may go is below a receipt (:mod:`gateway.journal.cosignature`), older than the retention, and of a kind that only tells of
the past: refusals, starts and stops, operators' actions, lists and documents that newer ones replaced, requests that were
decided, commands that were done, and everything about a certificate that expired before the retention began. First the receipt
is recorded (:class:`~gateway.journal.records.Pruned`), then bodies go, few in a transaction; a crash in between leaves more
bodies than necessary and nothing else. :mod:`gateway.journal.verify` accepts an empty body only below such a receipt.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial

from gateway.errors import IntegrityError, JournalFull, MalformedRequest
from gateway.journal.archive import Archive
from gateway.journal.checkpoint import Checkpoint
from gateway.journal.cosignature import open_receipt
from gateway.journal.proof import range_root
from gateway.journal.records import (
    CommandDone,
    CrlPublished,
    Decided,
    DesiredApplied,
    DesiredRefused,
    Genesis,
    Intent,
    Issued,
    Joined,
    OperatorAction,
    Payload,
    Pruned,
    Record,
    Refused,
    Released,
    Revoked,
    Started,
    Stopped,
    Void,
    Waiting,
    decode,
)
from gateway.journal.store import DiskFull, Store
from gateway.journal.tip import serial_column
from gateway.journal.writer import Writer
from gateway.pki.der import SEQUENCE, Reader
from gateway.pki.tbs import tbs_fields

#: At the end nothing is pruned, however old: the check at start reads the last records (startup.CHECKED_ROWS of them).
KEPT_AT_END = 1_024
#: Records decoded between two turns of the event loop (a few ms), and bodies emptied in one transaction, or a few more.
_PAGE, _BATCH = 64, 64
_RARE: tuple[type[Payload], ...] = (
    Started, Stopped, OperatorAction, CommandDone, CrlPublished, DesiredApplied, DesiredRefused, Waiting, Decided,
)  # fmt: skip
_COMMON: tuple[type[Payload], ...] = (Refused, Intent)
#: What :func:`prune` may empty.
KINDS = frozenset(cls.kind for cls in (*_RARE, *_COMMON, Issued, Void, Revoked, Released))


def newest_receipt(archive: Archive, vkey: str) -> Checkpoint | None:
    """Below which size an empty body is accepted: by the newest receipt that the journal holds and both keys signed."""
    central = None
    for body in archive.bodies_of(Joined.kind):
        payload = _payload(body)
        central = payload.central_key if isinstance(payload, Joined) else central
    newest: Checkpoint | None = None
    for body in archive.bodies_of(Pruned.kind):
        payload = _payload(body)
        if central is None or not isinstance(payload, Pruned):
            continue
        try:
            found = open_receipt(payload.receipt, vkey, central).checkpoint
        except IntegrityError:
            continue
        if newest is None or found.size > newest.size:
            newest = found
    return newest


def _payload(body: bytes) -> Payload | None:
    try:
        return decode(body).payload
    except IntegrityError:  # its row says so
        return None


@dataclass(frozen=True, slots=True)
class Retention:
    """``receipt`` is central's newest note, ``central_key`` its vkey; records of ``before_ms`` and later stay. ``needed`` keeps
    a command's end as long as the command may come again."""

    receipt: str
    central_key: str
    before_ms: int
    needed: Callable[[CommandDone], bool]


async def prune(writer: Writer, append: Callable[[Payload], Awaitable[object]], genesis: Genesis, retention: Retention) -> int:
    """Empty what may go; how many bodies that were.

    Raises IntegrityError for a receipt that is not genuine or not of this journal; then nothing was changed. Stops quietly
    where the journal is fenced or its disk is full, and goes on at the next call.
    """
    receipt = open_receipt(retention.receipt, genesis.verifier_key, retention.central_key).checkpoint
    size = writer.tip.size
    if receipt.origin != genesis.origin or receipt.size > size:
        raise IntegrityError("the receipt is not of this journal")

    async def leaves(start: int, stop: int) -> list[bytes]:
        return await writer.read(partial(Store.leaves, start=start, stop=stop))

    if await range_root(leaves, 0, receipt.size) != receipt.root:
        raise IntegrityError("the receipt is of another journal: the Merkle roots differ")
    stop = min(receipt.size, size - KEPT_AT_END)
    search = _Search(writer, stop, retention)
    recorded = await _recorded(writer, genesis, retention.central_key)
    emptied = 0
    async for batch in search.batches():
        if writer.fenced is not None or writer.full:
            break
        if max(batch) >= recorded:
            try:
                await append(Pruned(retention.receipt, retention.before_ms))
            except JournalFull:
                break
            recorded = receipt.size
        if not await writer.read(partial(_empty, numbers=batch)):
            break
        emptied += len(batch)
    return emptied


async def _empty(store: Store, numbers: list[int]) -> bool:
    try:
        await store.empty(numbers)
    except DiskFull:  # rolled back; not a reason to stop the journal
        return False
    return True


async def _recorded(writer: Writer, genesis: Genesis, central_key: str) -> int:
    """Up to where a receipt in the journal speaks for empty bodies already."""
    size = 0
    async for record in _records(writer, (Pruned,)):
        if isinstance(record.payload, Pruned):
            size = max(size, open_receipt(record.payload.receipt, genesis.verifier_key, central_key).checkpoint.size)
    return size


async def _records(writer: Writer, kinds: Iterable[type[Payload]]) -> AsyncIterator[Record]:
    names, start = [cls.kind for cls in kinds], 0
    while page := await writer.read(partial(Store.bodies_of_kinds, kinds=names, start=start, limit=_PAGE)):
        for _, body in page:
            if body:
                yield decode(body)
        start = page[-1][0] + 1


@dataclass(slots=True)
class _Search:
    """What may go, in batches that belong together."""

    writer: Writer
    stop: int
    retention: Retention
    _batch: list[int] = field(default_factory=list)

    async def batches(self) -> AsyncIterator[list[int]]:
        async for together in self._groups():
            self._batch += together
            if len(self._batch) >= _BATCH:
                yield self._batch
                self._batch = []
        if self._batch:
            yield self._batch

    async def _groups(self) -> AsyncIterator[list[int]]:
        rare = _Rare()
        async for record in _records(self.writer, _RARE):
            rare.take(record)
        for told in rare.groups(self.retention.needed):
            if all(map(self._past, told)):
                yield [record.seq for record in told]
        serials: list[str] = []
        async for record in _records(self.writer, _COMMON):
            if not self._past(record):  # the times of a journal never go back
                break
            match record.payload:
                case Refused():
                    yield [record.seq]
                case Intent() as intent if _expired(intent, self.retention.before_ms):
                    serials.append(intent.serial)
                case _:
                    pass
            if len(serials) >= _BATCH:
                for group in await self._certificates(serials):
                    yield group
                serials = []
        for group in await self._certificates(serials):
            yield group

    def _past(self, record: Record) -> bool:
        return record.seq < self.stop and record.time < self.retention.before_ms

    async def _certificates(self, serials: list[str]) -> list[list[int]]:
        """Each one's records, where all of them are past and its intent was closed."""
        columns = [serial_column(serial) for serial in serials]
        found: dict[bytes, list[Record]] = {column: [] for column in columns}
        for column, body in await self.writer.read(partial(Store.bodies_by_serial, serials=columns)):
            if body:
                found[column].append(decode(body))
        return [
            [record.seq for record in records]
            for records in found.values()
            if all(map(self._past, records)) and any(isinstance(record.payload, Issued | Void) for record in records)
        ]


@dataclass(slots=True)
class _Rare:
    """Records of rare kinds in groups that go together; of what newer ones replace, the newest is in no group."""

    _free: list[Record] = field(default_factory=list)
    _newest: dict[object, Record] = field(default_factory=dict)
    _requests: dict[str, list[Record]] = field(default_factory=dict)

    def take(self, record: Record) -> None:
        match record.payload:
            case CrlPublished(generation=generation, scope=scope):
                self._replace((generation, scope), record)
            case DesiredApplied() | DesiredRefused():
                self._replace(record.payload.kind, record)
            case Waiting(request_id=name) | Decided(request_id=name):
                self._requests.setdefault(name, []).append(record)
            case _:
                self._free.append(record)

    def _replace(self, key: object, record: Record) -> None:
        if key in self._newest:
            self._free.append(self._newest[key])
        self._newest[key] = record

    def groups(self, needed: Callable[[CommandDone], bool]) -> Iterator[list[Record]]:
        for record in self._free:
            if not (isinstance(record.payload, CommandDone) and needed(record.payload)):
                yield [record]
        for records in self._requests.values():
            if any(isinstance(record.payload, Decided) for record in records):
                yield records


def _expired(intent: Intent, at_ms: int) -> bool:
    try:
        validity = Reader(tbs_fields(intent.tbs).validity).enter(SEQUENCE)
        validity.time()
        return validity.time() < at_ms
    except MalformedRequest:  # nobody knows when it ends, so it never does
        return False

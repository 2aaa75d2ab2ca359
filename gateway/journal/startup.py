"""The check at start: is this the journal we left, and did the last run end in order?

Cheap enough for every start, whatever the size: the signed head, the frontier, the last rows. A run that latched FAILED asks
for the full :mod:`gateway.journal.verify`, because the disk under it may have lost anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.errors import IntegrityError, PinError, Unavailable
from gateway.journal.anchor import Anchor, AnchoredHead, sync_directory
from gateway.journal.checkpoint import Checkpoint, open_note, read_verifier_key
from gateway.journal.line_records import UnitKeyed, UnitMoved, UnitReserved
from gateway.journal.merkle import Frontier
from gateway.journal.records import Genesis, Intent, Stopped, decode
from gateway.journal.store import HeadRow, Store, empty_log
from gateway.journal.tip import OpenIntent, Tip, row_of
from gateway.journal.verify import verify

#: Rows at the end that every start decodes and hashes again: what a torn write would hit.
CHECKED_ROWS = 64
_PAGE = 4096
#: What the journal records of a medium on which nothing was found.
NO_ANCHOR = "no anchor was found"


@dataclass(frozen=True, slots=True)
class StartingPoint:
    genesis: Genesis
    tip: Tip
    note: str
    clean: bool  # the last record is Stopped, or the journal is new


def settle_failed_run(path: Path, marker: Path, public_key: Ed25519PublicKey) -> None:
    """Verify the whole journal if the previous run latched FAILED, then take its mark away.

    Blocks. Raises IntegrityError, and OperatorError when the disk still fails.
    """
    if not marker.exists():
        return
    report = verify(path, public_key=public_key)
    if report.problems:
        raise IntegrityError(f"after an I/O error the journal does not verify: {report.problems[0]}")
    # What verified may stand in the page cache alone: after a failed fsync the kernel calls a page clean that never reached the
    # disk, and everything appended behind it would be lost with it. So all of the log is written and synced anew.
    empty_log(path)
    marker.unlink()
    sync_directory(marker.parent)


async def check_start(store: Store, public_key: Ed25519PublicKey) -> StartingPoint:
    """Check head, key and last rows; the state to go on from. Raises IntegrityError."""
    head = await store.head()
    first = await store.rows(0, 1)
    if head is None or not first:
        raise IntegrityError("the journal has no head or no first record")
    genesis = decode(first[0].body).payload
    if not isinstance(genesis, Genesis):
        raise IntegrityError("the first record is not a genesis record")
    if read_verifier_key(genesis.verifier_key)[1] != public_key:
        raise IntegrityError("the journal was written with another checkpoint key")
    frontier = Frontier.from_bytes(head.frontier)
    checkpoint = open_note(head.note, genesis.verifier_key)
    signed = (checkpoint.origin, checkpoint.size, checkpoint.root)
    if signed != (genesis.origin, frontier.size, frontier.root()) or head.size != frontier.size:
        raise IntegrityError("the signed head and the Merkle frontier of the journal contradict each other")
    time, clean = await _check_last_rows(store, head.size)
    tip = Tip(frontier, time, await _open_intents(store, head), await store.tallies(), await _open_units(store))
    return StartingPoint(genesis, tip, head.note, clean)


async def _check_last_rows(store: Store, size: int) -> tuple[int, bool]:
    """(time of the last record, whether the last run ended in order)."""
    if await store.last_seq() != size - 1:
        raise IntegrityError(f"the journal's head says {size} records, the last one is {await store.last_seq()}")
    rows = await store.rows(max(0, size - CHECKED_ROWS), CHECKED_ROWS)
    if [row.seq for row in rows] != list(range(max(0, size - CHECKED_ROWS), size)):
        raise IntegrityError("records are missing at the end of the journal")
    record = None
    for row in rows:
        record = decode(row.body)
        if row_of(record, row.body) != row:
            raise IntegrityError(f"record {row.seq} is not what its leaf and columns say")
    assert record is not None  # noqa: S101  # size is at least 1: there is a genesis record
    return record.time, isinstance(record.payload, Genesis | Stopped)


async def _open_intents(store: Store, head: HeadRow) -> dict[int, OpenIntent]:
    bodies = await store.bodies_at(head.open_intents)
    found: dict[int, OpenIntent] = {}
    for seq in head.open_intents:
        intent = decode(bodies[seq]).payload if seq in bodies else None
        if not isinstance(intent, Intent):
            raise IntegrityError(f"the head calls record {seq} an open intent, which it is not")
        found[seq] = OpenIntent(intent.serial, intent.quota)
    return found


async def _open_units(store: Store) -> dict[str, int]:
    numbers = await store.open_units()
    bodies = await store.bodies_at(numbers)
    found: dict[str, int] = {}
    for seq in numbers:
        step = decode(bodies[seq]).payload if bodies.get(seq) else None
        if not isinstance(step, UnitReserved | UnitKeyed | UnitMoved):
            raise IntegrityError(f"record {seq} is called the last one of an open unit, which it is not")
        found[step.unit] = seq
    return found


@dataclass(frozen=True, slots=True)
class AnchorFinding:
    """What the anchor says of the journal at start. All empty: it was compared and agrees, or there is none to compare."""

    fence: str = ""  # why the journal must be fenced
    note: str = ""  # what to record about the anchor
    away: str = ""  # why it could not be compared yet


async def compare_anchor(anchor: Anchor | None, store: Store, point: StartingPoint) -> AnchorFinding:
    """Compare before anything is appended. An anchor that is out of reach is compared when it returns."""
    if anchor is None:
        return AnchorFinding()
    try:
        value = await anchor.load()
    except (Unavailable, PinError) as error:
        return AnchorFinding(away=str(error))
    except OSError as error:
        return AnchorFinding(fence=f"the anchor cannot be read: {error.strerror or error}")
    if value is None:
        # The very first start finds none; later it may be a new stick, and an auditor should see that.
        return AnchorFinding(note="" if point.tip.size == 1 else NO_ANCHOR)
    try:
        checkpoint, anchored = AnchoredHead.from_bytes(value).opened(point.genesis.verifier_key, point.genesis.origin)
    except IntegrityError as error:
        return AnchorFinding(fence=str(error))
    return AnchorFinding(fence=await anchor_objection(store, checkpoint, anchored, point.tip.frontier) or "")


async def anchor_objection(store: Store, checkpoint: Checkpoint, anchored: Frontier, frontier: Frontier) -> str | None:
    """Why the journal up to ``frontier`` is not the anchor's future; None when it is. Changes ``anchored``."""
    if checkpoint.size > frontier.size:
        return f"the anchor has seen {checkpoint.size} records, this journal has only {frontier.size}"
    if not await extends(store, anchored, frontier):
        return f"the anchor's {checkpoint.size} records are not the beginning of this journal"
    return None


async def extends(store: Store, old: Frontier, new: Frontier) -> bool:
    """Whether the journal up to ``new`` begins with the tree of ``old``. Changes ``old``."""
    while old.size < new.size:
        leaves = await store.leaves(old.size, min(old.size + _PAGE, new.size))
        if not leaves:
            return False
        for leaf in leaves:
            old.append(leaf)
    return old.root() == new.root()

"""What central makes of what a gateway sends: one pure decision for network, repeated messages and USB bundles. Pure.

Central remembers one :class:`Standing` for each journal. Each function below takes it with a message and gives a verdict;
whoever calls holds the journal's lock and makes the new standing and the records durable before the verdict is answered.

Only a checkpoint that the gateway's own key signed can convict it, and the records only when they came over its own session or
there are none: a bundle with changed bytes is refused and nothing else happens, or whoever carries the stick could have a
gateway fenced. A gateway that finds its journal to differ from central's head says so by an empty batch at that size.

Why a session begins with a nonce: a message that central reads late may be older than what it has by then. Hello signs a
nonce that is good once and is forgotten when the journal grew otherwise, so a hello with a smaller journal, or from a start of
the gateway that another one had replaced, is no late message but a restored or a second gateway.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from gateway.errors import IntegrityError
from gateway.journal.checkpoint import Checkpoint, open_note
from gateway.journal.merkle import EMPTY_ROOT, Frontier
from gateway.journal.records import leaf_hash
from sync.wire import Batch, Hello

#: Reads a signed checkpoint: (note, vkey); raises IntegrityError.
NoteReader: TypeAlias = Callable[[str, str], Checkpoint]


@dataclass(frozen=True, slots=True)
class Standing:
    """What central knows of one journal."""

    origin: str
    vkey: str
    size: int = 0
    frontier: bytes = Frontier().to_bytes()
    receipt: str = ""  # cosigned note of ``size``
    nonce: str = ""  # what the next hello must have signed; empty: none was asked for
    session: str = ""
    incarnation: str = ""  # the start of the gateway that speaks in ``session``
    retired: frozenset[str] = frozenset()  # starts that a later one replaced
    fenced: str = ""  # why, for good

    @property
    def root(self) -> bytes:
        return Frontier.from_bytes(self.frontier).root()


@dataclass(frozen=True, slots=True)
class Welcomed:
    """Hello is accepted: the session begins."""

    standing: Standing


@dataclass(frozen=True, slots=True)
class Appended:
    """``records`` follow what central had; empty when all was there already. ``note`` is to be cosigned as the receipt
    of ``standing.size``; empty when the receipt stays as it is."""

    standing: Standing
    records: tuple[bytes, ...]
    leaves: tuple[bytes, ...]
    note: str


@dataclass(frozen=True, slots=True)
class Resume:
    """The batch begins after central's end: go on from there. Nothing changed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Greet:
    """This is not the session, or not the nonce, that central waits for: say hello with a new nonce. Nothing changed."""

    reason: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Not what it claims to be. Nothing changed; somebody should look."""

    reason: str


@dataclass(frozen=True, slots=True)
class Convict:
    """The gateway's own signature contradicts what it signed before: fence it for good. ``evidence`` is the signed note."""

    standing: Standing
    reason: str
    evidence: str


@dataclass(frozen=True, slots=True)
class IsFenced:
    reason: str


HelloVerdict: TypeAlias = Welcomed | Greet | Refuse | Convict | IsFenced
BatchVerdict: TypeAlias = Appended | Resume | Greet | Refuse | Convict | IsFenced


def challenge(standing: Standing, nonce: str) -> Standing:
    """A new nonce; one given out before is good no more."""
    return replace(standing, nonce=nonce)


def judge_hello(standing: Standing, hello: Hello, session: str, *, read_note: NoteReader = open_note) -> HelloVerdict:
    """``session`` is a fresh random name. The caller has verified the statement's signature with ``standing.vkey``."""
    if standing.fenced:
        return IsFenced(standing.fenced)
    if hello.origin != standing.origin:
        return Refuse(f"this is {hello.origin[:100]!r}, not {standing.origin}")
    if not standing.nonce or hello.nonce != standing.nonce:
        return Greet("the nonce is not the one last given out")
    try:
        head = _checkpoint(standing, hello.checkpoint, read_note)
    except IntegrityError as error:
        return Refuse(str(error))
    used = replace(standing, nonce="")
    if hello.incarnation in standing.retired:
        reason = "a start of the gateway speaks that another one had replaced: there are two of it"
        return _convict(used, reason, hello.checkpoint)
    if head.size < standing.size:
        reason = f"the gateway has {head.size} records and central {standing.size}: it was restored from a backup"
        return _convict(used, reason, hello.checkpoint)
    if head.size == standing.size and head.root != standing.root:
        return _convict(used, f"another journal of the same {head.size} records", hello.checkpoint)
    retired = standing.retired
    if standing.incarnation and standing.incarnation != hello.incarnation:
        retired |= {standing.incarnation}
    return Welcomed(replace(used, session=session, incarnation=hello.incarnation, retired=retired))


def judge_batch(standing: Standing, batch: Batch, known: Sequence[bytes], *, read_note: NoteReader = open_note) -> BatchVerdict:
    """``known`` are the leaf hashes that central has from ``batch.start`` on, for as many records as the batch has.

    A batch without a session comes from a bundle: it may be older than what central has, and says nothing about now. Raises
    ValueError where ``known`` has too few: no gateway is convicted for what central did not look up.
    """
    if standing.fenced:
        return IsFenced(standing.fenced)
    if batch.origin != standing.origin:
        return Refuse(f"these are records of {batch.origin[:100]!r}, not of {standing.origin}")
    if batch.session and batch.session != standing.session:
        return Greet("another session began meanwhile")
    try:
        end = _checkpoint(standing, batch.checkpoint, read_note)
    except IntegrityError as error:
        return Refuse(str(error))
    if end.size != batch.stop:
        return Refuse(f"the checkpoint is of {end.size} records, and the batch ends at {batch.stop}")
    if batch.start > standing.size:
        return Resume(f"central has {standing.size} records")
    leaves = tuple(map(leaf_hash, batch.records))
    overlap = min(standing.size, batch.stop) - batch.start
    if len(known) < overlap:
        raise ValueError(f"{overlap} leaf hashes are needed from {batch.start} on, not {len(known)}")
    if leaves[:overlap] != tuple(known[:overlap]):
        return _contradiction(standing, batch, "records differ from those that central has already")
    grown = Frontier.from_bytes(standing.frontier)
    for leaf in leaves[overlap:]:
        grown.append(leaf)
    if grown.size == end.size and grown.root() != end.root:
        return _contradiction(
            standing, batch, f"the records do not have the root that the gateway signed for {end.size} of them"
        )
    if batch.stop <= standing.size:
        # A receipt is made where there is none for this size yet, as after central was restored without it.
        note = batch.checkpoint if batch.stop == standing.size and not standing.receipt and batch.stop else ""
        return Appended(standing, (), (), note)
    # A nonce given out before the journal grew by a bundle would let an honest hello, signed before, look like a rollback.
    nonce = standing.nonce if batch.session else ""
    after = replace(standing, size=batch.stop, frontier=grown.to_bytes(), nonce=nonce)
    return Appended(after, batch.records[overlap:], leaves[overlap:], batch.checkpoint)


def _contradiction(standing: Standing, batch: Batch, reason: str) -> Refuse | Convict:
    """From a stick, somebody may have changed the bytes; in a session, or without any records, it is the gateway's own word."""
    if batch.session or not batch.records:
        return _convict(standing, reason, batch.checkpoint)
    return Refuse(reason)


def _checkpoint(standing: Standing, note: str, read_note: NoteReader) -> Checkpoint:
    checkpoint = read_note(note, standing.vkey)
    if checkpoint.origin != standing.origin:
        raise IntegrityError(f"the checkpoint is of another journal than {standing.origin}")
    if checkpoint.size == 0 and checkpoint.root != EMPTY_ROOT:
        raise IntegrityError("the checkpoint of an empty journal has a wrong root")
    return checkpoint


def _convict(standing: Standing, reason: str, evidence: str) -> Convict:
    return Convict(replace(standing, fenced=reason, session="", nonce=""), reason, evidence)

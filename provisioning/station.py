"""The life of one unit on the line, as a table. Pure.

Each state is a durable record of the journal (:mod:`gateway.journal.line_records`). A unit is moved by *steps*; every step may
be repeated after a crash on either side, so the rule for a restart is always the same: do the step of the state again. What
makes that safe stands in the table::

    PLANNED ─reserve─> RESERVED ─obtain key─> KEYED ─issue─> ISSUED ─write─> WRITTEN ─verify─> VERIFIED
                                                                                                   │
        CONFIRMED <─confirm─ LABELLED <─label─ LOCKED <─lock─ LOCKING <─begin lock─────────────────┘

    any state but an end ──fault──> QUARANTINE ──a person──> RELEASED (no certificate yet) | REWORKED | SCRAPPED

PLANNED is every unit of an order that nobody has begun. Between KEYED and ISSUED the authority records INTENT and ISSUED of
the certificate (:mod:`gateway.authority.issue`): an intent that a crash left open is void, nothing of it ever left, and the
step makes another. Where an order wants no lock or no label, those states are passed over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from gateway.errors import Conflict, IntegrityError
from gateway.journal.line_records import UnitEnded, UnitKeyed, UnitMoved, UnitReserved
from gateway.journal.records import Record
from provisioning.device import KeyOrigin


class State(Enum):
    RESERVED = "reserved"  # credit taken; serial number, chip, station and port belong together
    KEYED = "keyed"  # CSR verified, its key belongs to this unit alone
    ISSUED = "issued"  # the certificate exists
    WRITTEN = "written"  # the device confirmed sync and hash
    VERIFIED = "verified"  # after a reset the device held the certificate and proved its key
    LOCKING = "locking"  # before the irreversible step
    LOCKED = "locked"
    LABELLED = "labelled"  # the label was printed, and scanned where there is a scanner
    QUARANTINE = "quarantine"  # a person must decide
    CONFIRMED = "confirmed"
    RELEASED = "released"  # given up before there was a certificate; the credit came back
    REWORKED = "reworked"  # given up with its certificate revoked; the device may begin anew as another unit
    SCRAPPED = "scrapped"  # given up for good, its certificate revoked


class Step(Enum):
    """What is to be done with a unit next."""

    OBTAIN_KEY = "obtain-key"
    ISSUE = "issue"
    WRITE = "write"
    VERIFY = "verify"
    BEGIN_LOCK = "begin-lock"
    LOCK = "lock"
    LABEL = "label"
    CONFIRM = "confirm"
    WAIT = "wait"  # for a person
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Rule:
    """``step`` leads to ``to``. ``on_restart`` says why the step may be done again, in the words of docs/LINE.md."""

    step: Step
    to: State | None
    on_restart: str


_S = State
RULES: Final[dict[State, Rule]] = {
    _S.RESERVED: Rule(
        Step.OBTAIN_KEY, _S.KEYED, "ask the device; a key that is there is kept, one is made only where there is none"
    ),
    _S.KEYED: Rule(Step.ISSUE, _S.ISSUED, "read the key again; another one: QUARANTINE. One unit has one certificate"),
    _S.ISSUED: Rule(Step.WRITE, _S.WRITTEN, "the same certificate again; never a new one for this key"),
    _S.WRITTEN: Rule(Step.VERIFY, _S.VERIFIED, "read it back; where it is missing or damaged, write it again"),
    _S.VERIFIED: Rule(Step.BEGIN_LOCK, _S.LOCKING, "verify again, which harms nothing"),
    _S.LOCKING: Rule(Step.LOCK, _S.LOCKED, "ask for the lock's state; lock only what is open"),
    _S.LOCKED: Rule(Step.LABEL, _S.LABELLED, "print; a second print is marked"),
    _S.LABELLED: Rule(Step.CONFIRM, _S.CONFIRMED, "confirm again; the record is the same"),
    _S.QUARANTINE: Rule(Step.WAIT, None, "a person decides"),
    _S.CONFIRMED: Rule(Step.NOTHING, None, ""),
    _S.RELEASED: Rule(Step.NOTHING, None, ""),
    _S.REWORKED: Rule(Step.NOTHING, None, ""),
    _S.SCRAPPED: Rule(Step.NOTHING, None, ""),
}
ENDS: Final = frozenset({_S.CONFIRMED, _S.RELEASED, _S.REWORKED, _S.SCRAPPED})
#: From here on the unit has a certificate.
CERTIFIED: Final = frozenset({_S.ISSUED, _S.WRITTEN, _S.VERIFIED, _S.LOCKING, _S.LOCKED, _S.LABELLED})
#: Where a unit may go; beside these, every state but an end may go to QUARANTINE.
MOVES: Final[dict[State, frozenset[State]]] = {
    _S.RESERVED: frozenset({_S.KEYED, _S.RELEASED}),
    _S.KEYED: frozenset({_S.ISSUED, _S.RELEASED}),
    _S.ISSUED: frozenset({_S.WRITTEN, _S.REWORKED, _S.SCRAPPED}),
    _S.WRITTEN: frozenset({_S.VERIFIED, _S.REWORKED, _S.SCRAPPED}),
    _S.VERIFIED: frozenset({_S.LOCKING, _S.LOCKED, _S.LABELLED, _S.CONFIRMED, _S.REWORKED, _S.SCRAPPED}),
    _S.LOCKING: frozenset({_S.LOCKED, _S.REWORKED, _S.SCRAPPED}),
    _S.LOCKED: frozenset({_S.LABELLED, _S.CONFIRMED, _S.REWORKED, _S.SCRAPPED}),
    _S.LABELLED: frozenset({_S.LABELLED, _S.CONFIRMED, _S.REWORKED, _S.SCRAPPED}),
    _S.QUARANTINE: frozenset({_S.RELEASED, _S.REWORKED, _S.SCRAPPED}),
    **dict.fromkeys(ENDS, frozenset()),
}


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit as its records tell it. ``seq`` is its last record; times in ms UTC by the journal."""

    id: str
    order: str
    serial: str
    station: str
    state: State
    seq: int
    began_ms: int
    moved_ms: int
    attempt: int
    key_origin: KeyOrigin
    chip: str = ""
    port: str = ""
    driver: str = ""
    spki_digest: bytes = b""
    csr_digest: bytes = b""
    evidence_digest: bytes = b""
    evidence_format: str = ""
    certificate: str = ""  # serial number, lower-case hex
    prints: int = 0
    detail: str = ""  # why it is where it is, for people
    times: tuple[tuple[State, int], ...] = ()
    records: tuple[int, ...] = ()  # seqs, as times

    @property
    def is_open(self) -> bool:
        return self.state not in ENDS


def begin(record: Record) -> Unit:
    """The unit that a UnitReserved record begins. Raises IntegrityError for any other."""
    payload = record.payload
    if not isinstance(payload, UnitReserved):
        raise IntegrityError(f"record {record.seq} begins no unit")
    return Unit(
        id=payload.unit, order=payload.order, serial=payload.serial, station=payload.station, state=State.RESERVED,
        seq=record.seq, began_ms=record.time, moved_ms=record.time, attempt=payload.attempt,
        key_origin=KeyOrigin(payload.key_origin), chip=payload.chip, port=payload.port, driver=payload.driver,
        times=((State.RESERVED, record.time),), records=(record.seq,),
    )  # fmt: skip


def advance(unit: Unit, record: Record) -> Unit:
    """``unit`` after one more of its records. Raises IntegrityError where that does not follow."""
    payload = record.payload
    if not isinstance(payload, UnitKeyed | UnitMoved | UnitEnded) or payload.unit != unit.id or payload.previous != unit.seq:
        raise IntegrityError(f"record {record.seq} does not go on with unit {unit.id}")
    if isinstance(payload, UnitKeyed):
        state = State.KEYED
        unit = replace(
            unit, spki_digest=payload.spki_digest, csr_digest=payload.csr_digest,
            evidence_digest=payload.evidence_digest, evidence_format=payload.evidence_format, detail="",
        )  # fmt: skip
    elif isinstance(payload, UnitMoved):
        state = State(payload.state)
        unit = replace(unit, detail=payload.detail, certificate=payload.serial or unit.certificate)
        unit = replace(unit, prints=unit.prints + (state is State.LABELLED))
    else:
        state = State(payload.state)
        unit = replace(unit, detail=payload.reason)
    return replace(
        unit, state=state, seq=record.seq, moved_ms=record.time,
        times=(*unit.times, (state, record.time)), records=(*unit.records, record.seq),
    )  # fmt: skip


def check_move(unit: Unit, to: State) -> None:
    """Raise Conflict unless a unit in this state may go there."""
    stops = to is State.QUARANTINE and unit.is_open and unit.state is not to
    if to not in MOVES[unit.state] and not stops:
        raise Conflict(f"unit {unit.id} is {unit.state.value}; it cannot become {to.value} from there")
    if to is State.RELEASED and unit.certificate:
        raise Conflict(f"unit {unit.id} has a certificate: scrap it or send it to rework, it cannot be released")


def next_step(unit: Unit, *, lock: bool, label: bool) -> Step:
    """What to do with ``unit`` next, where its order wants a lock and a label or not."""
    step = RULES[unit.state].step
    if step is Step.BEGIN_LOCK and not lock:
        step = Step.LABEL
    if step is Step.LABEL and not label:
        step = Step.CONFIRM
    return step

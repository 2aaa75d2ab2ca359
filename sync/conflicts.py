"""The conflict table as pure functions: what holds when the edge and central both decided while they were apart. Pure.

The rows that are decisions of another machine stay there: the same record twice, another root, a restore, a clone and a
restored central in :mod:`sync.ingest` and :mod:`sync.session`; stale documents in :mod:`sync.desired`; quota and clock at the
edge in :mod:`gateway.authority`. tests/sync/test_conflicts.py lists every row with the place where it is proved.

How revocations merge
---------------------
Each side has one :class:`Word` about a certificate and never changes the other's: the edge by the records of its journal,
central by entries that it numbers with :func:`next_number`. A word only grows (:func:`join`: commutative, associative,
idempotent), so records may arrive early, twice and in any order; :func:`merged` says what relying parties are told.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, TypeAlias

from gateway.journal.records import Intent, PolicyApplied, Record, Released, Revoked
from gateway.pki.crl import Reason

#: How much later than its decision a record may be written without being called late: a request waits for the signer first.
DECISION_MS: Final = 300_000
#: A quota is announced when this many per cent of it are used.
QUOTA_STEPS: Final = (80, 95, 100)
#: Who decided, in the records of what the edge did by a command (gateway.authority.revoke).
CENTRAL: Final = "central"
#: The gateway's own TLS and responder certificates, which outlive the policy (gateway.authority.policy).
_OWN_REQUESTER: Final = "gateway:"


# Revoked on both sides.


@dataclass(frozen=True, slots=True)
class Word:
    """What one side says about one certificate (CA key and serial). ``number`` orders what this side said: the seq of the
    edge's record, or :func:`next_number` at central. ``reason`` is ``None`` while it has lifted its hold, or said nothing."""

    number: int = -1
    reason: Reason | None = None
    revoked_ms: int = 0  # ms UTC

    @property
    def is_final(self) -> bool:
        """Revoked, not only on hold."""
        return self.reason is not None and self.reason is not Reason.CERTIFICATE_HOLD


SILENT: Final = Word()


def edge_word(record: Record) -> Word:
    """What a record ``revoked`` or ``released`` says. Raises TypeError for another kind, ValueError for an unknown reason."""
    match record.payload:
        case Revoked(reason=reason, revoked_at=revoked_ms):
            return Word(record.seq, Reason(reason), revoked_ms)
        case Released():
            return Word(record.seq)
        case _:
            raise TypeError(f"a record {record.payload.kind} says nothing about a revocation")


def repeated_word(record: Record, *, pending: bool) -> Word:
    """Central's own word as the edge's record repeats it, to be joined to what central remembers: a central that was restored
    learns so what it had decided since its backup.

    For records in their place only, never for urgent ones, which may be late. ``pending``: whether a command for this
    certificate is still on its way; then central's memory is newer than the record.
    """
    payload = record.payload
    if pending or not isinstance(payload, Revoked | Released) or payload.by != CENTRAL:
        return SILENT
    return edge_word(record)


def next_number(edge: Word, central: Word) -> int:
    """For central's next word: above everything that it has seen, so that its release covers the holds it knew of."""
    return max(edge.number, central.number) + 1


def join(one: Word, other: Word) -> Word:
    """Two words of the same side as one. Commutative, associative and idempotent.

    The later one counts, but a revocation is never taken back: its date can only become earlier, its reason keyCompromise.
    """
    final = [word for word in (one, other) if word.is_final]
    if not final:
        return max(one, other, key=_order)
    reason = min((word.reason for word in final if word.reason), key=_weight)
    return Word(max(one.number, other.number), reason, min(word.revoked_ms for word in final))


def _order(word: Word) -> tuple[int, bool, int]:
    # Two holds of the same number are one record; the rest only makes the order total.
    return word.number, word.reason is None, -word.revoked_ms


def _weight(reason: Reason) -> tuple[bool, int]:
    return reason is not Reason.KEY_COMPROMISE, reason.code


@dataclass(frozen=True, slots=True)
class Revocation:
    """What relying parties are told: since when and why; ``certificateHold`` while it may still be lifted."""

    revoked_ms: int
    reason: Reason


def merged(edge: Word, central: Word) -> Revocation | None:
    """The certificate's status by both words; ``None`` is good.

    good < hold < revoked, and the higher wins. The earliest date counts, also that of a hold that stands. Where both sides gave
    a reason the edge's stays, for it is on its list already, unless central's is keyCompromise. A hold stands until the side
    that set it lifts it; central also lifts those of the edge that it knew of.
    """
    overruled = edge.reason is Reason.CERTIFICATE_HOLD and central.reason is None and central.number > edge.number
    standing = [word for word in (SILENT if overruled else edge, central) if word.reason is not None]
    if not standing:
        return None
    reasons = [word.reason for word in standing if word.is_final and word.reason]
    since_ms = min(word.revoked_ms for word in standing)
    if Reason.KEY_COMPROMISE in reasons:
        return Revocation(since_ms, Reason.KEY_COMPROMISE)
    return Revocation(since_ms, reasons[0] if reasons else Reason.CERTIFICATE_HOLD)


# Central revokes while the edge renews.


def reason_for_successor(predecessor: Reason) -> Reason | None:
    """Why the certificate must fall that was issued to the holder of a revoked one; ``None`` when it stands.

    Whoever held a stolen key, or a right that was withdrawn, may have been the one who renewed. Applied to the successor's
    reason in turn, it follows the whole line.
    """
    return predecessor if predecessor in {Reason.KEY_COMPROMISE, Reason.PRIVILEGE_WITHDRAWN} else None


# Policy changed while apart; violation found later.


def policy_violation(intent: Record, applied: Iterable[Record]) -> str:
    """Why the certificate of ``intent`` is disputed; empty when it is in order.

    ``applied`` are the journal's ``policy-applied`` records. The version named in the intent counts, not the newest at central;
    what central changed meanwhile makes nothing wrong that was right when it was done.
    """
    plan = intent.payload
    if not isinstance(plan, Intent):
        raise TypeError(f"{plan.kind} is not an intent")
    if plan.requester.startswith(_OWN_REQUESTER):
        return ""
    found = [
        (record.seq, record.payload.expires)
        for record in applied
        if isinstance(record.payload, PolicyApplied)
        and record.payload.version == plan.policy_version
        and record.seq < intent.seq
    ]
    if not found:
        return f"issued under version {plan.policy_version} of the policy, which was not in force"
    _, expires = max(found)
    if expires and intent.time >= expires + DECISION_MS:
        return f"issued after version {plan.policy_version} of the policy had expired"
    return ""


# Quota.


def overspent(granted: int, spent: int) -> int:
    """How many more certificates exist than central granted: two gateways spent one journal's quota, or one is broken."""
    return max(0, spent - granted)


def quota_step(granted: int, spent: int) -> int:
    """Which of :data:`QUOTA_STEPS` is reached, 0 for none: an alert is due when it rises."""
    return max((step for step in QUOTA_STEPS if spent * 100 >= granted * step), default=0)


# Same device id, other key, two gateways; same key, other device id.


@dataclass(frozen=True, slots=True, order=True)
class Identity:
    """A certificate as a device's identity. ``time_ms`` is that of the intent."""

    time_ms: int
    origin: str
    serial: str
    device: str  # the subject's serialNumber; empty for none
    spki: bytes  # SHA-256 of the SubjectPublicKeyInfo


@dataclass(frozen=True, slots=True)
class DuplicateIdentity:
    """Two gateways gave one device id to two keys. Both certificates stay; ``second`` alerts."""

    first: Identity
    second: Identity


@dataclass(frozen=True, slots=True)
class SharedKey:
    """One key under two device ids: copied, or a weak generator. It goes to the blocked keys of every gateway."""

    first: Identity
    second: Identity

    @property
    def blocked(self) -> bytes:
        return self.first.spki


Clash: TypeAlias = DuplicateIdentity | SharedKey


def clash(one: Identity, other: Identity) -> Clash | None:
    """What is wrong with two valid certificates, the same whichever comes first. Without a device id nothing clashes.

    One gateway may give a device a new key, and another gateway may renew a known one.
    """
    if not one.device or not other.device:
        return None
    first, second = sorted((one, other))
    if one.device == other.device:
        return DuplicateIdentity(first, second) if one.spki != other.spki and one.origin != other.origin else None
    return SharedKey(first, second) if one.spki == other.spki else None

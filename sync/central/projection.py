"""What records mean for central's tables. Pure: records and what is known already in, rows out.

A record that has no meaning here (unknown to this version, contradicting another one, about a CA that is not this gateway's) is
set aside with the reason and holds up nothing. In this order: :func:`readable` takes the octets apart, :func:`needed_intents`
says which earlier records are needed, :func:`project` gives the rows, :func:`clashes` compares identities.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final, TypeAlias

from cryptography import x509

from gateway.errors import GatewayError, IntegrityError
from gateway.journal.certificates import certificate_of
from gateway.journal.line_records import UnitEnded, UnitKeyed, UnitMoved, UnitReserved
from gateway.journal.records import (
    CaRequested,
    CrlPublished,
    Intent,
    Issued,
    PolicyApplied,
    Record,
    Released,
    Revoked,
    Void,
    decode,
)
from gateway.journal.tip import serial_column, tally_changes
from gateway.pki import der
from gateway.pki.algorithms import PublicKey, SignatureAlgorithm, signature_is_valid
from gateway.pki.names import name_to_text
from gateway.pki.sans import san_to_text
from gateway.pki.tbs import tbs_fields
from sync.central.line_rows import Unit
from sync.central.rows import ISSUED, VOID, Announced, Certificate, Event, Kept, Policy
from sync.central.units import unit_after
from sync.conflicts import Clash, Identity, Word, clash, edge_word, join, policy_violation

#: Of texts that go into an index.
_MOST_TEXT: Final = 255
#: JSON's spelling of the one character that PostgreSQL cannot store.
_NUL = rb"\u0000"
CA_REQUESTED: Final = "ca-requested"
#: Serial number and the CA's key identifier.
CertificateKey: TypeAlias = tuple[bytes, bytes]


class Forged(IntegrityError):
    """The gateway recorded a certificate that its CA's key did not sign."""


@dataclass(frozen=True, slots=True)
class Issuer:
    """A CA generation of the gateway, as its ``ca-activated`` said."""

    key_id: bytes
    public_key: PublicKey


@dataclass(frozen=True, slots=True)
class Known:
    """What the records before say. ``policies`` are ``policy-applied`` records, ``intents`` and ``units`` those asked for."""

    origin: str
    issuers: Mapping[int, Issuer]  # by generation
    policies: Sequence[Record] = ()
    intents: Mapping[int, Record] = field(default_factory=dict)
    units: Mapping[str, Unit] = field(default_factory=dict)


@dataclass(slots=True)
class Projection:
    """The rows that some records become, and the records without a meaning: seq and why."""

    certificates: dict[CertificateKey, Certificate] = field(default_factory=dict)
    identities: list[Identity] = field(default_factory=list)
    words: dict[CertificateKey, tuple[Word, int, str]] = field(default_factory=dict)  # with generation and who decided
    tallies: Counter[str] = field(default_factory=Counter)
    policies: list[Policy] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    units: dict[str, Unit] = field(default_factory=dict)
    announced: dict[tuple[bytes, str], Announced] = field(default_factory=dict)
    aside: dict[int, str] = field(default_factory=dict)
    forged: dict[int, str] = field(default_factory=dict)


def readable(kept: Iterable[Kept]) -> tuple[list[Record], dict[int, str]]:
    """The records in these octets, and by seq why others have no meaning here."""
    records, aside = [], {}
    for each in kept:
        try:
            if _NUL in each.body:
                raise IntegrityError("a text holds the character NUL")
            record = decode(each.body)
            if record.seq != each.seq:
                raise IntegrityError(f"it says of itself that it is record {record.seq}")
            records.append(record)
        except IntegrityError as error:
            aside[each.seq] = str(error)
    return records, aside


def needed_intents(records: Iterable[Record]) -> set[int]:
    """The seqs of the intents that these records complete and that are not among them."""
    seqs = {record.seq for record in records}
    return {
        record.payload.intent
        for record in records
        if isinstance(record.payload, Issued | Void) and record.payload.intent not in seqs
    }


def project(records: Sequence[Record], known: Known, *, verify: bool = True) -> Projection:
    """The rows of ``records``, which are adjacent or single. ``verify`` checks the CA's signature under each certificate."""
    work = _Work(known, verify)
    work.intents.update((record.seq, record) for record in records if isinstance(record.payload, Intent))
    work.policies.extend(record for record in records if isinstance(record.payload, PolicyApplied))
    for record in records:
        try:
            work.add(record)
        except Forged as error:
            work.done.aside[record.seq] = work.done.forged[record.seq] = str(error)
        except (GatewayError, ValueError, TypeError) as error:
            work.done.aside[record.seq] = str(error)[:500] or type(error).__name__
    return work.done


class _Work:
    """One call of :func:`project`. Whatever raises has changed nothing yet."""

    def __init__(self, known: Known, verify: bool) -> None:
        self.known, self.verify = known, verify
        self.intents = dict(known.intents)
        self.policies = list(known.policies)
        self.done = Projection()

    def add(self, record: Record) -> None:
        payload, done, origin = record.payload, self.done, self.known.origin
        match payload:
            case Intent():
                self._count(record)
            case Issued() | Void():
                self._close(record, payload)
            case Revoked() | Released():
                key = (serial_column(payload.serial), self._issuer(payload.generation).key_id)
                word = edge_word(record)
                before = done.words.get(key)
                done.words[key] = (join(before[0], word) if before else word, payload.generation, payload.by)
            case PolicyApplied():
                version, source, digest, expires = payload.version, payload.source, payload.digest, payload.expires
                done.policies.append(Policy(origin, version, source, digest, expires, record.time, record.seq))
            case UnitReserved() | UnitKeyed() | UnitMoved() | UnitEnded():
                before_it = done.units.get(payload.unit) or self.known.units.get(payload.unit)
                unit = unit_after(record, before_it, origin)
                self._count(record)
                done.units[payload.unit] = unit
            case CaRequested():
                done.events.append(Event(CA_REQUESTED, origin, record.seq, payload.generation, payload.csr, record.time))
            case CrlPublished():
                key_id, scope = self._issuer(payload.generation).key_id, _short(payload.scope, "scope")
                row = Announced(key_id, scope, origin, payload.number, payload.next_update, payload.digest)
                last = done.announced.get((key_id, scope))
                if last is None or row.number > last.number:
                    done.announced[key_id, scope] = row

    def _count(self, record: Record) -> None:
        changes = [(_short(name, "quota"), change) for name, change in tally_changes(record.payload)]
        for name, change in changes:
            self.done.tallies[name] += change

    def _close(self, record: Record, payload: Issued | Void) -> None:
        """An intent came to its end: from here on the serial number has a status."""
        plan, intent = self._intent(payload)
        issuer = self._issuer(intent.generation)
        names = read_names(intent.tbs, payload.serial)
        if names.spki != intent.spki_digest:
            raise IntegrityError("the intent is about another key than its TBSCertificate")
        disputed = ""
        if isinstance(payload, Issued):
            self._check_signature(intent, payload, issuer)
            disputed = policy_violation(plan, self.policies)
        row = Certificate(
            serial=serial_column(payload.serial), issuer=issuer.key_id, origin=self.known.origin, generation=intent.generation,
            state=ISSUED if isinstance(payload, Issued) else VOID, intent=plan.seq, closing=record.seq, subject=names.subject,
            sans=names.sans, device=names.device, spki=names.spki, profile=_short(intent.profile, "profile"),
            requester=_short(intent.requester, "requester"), policy_version=intent.policy_version,
            not_before=names.not_before_ms, not_after=names.not_after_ms, issued=record.time,
            predecessor=serial_column(intent.predecessor) if intent.predecessor else b"", disputed=disputed,
        )  # fmt: skip
        if isinstance(payload, Void):
            self._count(record)
        elif row.device:
            self.done.identities.append(Identity(record.time, row.origin, payload.serial, row.device, row.spki))
        self.done.certificates[row.serial, row.issuer] = row

    def _intent(self, payload: Issued | Void) -> tuple[Record, Intent]:
        plan = self.intents.get(payload.intent)
        if plan is None or not isinstance(plan.payload, Intent):
            raise IntegrityError(f"record {payload.intent} is not an intent")
        if plan.payload.serial != payload.serial:
            raise IntegrityError(f"intent {payload.intent} has another serial number")
        if isinstance(payload, Void) and payload.quota != plan.payload.quota:
            raise IntegrityError(f"intent {payload.intent} spent another quota")
        return plan, plan.payload

    def _check_signature(self, intent: Intent, payload: Issued, issuer: Issuer) -> None:
        certificate_of(intent, payload)
        algorithm = SignatureAlgorithm[intent.algorithm]
        if self.verify and not signature_is_valid(issuer.public_key, algorithm, payload.signature, intent.tbs):
            raise Forged(f"certificate {payload.serial} is not signed by the CA key of generation {intent.generation}")

    def _issuer(self, generation: int) -> Issuer:
        issuer = self.known.issuers.get(generation)
        if issuer is None:
            raise IntegrityError(f"this gateway has no CA of generation {generation} that central knows")
        return issuer


def _short(text: str, what: str) -> str:
    if len(text) > _MOST_TEXT:
        raise IntegrityError(f"{what} has more than {_MOST_TEXT} characters")
    return text


@dataclass(frozen=True, slots=True)
class Names:
    """What is searched for in a TBSCertificate."""

    subject: str
    sans: str
    device: str
    spki: bytes  # SHA-256
    not_before_ms: int
    not_after_ms: int


def read_names(tbs: bytes, serial: str) -> Names:
    """Raises IntegrityError unless ``tbs`` is a TBSCertificate with this serial number that can be read."""
    try:
        fields = tbs_fields(tbs)
        if int.from_bytes(fields.serial, "big") != int(serial, 16):
            raise IntegrityError("the TBSCertificate has another serial number")
        certificate = x509.load_der_x509_certificate(_framed(tbs, fields.algorithm))
        device = certificate.subject.get_attributes_for_oid(x509.NameOID.SERIAL_NUMBER)
        return Names(
            subject=name_to_text(certificate.subject),
            sans=" ".join(_sans(certificate)),
            device=_short(str(device[0].value), "serialNumber") if device else "",
            spki=sha256(fields.spki).digest(),
            not_before_ms=int(certificate.not_valid_before_utc.timestamp()) * 1000,
            not_after_ms=int(certificate.not_valid_after_utc.timestamp()) * 1000,
        )
    except (GatewayError, ValueError, TypeError) as error:
        raise IntegrityError(f"its TBSCertificate cannot be read: {str(error)[:200]}") from error


def _framed(tbs: bytes, algorithm: bytes) -> bytes:
    """The library reads certificates only, so a signature that is none stands behind."""
    return der.tlv(0x30, tbs, algorithm, b"\x03\x02\x00\x00")


def _sans(certificate: x509.Certificate) -> Iterable[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return [san_to_text(name) for name in names]


# Identities.


def clashes(new: Sequence[Identity], others: Iterable[Identity]) -> list[Clash]:
    """For each of ``new`` one duplicate identity and one shared key, if there is any before it or in ``others``. All of them
    are valid certificates.

    Two are enough to remember of each origin of a device, and of each key: of two different ones, one differs from any third.
    """
    by_device: dict[str, dict[str, dict[bytes, Identity]]] = {}  # device -> origin -> key
    by_key: dict[bytes, dict[str, Identity]] = {}  # key -> device

    def learn(one: Identity) -> None:
        keys = by_device.setdefault(one.device, {}).setdefault(one.origin, {})
        devices = by_key.setdefault(one.spki, {})
        if len(keys) < 2:
            keys.setdefault(one.spki, one)
        if len(devices) < 2:
            devices.setdefault(one.device, one)

    for other in others:
        learn(other)
    found: list[Clash] = []
    for one in new:
        same_device = [other for keys in by_device.get(one.device, {}).values() for other in keys.values()]
        for candidates in (same_device, by_key.get(one.spki, {}).values()):
            wrong = next((wrong for other in candidates if (wrong := clash(one, other))), None)
            if wrong is not None:
                found.append(wrong)
        learn(one)
    return found

"""What the journal remembers, and its canonical bytes. Pure.

A record is one JSON object (RFC 8259) in one fixed spelling: keys sorted, no white space, UTF-8, integers only, byte strings
as unpadded base64url text. The same record therefore has the same bytes everywhere, an auditor reads it with any JSON
parser, and its Merkle leaf is ``SHA-256(0x00 || bytes)`` (RFC 6962 section 2.1). Each payload class below is one kind of
record: its fields are the JSON keys, ``None`` and empty values are left out. ``kind``, ``seq`` and ``time`` are added by the
journal. A reader of a later version keeps records it cannot decode as bytes.
"""

from __future__ import annotations

import hashlib
import json
import typing
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from operator import attrgetter
from typing import ClassVar, TypeAlias

from gateway.errors import IntegrityError
from gateway.journal.canonical import FORMS, Writer, write_place, write_text
from gateway.journal.line_records import LinePayload


@dataclass(frozen=True, slots=True)
class Genesis:
    """Record 0: who writes this journal and which key signs its checkpoints."""

    kind: ClassVar[str] = "genesis"
    origin: str  # C2SP checkpoint origin, unique per incarnation
    verifier_key: str  # C2SP vkey: name+hash+base64
    incarnation: str  # random hex; a re-joined gateway gets a new one
    version: str
    predecessor: str = ""  # origin of the journal this one continues, where hardware was replaced


@dataclass(frozen=True, slots=True)
class Started:
    """The daemon began to work; ``clean`` says whether the previous run ended in order."""

    kind: ClassVar[str] = "started"
    version: str
    clean: bool
    time_certain: bool


@dataclass(frozen=True, slots=True)
class Stopped:
    kind: ClassVar[str] = "stopped"


@dataclass(frozen=True, slots=True)
class CaKeyGenerated:
    kind: ClassVar[str] = "ca-key-generated"
    generation: int
    uri: str  # without PIN
    spki: bytes
    operator: str
    token_serial: str = ""


@dataclass(frozen=True, slots=True)
class CaRequested:
    """A CSR for the CA key was written out."""

    kind: ClassVar[str] = "ca-requested"
    generation: int
    csr: bytes
    operator: str


@dataclass(frozen=True, slots=True)
class CaActivated:
    """The CA certificate of a generation was imported; the highest generation issues, all stay for status."""

    kind: ClassVar[str] = "ca-activated"
    generation: int
    uri: str
    certificate: bytes
    chain: tuple[bytes, ...]  # issuing CA's issuer first, root last
    operator: str
    demo: bool = False


@dataclass(frozen=True, slots=True)
class PolicyApplied:
    kind: ClassVar[str] = "policy-applied"
    version: int
    source: str  # "file" or "central"
    digest: bytes  # SHA-256 of the policy's bytes
    expires: int = 0  # ms, 0 for never


@dataclass(frozen=True, slots=True)
class TokenCreated:
    """A bearer secret for HTTP Basic; the journal holds only the hash of its 128+ bit secret."""

    kind: ClassVar[str] = "token-created"
    token_id: str
    verifier: bytes  # SHA-256 of the secret
    profile: str
    uses: int
    not_after: int  # ms
    operator: str
    subject: str = ""  # RFC 4514 name or serialNumber pattern the token is bound to, empty for any
    station: bool = False


@dataclass(frozen=True, slots=True)
class TokenRevoked:
    kind: ClassVar[str] = "token-revoked"
    token_id: str
    operator: str


@dataclass(frozen=True, slots=True)
class Intent:
    """The plan of one certificate, durable before the signer is asked. ``quota`` names the tallies it spends one of."""

    kind: ClassVar[str] = "intent"
    serial: str  # lower-case hex
    tbs: bytes  # the exact TBSCertificate
    algorithm: str  # SignatureAlgorithm name
    generation: int
    profile: str
    protocol: str
    operation: str
    requester: str
    csr_digest: bytes  # SHA-256 of the CSR as received
    spki_digest: bytes  # SHA-256 of the SubjectPublicKeyInfo
    policy_version: int
    idempotency_key: bytes
    quota: tuple[str, ...] = ()
    leniencies: tuple[str, ...] = ()
    time_uncertain: bool = False
    station: str = ""  # the registration authority that asked on the device's behalf
    predecessor: str = ""  # serial of the certificate of ours that this one renews, lower-case hex


@dataclass(frozen=True, slots=True)
class Issued:
    """The signature over an intent's TBS: from here on the certificate exists."""

    kind: ClassVar[str] = "issued"
    intent: int  # seq of the intent
    serial: str
    signature: bytes
    certificate_digest: bytes  # SHA-256 of the whole certificate
    idempotency_key: bytes


@dataclass(frozen=True, slots=True)
class Void:
    """An intent that never became a certificate; its serial goes on the CRL and its quota is given back."""

    kind: ClassVar[str] = "void"
    intent: int
    serial: str
    reason: str
    quota: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Refused:
    """An authenticated requester was refused by policy."""

    kind: ClassVar[str] = "refused"
    profile: str
    protocol: str
    requester: str
    csr_digest: bytes
    error: str  # class name in gateway.errors
    reason: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request that a person must approve."""

    kind: ClassVar[str] = "waiting"
    request_id: str
    profile: str
    protocol: str
    requester: str
    subject: str
    csr_digest: bytes
    idempotency_key: bytes


@dataclass(frozen=True, slots=True)
class Decided:
    """The person's answer to a waiting request."""

    kind: ClassVar[str] = "decided"
    request_id: str
    approved: bool
    operator: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Revoked:
    kind: ClassVar[str] = "revoked"
    serial: str
    generation: int
    reason: str  # RFC 5280 CRLReason name, e.g. keyCompromise, certificateHold
    revoked_at: int  # ms
    by: str


@dataclass(frozen=True, slots=True)
class Released:
    """A certificateHold was lifted (RFC 5280 removeFromCRL)."""

    kind: ClassVar[str] = "released"
    serial: str
    generation: int
    by: str


@dataclass(frozen=True, slots=True)
class CrlPublished:
    kind: ClassVar[str] = "crl-published"
    generation: int
    scope: str  # "full", "delta", or the shard's name
    number: int
    this_update: int
    next_update: int
    digest: bytes
    entries: int


@dataclass(frozen=True, slots=True)
class OperatorAction:
    kind: ClassVar[str] = "operator-action"
    action: str
    operator: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Joined:
    """This gateway belongs to a central: whose receipts count and whose documents are obeyed from here on."""

    kind: ClassVar[str] = "joined"
    central: str  # its name
    central_key: str  # vkey of its cosignatures and documents
    root: bytes  # DER of the CA certificate that its TLS certificate and our sub-CA lie below
    urls: tuple[str, ...]
    operator: str


@dataclass(frozen=True, slots=True)
class DesiredApplied:
    """Central's document of this version is in force."""

    kind: ClassVar[str] = "desired-applied"
    version: int
    digest: bytes  # SHA-256 of the signed document
    issued: int  # ms, by central's clock
    expires: int  # ms, 0 for never


@dataclass(frozen=True, slots=True)
class DesiredRefused:
    """Central's document could not be applied; the one before stays in force."""

    kind: ClassVar[str] = "desired-refused"
    version: int
    digest: bytes
    reason: str


@dataclass(frozen=True, slots=True)
class CommandDone:
    """One of central's commands was carried out, in the same transaction as its effect, or cannot be."""

    kind: ClassVar[str] = "command-done"
    command: str  # its id
    outcome: str  # "done", "nothing-to-do" or "failed"
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Pruned:
    """From here on records below central's receipt may have lost their bodies: central has them, nothing here needs them."""

    kind: ClassVar[str] = "pruned"
    receipt: str  # a note with the journal's signature and central's, see gateway.journal.cosignature
    before: int  # ms; younger records were left alone


@dataclass(frozen=True, slots=True)
class FencedByCentral:
    """Central said stop: nothing is issued from this journal any more."""

    kind: ClassVar[str] = "fenced"
    reason: str


@dataclass(frozen=True, slots=True)
class Closed:
    """The last thing this journal is used for: the hardware was replaced or the gateway left its central."""

    kind: ClassVar[str] = "closed"
    size: int  # records before this one
    root: bytes  # their Merkle root
    reason: str
    operator: str


Payload: TypeAlias = (
    Genesis | Started | Stopped | CaKeyGenerated | CaRequested | CaActivated | PolicyApplied | TokenCreated | TokenRevoked
    | Intent | Issued | Void | Refused | Waiting | Decided | Revoked | Released | CrlPublished | OperatorAction
    | Joined | DesiredApplied | DesiredRefused | CommandDone | Pruned | FencedByCentral | Closed
    | LinePayload
)  # fmt: skip
PAYLOADS: dict[str, type[Payload]] = {cls.kind: cls for cls in typing.get_args(Payload)}


@dataclass(frozen=True, slots=True)
class Record:
    """A payload at its place in the journal. ``time`` is UTC milliseconds since the epoch."""

    seq: int
    time: int
    payload: Payload


def encode(record: Record) -> bytes:
    """The canonical bytes of a record. Raises TypeError or ValueError for a value that no record can hold."""
    payload = record.payload
    values, plan = _PLANS[payload.kind]
    parts = [
        text + write(value) for (text, required, write), value in zip(plan, values(record), strict=True) if value or required
    ]
    return ("{" + ",".join(parts) + "}").encode()


def decode(data: bytes) -> Record:
    """The record in ``data``. Raises IntegrityError unless ``data`` is exactly what :func:`encode` writes for it."""
    try:
        body = json.loads(data)
        kind = body.pop("kind")
        make: Callable[..., Payload] = PAYLOADS[kind]
        seq, time = body.pop("seq"), body.pop("time")
        readers = _READERS[kind]
        payload = make(**{name: readers[name](value) for name, value in body.items()})
        record = Record(seq, time, payload)
        canonical = encode(record)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"not a journal record: {error!r}") from error
    if canonical != data:
        raise IntegrityError("a journal record is not in its canonical spelling")
    return record


def leaf_hash(data: bytes) -> bytes:
    """The Merkle leaf of a record's bytes (RFC 6962 section 2.1)."""
    return hashlib.sha256(b"\x00" + data).digest()


_PLACE = frozenset(("seq", "time"))


def _plan(cls: type[Payload]) -> tuple[Callable[[Record], tuple[object, ...]], list[tuple[str, bool, Writer]]]:
    """How to write one class: what fetches its values, and for each (JSON key with colon, must be there, writer)."""
    hints = typing.get_type_hints(cls)
    plan = [(field.name, field.default is MISSING, FORMS[hints[field.name]][0]) for field in fields(cls)]
    plan += [("kind", True, write_text), ("seq", True, write_place), ("time", True, write_place)]
    plan.sort(key=lambda item: item[0])
    values = attrgetter(*(name if name in _PLACE else f"payload.{name}" for name, _, _ in plan))
    return values, [(f'"{name}":', required, write) for name, required, write in plan]


_PLANS = {kind: _plan(cls) for kind, cls in PAYLOADS.items()}
_READERS = {
    kind: {name: FORMS[hint][1] for name, hint in typing.get_type_hints(cls).items() if name != "kind"}
    for kind, cls in PAYLOADS.items()
}

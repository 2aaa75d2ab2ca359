"""The shape every protocol brings its request into, and the three things the authority can answer. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TypeAlias

from cryptography import x509

from gateway.errors import GatewayError
from gateway.pki.csr import CertificationRequest


class Lane(IntEnum):
    """Which bounded queue a request waits in; the line goes before renewals, renewals before the rest."""

    LINE = 1
    RENEWAL = 2
    BULK = 3


class Operation(Enum):
    ENROLL = "enroll"
    REENROLL = "reenroll"
    SERVER_KEYGEN = "server-keygen"  # the CSR carries the key the gateway generated; the device's own CSR gave the names


class RequesterKind(Enum):
    """How the requester proved who it is."""

    IDEVID = "idevid"  # TLS client certificate of a listed maker
    OWN = "own-certificate"  # TLS client certificate issued by this gateway
    STATION = "station"  # own certificate of a profile that may act as registration authority
    TOKEN = "token"  # noqa: S105 - one-time token over HTTP Basic
    ORDER = "order"  # a unit of the line under a signed work order
    OPERATOR = "operator"  # a person on the control socket
    GATEWAY = "gateway"  # the daemon itself: its TLS and responder certificates


@dataclass(frozen=True, slots=True)
class Holder:
    """What the requester's own TLS client certificate says of it; the TLS layer has proven that it holds the key."""

    subject_der: bytes
    names: frozenset[bytes]  # the DER GeneralNames of subjectAltName
    device_serial: str | None  # the subject's serialNumber attribute, when there is exactly one
    spki: bytes
    not_after_ms: int
    serial: int
    profile: str = ""  # by which this gateway issued it; empty for an IDevID
    #: Ours, but by its extKeyUsage none of a TLS client: good for nothing but to renew itself.
    renews_only: bool = False


@dataclass(frozen=True, slots=True)
class TokenGrant:
    """What a one-time token was made for. ``subject`` is empty for any, an RFC 4514 name, or a pattern for serialNumber.

    ``spent`` says that all its uses are taken: it is good for nothing any more but the answer to a retry.
    """

    token_id: str
    profile: str
    subject: str = ""
    spent: bool = False


@dataclass(frozen=True, slots=True)
class Requester:
    """An authenticated requester. ``identity`` is unique and stable, e.g. ``own:<serial hex>``, ``token:<id>``,
    ``idevid:<SHA-256 of the certificate>``; it is journalled, so it holds no secret."""

    kind: RequesterKind
    identity: str
    certificate: bytes | None = None  # DER of the TLS client certificate
    token_id: str | None = None
    holder: Holder | None = None  # for IDEVID, OWN, and STATION with a certificate
    token: TokenGrant | None = None  # for TOKEN, and STATION with a token
    #: Why its certificate, though genuine, entitles to nothing: revoked by its maker. In words for the requester.
    objection: str = ""


@dataclass(frozen=True, slots=True)
class EnrollmentRequest:
    csr: CertificationRequest
    profile: str
    requester: Requester
    operation: Operation
    protocol: str  # "est", "scep", ... for the journal and the logs
    lane: Lane = Lane.BULK
    #: Bytes of the protocol's own transaction id where one transaction may legitimately repeat identity, key and profile.
    transaction: bytes = b""
    #: The unit of the line that this is the certificate of: one unit has one certificate, whatever else a repetition asks for.
    unit: str = ""
    #: When the unit began (ms UTC), where that may be longer ago than the profile's retry window.
    since_ms: int = 0
    #: The request as it was signed, where its ChangeSubjectName (:mod:`gateway.pki.name_change`) put other names into ``csr``.
    renamed_from: CertificationRequest | None = None

    @property
    def csr_digest(self) -> bytes:
        """SHA-256 of the CSR as received, for the journal."""
        return hashlib.sha256(self.csr.der).digest()

    @property
    def idempotency_key(self) -> bytes:
        """32 bytes: equal for two requests exactly when they must be given one and the same certificate.

        That is: same identity, profile, key, names and transaction. A retry signs its CSR anew and may carry another
        challengePassword (RFC 7030 section 3.5 binds it to the connection), so the CSR's own bytes do not count.
        """
        if self.unit:
            return unit_key(self.unit)
        csr = self.csr
        digest = hashlib.sha256()
        for part in (
            self.requester.identity.encode(),
            self.profile.encode(),
            csr.spki,
            csr.subject_der,
            self.transaction,
            *map(_name_bytes, csr.san),
        ):
            digest.update(len(part).to_bytes(4, "big"))
            digest.update(part)
        return digest.digest()


def unit_key(unit: str) -> bytes:
    """The idempotency key of a unit of the line."""
    return hashlib.sha256(b"unit\0" + unit.encode()).digest()


def _name_bytes(name: x509.GeneralName) -> bytes:
    """Bytes that tell one alternative name from every other; also for names that no profile allows."""
    value = name.value
    if isinstance(name, x509.OtherName):
        text = f"{name.type_id.dotted_string}={name.value.hex()}"
    elif isinstance(value, x509.Name):
        text = value.public_bytes().hex()
    elif isinstance(value, x509.ObjectIdentifier):
        text = value.dotted_string
    else:
        text = str(value)
    return f"{type(name).__name__}:{text}".encode()


@dataclass(frozen=True, slots=True)
class Issued:
    certificate: bytes  # DER
    serial: int
    chain: tuple[bytes, ...]  # issuing CA first, root last where known
    seq: int  # sequence number of the ISSUED record
    repeated: bool = False  # the answer to a retry


@dataclass(frozen=True, slots=True)
class Pending:
    """A person must approve first. Ask again with the same key after ``retry_after`` seconds."""

    request_id: str
    retry_after: int


@dataclass(frozen=True, slots=True)
class Refused:
    """Policy or input says no: a RequestError, so asking again unchanged will not help; the endpoint puts ``error`` into its
    protocol's terms. What is *our* fault or state is never an outcome but raised as an Unavailable."""

    error: GatewayError


Outcome: TypeAlias = Issued | Pending | Refused

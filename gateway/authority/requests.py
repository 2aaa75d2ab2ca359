"""The shape every protocol brings its request into, and the three things the authority can answer. Pure."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TypeAlias

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
    TOKEN = "token"  # one-time token over HTTP Basic
    OPERATOR = "operator"  # a person on the control socket
    GATEWAY = "gateway"  # the daemon itself: its TLS and responder certificates


@dataclass(frozen=True, slots=True)
class Requester:
    """An authenticated requester. ``identity`` is unique and stable, e.g. ``own:<serial hex>``, ``token:<id>``,
    ``idevid:<SHA-256 of the certificate>``; it is journalled, so it holds no secret."""

    kind: RequesterKind
    identity: str
    certificate: bytes | None = None  # DER of the TLS client certificate
    token_id: str | None = None


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

    @property
    def idempotency_key(self) -> bytes:
        """32 bytes: equal for two requests exactly when they must be given one and the same certificate."""
        digest = hashlib.sha256()
        for part in (self.requester.identity.encode(), self.profile.encode(), self.csr.spki, self.transaction):
            digest.update(len(part).to_bytes(4, "big"))
            digest.update(part)
        return digest.digest()


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
    """Policy or input says no; the endpoint puts ``error`` into its protocol's terms."""

    error: GatewayError


Outcome: TypeAlias = Issued | Pending | Refused

"""OCSP requests and responses as bytes (RFC 6960, profile RFC 5019, nonce RFC 9654). Pure.

A response is deterministic from its arguments, so it can be signed ahead and compared. The CertID of a request is echoed
byte for byte: clients compare it that way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache

from gateway.errors import MalformedRequest, TooLarge
from gateway.pki import der
from gateway.pki.algorithms import SignatureAlgorithm
from gateway.pki.crl import Reason
from gateway.pki.extensions import extension
from gateway.pki.tbs import CaInfo, encode_serial
from gateway.pki.walk import content, elements

#: More certificates than this in one request are refused: each costs a status look-up.
MAX_CERT_IDS = 64
MAX_REQUEST_BYTES = 16_384
#: A serial number of ours has at most 20 octets; foreign ones are answered "unknown" up to this size.
MAX_SERIAL_BYTES = 64
#: RFC 9654 section 2.1: a nonce of any other length makes the request malformed.
NONCE_BYTES = range(1, 129)
_OID_NONCE = "1.3.6.1.5.5.7.48.1.2"
_NONCE = der.oid(_OID_NONCE)[2:]
_BASIC_RESPONSE = der.oid("1.3.6.1.5.5.7.48.1.1")


class ResponseStatus(Enum):
    """OCSPResponseStatus other than successful; the value is its number (RFC 6960 section 4.2.1)."""

    MALFORMED_REQUEST = 1
    INTERNAL_ERROR = 2
    TRY_LATER = 3
    SIG_REQUIRED = 5
    UNAUTHORIZED = 6


class CertState(Enum):
    GOOD = "good"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


_HASHES = {"1.3.14.3.2.26": "sha1", "2.16.840.1.101.3.4.2.1": "sha256", "2.16.840.1.101.3.4.2.2": "sha384"}
_HASHES["2.16.840.1.101.3.4.2.3"] = "sha512"
_HASH_NAMES = {der.oid(oid)[2:]: name for oid, name in _HASHES.items()}
#: AlgorithmIdentifiers as we write them: with NULL parameters, as all clients do (RFC 5754 accepts both).
_HASH_ALGORITHMS = {name: der.tlv(0x30, der.oid(oid), b"\x05\x00") for oid, name in _HASHES.items()}


@dataclass(frozen=True, slots=True)
class CertId:
    """Which certificate is asked for. ``hash_name`` is ``None`` for a hash we do not compute: no issuer matches."""

    encoded: bytes  # the CertID as received
    hash_name: str | None
    issuer_name_hash: bytes
    issuer_key_hash: bytes
    serial: int


@dataclass(frozen=True, slots=True)
class OcspRequest:
    cert_ids: tuple[CertId, ...]
    nonce: bytes | None


@dataclass(frozen=True, slots=True)
class SingleStatus:
    """The answer for one certificate. ``revoked_ms`` and ``reason`` count for REVOKED alone."""

    cert_id: CertId
    state: CertState
    this_update_ms: int
    next_update_ms: int | None = None
    revoked_ms: int = 0
    reason: Reason = Reason.UNSPECIFIED


def parse_request(data: bytes) -> OcspRequest:
    """Read an OCSPRequest in DER; a signature on it is not looked at, since everyone gets the same answer.

    Raises TooLarge, and MalformedRequest for everything that is answered with malformedRequest: bad DER, no or too many
    certificates, a nonce of a length RFC 9654 forbids, an unknown critical extension.
    """
    if len(data) > MAX_REQUEST_BYTES:
        raise TooLarge(f"an OCSP request has at most {MAX_REQUEST_BYTES} bytes")
    outer = _fields(data, *content(data, 0x30), required=(0x30,), allowed=(0x30, 0xA0))
    fields = _fields(data, *outer[0x30], required=(0x30,), allowed=(0xA0, 0xA1, 0x30, 0xA2))
    if 0xA0 in fields and data[slice(*fields[0xA0])] != b"\x02\x01\x00":
        raise MalformedRequest("only version 1 of OCSP is known")
    requests = elements(data, *fields[0x30])
    if not 0 < len(requests) <= MAX_CERT_IDS:
        raise MalformedRequest(f"an OCSP request asks for 1 to {MAX_CERT_IDS} certificates")
    cert_ids = []
    for tag, start, end in requests:
        if tag != 0x30:
            raise MalformedRequest("an OCSP Request is a SEQUENCE")
        parts = _fields(data, start, end, required=(0x30,), allowed=(0x30, 0xA0))
        cert_ids.append(_read_cert_id(data, start, *parts[0x30]))
        if 0xA0 in parts:
            _read_extensions(data, *parts[0xA0])
    nonce = _read_extensions(data, *fields[0xA2]) if 0xA2 in fields else None
    return OcspRequest(tuple(cert_ids), nonce)


def _fields(
    data: bytes, start: int, end: int, *, required: tuple[int, ...], allowed: tuple[int, ...]
) -> dict[int, tuple[int, int]]:
    """The elements of a SEQUENCE by tag, each at most once and in the order of ``allowed``."""
    found = elements(data, start, end)
    tags = [tag for tag, _, _ in found]
    if tags != [tag for tag in allowed if tag in tags] or not set(required) <= set(tags):
        raise MalformedRequest("this is not an OCSP request: a field is missing, unknown or out of order")
    return {tag: (field_start, field_end) for tag, field_start, field_end in found}


def _read_cert_id(data: bytes, first: int, start: int, end: int) -> CertId:
    """The CertID whose header begins at ``first`` and whose content is ``data[start:end]``."""
    fields = elements(data, start, end)
    if [tag for tag, _, _ in fields] != [0x30, 0x04, 0x04, 0x02]:
        raise MalformedRequest("this is not an OCSP CertID")
    (_, algorithm, algorithm_end), (_, name, name_end), (_, key, key_end), (_, serial, serial_end) = fields
    identifier = elements(data, algorithm, algorithm_end)
    if not identifier or identifier[0][0] != 0x06 or not 0 < serial_end - serial <= MAX_SERIAL_BYTES:
        raise MalformedRequest("this is not an OCSP CertID")
    return CertId(
        encoded=data[first:end],
        hash_name=_HASH_NAMES.get(data[identifier[0][1] : identifier[0][2]]),
        issuer_name_hash=data[name:name_end],
        issuer_key_hash=data[key:key_end],
        serial=int.from_bytes(data[serial:serial_end], "big", signed=True),
    )


def _read_extensions(data: bytes, start: int, end: int) -> bytes | None:
    """The nonce among the Extensions, if there is one."""
    nonce: bytes | None = None
    for tag, first, last in elements(data, *content(data, 0x30, start, end)):
        parts = elements(data, first, last)
        tags = [part for part, _, _ in parts]
        if tag != 0x30 or tags not in ([0x06, 0x04], [0x06, 0x01, 0x04]):
            raise MalformedRequest("this is not an Extension")
        value_start, value_end = parts[-1][1:]
        if data[parts[0][1] : parts[0][2]] == _NONCE:
            if nonce is not None:
                raise MalformedRequest("the nonce occurs twice")
            nonce = data[slice(*content(data, 0x04, value_start, value_end))]
            if len(nonce) not in NONCE_BYTES:
                raise MalformedRequest("a nonce has 1 to 128 octets (RFC 9654)")
        elif len(parts) == 3 and data[parts[1][1] : parts[1][2]] != b"\x00":
            raise MalformedRequest("the request has a critical extension that is not known here")
    return nonce


@lru_cache(maxsize=256)
def _issuer_hashes(ca: CaInfo, hash_name: str) -> tuple[bytes, bytes]:
    """Hashes of the issuer's DER name and of its key's bits (RFC 6960 section 4.1.1)."""
    return _digest(hash_name, ca.subject_der), _digest(hash_name, ca.key_bits)


def _digest(hash_name: str, message: bytes) -> bytes:
    return hashlib.new(hash_name, message, usedforsecurity=False).digest()  # SHA-1 here is a name, not a protection


def matches(ca: CaInfo, cert_id: CertId) -> bool:
    """Whether ``cert_id`` asks for a certificate issued by ``ca``."""
    name = cert_id.hash_name
    return name is not None and (cert_id.issuer_name_hash, cert_id.issuer_key_hash) == _issuer_hashes(ca, name)


def cert_id(ca: CaInfo, serial: int, hash_name: str = "sha1") -> CertId:
    """The CertID that clients send for a certificate of ``ca``, for responses signed ahead.

    ``hash_name`` is sha1 (RFC 5019 section 2.1.1 and nearly every client), sha256, sha384 or sha512.
    """
    name_hash, key_hash = _issuer_hashes(ca, hash_name)
    encoded = der.tlv(
        0x30, _HASH_ALGORITHMS[hash_name], der.tlv(0x04, name_hash), der.tlv(0x04, key_hash), encode_serial(serial)
    )
    return CertId(encoded, hash_name, name_hash, key_hash, serial)


def responder_key_hash(key_bits: bytes) -> bytes:
    """KeyHash of a ResponderID: SHA-1 of the responder's subjectPublicKey bits (RFC 6960 section 4.2.1)."""
    return _digest("sha1", key_bits)


def build_response_tbs(
    *, responder_key: bytes, singles: Iterable[SingleStatus], produced_ms: int, nonce: bytes | None = None
) -> bytes:
    """The ResponseData to sign.

    ``responder_key`` is :func:`responder_key_hash` of the delegated key, ``nonce`` the request's, to be echoed.
    """
    extensions = b""
    if nonce is not None:
        extensions = der.tlv(0xA1, der.tlv(0x30, extension(_OID_NONCE, der.tlv(0x04, nonce))))
    return der.tlv(
        0x30,
        der.tlv(0xA2, der.tlv(0x04, responder_key)),
        _generalized_time(produced_ms // 1000),
        der.tlv(0x30, *map(_single_response, singles)),
        extensions,
    )


def _single_response(single: SingleStatus) -> bytes:
    if single.state is CertState.GOOD:
        status = b"\x80\x00"
    elif single.state is CertState.UNKNOWN:
        status = b"\x82\x00"
    else:
        reason = b"" if single.reason is Reason.UNSPECIFIED else bytes((0xA0, 3, 0x0A, 1, single.reason.code))
        status = der.tlv(0xA1, _generalized_time(single.revoked_ms // 1000), reason)
    next_update = b""
    if single.next_update_ms is not None:
        next_update = der.tlv(0xA0, _generalized_time(single.next_update_ms // 1000))
    return der.tlv(0x30, single.cert_id.encoded, status, _generalized_time(single.this_update_ms // 1000), next_update)


@lru_cache(maxsize=4096)
def _generalized_time(seconds: int) -> bytes:
    return b"\x18\x0f" + datetime.fromtimestamp(seconds, UTC).strftime("%Y%m%d%H%M%SZ").encode("ascii")


def assemble_response(
    tbs: bytes, algorithm: SignatureAlgorithm, signature: bytes, responder_certificate: bytes | None
) -> bytes:
    """The successful OCSPResponse. Without ``responder_certificate`` the CA itself signed, and clients have its certificate."""
    certificates = b"" if responder_certificate is None else der.tlv(0xA0, der.tlv(0x30, responder_certificate))
    basic = der.tlv(0x30, tbs, algorithm.value, der.tlv(0x03, b"\x00", signature), certificates)
    response_bytes = der.tlv(0x30, _BASIC_RESPONSE, der.tlv(0x04, basic))
    return der.tlv(0x30, b"\x0a\x01\x00", der.tlv(0xA0, response_bytes))


def error_response(status: ResponseStatus) -> bytes:
    """An OCSPResponse that carries no status: these are never signed (RFC 6960 section 2.3)."""
    return bytes((0x30, 3, 0x0A, 1, status.value))

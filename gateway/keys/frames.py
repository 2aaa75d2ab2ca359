"""The language between the daemon and its key children: length, kind, payload. Pure.

A frame is a big-endian 32-bit payload length, one byte of kind, and the payload. A child answers every request with exactly
one OK or FAILED, in order, so no numbers are needed to pair them. Small structures are JSON; signing is binary. A PIN
that a person entered travels here once; one in a file is read by the child.
"""

from __future__ import annotations

import json
import struct
from dataclasses import asdict, dataclass
from enum import Enum, IntEnum

from gateway.pki.algorithms import SignatureAlgorithm

HEADER = struct.Struct(">IB")
MAX_PAYLOAD = 64 * 1024 * 1024  # an Ed25519 token signs whole messages, and the largest is a CRL
_SIGN = struct.Struct(">HB")
_SIGNED = struct.Struct(">d")
_FIND = struct.Struct(">h")


class Kind(IntEnum):
    OPEN = 1  # TokenQuery -> TokenInfo: load the module, find the token, open a session without login
    LOGIN = 2  # nothing -> nothing: one attempt with the PIN that PIN brought, which is forgotten then
    FIND = 3  # KeyQuery -> found_key
    SIGN = 4  # sign_request -> signed
    GENERATE = 5  # KeyQuery -> SubjectPublicKeyInfo
    PROBE = 6  # nothing -> TokenInfo of the token in use
    LOAD = 7  # label -> content of a data object, empty if there is none
    STORE = 8  # StoreQuery -> nothing
    MAKE = 10  # KeySpec value -> PKCS #8 of a new software key (pool)
    LOAD_CERTIFICATE = 12  # KeyQuery -> X.509 certificate in DER, empty if there is none or more than one
    STORE_CERTIFICATE = 13  # StoreQuery -> nothing; takes the place of any other with that label and id
    PIN = 11  # PinQuery -> pin_digest of the PIN that the child holds now, empty if there is none
    OK = 128
    FAILED = 129


class Code(Enum):
    """Why a request failed."""

    ABSENT = "absent"  # no token is plugged in
    OTHER_TOKEN = "other-token"  # noqa: S105 - a token is plugged in, but not the one named
    PIN_INCORRECT = "pin-incorrect"
    PIN_LOCKED = "pin-locked"
    NO_KEY = "no-key"
    EXISTS = "exists"
    UNSUPPORTED = "unsupported"  # the token does not know the key type or mechanism
    MODULE = "module"  # the PKCS #11 module cannot be loaded
    TOKEN = "token"  # noqa: S105 - anything else the token or module reports: it has to be opened anew


@dataclass(frozen=True, slots=True)
class TokenQuery:
    """Which token: the module's path and RFC 7512 path attributes; empty and ``None`` mean any."""

    module: str
    token: str = ""
    manufacturer: str = ""
    serial: str = ""
    model: str = ""
    slot_id: int | None = None


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """What a token says of itself before any login (PKCS #11 CK_TOKEN_INFO)."""

    serial: str
    label: str
    login_required: bool
    pin_count_low: bool = False  # at least one wrong PIN since the last right one
    pin_final_try: bool = False
    pin_locked: bool = False
    manufacturer: str = ""
    model: str = ""


@dataclass(frozen=True, slots=True)
class KeyQuery:
    """Which key: CKA_LABEL, and CKA_ID in hexadecimal; empty means any. ``spec`` only for GENERATE."""

    label: str
    id: str
    spec: str = ""


@dataclass(frozen=True, slots=True)
class PinQuery:
    """A PIN for the next login: from the file ``path``, or ``pin`` itself. ``salt`` in hexadecimal."""

    salt: str
    path: str = ""
    pin: str = ""

    def __repr__(self) -> str:
        return f"PinQuery(path={self.path!r})"


@dataclass(frozen=True, slots=True)
class StoreQuery:
    label: str
    content: str  # hexadecimal
    id: str = ""  # CKA_ID of a certificate, in hexadecimal


def frame(kind: Kind, payload: bytes = b"") -> bytes:
    return HEADER.pack(len(payload), kind) + payload


def to_json(query: TokenQuery | TokenInfo | KeyQuery | PinQuery | StoreQuery) -> bytes:
    return json.dumps(asdict(query)).encode()


def token_info(payload: bytes) -> TokenInfo:
    return TokenInfo(**json.loads(payload))


def failure(code: Code, text: str) -> bytes:
    return json.dumps({"code": code.value, "text": text}).encode()


def read_failure(payload: bytes) -> tuple[Code, str]:
    table = json.loads(payload)
    return Code(table["code"]), str(table["text"])


def found_key(index: int, public_key: bytes) -> bytes:
    """The key's number in this child, -1 before login when only its public half was seen, and its SubjectPublicKeyInfo.

    The latter is empty when the token keeps no public half.
    """
    return _FIND.pack(index) + public_key


def read_found_key(payload: bytes) -> tuple[int, bytes]:
    return _FIND.unpack_from(payload)[0], payload[_FIND.size :]


def sign_request(index: int, algorithm: SignatureAlgorithm, data: bytes) -> bytes:
    """``data`` is the digest for RSA and ECDSA, the whole message for Ed25519."""
    return _SIGN.pack(index, len(algorithm.value)) + algorithm.value + data


def read_sign_request(payload: bytes) -> tuple[int, SignatureAlgorithm, bytes]:
    index, length = _SIGN.unpack_from(payload)
    end = _SIGN.size + length
    return index, SignatureAlgorithm(payload[_SIGN.size : end]), payload[end:]


def signed(duration_ms: float, signature: bytes) -> bytes:
    """The signature as X.509 wants it, and how long the token took in milliseconds."""
    return _SIGNED.pack(duration_ms) + signature


def read_signed(payload: bytes) -> tuple[float, bytes]:
    return _SIGNED.unpack_from(payload)[0], payload[_SIGNED.size :]

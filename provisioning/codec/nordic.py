"""What Nordic's nRF91 modems and Zephyr's credential shell answer, and how an attestation is tied to a request. Pure.

An answer of ``AT%KEYGEN`` or ``AT%ATTESTTOKEN`` is two base64url texts with a dot between: a message, and a COSE_Sign1
(RFC 9052) over it. The COSE of a key generation carries a payload: message type, device UUID, security tag, SHA-256 of the
request, nonce. It is signed with the device's identity key, whose public half only Nordic's cloud knows: the gateway checks
what the payload says and hands the signature on as evidence (Nordic, *nRF91x1 AT Commands*, "Security").
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.errors import DeviceFault, DeviceRefused, WrongDevice
from provisioning.codec import cbor

_COSE_SIGN1 = 18  # RFC 9052 section 2
_SELF_DESCRIBED = 55799  # RFC 8949 section 3.4.6
_CSR_MESSAGE, _IDENTITY_MESSAGE = 9, 1
_ES256 = cbor.encode({1: -7})
#: Larger than any answer: a request is about 300 octets, a COSE_Sign1 about 150.
MAX_TOKEN = 8192

#: +CME ERROR codes of the commands used here.
_CME = {
    0: "its firmware does not know the command",
    50: "a wrong parameter",
    513: "there is no such credential",
    514: "it does not allow this",
    515: "its memory is full",
    518: "the modem is active; it must be off line",
    519: "there is already one",
    523: "it could not make a key",
    528: "its supply voltage is too low",
}
NOT_FOUND, NOT_ALLOWED, ALREADY_EXISTS = 513, 514, 519


class AtRefused(DeviceRefused):
    """``code`` of ``+CME ERROR``; -1 for a plain ERROR."""

    def __init__(self, code: int) -> None:
        known = "an error without a number" if code < 0 else f"error {code}"
        super().__init__(f"the modem refuses: {_CME.get(code, known)}")
        self.code = code


@dataclass(frozen=True, slots=True)
class Attestation:
    """The signed statement of a modem. ``digest`` is the SHA-256 of the request beside it; empty in an identity token."""

    device: str  # its UUID, as 8-4-4-4-12 hexadecimal digits
    security_tag: int | None
    digest: bytes
    cose: bytes


@dataclass(frozen=True, slots=True)
class Credential:
    """A line of ``AT%CMNG=1``. ``digest`` is the SHA-256 of the text as stored."""

    security_tag: int
    kind: int
    digest: bytes


def final_result(line: str) -> bool:
    """Whether an answer ends with this line. Raises AtRefused where it says that the command failed."""
    if line == "OK":
        return True
    if line == "ERROR":
        raise AtRefused(-1)
    if line.startswith(("+CME ERROR", "+CMS ERROR")):
        number = line.partition(":")[2].strip()
        raise AtRefused(int(number) if number.isdecimal() and len(number) < 10 else -1)
    return False


def split_keygen(answer: Sequence[str]) -> tuple[bytes, bytes]:
    """The request (DER) and the COSE_Sign1 in the answer of ``AT%KEYGEN``. Raises DeviceFault."""
    return _pair(_quoted(answer, "%KEYGEN"))


def split_token(answer: Sequence[str]) -> tuple[bytes, bytes]:
    """Message and COSE_Sign1 in the answer of ``AT%ATTESTTOKEN``. Raises DeviceFault."""
    return _pair(_quoted(answer, "%ATTESTTOKEN"))


def csr_attestation(cose: bytes) -> Attestation:
    """What the COSE_Sign1 beside a request says. Raises DeviceFault."""
    payload = _cose_payload(cose)
    if payload is None:
        raise DeviceFault("the modem's attestation says nothing about a request")
    device, rest = _message(payload, _CSR_MESSAGE, 5)
    tag, digest = rest[0], rest[1]
    if not isinstance(tag, bytes) or not isinstance(digest, bytes) or len(digest) != hashlib.sha256().digest_size:
        raise DeviceFault("the modem's attestation has fields of the wrong kind")
    number = cbor.decode(tag)
    if not isinstance(number, int) or isinstance(number, bool):
        raise DeviceFault("the modem's attestation has a security tag that is no number")
    return Attestation(device, number % (1 << 32), digest, cose)  # tags above 2^31 are coded as negative numbers


def identity_attestation(message: bytes, cose: bytes) -> Attestation:
    """What an identity token says; its COSE_Sign1 is over ``message``, detached. Raises DeviceFault."""
    if _cose_payload(cose) is not None:
        raise DeviceFault("the modem's identity token carries another message inside")
    device, _ = _message(message, _IDENTITY_MESSAGE, 5)
    return Attestation(device, None, b"", cose)


def check_attestation(attestation: Attestation, csr: bytes, security_tag: int, device: str) -> None:
    """The statement is about this request, this security tag, and this device (its UUID as text; empty: not known).

    Raises WrongDevice where it is about another device, DeviceFault for the rest.
    """
    if attestation.digest != hashlib.sha256(csr).digest():
        raise DeviceFault("the modem's attestation is about another request than the one it came with")
    if attestation.security_tag != security_tag:
        raise DeviceFault(f"the modem's attestation is about security tag {attestation.security_tag}, not {security_tag}")
    if device and attestation.device != device:
        raise WrongDevice(f"the attestation is of device {attestation.device}, the device said that it is {device}")


def list_of(answer: Sequence[str]) -> list[Credential]:
    """The lines of ``AT%CMNG=1``. Raises DeviceFault."""
    return [_credential(line) for line in answer if line.startswith("%CMNG:")]


def content_of(answer: Sequence[str]) -> str:
    """The text in the answer of ``AT%CMNG=2``, its lines joined by newlines. Raises DeviceFault."""
    text = "\n".join(answer)
    match = re.search(r'%CMNG: *\d+,\d+,"[0-9A-Fa-f]{64}","([^"]*)"', text)
    if match is None:
        raise DeviceFault("the modem's answer has no credential in it")
    return match[1]


def _credential(line: str) -> Credential:
    match = re.fullmatch(r'%CMNG: *(\d{1,10}),(\d{1,3}),"([0-9A-Fa-f]{64})"', line)
    if match is None:
        raise DeviceFault("the modem's list of credentials has a line that is none")
    return Credential(int(match[1]), int(match[2]), bytes.fromhex(match[3]))


def _quoted(answer: Sequence[str], name: str) -> str:
    for line in answer:
        match = re.fullmatch(rf'{name}: *"([A-Za-z0-9_.=-]*)"', line)
        if match is not None:
            return match[1]
    raise DeviceFault(f"the modem's answer has no {name}")


def _pair(token: str) -> tuple[bytes, bytes]:
    if len(token) > MAX_TOKEN:
        raise DeviceFault("the modem's answer is too long")
    parts = token.split(".")
    if len(parts) != 2 or not all(parts):
        raise DeviceFault("the modem's answer is not two parts with a dot between")
    return _base64url(parts[0]), _base64url(parts[1])


def _base64url(text: str) -> bytes:
    padded = text.rstrip("=")
    try:
        return base64.b64decode(padded + "=" * (-len(padded) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise DeviceFault("the modem's answer is no base64url") from error


def _cose_payload(cose: bytes) -> bytes | None:
    """The payload of a COSE_Sign1 with ECDSA and SHA-256; None where it is detached. The signature is not verified."""
    item = cbor.decode(cose)
    if not isinstance(item, cbor.Tagged) or item.tag != _COSE_SIGN1:
        raise DeviceFault("the modem's attestation is no COSE_Sign1")
    match item.value:
        case [bytes(protected), dict(), bytes() | None as payload, bytes(signature)]:
            if protected != _ES256 or len(signature) != 64:
                raise DeviceFault("the modem's attestation is not signed with ECDSA and SHA-256")
            return payload
    raise DeviceFault("the modem's attestation is no COSE_Sign1")


def _message(payload: bytes, kind: int, fields: int) -> tuple[str, Sequence[cbor.Value]]:
    """UUID and the fields behind it of a message of this type."""
    item = cbor.decode(payload)
    if isinstance(item, cbor.Tagged) and item.tag == _SELF_DESCRIBED:
        item = item.value
    if not isinstance(item, list) or len(item) != fields or item[0] != kind:
        raise DeviceFault("the modem's attestation is a message of another type")
    identifier = item[1]
    if not isinstance(identifier, bytes) or len(identifier) != 16:
        raise DeviceFault("the modem's attestation has no UUID of 16 octets")
    digits = identifier.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:])), item[2:]

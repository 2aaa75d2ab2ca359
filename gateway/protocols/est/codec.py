"""EST on the wire (RFC 7030, corrected by RFC 8951, clarified by RFC 9908): paths, bodies, credentials, answers. Pure.

What arrives is taken as devices send it: PEM armour, base64 in one line or wrapped, raw DER, with or without a
Content-Transfer-Encoding. What leaves is one-line base64, or wrapped for the clients that insist on it. Certification requests
themselves are read by :mod:`gateway.pki.csr`; nothing here knows a policy or a key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

from gateway.errors import MalformedRequest, NotFound, TooLarge, Unauthenticated, UnsupportedMediaType
from gateway.pki.walk import content, elements

PREFIX = "/.well-known/est"
#: An ML-DSA-87 request has 7.5 KB and an RSA-8192 one 2.2 KB; a thousand names in a SAN still fit.
MAX_BODY = 65_536
#: RFC 7617 sets none; a token has far less.
MAX_CREDENTIALS = 1_024

CERTS_ONLY = "application/pkcs7-mime; smime-type=certs-only"
CSR_ATTRIBUTES = "application/csrattrs"

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._~-]{0,63}")
_REQUEST_TYPES = frozenset({"application/pkcs10", "application/x-pkcs10"})
_TRANSFER_ENCODINGS = frozenset({"", "base64", "binary", "7bit", "8bit"})
_ARMOUR = re.compile(
    rb"-----BEGIN (CERTIFICATE REQUEST|NEW CERTIFICATE REQUEST)-----[ \t]*\r?\n(.*?)-----END \1-----[ \t\r\n]*", re.DOTALL
)
_WHITE = b" \t\r\n"
#: Line length of RFC 7468 section 2, which every base64 reader that wants lines accepts.
_LINE = 64


class EstOperation(Enum):
    """The last segment of the path (RFC 7030 section 3.2.2)."""

    CACERTS = "cacerts"
    CSRATTRS = "csrattrs"
    SIMPLEENROLL = "simpleenroll"
    SIMPLEREENROLL = "simplereenroll"
    SERVERKEYGEN = "serverkeygen"
    FULLCMC = "fullcmc"

    @property
    def methods(self) -> tuple[str, ...]:
        return ("GET", "HEAD") if self in (EstOperation.CACERTS, EstOperation.CSRATTRS) else ("POST",)


_OPERATIONS = {operation.value: operation for operation in EstOperation}


@dataclass(frozen=True, slots=True)
class EstPath:
    operation: EstOperation
    label: str = ""  # RFC 7030 section 3.2.2's additional path segment; empty for none


def parse_path(raw: str) -> EstPath:
    """Operation and label of a raw (still percent-encoded) request target, one trailing slash allowed.

    Raises NotFound. Nothing is decoded or collapsed: a label has unreserved characters only, so an encoded or doubled slash,
    a dot segment or a character beyond ASCII is simply another address.
    """
    return _place(raw.partition("?")[0])


@lru_cache(maxsize=64)  # what is not an address raises and is not kept, so no entry is long
def _place(path: str) -> EstPath:
    if not path.startswith(PREFIX + "/"):
        raise NotFound(f"EST is served below {PREFIX}/")
    segments = path[len(PREFIX) + 1 :].removesuffix("/").split("/")
    operation = _OPERATIONS.get(segments[-1])
    if operation is None:
        raise NotFound(f"the address does not end in an EST operation ({', '.join(_OPERATIONS)})")
    if len(segments) == 1:
        return EstPath(operation)
    label = segments[0]
    if len(segments) > 2 or not _LABEL.fullmatch(label) or label in _OPERATIONS:
        raise NotFound("the part of the address between est/ and the operation is not a label")
    return EstPath(operation, label)


def decode_request(body: bytes, content_type: str | None, transfer_encoding: str | None) -> bytes:
    """The DER of a certification request in a body of RFC 7030 section 4.2.1, however it is wrapped.

    Raises UnsupportedMediaType for another content type or transfer encoding, TooLarge, and MalformedRequest that says what is
    wrong with the wrapping. The result begins with a SEQUENCE; what is in it is checked by its reader.
    """
    media_type = (content_type or "").partition(";")[0].strip().lower()
    if media_type and media_type not in _REQUEST_TYPES:
        raise UnsupportedMediaType("send a certification request as Content-Type: application/pkcs10")
    encoding = (transfer_encoding or "").strip().lower()
    if encoding not in _TRANSFER_ENCODINGS:
        raise UnsupportedMediaType("Content-Transfer-Encoding must be base64 or left out")
    if len(body) > MAX_BODY:
        raise TooLarge(f"a certification request of more than {MAX_BODY} bytes is not read")
    if body[:1] == b"\x30":  # base64 of a SEQUENCE begins with M, never with 0
        return body
    if encoding == "binary":
        raise MalformedRequest("the body is declared binary but is not DER")
    text = body.strip(_WHITE)
    if not text:
        raise MalformedRequest("the body is empty; send a certification request (PKCS#10)")
    if text.startswith(b"-----"):
        match = _ARMOUR.fullmatch(text)
        if match is None:
            raise MalformedRequest("the PEM armour is not exactly one CERTIFICATE REQUEST block")
        text = match[2]
    der = _strict_base64(text)
    if der[:1] != b"\x30":
        raise MalformedRequest("the base64 text does not hold a DER SEQUENCE")
    return der


def _strict_base64(text: bytes) -> bytes:
    """RFC 4648 section 4 with white space between the characters and nothing else."""
    try:
        return binascii.a2b_base64(text.translate(None, _WHITE), strict_mode=True)
    except binascii.Error as error:
        raise MalformedRequest(f"the body is neither DER nor correct base64: {error}") from error


def wants_lines(body: bytes, user_agent: str | None) -> bool:
    """Whether the client reads wrapped base64 only: it wrapped its own body, or it is libest, which reads no long lines."""
    if user_agent and "libest" in user_agent.lower():
        return True
    return body[:1] != b"\x30" and b"\n" in body.strip(_WHITE)


def encode_body(der: bytes, *, lines: bool) -> bytes:
    """Base64 in one line without an end of line, or in lines of 64 characters each ended by a line feed."""
    text = binascii.b2a_base64(der, newline=False)
    if not lines:
        return text
    return b"".join(text[at : at + _LINE] + b"\n" for at in range(0, len(text), _LINE))


def decode_basic(header: str) -> tuple[str, str]:
    """User and password of an ``Authorization`` header (RFC 7617, UTF-8). Raises Unauthenticated for anything else."""
    scheme, _, value = header.partition(" ")
    if scheme.lower() != "basic" or len(value) > MAX_CREDENTIALS:
        raise Unauthenticated("only HTTP Basic credentials are understood")
    try:
        text = base64.b64decode(value.strip(" "), validate=True).decode("utf-8")
    except ValueError as error:  # binascii.Error, UnicodeDecodeError and text beyond ASCII
        raise Unauthenticated("the HTTP Basic credentials are malformed") from error
    user, colon, password = text.partition(":")
    if not colon or not text.isprintable():
        raise Unauthenticated("the HTTP Basic credentials are malformed")
    return user, password


# RFC 7030 section 4.4.1: how a serverkeygen request asks for its private key to be encrypted for more than the TLS channel.
_ID_SMIME_CAPABILITIES = bytes.fromhex("2a864886f70d01090f")  # RFC 8551 section 2.5.2
_ID_DECRYPT_KEY_ID = bytes.fromhex("2a864886f70d0109100225")  # RFC 4108 section 2.2.5
_ID_ASYMM_DECRYPT_KEY_ID = bytes.fromhex("2a864886f70d0109100236")  # RFC 7030 section 4.4.1.2
_CRI_ATTRIBUTES = 0xA0


@dataclass(frozen=True, slots=True)
class KeyDelivery:
    """The attributes of a serverkeygen request that say how to deliver the private key."""

    #: AsymmetricDecryptKeyIdentifier: names the certificate whose public key encrypts; ``None`` for not asked.
    asymmetric_key_id: bytes | None = None
    #: DecryptKeyIdentifier: names a symmetric key that client and server share.
    symmetric_key_id: bytes | None = None
    #: DER of the SMIMECapabilities value, empty for none.
    smime_capabilities: bytes = b""


def key_delivery(csr_der: bytes) -> KeyDelivery:
    """The delivery attributes of a certification request that was read successfully. Raises MalformedRequest."""
    values: dict[bytes, bytes] = {}
    start, end = content(csr_der, 0x30)
    fields = elements(csr_der, start, end)
    if not fields:
        raise MalformedRequest("the certification request is empty")
    for tag, at, stop in elements(csr_der, *fields[0][1:]):
        if tag != _CRI_ATTRIBUTES:
            continue
        for _, inside, after in elements(csr_der, at, stop):
            attribute = elements(csr_der, inside, after)
            if len(attribute) != 2:
                raise MalformedRequest("an attribute of the request is not a type with a set of values")
            (_, oid_at, oid_stop), (_, set_at, set_stop) = attribute
            values[csr_der[oid_at:oid_stop]] = csr_der[set_at:set_stop]
    return KeyDelivery(
        asymmetric_key_id=_octets(values.get(_ID_ASYMM_DECRYPT_KEY_ID)),
        symmetric_key_id=_octets(values.get(_ID_DECRYPT_KEY_ID)),
        smime_capabilities=values.get(_ID_SMIME_CAPABILITIES, b""),
    )


def _octets(value: bytes | None) -> bytes | None:
    if value is None:
        return None
    start, end = content(value, 0x04)
    return value[start:end]


def encode_key_and_certificate(private_key: bytes, certs_only: bytes, *, encrypted: bool, lines: bool) -> tuple[bytes, str]:
    """Body and Content-Type of a serverkeygen answer (RFC 7030 section 4.4.2): the private key, then the certificate.

    ``private_key`` is PKCS#8 DER, or when ``encrypted`` the CMS EnvelopedData that holds it. The boundary is made from the
    content, so an identical retry is answered byte by byte the same.
    """
    boundary = "part-" + hashlib.sha256(b"boundary" + private_key + certs_only).hexdigest()[:32]
    key_type = "application/pkcs7-mime; smime-type=server-generated-key" if encrypted else "application/pkcs8"
    parts = []
    for media_type, der in ((key_type, private_key), (CERTS_ONLY, certs_only)):
        head = f"--{boundary}\r\nContent-Type: {media_type}\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        parts.append(head.encode() + encode_body(der, lines=lines).rstrip(b"\n") + b"\r\n")
    return b"".join(parts) + f"--{boundary}--\r\n".encode(), f"multipart/mixed; boundary={boundary}"

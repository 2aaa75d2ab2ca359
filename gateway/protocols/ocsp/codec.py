"""OCSP over HTTP (RFC 6960 appendix A, RFC 5019): where in an HTTP request the OCSP request is. Pure.

Requests and answers themselves are read and made by :mod:`gateway.pki.ocsp`.
"""

from __future__ import annotations

import binascii
import re

from gateway.errors import MalformedRequest, TooLarge

PREFIX = "/ocsp"
REQUEST_TYPE = "application/ocsp-request"
RESPONSE_TYPE = "application/ocsp-response"
#: RFC 5019 wants GET up to 255 bytes; clients that ask for several certificates send more.
MAX_PATH = 8_192
MAX_BODY = 16_384

#: OCSPResponse with responseStatus malformedRequest and nothing else (RFC 6960 section 4.2.1).
MALFORMED = bytes.fromhex("30030a0101")

_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})")
_BASE64 = re.compile(rb"[A-Za-z0-9+/]+={0,2}")


def decode_get(raw: str) -> bytes:
    """The DER request in the raw target of a GET: base64 after ``/ocsp/``, percent-encoded or not.

    Raw ``/`` and ``+`` are part of the text, whatever the client thought of its path; missing padding is added. Raises
    MalformedRequest, TooLarge.
    """
    if len(raw) > MAX_PATH:
        raise TooLarge(f"an OCSP request in an address of more than {MAX_PATH} characters; use POST")
    try:
        text = raw[len(PREFIX) :].removeprefix("/").encode("ascii")
    except UnicodeEncodeError as error:
        raise MalformedRequest("the address has characters beyond ASCII") from error
    text = _PERCENT.sub(lambda match: bytes.fromhex(match[1].decode()), text)
    if not _BASE64.fullmatch(text):
        raise MalformedRequest("the address does not end in the base64 of an OCSP request")
    unpadded = text.rstrip(b"=")
    return _from_base64(unpadded + b"=" * (-len(unpadded) % 4))


def decode_post(body: bytes) -> bytes:
    """The DER request in the body of a POST. Raises MalformedRequest, TooLarge.

    The content type is not looked at: some clients send none or a wrong one, and the body says what it is.
    """
    if len(body) > MAX_BODY:
        raise TooLarge(f"an OCSP request of more than {MAX_BODY} bytes is not read")
    return _is_sequence(body)


def _from_base64(text: bytes) -> bytes:
    try:
        return _is_sequence(binascii.a2b_base64(text, strict_mode=True))
    except binascii.Error as error:
        raise MalformedRequest("the address does not end in the base64 of an OCSP request") from error


def _is_sequence(der: bytes) -> bytes:
    if der[:1] != b"\x30":
        raise MalformedRequest("an OCSP request is a DER SEQUENCE")
    return der

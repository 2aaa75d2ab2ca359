"""What no EST or OCSP server should fall for: one table for the codec tests and the tests over real connections."""

from __future__ import annotations

import base64

_OPERATION = "simpleenroll"
PREFIX = "/.well-known/est"

#: Paths below or beside EST that must not reach an operation.
PATHS = [
    "/",
    "/.well-known",
    "/.well-known/est",
    "/.well-known/est/",
    "/.well-known/est//",
    "/.well-known/est//simpleenroll",
    "//.well-known/est/simpleenroll",
    "/.well-known//est/simpleenroll",
    "/.well-known/est/simpleenroll//",
    "/.well-known/est/a//simpleenroll",
    "/.well-known/est/a/b/simpleenroll",
    "/.well-known/est/cacerts/simpleenroll",
    "/.well-known/est/simpleenroll/simpleenroll",
    "/.well-known/est/simpleenroll/a",
    "/.well-known/est/SimpleEnroll",
    "/.well-known/EST/simpleenroll",
    "/.well-known/est/simpleenroll%00",
    "/.well-known/est/simpleenroll%2f",
    "/.well-known/est%2fsimpleenroll",
    "/.well-known/est/%73impleenroll",
    "/.well-known/est/./simpleenroll",
    "/.well-known/est/../est/simpleenroll",
    "/.well-known/est/a/../simpleenroll",
    "/.well-known/est/%2e%2e/simpleenroll",
    "/.well-known/est/..%2f..%2fetc/simpleenroll",
    "/.well-known/est/%c0%af/simpleenroll",
    "/.well-known/est/%00/simpleenroll",
    "/.well-known/est/a%0d%0ab/simpleenroll",
    "/.well-known/est/%EF%BC%8F/simpleenroll",
    "/.well-known/est/\u00e9/simpleenroll",
    "/.well-known/est/a\u2215b/simpleenroll",
    "/.well-known/est/a;b=c/simpleenroll",
    "/.well-known/est/-a/simpleenroll",
    "/.well-known/est/a b/simpleenroll",
    "/.well-known/est/" + "a" * 65 + "/simpleenroll",
    "/.well-known/est/" + "a/" * 2000 + "simpleenroll",
    "/.well-known/est/simpleenroll;v=1",
    "/.well-known/est/simpleenrol",
    "/.well-known/est/simpleenrolll",
    "/.well-known/est/\\simpleenroll",
    "/.well-known/est?/simpleenroll",
]

_GOOD = base64.b64encode(b"\x30" + bytes(range(1, 80)))

#: Bodies that are no certification request, whatever the content type says.
BODIES: dict[str, bytes] = {
    "empty": b"",
    "white space": b" \r\n\t\n",
    "one character": b"M",
    "two characters": b"MI",
    "truncated base64": _GOOD[:-1],
    "truncated base64 by two": _GOOD[:-2],
    "padding missing": base64.b64encode(b"0" * 41).rstrip(b"="),
    "too much padding": _GOOD + b"====",
    "padding inside": _GOOD[:20] + b"==" + _GOOD[20:],
    "data behind the padding": base64.b64encode(b"0" * 41) + _GOOD,
    "url-safe alphabet": b"MI-_" + _GOOD,
    "a null byte": _GOOD[:10] + b"\0" + _GOOD[10:],
    "only null bytes": bytes(100),
    "a form feed": _GOOD[:10] + b"\f" + _GOOD[10:],
    "beyond ASCII": _GOOD[:10] + "ü".encode() + _GOOD[10:],
    "percent-encoded": _GOOD[:10] + b"%2B" + _GOOD[10:],
    "a form": b"csr=" + _GOOD,
    "json": b'{"csr": "' + _GOOD + b'"}',
    "xml": b"<csr>" + _GOOD + b"</csr>",
    "html": b"<!DOCTYPE html><html></html>",
    "a data url": b"data:application/pkcs10;base64," + _GOOD,
    "base64 of text": base64.b64encode(b"certificate request"),
    "base64 of base64": base64.b64encode(_GOOD),
    "base64 of a SET": base64.b64encode(b"\x31\x03\x02\x01\x01"),
    "base64 of PEM": base64.b64encode(b"-----BEGIN CERTIFICATE REQUEST-----\n"),
    "an OCTET STRING": b"\x04\x02ab",
    "a SET": b"\x31\x03\x02\x01\x01",
    "high bytes": b"\xff" * 300,
    "a byte order mark": b"\xef\xbb\xbf" + _GOOD,
    "utf-16": _GOOD.decode().encode("utf-16"),
    "gzip": b"\x1f\x8b\x08\x00" + _GOOD,
    "zip": b"PK\x03\x04" + _GOOD,
    "armour without an end": b"-----BEGIN CERTIFICATE REQUEST-----\n" + _GOOD + b"\n",
    "armour without text": b"-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n",
    "armour of another label": b"-----BEGIN CERTIFICATE-----\n" + _GOOD + b"\n-----END CERTIFICATE-----\n",
    "armour of a private key": b"-----BEGIN PRIVATE KEY-----\n" + _GOOD + b"\n-----END PRIVATE KEY-----\n",
    "armour with two labels": b"-----BEGIN CERTIFICATE REQUEST-----\n" + _GOOD + b"\n-----END NEW CERTIFICATE REQUEST-----\n",
    "armour twice": 2 * (b"-----BEGIN CERTIFICATE REQUEST-----\n" + _GOOD + b"\n-----END CERTIFICATE REQUEST-----\n"),
    "armour with headers": b"-----BEGIN CERTIFICATE REQUEST-----\nProc-Type: 4,ENCRYPTED\n\n"
    + _GOOD
    + b"\n-----END CERTIFICATE REQUEST-----\n",
    "armour and a tail": b"-----BEGIN CERTIFICATE REQUEST-----\n" + _GOOD + b"\n-----END CERTIFICATE REQUEST-----\nrm -rf /\n",
    "armour of five dashes only": b"-----",
    "dashes without end": b"-" * 60_000,
    "armour of many begins": b"-----BEGIN CERTIFICATE REQUEST-----\n" * 1500,
    "armour in one line": b"-----BEGIN CERTIFICATE REQUEST-----" + _GOOD + b"-----END CERTIFICATE REQUEST-----",
    "huge": b"M" * 65_537,
    "huge DER": b"\x30" * 65_537,
    "huge white space": b" " * 65_537,
}

#: Authorization headers that prove nothing.
CREDENTIALS = [
    "",
    "Basic",
    "Basic ",
    "Basic !!!!",
    "Basic ZGV2aWNl",  # no colon
    "Basic ZGV2aWNlOnNlY3JldA",  # padding missing
    "Basic " + base64.b64encode(b"a:b\x00c").decode(),
    "Basic " + base64.b64encode(b"a:b\r\nc").decode(),
    "Basic " + base64.b64encode(b"\xff\xfe:x").decode(),
    "Basic " + base64.b64encode(b"a:" + b"x" * 2000).decode(),
    "Basic \u00fc",
    "Bearer abc",
    "Digest username=x",
    "ZGV2aWNlOnNlY3JldA==",
    "BasicZGV2aWNlOnNlY3JldA==",
    "Basic=ZGV2aWNlOnNlY3JldA==",
]


def _nested(depth: int) -> bytes:
    inner = b""
    for _ in range(depth):
        length = len(inner)
        inner = b"\x30" + (bytes((length,)) if length < 128 else b"\x82" + length.to_bytes(2, "big")) + inner
    return inner


#: Requests that end before they are certification requests: DER that the reader behind the codec must refuse.
DER_BODIES: dict[str, bytes] = {
    "a bare SEQUENCE tag": b"\x30",
    "an empty SEQUENCE": b"\x30\x00",
    "a length beyond the end": b"\x30\x82\xff\xff\x00",
    "a length of five bytes": b"\x30\x85\x01\x00\x00\x00\x00",
    "a length of 127 bytes": b"\x30\xff" + bytes(127),
    "indefinite length": b"\x30\x80\x00\x00",
    "a length not in shortest form": b"\x30\x81\x03\x02\x01\x01",
    "nested 20,000 deep": b"\x30\x80" * 20_000,
    "nested properly 100 deep": _nested(100),
    "trailing bytes": b"\x30\x03\x02\x01\x00" + b"x" * 10,
    "an INTEGER of 60,000 bytes": b"\x30\x82\xea\x64\x02\x82\xea\x60" + b"\x01" * 60_000,
}

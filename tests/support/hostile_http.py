"""What no HTTP server should fall for: one table for the tests of the listener and for those against the whole gateway."""

from __future__ import annotations

import base64

EST = b"/.well-known/est"
AUTH = b"Authorization: Basic " + base64.b64encode(b"device:secret") + b"\r\n"
POST = b"POST " + EST + b"/simpleenroll HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/pkcs10\r\n" + AUTH

CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
FORM = POST.replace(b"application/pkcs10", b"application/x-www-form-urlencoded")

#: Name -> bytes that are not an acceptable HTTP request.
REQUESTS: dict[str, bytes] = {
    "not http": b"hello\r\n\r\n",
    "binary": bytes(range(128, 256)) + b"\r\n\r\n",
    "null bytes": bytes(64) + b"\r\n\r\n",
    "a tls hello on plain http": bytes.fromhex("160301002e0100002a0303") + bytes(40) + b"\r\n\r\n",
    "http 0.9": b"GET /\r\n\r\n",
    "http 2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http 3.7": b"GET / HTTP/3.7\r\nHost: a\r\n\r\n",
    "a method with a space": b"GE T / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a method of symbols": b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a null in the target": b"GET /ocsp\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a null in a header": b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
    "a bare carriage return": b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
    "a header without a colon": b"GET / HTTP/1.1\r\nHost\r\n\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\n: a\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
    "a header too long": b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 9_000 + b"\r\n\r\n",
    "too many headers": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X%d: 1\r\n" % n for n in range(200)) + b"\r\n",
    "a target too long": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "two lengths": POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n",
    "a length that is no number": POST + b"Content-Length: ten\r\n\r\n",
    "a length with a plus": POST + b"Content-Length: +3\r\n\r\nabc",
    "a length of 2**64": POST + b"Content-Length: 18446744073709551616\r\n\r\n",
    "a huge length": POST + b"Content-Length: 99999999999\r\n\r\n",
    "a length just too big": POST + b"Content-Length: 65537\r\n\r\n",
    "length and chunked": POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown transfer coding": POST + b"Transfer-Encoding: rot13\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "a chunk size of letters": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
    "a negative chunk size": POST + b"Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n",
    "a chunk size of 2**70": POST + b"Transfer-Encoding: chunked\r\n\r\n400000000000000000\r\nabc\r\n",
    "a chunk longer than said": POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n",
    "a chunk without an end of line": POST + b"Transfer-Encoding: chunked\r\n\r\n3abc0\r\n\r\n",
    "chunks of no content": POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "too many chunks": CHUNKED + (b"400\r\n" + b"M" * 1024 + b"\r\n") * 70 + b"0\r\n\r\n",
    "a compressed body": POST + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    "a doubly compressed body": POST + b"Content-Encoding: gzip, gzip\r\nContent-Length: 3\r\n\r\nabc",
    "a body of form data": FORM + b"Content-Length: 3\r\n\r\na=b",
    "an absolute target": b"GET http://other/.well-known/est/cacerts HTTP/1.1\r\nHost: other\r\n\r\n",
    "an asterisk": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "connect": b"CONNECT other:443 HTTP/1.1\r\nHost: other:443\r\n\r\n",
    "trace": b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a path outside": b"GET /../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
    "an encoded path outside": b"GET /ca/%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
    "utf-8 in the target": "GET /ca/ü.cer HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
    "a websocket": b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "the root": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
}  # fmt: skip

#: Those that leave the server waiting for more, so that only its deadline answers them.
UNFINISHED = frozenset({"a chunk without an end of line"})

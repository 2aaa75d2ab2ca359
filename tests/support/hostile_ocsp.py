"""What no OCSP responder should fall for."""

from __future__ import annotations

import base64

_GOOD = base64.b64encode(b"\x30" + bytes(range(1, 60))).decode()

GET_PATHS = [
    "/ocsp",
    "/ocsp/",
    "/ocsp//",
    "/ocsp/" + _GOOD[:-1] + "!",
    "/ocsp/" + _GOOD + "?x=1",
    "/ocsp/" + _GOOD + "#x",
    "/ocsp/" + _GOOD + "====",
    "/ocsp/" + _GOOD[:21],
    "/ocsp/" + _GOOD[:10] + "=" + _GOOD[10:],
    "/ocsp/" + _GOOD.replace("A", "-", 1),
    "/ocsp/" + _GOOD[:8] + " " + _GOOD[8:],
    "/ocsp/" + _GOOD[:8] + "%20" + _GOOD[8:],
    "/ocsp/" + _GOOD[:8] + "%00" + _GOOD[8:],
    "/ocsp/" + _GOOD[:8] + "%252F" + _GOOD[8:],
    "/ocsp/" + _GOOD[:8] + "%2" + _GOOD[9:],
    "/ocsp/%",
    "/ocsp/%zz",
    "/ocsp/\u00fc" + _GOOD,
    "/ocsp/" + base64.b64encode(b"\x31\x00").decode(),
    "/ocsp/" + base64.b64encode(b"text").decode(),
    "/ocsp/" + base64.b64encode(_GOOD.encode()).decode(),
    "/ocsp/../ca/issuing.cer",
    "/ocsp/" + "A" * 9_000,
    "/ocspx/" + _GOOD[1:],
]

POST_BODIES: dict[str, bytes] = {
    "empty": b"",
    "base64 instead of DER": _GOOD.encode(),
    "a null byte": b"\0",
    "a SET": b"\x31\x00",
    "text": b"is my certificate good?",
    "json": b"{}",
    "huge": b"\x30" * 16_385,
    "high bytes": b"\xff" * 100,
}

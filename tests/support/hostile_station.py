"""What a station's software may send by mistake or on purpose: each must be refused and change nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.support.hostile_requests import hostile_csrs

JSON = {"Content-Type": "application/json"}
PKCS10 = {"Content-Type": "application/pkcs10"}


@dataclass(frozen=True)
class Hostile:
    method: str
    path: str
    body: bytes | None = None
    head: dict[str, str] = field(default_factory=dict)


def hostile_requests(unit: str) -> dict[str, Hostile]:
    """Name -> request. ``unit`` is the address of a unit that is RESERVED, below the interface's prefix."""
    return {**_bodies(), **_addresses(unit), **_reports(unit), **_csrs(unit), **_headers(unit)}


def _bodies() -> dict[str, Hostile]:
    texts: dict[str, bytes] = {
        "no body": b"",
        "no JSON": b"order=O-1",
        "half of JSON": b'{"order": "O-1"',
        "an array": b'["O-1"]',
        "a text": b'"O-1"',
        "a number": b"7",
        "null": b"null",
        "deep brackets": b"[" * 20_000,
        "deep objects": b'{"order":' * 5_000,
        "not UTF-8": b'{"order": "\xff\xfe"}',
        "half of a surrogate pair": b'{"order": "\\ud800", "chip": "c"}',
        "a NUL": b'{"order": "O-1", "chip": "c\\u0000"}',
        "no order": b'{"chip": "c"}',
        "no device": b'{"order": "O-1"}',
        "an order that is a number": b'{"order": 1, "chip": "c"}',
        "an order that is an object": b'{"order": {}, "chip": "c"}',
        "an order that is not there": b'{"order": "O-404", "chip": "c"}',
        "an order that is a path": b'{"order": "../../etc/passwd", "chip": "c"}',
        "a chip that is a list": b'{"order": "O-1", "chip": ["c"]}',
        "a chip of 129 characters": b'{"order": "O-1", "chip": "%s"}' % (b"c" * 129),
        "a chip with a line end": b'{"order": "O-1", "chip": "c\\n"}',
        "a chip beyond ASCII": '{"order": "O-1", "chip": "ü"}'.encode(),
        "a serial number of another order": b'{"order": "O-1", "serial": "XX-1"}',
        "a serial number with a slash": b'{"order": "O-1", "serial": "SN-00001/1"}',
        "a serial number of 5000 characters": b'{"order": "O-1", "serial": "%s"}' % (b"9" * 5_000),
        "a serial number beyond the range": b'{"order": "O-1", "serial": "SN-99999"}',
        "a serial number in other digits": '{"order": "O-1", "serial": "SN-0000\u0661"}'.encode(),
        "a key that means nothing": b'{"order": "O-1", "chip": "c", "credit": 1000}',
        "a recipe that is no digest": b'{"order": "O-1", "chip": "c", "recipe": "yes"}',
        "a number of 5000 digits": b'{"order": %s, "chip": "c"}' % (b"9" * 5_000),
        "NaN": b'{"order": NaN, "chip": "c"}',
        "too long": b'{"order": "%s"}' % (b"x" * 70_000),
    }
    found = {f"open: {name}": Hostile("POST", "/units", body, JSON) for name, body in texts.items()}
    for name, body in {
        "empty": b"", "JSON": b"{}", "a heading only": b"edge-gateway/work-order/v1\norders.test\nAAAA\n\n",
        "another kind": b"edge-gateway/desired/v1\norders.test\nAAAA\n\n{}", "binary": bytes(range(256)),
        "too long": b"x" * (4 << 20) + b"x",
    }.items():  # fmt: skip
        found[f"order: {name}"] = Hostile("POST", "/orders", body)
    return found


def _addresses(unit: str) -> dict[str, Hostile]:
    return {
        f"address: {method} {path}": Hostile(method, path, b"" if method in ("POST", "PUT") else None)
        for method, path in (
            ("GET", "/nothing"), ("GET", "/units/"), ("GET", "/units//csr"), ("GET", "/units/O-1"), ("GET", "/units/%00"),
            ("GET", "/units/%ff"), ("GET", "/units/O-1%2FSN-00001"), ("GET", "/units/..%2F..%2Fetc%2Fpasswd"),
            ("GET", "/units/O-1/SN-00001/1"), ("DELETE", unit), ("PUT", unit), ("PATCH", f"{unit}/written"),
            ("GET", f"{unit}/written"), ("POST", f"{unit}/challenge"), ("POST", f"{unit}/reserved"),
            ("POST", "/units/x%2Fy%2F1/scrap"),
            ("GET", "/units?limit=0"), ("GET", "/units?limit=501"), ("GET", "/units?limit=-1"), ("GET", "/units?limit=%D9%A1"),
            ("GET", "/units?state=dancing"), ("GET", "/units?state=confirmed&cursor=x"), ("GET", "/units?order=O-404"),
            ("GET", "/units?sort=serial"), ("GET", f"{unit}?wait=soon"), ("GET", f"{unit}?after=1e9"), ("GET", "/orders/O-404"),
            ("GET", "/shift-report"), ("GET", "/shift-report?since=yesterday"), ("GET", "/shift-report?since=0&format=xml"),
        )
    }  # fmt: skip


def _reports(unit: str) -> dict[str, Hostile]:
    found = {}
    for name, path, body in (
        ("a digest that is none", "written", b'{"digest": "zz"}'),
        ("a digest in capitals", "written", b'{"digest": "%s"}' % (b"AB" * 32)),
        ("out of order", "written", b"{}"), ("no reason", "scrap", b"{}"), ("a blank reason", "rework", b'{"reason": "  "}'),
        ("a reason that is a number", "release", b'{"reason": 1}'), ("a chip that is true", "locked", b'{"chip": true}'),
        ("absent that is a text", "locked", b'{"absent": "true"}'), ("facts that are a list", "confirmed", b'{"facts": []}'),
        ("a key of another report", "locking", b'{"signature": "AAAA"}'),
        ("a signature without a challenge", "verified", b'{"signature": "AAAA"}'),
        ("a challenge that is no base64", "verified", b'{"challenge": "?", "signature": "AAAA"}'),
    ):  # fmt: skip
        found[f"report: {name}"] = Hostile("POST", f"{unit}/{path}", body, JSON)
    return found


def _csrs(unit: str) -> dict[str, Hostile]:
    address = f"{unit}/csr"
    found = {f"csr: {name}": Hostile("POST", address, body, PKCS10) for name, body in hostile_csrs().items()}
    for name, body in {
        "empty": b"",
        "text": b"please",
        "PEM of nothing": b"-----BEGIN CERTIFICATE REQUEST-----\n",
        "zeros": bytes(500),
    }.items():
        found[f"csr: {name}"] = Hostile("POST", address, body, PKCS10)
    found["csr: of another type"] = Hostile("POST", address, b"0\x00", {"Content-Type": "image/png"})
    found["csr: too long"] = Hostile("POST", address, b"0" * 70_000, PKCS10)
    found["csr: compressed"] = Hostile("POST", address, b"0\x00", PKCS10 | {"Content-Encoding": "gzip"})
    return found


def _headers(unit: str) -> dict[str, Hostile]:
    good = b'{"order": "O-1", "chip": "c"}'
    return {
        "key: none": Hostile("POST", "/units", good, {"Idempotency-Key": ""}),
        "key: too short": Hostile("POST", "/units", good, {"Idempotency-Key": "1234567"}),
        "key: too long": Hostile("POST", "/units", good, {"Idempotency-Key": "x" * 129}),
        "key: with a blank": Hostile("POST", "/units", good, {"Idempotency-Key": "one two three"}),
        "another site": Hostile("POST", "/units", good, {"Sec-Fetch-Site": "cross-site"}),
        "last event: a word": Hostile("GET", "/events", None, {"Last-Event-ID": "yesterday"}),
        "last event: negative": Hostile("GET", "/events", None, {"Last-Event-ID": "-1"}),
        "last event: huge": Hostile("GET", "/events", None, {"Last-Event-ID": "9" * 40}),
        "not acceptable": Hostile("GET", f"{unit}/chain", None, {"Accept": "image/png"}),
    }

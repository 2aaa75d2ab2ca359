"""Canonical bytes: one spelling for one record, and nothing but that spelling is read."""

from __future__ import annotations

import base64
import dataclasses
import json
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import IntegrityError
from gateway.journal.records import PAYLOADS, Issued, Payload, Record, Started, TokenRevoked, decode, encode, leaf_hash

_TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
_VALUES: dict[object, st.SearchStrategy[object]] = {
    str: _TEXT,
    int: st.integers(-(1 << 62), 1 << 62),
    bool: st.booleans(),
    bytes: st.binary(max_size=40),
    tuple[str, ...]: st.lists(_TEXT, max_size=3).map(tuple),
    tuple[bytes, ...]: st.lists(st.binary(max_size=9), max_size=3).map(tuple),
}


def _payload(kind: str) -> st.SearchStrategy[Payload]:
    cls = PAYLOADS[kind]
    hints = typing.get_type_hints(cls)
    return st.builds(cls, **{field.name: _VALUES[hints[field.name]] for field in dataclasses.fields(cls)})


_RECORDS = st.builds(
    Record, st.integers(0, 1 << 62), st.integers(0, 1 << 62), st.sampled_from(sorted(PAYLOADS)).flatmap(_payload)
)


@settings(max_examples=400)
@given(_RECORDS)
def test_a_record_comes_back_from_its_bytes_and_they_are_canonical_json(record: Record) -> None:
    data = encode(record)
    assert decode(data) == record
    body = json.loads(data)
    assert data == json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert body["kind"] == record.payload.kind
    assert (body["seq"], body["time"]) == (record.seq, record.time)


def test_the_bytes_of_one_record_never_change() -> None:
    record = Record(7, 1_763_700_000_000, Issued(6, "1a2b", b"\xfb\xff\x00", b"\x01" * 2, b""))
    assert encode(record) == (
        b'{"certificate_digest":"AQE","idempotency_key":"","intent":6,"kind":"issued","seq":7,"serial":"1a2b",'
        b'"signature":"-_8A","time":1763700000000}'
    )
    assert leaf_hash(b"").hex() == "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"


GOOD = json.loads(encode(Record(1, 2, Started("v", clean=True, time_certain=False))))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b"\xff",
        b"[" * 100_000,
        *(
            json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
            for body in (
                {**GOOD, "kind": "unknown"},
                {**GOOD, "kind": ["started"]},
                {**GOOD, "extra": 1},
                {**GOOD, "clean": 1},
                {**GOOD, "clean": None},
                {**GOOD, "version": 5},
                {**GOOD, "seq": -1},
                {**GOOD, "seq": 1.0},
                {**GOOD, "seq": True},
                {**GOOD, "seq": "1"},
                {**GOOD, "time": None},
                {key: value for key, value in GOOD.items() if key != "clean"},
            )
        ),
        json.dumps(GOOD, sort_keys=True).encode(),
        json.dumps(GOOD, separators=(",", ":")).encode()[::-1],
        json.dumps(GOOD, sort_keys=True, separators=(",", ":")).encode("utf-16"),
        json.dumps(GOOD, sort_keys=True, separators=(",", ":")).encode() + b"\n",
        json.dumps(GOOD, sort_keys=True, separators=(",", ":")).encode().replace(b'"v"', b'"\\u0076"'),
        json.dumps(GOOD, sort_keys=True, separators=(",", ":")).encode().replace(b'"seq"', b'"seq":1,"seq"'),
    ],
    ids=range(24),
)
def test_any_other_spelling_is_refused(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        decode(data)


@pytest.mark.parametrize("value", ["AQE=", "AQ+", "A", "AQF", "A Q", 5, None, ["AQE"]])
def test_bytes_have_one_spelling(value: object) -> None:
    body = json.loads(encode(Record(7, 8, Issued(6, "1a", b"\1", b"\2", b"\3"))))
    body["signature"] = value
    with pytest.raises(IntegrityError):
        decode(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())


@pytest.mark.parametrize("chain", ["AQE", [1], {"a": 1}, None])
def test_sequences_have_one_spelling(chain: object) -> None:
    body = {
        "certificate": base64.urlsafe_b64encode(b"abc").decode(), "chain": chain, "generation": 1, "kind": "ca-activated",
        "operator": "o", "seq": 1, "time": 1, "uri": "u",
    }  # fmt: skip
    with pytest.raises(IntegrityError):
        decode(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("token-revoked", {"token_id": b"x"}),
        ("token-revoked", {"token_id": "\ud800"}),
        ("issued", {"signature": "x"}),
        ("issued", {"intent": True}),
        ("issued", {"intent": 1.5}),
        ("started", {"clean": 1}),
        ("ca-activated", {"chain": [b"x"]}),
        ("ca-activated", {"chain": ("x",)}),
        ("intent", {"quota": ["x"]}),
        ("intent", {"quota": (b"x",)}),
    ],
)
def test_a_value_of_the_wrong_type_is_not_written(kind: str, changes: dict[str, object]) -> None:
    hints = typing.get_type_hints(PAYLOADS[kind])
    blank = {str: "x", int: 1, bool: True, bytes: b"x", tuple[str, ...]: ("x",), tuple[bytes, ...]: (b"x",)}
    make: typing.Callable[..., Payload] = PAYLOADS[kind]
    payload = make(**({name: blank[hint] for name, hint in hints.items() if name != "kind"} | changes))
    with pytest.raises((TypeError, ValueError)):
        encode(Record(1, 1, payload))


@pytest.mark.parametrize(("seq", "time"), [(-1, 0), (0, -1), (True, 0), (0, 1.5)])
def test_a_record_stands_at_a_place_and_time(seq: int, time: int) -> None:
    with pytest.raises(ValueError, match="integers from 0"):
        encode(Record(seq, time, TokenRevoked("t", "o")))

"""The messages as bytes: read back as they were written, and nothing else is read."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import IntegrityError, MalformedRequest
from gateway.journal.checkpoint import verifier_key
from gateway.journal.statements import open_statement, sign_statement, to_json
from sync import wire
from sync.wire import Accepted, Batch, Hello, Urgent, Welcome

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
VKEY = verifier_key("plant/1", KEY.public_key())
STATEMENT = sign_statement("hello", b"body\n\nwith an empty line", "plant/1", KEY)

HELLO = Hello("plant/1", "nonce", "ab12", "a note\n", 7, 1_700_000_000_000, "0.3 \u00e4")
WELCOME = Welcome("session", 5, bytes(range(32)), "a receipt\n", 3)
ACCEPTED = Accepted("a receipt\n", 3)
URGENT = Urgent("plant/1", (b'{"kind":"revoked"}', "\u00fc".encode()))
BATCH = Batch("plant/1", "session", 3, "a note\n", (b"a", b"", b"\xff\x00"), 7)


# Statements.


def test_a_statement_is_opened_by_the_key_that_signed_it() -> None:
    assert open_statement("hello", STATEMENT, VKEY) == b"body\n\nwith an empty line"
    assert STATEMENT.startswith(b"edge-gateway/hello/v1\nplant/1\n")


def test_the_signature_covers_heading_and_body_as_the_documentation_says() -> None:
    heading, _, body = STATEMENT.partition(b"\n\n")
    first, name, signature = heading.split(b"\n")
    KEY.public_key().verify(base64.b64decode(signature), first + b"\n" + name + b"\n" + body)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (b"", "not a signed statement"),
        (STATEMENT.replace(b"\n\n", b"\n"), "not a signed statement"),
        (STATEMENT.replace(b"/v1\n", b"/v2\n"), "not a signed statement of kind hello, version 1"),
        (STATEMENT.replace(b"hello", b"urgent"), "not a signed statement"),
        (STATEMENT.replace(b"plant/1\n", b"plant/1\nmore\n"), "not a signed statement"),
        (STATEMENT.replace(b"plant/1", b"plant/2"), "signed by another than plant/1"),
        (STATEMENT + b"x", "signature of plant/1 under this statement is wrong"),
        (sign_statement("hello", b"body", "plant/1", OTHER), "is wrong"),
        (b"edge-gateway/hello/v1\nplant/1\n*\n\nbody", "is wrong"),
        (b"edge-gateway/hello/v1\nplant/1\n\xff\n\nbody", "is wrong"),
    ],
)
def test_what_is_not_exactly_the_signed_statement_is_refused(statement: bytes, reason: str) -> None:
    with pytest.raises(IntegrityError, match=reason):
        open_statement("hello", statement, VKEY)


def test_a_statement_has_one_spelling() -> None:
    first, name, signature, rest = STATEMENT.split(b"\n", 3)
    last = signature[-3:-2]
    same_octets = signature[:-3] + bytes((last[0] + 1,)) + b"=="
    assert base64.b64decode(same_octets) == base64.b64decode(signature), "the spare bits of base64"
    with pytest.raises(IntegrityError):
        open_statement("hello", b"\n".join((first, name, same_octets, rest)), VKEY)


# JSON messages.


@pytest.mark.parametrize("message", [HELLO, WELCOME, ACCEPTED, URGENT, BATCH, replace(BATCH, session="", records=())])
def test_a_message_is_read_back_as_it_was_written(message: Hello | Welcome | Accepted | Urgent | Batch) -> None:
    assert type(message).from_bytes(message.to_bytes()) == message


@pytest.mark.parametrize("message", [HELLO, WELCOME, ACCEPTED])
def test_every_field_must_be_there_and_of_its_kind(message: Hello | Welcome | Accepted) -> None:
    body = json.loads(message.to_bytes())
    for key in body:
        for wrong in (None, [], {}, True, -1, 1 << 63, 1.5, "\ud800", "\u00e4" * (key == "root")):
            if isinstance(body[key], str) and wrong == "":
                continue
            with pytest.raises(MalformedRequest, match=f"{key} must be"):
                type(message).from_bytes(json.dumps({**body, key: wrong}).encode())
        with pytest.raises(MalformedRequest, match=f"{key} must be"):
            type(message).from_bytes(to_json({name: value for name, value in body.items() if name != key}))


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"[]", b"1", b"null", b"[" * 100_000, b'{"a":' * 100_000, b"9" * 5_000])
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    for reader in (Hello.from_bytes, Welcome.from_bytes, Accepted.from_bytes, Urgent.from_bytes):
        with pytest.raises(MalformedRequest):
            reader(data)


@pytest.mark.parametrize("records", [None, "text", [1], ["a", None], {"a": "b"}, ["\ud800"]])
def test_urgent_records_are_a_list_of_texts(records: object) -> None:
    with pytest.raises(MalformedRequest, match="list of texts"):
        Urgent.from_bytes(json.dumps({"origin": "plant/1", "records": records}).encode())


def test_json_is_canonical() -> None:
    assert to_json({"b": 1, "a": "\u00e4"}) == '{"a":"\u00e4","b":1}'.encode()


# Batches.


def test_a_batch_ends_where_its_records_end() -> None:
    assert BATCH.stop == 6


@given(st.lists(st.binary(max_size=40), max_size=20), st.integers(0, 1 << 40), st.text(max_size=20).filter(str.isprintable))
def test_every_batch_is_read_back(records: list[bytes], start: int, session: str) -> None:
    batch = Batch("plant/1", session, start, "note", tuple(records))
    assert Batch.from_bytes(batch.to_bytes()) == batch


def test_a_batch_cut_short_at_any_octet_is_refused() -> None:
    data = BATCH.to_bytes()
    for length in range(len(data)):
        with pytest.raises(MalformedRequest):
            Batch.from_bytes(data[:length])


def frame(*parts: bytes) -> bytes:
    return b"EGSYNC1\n" + b"".join(len(part).to_bytes(4, "big") + part for part in parts)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not a batch of version 1"),
        (BATCH.to_bytes().replace(b"EGSYNC1", b"EGSYNC2"), "not a batch of version 1"),
        (BATCH.to_bytes() + b"\x00", "in the middle"),
        (BATCH.to_bytes() + b"\x00\x00\x00\x01x", "another number of records"),
        (frame(), "has a header"),
        (frame(b"{}"), "origin must be"),
        (frame(b"no"), "not JSON"),
        (frame(b"{}", *[b""] * (wire.MOST_RECORDS + 1)), "at most 1000 records"),
        (b"EGSYNC1\n" + bytes(wire.MOST_OCTETS), "at most 8388608 octets"),
    ],
)
def test_a_batch_that_is_none_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedRequest, match=reason):
        Batch.from_bytes(data)


def test_a_batch_may_leave_out_the_version_in_force() -> None:
    header = {"checkpoint": "n", "count": 0, "origin": "o", "session": "", "start": 0}
    assert Batch.from_bytes(frame(to_json(header))).applied == 0  # type: ignore[arg-type]


def test_the_largest_batch_that_is_sent_is_accepted() -> None:
    records = (b"x" * (wire.BATCH_OCTETS // wire.BATCH_RECORDS),) * wire.BATCH_RECORDS
    assert len(Batch.from_bytes(Batch("o", "s", 0, "n", records).to_bytes()).records) == wire.BATCH_RECORDS

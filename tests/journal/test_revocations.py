"""The quick reader of revocations accepts nothing that the careful one would not read in the same way."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.journal.records import Record, Released, Revoked, decode, encode
from gateway.journal.revocations import read_revoked

REVOKED = Revoked("1a0c45", 1, "keyCompromise", 1_790_000_000_000, "operator:root")
BODY = encode(Record(7, 1_790_000_000_001, REVOKED))


def test_an_ordinary_revocation_is_read() -> None:
    assert read_revoked(BODY) == (1, "keyCompromise", 1_790_000_000_000, 0x1A0C45, 1_790_000_000_001)


def test_other_records_are_left_to_the_careful_reader() -> None:
    assert read_revoked(encode(Record(7, 1, Released("1a", 1, "x")))) is None
    assert read_revoked(encode(Record(7, 1, Revoked("1a", 1, "keyCompromise", 1, 'a "name"')))) is None


@given(st.text(), st.integers(), st.text(max_size=20), st.integers(), st.integers(0, 2**64), st.integers(1, 2**160))
def test_what_is_read_is_what_the_careful_reader_says(
    by: str, generation: int, reason: str, at: int, time: int, serial: int
) -> None:
    record = Record(3, time, Revoked(f"{serial:x}", generation, reason, at, by))
    try:
        body = encode(record)
    except ValueError:  # a lone surrogate has no bytes
        return
    assert read_revoked(body) in (None, (generation, reason, at, serial, time))


@given(st.integers(0, len(BODY) - 1), st.binary(max_size=3))
def test_bytes_that_are_not_canonical_are_not_read(place: int, inserted: bytes) -> None:
    body = BODY[:place] + inserted + BODY[place + 1 :]
    found = read_revoked(body)
    if found is not None:
        payload = decode(body).payload  # raises unless the bytes are canonical
        assert isinstance(payload, Revoked)
        assert found[:4] == (payload.generation, payload.reason, payload.revoked_at, int(payload.serial, 16))

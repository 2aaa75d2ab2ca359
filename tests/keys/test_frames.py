"""What one end writes the other reads; and no PIN shows where a query is printed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.keys.frames import (
    Code,
    Kind,
    TokenInfo,
    failure,
    found_key,
    frame,
    read_failure,
    read_found_key,
    read_sign_request,
    read_signed,
    sign_request,
    signed,
    to_json,
    token_info,
)
from gateway.pki.algorithms import SignatureAlgorithm


@given(st.integers(-1, 32_767), st.binary())
def test_a_found_key(index: int, public_key: bytes) -> None:
    assert read_found_key(found_key(index, public_key)) == (index, public_key)


@given(st.integers(0, 65_535), st.sampled_from(SignatureAlgorithm), st.binary())
def test_a_request_to_sign(index: int, algorithm: SignatureAlgorithm, data: bytes) -> None:
    assert read_sign_request(sign_request(index, algorithm, data)) == (index, algorithm, data)


@given(st.floats(0, 1e9), st.binary())
def test_a_signature_with_its_time(duration_ms: float, signature: bytes) -> None:
    assert read_signed(signed(duration_ms, signature)) == (duration_ms, signature)


@pytest.mark.parametrize("code", Code)
def test_a_failure(code: Code) -> None:
    assert read_failure(failure(code, "in wörds")) == (code, "in wörds")


@given(st.text(), st.text(), st.lists(st.booleans(), min_size=4, max_size=4))
def test_what_a_token_says_of_itself(serial: str, label: str, flags: list[bool]) -> None:
    info = TokenInfo(serial, label, *flags)
    assert token_info(to_json(info)) == info


def test_no_two_kinds_of_frames_are_one() -> None:
    assert list(Kind.__members__.values()) == list(Kind)


def test_a_frame_without_payload_has_none() -> None:
    assert frame(Kind.PROBE) == b"\x00\x00\x00\x00\x06"

"""OCSP in an HTTP request: GET paths as clients really write them, POST bodies, and everything else refused."""

from __future__ import annotations

import base64
import urllib.parse

import pytest

from gateway.errors import MalformedRequest, TooLarge
from gateway.protocols.ocsp.codec import MALFORMED, MAX_BODY, MAX_PATH, decode_get, decode_post
from tests.support.hostile_ocsp import GET_PATHS, POST_BODIES

#: Its base64 has raw slashes and plus signs and one padding character.
DER = b"\x30\x1b" + bytes.fromhex("fbefbefffffffbefbe3e3f") * 2 + b"12345"
TEXT = base64.b64encode(DER).decode()


def test_the_sample_holds_the_characters_that_matter() -> None:
    assert {"/", "+", "="} <= set(TEXT)


@pytest.mark.parametrize(
    "text",
    [
        TEXT,
        urllib.parse.quote(TEXT, safe=""),
        urllib.parse.quote(TEXT, safe="/"),
        urllib.parse.quote(TEXT, safe="+"),
        TEXT.rstrip("="),
        urllib.parse.quote(TEXT, safe="").replace("%2F", "%2f"),
    ],
)
def test_a_get_path_is_read_however_it_was_encoded(text: str) -> None:
    assert decode_get("/ocsp/" + text) == DER


@pytest.mark.parametrize("raw", GET_PATHS)
def test_any_other_get_path_is_malformed(raw: str) -> None:
    with pytest.raises((MalformedRequest, TooLarge)):
        decode_get(raw)


def test_a_path_has_a_limit() -> None:
    with pytest.raises(TooLarge):
        decode_get("/ocsp/" + "M" * MAX_PATH)


def test_a_post_body_is_the_request() -> None:
    assert decode_post(DER) == DER


@pytest.mark.parametrize("body", POST_BODIES.values(), ids=POST_BODIES.keys())
def test_any_other_post_body_is_malformed(body: bytes) -> None:
    with pytest.raises((MalformedRequest, TooLarge)):
        decode_post(body)


def test_a_body_has_a_limit() -> None:
    assert decode_post(b"\x30" * MAX_BODY)
    with pytest.raises(TooLarge):
        decode_post(b"\x30" * (MAX_BODY + 1))


def test_the_malformed_answer_is_an_ocsp_response() -> None:
    from cryptography.x509 import ocsp

    assert ocsp.load_der_ocsp_response(MALFORMED).response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST

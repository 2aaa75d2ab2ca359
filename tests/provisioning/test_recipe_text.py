"""What a recipe uploads and captures: the same octets on both sides, and nothing that could end a quoted text."""

from __future__ import annotations

import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import DeviceRefused
from provisioning.patterns import read_pattern
from provisioning.recipe_text import chunks, decoded, may_be_pem, printable, safe_text, taken
from tests.support.station_ca import StationCa


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=300), st.sampled_from(["base64", "hex"]), st.integers(8, 100))
def test_octets_go_and_come_back(octets: bytes, encoding: str, size: int) -> None:
    lines = chunks(octets, "ticket", encoding, size)
    assert all(len(line) <= size for line in lines)
    assert decoded("\n".join(lines), encoding) == octets


@settings(deadline=None)
@given(st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=90), st.integers(8, 40))
def test_a_text_goes_in_pieces(text: str, size: int) -> None:
    assert "".join(chunks(text, "serial", "text", size)) == text


def test_a_chain_goes_as_one_pem_after_the_other() -> None:
    first, second = (StationCa().root.public_bytes(Encoding.DER) for _ in range(2))
    lines = chunks(first + second, "chain", "pem", 64)
    read = x509.load_pem_x509_certificates("\n".join(lines).encode())
    assert [certificate.public_bytes(Encoding.DER) for certificate in read] == [first, second]
    assert decoded("noise\n" + "\n".join(lines), "pem") == first


def test_a_short_element_is_one_too() -> None:
    assert chunks(b"\x30\x01\x05", "private_key", "pem", 64)[1] == base64.b64encode(b"\x30\x01\x05").decode()


def test_what_has_a_pem_form() -> None:
    assert [name for name in ("certificate", "chain", "private_key", "challenge", "ticket") if may_be_pem(name)] == [
        "certificate",
        "chain",
        "private_key",
    ]


@pytest.mark.parametrize(
    ("text", "encoding"), [("zz", "hex"), ("123", "hex"), ("a", "base64"), ("ä", "base64"), ("no armour", "pem")]
)
def test_what_is_not_in_its_encoding_is_refused(text: str, encoding: str) -> None:
    with pytest.raises(ValueError):
        decoded(text, encoding)


@pytest.mark.parametrize("encoding", ["hex", "base64", "pem"])
def test_nothing_is_no_octets(encoding: str) -> None:
    assert decoded("", encoding) == b""


def test_the_first_line_that_matches_gives_its_value() -> None:
    pattern = read_pattern(r"^chip: (?P<value>\w+)$")
    assert taken(pattern, "chip\nchip: A1\nchip: B2", {}) == "A1"
    assert taken(pattern, "none", {}) == ""


@pytest.mark.parametrize("text", ["a'b", 'a"b', "a`b", "a$b", "a\nb", "ä", "\x00"])
def test_a_text_that_could_end_a_quoted_one_is_refused(text: str) -> None:
    with pytest.raises(DeviceRefused, match="serial has characters"):
        safe_text(text, "serial")
    assert safe_text("SN-1 /=+,.;()", "serial")


def test_what_is_shown_is_printable_and_without_secrets() -> None:
    assert printable("user\x07 swordfish\n  is wrong", ("swordfish",)) == "user? ... is wrong"
    assert printable("", ()) == "nothing"
    assert len(printable("x" * 1000, ())) == 200

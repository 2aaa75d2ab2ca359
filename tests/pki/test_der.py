"""The DER writer, the strict reader, the BER normaliser."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import MalformedRequest, TooLarge
from gateway.pki import der
from gateway.pki.der import Reader, ber_to_der


@given(st.integers(-(1 << 200), 1 << 200))
def test_integers_come_back(value: int) -> None:
    assert Reader(der.integer(value)).integer() == value


@given(st.integers(0, 2), st.integers(0, 39), st.lists(st.integers(0, (1 << 120) - 1), max_size=8))
def test_object_identifiers_come_back(first: int, second: int, rest: list[int]) -> None:
    dotted = ".".join(map(str, (first, second, *rest)))
    assert Reader(der.oid(dotted)).oid() == dotted


@pytest.mark.parametrize("text", ["", "1", "1.", "3.1", "1.40", "a.b", "1.-2", "1.2.x", "1..2", "1.²"])
def test_text_that_is_no_object_identifier_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        der.oid(text)


@given(st.integers(-2_208_988_800, 253_402_300_799))
def test_times_come_back_in_the_form_that_rfc_5280_wants(seconds: int) -> None:
    encoded = der.time(seconds * 1000) if seconds >= -631_152_000 else der.generalized_time(seconds * 1000)
    assert Reader(encoded).time() == seconds * 1000
    if seconds >= 2_524_608_000:
        assert encoded[0] == der.GENERALIZED_TIME


def test_the_year_2050_is_where_generalized_time_begins() -> None:
    assert der.time(2_524_607_999_999) == b"\x17\x0d491231235959Z"
    assert der.time(2_524_608_000_000) == b"\x18\x0f20500101000000Z"
    assert der.time(der.END_OF_TIME_MS) == b"\x18\x0f99991231235959Z"


@given(st.binary(max_size=70_000))
def test_any_content_comes_back_with_the_shortest_length(content: bytes) -> None:
    encoded = der.octet_string(content)
    assert Reader(encoded).octet_string() == content
    assert ber_to_der(encoded, max_size=80_000) == encoded


@given(st.lists(st.binary(max_size=5).map(der.octet_string), max_size=8))
def test_a_set_of_is_in_order_whatever_the_order_of_its_members(members: list[bytes]) -> None:
    assert der.set_of(members) == der.set_of(reversed(members))
    assert ber_to_der(der.tlv(0x31, *members)) == der.set_of(members)


def test_every_type_is_written_and_read() -> None:
    data = der.sequence(
        der.boolean(True), der.boolean(False), der.null(), der.utf8_string("ä"), der.bit_string(b"\xf0", unused=4),
        der.bit_string(b"ab"), der.context(0, der.null()), der.context(1, b"x", constructed=False),
    )  # fmt: skip
    outer = Reader(data)
    inner = outer.enter(der.SEQUENCE)
    assert outer.at_end()
    assert (inner.boolean(), inner.boolean()) == (True, False)
    inner.null()
    assert inner.utf8_string() == "ä"
    assert inner.bit_string() == (b"\xf0", 4)
    assert inner.signature() == b"ab"
    before = inner.position
    inner.enter(0xA0).null()
    assert inner.octets_since(before) == b"\xa0\x02\x05\x00"
    assert inner.next_tag() == 0x81
    assert inner.raw() == b"\x81\x01x"
    assert inner.next_tag() is None
    inner.finish()


REFUSED: dict[str, tuple[str, Callable[[Reader], object]]] = {
    "nothing": ("", Reader.integer),
    "one octet": ("02", Reader.integer),
    "other tag": ("0400", Reader.integer),
    "integer empty": ("0200", Reader.integer),
    "integer padded": ("02020001", Reader.integer),
    "integer padded negative": ("0202ff80", Reader.integer),
    "boolean 1": ("010101", Reader.boolean),
    "boolean empty": ("0100", Reader.boolean),
    "null with content": ("050100", Reader.null),
    "indefinite": ("3080", Reader.raw),
    "length in five octets": ("04850000000001", Reader.raw),
    "length octets missing": ("048201", Reader.raw),
    "long form for short": ("04817f" + "00" * 127, Reader.raw),
    "leading zero in length": ("0482008000", Reader.raw),
    "content missing": ("0402ff", Reader.raw),
    "high tag number": ("1f8101", Reader.raw),
    "end of contents": ("0000", Reader.raw),
    "oid empty": ("0600", Reader.oid),
    "oid truncated": ("060188", Reader.oid),
    "oid padded": ("06028001", Reader.oid),
    "oid padded later": ("06032a8001", Reader.oid),
    "oid arc of 140 bits": ("0615" + "2a" + "ff" * 19 + "7f", Reader.oid),
    "bit string empty": ("0300", Reader.bit_string),
    "bit string unused 8": ("03020800", Reader.bit_string),
    "bit string unused of nothing": ("030101", Reader.bit_string),
    "bit string unused set": ("03020101", Reader.bit_string),
    "signature with unused bits": ("03020100", Reader.signature),
    "utf8 bad": ("0c01ff", Reader.utf8_string),
    "time short": ("170b" + b"3001010000Z".hex(), Reader.time),
    "time with offset": ("1711" + b"300101000000+0100".hex(), Reader.time),
    "time without Z": ("170d" + b"3001010000000".hex(), Reader.time),
    "month 13": ("170d" + b"301301000000Z".hex(), Reader.time),
    "second 60": ("180f" + b"20300101000060Z".hex(), Reader.time),
    "year 0": ("180f" + b"00000101000000Z".hex(), Reader.time),
    "fraction": ("1811" + b"20300101000000.5Z".hex(), Reader.time),
    "time of another type": ("0c00", Reader.time),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_der_is_refused(name: str) -> None:
    text, read = REFUSED[name]
    with pytest.raises(MalformedRequest):
        read(Reader(bytes.fromhex(text)))


def test_trailing_bytes_size_and_depth_are_refused() -> None:
    reader = Reader(b"\x05\x00\x00")
    reader.null()
    with pytest.raises(MalformedRequest, match="extra"):
        reader.finish()
    with pytest.raises(TooLarge):
        Reader(bytes(11), max_size=10)
    with pytest.raises(MalformedRequest, match="deeply"):
        Reader(b"\x30\x00", max_depth=1).enter(0x30)


def test_two_digit_years_are_of_the_twentieth_century_from_50_on() -> None:
    assert Reader(b"\x17\x0d500101000000Z").time() == -631_152_000_000


BER = {
    "308005000000": "30020500",
    "3084000000020500": "30020500",
    "010101": "0101ff",
    "010100": "010100",
    "24800401610401620000": "04026162",
    "2380030200610302046000 00": "0303046160",
    "3106020102020101": "3106020101020102",
    "a0800201010000": "a003020101",
    "3000": "3000",
}


@pytest.mark.parametrize("text", BER)
def test_ber_becomes_der(text: str) -> None:
    assert ber_to_der(bytes.fromhex(text)).hex() == BER[text]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "30",
        "3080",
        "30800500",
        "0480",
        "04800000",
        "0500ff",
        "1f0100",
        "0000",
        "04890000000000000000" + "01",
        "0402ff",
        "22 03 020101",
        "2380 03020161 03020061 0000",
        "2380 0300 0000",
        "3003 0402ff",
        "a1" * 3,
    ],
)
def test_broken_ber_is_refused(text: str) -> None:
    with pytest.raises(MalformedRequest):
        ber_to_der(bytes.fromhex(text))


def test_ber_is_bounded_in_size_depth_and_number() -> None:
    with pytest.raises(TooLarge):
        ber_to_der(bytes(11), max_size=10)
    with pytest.raises(MalformedRequest, match="deeply"):
        ber_to_der(b"\x30\x80" * 30 + b"\x00\x00" * 30)
    with pytest.raises(MalformedRequest, match="many"):
        ber_to_der(der.sequence(*[der.null()] * 3000))


def test_sets_keep_their_order_when_asked() -> None:
    unordered = bytes.fromhex("3106020102020101")
    assert ber_to_der(unordered, sort_sets=False) == unordered


@given(st.binary(max_size=60))
def test_normalised_ber_is_a_fixed_point(data: bytes) -> None:
    try:
        once = ber_to_der(data)
    except MalformedRequest:
        return
    assert ber_to_der(once) == once

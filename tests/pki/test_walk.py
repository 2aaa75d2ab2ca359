"""The walker finds the same elements as the strict reader, and refuses frames that do not fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import MalformedRequest
from gateway.pki import der
from gateway.pki.walk import NameAttribute, content, element, elements, name_attributes

OIDS = st.sampled_from(["2.5.4.3", "2.5.4.10", "0.9.2342.19200300.100.1.25", "1.3.6.1.4.1.32473." + "9999." * 40 + "1"])
VALUES = st.binary(max_size=300)
ATTRIBUTES = st.tuples(OIDS, st.sampled_from([0x0C, 0x13, 0x16, 0x1E, 0x30]), VALUES)
NAMES = st.lists(st.lists(ATTRIBUTES, max_size=3), max_size=5)


def encoded(name: list[list[tuple[str, int, bytes]]]) -> bytes:
    """What the RDNs of a Name look like, members in the order given."""
    return b"".join(
        der.tlv(0x31, *(der.sequence(der.oid(oid), der.tlv(tag, value)) for oid, tag, value in rdn)) for rdn in name
    )


@given(NAMES, st.binary(max_size=4), st.binary(max_size=4))
def test_every_attribute_of_a_name_is_found(name: list[list[tuple[str, int, bytes]]], before: bytes, behind: bytes) -> None:
    data = before + encoded(name) + behind
    expected: list[list[NameAttribute]] = [[(der.oid(oid)[2:], tag, value) for oid, tag, value in rdn] for rdn in name]
    found = name_attributes(data, len(before), len(data) - len(behind))
    assert found == expected


@given(st.lists(st.tuples(st.sampled_from([0x02, 0x30, 0xA0]), st.binary(max_size=400)), max_size=6))
def test_elements_are_those_of_the_strict_reader(parts: list[tuple[int, bytes]]) -> None:
    data = b"".join(der.tlv(tag, value) for tag, value in parts)
    assert [(tag, data[start:end]) for tag, start, end in elements(data, 0, len(data))] == parts


@given(NAMES, st.data())
def test_a_damaged_name_is_read_within_its_bounds_or_refused(
    name: list[list[tuple[str, int, bytes]]], data: st.DataObject
) -> None:
    octets = bytearray(encoded(name) or b"\x31\x00")
    for _ in range(data.draw(st.integers(1, 3))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(octets)))
    try:
        rdns = name_attributes(bytes(octets), 0, end)
    except MalformedRequest:
        return
    assert sum(2 + len(oid) + 2 + len(value) for rdn in rdns for oid, _, value in rdn) <= end


@pytest.mark.parametrize(
    "data", ["30", "3001", "308001", "30810100", "3081", "30820001 00", "3085000000000100", "300204"], ids=lambda text: text
)
def test_frames_that_do_not_fit_are_refused(data: str) -> None:
    octets = bytes.fromhex(data)
    with pytest.raises(MalformedRequest):
        elements(octets, 0, len(octets))
    with pytest.raises(MalformedRequest):
        element(octets, 0, len(octets))


def test_an_element_ends_where_its_container_does() -> None:
    with pytest.raises(MalformedRequest, match="longer than what holds it"):
        elements(b"\x30\x02\x05\x00", 0, 3)
    with pytest.raises(MalformedRequest, match="0x30"):
        content(b"\x30\x00\x05\x00", 0x30)


@pytest.mark.parametrize(
    "name",
    [
        "300b300906035504030c0261 62",  # SEQUENCE where a SET belongs
        "310b310906035504030c026162",
        "3107300506035504 03",
        "310d300b06035504030c0261620500",
        "3109300702015504 0c026162",
        "310b300906035504030c036162",
        "310b300a06035504030c026162",
    ],
)
def test_names_of_another_shape_are_refused(name: str) -> None:
    data = bytes.fromhex(name)
    with pytest.raises(MalformedRequest):
        name_attributes(data, 0, len(data))

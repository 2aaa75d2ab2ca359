"""Where the elements of a DER structure lie, without copying them. Pure, and quick enough for the hot path.

:mod:`gateway.pki.der` is the strict reader for what strangers send; this one walks over bytes of our own making or bytes that
were strictly parsed before, and therefore checks the frame only: definite lengths in their shortest form that fit exactly.
"""

from __future__ import annotations

from typing import TypeAlias

from gateway.errors import MalformedRequest

#: An AttributeTypeAndValue of a Name: the content of its OID, then tag and content of its value.
NameAttribute: TypeAlias = tuple[bytes, int, bytes]


def elements(data: bytes, start: int, end: int) -> list[tuple[int, int, int]]:
    """``(tag, start, end)`` of the content of each element in ``data[start:end]``. Raises MalformedRequest."""
    found = []
    while start < end:
        inner = start + 2
        if inner <= end and data[start + 1] < 0x80:  # the usual case, without a call
            tag = data[start]
            start = inner + data[start + 1]
            if start > end:
                raise MalformedRequest("a DER element is longer than what holds it")
        else:
            tag, inner, start = element(data, start, end)
        found.append((tag, inner, start))
    return found


def content(data: bytes, tag: int, start: int = 0, end: int | None = None) -> tuple[int, int]:
    """Start and end of the content of the one element ``data[start:end]`` is. Raises MalformedRequest for anything else."""
    if end is None:
        end = len(data)
    found, inner, stop = element(data, start, end)
    if found != tag or stop != end:
        raise MalformedRequest(f"expected one DER element with tag 0x{tag:02x}")
    return inner, stop


def element(data: bytes, start: int, end: int) -> tuple[int, int, int]:
    """Tag, start and end of the content of the element at ``start``, which ends before ``end``. Raises MalformedRequest."""
    inner = start + 2
    if inner > end:
        raise MalformedRequest("truncated DER")
    length = data[start + 1]
    if length >= 0x80:
        size = length & 0x7F
        inner += size
        if not 1 <= size <= 4 or inner > end:
            raise MalformedRequest("a DER length is indefinite, too long or truncated")
        length = int.from_bytes(data[start + 2 : inner], "big")
        if length < 0x80 or length >> (8 * (size - 1)) == 0:
            raise MalformedRequest("a DER length is not in its shortest form")
    stop = inner + length
    if stop > end:
        raise MalformedRequest("a DER element is longer than what holds it")
    return data[start], inner, stop


def name_attributes(data: bytes, start: int, end: int) -> list[list[NameAttribute]]:
    """The attributes of each RDN (perhaps none) of the Name whose content is ``data[start:end]``. Raises MalformedRequest."""
    rdns: list[list[NameAttribute]] = []
    while start < end:
        # Nearly every RDN is one attribute of less than 128 octets: SET (SEQUENCE (OID, value)). When all four lengths fit into
        # each other, that is what it is, and four calls are saved; anything else is walked through below.
        value = start + 6 + data[start + 5] if start + 8 < end else end
        if value + 2 <= end:
            stop = start + 2 + data[start + 1]
            if (
                data[start] == 0x31
                and stop - start < 0x82
                and data[start + 2] == 0x30
                and data[start + 3] == stop - start - 4
                and data[start + 4] == 0x06
                and value + 2 + data[value + 1] == stop <= end
            ):
                rdns.append([(data[start + 6 : value], data[value], data[value + 2 : stop])])
                start = stop
                continue
        tag, inner, start = element(data, start, end)
        rdn = [_name_attribute(data, *place) for place in elements(data, inner, start)]
        if tag != 0x31:
            raise MalformedRequest("a relative distinguished name is not a SET of attributes")
        rdns.append(rdn)
    return rdns


def _name_attribute(data: bytes, tag: int, start: int, end: int) -> NameAttribute:
    parts = elements(data, start, end)
    if tag != 0x30 or len(parts) != 2 or parts[0][0] != 0x06:
        raise MalformedRequest("an attribute of a name is not a pair of type and value")
    (_, oid_start, oid_end), (value_tag, value_start, value_end) = parts
    return data[oid_start:oid_end], value_tag, data[value_start:value_end]

"""Where the elements of a DER structure lie, without copying them. Pure, and quick enough for the hot path.

:mod:`gateway.pki.der` is the strict reader for what strangers send; this one walks over bytes of our own making or bytes that
were strictly parsed before, and therefore checks the frame only: definite lengths in their shortest form that fit exactly.
"""

from __future__ import annotations

from gateway.errors import MalformedRequest


def elements(data: bytes, start: int, end: int) -> list[tuple[int, int, int]]:
    """``(tag, start, end)`` of the content of each element in ``data[start:end]``. Raises MalformedRequest."""
    found = []
    while start < end:
        if start + 2 > end:
            raise MalformedRequest("truncated DER")
        tag = data[start]
        length = data[start + 1]
        start += 2
        if length >= 0x80:
            size = length & 0x7F
            if not 1 <= size <= 4 or start + size > end:
                raise MalformedRequest("a DER length is indefinite, too long or truncated")
            length = int.from_bytes(data[start : start + size], "big")
            if length < 0x80 or length >> (8 * (size - 1)) == 0:
                raise MalformedRequest("a DER length is not in its shortest form")
            start += size
        stop = start + length
        if stop > end:
            raise MalformedRequest("a DER element is longer than what holds it")
        found.append((tag, start, stop))
        start = stop
    return found


def content(data: bytes, tag: int, start: int = 0, end: int | None = None) -> tuple[int, int]:
    """Start and end of the content of the one element ``data[start:end]`` is. Raises MalformedRequest for anything else."""
    found = elements(data, start, len(data) if end is None else end)
    if len(found) != 1 or found[0][0] != tag:
        raise MalformedRequest(f"expected one DER element with tag 0x{tag:02x}")
    return found[0][1], found[0][2]

"""Octets as U-Boot's console takes and shows them, and how they lie in a device's flash. Pure.

An area in flash begins with 12 octets: ``IDEV``, the content's length and its CRC-32 (IEEE 802.3, as U-Boot's ``crc32``), both
32 bits, little endian. So the device's firmware finds the length, and an area that was not written to its end is none.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

MAGIC: Final = b"IDEV"
HEADER: Final = 12
#: Octets that one memory write stores.
WIDTHS: Final = {"mw.q": 8, "mw.l": 4, "mw.b": 1}

_DUMP_LINE = re.compile(r"^[0-9a-f]{8,16}:((?: [0-9a-f]{2}){1,16})(?: .*)?$", re.MULTILINE)
_CRC = re.compile(r"==> ([0-9a-f]{8})\b")


@dataclass(frozen=True, slots=True)
class Header:
    length: int
    crc: int


def crc(data: bytes) -> int:
    return zlib.crc32(data)


def area(content: bytes) -> bytes:
    """``content`` as it lies in flash."""
    return MAGIC + len(content).to_bytes(4, "little") + zlib.crc32(content).to_bytes(4, "little") + content


def header(data: bytes) -> Header | None:
    """The header of an area; None where there is none, as in erased flash."""
    if len(data) < HEADER or not data.startswith(MAGIC):
        return None
    return Header(int.from_bytes(data[4:8], "little"), int.from_bytes(data[8:12], "little"))


def memory_writes(data: bytes, address: int, command: str, *, big_endian: bool, room: int) -> Iterator[str]:
    """Lines of U-Boot commands that store ``data`` at ``address``, each of at most ``room`` characters.

    The last one is filled up with zeros to the command's width.
    """
    width = WIDTHS[command]
    line = ""
    for offset in range(0, len(data), width):
        word = data[offset : offset + width].ljust(width, b"\0")
        value = int.from_bytes(word, "big" if big_endian else "little")
        step = f"{command} {address + offset:x} {value:x}"
        if line and len(line) + 1 + len(step) > room:
            yield line
            line = ""
        line += f";{step}" if line else step
    if line:
        yield line


def dumped(text: str) -> bytes:
    """The octets that ``md.b`` shows."""
    return b"".join(bytes.fromhex(match[1]) for match in _DUMP_LINE.finditer(text))


def crc_of(text: str) -> int | None:
    """The value that ``crc32`` shows; None where it shows none."""
    match = _CRC.search(text)
    return int(match[1], 16) if match else None

"""Octets as U-Boot takes and shows them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioning import uboot_codec as codec


def stored(lines: list[str], big_endian: bool) -> dict[int, int]:
    """What memory holds after these commands, as U-Boot would store them."""
    memory: dict[int, int] = {}
    for line in lines:
        for command, address, value in re.findall(r"(mw\.[bqlw]) ([0-9a-f]+) ([0-9a-f]+)", line):
            width = codec.WIDTHS[command]
            octets = int(value, 16).to_bytes(width, "big" if big_endian else "little")
            memory |= {int(address, 16) + offset: octet for offset, octet in enumerate(octets)}
    return memory


@given(st.binary(min_size=1, max_size=300), st.sampled_from(sorted(codec.WIDTHS)), st.booleans(), st.integers(48, 400))
def test_memory_writes_store_every_octet_in_lines_that_fit(data: bytes, command: str, big_endian: bool, room: int) -> None:
    lines = list(codec.memory_writes(data, 0x40200000, command, big_endian=big_endian, room=room))
    assert all(len(line) <= room for line in lines)
    memory = stored(lines, big_endian)
    assert bytes(memory[0x40200000 + offset] for offset in range(len(data))) == data


def test_a_dump_is_read_and_what_stands_around_it_is_not() -> None:
    text = (
        '04220000: 49 44 45 56 0a 00 00 00 11 22 33 44 41 42 43 44  IDEV....."3DABCD\n'
        "[noise] 00: zz\n"
        "04220010: 45 46                                            EF 00 11\n"
    )
    assert codec.dumped(text) == bytes.fromhex("494445560a0000001122334441424344") + b"EF"


def test_a_checksum_is_read() -> None:
    assert codec.crc_of("crc32 for 40200000 ... 40200007 ==> 1d34f12e") == 0x1D34F12E
    assert codec.crc_of("") is None


@pytest.mark.parametrize("data", [b"", b"IDEV", b"\xff" * 12, b"\0" * 12], ids=["nothing", "short", "erased", "zeros"])
def test_flash_without_an_area_has_no_header(data: bytes) -> None:
    assert codec.header(data) is None


def test_an_area_says_its_length_and_checksum() -> None:
    area = codec.area(b"12345678")
    assert codec.header(area) == codec.Header(8, 0x9AE0DAAF)  # CRC-32 of that text by busybox's and zlib's crc32
    assert area[codec.HEADER :] == b"12345678"

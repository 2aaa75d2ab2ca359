"""MCUmgr's Simple Management Protocol (SMP): its messages, and how a serial line carries them. Pure.

A message is eight octets of header and a CBOR map (Zephyr: *SMP Protocol Specification*). UDP carries one message a datagram.
On a serial line (*SMP transport specification*, console) a message is a packet: length, message, CRC-16; the packet goes
base64-coded in lines of at most 127 octets, the first marked 06 09, those after it 04 14. Between such lines a console may say
whatever it likes.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Self

from gateway.errors import DeviceFault, DeviceRefused
from provisioning.codec import cbor

_HEADER = 8
#: Bits 3 and 4 of the first octet: the version of the protocol; 1 is "SMP version 2", whose errors name their group.
_VERSION_2 = 1 << 3
_FIRST, _NEXT = b"\x06\x09", b"\x04\x14"
#: Octets of the packet in one line: 127 less two for the marker and one for the newline, in whole groups of four.
_PER_LINE = 124 // 4 * 3
#: A line that is longer belongs to no SMP server (CONFIG_UART_MCUMGR_RX_BUF_SIZE and the like are a few hundred octets).
MAX_LINE = 4096


class Op(IntEnum):
    READ, READ_ANSWER, WRITE, WRITE_ANSWER = range(4)


class Group(IntEnum):
    OS = 0
    FS = 8
    SHELL = 9


#: MGMT_ERR_* that a server of either version answers with (zephyr/mgmt/mcumgr/mgmt/mgmt_defines.h).
_COMMON_ERRORS = {
    1: "unknown error",
    2: "out of memory",
    3: "a wrong argument",
    4: "time out",
    5: "no such thing",
    6: "wrong state for it",
    7: "the answer would be too large",
    8: "its firmware has no such command",
    9: "the message is corrupt",
    10: "busy, try again",
    11: "access denied",
}
#: fs_mgmt_err_code_t (zephyr/mgmt/mcumgr/grp/fs_mgmt/fs_mgmt.h).
_FS_ERRORS = {
    1: "unknown error",
    2: "a bad file name",
    3: "no such file",
    4: "it is a directory",
    5: "the file could not be opened",
    6: "the file could not be sought in",
    7: "the file could not be read",
    8: "the file could not be cut",
    9: "the file could not be deleted",
    10: "the file could not be written",
    11: "the wrong place in the file",
    12: "the file is larger than expected",
    13: "no such kind of check sum",
    14: "the file system is not mounted",
    15: "read-only file system",
    16: "the file is empty",
}
_NO_SUCH_FILE = {3, 5, 16}  # an empty file has no content either
NOT_SUPPORTED = 8


class SmpRefused(DeviceRefused):
    """The server answered with an error: ``code`` of ``group``, or a common one where ``group`` is None."""

    def __init__(self, group: int | None, code: int) -> None:
        table = _FS_ERRORS if group == Group.FS else _COMMON_ERRORS if group is None else {}
        super().__init__(f"the device refuses: {table.get(code, f'error {code} of group {group}')}")
        self.group, self.code = group, code

    @property
    def no_such_file(self) -> bool:
        return (self.group is None and self.code == 5) or (self.group == Group.FS and self.code in _NO_SUCH_FILE)

    @property
    def not_supported(self) -> bool:
        return self.group is None and self.code == NOT_SUPPORTED


@dataclass(frozen=True, slots=True)
class Message:
    op: Op
    group: int
    command: int
    sequence: int  # 0 to 255; an answer has that of its request
    body: Mapping[int | str, cbor.Value]

    def encode(self) -> bytes:
        body = cbor.encode(self.body)
        head = bytes((_VERSION_2 | self.op, 0)) + len(body).to_bytes(2, "big") + self.group.to_bytes(2, "big")
        return head + bytes((self.sequence, self.command)) + body

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises DeviceFault."""
        if len(data) < _HEADER:
            raise DeviceFault("the device's answer is shorter than an SMP header")
        length = int.from_bytes(data[2:4], "big")
        if length != len(data) - _HEADER:
            raise DeviceFault(f"the device's answer says it has {length} octets and has {len(data) - _HEADER}")
        op = data[0] & 7
        if op > Op.WRITE_ANSWER:
            raise DeviceFault(f"the device's answer has an operation {op}, which SMP does not know")
        body = cbor.decode_map(data[_HEADER:])
        return cls(Op(op), int.from_bytes(data[4:6], "big"), data[7], data[6], body)

    def answers(self, request: Message) -> bool:
        return (self.op, self.group, self.command, self.sequence) == (
            request.op + 1,
            request.group,
            request.command,
            request.sequence,
        )

    def check(self) -> None:
        """Raises SmpRefused where the answer is an error: ``rc`` of version 1, ``err`` of version 2."""
        code, error = self.body.get("rc"), self.body.get("err")
        if isinstance(error, Mapping):
            group, code = error.get("group"), error.get("rc")
            if isinstance(group, int) and isinstance(code, int):
                raise SmpRefused(group, code)
            raise DeviceFault("the device's answer is an error without a number")
        if isinstance(code, int) and code != 0:
            raise SmpRefused(None, code)


def to_lines(message: bytes) -> bytes:
    """The octets that carry ``message`` over a serial line. Raises ValueError where its length does not fit."""
    packet = (len(message) + 2).to_bytes(2, "big") + message + binascii.crc_hqx(message, 0).to_bytes(2, "big")
    lines = []
    for start in range(0, len(packet), _PER_LINE):
        marker = _NEXT if start else _FIRST
        lines.append(marker + base64.b64encode(packet[start : start + _PER_LINE]) + b"\n")
    return b"".join(lines)


def lines_for(size: int) -> int:
    """How many lines a message of ``size`` octets takes."""
    return -(-(size + 4) // _PER_LINE)


def size_in_lines(lines: int) -> int:
    """The largest message that fits into so many lines, in octets."""
    return lines * _PER_LINE - 4


class LineReader:
    """Puts messages together again from the octets of a serial line. Keeps at most one line and one packet.

    What is not SMP (logs, a prompt, garbage) is passed over. ``damaged`` counts packets that began and came to nothing: a line
    that is no base64, a wrong length or check sum; what to do about them is for the caller to say, who knows what it asked.
    """

    def __init__(self) -> None:
        self._line = bytearray()
        self._packet: bytearray | None = None
        self._overlong = False
        self.damaged = 0

    def feed(self, octets: bytes) -> list[bytes]:
        """Every message that is complete with ``octets``."""
        messages = []
        *ended, rest = octets.split(b"\n")
        for piece in ended:
            self._append(piece)
            line, overlong = bytes(self._line), self._overlong
            self._line.clear()
            self._overlong = False
            if not overlong and (message := self._take(line)) is not None:
                messages.append(message)
        self._append(rest)
        return messages

    def _append(self, piece: bytes) -> None:
        if len(self._line) + len(piece) > MAX_LINE:
            self._line.clear()
            self._overlong = True
        elif not self._overlong:
            self._line += piece

    def _take(self, line: bytes) -> bytes | None:
        first, following = line.rfind(_FIRST), line.rfind(_NEXT)
        if max(first, following) < 0:
            return None
        if first > following:
            if self._packet is not None:
                self.damaged += 1
            self._packet = bytearray()
        if self._packet is None:
            return None  # the rest of a packet whose beginning nobody saw
        try:
            self._packet += base64.b64decode(line[max(first, following) + 2 :].rstrip(b"\r"), validate=True)
        except binascii.Error:
            self._drop()
            return None
        if len(self._packet) < 2:
            self._drop()
            return None
        length = int.from_bytes(self._packet[:2], "big")
        if len(self._packet) - 2 < length:
            return None
        message, crc = bytes(self._packet[2:-2]), bytes(self._packet[-2:])
        if length != len(message) + 2 or crc != binascii.crc_hqx(message, 0).to_bytes(2, "big"):
            self._drop()
            return None
        self._packet = None
        return message

    def _drop(self) -> None:
        self._packet = None
        self.damaged += 1

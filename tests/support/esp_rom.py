"""An ESP32-C3 in its download mode on a TCP port, as far as esptool speaks with one: ROM loader and, once uploaded, the stub.

It counts as a device because the maker's unmodified esptool connects to it, reads its MAC, writes, verifies and reads its flash
(Espressif, *Serial Protocol*). Every connection finds it freshly reset, as RTS and DTR would do on a real port.
"""

from __future__ import annotations

import asyncio
import hashlib
import struct
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

FLASH_SIZE = 0x400000
_MAC_REGISTER = 0x60008844
_SPI_W0, _FLASH_ID = 0x60002058, 0x1640EF  # what RDID leaves there: 4 MB
_CRYPT_COUNT_REGISTER, _CRYPT_COUNT_SHIFT = 0x60008834, 18
_CHIP_ID = 5
_END, _ESCAPE = b"\xc0", b"\xdb"
_WORDS = struct.Struct("<IIII")


class PowerCut(Exception):
    """Raised by :attr:`Chip.before_block` to switch the chip off: it answers nobody until ``powered`` is set again."""


@dataclass(slots=True)
class Chip:
    """What stays over a reset. ``before_block`` sees how many blocks of flash were written; it may raise PowerCut."""

    mac: bytes
    flash: bytearray = field(default_factory=lambda: bytearray(b"\xff" * FLASH_SIZE))
    crypt_count: int = 0  # flash encryption is on when an odd number of its bits is burned
    blocks: int = 0
    connections: int = 0
    before_block: Callable[[int], None] = lambda written: None
    powered: bool = True
    self_healing: bool = False  # switched on again for the third connection after a cut: esptool itself tries a second one
    dark: int = 0
    #: Octets said instead of answers, for a device that is broken.
    babble: bytes = b""


class _Session:
    """One power-on of a chip: answers commands until the connection ends."""

    def __init__(self, chip: Chip, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.chip, self.reader, self.writer = chip, reader, writer
        self.stub = False
        self.offset = self.end = 0
        self.inflate = zlib.decompressobj()

    async def run(self) -> None:
        while True:
            frame = (await self.reader.readuntil(_END))[:-1]
            packet = frame.replace(b"\xdb\xdc", _END).replace(b"\xdb\xdd", _ESCAPE)
            if len(packet) < 8:
                continue
            _, op, length, _ = struct.unpack("<BBHI", packet[:8])
            if self.chip.babble:
                self.writer.write(self.chip.babble)
            else:
                await self.command(op, packet[8 : 8 + length])
            await self.writer.drain()

    def send(self, packet: bytes) -> None:
        self.writer.write(_END + packet.replace(_ESCAPE, b"\xdb\xdd").replace(_END, b"\xdb\xdc") + _END)

    def answer(self, op: int, data: bytes = b"", value: int = 0, error: int = 0) -> None:
        status = bytes((int(error > 0), error)) + (b"" if self.stub else bytes(2))
        body = data + status
        self.send(struct.pack("<BBHI", 1, op, len(body), value) + body)

    async def command(self, op: int, data: bytes) -> None:
        match op:
            case 0x08:  # SYNC
                for _ in range(8):
                    self.answer(op, value=0 if self.stub else 0x20120707)
            case 0x0A:  # READ_REG
                self.answer(op, value=self.register(struct.unpack("<I", data[:4])[0]))
            case 0x14:  # GET_SECURITY_INFO
                self.answer(op, struct.pack("<IB7xII", 0, self.chip.crypt_count, _CHIP_ID, 0))
            case 0x02 | 0x10:  # FLASH_BEGIN, FLASH_DEFL_BEGIN
                size, _, _, self.offset = _WORDS.unpack(data[:16])
                self.inflate = zlib.decompressobj()
                self.end = self.offset + size
                self.chip.flash[self.offset : self.end] = b"\xff" * size
                self.answer(op)
            case 0x03:  # FLASH_DATA
                self.write(data[16:])
                self.answer(op)
            case 0x11:  # FLASH_DEFL_DATA
                self.write(self.inflate.decompress(data[16:]))
                self.answer(op)
            case 0x0E:  # READ_FLASH_SLOW
                offset, size = struct.unpack("<II", data[:8])
                self.answer(op, bytes(self.chip.flash[offset : offset + size]).ljust(64, b"\0"))
            case 0x13:  # SPI_FLASH_MD5
                offset, size = struct.unpack("<II", data[:8])
                digest = hashlib.md5(self.chip.flash[offset : offset + size])
                self.answer(op, digest.digest() if self.stub else digest.hexdigest().encode())
            case 0x06:  # MEM_END
                self.answer(op)
                self.stub = True
                self.send(b"OHAI")
            case 0xD2:  # READ_FLASH
                await self.stream(*_WORDS.unpack(data[:16]))
            case 0x04 | 0x05 | 0x07 | 0x09 | 0x0B | 0x0D | 0x0F | 0x12:
                self.answer(op)  # ends, uploads to RAM, registers, pins, baud rate
            case _:
                self.answer(op, error=5)

    def register(self, address: int) -> int:
        known = {
            _MAC_REGISTER: int.from_bytes(self.chip.mac[2:], "big"),
            _MAC_REGISTER + 4: int.from_bytes(self.chip.mac[:2], "big"),
            _CRYPT_COUNT_REGISTER: self.chip.crypt_count << _CRYPT_COUNT_SHIFT,
            _SPI_W0: _FLASH_ID,
        }
        return known.get(address, 0)

    def write(self, block: bytes) -> None:
        self.chip.before_block(self.chip.blocks)
        room = max(self.end - self.offset, 0) if not self.stub else len(block)
        block = block[:room]
        self.chip.flash[self.offset : self.offset + len(block)] = block
        self.offset += len(block)
        self.chip.blocks += 1

    async def stream(self, offset: int, size: int, block: int, _in_flight: int) -> None:
        self.answer(0xD2)
        content = bytes(self.chip.flash[offset : offset + size])
        for start in range(0, size, block):
            self.send(content[start : start + block])
            await self.writer.drain()
            await self.reader.readuntil(_END)  # the acknowledgement begins and ends with one
            await self.reader.readuntil(_END)
        self.send(hashlib.md5(content).digest())


@asynccontextmanager
async def chip_on_tcp(chip: Chip) -> AsyncIterator[int]:
    """The port of a chip that is plugged in."""
    sessions: set[asyncio.Task[None]] = set()

    async def session(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        chip.connections += 1
        task = asyncio.current_task()
        assert task is not None
        sessions.add(task)
        try:
            if not chip.powered and chip.self_healing:
                chip.dark += 1
                chip.powered = chip.dark > 2
            if chip.powered:
                await _Session(chip, reader, writer).run()
        except PowerCut:
            chip.powered = False
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.LimitOverrunError):
            pass
        finally:
            sessions.discard(task)
            writer.close()

    server = await asyncio.start_server(session, "127.0.0.1", 0, limit=1 << 20)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in list(sessions):
            task.cancel()
        await asyncio.gather(*sessions, return_exceptions=True)

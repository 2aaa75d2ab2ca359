"""A stream as slow as a serial line, for tests and demonstrations: a pty and a socket have no baud rate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.errors import PortLost
from provisioning.transports.stream import BUFFER, Stream

#: Seconds that one piece takes on the wire; small, so that an answer is not held back by much.
_PIECE_S = 0.005


class _Wire:
    """When the octets that were given to one direction have arrived."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._free_at = 0.0
        self.piece = max(1, int(rate * _PIECE_S))

    async def carry(self, octets: int) -> None:
        loop = asyncio.get_running_loop()
        self._free_at = max(self._free_at, loop.time()) + octets / self._rate
        await asyncio.sleep(max(0.0, self._free_at - loop.time()))


class _SlowWriter:
    """Sends in ``drain``, piece by piece."""

    def __init__(self, stream: Stream, rate: float) -> None:
        self._stream = stream
        self._wire = _Wire(rate)
        self._waiting = bytearray()

    def write(self, data: bytes) -> None:
        self._waiting += data

    async def drain(self) -> None:
        while self._waiting:
            piece = bytes(self._waiting[: self._wire.piece])
            del self._waiting[: self._wire.piece]
            await self._wire.carry(len(piece))
            await self._stream.send(piece)

    def close(self) -> None:
        self._stream.writer.close()


class _Tap(asyncio.ReadTransport):
    """What the slow reader closes while nobody reads it."""

    def __init__(self) -> None:
        super().__init__()
        self.flowing = asyncio.Event()
        self.flowing.set()

    def pause_reading(self) -> None:
        self.flowing.clear()

    def resume_reading(self) -> None:
        self.flowing.set()


async def _carry(stream: Stream, slow: asyncio.StreamReader, tap: _Tap, rate: float) -> None:
    wire = _Wire(rate)
    try:
        while True:
            data = await stream.receive()
            for begin in range(0, len(data), wire.piece):
                piece = data[begin : begin + wire.piece]
                await wire.carry(len(piece))
                slow.feed_data(piece)
                await tap.flowing.wait()
    except PortLost as lost:
        if lost.__cause__ is None:
            slow.feed_eof()
        else:
            slow.set_exception(OSError(str(lost.__cause__)))


@asynccontextmanager
async def paced(stream: Stream, octets_per_second: float) -> AsyncIterator[Stream]:
    """The same stream at ``octets_per_second`` each way."""
    slow, tap = asyncio.StreamReader(BUFFER), _Tap()
    slow.set_transport(tap)
    carrier = asyncio.create_task(_carry(stream, slow, tap, octets_per_second))
    try:
        yield Stream(slow, _SlowWriter(stream, octets_per_second), stream.name, stream.terminal, stream.last_words)
    finally:
        carrier.cancel()
        await asyncio.gather(carrier, return_exceptions=True)

"""The cable between a gateway and its central: a TCP proxy on loopback that can be unplugged, or cut after a number of octets.

It moves octets and knows nothing of TLS. An unplugged cable ends every connection and lets none begin; a cut lets exactly so
many octets through in one direction, then resets the connection that carried the last of them, once.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum

Address = tuple[str, int]
_PIECE = 1 << 16
#: linger(7): closing sends a reset, as a broken line looks to TCP in the end.
_RESET = struct.pack("ii", 1, 0)


class Direction(Enum):
    UP = "gateway to central"
    DOWN = "central to gateway"


@dataclass(frozen=True, slots=True)
class Cut:
    """``octets`` still pass in this direction, counted over all connections since :meth:`FaultProxy.arm`."""

    direction: Direction
    octets: int


class FaultProxy:
    """``upstream`` says where central listens now."""

    def __init__(self, upstream: Callable[[], Address]) -> None:
        self._upstream = upstream
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._cut: Cut | None = None
        self.plugged = True
        #: Octets that passed since :meth:`arm`.
        self.passed = dict.fromkeys(Direction, 0)

    @property
    def port(self) -> int:
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    async def start(self, port: int = 0) -> None:
        """Listen on loopback; 0 takes any free port."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", port)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._reset_all()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def unplug(self) -> None:
        self.plugged = False
        self._reset_all()

    def plug(self) -> None:
        self.plugged = True

    def arm(self, cut: Cut | None) -> None:
        """Count from nothing; with ``cut`` the line breaks once, there."""
        self._cut = cut
        self.passed = dict.fromkeys(Direction, 0)

    @property
    def armed(self) -> bool:
        """Whether the cut is still to come."""
        return self._cut is not None

    def _reset_all(self) -> None:
        for writer in list(self._writers):
            _reset(writer)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        self._writers.add(writer)
        try:
            if self.plugged:
                await self._join(reader, writer)
        finally:
            self._connections.discard(task)
            self._writers.discard(writer)
            _reset(writer)

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            above_reader, above = await asyncio.open_connection(*self._upstream())
        except OSError:  # central is not there: the gateway sees the same as without us
            return
        self._writers.add(above)
        try:
            await asyncio.gather(
                self._move(reader, above, Direction.UP, writer), self._move(above_reader, writer, Direction.DOWN, above)
            )
        finally:
            self._writers.discard(above)
            _reset(above)

    async def _move(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, direction: Direction, other: asyncio.StreamWriter
    ) -> None:
        with suppress(OSError):
            while piece := await reader.read(_PIECE):
                whole = self._allowed(direction, len(piece))
                writer.write(piece[:whole])
                await writer.drain()
                if whole < len(piece):
                    await _sent(writer)
                    break
            else:
                if writer.can_write_eof():
                    writer.write_eof()
                return
        _reset(writer)
        _reset(other)

    def _allowed(self, direction: Direction, octets: int) -> int:
        """How many of these may pass; fewer than all of them when the cut is due, which is then over."""
        cut, before = self._cut, self.passed[direction]
        if cut is not None and cut.direction is direction and before + octets > cut.octets:
            octets = cut.octets - before
            self._cut = None
        self.passed[direction] += octets
        return octets


async def _sent(writer: asyncio.StreamWriter) -> None:
    """Until the kernel has everything that was written."""
    writer.transport.set_write_buffer_limits(high=0)
    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    connection = writer.get_extra_info("socket")
    with suppress(OSError, AttributeError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()

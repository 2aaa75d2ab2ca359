"""TCP to a terminal server (ser2net's ``raw``) or to a device itself, and Unix sockets as QEMU serves a guest's serial port.

``tcp://host:port?timeout=5``, ``unix:/path``. Nothing of telnet or RFC 2217 is spoken: such octets would reach the device.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import TypeAlias

from gateway.errors import ConfigError, PortLost
from provisioning.device import Address
from provisioning.transports.stream import BUFFER, Known, Stream, number, only, reason

#: Seconds until a peer that vanished is noticed: idle, then between probes, and for octets that nobody acknowledges.
_KEEPALIVE_IDLE_S, _KEEPALIVE_INTERVAL_S, _KEEPALIVE_PROBES = 10, 5, 3
_UNACKNOWLEDGED_S = 20

_Pair: TypeAlias = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def open_tcp(address: Address, known: Known) -> AsyncIterator[Stream]:
    """Raises PortLost, ConfigError."""
    only(address, "timeout")
    if not address.host or not address.port:
        raise ConfigError("an address of tcp: is tcp://host:port")
    name = f"{address.host}:{address.port}"
    async with _connected(name, asyncio.open_connection(address.host, address.port, limit=BUFFER), address) as stream:
        keep_alive(stream[1].get_extra_info("socket"))
        yield Stream(*stream, name)


@asynccontextmanager
async def open_unix(address: Address, known: Known) -> AsyncIterator[Stream]:
    """Raises PortLost, ConfigError."""
    only(address, "timeout")
    if not address.path:
        raise ConfigError("an address of unix: is unix:/path")
    async with _connected(address.path, asyncio.open_unix_connection(address.path, limit=BUFFER), address) as stream:
        yield Stream(*stream, address.path)


@asynccontextmanager
async def _connected(name: str, connecting: Awaitable[_Pair], address: Address) -> AsyncIterator[_Pair]:
    timeout_s = number(address, "timeout", 5, 0.1)
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await connecting
    except TimeoutError as error:
        raise PortLost(f"{name} did not answer within {timeout_s:g} seconds") from error
    except OSError as error:
        raise PortLost(f"{name} cannot be reached: {reason(error)}") from error
    try:
        yield reader, writer
    finally:
        writer.transport.abort()  # what is not sent yet is for a device that nobody listens to any more


def keep_alive(connection: socket.socket) -> None:
    """Have the kernel notice that the other side is gone, and send every line at once."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_S)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_S * 1000)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

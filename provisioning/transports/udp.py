"""Datagrams to one device: ``udp://host:port``, as SMP over UDP needs them. No stream: a datagram comes whole or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

from gateway.errors import ConfigError, DeviceSilent, PortLost
from provisioning.device import Address
from provisioning.transports.stream import only, reason

#: Datagrams that wait for somebody to read them; what comes then is dropped, as the network may drop any.
WAITING = 64


class Datagrams(asyncio.DatagramProtocol):
    """A connected socket: what comes from elsewhere is not seen."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._received: asyncio.Queue[bytes | OSError] = asyncio.Queue(WAITING)
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: object) -> None:
        if not self._received.full():
            self._received.put_nowait(data)

    def error_received(self, exc: Exception) -> None:
        """The network says that nobody is there (ICMP)."""
        if not self._received.full():
            self._received.put_nowait(exc if isinstance(exc, OSError) else OSError(str(exc)))

    def send(self, data: bytes) -> None:
        """Raises PortLost after the end."""
        if self._transport is None or self._transport.is_closing():
            raise PortLost(f"{self.name} is closed")
        self._transport.sendto(data)

    async def receive(self, timeout_s: float) -> bytes:
        """The next datagram. Raises DeviceSilent where none comes in time, PortLost where nobody is there."""
        try:
            async with asyncio.timeout(timeout_s):
                received = await self._received.get()
        except TimeoutError as error:
            raise DeviceSilent(f"{self.name} does not answer") from error
        if isinstance(received, OSError):
            raise PortLost(f"{self.name} cannot be reached: {reason(received)}") from received
        return received


@asynccontextmanager
async def open_datagrams(address: Address) -> AsyncIterator[Datagrams]:
    """Raises PortLost, ConfigError."""
    only(address)
    if address.scheme != "udp" or not address.host or not address.port:
        raise ConfigError("an address of datagrams is udp://host:port")
    name = f"{address.host}:{address.port}"
    loop = asyncio.get_running_loop()
    try:
        transport, protocol = await loop.create_datagram_endpoint(
            lambda: Datagrams(name), remote_addr=(address.host, address.port)
        )
    except OSError as error:
        raise PortLost(f"{name} cannot be reached: {reason(error)}") from error
    try:
        yield protocol
    finally:
        transport.abort()

"""From an address to an open stream."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final, TypeAlias

from gateway.errors import ConfigError
from provisioning.device import Address
from provisioning.transports.paced import paced
from provisioning.transports.process import open_process
from provisioning.transports.serial import open_serial
from provisioning.transports.ssh import open_ssh
from provisioning.transports.stream import Known, Stream, number
from provisioning.transports.tcp import open_tcp, open_unix

Opener: TypeAlias = Callable[[Address, Known], AbstractAsyncContextManager[Stream]]

OPENERS: Final[dict[str, Opener]] = {
    "serial": open_serial,
    "tcp": open_tcp,
    "unix": open_unix,
    "ssh": open_ssh,
    "exec": open_process,
}


@asynccontextmanager
async def open_stream(address: Address, known: Known | None = None) -> AsyncIterator[Stream]:
    """Open the port; it is closed at the end, whatever happened.

    ``known`` connects the openings of one device, as before and after its reset. ``pace=OCTETS`` in the address slows the
    stream down to that many octets a second each way: what a line of ten times as many baud does.
    Raises PortLost where the port is not there or is somebody else's, WrongDevice for another SSH host key than before, and
    ConfigError for an address that says nothing sensible.
    """
    opener = OPENERS.get(address.scheme)
    if opener is None:
        raise ConfigError(f"no stream of octets: {address.scheme}:; there are {', '.join(f'{name}:' for name in OPENERS)}")
    rate = number(address, "pace", 0)
    async with opener(address, known if known is not None else Known()) as stream:
        if not rate:
            yield stream
            return
        async with paced(stream, rate) as slow:
            yield slow

"""Serial ports: ``serial:/dev/serial/by-path/…?baud=115200``.

pyserial sets the port up, asyncio moves the octets: its pipe transports take any character device, with the flow control that
streams need (docs/adr on why no further library). A port is opened exclusively, because a second reader takes half the
answer away from the first without either of them noticing.

Options: ``baud`` (115200), ``bits`` (8), ``parity`` (N, E, O, M, S), ``stop`` (1, 1.5, 2), ``rtscts``, ``xonxoff`` (0), and
``dtr``, ``rts`` (1): some boards are reset by one of these lines.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import re
import termios
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import serial

from gateway.errors import ConfigError, PortLost
from provisioning.device import Address
from provisioning.transports.stream import BUFFER, Known, Stream, number, only, reason, switch

BY_PATH = Path("/dev/serial/by-path")
#: Names that the kernel gives in the order of plugging in: after a restart another device may have it.
_UNSTABLE = re.compile(r"/dev/tty(USB|ACM)\d+")


def present_ports(folder: Path = BY_PATH) -> list[str]:
    """The USB serial ports that are plugged in now, by the place where they are plugged in."""
    try:
        return sorted(str(path) for path in folder.iterdir())
    except OSError:
        return []


@asynccontextmanager
async def open_serial(address: Address, known: Known) -> AsyncIterator[Stream]:
    """Raises PortLost, ConfigError."""
    only(address, "baud", "bits", "parity", "stop", "rtscts", "xonxoff", "dtr", "rts")
    if not address.path.startswith("/dev/"):
        raise ConfigError("an address of serial: is serial:/dev/serial/by-path/…")
    if _UNSTABLE.fullmatch(address.path):
        raise ConfigError(f"{address.path} may be another port tomorrow; name it by its place: {_place(address.path)}")
    port = _port(address)
    opening = asyncio.ensure_future(asyncio.to_thread(port.open))  # a driver may wait for its hardware
    try:
        await asyncio.shield(opening)
    except asyncio.CancelledError:
        opening.add_done_callback(lambda done: None if done.exception() else _close(port))  # nobody has it: it is free again
        raise
    except (OSError, termios.error) as error:  # serial.SerialException is an OSError
        raise PortLost(f"{address.path} cannot be opened: {_why(error)}") from error
    async with AsyncExitStack() as cleanup:
        cleanup.callback(_close, port)
        with suppress(OSError):
            fcntl.ioctl(port.fd, termios.TIOCEXCL)  # the lock of pyserial is seen by those only who look for it
        yield Stream(*await _transports(port.fd, cleanup), address.path)


def _place(device: str) -> str:
    there = [path for path in present_ports() if os.path.realpath(path) == device]
    return there[0] if there else f"one of {BY_PATH}"


def _port(address: Address) -> serial.Serial:
    """The port with its settings, closed still. Raises ConfigError."""
    try:
        port = serial.Serial(
            baudrate=int(number(address, "baud", 115200, 50)),
            bytesize=int(number(address, "bits", 8, 5)),
            parity=address.option("parity", "N"),
            stopbits=number(address, "stop", 1, 1),
            rtscts=switch(address, "rtscts", False),
            xonxoff=switch(address, "xonxoff", False),
            exclusive=True,
            timeout=0,
        )
    except ValueError as error:
        raise ConfigError(f"{address.path}: {error}") from error
    port.port = address.path
    port.dtr = switch(address, "dtr", True)
    port.rts = switch(address, "rts", True)
    return port


async def _transports(fd: int, cleanup: AsyncExitStack) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Both directions over copies of ``fd``, which asyncio closes."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(BUFFER)
    incoming, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(os.dup(fd), "rb", buffering=0)
    )
    cleanup.callback(incoming.close)
    outgoing, protocol = await loop.connect_write_pipe(
        lambda: asyncio.StreamReaderProtocol(asyncio.StreamReader()), os.fdopen(os.dup(fd), "wb", buffering=0)
    )
    cleanup.callback(lambda: None if outgoing.is_closing() else outgoing.abort())  # it falls over a second closing
    return reader, asyncio.StreamWriter(outgoing, protocol, None, loop)


def _close(port: serial.Serial) -> None:
    with suppress(OSError, termios.error):
        port.reset_output_buffer()  # else closing waits until a device that is switched off has taken it all
    with suppress(OSError):
        fcntl.ioctl(port.fd, termios.TIOCNXCL)
        fcntl.flock(port.fd, fcntl.LOCK_UN)  # asyncio's copies, which share the lock, are closed a moment later
    with suppress(OSError, termios.error):
        port.close()


def _why(error: Exception) -> str:
    return "another program uses it" if getattr(error, "errno", None) in {errno.EAGAIN, errno.EBUSY} else reason(error)

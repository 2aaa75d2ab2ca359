"""A stream of octets to one device, whatever carries it.

Buffers are bounded on both sides: who does not read makes the carrier hold the device back (or lose octets, as a serial line
without flow control does), and a device that never stops talking costs twice :data:`BUFFER` and one read of asyncio, no more.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gateway.errors import ConfigError, PortLost
from gateway.keys.wrapping import credentials_directory
from provisioning.device import Address

#: Octets that are kept for a reader who does not read; asyncio stops the carrier at twice that.
BUFFER = 65536
#: Octets of one read.
CHUNK = 16384


class Writer(Protocol):
    """What an asyncio.StreamWriter has of use for a device."""

    def write(self, data: bytes, /) -> None: ...
    async def drain(self) -> None: ...
    def close(self) -> None: ...


@dataclass(slots=True)
class Known:
    """What one opening of a port learns of the device and the next must find unchanged: its SSH host keys, as lines of a
    known_hosts file. One for each device; without it every opening stands alone."""

    host_keys: bytes = b""


@dataclass(frozen=True, slots=True)
class Stream:
    """An open port. ``name`` is for people and logs; ``terminal`` says that a terminal may sit on the other side, with echo, a
    login and what somebody left behind, and not a program that has just been started for us."""

    reader: asyncio.StreamReader
    writer: Writer
    name: str
    terminal: bool = True
    #: What the carrier said beside the stream when it ended ("Connection closed by ..."), for the fault's text.
    last_words: Callable[[], Awaitable[str]] | None = None

    async def receive(self) -> bytes:
        """The next octets, at least one. Raises PortLost at the end of the stream."""
        with port_faults(self.name):
            data = await self.reader.read(CHUNK)
        if not data:
            said = await self.last_words() if self.last_words else ""
            raise PortLost(f"the connection to {self.name} is gone" + (f": {said[-200:]}" if said else ""))
        return data

    async def send(self, data: bytes) -> None:
        """Hand ``data`` to the carrier; waits while its buffer is full. Raises PortLost."""
        with port_faults(self.name):
            self.writer.write(data)
            await self.writer.drain()


@contextmanager
def port_faults(name: str) -> Iterator[None]:
    """Any error of the operating system on this port is a PortLost."""
    try:
        yield
    except (OSError, EOFError) as error:
        raise PortLost(f"the connection to {name} is gone: {reason(error)}") from error


def reason(error: Exception) -> str:
    """The operating system's words for it; asyncio has others, with addresses in them."""
    number_ = getattr(error, "errno", None)
    return os.strerror(number_) if isinstance(number_, int) else str(error) or type(error).__name__


def only(address: Address, *names: str) -> None:
    """Raises ConfigError where the address has options that its scheme does not know."""
    unknown = sorted({name for name, _ in address.options} - {*names, "pace"})
    if unknown:
        raise ConfigError(
            f"an address of {address.scheme}: knows no {', '.join(unknown)}; it knows {', '.join((*names, 'pace'))}"
        )


def number(address: Address, name: str, default: float, least: float = 0) -> float:
    """The option as a number. Raises ConfigError."""
    text = address.option(name) or str(default)
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not value >= least:
        raise ConfigError(f"{name}={text!r} in an address of {address.scheme}: must be a number of at least {least:g}")
    return value


def switch(address: Address, name: str, default: bool) -> bool:
    """The option as 0 or 1. Raises ConfigError."""
    text = address.option(name) or str(int(default))
    if text not in {"0", "1"}:
        raise ConfigError(f"{name}={text!r} in an address of {address.scheme}: must be 0 or 1")
    return text == "1"


def secret_file(text: str, what: str) -> Path:
    """The file that ``credential:NAME`` (a systemd credential) or ``file:/PATH`` names. Raises ConfigError."""
    kind, _, value = text.partition(":")
    if kind == "file" and value.startswith("/"):
        return Path(value)
    if kind == "credential" and value and "/" not in value:
        folder = credentials_directory()
        if folder is None:
            raise ConfigError("no credentials here: only a systemd service has CREDENTIALS_DIRECTORY")
        return folder / value
    raise ConfigError(f"{what} must be credential:NAME or file:/PATH")

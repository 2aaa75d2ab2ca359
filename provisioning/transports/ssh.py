"""SSH: ``ssh://user@host:port?key=credential:NAME&known_hosts=/path``. The ``ssh`` program does it (docs/adr says why).

The other side's host key is checked always, against a known_hosts file of this port alone: either ``known_hosts=/path`` (a
key that is not in it is refused), or ``host_key=first``: a device fresh from the factory has a key that nobody knows yet, so
what it shows first counts for as long as this device is worked on, and after its reset it must show it again.

We prove who we are by a private key from a file or a systemd credential; passwords are not offered. ``command`` is what runs on
the device, ``sh`` by default: no terminal is asked for, so nothing is echoed and no line is too long.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from weakref import WeakKeyDictionary

import tenacity

from gateway.errors import ConfigError, DeviceFault, DeviceRefused, PortLost, WrongDevice
from provisioning.device import Address
from provisioning.transports.process import program
from provisioning.transports.stream import Known, Stream, number, only, secret_file

_log = logging.getLogger(__name__)

#: Connections to one host that are not authenticated yet: dropbear resets a sixth from one address (MAX_UNAUTH_PER_IP is 5).
CONNECTING = 4
_ATTEMPTS = 6
#: What ssh says of a host key that it does not accept, and of us.
_WRONG_HOST = ("Host key verification failed", "REMOTE HOST IDENTIFICATION HAS CHANGED")
_WRONG_USER = ("Permission denied", "No such identity", "Load key", "Too many authentication failures")

_turnstiles: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[tuple[str, int], asyncio.Semaphore]] = WeakKeyDictionary()


@asynccontextmanager
async def open_ssh(address: Address, known: Known) -> AsyncIterator[Stream]:
    """Raises PortLost, DeviceRefused where it does not let us in, WrongDevice for another host key, ConfigError."""
    only(address, "key", "known_hosts", "host_key", "command", "timeout")
    if not address.host or not address.user:
        raise ConfigError("an address of ssh: is ssh://user@host")
    first = address.option("host_key") == "first"
    if first is bool(address.option("known_hosts")):
        raise ConfigError("an address of ssh: says known_hosts=/path, or host_key=first for a device with a new key")
    async with AsyncExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="edge-ssh-")))
        hosts = folder / "known_hosts" if first else Path(address.option("known_hosts"))
        if first:
            hosts.write_bytes(known.host_keys)
        learn = first and not known.host_keys
        token = secrets.token_hex(8)
        argv = _argv(address, hosts, learn, token)
        stream = await _dial(address, argv, token, cleanup)
        if learn:
            known.host_keys = hosts.read_bytes()
        yield stream


async def _dial(address: Address, argv: list[str], token: str, cleanup: AsyncExitStack) -> Stream:
    """Connect, again where the other side was only busy or not up yet. Raises DeviceFault."""
    turnstile = _turnstiles.setdefault(asyncio.get_running_loop(), {}).setdefault(
        (address.host, address.port), asyncio.Semaphore(CONNECTING)
    )
    retrying = tenacity.AsyncRetrying(
        retry=tenacity.retry_if_exception_type(PortLost),
        wait=tenacity.wait_random_exponential(multiplier=0.1, max=2),
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        reraise=True,
    )
    async for attempt in retrying:
        with attempt:
            async with turnstile, AsyncExitStack() as trial:
                stream = await trial.enter_async_context(program(argv, _name(address)))
                await _connected(stream, token, number(address, "timeout", 10, 0.1) + 1)
                await cleanup.enter_async_context(trial.pop_all())
    return stream


async def _connected(stream: Stream, token: str, timeout_s: float) -> None:
    """Wait for the line that ssh itself prints (LocalCommand) once it is authenticated, before the device's first octet."""
    expected = token.encode() + b"\n"
    try:
        async with asyncio.timeout(timeout_s):
            first = await stream.reader.readexactly(len(expected))
    except TimeoutError as error:
        raise PortLost(f"{stream.name} did not answer within {timeout_s:g} seconds") from error
    except asyncio.IncompleteReadError as error:
        said = await stream.last_words() if stream.last_words else ""
        raise _fault(stream.name, said) from error
    if first != expected:
        raise PortLost(f"{stream.name} said something before the connection was there")


def _fault(name: str, said: str) -> DeviceFault:
    words = " ".join(said.split())[-300:]
    if any(sign in said for sign in _WRONG_HOST):
        return WrongDevice(f"{name} shows another SSH host key than expected")
    if any(sign in said for sign in _WRONG_USER):
        return DeviceRefused(f"{name} does not let us in: {words}")
    return PortLost(f"{name} cannot be reached: {words}")


def _name(address: Address) -> str:
    return f"{address.user}@{address.host}:{address.port or 22}"


def _argv(address: Address, hosts: Path, learn: bool, token: str) -> list[str]:
    key = secret_file(address.option("key"), "key of an address of ssh:")
    argv = ["ssh", "-F", "none", "-T", "-p", str(address.port or 22), "-l", address.user]
    for option in _options(address, key, hosts, learn, token):
        argv += ["-o", option]
    return [*argv, "--", address.host, address.option("command", "sh")]


def _options(address: Address, key: Path, hosts: Path, learn: bool, token: str) -> Iterator[str]:
    yield "BatchMode=yes"
    yield f"StrictHostKeyChecking={'accept-new' if learn else 'yes'}"
    yield f'UserKnownHostsFile="{hosts}"'
    yield "GlobalKnownHostsFile=none"
    yield "UpdateHostKeys=no"
    yield f'IdentityFile="{key}"'
    yield "IdentitiesOnly=yes"
    yield "IdentityAgent=none"
    yield "PreferredAuthentications=publickey"
    yield f"ConnectTimeout={max(1, round(number(address, 'timeout', 10, 0.1)))}"
    yield "ServerAliveInterval=5"
    yield "ServerAliveCountMax=3"
    yield "ControlMaster=no"
    yield "ControlPath=none"
    yield "ForwardAgent=no"
    yield "ClearAllForwardings=yes"
    yield "EscapeChar=none"
    yield "LogLevel=ERROR"
    yield "PermitLocalCommand=yes"
    yield f"LocalCommand=echo {token}"

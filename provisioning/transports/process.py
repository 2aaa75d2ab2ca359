"""Another program as the way to a device: ``exec:?argv=picocom&argv=-q&argv=/dev/…``. No shell takes part in it.

The program gets the stream as its standard input and output, and a small environment. Closing ends it and all it started.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

from gateway.errors import ConfigError, PortLost
from provisioning.device import Address
from provisioning.transports.stream import BUFFER, Known, Stream, only, reason

#: Octets of standard error that are kept, the last ones.
_COMPLAINT = 4096
#: Seconds between the request to end and the end.
_GRACE_S = 2.0


@asynccontextmanager
async def open_process(address: Address, known: Known) -> AsyncIterator[Stream]:
    """Raises PortLost, ConfigError."""
    only(address, "argv")
    argv = [value for name, value in address.options if name == "argv"]
    if not argv:
        raise ConfigError("an address of exec: is exec:?argv=PROGRAM&argv=ARGUMENT")
    async with program(argv, argv[0]) as stream:
        yield stream


@asynccontextmanager
async def program(argv: Sequence[str], name: str, environment: Mapping[str, str] | None = None) -> AsyncIterator[Stream]:
    """Run ``argv`` with a stream to it. Raises PortLost where it cannot be started."""
    small = {key: os.environ[key] for key in ("PATH", "HOME", "TZ") if key in os.environ} | {"LC_ALL": "C.UTF-8"}
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=BUFFER,
            start_new_session=True,  # a process group of its own, so that its end is the end of its children, too
            env=small | dict(environment or {}),
        )
    except OSError as error:
        raise PortLost(f"{name} cannot be started: {reason(error)}") from error
    writer, reader, errors = process.stdin, process.stdout, process.stderr
    if writer is None or reader is None or errors is None:
        raise AssertionError("a pipe that was asked for is not there")
    complaint = bytearray()
    listening = asyncio.create_task(_listen(errors, complaint))

    async def last_words() -> str:
        await asyncio.wait([listening], timeout=_GRACE_S)
        return complaint.decode("utf-8", "replace").strip()

    try:
        yield Stream(reader, writer, name, terminal=False, last_words=last_words)
    finally:
        await _end(process)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)


async def _listen(source: asyncio.StreamReader, complaint: bytearray) -> None:
    while data := await source.read(_COMPLAINT):
        complaint += data
        del complaint[:-_COMPLAINT]


async def _end(process: asyncio.subprocess.Process) -> None:
    """The group gets the chance to clean up, then it is killed; waits for the end even when we are cancelled."""
    if process.stdin is not None and not process.stdin.is_closing():  # asyncio's pipes fall over a second closing
        process.stdin.transport.abort()
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        try:
            async with asyncio.timeout(_GRACE_S):
                await process.wait()
        except TimeoutError:
            continue
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # children that outlived it

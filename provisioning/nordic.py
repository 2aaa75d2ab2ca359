"""Two ways to speak with a Nordic board: AT commands to its modem, and the shell of its Zephyr application.

An AT command ends with OK or ERROR, and whatever else the modem says in between is told apart by its prefix. Zephyr's shell
marks no end of anything: each command is put between two words that are no commands, random ones, and the shell itself says
twice that it does not know them. So nothing here waits for a prompt, and what an earlier session left is no answer.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Sequence

from gateway.errors import DeviceRefused, DeviceSilent
from provisioning.codec.nordic import AtRefused, final_result
from provisioning.transports.stream import Stream

#: Octets of one answer. The longest, a chain of certificates, has some kilobytes.
MAX_ANSWER = 65536
_QUIET_S = 0.1
_KNOCKS = 5
_FRESH = "\x03\x15"  # Ctrl-C and Ctrl-U end what somebody left half typed
_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


class Lines:
    """Reads what comes over a stream. ``timeout_s`` is for a whole answer."""

    def __init__(self, stream: Stream, timeout_s: float) -> None:
        self._stream = stream
        self._timeout_s = timeout_s

    async def send(self, line: str, end: bytes) -> None:
        """Raises PortLost."""
        await self._stream.send(line.encode("ascii") + end)

    async def until(self, pattern: re.Pattern[bytes], timeout_s: float = 0) -> bytes:
        """What comes up to the end of ``pattern``. Raises DeviceSilent, PortLost."""
        received = bytearray()
        try:
            async with asyncio.timeout(timeout_s or self._timeout_s):
                while True:
                    received += await self._stream.receive()
                    text = _ESCAPES.sub(b"", bytes(received))
                    if match := pattern.search(text):
                        return text[: match.end()]
                    if len(received) > MAX_ANSWER:
                        raise DeviceSilent("there is no end to what the device says")
        except TimeoutError as error:
            raise DeviceSilent("the device does not answer") from error

    async def drain(self) -> None:
        """Throw away what still comes, until it is quiet for a moment. Raises DeviceSilent where it never is, PortLost."""
        thrown = 0
        while True:
            try:
                async with asyncio.timeout(_QUIET_S):
                    thrown += len(await self._stream.receive())
            except TimeoutError:
                return
            if thrown > MAX_ANSWER:
                raise DeviceSilent("there is no end to what the device says")


class Modem:
    """AT commands; ``shell`` where they go through the ``at`` command of Zephyr's shell."""

    _END = re.compile(rb"(?:^|[\r\n])(?:OK|ERROR|\+CM[ES] ERROR:?[^\r\n]*)\r?\n")

    def __init__(self, stream: Stream, timeout_s: float, *, shell: bool = False) -> None:
        self._lines = Lines(stream, timeout_s)
        self._shell = shell

    async def attach(self) -> None:
        """Knock until the modem answers, and throw away what is left of an earlier session. Raises DeviceSilent, PortLost."""
        for left in reversed(range(_KNOCKS)):
            await self._send("AT")
            try:
                await self._lines.until(self._END, timeout_s=1)
                break
            except DeviceSilent:
                if not left:
                    raise
        await self._lines.drain()

    async def ask(self, command: str) -> list[str]:
        """The lines of the answer without its end. Raises AtRefused, DeviceSilent, PortLost."""
        await self._send(command)
        text = await self._lines.until(self._END)
        lines = [line for line in text.decode("ascii", "replace").replace("\r", "\n").split("\n") if line]
        # An echoed command may hold lines of its own; none of them ends an answer.
        if not final_result(lines[-1]):
            raise AtRefused(-1)
        return lines[:-1]

    async def _send(self, command: str) -> None:
        if self._shell:
            command = "at '" + command.replace("\r", "").replace("\n", "\\n") + "'"
        await self._lines.send(command, b"\r\n")


class ZephyrShell:
    """The shell of a Zephyr application (CONFIG_SHELL)."""

    def __init__(self, stream: Stream, timeout_s: float) -> None:
        self._lines = Lines(stream, timeout_s)

    async def send(self, words: Sequence[str]) -> None:
        """Say a command that nobody will answer. Raises PortLost."""
        await self._lines.send(_FRESH + " ".join(words), b"\n")

    async def run(self, words: Sequence[str], timeout_s: float = 0) -> str:
        """The output of a command, in lines. Raises DeviceSilent, PortLost, DeviceRefused where the shell does not know it."""
        token = os.urandom(6).hex()
        begin, end = f"b{token}", f"e{token}"
        await self._lines.send(_FRESH + begin, b"\n")
        await self._lines.send(" ".join(words), b"\n")
        await self._lines.send(end, b"\n")
        text = await self._lines.until(re.compile(end.encode() + rb": command not found"), timeout_s)
        output = text.split(begin.encode() + b": command not found", 1)[-1].decode("utf-8", "replace").replace("\r", "")
        # Without its own echo, and without the one of the end: what a prompt stands before.
        kept = [line for line in output.split("\n")[1:-1] if not line.rstrip().endswith((end, " ".join(words)))]
        if any(line == f"{words[0]}: command not found" for line in kept):
            raise DeviceRefused(f"the device's shell has no command {words[0]!r}")
        return "\n".join(kept)

"""Runs Espressif's esptool, which is GPL: always as a program of its own, never imported.

Each call has a directory of its own in memory: nothing that one call leaves there is seen by another, which the maker's tools
do not promise (they write fixed names). What goes in may hold a private key: it is given as a file, never as an argument, and
overwritten before it is removed. The chip says its MAC in every call, so an exchanged device is noticed in every call.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import ConfigError, DeviceFault, DeviceRefused, DeviceSilent, PortLost, WrongDevice

#: What esptool prints in a call is 2 kB; a chip that resets over and over makes it print more.
_MAX_OUTPUT = 262_144
_MEMORY = Path("/dev/shm")  # noqa: S108  # a directory of random name, mode 0700, is made in it
_BELOW_US = 10  # niceness: sixty-four of them must not keep the gateway from its other work
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True, slots=True)
class Report:
    """What esptool said of the chip."""

    mac: str
    chip: str
    text: str

    def number(self, name: str) -> int:
        """The number behind ``name`` in the report. Raises DeviceFault."""
        match = re.search(rf"{re.escape(name)}[^:\n]*: *(0x[0-9a-fA-F]{{1,8}}|\d{{1,9}})", self.text)
        if match is None:
            raise DeviceFault(f"esptool did not say the chip's {name}")
        return int(match[1], 0)


@dataclass(slots=True)
class Esptool:
    """One chip behind one port. ``expected`` becomes its MAC with the first call."""

    program: str
    port: str
    arguments: tuple[str, ...] = ()  # before the command: chip, baud rate, --no-stub
    timeout_s: float = 120.0
    expected: str = ""

    def __post_init__(self) -> None:
        """Raises ConfigError where the program is not there."""
        found = shutil.which(self.program)
        if found is None:
            raise ConfigError(
                f"esptool is not installed as {self.program!r}: install it in an environment of its own (pip install esptool) "
                "and name it in the recipe, esptool = /opt/esptool/bin/esptool"
            )
        self.program = found

    async def report(self, *command: str, after: str = "no-reset") -> Report:
        """Run a command that neither reads nor writes. Raises DeviceFault and its kinds."""
        with _directory() as place:
            return await self._run(place, after, *command)

    async def read_flash(self, offset: int, size: int) -> tuple[Report, bytes]:
        """Raises DeviceFault and its kinds."""
        with _directory() as place:
            report = await self._run(place, "no-reset", "read-flash", "--no-progress", hex(offset), hex(size), "partition.bin")
            content = _taken(place / "partition.bin")
        if len(content) != size:
            raise DeviceFault(f"esptool read {len(content)} of {size} octets")
        return report, content

    async def write_flash(self, offset: int, content: bytes) -> None:
        """Write, and have the chip hash what it wrote. Raises DeviceFault and its kinds."""
        with _directory() as place:
            _put(place / "partition.bin", content)
            report = await self._run(place, "no-reset", "write-flash", "--no-progress", hex(offset), "partition.bin")
        if "Hash of data verified" not in report.text:
            raise DeviceFault("esptool wrote without having the chip verify it: is the flash encrypted?")

    async def _run(self, place: Path, after: str, *command: str) -> Report:
        argv = [self.program, "--port", self.port, *self.arguments, "--after", after, *command]
        # Its own home and directory: esptool.cfg of somebody else changes what a call does.
        environment = {
            "HOME": str(place),
            "LC_ALL": "C.UTF-8",
            "PATH": os.environ.get("PATH", ""),
            "NO_COLOR": "1",
            "COLUMNS": "500",
        }
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                cwd=place,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise ConfigError(f"{self.program} cannot be started: {error.strerror}") from error
        try:
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, process.pid, _BELOW_US)
            async with asyncio.timeout(self.timeout_s):
                text = await _output(process)
                status = await process.wait()
        except TimeoutError as error:
            raise DeviceSilent(f"esptool was not done within {self.timeout_s:g} seconds") from error
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await _discarded(process)  # asyncio sees the end of a process only behind the end of what it said
                await process.wait()
        if status != 0:
            raise _fault(text, self.port)
        return self._recognised(text)

    def _recognised(self, text: str) -> Report:
        mac = re.search(r"^(?:BASE )?MAC: +([0-9a-f]{2}(?::[0-9a-f]{2}){5})\b", text, re.MULTILINE)
        chip = re.search(r"^Chip type: +(.{1,80})$", text, re.MULTILINE)
        if mac is None:
            raise DeviceFault("esptool did not say which chip it is")
        if self.expected and mac[1] != self.expected:
            raise WrongDevice(f"the device was exchanged: chip {mac[1]} is plugged in, not {self.expected}")
        self.expected = mac[1]
        return Report(mac[1], chip[1].strip() if chip else "", text)


@contextmanager
def _directory() -> Iterator[Path]:
    """A directory in memory for one call; what is in it is overwritten before it is removed."""
    parent = _MEMORY if os.access(_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="edge-esptool-", dir=parent, ignore_cleanup_errors=True) as name:
        place = Path(name)
        try:
            yield place
        finally:
            for path in place.rglob("*"):
                if path.is_file() and not path.is_symlink():
                    _wipe(path)


def _taken(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _put(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _wipe(path: Path) -> None:
    with suppress(OSError), path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))


async def _output(process: asyncio.subprocess.Process) -> str:
    """All that it prints. Raises DeviceFault where there is no end to it."""
    if process.stdout is None:
        raise AssertionError("a pipe that was asked for is not there")
    pieces = bytearray()
    while piece := await process.stdout.read(16384):
        pieces += piece
        if len(pieces) > _MAX_OUTPUT:
            raise DeviceFault("there is no end to what esptool says of this device")
    return _ESCAPES.sub("", pieces.decode("utf-8", "replace"))


async def _discarded(process: asyncio.subprocess.Process) -> None:
    """Read what a killed program still had in its pipe."""
    while process.stdout is not None and await process.stdout.read(65536):
        pass


def _fault(text: str, port: str) -> DeviceFault:
    """What went wrong, in the words behind esptool's "A fatal error occurred"."""
    match = re.search(r"(?:fatal|exception) error occurred:\s*(.{1,300})", text)
    said = match[1].strip() if match else text.strip().splitlines()[-1][:300] if text.strip() else "it said nothing"
    if re.search(r"Could not open|could not open|port is busy|doesn't exist|does not exist|Errno 2\b|disconnected", text):
        return PortLost(f"esptool cannot use {port}: {said}")
    if re.search(r"No serial data received|Failed to connect|Timed out|timed out", said):
        return DeviceSilent(f"the chip does not answer esptool: {said}")
    return DeviceRefused(f"esptool gave up: {said}")

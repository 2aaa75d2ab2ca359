"""A device with a console for tests: busybox's shell on a pty, its tools from busybox and its openssl the system's, reached
through a second pty as through a serial cable. socat is the cable, so unplugging is killing it."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from provisioning.device import Address

BUSYBOX = "/bin/busybox"
#: Every start of the shell is a boot; killing it is a reset. The loop lives through Ctrl-C, the shell handles it itself.
_BOOT = """\
trap : INT
n=0
while :; do
    n=$((n + 1))
    echo $n >{folder}/boot_id
    {busybox} sh -i +m
done
"""


@dataclass(slots=True)
class ConsoleDevice:
    folder: Path
    port: str
    process: asyncio.subprocess.Process
    held: list[int] = field(default_factory=list)

    @property
    def address(self) -> Address:
        return Address.parse(f"serial:{self.port}")

    @property
    def settings(self) -> dict[str, str | int | float | bool]:
        """For the driver of Linux consoles: this device's places."""
        identity = self.folder / "identity"
        return {
            "directory": str(identity),
            "scratch": str(self.folder),
            "chip_command": f"cat {self.folder}/chip",
            "boot_id_command": f"cat {self.folder}/boot_id",
            "reset_command": "(sleep 0.1; kill -9 $$) &",
            "boot_quiet_s": 0.2,
            "quiet_kernel": False,
        }

    async def unplug(self) -> None:
        """Pull the cable: the port is gone, what runs on the device with it."""
        await _end(self.process)
        self._release()

    def _release(self) -> None:
        while self.held:
            os.close(self.held.pop())


def install_busybox(folder: Path) -> Path:
    """A folder of busybox's tools and openssl, and nothing else."""
    tools = folder / "bin"
    if not tools.exists():
        tools.mkdir(parents=True)
        for applet in _applets():
            (tools / applet).symlink_to(BUSYBOX)
        openssl = shutil.which("openssl")
        assert openssl
        (tools / "openssl").symlink_to(openssl)
    return tools


def _applets() -> list[str]:
    import subprocess

    return subprocess.run([BUSYBOX, "--list"], check=True, capture_output=True, text=True).stdout.split()


@asynccontextmanager
async def console_device(folder: Path, chip: str = "CHIP-0001", tools: Path | None = None) -> AsyncIterator[ConsoleDevice]:
    folder.mkdir(parents=True, exist_ok=True)
    tools = tools or install_busybox(folder)
    (folder / "identity").mkdir(exist_ok=True)
    (folder / "chip").write_text(f"{chip}\n")
    boot = folder / "boot.sh"
    boot.write_text(_BOOT.format(folder=folder, busybox=BUSYBOX))
    port = folder / "port"
    port.unlink(missing_ok=True)
    process = await asyncio.create_subprocess_exec(
        "socat",
        f"PTY,link={port},rawer",
        f"EXEC:{BUSYBOX} sh {boot},pty,setsid,ctty,stderr",
        env={"PATH": str(tools), "HOME": str(folder), "PS1": "device:~# ", "TERM": "dumb"},
        executable=shutil.which("socat"),
        start_new_session=True,
        stderr=asyncio.subprocess.DEVNULL,
    )
    device = ConsoleDevice(folder, "", process)
    try:
        async with asyncio.timeout(20):
            while not port.is_symlink():
                await asyncio.sleep(0.005)
        device.port = str(port.readlink())
        device.held.append(os.open(device.port, os.O_RDWR | os.O_NOCTTY))  # a cable stays plugged in while nobody uses it
        yield device
    finally:
        await _end(process)
        device._release()


async def _end(process: asyncio.subprocess.Process) -> None:
    """socat, and the session of the shell behind it, which its terminal's end hangs up."""
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    await process.wait()

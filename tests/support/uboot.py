"""A real U-Boot in QEMU (Debian's u-boot-qemu, qemu_arm64): its console on a Unix socket, its NOR flash in a file.

The second flash bank is the device's storage; it stays when the current is cut. In this QEMU ``saveenv`` fails (a write that
crosses half a sector times out), and says so by its return code alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

from provisioning.device import Address, Setting
from tests.support.guest import console_open

_FIRMWARE = "/usr/lib/u-boot/qemu_arm64/u-boot.bin"
_BANK = 64 << 20


class UBootDevice:
    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.console = folder / "console"
        self.flash = folder / "flash"
        with self.flash.open("wb") as file:
            file.truncate(_BANK)
        self._process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> Address:
        return Address.parse(f"unix:{quote(str(self.console))}")

    @property
    def settings(self) -> dict[str, Setting]:
        """Its sectors have 256 KiB, although U-Boot takes them for half of that."""
        places = {"key": "4200000", "certificate": "4240000", "chain": "4280000", "serial": "42c0000"}
        return {"ram": "40200000", "area": 262144, **places}

    async def power_on(self) -> None:
        self.console.unlink(missing_ok=True)
        self._process = await asyncio.create_subprocess_exec(
            *("qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a57", "-m", "128", "-nodefaults", "-display", "none"),
            *("-bios", _FIRMWARE, "-drive", f"if=pflash,format=raw,index=1,file={self.flash}"),
            *("-netdev", "hubport,hubid=0,id=net", "-device", "virtio-net-pci,netdev=net"),
            *("-chardev", f"socket,id=console,path={self.console},server=on,wait=off", "-serial", "chardev:console"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        process = self._process
        await console_open(self.console, lambda: process.returncode is not None)

    async def cut(self) -> None:
        """The current fails."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
        self._process = None


@asynccontextmanager
async def powered(device: UBootDevice) -> AsyncIterator[UBootDevice]:
    await device.power_on()
    try:
        yield device
    finally:
        await device.cut()

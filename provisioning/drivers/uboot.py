"""A device that stands in U-Boot: key, certificate and chain go into its NOR flash (CFI, ``cp.b``), the key from the pool.

A boot loader makes no keys and signs nothing: what a key signs is signed here, with the key as it is read back from the device.
Octets go as ``mw`` lines into memory, where the device's own CRC-32 is compared before the flash is touched; then unprotect,
erase, copy, compare, protect. Each command's return code is looked at, because U-Boot says of a failed ``saveenv`` no more
than that code.

The lock is the environment variable ``serial#``, which U-Boot lets nobody change once it is set; it counts only when it is
still there after a reset.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.errors import ConfigError, DeviceRefused, DeviceSilent, MalformedRequest
from gateway.pki.algorithms import PrivateKey
from gateway.schema import bounded, read_section
from provisioning import uboot_codec as codec
from provisioning.console_port import ConsolePort, Patience
from provisioning.device import Address, Csr, Delivery, Device, KeyOrigin, Lock, Setting
from provisioning.drivers import loaded

KEYS = frozenset({KeyOrigin.POOL})

#: How often memory is written again that the line damaged.
_ATTEMPTS = 3
#: Characters of a line that are ours: the marks around a command.
_MARKS = 80
#: Octets that one ``md.b`` shows.
_DUMP = 2048
_SERIAL = re.compile(r"[A-Za-z0-9._:/+-]{1,64}")


@dataclass(frozen=True, slots=True)
class UBootSettings:
    """A recipe's table for this driver; docs/line/console.md explains each. Addresses are hexadecimal, as U-Boot's."""

    ram: str = ""  # free memory, as large as the largest area
    key: str = ""
    certificate: str = ""
    chain: str = ""  # empty: not written
    serial: str = ""
    area: int = bounded(131072, 512, 1 << 26)  # octets of each; whole sectors
    write: str = "mw.q"
    big_endian: bool = False
    protect: bool = True
    chip_command: str = "printenv ethaddr"
    chip_pattern: str = "ethaddr=([0-9a-fA-F:]+)"
    reset_command: str = "reset"
    lock: bool = False  # by serial#; needs serial
    line: int = bounded(240, 128, 4096)  # CONFIG_SYS_CBSIZE less a few
    command_s: float = bounded(20.0, 0.1, 600)
    attach_s: float = bounded(30.0, 0.1, 600)
    boot_s: float = bounded(60.0, 0.1, 3600)

    @classmethod
    def read(cls, settings: Mapping[str, Setting]) -> UBootSettings:
        """Raises ConfigError."""
        read = read_section(cls, settings, Path("/"))
        for name in ("ram", "key", "certificate", "chain", "serial"):
            value = getattr(read, name)
            if not re.fullmatch("[0-9a-fA-F]{1,16}", value) and (value or name in {"ram", "certificate"}):
                raise ConfigError(f'{name} = {value!r} is no address in hexadecimal, as in {name} = "1000000"')
        places = sorted(int(place, 16) for place in (read.key, read.certificate, read.chain, read.serial) if place)
        if any(behind - before < read.area for before, behind in pairwise(places)):
            raise ConfigError(f"areas of {read.area} octets overlap")
        if read.write not in codec.WIDTHS:
            raise ConfigError(f"write = {read.write!r} must be {', '.join(codec.WIDTHS)}")
        if read.lock and not read.serial:
            raise ConfigError("lock needs serial: the number that locks is kept on the device first")
        try:
            groups = re.compile(read.chip_pattern).groups
        except re.error as error:
            raise ConfigError(f"chip_pattern is no regular expression: {error}") from error
        if groups != 1:
            raise ConfigError("chip_pattern has one group: the chip's number")
        return read


@asynccontextmanager
async def open_device(address: Address, settings: Mapping[str, Setting]) -> AsyncIterator[UBootDriver]:
    """See :class:`provisioning.device.DriverModule`."""
    read = UBootSettings.read(settings)
    port = ConsolePort(address, None, Patience(read.command_s, read.attach_s, read.boot_s, 0, insist=True), "echo")
    await port.open()
    try:
        yield UBootDriver(port, read)
    finally:
        await port.close()


class UBootDriver:
    def __init__(self, port: ConsolePort, settings: UBootSettings) -> None:
        self._port = port
        self._settings = settings

    async def identify(self) -> Device:
        said = await self._check(self._settings.chip_command, "ask who it is")
        found = re.search(self._settings.chip_pattern, said)
        if found is None or not found[1].strip():
            raise DeviceRefused("the device says no number of its own: set chip_command and chip_pattern")
        version = await self._check("version", "ask for its version")
        return Device(found[1].strip()[:128], await self._serial(), "", {"u-boot": version.split("\n")[0].strip()[:200]})

    async def generate_key(self, key_type: str) -> None:
        raise DeviceRefused(f"a boot loader makes no {key_type} key: it takes one of the pool")

    async def load_key(self, private_key: bytes) -> None:
        if not self._settings.key:
            raise DeviceRefused("the recipe says no place for the key")
        key = loaded.private_key_of(private_key)
        content = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        await self._store(self._settings.key, content, "key", secret=True)

    async def read_csr(self, subject: str) -> Csr:
        try:
            return loaded.request_of(await self._key(), subject)
        except MalformedRequest as error:
            raise DeviceRefused(f"the device is given no such subject: {error}") from error

    async def write(self, delivery: Delivery) -> None:
        settings = self._settings
        if settings.chain:
            await self._store(settings.chain, b"".join(delivery.chain), "chain")
        if settings.serial:
            if not _SERIAL.fullmatch(delivery.serial):
                raise DeviceRefused("the serial number has characters that U-Boot's command line does not take")
            await self._store(settings.serial, delivery.serial.encode(), "serial number")
        await self._store(settings.certificate, delivery.certificate, "certificate")  # last: where it is, all is
        for place in filter(None, (settings.key, settings.chain, settings.serial, settings.certificate)):
            if not await self._is_whole(int(place, 16)):  # erased with a neighbour, or there was no key to begin with
                raise DeviceRefused(f"nothing whole lies at {place}: an area is smaller than a sector, or the key is missing")

    async def reset(self) -> None:
        await self._check("setenv idevid_boot 1", "mark this boot")
        await self._port.restart(self._settings.reset_command, "printenv idevid_boot||echo none")

    async def read_back(self) -> bytes:
        return await self._load(self._settings.certificate)

    async def prove(self, challenge: bytes) -> bytes:
        return loaded.proof_of(await self._key(), challenge)

    async def lock_state(self) -> Lock:
        if not self._settings.lock:
            return Lock.ABSENT
        if not await self._serial():
            return Lock.OPEN
        await self.reset()  # the variable may be in memory only
        return Lock.LOCKED if await self._serial() else Lock.OPEN

    async def lock(self) -> None:
        serial = (await self._load(self._settings.serial)).decode("ascii", "replace") if self._settings.lock else ""
        if not _SERIAL.fullmatch(serial):
            raise DeviceRefused("the device has no serial number to lock with")
        await self._check(f"setenv serial# {serial}", "set the serial number")
        await self._check("saveenv", "save the serial number")

    async def _key(self) -> PrivateKey:
        """The key that lies in the flash."""
        content = await self._load(self._settings.key) if self._settings.key else b""
        if not content:
            raise DeviceRefused("the device has no key")
        return loaded.private_key_of(content)

    async def _check(self, command: str, what: str) -> str:
        return await self._port.console.check(command, what)

    async def _serial(self) -> str:
        """The value of ``serial#``; empty where it is not set."""
        answer = await self._port.console.run("printenv serial#", "ask for the serial number")
        found = re.search(r"serial#=(\S+)", answer.output.decode("ascii", "replace"))
        return found[1] if answer.status == 0 and found else ""

    async def _store(self, place: str, content: bytes, what: str, *, secret: bool = False) -> None:
        """Write an area of flash, unless it is there already."""
        data = codec.area(content)
        flash, settings = int(place, 16), self._settings
        if len(data) > settings.area:
            raise DeviceRefused(f"the {what} does not fit into {settings.area} octets")
        if await self._read(flash, codec.HEADER) == data[: codec.HEADER] and await self._is_whole(flash):
            return
        await self._fill(data, what)
        ram, length, last = settings.ram, f"{len(data):x}", f"{flash + settings.area - 1:x}"
        steps = [
            (f"erase {place} {last}", "erase"),
            (f"cp.b {ram} {place} {length}", "write"),
            (f"cmp.b {ram} {place} {length}", "compare"),
        ]
        if settings.protect:
            steps = [(f"protect off {place} {last}", "unprotect"), *steps, (f"protect on {place} {last}", "protect")]
        for command, step in steps:
            await self._check(command, f"{step} the {what}")
        if secret:
            await self._check(f"mw.b {ram} 0 {length}", f"wipe the {what} from memory")

    async def _fill(self, data: bytes, what: str) -> None:
        """Put ``data`` into memory; the device's CRC-32 says that it is there."""
        settings = self._settings
        for _ in range(_ATTEMPTS):
            for line in codec.memory_writes(
                data, int(settings.ram, 16), settings.write, big_endian=settings.big_endian, room=settings.line - _MARKS
            ):
                await self._check(line, f"send the {what}")
            said = await self._check(f"crc32 {settings.ram} {len(data):x}", f"compare the {what}")
            if codec.crc_of(said) == codec.crc(data):
                return
        raise DeviceSilent(f"the {what} arrived damaged {_ATTEMPTS} times")

    async def _is_whole(self, flash: int) -> bool:
        """Whether the area's content has the CRC-32 that its header says."""
        header = codec.header(await self._read(flash, codec.HEADER))
        if header is None or not 0 < header.length <= self._settings.area - codec.HEADER:
            return False
        said = await self._check(f"crc32 {flash + codec.HEADER:x} {header.length:x}", "look at the flash")
        return codec.crc_of(said) == header.crc

    async def _load(self, place: str) -> bytes:
        """The content of an area; empty where there is none, or one that is not whole."""
        flash = int(place, 16)
        header = codec.header(await self._read(flash, codec.HEADER))
        if header is None or not await self._is_whole(flash):
            return b""
        for _ in range(_ATTEMPTS):
            content = b""
            while len(content) < header.length:
                size = min(_DUMP, header.length - len(content))
                content += await self._read(flash + codec.HEADER + len(content), size)
            if codec.crc(content) == header.crc:
                return content
        raise DeviceSilent(f"what the device has at {place} came damaged {_ATTEMPTS} times")

    async def _read(self, address: int, size: int) -> bytes:
        """``size`` octets as the device shows them; filled up where some were lost, so that a checksum finds it."""
        said = await self._check(f"md.b {address:x} {size:x}", "read the flash")
        return codec.dumped(said)[:size].ljust(size, b"\0")

"""Espressif chips (ESP32 and its family) in download mode: key and certificates as the ``esp_secure_cert`` partition.

The key comes from the gateway's pool: the ROM loader makes none. esptool does the talking (:mod:`provisioning.esptool`), the
partition's contents are ours (:mod:`provisioning.esp_secure_cert`). The chip's identity is its MAC address. Every call of
esptool resets the chip into its loader, so what is read comes from flash, never from memory. The partition is one image: a
power cut in the middle of writing it loses the key as well, and the key must be loaded again before the certificate.

Address: ``serial:/dev/serial/by-path/…?baud=460800`` or ``tcp:`` (a chip behind a port server, held in download mode).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import BadKey, ConfigError, DeviceRefused, WrongDevice
from gateway.pki.algorithms import PrivateKey
from gateway.schema import bounded, read_section
from provisioning import esp_secure_cert
from provisioning.device import Address, Csr, Delivery, Device, KeyOrigin, Lock, Setting
from provisioning.drivers.loaded import belongs, private_key_of, proof_of, request_of
from provisioning.esp_secure_cert import Contents, Encoding, PartitionDamaged
from provisioning.esptool import Esptool, Report

KEYS = frozenset({KeyOrigin.POOL})
_SECTOR = 4096
_LARGEST = 1 << 28


@dataclass(frozen=True, slots=True)
class Esp32Settings:
    """A recipe's table for this driver; docs/line/boards.md explains each."""

    offset: int = bounded(0, _SECTOR, _LARGEST)  # of the partition in flash
    size: int = bounded(esp_secure_cert.PARTITION_SIZE, _SECTOR, 1 << 20)
    encoding: str = "pem"
    esptool: str = "esptool"
    chip: str = "auto"
    stub: bool = True
    call_s: float = bounded(120.0, 1, 3600)  # of one call of esptool
    lock: str = "none"  # "flash-encryption": the application encrypts the flash when it starts first
    lock_wait_s: float = bounded(60.0, 0, 3600)

    @classmethod
    def read(cls, settings: Mapping[str, Setting]) -> Esp32Settings:
        """Raises ConfigError."""
        read = read_section(cls, settings, Path("/"))
        if not read.offset or read.offset % _SECTOR or read.size % _SECTOR:
            raise ConfigError("the esp32 driver needs offset, and offset and size are multiples of 4096, as in offset = 0xD000")
        if read.encoding not in {"pem", "der"}:
            raise ConfigError(f'encoding = {read.encoding!r} must be "pem" or "der"')
        if read.lock not in {"none", "flash-encryption"}:
            raise ConfigError(f'lock = {read.lock!r} must be "none" or "flash-encryption"')
        return read


@asynccontextmanager
async def open_device(address: Address, settings: Mapping[str, Setting]) -> AsyncIterator[Esp32Driver]:
    """See :class:`provisioning.device.DriverModule`."""
    read = Esp32Settings.read(settings)
    unknown = sorted({name for name, _ in address.options} - {"baud"})
    if unknown:
        raise ConfigError(f"an address of the esp32 driver knows no {', '.join(unknown)}; it knows baud")
    arguments = ["--chip", read.chip]
    if address.scheme == "serial" and address.path.startswith("/dev/"):
        port = address.path
        arguments += ["--baud", _baud(address)]
    elif address.scheme == "tcp" and address.host and address.port:
        port = f"socket://{address.host}:{address.port}"
    else:
        raise ConfigError("the esp32 driver takes serial:/dev/serial/by-path/… or tcp://host:port")
    if not read.stub:
        arguments.append("--no-stub")
    yield Esp32Driver(Esptool(read.esptool, port, tuple(arguments), read.call_s), read)


def _baud(address: Address) -> str:
    baud = address.option("baud", "115200")
    if not baud.isascii() or not baud.isdigit() or not 1 <= len(baud) <= 8:
        raise ConfigError(f"baud={baud!r} in an address of the esp32 driver: must be a whole number")
    return baud


class Esp32Driver:
    """One chip on one port. What was read is kept until something may have changed it: a call of esptool takes a second."""

    def __init__(self, tool: Esptool, settings: Esp32Settings) -> None:
        self._tool = tool
        self._settings = settings
        self._from_flash: Contents | PartitionDamaged | None = None
        self._report: Report | None = None
        self._key: PrivateKey | None = None

    async def identify(self) -> Device:
        try:
            report = await self._read() if self._from_flash is None or self._report is None else self._report
        except DeviceRefused:  # a locked chip may not give its flash away
            report = await self._tool.report("read-mac")
        return Device(chip=report.mac, model=report.chip)

    async def generate_key(self, key_type: str) -> None:
        raise DeviceRefused(f"this chip makes no {key_type} key in its download mode: the recipe takes keys from the pool")

    async def load_key(self, private_key: bytes) -> None:
        key = private_key_of(private_key)
        if self._key is not None and self._key.public_key() == key.public_key():
            return  # loaded since the last reset
        try:
            present = (await self._contents()).key
        except PartitionDamaged:
            present = b""  # what a power cut left is written over
        if not present or private_key_of(present).public_key() != key.public_key():
            await self._store(Delivery(b"", (), ""), key)
        self._key = key

    async def read_csr(self, subject: str) -> Csr:
        return request_of(await self._loaded(), subject)

    async def write(self, delivery: Delivery) -> None:
        key = await self._loaded()
        if not belongs(delivery.certificate, key):
            raise WrongDevice("the certificate is for another key than the one in this device")
        present = self._from_flash
        if not isinstance(present, Contents) or (present.certificate, present.chain) != (delivery.certificate, delivery.chain):
            await self._store(delivery, key)

    async def reset(self) -> None:
        """Every call of esptool resets the chip into its loader: this one reads what it holds then."""
        self._key = None
        await self._read()

    async def read_back(self) -> bytes:
        try:
            return (await self._contents()).certificate
        except PartitionDamaged:
            return b""  # half an image holds no certificate

    async def prove(self, challenge: bytes) -> bytes:
        """Signed here with the key as it is read from the chip's flash: it shows that the chip holds it."""
        return proof_of(private_key_of((await self._contents()).key), challenge)

    async def lock_state(self) -> Lock:
        if self._settings.lock == "none":
            return Lock.ABSENT
        report = await self._tool.report("get-security-info")
        return Lock.LOCKED if report.number("SPI Boot Crypt Count").bit_count() % 2 else Lock.OPEN

    async def lock(self) -> None:
        """Start the application, which encrypts the flash the first time, and leave it alone meanwhile: a reset in the middle
        would spoil the chip. Then the chip's fuses must say that it did."""
        if self._settings.lock == "none":
            raise DeviceRefused("this recipe locks nothing in the chip")
        await self._tool.report("read-mac", after="hard-reset")
        await asyncio.sleep(self._settings.lock_wait_s)
        if await self.lock_state() is not Lock.LOCKED:
            raise DeviceRefused(
                f"the chip's application did not encrypt its flash within {self._settings.lock_wait_s:g} seconds"
            )

    async def _read(self) -> Report:
        """Raises DeviceFault and its kinds where the chip cannot be read; what it holds is judged later."""
        self._from_flash = None
        self._report, content = await self._tool.read_flash(self._settings.offset, self._settings.size)
        try:
            self._from_flash = esp_secure_cert.read(content)
        except PartitionDamaged as damage:
            self._from_flash = damage
        return self._report

    async def _contents(self) -> Contents:
        """What the flash holds, read after the last write. Raises PartitionDamaged, and what :meth:`_read` raises."""
        if self._from_flash is None:
            await self._read()
        if not isinstance(self._from_flash, Contents):
            raise PartitionDamaged(str(self._from_flash))
        return self._from_flash

    async def _loaded(self) -> PrivateKey:
        """The key in the device: the one that was loaded since the last reset, or as the flash has it."""
        if self._key is None:
            contents = await self._contents()
            if not contents.key:
                raise DeviceRefused("the device holds no key: load it again")
            self._key = private_key_of(contents.key)
        return self._key

    async def _store(self, delivery: Delivery, key: PrivateKey) -> None:
        settings = self._settings
        encoding = Encoding.PEM if settings.encoding == "pem" else Encoding.DER
        try:
            image = esp_secure_cert.build(
                delivery.certificate,
                delivery.chain,
                esp_secure_cert.to_der(key),
                encoding=encoding,
                size=settings.size,
            )
        except BadKey as error:
            raise DeviceRefused(str(error)) from error
        self._from_flash = None
        await self._tool.write_flash(settings.offset, esp_secure_cert.padded(image, settings.size))

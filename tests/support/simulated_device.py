"""Devices in memory or in a directory, for tests of the line with thousands of them and with power cuts at every write.

A device has a storage with a page cache before it. Everything a driver stores is a sequence of storage operations: write a
file, rename it, sync. Power can be cut at any of them; what was not synced is lost, kept in part or kept whole, as the test
says. The driver is careful (temporary file, sync, rename, sync) unless it is told not to sync: the control that loses
identities.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from enum import Enum
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from gateway.errors import DeviceFault, DeviceRefused, DeviceSilent
from gateway.pki.algorithms import PrivateKey, default_algorithm, sign
from gateway.pki.names import name_from_text
from provisioning.device import Address, Csr, Delivery, Device, KeyOrigin, Lock, Setting

_GONE = b"\xff-gone"  # in the cache: a file that was renamed away


class Kept(Enum):
    """What of the unsynced operations is on the storage after a power cut."""

    NOTHING = "nothing"
    PART = "part"  # each file has the first half of its new content, renames did not happen
    ALL = "all"  # everything, the operation that was cut included: only the answer is missing


class PowerCut(DeviceSilent):
    """The device lost its power in the middle of a storage operation."""


class SimulatedDevice:
    """One device. ``storage`` is what survives a power cut; ``read`` sees the page cache as a running device does.

    - ``cut_after``: so many more storage operations succeed, then the power goes (once); None: never.
    - ``kept``: what of the unsynced operations survives that.
    - ``directory``: keep the storage there as well, so that a device survives the gateway's process. The page cache does not:
      a killed gateway is, for this device, a power cut at the same time that keeps nothing.
    - ``faults``: the name of a driver's method to the fault it raises; one entry for each kind of device gone bad.
    - ``on_call``: called with the name of each driver's method as it begins; may raise.
    - ``make_key``: where a new key comes from; the same key for two devices is a cloned golden image.
    - ``received``: every certificate that was ever sent to the device, in order and without repetitions; no cut takes it back.
    """

    def __init__(
        self,
        chip: str,
        *,
        serial: str = "",
        model: str = "simulated",
        cut_after: int | None = None,
        kept: Kept = Kept.NOTHING,
        directory: Path | None = None,
        make_key: Callable[[], PrivateKey] | None = None,
    ) -> None:
        self.chip = chip
        self.model = model
        self.cut_after = cut_after
        self.kept = kept
        self.faults: dict[str, DeviceFault] = {}
        self.on_call: Callable[[str], None] | None = None
        self.make_key = make_key or (lambda: ec.generate_private_key(ec.SECP256R1()))
        self.powered = True
        self.operations = 0  # storage operations so far
        self.keys_made = 0
        self.received: list[bytes] = []
        self.storage: dict[str, bytes] = {}
        self._serial = serial
        self._cache: dict[str, bytes] = {}
        self._directory = directory
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
            self.storage = {path.name: path.read_bytes() for path in directory.iterdir() if path.suffix != ".log"}
            log = directory / "received.log"
            self.received = [bytes.fromhex(line) for line in log.read_text().splitlines()] if log.exists() else []

    @property
    def key(self) -> PrivateKey | None:
        """The device's key as the running device sees it."""
        stored = self.read("key")
        return cast(PrivateKey, load_der_private_key(stored, None)) if stored else None

    @property
    def locked(self) -> bool:
        return self.read("locked") == b"1"

    @property
    def serial(self) -> str:
        return self.read("serial").decode() or self._serial

    @property
    def certificate(self) -> bytes:
        return self.read("certificate")

    def read(self, name: str) -> bytes:
        """The file's content, empty when there is none."""
        content = self._cache.get(name, self.storage.get(name, b""))
        return b"" if content == _GONE else content

    def write_file(self, name: str, content: bytes) -> None:
        self._operation()
        self._cache[name] = content
        self._cut_now()

    def rename(self, name: str, new_name: str) -> None:
        self._operation()
        self._cache[new_name] = self.read(name)
        self._cache[name] = _GONE
        self._cut_now()

    def sync(self) -> None:
        self._operation()
        if self._cutting and self.kept is not Kept.ALL:
            self._cut_now()
        self._flush(self._cache)
        self._cut_now()

    def power_off(self) -> None:
        """Pull the plug: what was not synced survives as ``kept`` says. The device is silent until :meth:`power_on`."""
        if self.kept is Kept.ALL:
            self._flush(self._cache)
        elif self.kept is Kept.PART:
            # A rename of synced content has not happened; where the content was never synced, the name has half of it.
            unsynced = {name: content for name, content in self._cache.items() if self.storage.get(name + ".new") != content}
            self._flush({name: content[: len(content) // 2] for name, content in unsynced.items() if content != _GONE})
        self._cache.clear()
        self.powered = False

    def power_on(self) -> None:
        self.powered = True

    def note_received(self, certificate: bytes) -> None:
        if certificate not in self.received:
            self.received.append(certificate)
            if self._directory is not None:
                with (self._directory / "received.log").open("a") as log:
                    log.write(certificate.hex() + "\n")

    @property
    def _cutting(self) -> bool:
        return self.cut_after is not None and self.cut_after < 0

    def _operation(self) -> None:
        if not self.powered:
            raise DeviceSilent("the device does not answer")
        self.operations += 1
        if self.cut_after is not None:
            self.cut_after -= 1

    def _cut_now(self) -> None:
        if self._cutting:
            self.cut_after = None
            self.power_off()
            raise PowerCut("the device does not answer any more")

    def _flush(self, content: Mapping[str, bytes]) -> None:
        for name, value in content.items():
            if value == _GONE:
                self.storage.pop(name, None)
            else:
                self.storage[name] = value
            if self._directory is not None:
                self._flush_file(self._directory / name, value)
        if content is self._cache:
            self._cache.clear()

    @staticmethod
    def _flush_file(path: Path, value: bytes) -> None:
        if value == _GONE:
            path.unlink(missing_ok=True)
            return
        temporary = path.with_suffix(path.suffix + ".log")  # ignored when a killed process left it
        temporary.write_bytes(value)
        temporary.replace(path)


class SimulatedDriver:
    """Drives one :class:`SimulatedDevice`. ``syncs=False`` is a driver that trusts the page cache."""

    def __init__(self, device: SimulatedDevice, *, syncs: bool = True) -> None:
        self.device = device
        self._syncs = syncs

    async def identify(self) -> Device:
        await self._begin("identify")
        return Device(self.device.chip, self.device.serial, self.device.model, {"firmware": "1.0"})

    async def generate_key(self, key_type: str) -> None:
        await self._begin("generate_key")
        if key_type != "p-256":
            raise DeviceRefused(f"a simulated device makes p-256 keys only, not {key_type}")
        if self.device.key is None:
            self.device.keys_made += 1
            await self._store({"key": _pkcs8(self.device.make_key())})

    async def load_key(self, private_key: bytes) -> None:
        await self._begin("load_key")
        if self.device.read("key") != private_key:
            await self._store({"key": private_key})

    async def read_csr(self, subject: str) -> Csr:
        await self._begin("read_csr")
        key = self._key()
        builder = x509.CertificateSigningRequestBuilder(name_from_text(subject))
        request = builder.sign(cast(ec.EllipticCurvePrivateKey, key), hashes.SHA256())
        return Csr(request.public_bytes(Encoding.DER))

    async def write(self, delivery: Delivery) -> None:
        await self._begin("write")
        self.device.note_received(delivery.certificate)
        files = {"chain": b"".join(delivery.chain), "ticket": delivery.ticket, "serial": delivery.serial.encode()}
        files["certificate"] = delivery.certificate  # last: who sees it sees all the others
        await self._store({name: content for name, content in files.items() if self.device.read(name) != content})

    async def reset(self) -> None:
        """A hard reset: what was not synced is gone."""
        await self._begin("reset")
        self.device.power_off()
        await asyncio.sleep(0)
        self.device.power_on()

    async def read_back(self) -> bytes:
        await self._begin("read_back")
        return self.device.certificate

    async def prove(self, challenge: bytes) -> bytes:
        await self._begin("prove")
        key = self._key()
        return sign(key, default_algorithm(key.public_key()), challenge)

    async def lock_state(self) -> Lock:
        await self._begin("lock_state")
        return Lock.LOCKED if self.device.locked else Lock.OPEN

    async def lock(self) -> None:
        await self._begin("lock")
        if self.device.locked:
            raise DeviceRefused("the device is locked already")
        await self._store({"locked": b"1"})

    async def _begin(self, method: str) -> None:
        await asyncio.sleep(0)  # a port is I/O: others run here, and a cancellation arrives here
        if self.device.on_call is not None:
            self.device.on_call(method)
        if (fault := self.device.faults.get(method)) is not None:
            raise fault
        if not self.device.powered:
            raise DeviceSilent("the device does not answer")

    def _key(self) -> PrivateKey:
        key = self.device.key
        if key is None:
            raise DeviceRefused("the device has no key")
        return key

    async def _store(self, files: Mapping[str, bytes]) -> None:
        """All of them under a temporary name, then under their own: each file is old or new, never torn."""
        if files and self.device.locked:
            raise DeviceRefused("the device is locked: it takes nothing any more")
        for name, content in files.items():
            self.device.write_file(name + ".new", content)
            await asyncio.sleep(0)
        if files and self._syncs:
            self.device.sync()
        for name in files:
            self.device.rename(name + ".new", name)
            await asyncio.sleep(0)
        if files and self._syncs:
            self.device.sync()


class SimulatedDevices:
    """A driver module (:class:`provisioning.device.DriverModule`) whose devices sit at ``simulated:PORT``.

    Opening a port gives its device power again, as a technician does who starts the unit once more. A port is exclusive.
    """

    KEYS = frozenset(KeyOrigin)

    def __init__(self, ports: dict[str, SimulatedDevice], *, syncs: bool = True) -> None:
        self.ports = ports
        self.opened: set[str] = set()
        self._syncs = syncs

    @asynccontextmanager
    async def open_device(self, address: Address, settings: Mapping[str, Setting]) -> AsyncIterator[SimulatedDriver]:
        del settings
        if address.path in self.opened:
            raise AssertionError(f"port {address.path} was opened twice")
        device = self.ports[address.path]
        device.power_on()
        self.opened.add(address.path)
        try:
            yield SimulatedDriver(device, syncs=self._syncs)
        finally:
            self.opened.remove(address.path)


def make_devices(count: int, *, seed: int = 0, directory: Path | None = None) -> list[SimulatedDevice]:
    """``count`` devices whose chips, and keys in the order they are made, follow from ``seed``."""
    return [
        SimulatedDevice(
            f"{hashlib.sha256(f'{seed}/{number}'.encode()).hexdigest()[:16]}",
            directory=directory / f"device-{number}" if directory is not None else None,
            make_key=seeded_keys(f"{seed}/{number}"),
        )
        for number in range(count)
    ]


def seeded_keys(seed: str) -> Callable[[], PrivateKey]:
    """A source of P-256 keys that repeats itself in the next run; each call gives another key."""
    made = 0

    def make() -> PrivateKey:
        nonlocal made
        made += 1
        scalar = int.from_bytes(hashlib.sha256(f"{seed}/{made}".encode()).digest(), "big")
        return ec.derive_private_key(scalar % (2**255) + 1, ec.SECP256R1())  # below the group order, never zero

    return make


def _pkcs8(key: PrivateKey) -> bytes:
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())

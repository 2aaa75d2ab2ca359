"""The steps of a unit's life, done at a device. Every one may be done again; :mod:`provisioning.station` says why.

:class:`Work` is one unit at one driver. It keeps what it read of the device while it has it; a restart reads again.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography import x509

from gateway.errors import DeviceRefused, Forbidden, WrongDevice
from gateway.keys.generation import private_to_der, public_to_der
from gateway.keys.pool import KeyPool
from gateway.keys.signer import KeySpec
from gateway.pki.algorithms import PrivateKey, PublicKey, default_algorithm, sign, signature_is_valid
from provisioning import pkcs10
from provisioning.device import Csr, Device, Driver, KeyOrigin, Lock
from provisioning.idevid import subject_of
from provisioning.orders import WorkOrder
from provisioning.station import State, Step, Unit
from provisioning.units import Units

_CHALLENGE_OCTETS: Final = 32


class Finisher(Protocol):
    """What is done for a unit beside its device: label, ticket, production record."""

    async def label(self, order: WorkOrder, unit: Unit) -> bytes:
        """Print the label; SHA-256 of what was printed. Returns once it counts as being on the device. Raises DeviceFault."""

    async def ticket(self, order: WorkOrder, unit: Unit) -> bytes:
        """The OPC 10000-21 ticket to be written to the device; empty where the order wants none there."""

    async def conclude(self, order: WorkOrder, unit: Unit, device: Device) -> bytes:
        """Write the signed production record durably; its SHA-256."""


@dataclass(slots=True)
class Work:
    """One unit, one device, one opening of its port. Raises DeviceFault, RequestError, Unavailable."""

    units: Units
    finisher: Finisher
    pool: KeyPool
    keys: frozenset[KeyOrigin]  # what the driver can do
    driver: Driver
    device: Device
    order: WorkOrder
    by: str
    csr: Csr | None = None
    is_verified: bool = False

    async def do(self, step: Step, unit: Unit) -> Unit:
        """The unit after ``step``."""
        return await _DEEDS[step](self, unit)

    async def _read_csr(self, unit: Unit) -> Csr:
        """The device's key, made or loaded if need be, in a request that it signed itself or that the gateway did for it."""
        if unit.key_origin not in self.keys:
            raise Forbidden(f"order {self.order.id} wants keys from {unit.key_origin.value}; this driver cannot do that")
        subject = subject_of(self.order, unit.serial)
        if unit.key_origin is KeyOrigin.DEVICE:
            await self.driver.generate_key(self.order.key_type)
            return await self.driver.read_csr(subject)
        pooled = await self.pool.take(KeySpec(self.order.key_type), unit.id.encode())
        await self.driver.load_key(private_to_der(pooled.private_key))
        return Csr(_request(pooled.private_key, subject))

    async def _obtain_key(self, unit: Unit) -> Unit:
        self.csr = await self._read_csr(unit)
        return await self.units.keyed(unit, self.csr)

    async def _issue(self, unit: Unit) -> Unit:
        if self.csr is None:
            self.csr = await self._read_csr(unit)
            unit = await self.units.keyed(unit, self.csr)  # the same key as before, or quarantine
        return await self.units.issue(unit, self.csr)

    async def _write(self, unit: Unit) -> Unit:
        await self._deliver(unit)
        return await self.units.move(unit, State.WRITTEN, self.by)

    async def _deliver(self, unit: Unit) -> None:
        if unit.key_origin is KeyOrigin.POOL:  # a device may keep key and certificate as one image: a power cut takes both
            await self._read_csr(unit)
        ticket = await self.finisher.ticket(self.order, unit) if self.order.ticket else b""
        await self.driver.write(await self.units.delivery(unit, ticket))

    async def _verify(self, unit: Unit) -> Unit:
        certificate, detail = await self._proven(unit)
        unit = await self.units.verified(unit, self.by, hashlib.sha256(certificate).digest(), detail)
        self.is_verified = True
        return unit

    async def _proven(self, unit: Unit) -> tuple[bytes, str]:
        """After a reset the device holds its certificate, and its key. (certificate, what could not be proved)."""
        certificate = (await self.units.delivery(unit)).certificate
        await self.driver.reset()
        if await self.driver.read_back() != certificate:  # a power cut: it is written again, never made again
            await self._deliver(unit)
            await self.driver.reset()
            if await self.driver.read_back() != certificate:
                raise DeviceRefused("the device did not keep its certificate over a reset")
        seen = (await self.driver.identify()).chip
        if seen != unit.chip:
            raise WrongDevice(f"the device was exchanged: this is {seen}, the unit is {unit.chip}")
        challenge = secrets.token_bytes(_CHALLENGE_OCTETS)
        signature = await self.driver.prove(challenge)
        if signature:
            key = x509.load_der_x509_certificate(certificate).public_key()
            if not isinstance(key, PublicKey) or not signature_is_valid(key, default_algorithm(key), signature, challenge):
                raise WrongDevice("the device's key is not the one in its certificate")
            return certificate, ""
        if unit.key_origin is KeyOrigin.DEVICE:
            await self.units.keyed(unit, await self._read_csr(unit))
            return certificate, "the key was proved by a request, not by a challenge"
        return certificate, "this kind of device cannot prove its key"

    async def _begin_lock(self, unit: Unit) -> Unit:
        if not self.is_verified:
            await self._proven(unit)
            self.is_verified = True
        if await self.driver.lock_state() is Lock.ABSENT:
            return await self.units.move(unit, State.LOCKED, self.by, detail="this kind of device has no lock")
        return await self.units.move(unit, State.LOCKING, self.by)

    async def _lock(self, unit: Unit) -> Unit:
        if await self.driver.lock_state() is Lock.OPEN:
            await self.driver.lock()
            if await self.driver.lock_state() is not Lock.LOCKED:
                raise DeviceRefused("the device says that it is locked, and is open")
        return await self.units.move(unit, State.LOCKED, self.by)

    async def _label(self, unit: Unit) -> Unit:
        digest = await self.finisher.label(self.order, unit)
        return await self.units.move(unit, State.LABELLED, self.by, digest=digest)

    async def _confirm(self, unit: Unit) -> Unit:
        digest = await self.finisher.conclude(self.order, unit, self.device)
        return await self.units.confirm(unit, self.by, digest)


_DEEDS: Final[dict[Step, Callable[[Work, Unit], Awaitable[Unit]]]] = {
    Step.OBTAIN_KEY: Work._obtain_key,
    Step.ISSUE: Work._issue,
    Step.WRITE: Work._write,
    Step.VERIFY: Work._verify,
    Step.BEGIN_LOCK: Work._begin_lock,
    Step.LOCK: Work._lock,
    Step.LABEL: Work._label,
    Step.CONFIRM: Work._confirm,
}


def _request(key: PrivateKey, subject: str) -> bytes:
    public = key.public_key()
    algorithm = default_algorithm(public)
    information = pkcs10.request_information(subject, public_to_der(public))
    return pkcs10.request(information, algorithm, sign(key, algorithm, information))

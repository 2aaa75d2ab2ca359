"""A PKCS #11 device token on the station: a smart card, a USB token or a secure element with its maker's module.

The key is made on the token and never leaves it; the certificate becomes a certificate object beside the key, with the same
CKA_ID. The maker's module runs in a signer child (:mod:`gateway.keys.child`), so a module that crashes or hangs costs its own
port only. A PIN that a token refused is never tried on that token again, whatever restarts: tokens lock themselves.

Address: ``pkcs11:slot-id=3?module-path=/usr/lib/vendor.so`` (RFC 7512), with ``slot-id`` for a reader or ``token`` for a label.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote

from cryptography.hazmat.primitives import hashes

from gateway.errors import ConfigError, DeviceFault, DeviceRefused, DeviceSilent, PortLost, WrongDevice
from gateway.keys.frames import (
    Code,
    KeyQuery,
    Kind,
    StoreQuery,
    TokenInfo,
    TokenQuery,
    read_found_key,
    read_signed,
    sign_request,
    to_json,
    token_info,
)
from gateway.keys.generation import public_from_der
from gateway.keys.login import Login
from gateway.keys.pin import PinLedger, pin_source
from gateway.keys.process import ChildFailure, ChildGone, ChildProcess
from gateway.keys.provider import module_path
from gateway.keys.signer import KeySpec
from gateway.keys.uri import KeyUri
from gateway.keys.wrapping import WrappingKey, credentials_directory
from gateway.pki.algorithms import default_algorithm, signature_is_valid
from provisioning import pkcs10
from provisioning.device import Address, Csr, Delivery, Device, KeyOrigin, Lock, Setting

KEYS = frozenset({KeyOrigin.DEVICE})
_CHILD = "gateway.keys.child"
_OPEN_S, _LOGIN_S, _SIGN_S = 30.0, 30.0, 30.0
_GENERATE_S = 300.0  # an RSA-4096 key takes a smart card two minutes
_SPECS = frozenset(spec.value for spec in KeySpec)


@dataclass(frozen=True, slots=True)
class TokenSettings:
    """A recipe's table for this driver."""

    label: str = "idevid"  # CKA_LABEL of key and certificate
    id: str = "01"  # CKA_ID of both, in hexadecimal
    pin: str = ""  # credential:NAME or file:/PATH; empty for tokens that want none
    pin_ledger: str = ""  # directory; what became of the PIN on each token
    chain: bool = False  # write the issuers, too

    @classmethod
    def read(cls, settings: Mapping[str, Setting]) -> TokenSettings:
        """Raises ConfigError."""
        kinds: dict[str, type] = {"label": str, "id": str, "pin": str, "pin_ledger": str, "chain": bool}
        for name, value in settings.items():
            if name not in kinds:
                raise ConfigError(f"the pkcs11 driver knows no setting {name!r}; it knows {', '.join(kinds)}")
            if type(value) is not kinds[name]:
                raise ConfigError(f"the pkcs11 driver's {name} is {'true or false' if kinds[name] is bool else 'a text'}")
        read = cls(**settings)  # type: ignore[arg-type]
        try:
            identifier = bytes.fromhex(read.id)
        except ValueError:
            identifier = b""
        if not identifier or not read.label:
            raise ConfigError('the pkcs11 driver needs a label and an id in hexadecimal, as in label = "idevid", id = "01"')
        if read.pin and not read.pin.startswith(("credential:", "file:")):
            raise ConfigError("the pkcs11 driver's pin is credential:NAME or file:/PATH: the PIN itself stands in no setting")
        return read

    def ledger_directory(self) -> Path:
        """Raises ConfigError."""
        if self.pin_ledger:
            directory = Path(self.pin_ledger)
        elif state := os.environ.get("STATE_DIRECTORY"):
            directory = Path(state.split(":")[0]) / "device-pins"
        else:
            raise ConfigError("the pkcs11 driver needs pin_ledger = a directory: it notes there which PIN a token refused")
        if not directory.is_absolute():
            raise ConfigError("the pkcs11 driver's pin_ledger is an absolute path")
        return directory


@asynccontextmanager
async def open_device(address: Address, settings: Mapping[str, Setting]) -> AsyncIterator[TokenDriver]:
    """See :class:`provisioning.device.DriverModule`."""
    driver = TokenDriver(_token_query(address), TokenSettings.read(settings))
    try:
        yield driver
    finally:
        await driver.close()


def _token_query(address: Address) -> TokenQuery:
    """Raises ConfigError: the address must name a reader or a token, so that two ports never share one by accident."""
    query = "&".join(f"{name}={quote(value)}" for name, value in address.options)
    uri = KeyUri.parse(f"{address.scheme}:{quote(address.path, safe='=;')}" + (f"?{query}" if query else ""))
    if uri.slot_id is None and not uri.token and not uri.serial:
        raise ConfigError("the address of a token names its reader or itself: pkcs11:slot-id=3?module-path=/usr/lib/vendor.so")
    if uri.pin_source or uri.object or uri.id:
        raise ConfigError("the address of a token names the token only; label, id and pin are settings of the driver")
    return TokenQuery(module_path(uri), uri.token, uri.manufacturer, uri.serial, uri.model, uri.slot_id)


class TokenDriver:
    """One token in one reader. The child that holds it starts with the first call."""

    def __init__(self, query: TokenQuery, settings: TokenSettings) -> None:
        self._query = query
        self._settings = settings
        self._key = to_json(KeyQuery(settings.label, settings.id))
        self._child: ChildProcess | None = None
        self._logged_in = False
        self._ledger = settings.ledger_directory()
        self._pin = pin_source(settings.pin, credentials=credentials_directory())

    async def close(self) -> None:
        """Let the token go: its module ends with the child."""
        child, self._child, self._logged_in = self._child, None, False
        if child is not None:
            await child.close()

    async def identify(self) -> Device:
        info = await self._open()
        facts = {"manufacturer": info.manufacturer, "label": info.label}
        return Device(chip=info.serial, model=info.model, facts={name: value for name, value in facts.items() if value})

    async def generate_key(self, key_type: str) -> None:
        if key_type not in _SPECS:
            raise DeviceRefused(f"tokens make no {key_type} keys here")
        await self._login()
        query = to_json(KeyQuery(self._settings.label, self._settings.id, key_type))
        try:
            await self._call(Kind.GENERATE, query, _GENERATE_S)
        except ChildFailure as failure:
            if failure.code is not Code.EXISTS:
                await self._refuse(failure, f"the token made no {key_type} key")

    async def load_key(self, private_key: bytes) -> None:
        del private_key
        raise DeviceRefused("a token makes its key itself; it is given none")

    async def read_csr(self, subject: str) -> Csr:
        index, spki = await self._find()
        information = pkcs10.request_information(subject, spki)
        signature = await self._sign(index, spki, information)
        return Csr(pkcs10.request(information, default_algorithm(public_from_der(spki)), signature))

    async def write(self, delivery: Delivery) -> None:
        """PKCS #11 has no sync: a token object is on the token when C_CreateObject returns (v2.40 section 5.7)."""
        await self._login()
        settings = self._settings
        stores = [StoreQuery(settings.label, delivery.certificate.hex(), settings.id)]
        if settings.chain:
            for number, certificate in enumerate(delivery.chain, 1):
                stores.insert(
                    0, StoreQuery(f"{settings.label}-issuer-{number}", certificate.hex(), f"{settings.id}{number:02x}")
                )
        for store in stores:
            try:
                await self._call(Kind.STORE_CERTIFICATE, to_json(store), _SIGN_S)
            except ChildFailure as failure:
                await self._refuse(failure, "the token did not take the certificate")

    async def reset(self) -> None:
        """A new process opens the token anew: whatever it tells then comes from the token."""
        before = self._query.serial
        await self.close()
        info = await self._open()
        if before and info.serial != before:
            raise WrongDevice(f"the token was exchanged: {info.serial} is plugged in, not {before}")

    async def read_back(self) -> bytes:
        await self._login()
        try:
            return await self._call(Kind.LOAD_CERTIFICATE, self._key, _SIGN_S)
        except ChildFailure as failure:
            await self._refuse(failure, "the token did not give its certificate")

    async def prove(self, challenge: bytes) -> bytes:
        index, spki = await self._find()
        return await self._sign(index, spki, challenge)

    async def lock_state(self) -> Lock:
        return Lock.ABSENT

    async def lock(self) -> None:
        raise DeviceRefused("a token has nothing to lock")

    async def _open(self) -> TokenInfo:
        """What the token says of itself; afterwards no other token will do. Raises PortLost when there is none."""
        if self._child is None:
            try:
                self._child = await ChildProcess.spawn(_CHILD)
            except ChildGone as gone:
                raise DeviceFault(str(gone)) from gone
        try:
            info = token_info(await self._call(Kind.OPEN, to_json(self._query), _OPEN_S))
        except ChildFailure as failure:
            if failure.code is Code.OTHER_TOKEN and self._query.serial:
                raise WrongDevice(f"the token was exchanged: {failure}") from failure
            if failure.code in (Code.ABSENT, Code.OTHER_TOKEN):
                raise PortLost(f"{failure}") from failure
            await self._refuse(failure, "the token cannot be opened")
        if not info.serial:
            raise DeviceRefused("the token has no serial number: it cannot be told from another")
        self._query = replace(self._query, serial=info.serial)
        self._logged_in = False
        return info

    async def _login(self) -> None:
        """Once for each child; a PIN is tried once for each token, ever."""
        if self._child is not None and self._logged_in:
            return
        info = await self._open()
        child = self._child
        if child is None:
            raise PortLost("the token is not open")
        name = hashlib.sha256(info.serial.encode()).hexdigest()[:32]  # a serial number may hold anything
        wrapping = await asyncio.to_thread(WrappingKey.load_or_create, self._ledger / "wrapping-key")
        login = Login(self._pin, PinLedger(self._ledger / f"{name}.json", wrapping), _LOGIN_S)
        try:
            accepted = await login.attempt(child, info)
        except ChildGone as gone:
            await self._lost()
            raise PortLost(f"the token went away during its login: {gone}") from gone
        except ChildFailure as failure:
            await self._refuse(failure, "the token cannot be logged in to")
        if not accepted:
            raise DeviceRefused(f"the token {info.serial} cannot be used: {login.problem[1]}")
        self._logged_in = True

    async def _find(self) -> tuple[int, bytes]:
        await self._login()
        try:
            index, spki = read_found_key(await self._call(Kind.FIND, self._key, _SIGN_S))
        except ChildFailure as failure:
            if failure.code is Code.NO_KEY:
                raise DeviceRefused("the token has no key yet") from failure
            await self._refuse(failure, "the key cannot be looked for")
        if index < 0 or not spki:
            raise DeviceRefused("the token holds only one half of its key pair: initialise it anew")
        return index, spki

    async def _sign(self, index: int, spki: bytes, message: bytes) -> bytes:
        public_key = public_from_der(spki)
        algorithm = default_algorithm(public_key)
        digested = message
        if algorithm.hash is not None:
            digest = hashes.Hash(algorithm.hash)
            digest.update(message)
            digested = digest.finalize()
        try:
            _, signature = read_signed(await self._call(Kind.SIGN, sign_request(index, algorithm, digested), _SIGN_S))
        except ChildFailure as failure:
            await self._refuse(failure, "the token did not sign")
        if not signature_is_valid(public_key, algorithm, signature, message):
            raise WrongDevice("the token's signature does not belong to the public key that it shows")
        return signature

    async def _call(self, kind: Kind, payload: bytes, deadline_s: float) -> bytes:
        """Raises ChildFailure for the caller to judge, PortLost when the token's module or the token itself is gone."""
        if self._child is None:
            raise PortLost("the token is not open")
        try:
            return await self._child.call(kind, payload, deadline_s=deadline_s)
        except ChildGone as gone:
            await self._lost()
            raise (DeviceSilent if "did not answer" in str(gone) else PortLost)(f"the token is gone: {gone}") from gone

    async def _lost(self) -> None:
        child, self._child, self._logged_in = self._child, None, False
        if child is not None:
            await child.end("the token is gone")

    async def _refuse(self, failure: ChildFailure, what: str) -> NoReturn:
        """Modules report a pulled token in many ways: whether it is still there is asked for."""
        if failure.code is Code.TOKEN and self._child is not None:
            try:
                await self._call(Kind.PROBE, b"", _OPEN_S)
            except ChildFailure as gone:
                await self._lost()
                raise PortLost(f"{gone}") from failure
        raise DeviceRefused(f"{what}: {failure}") from failure

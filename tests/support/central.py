"""A central on a real SQLite file with software keys, and gateways that join it: keys and requests, without their daemon."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.journal.checkpoint import verifier_key
from gateway.keys.provider import KeyRing
from gateway.keys.signer import KeySpec
from gateway.keys.wrapping import WrappingKey
from gateway.pki.names import name_from_text
from sync.central.authority import AuthorityOptions, CentralAuthority
from sync.central.desired_state import DesiredOptions, DesiredStates
from sync.central.founding import Foundation
from sync.central.registry import Registry, RegistryOptions
from sync.central.revocations import Revocations
from sync.central.store import CentralStore
from sync.central.store_postgres import PostgresStore
from sync.central.store_sqlite import SqliteStore
from sync.central.work_orders import WorkOrders
from sync.joining import JoinAnswer, JoinCode, JoinRequest, open_answer
from tests.support.authority import SteppedClock

NAME = "central.example"
ROOT_SUBJECT = name_from_text("CN=Central Root CA,O=Test")
URLS = ("https://central.example:9443",)
BASE_URL = "http://central.example:9080"
_WRAPPING = bytes(range(32))


@dataclass
class Central:
    directory: Path
    clock: SteppedClock
    store: CentralStore
    ring: KeyRing
    authority: CentralAuthority
    desired: DesiredStates
    registry: Registry
    revocations: Revocations
    orders: WorkOrders

    async def join(self, gateway: NewGateway, *, group: str = "") -> JoinAnswer:
        """With a new code, all checks of both sides."""
        code = await self.registry.make_code(group=group)
        request = gateway.request(code)
        return open_answer(await self.registry.join(request), code, request)


@dataclass
class NewGateway:
    """What a gateway brings along when it joins."""

    origin: str = "plant-7/1a2b3c"
    subject: str = "CN=Plant 7 Issuing CA"
    predecessor: str = ""
    ca_key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    checkpoint_key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    client_key: bytes = b""

    def csr(self) -> x509.CertificateSigningRequest:
        builder = x509.CertificateSigningRequestBuilder().subject_name(name_from_text(self.subject))
        return builder.sign(self.ca_key, hashes.SHA256())

    def request(self, code: JoinCode) -> bytes:
        """A join request; each call another one, because of the signature under the CSR."""
        return JoinRequest(
            code=code.name, name=self.origin.partition("/")[0], origin=self.origin,
            vkey=verifier_key(self.origin, self.checkpoint_key.public_key()), incarnation="1a2b3c4d",
            csr=self.csr().public_bytes(Encoding.PEM).decode(),
            client_key=self.client_key or hashlib.sha256(self.origin.encode()).digest(), time_ms=5,
            predecessor=self.predecessor,
        ).to_bytes(code.secret)  # fmt: skip


def keyring(directory: Path) -> KeyRing:
    return KeyRing(directory / "keys", WrappingKey(_WRAPPING))


@asynccontextmanager
async def central(
    directory: Path,
    clock: SteppedClock | None = None,
    *,
    found: bool = True,
    root_uri: str = "software:root",
    automatic_renewal: bool = True,
    dsn: str = "",
) -> AsyncIterator[Central]:
    """An open central in ``directory``; founded with a self-signed root where there is none yet. ``dsn`` of a PostgreSQL
    database, which several may share that have one ``directory``."""
    clock = clock or SteppedClock()
    directory.mkdir(exist_ok=True)
    store: CentralStore = (
        await PostgresStore.open(dsn, connections=4) if dsn else await SqliteStore.open(directory / "central.db")
    )
    ring = keyring(directory)
    try:
        foundation = Foundation(store, ring, clock)
        if found:
            await foundation.begin(NAME, root_uri, KeySpec.P256)
            await foundation.self_signed(ROOT_SUBJECT, 3650)
        authority = await CentralAuthority.open(store, ring, clock, AuthorityOptions(NAME, BASE_URL))
        desired = DesiredStates(store, authority, clock, DesiredOptions())
        registry = Registry(store, authority, desired, clock, RegistryOptions(URLS, automatic_renewal))
        revocations = Revocations(store, desired, clock)
        orders = WorkOrders(store, desired, clock)
        yield Central(directory, clock, store, ring, authority, desired, registry, revocations, orders)
    finally:
        await ring.close()
        await store.close()

"""A central that answers over real TLS on a free port of 127.0.0.1, in the test's process, and gateways that joined it."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from gateway.keys.tls_identity import load_identity
from gateway.protocols.server import Endpoint, Limits, Listener
from gateway.protocols.tls import ServerTls
from sync.central.bundle_identity import BundleIdentity
from sync.central.bundles import Bundles
from sync.central.limits import Allowance
from sync.central.lists import CentralLists
from sync.central.projector import Projector
from sync.central.server_identity import ServerIdentity, TlsIdentity
from sync.central.service import Ingest
from sync.central.sync_api import SyncEndpoint
from sync.client import CentralClient, client_context
from sync.joining import JoinAnswer
from tests.support.authority import SteppedClock
from tests.support.central import Central, NewGateway, central
from tests.support.edge import Edge

HOUR_MS = 3_600_000


@dataclass
class Served:
    """An open central and where it listens. ``now_ms`` is the monotonic clock of the limit on joining."""

    central: Central
    ingest: Ingest
    lists: CentralLists
    bundles: Bundles
    bundle_identity: BundleIdentity
    projector: Projector
    url: str = ""
    now_ms: int = 0

    @property
    def clock(self) -> SteppedClock:
        return self.central.clock

    @property
    def root(self) -> bytes:
        """Central's CA certificate, DER."""
        return self.central.authority.identity.certificate

    def context(self, device: Device | None = None) -> ssl.SSLContext:
        """Trusts this central; presents the certificate of ``device``."""
        context = client_context(self.root)
        if device is not None:
            load_identity(context, device.certificate, device.chain, device.key)
        return context

    def client(self, device: Device | None = None) -> CentralClient:
        return CentralClient([self.url], self.context(device))

    async def project(self) -> None:
        """Until the tables say everything that the records do."""
        while await self.projector.step():
            pass


@dataclass(frozen=True)
class Device:
    """A TLS client with a certificate."""

    key: ec.EllipticCurvePrivateKey
    certificate: bytes
    chain: tuple[bytes, ...]


@dataclass(frozen=True)
class Joined:
    """A gateway that has joined: its journal, its TLS client certificate, and what central answered."""

    edge: Edge
    device: Device
    answer: JoinAnswer


def spki_digest(key: ec.EllipticCurvePrivateKey) -> bytes:
    return hashlib.sha256(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def client_certificate(
    name: str, key: ec.EllipticCurvePrivateKey, ca: bytes, ca_key: ec.EllipticCurvePrivateKey, *, days: int = 30
) -> bytes:
    issuer = x509.load_der_x509_certificate(ca)
    begin = datetime.now(UTC) - timedelta(days=400)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(issuer.subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(begin).not_valid_after(begin + timedelta(days=400 + days))
    builder = builder.add_extension(x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    return builder.sign(ca_key, hashes.SHA256()).public_bytes(Encoding.DER)


async def joined(served: Served, edge: Edge, *, group: str = "", days: int = 30) -> Joined:
    """``edge`` joins over a direct call; its TLS client certificate comes from its new sub-CA and ends in ``days`` days."""
    key = ec.generate_private_key(ec.SECP256R1())
    gateway = NewGateway(
        edge.origin, f"CN=CA of {edge.name}", ca_key=edge.ca_key, checkpoint_key=edge.key, client_key=spki_digest(key)
    )  # fmt: skip
    answer = await served.central.join(gateway, group=group)
    certificate = client_certificate(edge.name, key, answer.certificate, edge.ca_key, days=days)
    return Joined(edge, Device(key, certificate, (answer.certificate,)), answer)


@asynccontextmanager
async def served(
    directory: Path,
    clock: SteppedClock | None = None,
    *,
    joins_per_s: int = 0,
    more: Callable[[Served], Sequence[Endpoint]] = lambda _: (),
) -> AsyncIterator[Served]:
    """``more`` gives endpoints beside that of the gateways. ``joins_per_s`` as in the application, 0 for no limit."""
    async with central(directory, clock) as one:
        lists = CentralLists(one.store, one.authority, one.clock)
        ingest = Ingest(one.store, cosign=one.authority.cosign, clock=one.clock)
        bundle_identity = BundleIdentity(one.store, one.authority, one.ring.software, one.clock)
        bundles = Bundles(one.store, one.authority, ingest, lists, one.clock, identity=bundle_identity)
        projector = Projector(one.store, one.clock, revoke=one.revocations.revoke)
        made = Served(one, ingest, lists, bundles, bundle_identity, projector)
        tls = ServerTls()
        tls.add_trust_anchors((made.root,))

        def use(identity: TlsIdentity) -> None:
            tls.replace_certificate(identity.certificate, identity.chain, identity.key)

        identity = ServerIdentity(
            store=one.store, authority=one.authority, keys=one.ring.software, clock=one.clock,
            names=("localhost", "127.0.0.1"), validity_hours=720, use=use,
        )  # fmt: skip
        await identity.renew_due()
        sync = SyncEndpoint(ingest, one.registry, lists, Allowance(joins_per_s, 0, 0), lambda: made.now_ms)
        listener = Listener("https", (sync, *more(made)), limits=Limits(), tls=tls)
        await listener.start()
        made.url = f"https://localhost:{listener.addresses[0][1]}"
        try:
            yield made
        finally:
            await listener.close(grace_s=0)

"""A complete authority on real parts for tests: journal file, software CA below a root, builtin profiles, revocation lists.

Everything lives in one directory; opening it again is a restart. Faults are put in at the seams: :class:`FaultyJournal` fails
the n-th append, :class:`FaultySigner` counts, holds up and fails signatures.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.authority.authority import Authority, AuthorityOptions
from gateway.authority.crl import CrlOptions
from gateway.authority.policy import Policy
from gateway.authority.policy_tables import Table, policy_from_tables
from gateway.authority.requests import EnrollmentRequest, Lane, Operation, Requester, RequesterKind
from gateway.clock import MonotonicClock
from gateway.errors import GatewayError, SignerUnavailable
from gateway.journal.journal import Journal, JournalOptions
from gateway.journal.records import CaActivated, Payload, Record
from gateway.keys.pool import KeyPool
from gateway.keys.signer import KeySpec, Priority, Signer, SignerHealth
from gateway.keys.software import SoftwareKeys
from gateway.keys.wrapping import WrappingKey
from gateway.pki.algorithms import PublicKey, SignatureAlgorithm
from gateway.pki.csr import CertificationRequest, read_csr
from gateway.pki.names import name_from_text
from gateway.pki.sans import san_from_text

#: Where the tests' clock begins: 2026-09-21.
START_MS = 1_790_000_000_000
DAY_MS = 86_400_000
_WRAPPING = bytes(range(32))
_JOURNAL_KEY = bytes(range(32, 64))
OPERATOR = Requester(RequesterKind.OPERATOR, "operator:test")
GATEWAY = Requester(RequesterKind.GATEWAY, "gateway:test")


class SteppedClock(MonotonicClock):
    """A clock that moves only when told to; also backwards, which is what :meth:`behind_ms` then says."""

    def __init__(self, start_ms: int = START_MS) -> None:
        self.source_ms = start_ms
        super().__init__(lambda: self.source_ms)

    def advance(self, milliseconds: int) -> None:
        self.source_ms += milliseconds


@cache
def device_key(index: int = 0) -> ec.EllipticCurvePrivateKey:
    """The same P-256 key for the same index during one run."""
    return ec.generate_private_key(ec.SECP256R1())


def device_csr(
    subject: str = "CN=plc-7,serialNumber=SN-7",
    san: Sequence[str] = (),
    *,
    key: Any = None,
) -> CertificationRequest:
    """A signed request, read as an endpoint reads it. ``key`` is a private key or the index of a :func:`device_key`."""
    private_key = device_key(key or 0) if key is None or isinstance(key, int) else key
    builder = x509.CertificateSigningRequestBuilder().subject_name(name_from_text(subject))
    if san:
        names = x509.SubjectAlternativeName([san_from_text(text) for text in san])
        builder = builder.add_extension(names, critical=False)
    return read_csr(builder.sign(private_key, hashes.SHA256()).public_bytes(Encoding.DER))


def enrollment(
    csr: CertificationRequest | None = None,
    *,
    profile: str = "ldevid",
    requester: Requester = OPERATOR,
    operation: Operation = Operation.ENROLL,
    lane: Lane = Lane.BULK,
    transaction: bytes = b"",
) -> EnrollmentRequest:
    return EnrollmentRequest(csr or device_csr(), profile, requester, operation, "est", lane, transaction)


@dataclass(frozen=True)
class TestCa:
    """A root, and certificates below it."""

    __test__ = False
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @classmethod
    def make(cls, common_name: str) -> TestCa:
        key = ec.generate_private_key(ec.SECP256R1())
        name = name_from_text(f"CN={common_name}")
        return cls(key, _certificate(name, name, key.public_key(), key, ca=True, path_length=None))

    def subordinate(self, common_name: str, public_key: Any) -> bytes:
        name = name_from_text(f"CN={common_name}")
        certificate = _certificate(name, self.certificate.subject, public_key, self.key, ca=True, path_length=0)
        return certificate.public_bytes(Encoding.DER)

    def idevid(self, subject: str, public_key: Any, *, days: int = 3650) -> bytes:
        """An IDevID of a maker whose root this is."""
        name = name_from_text(subject)
        certificate = _certificate(name, self.certificate.subject, public_key, self.key, ca=False, path_length=None, days=days)
        return certificate.public_bytes(Encoding.DER)


def _certificate(  # type: ignore[no-untyped-def]
    name, issuer, public_key, issuer_key, *, ca: bool, path_length: int | None, days: int = 3650
) -> x509.Certificate:
    start = datetime.fromtimestamp(START_MS // 1000, UTC) - timedelta(days=30)
    usage = x509.KeyUsage(
        digital_signature=not ca, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=ca, crl_sign=ca, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(usage, critical=True)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


class FaultySigner:
    """A signer that counts, waits at :attr:`gate` and fails with :attr:`failure` on demand."""

    def __init__(self, inner: Signer) -> None:
        self._inner = inner
        self.signatures = 0
        self.priorities: list[Priority] = []
        self.failure: BaseException | None = None
        self.absence: BaseException | None = None
        self.gate: asyncio.Event | None = None
        self.reached = asyncio.Event()

    @property
    def uri(self) -> str:
        return self._inner.uri

    @property
    def public_key(self) -> PublicKey:
        return self._inner.public_key

    @property
    def algorithm(self) -> SignatureAlgorithm:
        return self._inner.algorithm

    async def ready(self) -> None:
        if self.absence is not None:
            raise self.absence
        await self._inner.ready()

    async def sign(self, message: bytes, *, priority: Priority = Priority.BULK) -> bytes:
        self.reached.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        self.signatures += 1
        self.priorities.append(priority)
        return await self._inner.sign(message, priority=priority)

    def health(self) -> SignerHealth:
        return self._inner.health()

    async def unlock(self, pin: str) -> None:
        await self._inner.unlock(pin)

    async def close(self) -> None:
        await self._inner.close()


class FaultyKeyring:
    """Opens software keys behind one :class:`FaultySigner` each."""

    def __init__(self, keys: SoftwareKeys) -> None:
        self._keys = keys
        self.signers: list[FaultySigner] = []

    async def open(self, uri: str, expected: PublicKey | None = None) -> Signer:
        signer = FaultySigner(self._keys.signer(uri.removeprefix("software:")))
        self.signers.append(signer)
        return signer


class FaultyJournal:
    """The real journal, whose n-th append from now on fails, before or after it became durable."""

    def __init__(self, inner: Journal) -> None:
        self.inner = inner
        self.appended: list[Payload] = []
        self._until: int | None = None
        self._error: GatewayError = SignerUnavailable("unused")
        self._persisted = False
        self._once = True

    def fail_append(self, nth: int, error: GatewayError, *, persisted: bool = False, once: bool = True) -> None:
        """Let the ``nth`` append (1: the next) raise ``error``; all after it too unless ``once``."""
        self._until, self._error, self._persisted, self._once = nth, error, persisted, once

    async def append(self, *payloads: Payload, urgent: bool = False) -> tuple[Record, ...]:
        fails = False
        if self._until is not None:
            self._until = max(0, self._until - 1)
            fails = self._until == 0
            if fails and self._once:
                self._until = None
        if fails and not self._persisted:
            raise self._error
        records = await self.inner.append(*payloads, urgent=urgent)
        if fails:
            raise self._error
        self.appended.extend(payloads)
        return records

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


@dataclass
class World:
    """A running authority and what the tests reach into."""

    authority: Authority
    journal: FaultyJournal
    keyring: FaultyKeyring
    clock: SteppedClock
    directory: Path
    root: TestCa
    keys: SoftwareKeys
    options: AuthorityOptions = field(repr=False)

    @property
    def signer(self) -> FaultySigner:
        """The CA's signer, of the first generation."""
        return self.keyring.signers[0]

    def of_kind(self, kind: type[Payload]) -> list[Payload]:
        """What was appended since opening, of one kind."""
        return [payload for payload in self.journal.appended if isinstance(payload, kind)]

    async def recorded(self, *kinds: type[Payload]) -> list[Payload]:
        """All records of these kinds in the file."""
        return [record.payload async for record in self.journal.inner.scan(*kinds)]

    async def token(self, profile: str = "ldevid", *, uses: int = 1, subject: str = "", station: bool = False) -> Requester:
        """A new token, authenticated."""
        made = await self.authority.tokens.create(
            profile, operator="test", validity_s=3600, uses=uses, subject=subject, station=station
        )
        return await self.authority.authenticator.password(made.token_id, made.secret)


def policy_of(tables: Mapping[str, Table] | None = None, **options: Any) -> Policy:
    version = options.pop("version", 1)
    return policy_from_tables(tables or {}, hashlib.sha256(repr(tables).encode()).digest(), version, **options)


@asynccontextmanager
async def authority_in(
    directory: Path,
    *,
    tables: Mapping[str, Table] | None = None,
    policy: Policy | None = None,
    clock: SteppedClock | None = None,
    root: TestCa | None = None,
    activate: bool = True,
    adjust: Callable[[AuthorityOptions], AuthorityOptions] = lambda options: options,
) -> AsyncIterator[World]:
    """The authority of ``directory``: a new one with an active CA, or the one that was there (give the same ``root``)."""
    clock = clock or SteppedClock()
    root = root or TestCa.make("Test Root")
    wrapping = WrappingKey(_WRAPPING)
    keys = SoftwareKeys(directory / "keys", wrapping)
    options = JournalOptions(directory / "journal.db", directory / "anchor", disk_warn=0.998, disk_refuse=0.999)
    key = Ed25519PrivateKey.from_private_bytes(_JOURNAL_KEY)
    if options.path.exists():
        journal = await Journal.open(options, key=key, clock=clock)
    else:
        journal = await Journal.create(
            options, origin="gateway.test/1", key_name="gateway.test", key=key, clock=clock, random=bytes(16)
        )
        if activate:
            await journal.append(activation(root, keys))
    faulty = FaultyJournal(journal)
    keyring = FaultyKeyring(keys)
    authority_options = adjust(
        AuthorityOptions(
            delegated=directory / "delegated",
            crl=CrlOptions(directory / "crl", urls=("http://pki.test/crl/",), ocsp_urls=("http://pki.test/ocsp",)),
        )
    )
    try:
        authority = await Authority.open(
            authority_options,
            journal=cast(Journal, faulty),
            keyring=keyring,
            keys=keys,
            pool=KeyPool(directory / "pool", wrapping, {}, clock),
            policy=policy or policy_of(tables),
            clock=clock,
        )
        try:
            yield World(authority, faulty, keyring, clock, directory, root, keys, authority_options)
        finally:
            await authority.issuer.finish()
    finally:
        await journal.close()  # also when the authority did not start: an open journal keeps its thread


def activation(root: TestCa, keys: SoftwareKeys, generation: int = 1) -> CaActivated:
    """The record of a CA with a software key, certified by ``root``."""
    name = "ca" if generation == 1 else f"ca-{generation}"
    public_key = keys.load_or_generate(name, KeySpec.P256).public_key()
    certificate = root.subordinate(f"Test Issuing CA {generation}", public_key)
    return CaActivated(generation, f"software:{name}", certificate, (root.der,), "test")

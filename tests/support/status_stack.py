"""A journal on disk, software keys and a CA made by the real ceremony, for the tests of certificate status.

:meth:`StatusStack.enroll` is the seam of the issuer: it records and signs real certificates without policy, lanes or quota.
"""

from __future__ import annotations

import hashlib
import itertools
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.authority.generations import Generations
from gateway.authority.lifecycle import Ceremony, DemoRoot, demo_ca
from gateway.authority.requests import EnrollmentRequest, Issued, Outcome
from gateway.authority.revoke import Revoker
from gateway.authority.status import RevocationStatus
from gateway.clock import MonotonicClock, system_time_ms
from gateway.errors import SignerUnavailable
from gateway.journal import records
from gateway.journal.journal import Journal, JournalOptions
from gateway.keys.provider import KeyRing
from gateway.keys.signer import KeyState, Priority, Signer, SignerHealth
from gateway.keys.wrapping import WrappingKey
from gateway.pki.algorithms import PublicKey, SignatureAlgorithm
from gateway.pki.csr import read_csr
from gateway.pki.names import name_from_text
from gateway.pki.profiles import BUILTIN_PROFILES
from gateway.pki.tbs import Publication, assemble, build_tbs, new_serial

OPERATOR = "test operator"


class CountingSigner:
    """A signer that counts what it was asked for, and can be unplugged."""

    def __init__(self, inner: Signer) -> None:
        self.inner = inner
        self.operations = 0
        self.refusals = 0
        self.unplugged = False

    @property
    def uri(self) -> str:
        return self.inner.uri

    @property
    def public_key(self) -> PublicKey:
        return self.inner.public_key

    @property
    def algorithm(self) -> SignatureAlgorithm:
        return self.inner.algorithm

    async def ready(self) -> None:
        if self.unplugged:
            self.refusals += 1
            raise SignerUnavailable("the token is unplugged", retry_after=5)

    async def sign(self, message: bytes, *, priority: Priority = Priority.BULK) -> bytes:
        if self.unplugged:
            self.refusals += 1
            raise SignerUnavailable("the token is unplugged", retry_after=5)
        self.operations += 1
        return await self.inner.sign(message, priority=priority)

    def health(self) -> SignerHealth:
        return SignerHealth(self.uri, KeyState.DOWN if self.unplugged else KeyState.UP)

    async def unlock(self, pin: str) -> None:
        await self.inner.unlock(pin)

    async def close(self) -> None:
        await self.inner.close()


class CountingKeys:
    """A key ring whose keys count."""

    def __init__(self, ring: KeyRing) -> None:
        self.ring = ring
        self.signers: dict[str, CountingSigner] = {}

    async def open(self, uri: str, expected: PublicKey | None = None) -> Signer:
        self.signers[uri] = CountingSigner(await self.ring.open(uri, expected))
        return self.signers[uri]


class SetClock:
    """A source of time that tests move."""

    def __init__(self) -> None:
        self.offset_ms = 0

    def __call__(self) -> int:
        return system_time_ms() + self.offset_ms

    def advance(self, **duration: float) -> None:
        self.offset_ms += int(timedelta(**duration).total_seconds() * 1000)


@dataclass
class StatusStack:
    directory: Path
    time: SetClock
    clock: MonotonicClock
    journal: Journal
    ring: KeyRing
    keys: CountingKeys
    ceremony: Ceremony
    generations: Generations
    status: RevocationStatus
    revoker: Revoker
    root: DemoRoot | None = None
    publication: Publication = field(default_factory=Publication)
    enrolled: int = 0

    @property
    def signer(self) -> CountingSigner:
        """The active generation's."""
        return self.keys.signers[self.generations.active.signer.uri]

    async def activate_demo(self) -> None:
        self.root = await demo_ca(self.ceremony, self.clock, uri="software:ca-1", name="Plant", operator=OPERATOR)
        await self.generations.refresh()

    async def enroll(self, request: EnrollmentRequest, *, generation: int | None = None) -> Outcome:
        ca = self.generations.active if generation is None else self.generations.get(generation)
        assert ca is not None
        now_ms = self.clock.now_ms()
        found = await self.journal.find_issued(request.idempotency_key, now_ms - 3_600_000)
        if found is not None:
            issued = found[1].payload
            intent = found[0].payload
            assert isinstance(issued, records.Issued)
            assert isinstance(intent, records.Intent)
            certificate = assemble(intent.tbs, ca.ca.algorithm, issued.signature)
            return Issued(certificate, int(issued.serial, 16), (ca.certificate, *ca.chain), found[1].seq, repeated=True)
        serial = new_serial(now_ms, hashlib.sha256(next(_unique).to_bytes(8, "big")).digest()[:12])
        tbs = build_tbs(
            profile=BUILTIN_PROFILES[request.profile],
            ca=ca.ca,
            request=request.csr,
            serial=serial,
            now_ms=now_ms,
            publication=self.publication,
        )
        intent = records.Intent(
            serial=f"{serial:x}", tbs=tbs, algorithm=ca.ca.algorithm.name, generation=ca.number, profile=request.profile,
            protocol="test", operation="enroll", requester=request.requester.identity, csr_digest=bytes(32),
            spki_digest=bytes(32), policy_version=1, idempotency_key=request.idempotency_key,
        )  # fmt: skip
        (planned,) = await self.journal.append(intent)
        signature = await ca.signer.sign(tbs)
        certificate = assemble(tbs, ca.ca.algorithm, signature)
        digest = hashlib.sha256(certificate).digest()
        payload = records.Issued(planned.seq, f"{serial:x}", signature, digest, request.idempotency_key)
        (record,) = await self.journal.append(payload)
        self.enrolled += 1
        return Issued(certificate, serial, (ca.certificate, *ca.chain), record.seq)

    async def issue(self, common_name: str = "device") -> x509.Certificate:
        """A tls-client certificate of the active generation, without counting the signature."""
        key = ec.generate_private_key(ec.SECP256R1())
        builder = x509.CertificateSigningRequestBuilder().subject_name(name_from_text(f"CN={common_name}"))
        csr = read_csr(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER))
        ca = self.generations.active
        serial = new_serial(self.clock.now_ms(), hashlib.sha256(next(_unique).to_bytes(8, "big")).digest()[:12])
        tbs = build_tbs(
            profile=BUILTIN_PROFILES["tls-client"],
            ca=ca.ca,
            request=csr,
            serial=serial,
            now_ms=self.clock.now_ms(),
            publication=self.publication,
        )
        await self.plan(serial, tbs)
        signature = await self.signer.inner.sign(tbs)
        certificate = assemble(tbs, ca.ca.algorithm, signature)
        digest = hashlib.sha256(certificate).digest()
        seq = self.journal.head.open_intents[-1]
        await self.journal.append(records.Issued(seq, f"{serial:x}", signature, digest, bytes(32)))
        return x509.load_der_x509_certificate(certificate)

    async def plan(self, serial: int, tbs: bytes = b"\x30\x00") -> records.Record:
        """An intent that nothing follows."""
        ca = self.generations.active
        intent = records.Intent(
            serial=f"{serial:x}", tbs=tbs, algorithm=ca.ca.algorithm.name, generation=ca.number, profile="tls-client",
            protocol="test", operation="enroll", requester="test", csr_digest=bytes(32), spki_digest=bytes(32),
            policy_version=1, idempotency_key=bytes(32),
        )  # fmt: skip
        (record,) = await self.journal.append(intent)
        return record

    async def void(self, serial: int) -> records.Record:
        """An intent that became void."""
        planned = await self.plan(serial)
        (record,) = await self.journal.append(records.Void(planned.seq, f"{serial:x}", "test"), urgent=True)
        self.status.apply(record, self.generations.active.number)
        return record

    def write_chain(self) -> None:
        """root.pem and ca.pem (all issuing generations) for openssl."""
        assert self.root is not None
        (self.directory / "root.pem").write_bytes(pem(self.root.certificate))
        cas = b"".join(pem(generation.certificate) for generation in self.generations.all)
        (self.directory / "ca.pem").write_bytes(cas)

    def openssl(self, *arguments: str) -> str:
        """Standard output and error of openssl, run in the directory."""
        command = ["openssl", *arguments]
        result = subprocess.run(command, cwd=self.directory, capture_output=True, text=True, check=False)
        return result.stdout + result.stderr


_unique = itertools.count()


def pem(certificate: bytes) -> bytes:
    return x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM)


@asynccontextmanager
async def status_stack(
    directory: Path, *, demo: bool = True, time: SetClock | None = None, changes_from_ms: int = 0
) -> AsyncIterator[StatusStack]:
    """Open the stack in ``directory``; the first time with a new journal and, with ``demo``, a CA."""
    source = time or SetClock()
    clock = MonotonicClock(source)
    options = JournalOptions(directory / "journal.db", None, disk_warn=1.0, disk_refuse=1.0)
    key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    new = not options.path.exists()
    if new:
        journal = await Journal.create(
            options, origin="gateway.test/1", key_name="gateway.test", key=key, clock=clock, random=bytes(16)
        )
    else:
        journal = await Journal.open(options, key=key, clock=clock)
    ring = KeyRing(directory / "keys", WrappingKey(bytes(32)))
    keys = CountingKeys(ring)
    try:
        generations = await Generations.load(journal, keys)
        status = await RevocationStatus.load(journal, changes_from_ms=changes_from_ms)
        ceremony = Ceremony(journal, ring, clock)
        revoker = Revoker(journal, status, clock)
        stack = StatusStack(directory, source, clock, journal, ring, keys, ceremony, generations, status, revoker)
        if new and demo:
            await stack.activate_demo()
        yield stack
    finally:
        await ring.close()
        await journal.close()


def now() -> datetime:
    return datetime.now(UTC)

"""Journals in temporary places, and payloads that look like the real thing, for the tests."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.clock import MonotonicClock
from gateway.journal.journal import Journal, JournalOptions
from gateway.journal.records import Intent, Issued, Record
from gateway.pki.algorithms import SignatureAlgorithm, sign
from gateway.pki.tbs import assemble

ORIGIN = "line.example/gateway-7"
START_MS = 1_763_700_000_000
KEY = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"checkpoint key of the tests").digest())
CA_KEY = ec.derive_private_key(int.from_bytes(hashlib.sha256(b"CA key of the tests").digest(), "big") >> 1, ec.SECP256R1())


@dataclass(slots=True)
class Hands:
    """A clock's source that a test moves by hand."""

    now: int = START_MS

    def __call__(self) -> int:
        return self.now


@dataclass(slots=True)
class Place:
    """Where one journal lives, and its clock."""

    directory: Path
    hands: Hands = field(default_factory=Hands)
    key: Ed25519PrivateKey = KEY

    @property
    def options(self) -> JournalOptions:
        # Thresholds that no disk of a machine for tests reaches: what is full is what a test says is full.
        return JournalOptions(self.directory / "journal.db", self.directory / "anchor", disk_warn=1.1, disk_refuse=1.2)

    @property
    def path(self) -> Path:
        return self.options.path

    @property
    def anchor(self) -> Path:
        return self.directory / "anchor"

    def clock(self) -> MonotonicClock:
        return MonotonicClock(self.hands)

    async def create(self, options: JournalOptions | None = None) -> Journal:
        return await Journal.create(
            options or self.options, origin=ORIGIN, key_name=ORIGIN, key=self.key, clock=self.clock(), random=bytes(range(16))
        )

    async def open(self, options: JournalOptions | None = None) -> Journal:
        return await Journal.open(options or self.options, key=self.key, clock=self.clock())


def intent(number: int, *, quota: tuple[str, ...] = ("line-a",), key: bytes | None = None) -> Intent:
    """The plan of certificate ``number``; the TBS is a well-formed SEQUENCE of about 300 octets, unique per number."""
    content = hashlib.sha512(number.to_bytes(8, "big")).digest() * 5
    return Intent(
        serial=f"{(START_MS << 64) + (number << 32) + 7:x}",
        tbs=b"\x30\x82" + len(content).to_bytes(2, "big") + content,
        algorithm=SignatureAlgorithm.ECDSA_SHA256.name,
        generation=1,
        profile="tls-client",
        protocol="est",
        operation="simpleenroll",
        requester="certificate:0a1b",
        csr_digest=hashlib.sha256(b"csr%d" % number).digest(),
        spki_digest=hashlib.sha256(b"spki%d" % number).digest(),
        policy_version=3,
        idempotency_key=hashlib.sha256(b"key%d" % number).digest() if key is None else key,
        quota=quota,
    )


def issued(record: Record) -> Issued:
    """What completes an intent: a signature by the tests' CA key over its TBS."""
    plan = record.payload
    assert isinstance(plan, Intent)
    signature = sign(CA_KEY, SignatureAlgorithm.ECDSA_SHA256, plan.tbs)
    certificate = assemble(plan.tbs, SignatureAlgorithm.ECDSA_SHA256, signature)
    return Issued(record.seq, plan.serial, signature, hashlib.sha256(certificate).digest(), plan.idempotency_key)


async def issue(journal: Journal, number: int, **changes: object) -> tuple[Record, Record]:
    """One certificate the way the authority does it: the intent durable first, then what was signed."""
    (plan,) = await journal.append(intent(number, **changes))  # type: ignore[arg-type]
    (done,) = await journal.append(issued(plan))
    return plan, done


async def real_issue(journal: Journal, number: int) -> tuple[Record, Record]:
    """Like :func:`issue`, with a TBS that any X.509 parser reads."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"device-{number}")]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "CA of the tests")]))
        .serial_number((START_MS << 64) + (number << 32) + 7)
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2027, 1, 1, tzinfo=UTC))
        .public_key(CA_KEY.public_key())
    )
    tbs = builder.sign(CA_KEY, hashes.SHA256()).tbs_certificate_bytes
    (plan,) = await journal.append(replace(intent(number), tbs=tbs))
    (done,) = await journal.append(issued(plan))
    return plan, done

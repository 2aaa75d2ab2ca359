"""A gateway as central sees it: a journal in memory with real records and signatures and a real CA, and what it would send."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from gateway.journal.checkpoint import Checkpoint, sign_note, verifier_key
from gateway.journal.merkle import Frontier
from gateway.journal.records import (
    CaActivated,
    Genesis,
    Intent,
    Issued,
    Payload,
    PolicyApplied,
    Record,
    Revoked,
    Void,
    encode,
    leaf_hash,
)
from gateway.journal.statements import sign_statement
from gateway.pki.algorithms import SignatureAlgorithm, sign
from gateway.pki.tbs import assemble
from sync.central.rows import Journal
from sync.wire import HELLO, URGENT, Batch, Hello, Urgent

START_MS = 1_763_700_000_000
CENTRAL_KEY = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"cosign key of the tests").digest())
CENTRAL_VKEY = verifier_key("central.example", CENTRAL_KEY.public_key())


def ec_key(name: str) -> ec.EllipticCurvePrivateKey:
    """The same key for the same name."""
    return ec.derive_private_key(int.from_bytes(hashlib.sha256(name.encode()).digest(), "big") >> 1, ec.SECP256R1())


def spki_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """SHA-256 of the key's SubjectPublicKeyInfo."""
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).digest()


def ca_certificate(name: str, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """Self-signed: who certified a sub-CA is another part's matter."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begin = datetime.fromtimestamp(START_MS / 1000, UTC)
    usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
    return (
        x509.CertificateBuilder(subject, subject, key.public_key(), 7, begin, begin + timedelta(days=3650))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


class Edge:
    """The gateway ``name``. Records are appended with :meth:`add` and what stands on it; nothing is sent by itself."""

    def __init__(self, name: str = "one", *, activated: bool = True) -> None:
        self.name, self.origin = name, f"plant.example/{name}"
        self.key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(self.origin.encode()).digest())
        self.vkey = verifier_key(self.origin, self.key.public_key())
        self.incarnation = hashlib.sha256(f"start of {name}".encode()).hexdigest()[:32]
        self.ca_key = ec_key(f"CA of {name}")
        self.ca = ca_certificate(f"CA of {name}", self.ca_key)
        self.records: list[bytes] = []
        self.now_ms = START_MS
        self.add(Genesis(self.origin, self.vkey, "00", "1"))
        self.add(PolicyApplied(1, "file", bytes(32)))
        if activated:
            self.activate()

    @property
    def key_id(self) -> bytes:
        """The CA's subjectKeyIdentifier."""
        return self.ca.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest

    @property
    def size(self) -> int:
        return len(self.records)

    def row(self, number: int = 1) -> Journal:
        """As central registers it."""
        return Journal(self.origin, number, self.name, self.vkey, hashlib.sha256(self.origin.encode()).digest(), START_MS)

    # Records.

    def add(self, *payloads: Payload) -> int:
        """Append; the seq of the last one."""
        for payload in payloads:
            self.now_ms += 10
            self.records.append(encode(Record(self.size, self.now_ms, payload)))
        return self.size - 1

    def activate(self, generation: int = 1) -> int:
        return self.add(CaActivated(generation, "software:ca", self.ca.public_bytes(Encoding.DER), (), "operator"))

    def serial(self, number: int) -> int:
        """The serial number of certificate ``number``."""
        return (START_MS << 96) + (number << 32) + 7

    def plan(self, number: int, *, device: str = "", key: str = "", predecessor: int = 0, **changes: object) -> Intent:
        """The intent of certificate ``number`` for ``device`` with the key of that name."""
        private = ec_key(key or f"key {self.name} {number}")
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, f"device-{number}")]
        if device:
            attributes.append(x509.NameAttribute(NameOID.SERIAL_NUMBER, device))
        begin = datetime.fromtimestamp(START_MS / 1000, UTC)
        serial, names = self.serial(number), x509.SubjectAlternativeName([x509.DNSName(f"device-{number}.example")])
        signed = (
            x509.CertificateBuilder(
                self.ca.subject, x509.Name(attributes), private.public_key(), serial, begin, begin + timedelta(days=365)
            )
            .add_extension(names, critical=False)
            .sign(self.ca_key, hashes.SHA256())
        )
        fields: dict[str, object] = {
            "serial": f"{serial:x}", "tbs": signed.tbs_certificate_bytes, "algorithm": "ECDSA_SHA256", "generation": 1,
            "profile": "tls-client", "protocol": "est", "operation": "simpleenroll", "requester": "token:1",
            "csr_digest": bytes(32), "spki_digest": spki_of(private), "policy_version": 1,
            "idempotency_key": b"%d" % number, "quota": ("profile:tls-client",),
            "predecessor": f"{self.serial(predecessor):x}" if predecessor else "",
        }  # fmt: skip
        return Intent(**{**fields, **changes})  # type: ignore[arg-type]

    def sign(self, intent: Intent, seq: int, key: ec.EllipticCurvePrivateKey | None = None) -> Issued:
        """What completes the intent of that seq."""
        signature = sign(key or self.ca_key, SignatureAlgorithm.ECDSA_SHA256, intent.tbs)
        digest = hashlib.sha256(assemble(intent.tbs, SignatureAlgorithm.ECDSA_SHA256, signature)).digest()
        return Issued(seq, intent.serial, signature, digest, intent.idempotency_key)

    def issue(self, number: int, *, device: str = "", key: str = "", predecessor: int = 0, **changes: object) -> int:
        """One certificate: intent and issued; the seq of the latter."""
        intent = self.plan(number, device=device, key=key, predecessor=predecessor, **changes)
        return self.add(self.sign(intent, self.add(intent)))

    def void(self, number: int) -> int:
        intent = self.plan(number)
        return self.add(Void(self.add(intent), intent.serial, "power cut", intent.quota))

    def revoke(self, number: int, reason: str = "superseded", by: str = "operator") -> int:
        return self.add(Revoked(f"{self.serial(number):x}", 1, reason, self.now_ms, by))

    # Messages.

    def note(self, size: int | None = None) -> str:
        """The signed checkpoint of the first ``size`` records."""
        frontier = Frontier()
        for record in self.records[: self.size if size is None else size]:
            frontier.append(leaf_hash(record))
        return sign_note(Checkpoint(self.origin, frontier.size, frontier.root()), self.origin, self.key)

    def batch(self, start: int, stop: int | None = None, session: str = "") -> Batch:
        end = self.size if stop is None else stop
        return Batch(self.origin, session, start, self.note(end), tuple(self.records[start:end]))

    def hello(self, nonce: str, *, incarnation: str = "", clock_ms: int = START_MS) -> bytes:
        hello = Hello(self.origin, nonce, incarnation or self.incarnation, self.note(), 3, clock_ms, "1.0")
        return sign_statement(HELLO, hello.to_bytes(), self.origin, self.key)

    def urgent(self, *seqs: int) -> bytes:
        message = Urgent(self.origin, tuple(self.records[seq] for seq in seqs))
        return sign_statement(URGENT, message.to_bytes(), self.origin, self.key)

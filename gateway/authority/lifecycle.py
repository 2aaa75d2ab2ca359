"""The ceremony: how this gateway's CA comes to life, and how it gets a successor.

::

    keygen ------> ca-key-generated ----> csr ------> ca-requested ----> import ------> ca-activated
    (on the token)                        (to the parent CA)             (its certificate and chain)

``renew`` is ``keygen`` for the next generation, while the present one goes on issuing until the new certificate is
imported, and answers for what it issued ever after. Nothing is ever overwritten. Each step is durable in the journal before
it is reported, and returns a text to print and sign by hand, with everything the other side must compare.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.clock import Clock
from gateway.errors import AlreadyExists, NotFound, OperatorError
from gateway.journal.records import CaActivated, CaKeyGenerated, CaRequested, Payload, Record
from gateway.keys.signer import KeySpec, Priority, Signer
from gateway.pki.algorithms import PublicKey
from gateway.pki.ca_tbs import ca_request_info
from gateway.pki.extensions import key_identifier
from gateway.pki.names import name_to_text
from gateway.pki.tbs import assemble, ca_info, key_bits

#: The demo's root lives as long as anybody may try the demo; its key is gone at once, so nobody can extend it.
_DEMO_VALIDITY = timedelta(days=365)
DEMO_LABEL = "NOT FOR PRODUCTION"


class CeremonyJournal(Protocol):
    """What is needed of the journal."""

    async def append(self, *payloads: Payload, urgent: bool = False) -> tuple[Record, ...]: ...

    def scan(self, *kinds: type[Payload]) -> AsyncIterator[Record]: ...


class CeremonyKeys(Protocol):
    """What is needed of the key ring."""

    async def open(self, uri: str, expected: PublicKey | None = None) -> Signer: ...

    async def generate(self, uri: str, spec: KeySpec) -> Signer: ...


@dataclass(frozen=True, slots=True)
class CeremonyStep:
    """What a step did. ``der`` is what it produced: the CSR, or the certificate that was imported; empty for a key."""

    generation: int
    protocol: str  # the text to print
    der: bytes = b""
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationStatus:
    """Where one generation stands. ``state`` is key-generated, requested, active, or superseded."""

    number: int
    state: str
    uri: str
    spki_sha256: str
    certificate: bytes | None
    not_after_ms: int  # UTC milliseconds, 0 without a certificate
    demo: bool
    operator: str  # who generated the key


@dataclass(slots=True)
class _Progress:
    key: CaKeyGenerated
    requested: CaRequested | None = None
    activated: CaActivated | None = None


class Ceremony:
    """The steps, one method each, one at a time: two operators at once must not begin the same generation twice."""

    def __init__(self, journal: CeremonyJournal, keyring: CeremonyKeys, clock: Clock) -> None:
        self._journal = journal
        self._keyring = keyring
        self._clock = clock
        self._step = asyncio.Lock()

    async def keygen(self, uri: str, spec: KeySpec, operator: str, *, adopt: bool = False) -> CeremonyStep:
        """Generate the first CA key where ``uri`` says.

        With ``adopt`` a key that is there already is taken instead: one that the power cut of an earlier attempt left behind
        without a record, or that the token's maker generated. Raises AlreadyExists when there is a CA key already, here or
        (without ``adopt``) at that place, and what the key ring raises.
        """
        async with self._step:
            if await self._progress():
                raise AlreadyExists("this gateway has a CA key already; 'ca renew' prepares its successor")
            return await self._generate(1, uri, spec, operator, adopt=adopt)

    async def renew(self, uri: str, spec: KeySpec, operator: str) -> CeremonyStep:
        """Generate the key of the next generation beside the present one.

        Raises NotFound when there is nothing to renew, AlreadyExists when a renewal is under way already.
        """
        async with self._step:
            progress = await self._progress()
            if not progress:
                raise NotFound("this gateway has no CA key yet: 'ca keygen' comes first")
            newest = max(progress)
            if progress[newest].activated is None:
                raise AlreadyExists(f"generation {newest} waits for its certificate: 'ca csr' and 'ca import' come next")
            return await self._generate(newest + 1, uri, spec, operator)

    async def csr(self, subject: x509.Name, operator: str) -> CeremonyStep:
        """A CSR (PKCS #10, DER) for the newest key, signed by it. May be repeated until the certificate is imported."""
        async with self._step:
            number, progress = await self._waiting()
            signer = await self._keyring.open(progress.key.uri)
            spki = _spki(signer.public_key)
            if spki != progress.key.spki:
                raise OperatorError(f"the key at {progress.key.uri} is not the one that was generated for generation {number}")
            info = ca_request_info(subject, spki)
            request = assemble(info, signer.algorithm, await signer.sign(info, priority=Priority.STATUS))
            await self._journal.append(CaRequested(number, request, operator))
            lines = [("subject", name_to_text(subject)), ("CSR SHA-256", _fingerprint(request))]
            return CeremonyStep(number, self._protocol("ca csr", number, operator, [*lines, *_key_lines(spki)]), request)

    async def import_certificate(
        self, certificate: bytes, chain: tuple[bytes, ...], operator: str, *, demo: bool = False
    ) -> CeremonyStep:
        """Activate the newest generation with the certificate its parent CA made.

        ``chain`` holds the CAs above in any order, the root among them; DER. Raises OperatorError saying which check failed,
        AlreadyExists for a certificate that was imported before.
        """
        async with self._step:
            for other in (await self._progress()).values():
                if other.activated is not None and other.activated.certificate == certificate:
                    raise AlreadyExists(f"this certificate was imported before, for generation {other.activated.generation}")
            number, progress = await self._waiting()
            ca = ca_info(certificate)
            spki = _spki(ca.public_key)
            if spki != progress.key.spki:
                raise OperatorError(
                    f"this certificate is for another key: it has SHA-256 {_fingerprint(spki)}, "
                    f"the key of generation {number} has {_fingerprint(progress.key.spki)}"
                )
            path = path_to_root(ca.certificate, chain)
            now = datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC)
            warnings = check_path(path, now)
            ordered = tuple(issuer.public_bytes(Encoding.DER) for issuer in path[1:])
            await self._journal.append(CaActivated(number, progress.key.uri, certificate, ordered, operator, demo))
            lines = [("subject", name_to_text(ca.certificate.subject)), ("certificate SHA-256", _fingerprint(certificate))]
            for issuer in path[1:]:
                lines += [("issuer", name_to_text(issuer.subject))]
                lines += [("issuer SHA-256", _fingerprint(issuer.public_bytes(Encoding.DER)))]
            lines += [("valid until", ca.certificate.not_valid_after_utc.isoformat()), *_key_lines(spki)]
            lines += [("warning", warning) for warning in warnings]
            protocol = self._protocol("ca import", number, operator, lines)
            return CeremonyStep(number, protocol, certificate, warnings)

    async def status(self) -> tuple[GenerationStatus, ...]:
        """Every generation, the newest first."""
        progress = await self._progress()
        active = max((number for number, item in progress.items() if item.activated), default=0)
        report = []
        for number in sorted(progress, reverse=True):
            item = progress[number]
            state, certificate, not_after_ms = "requested" if item.requested else "key-generated", None, 0
            if item.activated is not None:
                state = "active" if number == active else "superseded"
                certificate = item.activated.certificate
                not_after_ms = ca_info(certificate).not_after_ms
            demo = item.activated is not None and item.activated.demo
            fingerprint, operator = _fingerprint(item.key.spki), item.key.operator
            report.append(GenerationStatus(number, state, item.key.uri, fingerprint, certificate, not_after_ms, demo, operator))
        return tuple(report)

    async def _generate(self, number: int, uri: str, spec: KeySpec, operator: str, *, adopt: bool = False) -> CeremonyStep:
        try:
            signer = await self._keyring.generate(uri, spec)
        except AlreadyExists:
            if not adopt:
                raise
            signer = await self._keyring.open(uri)
        spki = _spki(signer.public_key)
        token_serial = signer.health().token_serial
        await self._journal.append(CaKeyGenerated(number, signer.uri, spki, operator, token_serial))
        lines = [("key", signer.uri), ("key type", spec.value), *_key_lines(spki)]
        if token_serial:
            lines.append(("token serial number", token_serial))
        return CeremonyStep(number, self._protocol("ca keygen", number, operator, lines))

    async def _waiting(self) -> tuple[int, _Progress]:
        progress = await self._progress()
        if not progress:
            raise NotFound("this gateway has no CA key yet: 'ca keygen' comes first")
        number = max(progress)
        if progress[number].activated is not None:
            raise AlreadyExists(f"generation {number} has its certificate already; 'ca renew' prepares its successor")
        return number, progress[number]

    async def _progress(self) -> dict[int, _Progress]:
        progress: dict[int, _Progress] = {}
        async for record in self._journal.scan(CaKeyGenerated, CaRequested, CaActivated):
            payload = record.payload
            if isinstance(payload, CaKeyGenerated):
                progress[payload.generation] = _Progress(payload)
            elif isinstance(payload, CaRequested):
                progress[payload.generation].requested = payload
            elif isinstance(payload, CaActivated):
                progress[payload.generation].activated = payload
        return progress

    def _protocol(self, step: str, number: int, operator: str, lines: list[tuple[str, str]]) -> str:
        moment = datetime.fromtimestamp(self._clock.now_ms() // 1000, UTC).isoformat()
        facts = [("step", step), ("time", moment), ("operator", operator), ("generation", str(number)), *lines]
        body = "".join(f"  {name + ':':<22}{value}\n" for name, value in facts)
        return f"CA ceremony record\n{body}  {'signature:':<22}______________________________\n"


@dataclass(frozen=True, slots=True)
class DemoRoot:
    """What is left of the demo's root: its certificate and a list that says it revoked nothing. Its key is gone."""

    certificate: bytes
    crl: bytes


async def demo_ca(ceremony: Ceremony, clock: Clock, *, uri: str, name: str, operator: str) -> DemoRoot:
    """Give a new gateway a sub-CA under a throw-away root: the whole ceremony in a second, labelled NOT FOR PRODUCTION.

    Takes up what an interrupted demo of the same ``operator`` began. Raises AlreadyExists where another ceremony began.
    """
    begun = await ceremony.status()
    if not begun or begun[0].operator != operator:
        await ceremony.keygen(uri, KeySpec.P256, operator, adopt=True)
    step = await ceremony.csr(_demo_name(name, "issuing CA"), operator)
    now = datetime.fromtimestamp(clock.now_ms() // 1000, UTC)
    root_key = ec.generate_private_key(ec.SECP256R1())
    root = _demo_certificate(root_key, _demo_name(name, "root CA"), None, root_key.public_key(), now)
    request = x509.load_der_x509_csr(step.der)
    issued = _demo_certificate(root_key, request.subject, root, request.public_key(), now)
    crl = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(root.subject)
        .last_update(now - timedelta(minutes=5))
        .next_update(now + _DEMO_VALIDITY)
        .add_extension(x509.CRLNumber(clock.now_ms()), critical=False)
        .add_extension(_authority_key(root), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    root_der = root.public_bytes(Encoding.DER)
    await ceremony.import_certificate(issued.public_bytes(Encoding.DER), (root_der,), operator, demo=True)
    return DemoRoot(root_der, crl.public_bytes(Encoding.DER))


def _demo_name(name: str, role: str) -> x509.Name:
    """A long name is cut, so that role and label fit into the 64 characters of a common name (RFC 5280 appendix A.1)."""
    tail = f" {role} {DEMO_LABEL}"
    organization = x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, f"Edge gateway demo - {DEMO_LABEL}")
    return x509.Name([organization, x509.NameAttribute(x509.NameOID.COMMON_NAME, name[: 64 - len(tail)] + tail)])


def _demo_certificate(
    root_key: ec.EllipticCurvePrivateKey,
    subject: x509.Name,
    root: x509.Certificate | None,
    public_key: object,
    now: datetime,
) -> x509.Certificate:
    """The root itself without ``root``, else the sub-CA under it."""
    key = cast(ec.EllipticCurvePublicKey, public_key)
    identifier = x509.SubjectKeyIdentifier(key_identifier(key_bits(_spki(key))))
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(root.subject if root else subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + _DEMO_VALIDITY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0 if root else None), critical=True)
        .add_extension(_CA_KEY_USAGE, critical=True)
        .add_extension(identifier, critical=False)
    )
    if root is not None:
        builder = builder.add_extension(_authority_key(root), critical=False)
    return builder.sign(root_key, hashes.SHA256())


def _authority_key(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)


_CA_KEY_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def path_to_root(leaf: x509.Certificate, chain: tuple[bytes, ...]) -> list[x509.Certificate]:
    """``leaf``, then its issuers up to the root, every signature checked. Raises OperatorError."""
    try:
        candidates = [x509.load_der_x509_certificate(der_bytes) for der_bytes in chain]
    except ValueError as error:
        raise OperatorError(f"a certificate of the chain cannot be read: {error}") from error
    path = [leaf]
    while path[-1].subject != path[-1].issuer:
        issuer = next((c for c in candidates if c not in path and _signed_by(path[-1], c)), None)
        if issuer is None:
            name = name_to_text(path[-1].issuer)
            raise OperatorError(f"the chain does not reach a root: no certificate in it is {name} and signed what is below")
        path.append(issuer)
    if len(path) == 1:
        raise OperatorError("this certificate is self-signed; a gateway's CA is certified by the CA above it")
    if not _signed_by(path[-1], path[-1]):
        raise OperatorError(f"the signature of the root {name_to_text(path[-1].subject)} is wrong")
    return path


def _signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError):  # wrong signature, other name, key type that cannot have made it
        return False
    return True


def check_path(path: list[x509.Certificate], now: datetime) -> tuple[str, ...]:
    """Warnings about a path that can be used. Raises OperatorError for one that cannot (RFC 5280 section 6.1)."""
    for depth, certificate in enumerate(path):
        name = name_to_text(certificate.subject)
        if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
            validity = f"{certificate.not_valid_before_utc.isoformat()} to {certificate.not_valid_after_utc.isoformat()}"
            clock = now.isoformat(timespec="seconds")
            raise OperatorError(f"{name} is valid from {validity}, and this gateway's clock says {clock}")
        try:
            constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        except x509.ExtensionNotFound:
            raise OperatorError(f"{name} is not a CA: it has no basicConstraints") from None
        if not constraints.ca:
            raise OperatorError(f"{name} is not a CA (basicConstraints)")
        if depth and constraints.path_length is not None and constraints.path_length < depth:
            raise OperatorError(f"{name} allows {constraints.path_length} CAs below it, and here are {depth} (pathLen)")
    warnings = []
    own = path[0].extensions.get_extension_for_class(x509.BasicConstraints).value
    if own.path_length != 0:
        warnings.append("the certificate lacks pathLen 0: whoever steals this gateway's key can make further CAs with it")
    if any(issuer.not_valid_after_utc < path[0].not_valid_after_utc for issuer in path[1:]):
        warnings.append("a CA above expires before this one does")
    return tuple(warnings)


def _spki(public_key: PublicKey) -> bytes:
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _fingerprint(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _key_lines(spki: bytes) -> list[tuple[str, str]]:
    return [("public key SHA-256", _fingerprint(spki)), ("key identifier", key_identifier(key_bits(spki)).hex(":"))]

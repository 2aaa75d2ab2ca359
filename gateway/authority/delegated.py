"""The gateway's own short-lived certificates: its TLS server's, and one OCSP responder's per CA generation.

Their keys are software keys; their certificates come through the same life as every other, journalled and counted, with the
gateway itself as requester. A new one is asked for when two thirds of the old one's time are over, when its names changed or
when it was revoked. While the CA's token is away the old one stays in use and the request is repeated with growing pauses.

The certificate is kept in a file beside the key, so that a restart costs no operation of the token. The file is a cache: it
counts only when the journal has the certificate's digest as issued, and the key is the stored one.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.authority.requests import EnrollmentRequest, Issued, Lane, Operation, Outcome, Refused, Requester, RequesterKind
from gateway.authority.status import RevocationStatus
from gateway.clock import Clock
from gateway.errors import GatewayError, NotReady, Unavailable
from gateway.journal.records import Issued as IssuedRecord
from gateway.journal.records import Record
from gateway.keys import durable
from gateway.keys.signer import KeySpec
from gateway.keys.software import SoftwareKeys
from gateway.pki.algorithms import PrivateKey, default_algorithm
from gateway.pki.crl import Reason
from gateway.pki.csr import read_csr
from gateway.pki.tbs import key_bits

_log = logging.getLogger(__name__)
_RETRY_FIRST_S = 1.0
_RETRY_LIMIT_S = 300.0
#: ... while there is none to use meanwhile: without it devices are not served.
_RETRY_LIMIT_WITHOUT_S = 15.0
#: The loop looks at the clock at least this often: a wall clock can jump.
_LONGEST_WAIT_S = 60.0


@dataclass(frozen=True, slots=True)
class DelegatedSpec:
    """What certificate is wanted. ``name`` is that of the key; ``generation`` who must issue it, ``None`` the active one."""

    name: str
    profile: str
    subject: x509.Name
    san: tuple[x509.GeneralName, ...] = ()
    key: KeySpec = KeySpec.P256
    generation: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class DelegatedIdentity:
    """A key with its certificate. ``key_bits`` are those of the subjectPublicKey; ``chain`` is issuing CA first, root last."""

    name: str
    private_key: PrivateKey
    certificate: bytes
    chain: tuple[bytes, ...]
    serial: int
    key_bits: bytes
    not_before_ms: int
    not_after_ms: int

    @property
    def renew_at_ms(self) -> int:
        """When two thirds of its time are over."""
        return self.not_before_ms + (self.not_after_ms - self.not_before_ms) * 2 // 3


class Enroll(Protocol):
    """The issuer. ``generation`` chooses which CA signs where it must not be the active one (responders of older ones)."""

    async def __call__(self, request: EnrollmentRequest, *, generation: int | None = None) -> Outcome: ...


class SerialLookup(Protocol):
    """What is needed of the journal."""

    async def by_serial(self, serial: int) -> tuple[Record, ...]: ...


@dataclass(slots=True)
class _Slot:
    spec: DelegatedSpec
    identity: DelegatedIdentity | None = None  # in use
    last: DelegatedIdentity | None = None  # the last one there was, perhaps revoked or expired
    asked: bytes = b""  # digest of the names the identity was asked for; a profile may have added to them
    loaded: bool = False
    attempts: int = 0
    retry_at: float = 0.0  # monotonic seconds
    failure: str = ""


class DelegatedKeys:
    """Keeps a certificate for every :class:`DelegatedSpec`. ``directory`` is where the certificates are cached."""

    def __init__(
        self,
        *,
        keys: SoftwareKeys,
        directory: Path,
        journal: SerialLookup,
        status: RevocationStatus,
        clock: Clock,
        enroll: Enroll,
    ) -> None:
        self._keys = keys
        self._directory = directory
        self._journal = journal
        self._status = status
        self._clock = clock
        self._enroll = enroll
        self._slots: dict[str, _Slot] = {}
        self._watchers: list[Callable[[DelegatedIdentity], None]] = []
        self._wake = asyncio.Event()
        self._renewing = asyncio.Lock()
        status.watch(lambda _generation, _serial: self._wake.set())

    def want(self, specs: Iterable[DelegatedSpec]) -> None:
        """Add or change what is wanted; the next :meth:`renew_due` sees to it."""
        for spec in specs:
            slot = self._slots.get(spec.name)
            if slot is None:
                self._slots[spec.name] = _Slot(spec)
            else:
                slot.spec = spec
        self._wake.set()

    def watch(self, watcher: Callable[[DelegatedIdentity], None]) -> None:
        """Call ``watcher`` with every identity that comes into use, e.g. to load it into the TLS context."""
        self._watchers.append(watcher)

    def find(self, name: str) -> DelegatedIdentity | None:
        slot = self._slots.get(name)
        return slot.identity if slot else None

    def current(self, name: str) -> DelegatedIdentity:
        """The identity in use. Raises NotReady with the reason while there is none."""
        slot = self._slots.get(name)
        if slot is None or slot.identity is None:
            reason = slot.failure if slot and slot.failure else "it was not issued yet"
            raise NotReady(f"the gateway has no certificate for {name}: {reason}")
        return slot.identity

    def failures(self) -> dict[str, str]:
        """Why the last request of each name failed; names whose last request succeeded are left out."""
        return {name: slot.failure for name, slot in self._slots.items() if slot.failure}

    async def run(self) -> None:
        """Renew whatever is due, for ever."""
        while True:
            self._wake.clear()
            wait_s = await self.renew_due()
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def renew_due(self) -> float:
        """Ask for every certificate that is due; returns in how many seconds to look again."""
        async with self._renewing:
            for slot in tuple(self._slots.values()):
                if (slot.loaded and not self._is_due(slot)) or slot.retry_at > time.monotonic():
                    continue
                try:
                    if not slot.loaded:
                        await self._load(slot)
                    if self._is_due(slot):
                        await self._renew(slot)
                except (GatewayError, OSError) as error:  # OSError: the key cannot be stored; the other names go on
                    self._postpone(slot, error)
            return min((_LONGEST_WAIT_S, *(self._due_in(slot) for slot in self._slots.values())))

    def _due_in(self, slot: _Slot) -> float:
        if self._is_due(slot) or slot.identity is None:
            return max(0.0, slot.retry_at - time.monotonic())
        return max(0.0, (slot.identity.renew_at_ms - self._clock.now_ms()) / 1000)

    def _is_due(self, slot: _Slot) -> bool:
        identity = slot.identity
        if identity is None or identity.renew_at_ms <= self._clock.now_ms():
            return True
        return self._status.find(identity.serial) is not None or slot.asked != _names(slot.spec)

    async def _renew(self, slot: _Slot) -> None:
        spec = slot.spec
        if self._is_compromised(slot.last):
            await asyncio.to_thread(self._keys.erase, spec.name)
        key = await asyncio.to_thread(self._keys.load_or_generate, spec.name, spec.key)
        request = _request(spec, key, slot.last)
        outcome = await self._enroll(request, generation=spec.generation)
        if not isinstance(outcome, Issued):
            self._postpone(slot, outcome.error if isinstance(outcome, Refused) else NotReady("a person must approve it"))
            return
        identity = _identity(spec.name, key, outcome.certificate, outcome.chain)
        asked = _names(spec)
        try:
            await asyncio.to_thread(_store, self._path(spec.name), identity, asked)
        except OSError as error:
            _log.warning("the certificate for %s cannot be kept on disk: %s", spec.name, error.strerror)
        # Only what is really in use counts: where that fails, the next try is the same request and gets the same certificate.
        self._use(slot, identity)
        slot.attempts, slot.retry_at, slot.failure, slot.asked = 0, 0.0, "", asked
        if identity.renew_at_ms <= self._clock.now_ms():
            # The CA itself is about to expire, or the clock jumped: no reason to ask in a tight circle.
            slot.retry_at = time.monotonic() + _RETRY_LIMIT_S

    def _is_compromised(self, identity: DelegatedIdentity | None) -> bool:
        """Whether the key itself must not be used again; for other reasons and renewals it stays."""
        revocation = self._status.find(identity.serial) if identity else None
        return revocation is not None and revocation.reason is Reason.KEY_COMPROMISE

    def _postpone(self, slot: _Slot, error: GatewayError | OSError) -> None:
        delay_s = _RETRY_FIRST_S * 2 ** min(slot.attempts, 10)
        if isinstance(error, Unavailable):
            delay_s = max(delay_s, float(error.retry_after))
        delay_s = min(delay_s, _RETRY_LIMIT_S if slot.identity else _RETRY_LIMIT_WITHOUT_S)
        slot.attempts += 1
        slot.retry_at = time.monotonic() + delay_s
        if str(error) != slot.failure:
            _log.warning("no new certificate for %s: %s", slot.spec.name, error)
        slot.failure = str(error)

    def _use(self, slot: _Slot, identity: DelegatedIdentity) -> None:
        for watcher in self._watchers:
            watcher(identity)
        slot.identity = slot.last = identity

    async def _load(self, slot: _Slot) -> None:
        """Take up the cached certificate if the journal confirms it and it is still valid."""
        name = slot.spec.name
        stored = await asyncio.to_thread(_read, self._path(name))
        if stored is None or not self._keys.exists(name):
            slot.loaded = True
            return
        asked, leaf, chain = stored
        key = await asyncio.to_thread(self._keys.load, name)
        identity = slot.last = _identity(name, key, leaf, chain)
        certificate = x509.load_der_x509_certificate(identity.certificate)
        same_key = _spki(certificate.public_key()) == _spki(key.public_key())
        records = await self._journal.by_serial(identity.serial)
        slot.loaded = True
        digest = hashlib.sha256(identity.certificate).digest()
        issued = any(isinstance(r.payload, IssuedRecord) and r.payload.certificate_digest == digest for r in records)
        valid = identity.not_before_ms <= self._clock.now_ms() < identity.not_after_ms
        if same_key and issued and valid and self._status.find(identity.serial) is None:
            slot.asked = asked
            self._use(slot, identity)

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.pem"


def _request(spec: DelegatedSpec, key: PrivateKey, current: DelegatedIdentity | None) -> EnrollmentRequest:
    builder = x509.CertificateSigningRequestBuilder().subject_name(spec.subject)
    if spec.san:
        builder = builder.add_extension(x509.SubjectAlternativeName(spec.san), critical=False)
    algorithm = default_algorithm(key.public_key())
    csr = builder.sign(key, cast("hashes.SHA256 | None", algorithm.hash)).public_bytes(Encoding.DER)
    # Repeated after a crash this is the same request and gets the same certificate; the next renewal is another one.
    transaction = hashlib.sha256((current.certificate if current else b"") + _names(spec)).digest()
    return EnrollmentRequest(
        csr=read_csr(csr),
        profile=spec.profile,
        requester=Requester(RequesterKind.GATEWAY, f"gateway:{spec.name}"),
        operation=Operation.REENROLL if current else Operation.ENROLL,
        protocol="internal",
        lane=Lane.RENEWAL,
        transaction=transaction,
    )


def _names(spec: DelegatedSpec) -> bytes:
    san = x509.SubjectAlternativeName(spec.san).public_bytes() if spec.san else b""
    return hashlib.sha256(spec.profile.encode() + b"\0" + spec.subject.public_bytes() + san).digest()


def _identity(name: str, key: PrivateKey, der: bytes, chain: tuple[bytes, ...]) -> DelegatedIdentity:
    certificate = x509.load_der_x509_certificate(der)
    return DelegatedIdentity(
        name=name,
        private_key=key,
        certificate=der,
        chain=chain,
        serial=certificate.serial_number,
        key_bits=key_bits(_spki(certificate.public_key())),
        not_before_ms=int(certificate.not_valid_before_utc.timestamp()) * 1000,
        not_after_ms=int(certificate.not_valid_after_utc.timestamp()) * 1000,
    )


def _spki(public_key: object) -> bytes:
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined,no-any-return]


def _store(path: Path, identity: DelegatedIdentity, asked: bytes) -> None:
    durable.make_directory(path.parent)
    certificates = (x509.load_der_x509_certificate(der) for der in (identity.certificate, *identity.chain))
    pem = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
    # RFC 7468 section 2 allows explanatory text before a certificate.
    durable.replace(path, b"names " + asked.hex().encode() + b"\n" + pem)


def _read(path: Path) -> tuple[bytes, bytes, tuple[bytes, ...]] | None:
    """What names were asked for, certificate and chain; nothing when the file is missing, damaged or unreadable, which
    costs one operation of the token."""
    try:
        content = path.read_bytes()
        label, _, asked = content.partition(b"\n")[0].partition(b" ")
        leaf, *chain = (cert.public_bytes(Encoding.DER) for cert in x509.load_pem_x509_certificates(content))
        return (bytes.fromhex(asked.decode()), leaf, tuple(chain)) if label == b"names" else None
    except (OSError, ValueError):
        return None

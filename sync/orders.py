"""What central desires: kept, put in force as a whole, and carried out.

The signed document lies in ``STATE/central/documents`` under its digest; the journal's last ``desired-applied`` says which one
counts, so a crash between the file and the record leaves the document before in force. What follows from it
(:meth:`Orders.carry_out`) is repeated after every start and does nothing the second time: each command has its
``command-done``, a CA certificate its ``ca-activated``.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.authority.authority import Authority
from gateway.authority.lifecycle import Ceremony
from gateway.authority.policy import Policy
from gateway.authority.policy_tables import Table
from gateway.authority.requests import EnrollmentRequest, Issued, Lane, Operation, Requester, RequesterKind
from gateway.authority.revoke import CENTRAL
from gateway.clock import Clock
from gateway.errors import (
    AlreadyExists,
    Conflict,
    GatewayError,
    JournalFailed,
    NotFound,
    OperatorError,
    RequestError,
    Unavailable,
)
from gateway.journal.journal import Journal, JournalState
from gateway.journal.records import CommandDone, DesiredApplied, DesiredRefused, Joined
from gateway.keys import durable
from sync.desired import (
    Apply,
    Command,
    Desired,
    InForce,
    NothingNew,
    RefuseDocument,
    RevokeCommand,
    judge,
    open_desired,
    policy_of,
)

_log = logging.getLogger(__name__)
#: The profile of the certificate for central's OCSP key.
OCSP_PROFILE = "central-ocsp"


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the journal and the directory say at the start, before the authority is built."""

    joined: Joined | None
    applied: DesiredApplied | None
    document: Desired | None  # the one in force; None also when its file is lost
    refused: DesiredRefused | None  # the last one, if nothing was applied since
    done: frozenset[str]  # ids of commands

    @property
    def lost(self) -> bool:
        """Whether a document is in force whose text is not here any more."""
        return self.applied is not None and self.document is None

    def policy(self, local: Policy, own: Mapping[str, Table]) -> tuple[Policy, str]:
        """What to begin with, and its source for the record."""
        if self.lost:
            # Nobody knows what central allowed, so nothing is, until its document is here again.
            return replace(local, expires_ms=1), "file"
        if self.document is None:
            return local, "file"
        return policy_of(self.document, local, own), source_of(self.document)


def source_of(desired: Desired) -> str:
    return "central" if desired.policy is not None else "file"


async def remembered(journal: Journal, directory: Path) -> Remembered:
    """Read what was in force. Raises IntegrityError for a document that is not the one that was applied."""
    joined: Joined | None = None
    applied: DesiredApplied | None = None
    refused: DesiredRefused | None = None
    done = set()
    async for record in journal.scan(Joined, DesiredApplied, DesiredRefused, CommandDone):
        match record.payload:
            case Joined() as payload:
                joined = payload
            case DesiredApplied() as payload:
                applied, refused = payload, None
            case DesiredRefused() as payload:
                refused = payload
            case CommandDone() as payload:
                done.add(payload.command)
    document = None
    if joined is not None and applied is not None:
        try:
            content = _path(directory, applied.digest).read_bytes()
            if hashlib.sha256(content).digest() == applied.digest:
                document = open_desired(content, joined.central_key)
        except OSError as error:
            _log.error(
                "central's document %d cannot be read, nothing is issued without it: %s", applied.version, error.strerror
            )
        else:
            if document is None:
                _log.error("central's document %d was changed on disk, nothing is issued without it", applied.version)
    return Remembered(joined, applied, document, refused, frozenset(done))


def _path(directory: Path, digest: bytes) -> Path:
    return directory / "documents" / digest.hex()


class Orders:
    """Applies documents to a running gateway."""

    def __init__(
        self,
        memory: Remembered,
        directory: Path,
        *,
        authority: Authority,
        ceremony: Ceremony,
        clock: Clock,
        local: Policy,
        own: Mapping[str, Table],
        activated: Callable[[], Awaitable[None]],
    ) -> None:
        self._directory, self._authority, self._ceremony, self._clock = directory, authority, ceremony, clock
        self._local, self._own, self._activated = local, own, activated
        self._watchers: list[Callable[[Desired], None]] = []
        self._takers: dict[str, Callable[[Desired], Awaitable[None]]] = {}
        self._journal = authority.journal
        self._done = set(memory.done)
        self.desired = memory.document
        self.applied = memory.applied
        self.refused = memory.refused
        self._lost = memory.lost
        self.trouble: dict[str, str] = {}  # what of the document could not be carried out yet, and why

    @property
    def version(self) -> int:
        """Of the document in force, 0 without one; one too low when its text is lost, so that central sends it again."""
        if self.applied is None:
            return 0
        return self.applied.version - 1 if self._lost else self.applied.version

    async def take(self, document: bytes, joined: Joined) -> None:
        """Put ``document`` in force, or record why not. Raises Unavailable when the journal takes no records now."""
        digest = b"" if self.applied is None or self._lost else self.applied.digest
        in_force = InForce(joined.central_key, self.version, digest)
        origin = self._journal.genesis.origin
        verdict = judge(in_force, document, origin, self._clock.now_ms(), local=self._local, own=self._own)
        match verdict:
            case NothingNew():
                return
            case RefuseDocument():
                await self._refuse(verdict)
            case Apply():
                try:
                    await self._apply(document, verdict)
                except OperatorError as error:
                    await self._refuse(RefuseDocument(str(error), verdict.digest, verdict.desired.version))

    async def _refuse(self, verdict: RefuseDocument) -> None:
        if self.refused is not None and (self.refused.digest, self.refused.reason) == (verdict.digest, verdict.reason):
            return
        _log.error("central's document (version %d) is refused: %s", verdict.version, verdict.reason)
        refused = DesiredRefused(verdict.version, verdict.digest, verdict.reason)
        await self._journal.append(refused, urgent=True)
        self.refused = refused

    async def _apply(self, document: bytes, verdict: Apply) -> None:
        desired = verdict.desired
        path = _path(self._directory, verdict.digest)
        durable.make_directory(path.parent)
        durable.replace(path, document)
        applied = DesiredApplied(desired.version, verdict.digest, desired.issued, desired.expires)
        await self._authority.policy.replace(verdict.policy, source_of(desired), journal=self._journal, because=(applied,))
        before = self.applied
        self.desired, self.applied, self.refused, self._lost = desired, applied, None, False
        _log.info("central's document %d is in force", desired.version)
        if before is not None and before.digest != verdict.digest:
            _path(self._directory, before.digest).unlink(missing_ok=True)
        for watcher in self._watchers:
            watcher(desired)
        await self.carry_out()

    def watch(self, watcher: Callable[[Desired], None]) -> None:
        """Call ``watcher`` with the document in force, now if there is one, and whenever another one is."""
        self._watchers.append(watcher)
        if self.desired is not None:
            watcher(self.desired)

    def hand_over(self, what: str, take: Callable[[Desired], Awaitable[None]]) -> None:
        """Have ``take`` carry out a part of every document, named ``what`` for people; it raises what went wrong."""
        self._takers[what] = take

    async def carry_out(self) -> None:
        """Do what the document in force asks for and was not done yet. What fails is tried again by the next call."""
        desired = self.desired
        if desired is None or self._journal.state in (JournalState.FENCED, JournalState.FAILED):
            return
        self.trouble.clear()
        for command in desired.commands:
            if command.id not in self._done:
                await self._try(f"command {command.id}", self._command(command))
        for certificate in desired.ca_certificates:
            await self._try("CA certificate", self._certificate(certificate.ders()))
        for name, der in desired.crls.items():
            await self._try(f"revocation list {name}", self._list(name, der))
        await self._try("certificate of central's OCSP key", self._certify_ocsp(desired))
        for what, take in self._takers.items():
            await self._try(what, take(desired))

    async def _try(self, what: str, work: Awaitable[None]) -> None:
        try:
            await work
        except JournalFailed:
            raise
        except (GatewayError, OSError) as error:
            self.trouble[what] = str(error)
            _log.warning("%s: %s", what, error)

    async def _command(self, command: Command) -> None:
        done = CommandDone(command.id, "done")
        revoker = self._authority.revoker
        try:
            if isinstance(command, RevokeCommand):
                since_ms = min(command.revoked_at, self._clock.now_ms())
                await revoker.revoke(command.serial, command.reason, CENTRAL, revoked_at_ms=since_ms, because=(done,))
            else:
                await revoker.release(command.serial, CENTRAL, because=(done,))
        except Unavailable:
            raise
        except (NotFound, Conflict, RequestError) as error:
            await self._journal.append(CommandDone(command.id, "failed", str(error)), urgent=True)
        self._done.add(command.id)

    async def _certificate(self, ders: tuple[bytes, ...]) -> None:
        certificate, *chain = ders
        if any(generation.certificate == certificate for generation in self._authority.generations.all):
            return
        try:
            await self._ceremony.import_certificate(certificate, tuple(chain), CENTRAL)
        except AlreadyExists:
            return
        await self._activated()

    async def _list(self, name: str, der: bytes) -> None:
        """A list of a CA above ours, served from now on. A list with a lower number is left alone by whoever reads the file."""
        path = self._directory / "crl" / name
        durable.make_directory(path.parent)
        if not path.exists() or path.read_bytes() != der:
            durable.replace(path, der)
        self._authority.publisher.serve_also(path)

    async def _certify_ocsp(self, desired: Desired) -> None:
        """A certificate of every CA generation for central's OCSP key, so that central can answer while we are out of reach."""
        csr = desired.ocsp_request()
        if csr is None:
            return
        for generation in self._authority.generations.all:
            if generation.ca.not_after_ms <= self._clock.now_ms():
                continue
            path = self._directory / f"central-ocsp-{generation.number}.pem"
            current = _certificate_in(path, csr.spki)
            if current is not None and not _is_due(current, self._clock.now_ms()):
                continue
            last = current.public_bytes(Encoding.DER) if current else b""
            request = EnrollmentRequest(
                csr=csr,
                profile=OCSP_PROFILE,
                requester=Requester(RequesterKind.GATEWAY, f"gateway:{OCSP_PROFILE}"),
                operation=Operation.ENROLL,
                protocol="internal",
                lane=Lane.RENEWAL,
                # Asked again after a crash it is the same request, and gets the same certificate.
                transaction=hashlib.sha256(b"%d\0" % generation.number + csr.spki + last).digest(),
            )
            outcome = await self._authority.issuer.enroll(request, generation=generation.number)
            if not isinstance(outcome, Issued):
                raise RequestError("the profile for central's OCSP key refuses it")
            pem = x509.load_der_x509_certificate(outcome.certificate).public_bytes(Encoding.PEM)
            durable.replace(path, pem)


def _certificate_in(path: Path, spki: bytes) -> x509.Certificate | None:
    """The certificate that was made last, if it is for this key; the file is a cache."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        return None
    same = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == spki
    return certificate if same else None


def _is_due(certificate: x509.Certificate, now_ms: int) -> bool:
    begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
    return now_ms / 1000 >= begin + (end - begin) * 2 / 3

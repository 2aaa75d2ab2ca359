"""Joining central: from a new gateway to a certified CA and its first policy, over the network or by two files.

Every step is repeated harmlessly: the request is kept, a repeated request gets the same answer, and what the
answer brings is recorded once. A crash anywhere is mended by the same command again.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import tenacity
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.authority.lifecycle import Ceremony
from gateway.clock import Clock
from gateway.errors import (
    AlreadyExists,
    ConfigError,
    Conflict,
    IntegrityError,
    MalformedRequest,
    NotFound,
    PinError,
    SignerUnavailable,
)
from gateway.journal.journal import Journal
from gateway.journal.records import CaActivated, Joined
from gateway.journal.statements import open_statement
from gateway.keys import durable
from gateway.keys.signer import KeySpec
from gateway.keys.software import SoftwareKeys
from gateway.pki.names import name_from_text
from sync.client import CentralBusy, CentralClient, LinkLost, client_context, find_root
from sync.joining import JOINED, JoinAnswer, JoinCode, JoinRequest, open_answer, read_code

_log = logging.getLogger(__name__)
#: The key of the TLS client certificate by which central knows this gateway.
CLIENT_KEY = "central-client"
_REQUEST = "join-request.json"
_ANSWER = "join-answer"
_NOT_ASKED = "Central was not asked and the code is still good; repeat the join"
_ATTEMPTS = 6
_PORT = 443


class Admission:
    """Carries out ``edge-gateway join``. ``name`` is the gateway's; ``ca_key`` where a new CA key goes."""

    def __init__(
        self,
        journal: Journal,
        ceremony: Ceremony,
        keys: SoftwareKeys,
        clock: Clock,
        directory: Path,
        *,
        name: str,
        ca_key: str,
        activated: Callable[[], Awaitable[None]],
    ) -> None:
        self._journal, self._ceremony, self._keys, self._clock = journal, ceremony, keys, clock
        self._directory, self._name, self._ca_key, self._activated = directory, name, ca_key, activated

    async def over_network(self, url: str, code_text: str, subject: str, operator: str) -> tuple[Joined, JoinAnswer]:
        """Ask central at ``url``. Raises BadCode, WrongCentral, LinkLost, CentralRefuses and what else central answers."""
        code = read_code(code_text)
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise ConfigError("central's address is like https://central.example:9443")
        request = await self.request(code, subject, operator)
        root = await find_root(parts.hostname, parts.port or _PORT, code.root_digest)
        async with CentralClient([url], client_context(root)) as client:
            retry = tenacity.AsyncRetrying(
                retry=tenacity.retry_if_exception_type((LinkLost, CentralBusy)),
                wait=tenacity.wait_random_exponential(multiplier=1, max=10),
                stop=tenacity.stop_after_attempt(_ATTEMPTS),
                reraise=True,
            )
            answer: bytes = await retry(client.join, request)
        return await self.take(answer, code, operator)

    async def request(self, code: JoinCode, subject: str, operator: str) -> bytes:
        """The request, the same one again while it is not answered.

        Raises AlreadyExists for a gateway that has joined, SignerUnavailable and PinError for the token of the CA's key.
        """
        if await self._joined() is not None:
            raise AlreadyExists("this gateway has joined a central already; a new one takes a new journal (edge-gateway init)")
        path = self._directory / _REQUEST
        kept = _read(path)
        if kept is not None and _made_with(kept, code):
            return kept
        try:
            csr = await self._csr(subject, operator)
        except PinError as error:
            raise PinError(f"the CA's key: {error}. {_NOT_ASKED} after edge-gateway ca unlock") from error
        except SignerUnavailable as error:
            raise SignerUnavailable(
                f"the CA's key: {error}. {_NOT_ASKED} when the token is there", retry_after=error.retry_after
            ) from error
        genesis = self._journal.genesis
        made = JoinRequest(
            code=code.name,
            name=self._name,
            origin=genesis.origin,
            vkey=genesis.verifier_key,
            incarnation=genesis.incarnation,
            csr=csr,
            client_key=client_key_digest(self._keys),
            time_ms=self._clock.now_ms(),
            predecessor=genesis.predecessor,
        ).to_bytes(code.secret)
        durable.make_directory(self._directory)
        durable.replace(path, made)
        return made

    async def take(self, statement: bytes, code: JoinCode, operator: str) -> tuple[Joined, JoinAnswer]:
        """Check central's answer, record it, activate the CA. The caller puts the first document in force.

        Raises WrongCentral, IntegrityError, NotFound when nothing was asked.
        """
        path = self._directory / _REQUEST
        request = _read(path)
        if request is None:
            raise NotFound("no join request was made here; begin with edge-gateway join --request FILE")
        answer = open_answer(statement, code, request)
        joined = await self._joined()
        if joined is not None and (joined.central_key, joined.root) != (answer.vkey, answer.root):
            raise Conflict("this gateway has joined another central already")
        durable.replace(self._directory / _ANSWER, statement)
        if joined is None:
            joined = Joined(answer.central, answer.vkey, answer.root, answer.urls, operator)
            await self._journal.append(joined)
        if not await self._is_active(answer.certificate):
            await self._ceremony.import_certificate(answer.certificate, answer.chain, operator)
        await self._activated()
        return joined, answer

    async def _joined(self) -> Joined | None:
        found = None
        async for record in self._journal.scan(Joined):
            if isinstance(record.payload, Joined):
                found = record.payload
        return found

    async def _is_active(self, certificate: bytes) -> bool:
        async for record in self._journal.scan(CaActivated):
            if isinstance(record.payload, CaActivated) and record.payload.certificate == certificate:
                return True
        return False

    async def _csr(self, subject: str, operator: str) -> str:
        """A request for the newest CA key without a certificate; one is made where there is none."""
        progress = await self._ceremony.status()
        if not progress:
            await self._ceremony.keygen(self._ca_key, KeySpec.P256, operator, adopt=True)
        elif progress[0].certificate is not None:
            raise Conflict(
                "this gateway's CA was certified elsewhere; joining is for a new gateway: edge-gateway init, then join"
            )
        step = await self._ceremony.csr(name_from_text(subject or f"CN={self._name} Issuing CA"), operator)
        return x509.load_der_x509_csr(step.der).public_bytes(Encoding.PEM).decode()


def client_key_digest(keys: SoftwareKeys) -> bytes:
    """SHA-256 of the SubjectPublicKeyInfo of the client key, which is made when there is none."""
    key = keys.load_or_generate(CLIENT_KEY, KeySpec.P256)
    return hashlib.sha256(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).digest()


def kept_answer(directory: Path, joined: Joined) -> JoinAnswer | None:
    """Central's answer to the join, where its file is still there and as central signed it."""
    statement = _read(directory / _ANSWER)
    if statement is None:
        return None
    try:
        return JoinAnswer.from_bytes(open_statement(JOINED, statement, joined.central_key))
    except (IntegrityError, MalformedRequest) as error:
        _log.warning("central's answer to the join was changed on disk and is left alone: %s", error)
        return None


def _made_with(request: bytes, code: JoinCode) -> bool:
    return f'"code":"{code.name}"'.encode() in request


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None

"""How a central comes to be: its keys, then a root certificate of its own or one below a company's root."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.authority.lifecycle import check_path, path_to_root
from gateway.clock import Clock
from gateway.errors import AlreadyExists, NotReady, OperatorError
from gateway.journal.checkpoint import verifier_key
from gateway.keys.provider import KeyRing
from gateway.keys.signer import KeySpec, Priority, Signer
from gateway.keys.uri import KeyUri
from gateway.pki.algorithms import PublicKey, default_algorithm
from gateway.pki.ca_tbs import build_ca_tbs, ca_request_info
from gateway.pki.tbs import assemble, ca_info
from sync.central.authority import (
    BACKDATE_MS,
    COSIGN_KEY,
    DAY_MS,
    IDENTITY,
    OCSP_KEY,
    ROOT,
    SCOPE,
    Identity,
    ed25519_key,
    issue,
    read_identity,
)
from sync.central.bundle_identity import KEY as BUNDLE_KEY
from sync.central.rows import Setting
from sync.central.store import CentralStore
from sync.joining import endorsement_message

_log = logging.getLogger(__name__)


class Foundation:
    """The steps. Each can be repeated after a crash: keys that are there are taken, a founded central stays as it is."""

    def __init__(self, store: CentralStore, keyring: KeyRing, clock: Clock) -> None:
        self._store, self._keyring, self._clock = store, keyring, clock

    async def begin(self, name: str, root_uri: str, spec: KeySpec, *, adopt: bool = False) -> Identity:
        """Make the keys. A key that is there already is taken where it is a software key, which an interrupted attempt left,
        or to ``adopt`` one that was made on the token before.

        Raises AlreadyExists for another one, and for a central that has its certificate; and what the key ring raises.
        """
        async with self._store.transaction() as t:
            found = await read_identity(t)
        if found is not None:
            if found.certificate:
                raise AlreadyExists(f"there is a central here already: {found.name}")
            return found
        try:
            signer = await self._keyring.generate(root_uri, spec)
        except AlreadyExists:
            if not adopt and not KeyUri.parse(root_uri).is_software:
                raise
            signer = await self._keyring.open(root_uri)
        software = self._keyring.software
        key = ed25519_key(await asyncio.to_thread(software.load_or_generate, COSIGN_KEY, KeySpec.ED25519))
        await asyncio.to_thread(software.load_or_generate, OCSP_KEY, KeySpec.P256)
        # Workers on one database share these keys; made later, each of them would make its own.
        await asyncio.to_thread(software.load_or_generate, BUNDLE_KEY, KeySpec.RSA_3072)
        identity = Identity(name, verifier_key(name, key.public_key()), signer.uri, _spki_digest(signer.public_key))
        await self._keep(identity)
        return identity

    async def self_signed(self, subject: x509.Name, validity_days: int) -> Identity:
        """The root certifies itself."""
        identity, signer = await self._waiting()
        now_ms = self._clock.now_ms()
        algorithm = default_algorithm(signer.public_key)

        def build(serial: int) -> bytes:
            return build_ca_tbs(
                issuer=None, algorithm=algorithm, subject=subject, spki=_spki(signer.public_key), serial=serial,
                not_before_ms=now_ms - BACKDATE_MS, not_after_ms=now_ms + validity_days * DAY_MS, path_length=1,
            )  # fmt: skip

        certificate = await issue(self._store, signer, ROOT, "", build, now_ms=now_ms)
        return await self._complete(identity, signer, certificate, ())

    async def request(self, subject: x509.Name) -> bytes:
        """A CSR (PKCS #10, DER) for a company's root, which must allow one CA below central's (pathLen 1)."""
        _, signer = await self._waiting()
        info = ca_request_info(subject, _spki(signer.public_key), path_length=1)
        return assemble(info, signer.algorithm, await signer.sign(info, priority=Priority.STATUS))

    async def take(self, certificate: bytes, chain: tuple[bytes, ...]) -> Identity:
        """Take the certificate that a company's CA made, with the CAs above it in any order. Raises OperatorError."""
        identity, signer = await self._waiting()
        ca = ca_info(certificate)
        if ca.public_key != signer.public_key:
            raise OperatorError("this certificate is for another key than central's")
        path = path_to_root(ca.certificate, chain)
        for warning in check_path(path, datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC)):
            _log.warning("%s", warning)
        if any(_path_length(each) == depth for depth, each in enumerate(path)):
            raise OperatorError("the chain allows no CA below central's (pathLen), so it could certify no gateway")
        above = tuple(each.public_bytes(Encoding.DER) for each in path[1:])
        return await self._complete(identity, signer, certificate, above)

    async def _waiting(self) -> tuple[Identity, Signer]:
        async with self._store.transaction() as t:
            identity = await read_identity(t)
        if identity is None:
            raise NotReady("there is no central here yet: edge-central init comes first")
        if identity.certificate:
            raise AlreadyExists(f"central {identity.name} has its root certificate already")
        signer = await self._keyring.open(identity.root_uri)
        if _spki_digest(signer.public_key) != identity.spki:
            raise OperatorError(f"the key at {identity.root_uri} is not the one that was made for this central")
        return identity, signer

    async def _complete(self, waiting: Identity, signer: Signer, certificate: bytes, chain: tuple[bytes, ...]) -> Identity:
        endorsement = await signer.sign(endorsement_message(waiting.vkey), priority=Priority.STATUS)
        identity = Identity(
            waiting.name, waiting.vkey, waiting.root_uri, waiting.spki, certificate, chain, endorsement
        )  # fmt: skip
        await self._keep(identity)
        return identity

    async def _keep(self, identity: Identity) -> None:
        async with self._store.transaction() as t:
            await t.put(Setting(SCOPE, IDENTITY, identity.to_text()))


def _path_length(certificate: x509.Certificate) -> int | None:
    return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length


def _spki(public_key: PublicKey) -> bytes:
    return public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _spki_digest(public_key: PublicKey) -> bytes:
    return hashlib.sha256(_spki(public_key)).digest()

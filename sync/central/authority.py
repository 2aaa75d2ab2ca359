"""Central's own CA and keys: the root that everything lies below, and what it signs.

::

    root key (KeyRing: software or PKCS #11)          cosign key (Ed25519)         OCSP key
      |-- root certificate, or one below a company's    |-- receipts                 |-- status of all gateways'
      |-- sub-CA of each gateway                        |-- desired documents        |   certificates; each gateway's
      |-- central's TLS certificate                     |-- answers to joins         |   CA certifies this key
      |-- its revocation list, and indirect ones
      `-- the endorsement: whose key signs for this central

Whatever the root signs goes the way of every certificate here: planned as a durable ``RootIssuance`` with the exact bytes,
signed, completed, and only then handed out. A plan that was never completed counts as void: its serial goes on the list.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.clock import Clock
from gateway.errors import ConfigError, Conflict, IntegrityError, NotReady
from gateway.journal.canonical import JsonValue
from gateway.journal.cosignature import cosign
from gateway.journal.statements import sign_statement
from gateway.journal.tip import serial_column
from gateway.keys.provider import KeyRing
from gateway.keys.signer import Priority, Signer
from gateway.pki.algorithms import PrivateKey, PublicKey, default_algorithm
from gateway.pki.ca_tbs import build_ca_tbs
from gateway.pki.crl import CrlEntry, Reason, build_crl_tbs, encode_entry, next_crl_number
from gateway.pki.csr import CertificationRequest
from gateway.pki.names import name_to_text
from gateway.pki.tbs import SERIAL_RANDOM_BYTES, CaInfo, Publication, assemble, ca_info, new_serial
from provisioning.orders import KIND as WORK_ORDER
from sync.bundle import BundleWriter
from sync.central.listing import every
from sync.central.rows import Crl, RootIssuance, Setting
from sync.central.store import CentralStore, Transaction
from sync.desired import Desired, sign_desired
from sync.joining import JoinAnswer, sign_answer

_log = logging.getLogger(__name__)
COSIGN_KEY, OCSP_KEY = "cosign", "ocsp"
ROOT, SUB_CA, TLS_SERVER = "root", "sub-ca", "tls-server"
ROOT_LIST: Final = "root.crl"
#: Scope and name of the setting that says who this central is.
SCOPE, IDENTITY = "central", "identity"
DAY_MS = 86_400_000
#: notBefore and thisUpdate lie this far in the past, for clocks that are slow.
BACKDATE_MS = 300_000
#: After this time nobody is still busy with a plan.
_PLAN_MS = 600_000
#: Beyond what a key signs in its last years: a sub-CA is renewed by a new key, not by a second certificate for an old one.
_SAME_KEY_LEFT = 3


@dataclass(frozen=True, slots=True)
class AuthorityOptions:
    """``base_url`` is where lists and CA certificates are found, without a final slash; empty: certificates name none."""

    name: str
    base_url: str = ""
    ca_validity_days: int = 90
    crl_validity_hours: int = 720


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this central is, as its database says. ``certificate`` is empty while a company's root has not signed it yet."""

    name: str
    vkey: str  # of the cosign key
    root_uri: str
    spki: bytes  # SHA-256 of the root key's SubjectPublicKeyInfo
    certificate: bytes = b""
    chain: tuple[bytes, ...] = ()  # above the root certificate, where it is not self-signed
    endorsement: bytes = b""

    def to_text(self) -> str:
        body: dict[str, JsonValue] = {
            "name": self.name, "vkey": self.vkey, "root_uri": self.root_uri, "spki": self.spki.hex(),
            "certificate": self.certificate.hex(), "chain": [each.hex() for each in self.chain],
            "endorsement": self.endorsement.hex(),
        }  # fmt: skip
        return json.dumps(body, sort_keys=True)

    @classmethod
    def from_text(cls, text: str) -> Identity:
        """Raises IntegrityError."""
        try:
            body = json.loads(text)
            return cls(
                body["name"], body["vkey"], body["root_uri"], bytes.fromhex(body["spki"]), bytes.fromhex(body["certificate"]),
                tuple(bytes.fromhex(each) for each in body["chain"]), bytes.fromhex(body["endorsement"]),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError("the database does not say who this central is") from error


class Keys(Protocol):
    """What is needed of the software keys."""

    def load(self, name: str) -> PrivateKey: ...


class CentralAuthority:
    """The open authority. ``signer`` is the root's key, which may live on a token that is away."""

    def __init__(
        self,
        identity: Identity,
        signer: Signer,
        *,
        store: CentralStore,
        keys: Keys,
        clock: Clock,
        options: AuthorityOptions,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self.identity = identity
        self.root: CaInfo = ca_info(identity.certificate)
        self.options = options
        self._signer, self._store, self._clock, self._random = signer, store, clock, random
        self._cosign_key = ed25519_key(keys.load(COSIGN_KEY))
        self.ocsp_key = keys.load(OCSP_KEY)
        self._publishing = asyncio.Lock()

    @classmethod
    async def open(cls, store: CentralStore, keyring: KeyRing, clock: Clock, options: AuthorityOptions) -> CentralAuthority:
        """Raises NotReady without a root certificate, ConfigError for another name, what the key ring raises."""
        async with store.transaction() as t:
            identity = await read_identity(t)
        if identity is None or not identity.certificate:
            raise NotReady("central has no root certificate yet: edge-central init, or edge-central ca import")
        if identity.name != options.name:
            raise ConfigError(f"central.name was {identity.name} when this central was made and cannot be changed")
        expected: PublicKey = ca_info(identity.certificate).public_key
        signer = await keyring.open(identity.root_uri, expected)
        return cls(identity, signer, store=store, keys=keyring.software, clock=clock, options=options)

    @property
    def chain(self) -> tuple[bytes, ...]:
        """The root, then what lies above it: what follows a certificate that the root signed."""
        return (self.identity.certificate, *self.identity.chain)

    @property
    def publication(self) -> Publication:
        """What certificates of the root say about where its list and its certificate are."""
        base = self.options.base_url
        if not base:
            return Publication()
        key = self.root.key_identifier.hex()
        return Publication(crl_urls=(f"{base}/crl/{ROOT_LIST}",), issuer_urls=(f"{base}/ca/{key}.cer",))

    def signer(self) -> Signer:
        """The root's key, e.g. for its health."""
        return self._signer

    # What the cosign key signs.

    def cosign(self, note: str) -> str:
        """A gateway's signed note as its receipt. The caller has made durable what it says."""
        return cosign(note, self.identity.name, self._cosign_key, self._clock.now_ms() // 1000)

    def sign_desired(self, desired: Desired) -> bytes:
        return sign_desired(desired, self.identity.name, self._cosign_key)

    def sign_work_order(self, body: bytes) -> bytes:
        return sign_statement(WORK_ORDER, body, self.identity.name, self._cosign_key)

    def sign_answer(self, answer: JoinAnswer) -> bytes:
        return sign_answer(answer, self.identity.name, self._cosign_key)

    def sign_bundle(self, writer: BundleWriter, kind: str, facts: Mapping[str, JsonValue]) -> bytes:
        return writer.finish(kind, facts, self.identity.name, self._cosign_key)

    # What the root signs.

    async def issue_sub_ca(self, request: CertificationRequest, origin: str, *, replaces: str = "") -> bytes:
        """The sub-CA certificate for the gateway ``origin``; the same one again for a key that has one.

        ``replaces`` is the origin of the journal whose CA's name may be used again. Raises Conflict for a name or key of
        another gateway's CA, BadKey, OperatorError, SignerUnavailable.
        """
        default_algorithm(request.public_key)
        now_ms = self._clock.now_ms()
        subject = name_to_text(request.subject)
        async with self._store.transaction() as t:
            async for row in every(t, RootIssuance, profile=SUB_CA):
                same = bool(row.certificate) and ca_info(row.certificate).public_key == request.public_key
                if same and row.origin != origin:
                    raise Conflict("this CA key belongs to another gateway; a gateway that joins again makes a new one")
                if same and not row.revoked and (row.not_after - now_ms) * _SAME_KEY_LEFT > row.not_after - row.planned:
                    return row.certificate
                taken = row.subject == subject and row.origin not in (origin, replaces)
                if taken and not row.revoked and row.not_after > now_ms:
                    raise Conflict(f"{subject} is the name of another gateway's CA; join with another --subject")

        def build(serial: int) -> bytes:
            return build_ca_tbs(
                issuer=self.root,
                algorithm=self.root.algorithm,
                subject=request.subject,
                spki=request.spki,
                serial=serial,
                not_before_ms=now_ms - BACKDATE_MS,
                not_after_ms=now_ms + self.options.ca_validity_days * DAY_MS,
                publication=self.publication,
            )

        return await self.issue(SUB_CA, origin, build)

    async def issue(self, profile: str, origin: str, build: Callable[[int], bytes]) -> bytes:
        """Plan, sign, record: ``build`` makes the TBSCertificate for a serial number. Only a recorded certificate leaves."""
        await self._signer.ready()  # a plan that cannot be signed would end on the list
        return await issue(self._store, self._signer, profile, origin, build, now_ms=self._clock.now_ms(), random=self._random)

    async def sign_status(self, tbs: bytes) -> bytes:
        """The signature of the root's key under a revocation list."""
        return await self._signer.sign(tbs, priority=Priority.STATUS)

    async def revoke(self, serial: int, reason: Reason) -> RootIssuance:
        """Revoke a certificate of the root: a gateway's sub-CA, with everything below it. Raises Conflict, NotReady."""
        async with self._store.transaction() as t:
            row = await t.find(RootIssuance, serial_column(f"{serial:x}"))
            if row is None or row.profile == ROOT:
                raise Conflict(f"central's root issued no certificate with serial {serial:x}")
            if not row.revoked:
                await t.change(RootIssuance, row.serial, revoked=self._clock.now_ms(), reason=reason.value)
        await self.publish_list(now=True)
        return row

    # The root's own list.

    async def publish_list(self, *, now: bool = False) -> Crl:
        """The root's revocation list: a new one when ``now`` or when half the time of the old one is over.

        Recorded before it is served. Raises SignerUnavailable.
        """
        async with self._publishing:
            now_ms = self._clock.now_ms()
            async with self._store.transaction() as t:
                current = await t.find(Crl, self.root.key_identifier, ROOT_LIST)
                if current is not None and not now and now_ms * 2 < current.this_update + current.next_update:
                    return current
                entries = [_entry(row) async for row in every(t, RootIssuance) if _is_listed(row, now_ms)]
            number = next_crl_number(now_ms, current.number if current else 0)
            this_update, next_update = now_ms - BACKDATE_MS, now_ms + self.options.crl_validity_hours * 3_600_000
            tbs = build_crl_tbs(
                ca=self.root, entries=entries, number=number, this_update_ms=this_update, next_update_ms=next_update
            )
            der = assemble(tbs, self.root.algorithm, await self.sign_status(tbs))
            digest = hashlib.sha256(der).digest()
            made = Crl(self.root.key_identifier, ROOT_LIST, "", number, this_update, next_update, digest, der)
            async with self._store.transaction() as t:
                return await keep_list(t, made)


async def keep_list(t: Transaction, made: Crl) -> Crl:
    """Store a list unless there is one with this number or a higher one, which another worker made; the one that is there."""
    await t.change(Crl, made.issuer, made.name, issuer=made.issuer)  # from here on nobody else changes it
    known = await t.find(Crl, made.issuer, made.name)
    if known is not None and known.number >= made.number:
        return known
    await t.put(made)
    return made


def _is_listed(row: RootIssuance, now_ms: int) -> bool:
    return bool(row.revoked) or (not row.certificate and row.planned + _PLAN_MS < now_ms)


def _entry(row: RootIssuance) -> bytes:
    serial = int.from_bytes(row.serial, "big")
    if not row.revoked:
        return encode_entry(CrlEntry(serial, row.planned))
    return encode_entry(CrlEntry(serial, row.revoked, Reason(row.reason)))


async def issue(
    store: CentralStore,
    signer: Signer,
    profile: str,
    origin: str,
    build: Callable[[int], bytes],
    *,
    now_ms: int,
    random: Callable[[int], bytes] = secrets.token_bytes,
) -> bytes:
    """The discipline of every signature of the root under a certificate: plan durable, sign these bytes, completion durable."""
    serial = new_serial(now_ms, random(SERIAL_RANDOM_BYTES))
    tbs = build(serial)
    algorithm = default_algorithm(signer.public_key)
    shown = x509.load_der_x509_certificate(assemble(tbs, algorithm, b""))  # only to read the plan's own subject and end
    plan = RootIssuance(
        serial=serial_column(f"{serial:x}"), profile=profile, subject=name_to_text(shown.subject), origin=origin, tbs=tbs,
        not_after=int(shown.not_valid_after_utc.timestamp()) * 1000, planned=now_ms,
    )  # fmt: skip
    async with store.transaction() as t:
        await t.put(plan)
    certificate = assemble(tbs, algorithm, await signer.sign(tbs, priority=Priority.STATUS))
    async with store.transaction() as t:
        await t.change(RootIssuance, plan.serial, certificate=certificate)
    _log.info("the root signed %s %x for %s", profile, serial, origin or "central itself")
    return certificate


async def read_identity(t: Transaction) -> Identity | None:
    """``None`` before ``init``."""
    setting = await t.find(Setting, SCOPE, IDENTITY)
    return None if setting is None else Identity.from_text(setting.value)


def ed25519_key(key: PrivateKey) -> Ed25519PrivateKey:
    if not isinstance(key, Ed25519PrivateKey):
        raise IntegrityError("the cosign key is not an Ed25519 key")
    return key

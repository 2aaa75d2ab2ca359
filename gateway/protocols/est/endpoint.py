"""EST over HTTPS (RFC 7030): who asks, for which profile, what the authority said, as HTTP.

The path of a request: TLS client certificate or HTTP Basic -> ``Requester``; label -> profile; body -> certification request;
authority -> ``Issued | Pending | Refused``; certs-only PKCS#7 -> base64. Errors become statuses in
:mod:`gateway.protocols.server`. Nothing is decided here that policy could decide.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from gateway.authority.requests import (
    EnrollmentRequest,
    Issued,
    Lane,
    Operation,
    Outcome,
    Pending,
    Refused,
    Requester,
    RequesterKind,
)
from gateway.clock import Clock
from gateway.errors import BadKey, Forbidden, MalformedRequest, NotFound, NotImplementedByGateway, NotReady, Unauthenticated
from gateway.keys.signer import KeySpec
from gateway.pki import cms
from gateway.pki.algorithms import PrivateKey, SignatureAlgorithm
from gateway.pki.csr import CertificationRequest, read_csr
from gateway.pki.keycheck import is_allowed, key_type
from gateway.pki.name_change import renamed
from gateway.pki.profiles import Profile
from gateway.protocols.connection import Answer, Whole
from gateway.protocols.est import codec
from gateway.protocols.est.codec import EstOperation, EstPath
from gateway.protocols.est.csrattrs import encode_csrattrs
from gateway.protocols.server import Limits, method_not_allowed, read_body
from gateway.protocols.tls import client_chain


class EstAuthenticator(Protocol):
    """Who a requester is. Both methods raise Unauthenticated."""

    async def certificate(self, chain: Sequence[bytes]) -> Requester:
        """From the certificates (DER) of a TLS client, its own first; the signature was proven in the handshake."""

    async def password(self, user: str, password: str, source: str = "") -> Requester:
        """From HTTP Basic credentials; ``source`` is the peer's address. Raises Busy where that address failed too often."""


class EstRule(Protocol):
    """What the endpoint reads of a profile's rule."""

    @property
    def profile(self) -> Profile: ...

    @property
    def subject_wanted(self) -> frozenset[str]:
        """Short names of subject attributes that a request must bring whatever the profile says."""

    @property
    def requesters(self) -> frozenset[RequesterKind]: ...

    @property
    def key_types(self) -> frozenset[str]: ...

    @property
    def leniency(self) -> frozenset[str]: ...


class EstKey(Protocol):
    """A key pair from the pool."""

    @property
    def private_key(self) -> PrivateKey: ...


class KeyPackageSigner(Protocol):
    """A software key of the gateway with a certificate, that vouches for the private keys the gateway made."""

    @property
    def certificate(self) -> bytes:
        """DER."""

    @property
    def algorithm(self) -> SignatureAlgorithm: ...

    async def sign(self, message: bytes) -> bytes: ...


class EstPool(Protocol):
    """Keys made ahead; ``owner`` is what a retry is recognised by."""

    async def take(self, spec: KeySpec, owner: bytes) -> EstKey:
        """Busy when the pool is empty."""

    async def recall(self, owner: bytes) -> EstKey | None: ...

    async def erase(self, owner: bytes) -> None: ...


class EstAuthority(Protocol):
    """What this endpoint needs of :class:`gateway.authority.authority.Authority`."""

    @property
    def authenticator(self) -> EstAuthenticator: ...

    @property
    def pool(self) -> EstPool: ...

    async def enroll(self, request: EnrollmentRequest) -> Outcome: ...

    async def screen(self, request: EnrollmentRequest) -> Refused | None:
        """What speaks against a request whatever key it will be for."""

    def rule(self, profile: str) -> EstRule:
        """Raises NotFound."""

    def ca_certificates(self) -> tuple[bytes, ...]: ...


@dataclass(frozen=True, slots=True)
class EstOptions:
    """``labels`` maps the label in the address to a profile; without a label the default profile is meant."""

    default_profile: str
    labels: Mapping[str, str] = field(default_factory=dict)
    #: Profiles whose serverkeygen answers always encrypt the private key to the TLS client certificate.
    always_encrypt: frozenset[str] = frozenset()


class EstEndpoint:
    """Answers EST requests."""

    prefixes: Sequence[str] = (codec.PREFIX + "/",)

    def __init__(
        self,
        authority: EstAuthority,
        options: EstOptions,
        clock: Clock,
        *,
        package_signer: KeyPackageSigner | None = None,
        limits: Limits | None = None,
    ) -> None:
        """Without a ``package_signer`` private keys leave under TLS alone, and a request for more is refused."""
        self._authority = authority
        self._clock = clock
        self._package_signer = package_signer
        self._options = options
        self._limits = limits or Limits()
        self._cacerts: tuple[tuple[bytes, ...], dict[bool, bytes]] = ((), {})

    def use(self, options: EstOptions) -> None:
        """Other labels and default from the next request on."""
        self._options = options

    async def answer(self, request: web.BaseRequest) -> Answer:
        path = codec.parse_path(request.raw_path)
        if request.method not in path.operation.methods:
            return method_not_allowed(request, *path.operation.methods)
        profile = self._profile(path)
        if path.operation is EstOperation.CACERTS:
            return self._cacerts_answer(request)
        if path.operation is EstOperation.CSRATTRS:
            return self._csrattrs_answer(request, profile)
        rule = self._authority.rule(profile)
        chain = client_chain(request.transport)
        if not chain and "Authorization" not in request.headers:
            raise Unauthenticated("no client certificate and no credentials")  # before the body, which may be large and slow
        body = await read_body(request, self._limits)
        requester = await self._authenticate(request, rule, chain)
        if path.operation is EstOperation.FULLCMC:
            raise NotImplementedByGateway("Full CMC is not offered here; use simpleenroll, simplereenroll or serverkeygen")
        return await self._enroll(request, path.operation, profile, requester, body)

    def _profile(self, path: EstPath) -> str:
        if not path.label:
            return self._options.default_profile
        profile = self._options.labels.get(path.label)
        if profile is None:
            raise NotFound(f"there is no EST label {path.label}")
        return profile

    def _cacerts_answer(self, request: web.BaseRequest) -> Answer:
        certificates = self._authority.ca_certificates()
        if not certificates:
            raise NotReady("there is no active CA yet")
        known, bodies = self._cacerts
        if known != certificates:
            der = cms.certs_only(certificates)
            bodies = {lines: codec.encode_body(der, lines=lines) for lines in (False, True)}
            self._cacerts = (certificates, bodies)
        return _base64_answer(bodies[_lines(request)], codec.CERTS_ONLY)

    def _csrattrs_answer(self, request: web.BaseRequest, profile: str) -> Answer:
        rule = self._authority.rule(profile)
        attributes = encode_csrattrs(rule.profile, sorted(rule.subject_wanted))
        if attributes is None:
            return web.Response(status=204)
        return _base64_answer(codec.encode_body(attributes, lines=_lines(request)), codec.CSR_ATTRIBUTES)

    async def _authenticate(self, request: web.BaseRequest, rule: EstRule, chain: Sequence[bytes]) -> Requester:
        """The certificate first. Credentials decide where there is none, where it proves nothing, or where the profile does
        not take that kind of certificate: a device may hold one and enrol by token all the same."""
        header = request.headers.get("Authorization")
        if chain:
            try:
                requester = await self._authority.authenticator.certificate(chain)
            except Unauthenticated:
                if header is None:
                    raise
            else:
                if header is None or _entitles(requester, rule):
                    return requester
        if header is None:
            raise Unauthenticated("no client certificate and no credentials")
        return await self._authority.authenticator.password(*codec.decode_basic(header), request.remote or "")

    async def _enroll(
        self, request: web.BaseRequest, operation: EstOperation, profile: str, requester: Requester, body: bytes
    ) -> Answer:
        headers = request.headers
        der = codec.decode_request(body, headers.get("Content-Type"), headers.get("Content-Transfer-Encoding"))
        csr = read_csr(der, leniency=self._authority.rule(profile).leniency)
        lines = codec.wants_lines(body, headers.get("User-Agent"))
        new_names = renamed(csr)
        if operation is EstOperation.SERVERKEYGEN:
            if new_names is not None:
                raise MalformedRequest("names are changed (ChangeSubjectName) by simplereenroll, not by serverkeygen")
            return await self._server_keygen(csr, profile, requester, lines=lines)
        asked = EnrollmentRequest(csr, profile, requester, _OPERATIONS[operation], "est", _lane(requester, operation))
        if new_names is not None:
            asked = replace(asked, csr=new_names, renamed_from=csr)
        outcome = await self._authority.enroll(asked)
        if isinstance(outcome, Issued):
            return _base64_answer(codec.encode_body(cms.certs_only((outcome.certificate,)), lines=lines), codec.CERTS_ONLY)
        return _not_issued(outcome)

    async def _server_keygen(
        self, csr: CertificationRequest, profile: str, requester: Requester, *, lines: bool
    ) -> web.Response:
        """RFC 7030 section 4.4. The device's request gives names and key type; the key comes from the pool. It stays bound to
        the request, so that a retry gets the same key and the same certificate."""
        rule = self._authority.rule(profile)
        recipient = self._recipient(csr, profile, requester)
        lane = _lane(requester, EstOperation.SERVERKEYGEN)
        asked = EnrollmentRequest(csr, profile, requester, Operation.SERVER_KEYGEN, "est", lane)
        owner = asked.idempotency_key
        pool = self._authority.pool
        recalled = await pool.recall(owner)
        if recalled is None and (refused := await self._authority.screen(asked)) is not None:
            return _not_issued(refused)  # before a key is made or taken for it
        key = recalled or await pool.take(_key_spec(csr, rule), owner)
        public_key = key.private_key.public_key()
        spki = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        outcome = await self._authority.enroll(replace(asked, csr=replace(csr, public_key=public_key, spki=spki)))
        if not isinstance(outcome, Issued):
            if recalled is None and not isinstance(outcome, Pending):
                await pool.erase(owner)
            return _not_issued(outcome)
        private_key = key.private_key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        if recipient is not None:
            private_key = await self._sealed(private_key, *recipient)
        body, content_type = codec.encode_key_and_certificate(
            private_key, cms.certs_only((outcome.certificate,)), encrypted=recipient is not None, lines=lines
        )
        return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    async def _sealed(self, private_key: bytes, recipient: bytes, signer: KeyPackageSigner) -> bytes:
        """EnvelopedData of SignedData of the AsymmetricKeyPackage (RFC 7030 section 4.4.2, RFC 5958)."""
        plan = cms.plan_signed_data(
            cms.key_package((private_key,)),
            content_type=_ID_KEY_PACKAGE,
            certificate=signer.certificate,
            algorithm=signer.algorithm,
            signing_ms=self._clock.now_ms(),
        )
        signed = cms.assemble_signed_data(plan, await signer.sign(plan.to_be_signed))
        return cms.envelop(
            cms.inner_content(signed), recipient, random=secrets.token_bytes(cms.RANDOM_BYTES), content_type=cms.OID_SIGNED_DATA
        )

    def _recipient(
        self, csr: CertificationRequest, profile: str, requester: Requester
    ) -> tuple[bytes, KeyPackageSigner] | None:
        """The certificate that the private key is encrypted to and who signs it (RFC 7030 section 4.4.1); ``None`` where TLS
        alone protects it."""
        wish = codec.key_delivery(csr.der)
        if wish.symmetric_key_id is not None:
            raise MalformedRequest(f"no symmetric key (DecryptKeyIdentifier) is shared with this gateway; {_DELIVERY}")
        if wish.asymmetric_key_id is None and profile not in self._options.always_encrypt:
            return None
        if self._package_signer is None:
            raise NotImplementedByGateway("this gateway signs no key packages; ask for the key without encryption")
        if requester.certificate is None:
            raise Forbidden(f"there is no TLS client certificate to encrypt the private key to; {_DELIVERY}")
        if wish.asymmetric_key_id is not None and wish.asymmetric_key_id != _key_identifier(requester.certificate):
            raise MalformedRequest(
                f"AsymmetricDecryptKeyIdentifier names a key that is not known here; {_DELIVERY}, and that of the certificate "
                f"in this connection is {_key_identifier(requester.certificate).hex()}"
            )
        # Tried on nothing first: a certificate that can receive no key (Ed25519) must not be found out after issuing.
        cms.envelop(b"", requester.certificate, random=secrets.token_bytes(cms.RANDOM_BYTES))
        return requester.certificate, self._package_signer


#: id-ct-KP-aKeyPackage, RFC 5958 section 2.
_ID_KEY_PACKAGE = "2.16.840.1.101.2.1.2.78.5"
#: What serverkeygen offers, for those who asked for something else (RFC 7030 sections 4.4.1.1 and 4.4.1.2).
_DELIVERY = (
    "a private key is encrypted to the TLS client's certificate, whose key identifier AsymmetricDecryptKeyIdentifier must "
    "hold, or protected by TLS alone when neither attribute is sent"
)
_OPERATIONS = {EstOperation.SIMPLEENROLL: Operation.ENROLL, EstOperation.SIMPLEREENROLL: Operation.REENROLL}


def _entitles(requester: Requester, rule: EstRule) -> bool:
    """Whether a client certificate can be what the request is granted for, so that credentials beside it do not count."""
    if requester.kind not in rule.requesters or requester.objection:
        return False
    holder = requester.holder
    return holder is None or not holder.renews_only or holder.profile == rule.profile.name


def _lane(requester: Requester, operation: EstOperation) -> Lane:
    if requester.kind is RequesterKind.STATION:
        return Lane.LINE
    return Lane.RENEWAL if operation is EstOperation.SIMPLEREENROLL else Lane.BULK


def _not_issued(outcome: Pending | Refused) -> web.Response:
    """202 with Retry-After and no body for a request that waits (RFC 7030 section 4.2.3); a refusal is raised as its error."""
    if isinstance(outcome, Pending):
        return web.Response(status=202, headers={"Retry-After": str(outcome.retry_after)})
    raise outcome.error


#: What the gateway makes itself; of the others only the client can make one.
_SPECS: dict[str, KeySpec] = {spec.value: spec for spec in KeySpec}
_PREFERRED: tuple[KeySpec, ...] = (KeySpec.P256, KeySpec.RSA_2048, KeySpec.RSA_3072, *KeySpec)


def _key_spec(csr: CertificationRequest, rule: EstRule) -> KeySpec:
    """The type of the key in the device's request where the profile takes it, else the first usual one the profile takes."""
    hinted = _SPECS.get(key_type(csr.public_key))
    if hinted is not None and is_allowed(hinted.value, rule.key_types):
        return hinted
    for spec in _PREFERRED:
        if is_allowed(spec.value, rule.key_types):
            return spec
    raise BadKey("the gateway makes no keys of the types this profile takes")


def _key_identifier(certificate_der: bytes) -> bytes:
    certificate = x509.load_der_x509_certificate(certificate_der)
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:  # IDevIDs need not carry one: RFC 5280 section 4.2.1.2 method 1
        return x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest


def _lines(request: web.BaseRequest) -> bool:
    return codec.wants_lines(b"", request.headers.get("User-Agent"))


def _base64_answer(body: bytes, content_type: str) -> Answer:
    return Whole(body, (("Content-Type", content_type), ("Content-Transfer-Encoding", "base64")))

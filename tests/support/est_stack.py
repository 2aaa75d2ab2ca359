"""The endpoints on real listeners above a small authority of the seam: it issues real certificates and counts what it did."""

from __future__ import annotations

import asyncio
import base64
import datetime
import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.authority.requests import EnrollmentRequest, Issued, Outcome, Pending, Refused, Requester, RequesterKind
from gateway.clock import MonotonicClock
from gateway.errors import Busy, Forbidden, NotFound, Unauthenticated
from gateway.keys.signer import KeySpec
from gateway.pki.algorithms import PrivateKey, SignatureAlgorithm, sign
from gateway.pki.profiles import BUILTIN_PROFILES, Profile
from gateway.protocols.est.endpoint import EstEndpoint, EstOptions
from gateway.protocols.ocsp.endpoint import OcspEndpoint
from gateway.protocols.publication.endpoint import PublicationEndpoint
from gateway.protocols.server import Limits, Listener
from gateway.protocols.tls import ServerTls
from tests.support.est_requests import name

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


def der(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.DER)


def pem_key(key: PrivateKey) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


class TestPki:
    """A root, a subordinate CA below it, a maker's root, a server certificate and client certificates, as files."""

    __test__ = False

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.root_key = ec.generate_private_key(ec.SECP256R1())
        self.root = self.certificate("Test Root", self.root_key, ca=True)
        self.ca_key = ec.generate_private_key(ec.SECP256R1())
        self.ca = self.certificate("Test Issuing CA", self.ca_key, issuer=(self.root, self.root_key), ca=True)
        self.maker_key = ec.generate_private_key(ec.SECP256R1())
        self.maker = self.certificate("Test Maker", self.maker_key, ca=True)
        self.server_key = ec.generate_private_key(ec.SECP256R1())
        self.server = self.certificate(
            "gateway",
            self.server_key,
            issuer=(self.ca, self.ca_key),
            names=[x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))],
            usage=ExtendedKeyUsageOID.SERVER_AUTH,
        )
        self.anchors = self.write("root.pem", self.root)
        self.issuing = self.write("issuing.pem", self.ca)

    def certificate(
        self,
        common_name: str,
        key: PrivateKey,
        *,
        issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None,
        ca: bool = False,
        names: Sequence[x509.GeneralName] = (),
        usage: x509.ObjectIdentifier | None = None,
        not_after: datetime.datetime | None = None,
    ) -> x509.Certificate:
        return self.issue(
            name(common_name), key.public_key(), issuer or (None, key), ca=ca, names=names, usage=usage, not_after=not_after
        )

    @staticmethod
    def issue(subject, public_key, issuer, *, ca=False, names=(), usage=None, not_after=None, serial=None):  # type: ignore[no-untyped-def]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer[0].subject if issuer[0] else subject)
            .public_key(public_key)
            .serial_number(serial or x509.random_serial_number())
            .not_valid_before(NOW - 30 * DAY)
            .not_valid_after(not_after or NOW + 365 * DAY)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer[1].public_key()), critical=False)
        )
        if ca:
            usages = dict.fromkeys(
                (
                    "content_commitment",
                    "key_encipherment",
                    "data_encipherment",
                    "key_agreement",
                    "encipher_only",
                    "decipher_only",
                ),
                False,
            )
            builder = builder.add_extension(
                x509.KeyUsage(digital_signature=True, key_cert_sign=True, crl_sign=True, **usages), critical=True
            )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        if usage:
            builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        return builder.sign(issuer[1], hashes.SHA256())

    def write(self, file: str, *certificates: x509.Certificate) -> Path:
        path = self.directory / file
        path.write_bytes(b"".join(item.public_bytes(serialization.Encoding.PEM) for item in certificates))
        return path

    def client(
        self,
        common_name: str,
        *,
        maker: bool = False,
        not_after: datetime.datetime | None = None,
        key: PrivateKey | None = None,
    ) -> tuple[Path, Path]:
        """PEM files of a client certificate of our own CA or of the maker, and of its key."""
        key = key or ec.generate_private_key(ec.SECP256R1())
        issuer = (self.maker, self.maker_key) if maker else (self.ca, self.ca_key)
        certificate = self.certificate(
            common_name, key, issuer=issuer, usage=ExtendedKeyUsageOID.CLIENT_AUTH, not_after=not_after
        )
        path = self.write(f"{common_name}.pem", certificate)
        key_path = path.with_suffix(".key")
        key_path.write_bytes(pem_key(key))
        return path, key_path

    def client_context(self, client: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.anchors))
        context.load_verify_locations(str(self.issuing))
        if client:
            context.load_cert_chain(*client)
        return context


@dataclass
class Rule:
    requesters: frozenset[RequesterKind] = frozenset(RequesterKind)
    key_types: frozenset[str] = frozenset({"p-256", "rsa-2048", "rsa-3072"})
    leniency: frozenset[str] = frozenset()
    subject_wanted: frozenset[str] = frozenset()

    @property
    def profile(self) -> Profile:
        return replace(BUILTIN_PROFILES["ldevid"], key_types=self.key_types)


@dataclass
class Key:
    private_key: PrivateKey


class Pool:
    def __init__(self) -> None:
        self.keys: dict[bytes, Key] = {}
        self.empty = False
        self.erased = 0

    async def take(self, spec: KeySpec, owner: bytes) -> Key:
        if self.empty:
            raise Busy("no key is ready", retry_after=7)
        private: PrivateKey = (
            ec.generate_private_key(ec.SECP256R1())
            if spec is KeySpec.P256
            else rsa.generate_private_key(65537, int(spec.value[4:]))
        )
        self.keys[owner] = Key(private)
        return self.keys[owner]

    async def recall(self, owner: bytes) -> Key | None:
        return self.keys.get(owner)

    async def erase(self, owner: bytes) -> None:
        self.erased += 1
        self.keys.pop(owner, None)


@dataclass
class Authenticator:
    pki: TestPki
    tokens: dict[str, str] = field(default_factory=lambda: {"device": "secret", "waiting": "secret", "refused": "secret"})

    async def certificate(self, chain: Sequence[bytes]) -> Requester:
        certificate = x509.load_der_x509_certificate(chain[0])
        if certificate.not_valid_after_utc < NOW:
            raise Unauthenticated("the certificate has expired")
        ours = certificate.issuer == self.pki.ca.subject
        kind = RequesterKind.OWN if ours else RequesterKind.IDEVID
        if "station" in certificate.subject.rfc4514_string():
            kind = RequesterKind.STATION
        return Requester(kind, f"{kind.value}:{certificate.serial_number:x}", certificate=chain[0])

    async def password(self, user: str, password: str, source: str = "") -> Requester:
        assert source == "127.0.0.1"
        if self.tokens.get(user) != password:
            raise Unauthenticated("unknown token")
        return Requester(RequesterKind.TOKEN, f"token:{user}", token_id=user)


@dataclass
class Answer:
    der: bytes
    cacheable: bool = True
    this_update_ms: int = 1_700_000_000_000
    next_update_ms: int = 4_000_000_000_000
    digest: bytes = bytes(32)


class Authority:
    """Issues at once, except for the tokens ``waiting`` and ``refused``. ``head`` grows with everything it does."""

    def __init__(self, pki: TestPki) -> None:
        self.pki = pki
        self.authenticator = Authenticator(pki)
        self.pool = Pool()
        self.rules = {
            "device": Rule(),
            "rsa": Rule(key_types=frozenset({"rsa-2048"})),
            "none": Rule(key_types=frozenset({"ed448"})),
        }
        self.issued: dict[bytes, Issued] = {}
        self.requests: list[EnrollmentRequest] = []
        self.raises: Exception | None = None
        self.approved = False
        self.ocsp_calls = 0
        self.screened: Refused | None = None
        self.crl_der = b"\x30\x03crl"
        self.at_hand: dict[bytes, Answer] = {}

    @property
    def head(self) -> int:
        return len(self.issued)

    async def enroll(self, request: EnrollmentRequest) -> Outcome:
        if self.raises is not None:
            raise self.raises
        self.requests.append(request)
        if request.requester.token_id == "refused":
            return Refused(Forbidden("this device is not on the list"))
        if request.requester.token_id == "waiting" and not self.approved:
            return Pending("1", 1)
        key = request.idempotency_key
        if key not in self.issued:
            csr = request.csr
            certificate = self.pki.issue(csr.subject, csr.public_key, (self.pki.ca, self.pki.ca_key), names=csr.san)
            self.issued[key] = Issued(
                der(certificate), certificate.serial_number, (der(self.pki.ca), der(self.pki.root)), self.head
            )
        return self.issued[key]

    async def screen(self, request: EnrollmentRequest) -> Refused | None:
        return self.screened

    def rule(self, profile: str) -> Rule:
        if profile not in self.rules:
            raise NotFound(f"no profile {profile}")
        return self.rules[profile]

    def ca_certificates(self) -> tuple[bytes, ...]:
        return (der(self.pki.ca), der(self.pki.root))

    def crl(self, name: str) -> Answer:
        if name != "1":
            raise NotFound(f"no CRL {name}")
        return Answer(self.crl_der)

    async def ocsp(self, request_der: bytes) -> Answer:
        self.ocsp_calls += 1
        if request_der.startswith(b"\x30\x82\xff"):
            raise RuntimeError("a fault with a secret inside")
        return self.at_hand.get(request_der) or Answer(b"\x30\x03\x0a\x01\x01", cacheable=False)

    def ocsp_at_hand(self, request_der: bytes) -> Answer | None:
        return self.at_hand.get(request_der)


class PackageSigner:
    def __init__(self, pki: TestPki) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self.certificate = der(pki.certificate("key packages", self._key, issuer=(pki.ca, pki.ca_key)))
        self.algorithm = SignatureAlgorithm.ECDSA_SHA256

    async def sign(self, message: bytes) -> bytes:
        return sign(self._key, self.algorithm, message)


@dataclass
class HttpAnswer:
    status: int
    headers: dict[str, str]
    body: bytes


class EstStack:
    """Both listeners over one authority."""

    def __init__(self, pki: TestPki, directory: Path, limits: Limits | None = None) -> None:
        self.pki = pki
        self.directory = directory
        self.limits = limits or Limits(headers_s=1.0, body_s=1.0, handshake_s=2.0, idle_s=5.0)
        self.clock = MonotonicClock()
        self.certificates: dict[str, Path] = {}
        self.authority = Authority(pki)
        self.tls = ServerTls()
        self.tls.replace_certificate(der(pki.server), [der(pki.ca)], pki.server_key)
        self.tls.add_trust_anchors([der(pki.ca), der(pki.maker)])
        options = EstOptions("device", {"rsa": "rsa", "none": "none", "gone": "gone"}, frozenset({"sealed"}))
        self.est = EstEndpoint(self.authority, options, self.clock, package_signer=PackageSigner(pki), limits=self.limits)
        self.ocsp = OcspEndpoint(self.authority, self.clock, self.limits)
        self.publication = PublicationEndpoint(self.authority, self.clock)
        self.https = Listener("https", [self.est], limits=self.limits, tls=self.tls)
        self.http = Listener("http", [self.ocsp, self.publication], limits=self.limits)

    async def start(self) -> None:
        await self.https.start()
        await self.http.start()

    async def close(self) -> None:
        await self.https.close(1.0)
        await self.http.close(1.0)

    @property
    def https_port(self) -> int:
        return self.https.addresses[0][1]

    @property
    def http_port(self) -> int:
        return self.http.addresses[0][1]

    async def connect(
        self, *, tls: bool, client: tuple[Path, Path] | None = None
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if tls:
            return await asyncio.open_connection("localhost", self.https_port, ssl=self.pki.client_context(client), family=2)
        return await asyncio.open_connection("127.0.0.1", self.http_port)

    async def raw(
        self, request: bytes, *, tls: bool = True, client: tuple[Path, Path] | None = None, eof: bool = False
    ) -> HttpAnswer:
        """Send these bytes, read one answer, close."""
        reader, writer = await self.connect(tls=tls, client=client)
        try:
            writer.write(request)
            await writer.drain()
            if eof and not tls:
                writer.write_eof()
            return await read_answer(reader, head=request.startswith(b"HEAD"))
        finally:
            writer.close()

    async def est_request(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        headers: dict[str, str] | None = None,
        user: str | None = "device",
        client: tuple[Path, Path] | None = None,
    ) -> HttpAnswer:
        fields = {"Host": "localhost", "Content-Type": "application/pkcs10", "Content-Length": str(len(body))}
        if user:
            fields["Authorization"] = "Basic " + base64.b64encode(f"{user}:secret".encode()).decode()
        fields |= headers or {}
        head = f"{method} {path} HTTP/1.1\r\n" + "".join(
            f"{key}: {value}\r\n" for key, value in fields.items() if value is not None
        )
        return await self.raw(head.encode() + b"\r\n" + body, client=client)


async def read_answer(reader: asyncio.StreamReader, *, head: bool = False) -> HttpAnswer:
    async with asyncio.timeout(10):
        text = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = text.rstrip("\r\n").split("\r\n")
        headers = {key.lower(): value for key, _, value in (item.partition(": ") for item in fields)}
        length = 0 if head else int(headers.get("content-length", "0"))
        return HttpAnswer(int(line.split(" ")[1]), headers, await reader.readexactly(length))

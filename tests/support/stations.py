"""Stations at the line's REST interface: the real authority behind a real TLS listener, clients with certificates or tokens."""

from __future__ import annotations

import base64
import io
import itertools
import json
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from yarl import URL

from gateway.authority.authority import Authority
from gateway.authority.requests import Issued
from gateway.protocols.server import Limits, Listener
from gateway.protocols.tls import ServerTls
from provisioning.api.endpoint import LineEndpoint, LineLimits
from provisioning.line import Line
from provisioning.orders import WorkOrder
from provisioning.units import Units
from tests.support.authority import TestCa, World, authority_in, device_csr, enrollment
from tests.support.est_stack import TestPki, der, pem_key
from tests.support.line import CountingFinisher, units_of

PREFIX = "/api/v1/line"
_keys = itertools.count()


@dataclass
class Answer:
    status: int
    head: Mapping[str, str]
    content: bytes

    @property
    def json(self) -> dict[str, Any]:
        found = json.loads(self.content)
        assert isinstance(found, dict)
        return found

    @property
    def detail(self) -> str:
        """Of a problem document."""
        assert self.head["Content-Type"] == "application/problem+json", self.content
        assert self.json["status"] == self.status
        return str(self.json["detail"])


@dataclass
class BenchDevice:
    """A device in the hands of a station."""

    chip: str
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def csr(self, encoding: Encoding = Encoding.DER) -> bytes:
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "anything")])
        request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(self.key, hashes.SHA256())
        return request.public_bytes(encoding)

    def prove(self, challenge: str) -> dict[str, str]:
        """``challenge`` in base64, as it was given."""
        signature = self.key.sign(base64.b64decode(challenge), ec.ECDSA(hashes.SHA256()))
        return {"challenge": challenge, "signature": base64.b64encode(signature).decode()}


@dataclass
class Session:
    station: Station
    http: aiohttp.ClientSession

    async def ask(self, method: str, path: str, body: object = None, **head: str) -> Answer:
        headers = {name.replace("_", "-"): value for name, value in head.items()}
        if method != "GET":
            headers.setdefault("Idempotency-Key", f"test-key-{next(_keys)}")
        if self.station.token:
            headers["Authorization"] = aiohttp.encode_basic_auth(*self.station.token)
        if isinstance(body, bytes):
            headers.setdefault("Content-Type", "application/pkcs10")
        data = io.BytesIO(body) if isinstance(body, bytes) else json.dumps(body) if body is not None else None
        url = URL(f"{self.station.counter.url}{path}", encoded=True)
        async with self.http.request(method, url, data=data, headers=headers) as answer:
            return Answer(answer.status, answer.headers, await answer.read())


@dataclass
class Station:
    """Asks with its certificate or its token, with a new Idempotency-Key for each change."""

    counter: Counter
    files: tuple[Path, Path] | None = None
    token: tuple[str, str] | None = None

    async def ask(self, method: str, path: str, body: object = None, **head: str) -> Answer:
        async with self.session() as session:
            return await session.ask(method, path, body, **head)

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Session]:
        """For many requests over one connection."""
        connector = aiohttp.TCPConnector(ssl=self.counter.context(self.files))
        async with aiohttp.ClientSession(connector=connector) as session:
            yield Session(self, session)

    async def get(self, path: str, **head: str) -> Answer:
        return await self.ask("GET", path, **head)

    async def post(self, path: str, body: object = None, **head: str) -> Answer:
        return await self.ask("POST", path, body, **head)

    async def done(self, path: str, body: object = None, **head: str) -> dict[str, Any]:
        """A POST that must succeed."""
        answer = await self.post(path, body, **head)
        assert answer.status == 200, answer.content
        return answer.json

    async def opened(self, device: BenchDevice, order: str = "O-1", serial: str = "") -> str:
        """The unit's address."""
        body = {"order": order, "chip": device.chip} | ({"serial": serial} if serial else {})
        return str((await self.done("/units", body))["href"]).removeprefix(PREFIX)

    async def certified(self, device: BenchDevice, order: str = "O-1", serial: str = "") -> tuple[str, list[x509.Certificate]]:
        unit = await self.opened(device, order, serial)
        answer = await self.post(f"{unit}/csr", device.csr())
        assert answer.status == 200, answer.content
        return unit, x509.load_pem_x509_certificates(answer.content)

    async def verified(self, device: BenchDevice, order: str = "O-1") -> str:
        unit, _ = await self.certified(device, order)
        await self.done(f"{unit}/written")
        await self.done(f"{unit}/verified", device.prove((await self.get(f"{unit}/challenge")).json["challenge"]))
        return unit

    async def made(self, device: BenchDevice, order: str = "O-1") -> dict[str, Any]:
        """From the beginning to the end; the order wants a lock and no label."""
        unit = await self.verified(device, order)
        await self.done(f"{unit}/locking")
        await self.done(f"{unit}/locked")
        return await self.done(f"{unit}/confirmed")


@dataclass
class Counter:
    """The interface and everything behind it."""

    world: World
    units: Units
    finisher: CountingFinisher
    endpoint: LineEndpoint
    listener: Listener
    pki: TestPki

    @property
    def port(self) -> int:
        return self.listener.addresses[0][1]

    @property
    def url(self) -> str:
        return f"https://localhost:{self.port}{PREFIX}"

    @property
    def size(self) -> int:
        """Of the journal."""
        return self.world.journal.head.size

    def context(self, files: tuple[Path, Path] | None = None) -> ssl.SSLContext:
        return self.pki.client_context(files)

    async def station(self, name: str = "bench-1", profile: str = "station") -> Station:
        """With a certificate that this gateway issued."""
        key = ec.generate_private_key(ec.SECP256R1())
        csr = device_csr(f"CN={name}", key=key)
        outcome = await self.world.authority.enroll(enrollment(csr, profile=profile))
        assert isinstance(outcome, Issued), outcome
        stem = quote(name, safe="")
        files = self.pki.directory / f"{stem}.pem", self.pki.directory / f"{stem}.key"
        certificates = (outcome.certificate, *outcome.chain[:1])
        files[0].write_bytes(b"".join(x509.load_der_x509_certificate(each).public_bytes(Encoding.PEM) for each in certificates))
        files[1].write_bytes(pem_key(key))
        return Station(self, files)

    async def token_station(self, profile: str = "idevid", *, station: bool = True) -> Station:
        made = await self.world.authority.tokens.create(
            profile, operator="test", validity_s=3600, uses=5, station=station
        )  # fmt: skip
        return Station(self, token=(made.token_id, made.secret))

    def balance(self, order: str = "O-1") -> list[str]:
        return self.units.balance(order).faults()


@asynccontextmanager
async def counter(
    directory: Path,
    *,
    orders: Sequence[WorkOrder] = (),
    root: TestCa | None = None,
    limits: LineLimits | None = None,
    line: bool = False,
    **options: Any,
) -> AsyncIterator[Counter]:
    """The interface of the gateway in ``directory``: opened again with the same ``root`` it is a restart."""
    async with AsyncExitStack() as closing:
        world = await closing.enter_async_context(authority_in(directory, root=root, **options))
        authority = cast(Authority, world.authority)
        units = await units_of(authority, orders)
        finisher = CountingFinisher()
        ports = Line(authority, units, finisher, ()) if line else None
        endpoint = LineEndpoint(authority, units, ports, finisher, limits)
        pki = TestPki(directory)
        tls = ServerTls()
        tls.replace_certificate(der(pki.server), [der(pki.ca)], pki.server_key)
        tls.add_trust_anchors(authority.ca_certificates())
        listener = Listener("https", [endpoint], limits=Limits(headers_s=5.0, body_s=5.0), tls=tls)
        await listener.start()
        closing.push_async_callback(listener.close, 1.0)
        closing.callback(endpoint.close)
        yield Counter(world, units, finisher, endpoint, listener, pki)

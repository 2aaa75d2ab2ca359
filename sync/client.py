"""Central over HTTPS, one method for each request of docs/SYNC.md. What to say when, :mod:`sync.session` decides.

Mutual TLS: central's certificate must lie below the root that the gateway recorded when it joined, ours is the gateway's own.
Whatever central answers comes back as a value or as one of the errors below, so nobody else reads a status code.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self, TypeVar

import aiohttp
import zstandard

from gateway.errors import Fenced, GatewayError, MalformedRequest, RequestError, Unavailable
from gateway.journal.canonical import JsonValue
from gateway.journal.statements import from_json, number_of, octets_of, text_of
from sync.wire import BATCH_TYPE, MOST_STATEMENT_OCTETS, STATEMENT_TYPE, Accepted, Batch, Welcome

T = TypeVar("T")
PATH = "/sync/v1/"
_PROBLEM = "urn:edge-gateway:sync:"
#: An answer that is not the desired document or that of joining is a few hundred octets.
_MOST_ANSWER = 1 << 20
_ZSTD_LEVEL = 1
#: X509_V_FLAG_NO_CHECK_TIME of OpenSSL's x509_vfy.h; Python's ssl has no name for it.
_NO_CHECK_TIME = 0x200000
_TIMEOUT = aiohttp.ClientTimeout(total=None, connect=20, sock_connect=20, sock_read=90)


class LinkLost(Unavailable):
    """No answer, or none that makes sense: nobody knows whether central saw the request."""

    hint = "Check the cable and central's address; what was issued meanwhile is kept and sent later."


class CentralBusy(Unavailable):
    """Central asked for a pause of ``retry_after`` seconds."""


class HelloNeeded(Unavailable):
    """Central knows no such session."""


class ResumeElsewhere(Unavailable):
    """Central ends at another place than the batch begins: it has ``size`` records with this ``root``."""

    def __init__(self, message: str, size: int, root: bytes) -> None:
        super().__init__(message)
        self.size = size
        self.root = root


class CentralRefuses(RequestError):
    """Central says that the message is wrong; repeating it will not help."""

    hint = "The PKI team must look at central's alerts for this gateway."


class FencedByCentral(Fenced):
    """Central will take nothing from this journal any more."""

    hint = "The PKI team must let the gateway join again."


class CentralClient:
    """One connection to one central. ``urls`` are tried in turn; the one that answered last is tried first."""

    def __init__(self, urls: Sequence[str], context: ssl.SSLContext) -> None:
        self._urls = [url.rstrip("/") for url in urls]
        self._context = context
        self._session: aiohttp.ClientSession | None = None
        self._compress = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(ssl=self._context, limit=4, enable_cleanup_closed=False)
        self._session = aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT, auto_decompress=True, trust_env=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def challenge(self) -> str:
        """A nonce to sign."""
        _, body = await self._ask("POST", "challenge")
        return _read(lambda data: text_of(from_json(data), "nonce"), body)

    async def hello(self, statement: bytes) -> Welcome:
        _, body = await self._ask("POST", "hello", statement, {"Content-Type": STATEMENT_TYPE})
        return _read(Welcome.from_bytes, body)

    async def records(self, batch: Batch) -> Accepted:
        packed = await asyncio.to_thread(self._pack, batch)
        _, body = await self._ask("POST", "records", packed, {"Content-Type": BATCH_TYPE})
        return _read(Accepted.from_bytes, body)

    async def urgent(self, statement: bytes) -> None:
        await self._ask("POST", "urgent", statement, {"Content-Type": STATEMENT_TYPE})

    async def desired(self, have: int, wait_s: int) -> bytes | None:
        """The signed document as soon as its version is above ``have``; ``None`` when there was none for ``wait_s`` seconds."""
        status, body = await self._ask("GET", f"desired?have={have}&wait={wait_s}", most=MOST_STATEMENT_OCTETS)
        return body if status == 200 else None

    async def put_crl(self, name: str, crl: bytes) -> None:
        await self._ask("PUT", f"crl/{name}", crl, {"Content-Type": "application/pkix-crl"})

    async def join(self, request: bytes) -> bytes:
        """The signed answer to a join request."""
        _, body = await self._ask("POST", "join", request, {"Content-Type": "application/json"}, most=MOST_STATEMENT_OCTETS)
        return body

    def _pack(self, batch: Batch) -> bytes:
        return self._compress(batch.to_bytes())

    async def _ask(
        self,
        method: str,
        path: str,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
        *,
        most: int = _MOST_ANSWER,
    ) -> tuple[int, bytes]:
        session = self._session
        if session is None:
            raise LinkLost("there is no connection to central")
        for attempt in range(len(self._urls)):
            url = self._urls[0]
            try:
                async with session.request(
                    method,
                    url + PATH + path,
                    data=None if data is None else io.BytesIO(data),
                    headers=headers,
                    allow_redirects=False,
                ) as answer:
                    body = await _body(answer, most)
                    if answer.status < 300 or answer.status == 304:
                        return answer.status, body
                    raise _error(answer.status, answer.headers.get("Retry-After", ""), body)
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                self._urls.append(self._urls.pop(0))
                if attempt == len(self._urls) - 1:
                    raise LinkLost(f"central does not answer at {url}: {_short(error)}") from error
        raise LinkLost("central has no address")


async def _body(answer: aiohttp.ClientResponse, most: int) -> bytes:
    parts, size = [], 0
    async for part in answer.content.iter_chunked(1 << 16):
        size += len(part)
        if size > most:
            raise LinkLost("central's answer is too long")
        parts.append(part)
    return b"".join(parts)


def _error(status: int, retry_after: str, body: bytes) -> GatewayError:
    problem: dict[str, JsonValue] = {}
    kind, detail = "", f"status {status}"
    with suppress(MalformedRequest):
        problem = from_json(body)
        kind = text_of(problem, "type", "").removeprefix(_PROBLEM)
        detail = text_of(problem, "detail", detail)[:500]
    if status in (429, 503):
        pause = int(retry_after) if retry_after.isdecimal() and len(retry_after) < 6 else 10
        return CentralBusy(detail, retry_after=pause)
    match kind:
        case "fenced":
            return FencedByCentral(detail)
        case "hello":
            return HelloNeeded(detail)
        case "resume":
            try:
                return ResumeElsewhere(detail, number_of(problem, "size"), octets_of(problem, "root"))
            except MalformedRequest as error:
                return LinkLost(f"central's answer cannot be understood: {error}")
        case _ if 400 <= status < 500:
            return CentralRefuses(detail)
        case _:
            return LinkLost(f"central answers {detail}")


def _read(reader: Callable[[bytes], T], body: bytes) -> T:
    try:
        return reader(body)
    except MalformedRequest as error:
        raise LinkLost(f"central's answer cannot be understood: {error}") from error


def _short(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:200]


def client_context(root: bytes) -> ssl.SSLContext:
    """Trusts ``root`` (DER) and nothing else; names are checked, validity is not.

    The system's clock may stand in 1970 on a box without a battery, and what would set it right may come from central. What
    central says is signed by its own key besides.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_verify_locations(cadata=root)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
    return context


async def find_root(host: str, port: int, digest: bytes) -> bytes:
    """The certificate that a server sends in its chain and whose SHA-256 begins with ``digest``: whom a join code trusts.

    Nothing is sent and nothing is believed here; the caller connects again with that root. Raises LinkLost, CentralRefuses.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    try:
        async with asyncio.timeout(20):
            _, writer = await asyncio.open_connection(host, port, ssl=context)
    except (OSError, TimeoutError) as error:
        raise LinkLost(f"central does not answer at {host}:{port}: {_short(error)}") from error
    try:
        tls = writer.get_extra_info("ssl_object")
        if hasattr(tls, "get_unverified_chain"):  # public from Python 3.13 on
            chain = [bytes(each) for each in tls.get_unverified_chain()]
        else:
            chain = [each.public_bytes(2) for each in tls._sslobj.get_unverified_chain() or ()]  # 2 is _ssl.ENCODING_DER
    finally:
        writer.close()
    for certificate in chain:
        if hashlib.sha256(certificate).digest().startswith(digest):
            return certificate
    raise CentralRefuses("this is another central than the one that made the code, or somebody stands between")

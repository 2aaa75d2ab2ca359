"""The HTTP listener that EST, OCSP and publication stand on: accepts, limits, dispatches by path, answers errors.

It knows connections and bytes, not certificates. aiohttp parses HTTP/1.0 and 1.1 (RFC 9112); its router, middlewares and access
log are left out because a request here costs less than they do. Every limit is a :class:`Limits` field: a peer can
neither hold memory nor a connection for longer than they say.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from aiohttp import web

from gateway.errors import (
    GatewayError,
    MalformedRequest,
    NotFound,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)
from gateway.protocols.connection import SERVER, Answer, HttpConnection, Limits, PlainConnection, Whole
from gateway.protocols.tls import ServerTls, TlsConnection

__all__ = [
    "CHALLENGE", "SERVER", "Answer", "Endpoint", "InstantEndpoint", "Limits", "Listener", "http_error", "method_not_allowed",
    "read_body", "response_head",
]  # fmt: skip

log = logging.getLogger(__name__)

#: RFC 7617; the realm never changes, so that clients may cache the credentials for it.
CHALLENGE = 'Basic realm="edge gateway", charset="UTF-8"'


class Endpoint(Protocol):
    """One protocol on a listener: answers every request whose raw path begins with one of ``prefixes``."""

    @property
    def prefixes(self) -> Sequence[str]: ...

    async def answer(self, request: web.BaseRequest) -> Answer:
        """May raise any GatewayError; the listener turns it into a status."""


@runtime_checkable
class InstantEndpoint(Endpoint, Protocol):
    """An endpoint that knows some answers before the request is parsed."""

    def instant(self, request: bytes) -> bytes | None:
        """The complete answer to the complete bytes of a request, where it is at hand; else ``None``."""


def http_error(error: GatewayError) -> web.Response:
    """The answer for ``error``: its status and reason as plain text, an empty body for 401 (RFC 7030 section 3.2.3)."""
    headers = {"Server": SERVER}
    if isinstance(error, Unauthenticated):
        return web.Response(status=401, headers=headers | {"WWW-Authenticate": CHALLENGE})
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(error.retry_after)
    return web.Response(status=error.http_status, text=f"{error}\n{error.hint}\n", headers=headers)


def method_not_allowed(request: web.BaseRequest, *allowed: str) -> web.Response:
    names = ", ".join(allowed)
    return web.Response(status=405, text=f"{request.method} is not possible here, use {names}\n", headers={"Allow": names})


async def read_body(request: web.BaseRequest, limits: Limits) -> bytes:
    """The whole body, chunked or not. Raises TooLarge, UnsupportedMediaType (content codings), MalformedRequest when it does
    not arrive in time or not completely."""
    coding = request.headers.get("Content-Encoding")
    if coding is not None and coding.strip().lower() != "identity":
        raise UnsupportedMediaType("Content-Encoding is not understood here; send the body as it is")
    content = request.content
    if content.is_eof():  # arrived together with the headers: no timer, no waiting
        body = content.read_nowait()
        if len(body) > limits.body:
            raise TooLarge(f"at most {limits.body} bytes of body are read")
        return body
    if (request.content_length or 0) > limits.body:
        raise TooLarge(f"the body has {request.content_length} bytes, at most {limits.body} are read")
    await _expectation(request)
    pieces = bytearray()
    try:
        async with asyncio.timeout(limits.body_s):
            while piece := await content.readany():
                pieces += piece
                if len(pieces) > limits.body:
                    raise TooLarge(f"at most {limits.body} bytes of body are read")
    except TimeoutError as error:
        raise MalformedRequest(f"the body did not arrive within {limits.body_s:g} seconds") from error
    except (web.PayloadAccessError, web.RequestPayloadError) as error:
        raise MalformedRequest("the body ended early or its chunks are malformed") from error
    return bytes(pieces)


async def _expectation(request: web.BaseRequest) -> None:
    """RFC 9110 section 10.1.1: a client that asks before it sends its body (curl) is told to go on."""
    if request.headers.get("Expect", "").lower() == "100-continue" and not request.content.is_eof():
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # an interim answer does not begin the real one


class Listener:
    """One address, one set of endpoints, with or without TLS."""

    def __init__(
        self, name: str, endpoints: Sequence[Endpoint], *, limits: Limits | None = None, tls: ServerTls | None = None
    ) -> None:
        self.name = name
        self.limits = limits or Limits()
        self._tls = tls
        self._endpoints = tuple((prefix, endpoint) for endpoint in endpoints for prefix in endpoint.prefixes)
        self._instant = tuple(
            (tuple(prefix.encode() for prefix in endpoint.prefixes), endpoint.instant)
            for endpoint in endpoints
            if isinstance(endpoint, InstantEndpoint)
        )
        self._http = web.Server(self.dispatch)  # type: ignore[arg-type]  # its connections dispatch for themselves
        self._servers: list[asyncio.Server] = []
        self._peers: Counter[str] = Counter()
        self._open: set[asyncio.BaseTransport] = set()
        self._refused = 0

    async def start(self, host: str = "127.0.0.1", port: int = 0, *, sock: socket.socket | None = None) -> None:
        """Listen on ``host``:``port`` (0: any free one) or on a socket that systemd opened. Raises OSError."""
        loop = asyncio.get_running_loop()
        if sock is not None:
            server = await loop.create_server(self._connection, sock=sock, backlog=1024)
        else:
            server = await loop.create_server(self._connection, host, port, backlog=1024, reuse_address=True)
        self._servers.append(server)

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Host and port of every listening socket."""
        return tuple(sock.getsockname()[:2] for server in self._servers for sock in server.sockets)

    @property
    def connections(self) -> int:
        return len(self._open)

    @property
    def refused_connections(self) -> int:
        """Connections closed at once because a limit was reached, since start."""
        return self._refused

    async def close(self, grace_s: float = 5.0) -> None:
        """Stop accepting, let running requests end within ``grace_s``, close every connection."""
        for server in self._servers:
            server.close()
        await self._http.shutdown(grace_s)
        for transport in tuple(self._open):
            transport.close()
        self._servers.clear()

    def admit(self, transport: asyncio.BaseTransport) -> bool:
        """Count a new connection; False when it is one too many."""
        peer = _peer(transport)
        if len(self._open) >= self.limits.connections or self._peers[peer] >= self.limits.connections_per_peer:
            self._refused += 1
            if self._refused & (self._refused - 1) == 0:  # at powers of two: a flood must not become a flood of log lines
                log.warning("%s: connection limit reached, %d refused so far, the last from %s", self.name, self._refused, peer)
            return False
        self._open.add(transport)
        self._peers[peer] += 1
        return True

    def release(self, transport: asyncio.BaseTransport) -> None:
        if transport in self._open:
            self._open.discard(transport)
            peer = _peer(transport)
            self._peers[peer] -= 1
            if self._peers[peer] <= 0:
                del self._peers[peer]

    async def dispatch(self, request: web.BaseRequest) -> Answer:
        """Answer one request; the only place where an exception becomes an HTTP status."""
        path = request.raw_path
        try:
            for prefix, endpoint in self._endpoints:
                if path.startswith(prefix):
                    answer = await endpoint.answer(request)
                    if not isinstance(answer, Whole):
                        answer.headers["Server"] = SERVER
                    return answer
            raise NotFound("nothing is served at this address")
        except GatewayError as error:
            return http_error(error)
        except (asyncio.CancelledError, ConnectionError):
            raise  # the client has gone
        except Exception:  # whatever a request may provoke, it must neither end the daemon nor show its inside
            reference = secrets.token_hex(4)
            log.exception("internal error %s while answering %s %s", reference, request.method, path[:80])
            return web.Response(
                status=500, text=f"internal error, reference {reference}\nTell the reference to the operator.\n"
            )

    def instant(self, data: bytes) -> bytes | None:
        target = data.find(b" ") + 1
        for prefixes, look_up in self._instant:
            if data.startswith(prefixes, target) and (answer := look_up(data)) is not None:
                return answer
        return None

    def _connection(self) -> asyncio.BaseProtocol:
        loop = asyncio.get_running_loop()
        if self._tls is None:
            return PlainConnection(self, self._http, loop)
        http = HttpConnection(self, self._http, loop)
        return TlsConnection(
            loop, http, self._tls.context, admit=self.admit, release=self.release, handshake_s=self.limits.handshake_s
        )  # fmt: skip


def _peer(transport: asyncio.BaseTransport) -> str:
    name = transport.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) else ""


def response_head(status: int, headers: Mapping[str, str], length: int) -> bytes:
    """A complete response head for :meth:`Endpoint.instant`."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} OK\r\n{lines}Content-Length: {length}\r\n\r\n".encode("latin-1")

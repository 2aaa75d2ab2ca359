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
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from gateway.errors import (
    GatewayError,
    MalformedRequest,
    NotFound,
    TooLarge,
    Unauthenticated,
    Unavailable,
    UnsupportedMediaType,
)
from gateway.protocols.tls import ServerTls, TlsConnection

log = logging.getLogger(__name__)

#: RFC 7617; the realm never changes, so that clients may cache the credentials for it.
CHALLENGE = 'Basic realm="edge gateway", charset="UTF-8"'
#: Instead of the names and versions of the libraries below.
SERVER = "edge-gateway"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one peer may cost. Bytes and seconds."""

    body: int = 65_536
    #: Longer than aiohttp's 8,190: SCEP's GET carries a whole PKCS#7 message in its request line.
    request_line: int = 65_536
    header_field: int = 8_190
    headers: int = 64
    #: From the first byte of a request to the end of its headers.
    headers_s: float = 10.0
    body_s: float = 15.0
    handshake_s: float = 10.0
    idle_s: float = 75.0
    connections: int = 4_096
    connections_per_peer: int = 512


class Endpoint(Protocol):
    """One protocol on a listener: answers every request whose raw path begins with one of ``prefixes``."""

    @property
    def prefixes(self) -> Sequence[str]: ...

    async def answer(self, request: web.BaseRequest) -> web.Response:
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
        self._http = _HttpServer(self)
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

    async def dispatch(self, request: web.BaseRequest) -> web.Response:
        """Answer one request; the only place where an exception becomes an HTTP status."""
        path = request.raw_path
        try:
            for prefix, endpoint in self._endpoints:
                if path.startswith(prefix):
                    response = await endpoint.answer(request)
                    response.headers["Server"] = SERVER
                    return response
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
            return _PlainConnection(self, self._http, loop)
        http = _HttpConnection(self, self._http, loop)
        return TlsConnection(
            loop, http, self._tls.context, admit=self.admit, release=self.release, handshake_s=self.limits.handshake_s
        )  # fmt: skip


class _HttpServer(web.Server):
    """aiohttp's registry of connections, bound to the listener's dispatcher."""

    def __init__(self, listener: Listener) -> None:
        super().__init__(listener.dispatch)


class _HttpConnection(RequestHandler):
    """aiohttp's connection with a deadline for headers and an exit for answers that are at hand.

    ``_waiter`` is the future that aiohttp's connection waits on for its next request: while it is pending no request is
    being answered and everything received so far is an unfinished head.
    """

    __slots__ = ("_deadline", "_listener", "_unfinished")

    def __init__(self, listener: Listener, server: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        limits = listener.limits
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=limits.idle_s,
            access_log=None,  # type: ignore[arg-type]  # None turns it off, as web.Server documents
            max_line_size=limits.request_line,
            max_field_size=limits.header_field,
            max_headers=limits.headers,
            lingering_time=2.0,  # for what a client is still sending when it is refused
            read_bufsize=limits.body,
            auto_decompress=False,
            logger=_HTTP_LOG,
        )
        self._listener = listener
        self._deadline: asyncio.TimerHandle | None = None
        self._unfinished = False

    def data_received(self, data: bytes) -> None:
        if not self._unfinished and self._is_waiting() and (answer := self._listener.instant(data)) is not None:
            transport = self.transport
            if transport is not None and transport.get_write_buffer_size() == 0:
                self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
                transport.write(answer)
                return
        super().data_received(data)
        self._unfinished = self._is_waiting()
        if self._unfinished:
            if self._deadline is None:
                self._deadline = self._loop.call_later(self._listener.limits.headers_s, self._too_slow)
        elif self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _is_waiting(self) -> bool:
        """Whether no request is queued or being answered. The first bytes may come before aiohttp's task has begun to wait."""
        waiter = self._waiter
        return self._request_count == 0 if waiter is None else not waiter.done()

    def _too_slow(self) -> None:
        self._deadline = None
        if self._unfinished and self.transport is not None:
            self.transport.write(
                b"HTTP/1.1 408 Request Timeout\r\nContent-Type: text/plain\r\nContent-Length: 35\r\nConnection: close\r\n\r\n"
                b"the headers did not arrive in time\n"
            )
            self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        super().connection_lost(exc)

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """What aiohttp could not parse; its own text quotes the input and its log line carries a traceback."""
        too_long = status == 400 and message is not None and "Got more than" in message
        text = "the request line or a header is too long\n" if too_long else "this is not an HTTP/1.1 request\n"
        response = web.Response(status=431 if too_long else max(status, 400), text=text, headers={"Server": SERVER})
        response.force_close()
        return response


class _PlainConnection(_HttpConnection):
    """HTTP without TLS: counted by the listener itself."""

    __slots__ = ("_admitted",)

    def __init__(self, listener: Listener, server: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(listener, server, loop)
        self._admitted: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._listener.admit(transport):
            self._admitted = transport
            super().connection_made(transport)
        else:
            transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._admitted is not None:
            self._listener.release(self._admitted)
            self._admitted = None
            super().connection_lost(exc)


#: aiohttp reports every malformed request as an error with a traceback; what matters is logged by ``dispatch``.
_HTTP_LOG = logging.getLogger("gateway.protocols.http")
_HTTP_LOG.setLevel(logging.CRITICAL)


def _peer(transport: asyncio.BaseTransport) -> str:
    name = transport.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) else ""


def response_head(status: int, headers: Mapping[str, str], length: int) -> bytes:
    """A complete response head for :meth:`Endpoint.instant`."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {status} OK\r\n{lines}Content-Length: {length}\r\n\r\n".encode("latin-1")

"""HTTP over one connection: aiohttp's parser and flow control, deadlines of our own, a short way for plain answers.

aiohttp makes a task for each request and sets each response up field by field, through a writer that could also chunk and
compress; together that costs as much as a signature. Here the connection's own task answers its requests one after the other,
and an answer that is whole leaves in one write. What is not the common case (HTTP/1.0, HEAD, an upgrade, a connection that ends
with this answer) is written by aiohttp. The loop stands on private parts of aiohttp's connection, so pyproject.toml bounds its
version.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeAlias

from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import RawRequestMessage, StreamWriter
from aiohttp.web_protocol import ERROR, RequestHandler, _ErrInfo

#: Instead of the names and versions of the libraries below.
SERVER = "edge-gateway"
#: aiohttp reports every malformed request as an error with a traceback; what matters is logged by the listener.
_HTTP_LOG = logging.getLogger("gateway.protocols.http")
_HTTP_LOG.setLevel(logging.CRITICAL)
#: How long what a client is still sending when it is refused is read and thrown away.
_LINGERING_S = 2.0


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


@dataclass(frozen=True, slots=True)
class Whole:
    """200 with ``body`` and header fields, whose values are ASCII without line ends; one write, so one TLS record."""

    body: bytes
    fields: tuple[tuple[str, str], ...]

    def response(self) -> web.Response:
        """The same as aiohttp writes it."""
        return web.Response(body=self.body, headers={**dict(self.fields), "Server": SERVER})

    def wire(self) -> bytes:
        """The complete answer of an HTTP/1.1 server that keeps the connection."""
        head = f"Content-Length: {len(self.body)}\r\nDate: {rfc822_formatted_time()}\r\n\r\n"
        return _status_and_fields(self.fields) + head.encode("ascii") + self.body


@lru_cache(maxsize=64)
def _status_and_fields(fields: tuple[tuple[str, str], ...]) -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in (("Server", SERVER), *fields))
    return f"HTTP/1.1 200 OK\r\n{lines}".encode("ascii")


Answer: TypeAlias = web.StreamResponse | Whole


class Service(Protocol):
    """What a connection needs of its listener."""

    @property
    def limits(self) -> Limits: ...

    async def dispatch(self, request: web.BaseRequest) -> Answer: ...

    def instant(self, data: bytes) -> bytes | None: ...

    def admit(self, transport: asyncio.BaseTransport) -> bool: ...

    def release(self, transport: asyncio.BaseTransport) -> None: ...


class HttpConnection(RequestHandler):
    """aiohttp's connection with a deadline for headers and an exit for answers that are at hand.

    ``_waiter`` is the future that the connection waits on for its next request: while it is pending no request is being
    answered and everything received so far is an unfinished head.
    """

    __slots__ = ("_deadline", "_service", "_unfinished")

    def __init__(self, service: Service, server: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        limits = service.limits
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=limits.idle_s,
            access_log=None,  # type: ignore[arg-type]  # None turns it off, as web.Server documents
            max_line_size=limits.request_line,
            max_field_size=limits.header_field,
            max_headers=limits.headers,
            lingering_time=_LINGERING_S,
            read_bufsize=limits.body,
            auto_decompress=False,
            logger=_HTTP_LOG,
        )
        self._service = service
        self._deadline: asyncio.TimerHandle | None = None
        self._unfinished = False

    async def start(self) -> None:
        """The connection's task: answer its requests one after the other."""
        while not self._force_close:
            if not self._messages:
                self._waiter = self._loop.create_future()
                try:
                    await self._waiter
                finally:
                    self._waiter = None
            message, payload = self._messages.popleft()
            if self._parser is not None:
                self._parser.message_consumed()
            if self._buffer_paused and len(self._messages) <= self._msg_queue_resume_size:
                self._resume_reading_if_drained()
            try:
                stays = await self._serve(message, payload)
            except ConnectionError:
                stays = False  # the client has gone
            except asyncio.CancelledError:
                self.force_close()
                raise
            except Exception:  # whatever a peer may provoke ends its own connection only
                _HTTP_LOG.exception("internal error on a connection")
                self.force_close()
                return
            if not stays or self._close or self._force_close:
                break
            self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
            if self._keepalive_handle is None:
                self._keepalive_handle = self._loop.call_at(self._next_keepalive_close_time, self._process_keepalive)
        if not self._force_close:
            self._task_handler = None
            if self.transport is not None:
                self.transport.close()

    async def _serve(self, message: RawRequestMessage | _ErrInfo, payload: StreamReader) -> bool:
        """Answer one request. False when the connection ends with it."""
        task = self._task_handler
        assert task is not None  # noqa: S101  # it runs this
        broken = message if isinstance(message, _ErrInfo) else None
        parsed = ERROR if isinstance(message, _ErrInfo) else message
        request = web.BaseRequest(parsed, payload, self, StreamWriter(self, self._loop), task, self._loop)
        self._request_in_progress = True
        self._current_request = request  # a lost connection ends its body
        try:
            if broken is None:
                answer = await self._service.dispatch(request)
            else:
                answer = self.handle_error(request, broken.status, broken.exc, broken.message)
            self._current_request = None
            if not isinstance(answer, Whole):
                stays = await self._respond(request, answer)
            elif request.version == HttpVersion11 and request.keep_alive and request.method != "HEAD" and not self._upgraded:
                transport = self.transport
                if transport is None or transport.is_closing():
                    raise ConnectionResetError("the client has gone")
                transport.write(answer.wire())
                if self._paused:  # who sends requests and reads no answers must not fill our memory with them
                    await self._drain_helper()
                stays = True
            else:
                stays = await self._respond(request, answer.response())
        finally:
            self._current_request = None
            self._request_in_progress = False
            if self._handler_waiter is not None:
                self._handler_waiter.set_result(None)
        if not payload.is_eof():
            await self._discard(payload)
        return stays

    async def _respond(self, request: web.BaseRequest, response: web.StreamResponse) -> bool:
        response, gone = await self.finish_response(request, response, None)
        return not gone and bool(response.keep_alive)

    async def _discard(self, payload: StreamReader) -> None:
        """Read on for a while, or the client gets a reset instead of the answer; then close."""
        try:
            async with asyncio.timeout(self._lingering_time):
                while not payload.is_eof() and not self._force_close:
                    await payload.readany()
        except TimeoutError:
            self.close()

    def resume_reading(self, resume_parser: bool = True) -> None:
        """aiohttp asks for it after every body and would run its parser over nothing."""
        if self._reading_paused or self._buffer_paused:
            super().resume_reading(resume_parser)

    def data_received(self, data: bytes) -> None:
        if not self._unfinished and self._is_waiting() and (answer := self._service.instant(data)) is not None:
            transport = self.transport
            if transport is not None and transport.get_write_buffer_size() == 0:
                self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout
                transport.write(answer)
                return
        super().data_received(data)
        self._unfinished = self._is_waiting()
        if self._unfinished:
            if self._deadline is None:
                self._deadline = self._loop.call_later(self._service.limits.headers_s, self._too_slow)
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
    ) -> web.Response:
        """What aiohttp could not parse; its own text quotes the input and its log line carries a traceback."""
        too_long = status == 400 and message is not None and "Got more than" in message
        text = "the request line or a header is too long\n" if too_long else "this is not an HTTP/1.1 request\n"
        response = web.Response(status=431 if too_long else max(status, 400), text=text, headers={"Server": SERVER})
        response.force_close()
        return response


class PlainConnection(HttpConnection):
    """HTTP without TLS: counted by the listener itself."""

    __slots__ = ("_admitted",)

    def __init__(self, service: Service, server: web.Server, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(service, server, loop)
        self._admitted: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._service.admit(transport):
            self._admitted = transport
            super().connection_made(transport)
        else:
            transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._admitted is not None:
            self._service.release(self._admitted)
            self._admitted = None
            super().connection_lost(exc)

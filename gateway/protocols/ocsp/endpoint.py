"""OCSP over HTTP: GET and POST below ``/ocsp`` (RFC 6960 appendix A.1, caching as RFC 5019 section 6).

Bad input is answered in OCSP's own terms: status 200 with an OCSP error inside. Two things are remembered to stay cheap, both
bounded and both without a time of their own: which DER request a whole HTTP request holds, and the text of the last answers.
Whether an answer is still true is asked from the authority each time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

from aiohttp import web

from gateway.clock import Clock
from gateway.errors import MalformedRequest, TooLarge
from gateway.protocols.caching import cache_headers
from gateway.protocols.ocsp import codec
from gateway.protocols.server import SERVER, Limits, method_not_allowed, read_body, response_head

#: Whole HTTP requests remembered for the short way. A request has at most a few hundred bytes, see _MAX_REMEMBERED.
_REMEMBERED = 4_096
_MAX_REMEMBERED = 1_024


class OcspAnswer(Protocol):
    """What the endpoint reads of the authority's answer. Times in UTC milliseconds."""

    @property
    def der(self) -> bytes: ...

    @property
    def cacheable(self) -> bool: ...

    @property
    def this_update_ms(self) -> int: ...

    @property
    def next_update_ms(self) -> int: ...


class OcspAuthority(Protocol):
    """What this endpoint needs of :class:`gateway.authority.authority.Authority`."""

    async def ocsp(self, request_der: bytes) -> OcspAnswer:
        """The answer to a request; never raises for bad input."""

    def ocsp_at_hand(self, request_der: bytes) -> OcspAnswer | None:
        """The pre-signed answer that :meth:`ocsp` would give now, where nothing has to be made or awaited."""


class OcspEndpoint:
    """Answers OCSP requests."""

    prefixes: Sequence[str] = (codec.PREFIX,)

    def __init__(self, authority: OcspAuthority, clock: Clock, limits: Limits | None = None) -> None:
        self._authority = authority
        self._clock = clock
        self._limits = limits or Limits()
        self._known: dict[bytes, bytes] = {}
        self._rendered: tuple[int, dict[bytes, bytes]] = (0, {})

    async def answer(self, request: web.BaseRequest) -> web.Response:
        try:
            if request.method == "GET":
                der = codec.decode_get(request.raw_path)
            elif request.method == "POST":
                if request.raw_path.rstrip("/") != codec.PREFIX:
                    return web.Response(status=404, text=f"POST OCSP requests to {codec.PREFIX}\n")
                der = codec.decode_post(await read_body(request, self._limits))
            else:
                return method_not_allowed(request, "GET", "POST")
        except (MalformedRequest, TooLarge):
            return _response(codec.MALFORMED, {"Cache-Control": "no-store"})
        answer = await self._authority.ocsp(der)
        return _response(answer.der, self._headers(answer, self._clock.now_ms()))

    def instant(self, request: bytes) -> bytes | None:
        """The answer to a request seen before byte for byte, if the authority still has its answer at hand."""
        der = self._known.get(request)
        if der is None:
            der = self._learn(request)
            if der is None:
                return None
        answer = self._authority.ocsp_at_hand(der)
        if answer is None or not answer.cacheable:
            return None
        now_ms = self._clock.now_ms()
        second, rendered = self._rendered
        if second != now_ms // 1000:  # the headers count seconds
            rendered = {}
            self._rendered = (now_ms // 1000, rendered)
        complete = rendered.get(answer.der)
        if complete is None:
            headers = {"Server": SERVER, "Content-Type": codec.RESPONSE_TYPE} | self._headers(answer, now_ms)
            complete = rendered[answer.der] = response_head(200, headers, len(answer.der)) + answer.der
        return complete

    def _learn(self, request: bytes) -> bytes | None:
        """The DER request in a complete HTTP/1.1 request of the plainest kind, remembered; ``None`` for all others, which are
        read by the HTTP parser."""
        if len(request) > _MAX_REMEMBERED or b" HTTP/1.1\r\n" not in request:
            return None
        head, separator, body = request.partition(b"\r\n\r\n")
        line, *fields = head.split(b"\r\n")
        if not separator or not _is_plain(fields, len(body)):
            return None
        method, _, target = line.removesuffix(b" HTTP/1.1").partition(b" ")
        try:
            if method == b"GET" and not body and target.startswith(codec.PREFIX.encode() + b"/") and target.isascii():
                der = codec.decode_get(target.decode("ascii"))
            elif method == b"POST" and body and target == codec.PREFIX.encode():
                der = codec.decode_post(body)
            else:
                return None
        except (MalformedRequest, TooLarge):
            return None
        if len(self._known) >= _REMEMBERED:
            self._known.pop(next(iter(self._known)))
        self._known[request] = der
        return der

    def _headers(self, answer: OcspAnswer, now_ms: int) -> dict[str, str]:
        if not answer.cacheable:
            return {"Cache-Control": "no-store"}
        etag = hashlib.sha256(answer.der).hexdigest()[:40]
        return cache_headers(etag, this_update_ms=answer.this_update_ms, next_update_ms=answer.next_update_ms, now_ms=now_ms)


def _is_plain(fields: Sequence[bytes], length: int) -> bool:
    """Whether header fields change nothing about how the message is read: its length is as found, the connection stays open."""
    lengths: list[int] = []
    hosts = 0
    for field in fields:
        name, colon, value = field.partition(b":")
        lowered = name.lower()
        if (
            not colon
            or lowered in _FRAMING
            or not name.replace(b"-", b"").isalnum()
            or not value.isascii()
            or not _printable(value)
        ):
            return False
        if lowered == b"content-length":
            text = value.strip(b" ")
            if not text.isdigit():
                return False
            lengths.append(int(text))
        hosts += lowered == b"host"
    return hosts == 1 and (lengths == [length] or (not lengths and not length))


#: Fields that change the framing or ask for more than an answer.
_FRAMING = frozenset((b"connection", b"transfer-encoding", b"content-encoding", b"expect", b"upgrade", b"te", b"trailer"))


def _printable(value: bytes) -> bool:
    return not any(byte < 0x20 or byte == 0x7F for byte in value)


def _response(der: bytes, headers: dict[str, str]) -> web.Response:
    return web.Response(body=der, headers={"Content-Type": codec.RESPONSE_TYPE} | headers)

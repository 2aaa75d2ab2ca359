"""A response that is written in one step.

aiohttp sets a response up field by field, through a writer that could also chunk and compress; for a short answer that is at
hand as a whole this costs as much as a signature. What is not the common case (HTTP/1.0, HEAD, a connection that ends after
this answer) goes aiohttp's way.
"""

from __future__ import annotations

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time

#: Instead of the names and versions of the libraries below.
SERVER = "edge-gateway"


class WholeResponse(web.Response):
    """200 with ``body`` and header ``fields``, whose values are ASCII and have no line ends. One write, so one TLS record."""

    _transport_of: web.BaseRequest | None = None

    def __init__(self, body: bytes, fields: dict[str, str]) -> None:
        super().__init__(body=body, headers=fields)
        self._whole, self._fields = body, fields

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:
        if request.method == "HEAD" or request.version != HttpVersion11 or not request.keep_alive or self._keep_alive is False:
            return await super().prepare(request)
        self._keep_alive = True
        self._transport_of = request
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Raises ConnectionResetError when the client has gone."""
        request = self._transport_of
        if request is None or self._eof_sent:
            await super().write_eof(data)
            return
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        head = "".join([f"{name}: {value}\r\n" for name, value in self._fields.items()])
        transport.write(
            f"HTTP/1.1 200 OK\r\n{head}Content-Length: {len(self._whole)}\r\nDate: {rfc822_formatted_time()}\r\n"
            f"Server: {SERVER}\r\n\r\n".encode("ascii")
            + self._whole
        )
        self._eof_sent = True

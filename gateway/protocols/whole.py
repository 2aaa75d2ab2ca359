"""A response that is written in one step.

aiohttp sets a response up field by field, through a writer that could also chunk and compress; for a short answer that is at
hand as a whole this costs as much as a signature. What is not the common case (HTTP/1.0, HEAD, a connection that ends after
this answer) goes aiohttp's way.
"""

from __future__ import annotations

from aiohttp import HttpVersion11, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time


class WholeResponse(web.Response):
    """200 with ``body`` and header ``fields``, whose values are ASCII and have no line ends. One write, so one TLS record."""

    _transport_of: web.BaseRequest | None = None

    def __init__(self, body: bytes, fields: dict[str, str]) -> None:
        super().__init__(body=body, headers=fields)
        self._whole = body

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
        fields = "".join([f"{name}: {value}\r\n" for name, value in self.headers.items()])
        always = f"Content-Length: {len(self._whole)}\r\nDate: {rfc822_formatted_time()}\r\n"
        transport.write(f"HTTP/1.1 200 OK\r\n{fields}{always}\r\n".encode("ascii") + self._whole)
        await request.writer.drain()  # who sends requests and reads no answers must not fill our memory with them
        self._eof_sent = True

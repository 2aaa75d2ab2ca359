"""The overview page: a few static files, read once, served with headers that let a browser load and run nothing else.

The page is an ordinary client of the REST interface; what it may do is decided there. It needs no other host.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib import resources
from typing import Final

from aiohttp import web

from gateway.errors import NotFound
from gateway.protocols.caching import etag_matches
from gateway.protocols.server import method_not_allowed

PREFIX: Final = "/page/"
_TYPES: Final[Mapping[str, str]] = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "words.js": "text/javascript; charset=utf-8",
}
_HEAD: Final[Mapping[str, str]] = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "form-action 'none'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


class Pages:
    """An endpoint for :class:`gateway.protocols.server.Listener`, after all others: ``/`` leads to the page."""

    prefixes = (PREFIX, "/")

    def __init__(self) -> None:
        folder = resources.files("sync.central") / "page"
        self._files = {name: (folder / name).read_bytes() for name in _TYPES}

    async def answer(self, request: web.BaseRequest) -> web.Response:
        path = request.raw_path.partition("?")[0]
        if path == "/":
            return web.Response(status=302, headers={"Location": PREFIX})
        name = path.removeprefix(PREFIX) or "index.html"
        if not path.startswith(PREFIX) or name not in self._files:
            raise NotFound("nothing is served at this address")
        if request.method not in ("GET", "HEAD"):
            return method_not_allowed(request, "GET", "HEAD")
        content = self._files[name]
        etag = hashlib.sha256(content).hexdigest()[:32]
        headers = {**_HEAD, "ETag": f'"{etag}"'}
        if etag_matches(request.headers.get("If-None-Match"), etag):
            return web.Response(status=304, headers=headers)
        return web.Response(body=content, headers={**headers, "Content-Type": _TYPES[name]})

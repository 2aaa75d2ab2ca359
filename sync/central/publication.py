"""What certificates point at, over plain HTTP: revocation lists and CA certificates (RFC 5280, RFC 2585).

``/crl/NAME`` as :mod:`sync.central.lists` names them; ``/ca/KEY.cer``, the certificate of the root, of a CA above it or of a
gateway, by its subjectKeyIdentifier in hex; ``/ca/trust-anchors.pem``. Everything here is public.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Sequence

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.clock import Clock
from gateway.errors import NotFound
from gateway.pki.tbs import ca_info
from gateway.protocols.caching import cache_headers, etag_matches
from gateway.protocols.server import method_not_allowed
from sync.central.authority import CentralAuthority
from sync.central.lists import CentralLists
from sync.central.rows import Ca
from sync.central.store import CentralStore

_CRL = re.compile(r"/crl/([A-Za-z0-9][A-Za-z0-9._-]{0,160}\.crl)")
_CA = re.compile(r"/ca/((?:[0-9a-f]{2}){1,32})\.cer")
_ANCHORS = "/ca/trust-anchors.pem"
#: CA certificates carry no next update; a cache asks again after a day.
_DAY_MS = 86_400_000
#: Up to here a body is written at once.
_PIECE = 65_536


class CentralPublication:
    """An endpoint for :class:`gateway.protocols.server.Listener`."""

    prefixes: Sequence[str] = ("/crl/", "/ca/")

    def __init__(self, store: CentralStore, authority: CentralAuthority, lists: CentralLists, clock: Clock) -> None:
        self._store, self._authority, self._lists, self._clock = store, authority, lists, clock

    async def answer(self, request: web.BaseRequest) -> web.Response:
        if request.method not in ("GET", "HEAD"):
            return method_not_allowed(request, "GET", "HEAD")
        path = request.raw_path.partition("?")[0]
        now_ms = self._clock.now_ms()
        this_ms, next_ms, media_type = now_ms, now_ms + _DAY_MS, "application/pkix-cert"
        if match := _CRL.fullmatch(path):
            crl = await self._lists.find(match[1])
            content, media_type, this_ms, next_ms = crl.content, "application/pkix-crl", crl.this_update, crl.next_update
        elif match := _CA.fullmatch(path):
            content = await self._certificate(bytes.fromhex(match[1]))
        elif path == _ANCHORS:
            content, media_type = self.trust_anchors(), "application/x-pem-file"
        else:
            raise NotFound("no list and no CA certificate has this address")
        etag = hashlib.sha256(content).hexdigest()[:40]
        headers = cache_headers(etag, this_update_ms=this_ms, next_update_ms=next_ms, now_ms=now_ms)
        if etag_matches(request.headers.get("If-None-Match"), etag):
            return web.Response(status=304, headers=headers)
        headers["Content-Type"] = media_type
        # A file-like body is sent piece by piece as the client reads: slow readers hold no copy of a large list each.
        return web.Response(body=content if len(content) <= _PIECE else io.BytesIO(content), headers=headers)

    def trust_anchors(self) -> bytes:
        """The top of the chain, PEM."""
        return x509.load_der_x509_certificate(self._authority.chain[-1]).public_bytes(Encoding.PEM)

    async def _certificate(self, key_id: bytes) -> bytes:
        for der in self._authority.chain:
            if ca_info(der).key_identifier == key_id:
                return der
        async with self._store.transaction() as t:
            found = await t.select(Ca, key_id=key_id)
        if not found:
            raise NotFound("no CA certificate has this name")
        return max(found, key=lambda row: row.not_after).certificate

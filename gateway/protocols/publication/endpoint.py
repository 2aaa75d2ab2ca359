"""What the certificates point at, over plain HTTP: CRLs and CA certificates (RFC 5280 sections 4.2.1.13 and 4.2.2.1, RFC 2585).

``/crl/{name}.crl``, ``/ca/issuing.cer`` (the CA that issues now), ``/ca/{key identifier in hex}.cer`` (each one by its key),
``/ca/chain.p7c`` (all of them) and ``/ca/trust-anchors.pem``. Everything here is public and the same for everyone.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from aiohttp import web
from cryptography import x509

from gateway.clock import Clock
from gateway.errors import NotFound, NotReady
from gateway.pki.cms import certs_only
from gateway.protocols.caching import cache_headers, etag_matches
from gateway.protocols.server import method_not_allowed

_CRL = re.compile(r"/crl/([A-Za-z0-9][A-Za-z0-9._-]{0,63})\.crl")
_CA = re.compile(r"/ca/([a-z0-9-]{1,64}\.(?:cer|p7c|pem))")
#: CA certificates carry no next update; a cache asks again after a day.
_DAY_MS = 86_400_000
#: Up to here a body is written at once.
_PIECE = 65_536


class PublishedCrl(Protocol):
    """What the endpoint reads of a CRL. Times in UTC milliseconds, ``digest`` the SHA-256 of ``der``."""

    @property
    def der(self) -> bytes: ...

    @property
    def this_update_ms(self) -> int: ...

    @property
    def next_update_ms(self) -> int: ...

    @property
    def digest(self) -> bytes: ...


class PublicationAuthority(Protocol):
    """What this endpoint needs of :class:`gateway.authority.authority.Authority`."""

    def crl(self, name: str) -> PublishedCrl:
        """Raises NotFound, NotReady."""

    def ca_certificates(self) -> tuple[bytes, ...]:
        """The active issuing CA first, its chain, older generations. Raises NotReady."""


@dataclass(frozen=True, slots=True)
class _File:
    media_type: str
    content: bytes
    etag: str


class PublicationEndpoint:
    """Serves CRLs and CA certificates."""

    prefixes: Sequence[str] = ("/crl/", "/ca/")

    def __init__(self, authority: PublicationAuthority, clock: Clock) -> None:
        self._authority = authority
        self._clock = clock
        self._files: tuple[tuple[bytes, ...], dict[str, _File]] = ((), {})

    async def answer(self, request: web.BaseRequest) -> web.Response:
        if request.method not in ("GET", "HEAD"):
            return method_not_allowed(request, "GET", "HEAD")
        path = request.raw_path.partition("?")[0]
        now_ms = self._clock.now_ms()
        if match := _CRL.fullmatch(path):
            crl = self._authority.crl(match[1])
            file = _File("application/pkix-crl", crl.der, crl.digest.hex()[:40])
            headers = cache_headers(
                file.etag, this_update_ms=crl.this_update_ms, next_update_ms=crl.next_update_ms, now_ms=now_ms
            )
        elif match := _CA.fullmatch(path):
            file = self._certificate_file(match[1])
            headers = cache_headers(file.etag, this_update_ms=0, next_update_ms=now_ms + _DAY_MS, now_ms=now_ms)
            del headers["Last-Modified"]  # a file of several certificates has no one date; the ETag says it exactly
        else:
            raise NotFound("no CRL and no CA certificate has this address")
        if etag_matches(request.headers.get("If-None-Match"), file.etag):
            return web.Response(status=304, headers=headers)
        headers["Content-Type"] = file.media_type
        # A file-like body is sent piece by piece as the client reads: slow readers of a list of 40 MB hold no copy of it each.
        body = file.content if len(file.content) <= _PIECE else io.BytesIO(file.content)
        return web.Response(body=body, headers=headers)

    def _certificate_file(self, name: str) -> _File:
        certificates = self._authority.ca_certificates()
        if not certificates:
            raise NotReady("there is no active CA yet")
        known, files = self._files
        if known != certificates:
            files = _certificate_files(certificates)
            self._files = (certificates, files)
        if name not in files:
            raise NotFound("no CA certificate has this name")
        return files[name]


def _certificate_files(certificates: tuple[bytes, ...]) -> dict[str, _File]:
    files = {
        f"{_key_identifier(der)}.cer": _file("application/pkix-cert", der) for der in reversed(certificates)
    }  # of two certificates for one key the earlier, newer one wins
    files["issuing.cer"] = _file("application/pkix-cert", certificates[0])
    files["chain.p7c"] = _file("application/pkcs7-mime; smime-type=certs-only", certs_only(certificates))
    anchors = [der for der in certificates if _is_self_issued(der)]
    files["trust-anchors.pem"] = _file("application/x-pem-file", b"".join(map(_pem, anchors or certificates[:1])))
    return files


def _file(media_type: str, content: bytes) -> _File:
    return _File(media_type, content, hashlib.sha256(content).hexdigest()[:40])


def _key_identifier(der: bytes) -> str:
    """The subject key identifier in hex, computed where the certificate carries none."""
    certificate = x509.load_der_x509_certificate(der)
    try:
        return certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest.hex()
    except x509.ExtensionNotFound:
        return x509.SubjectKeyIdentifier.from_public_key(certificate.public_key()).digest.hex()


def _is_self_issued(der: bytes) -> bool:
    certificate = x509.load_der_x509_certificate(der)
    return certificate.subject == certificate.issuer


def _pem(der: bytes) -> bytes:
    text = base64.b64encode(der)
    lines = b"\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    return b"-----BEGIN CERTIFICATE-----\n" + lines + b"\n-----END CERTIFICATE-----\n"

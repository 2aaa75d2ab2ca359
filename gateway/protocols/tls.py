"""TLS for the HTTPS listener: one context for the daemon's life, its certificate and trust anchors replaced while it runs.

TLS 1.2 (RFC 5246, profile of RFC 9325) and 1.3 (RFC 8446). A client certificate is asked for and optional: ``cacerts`` serves
devices that have none (RFC 7030 section 4.1). OpenSSL checks the client's chain and signature against the anchors given here;
who that client is, what its certificate may be used for, whether it is still valid and not revoked, is judged by the authority.
No HTTP is known here.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import ssl
from asyncio import sslproto
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

from gateway.keys.tls_identity import load_identity
from gateway.pki.algorithms import PrivateKey

_log = logging.getLogger(__name__)
#: X509_PURPOSE_ANY of OpenSSL's x509v3.h.
_PURPOSE_ANY = 7
#: X509_V_FLAG_NO_CHECK_TIME of OpenSSL's x509_vfy.h; Python's ssl has no name for it.
_NO_CHECK_TIME = 0x200000
#: RFC 9325 section 4.2: forward secrecy and authenticated encryption only. TLS 1.3 suites are chosen by OpenSSL.
MODERN_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:!aNULL:!eNULL:!PSK:!SRP"
#: What old controllers need as well: static RSA key exchange and CBC. Behind a switch, off by default.
LEGACY_CIPHERS = MODERN_CIPHERS + ":ECDHE+AES:kRSA+AESGCM:kRSA+AES"


@dataclass(frozen=True, slots=True)
class TlsOptions:
    """``ask_client_certificate`` is off for listeners whose clients cannot stand a certificate request (old SCEP clients)."""

    ask_client_certificate: bool = True
    legacy_ciphers: bool = False


class ServerTls:
    """The server's TLS context. ``context`` stays the same object when certificate or anchors change, so connections that are
    open keep their keys and new ones see the new certificate."""

    def __init__(self, options: TlsOptions | None = None) -> None:
        self._options = options or TlsOptions()
        self._anchors: set[bytes] = set()
        self.context = self._new_context()

    def _new_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(LEGACY_CIPHERS if self._options.legacy_ciphers else MODERN_CIPHERS)
        context.set_alpn_protocols(["http/1.1"])
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION | ssl.OP_SINGLE_ECDH_USE
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE
        # Tickets cost a third of a fresh mutual handshake and devices that enrol do not come back soon.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET
        if self._options.ask_client_certificate:
            context.verify_mode = ssl.CERT_OPTIONAL
            _take_any_purpose()
            # An issuing CA is an anchor in itself: the gateway may never see the root above it.
            # Validity is judged by the gateway's own clock in the authority: OpenSSL would use the operating system's, which
            # may stand in 1970 on a box without a battery, and renewal after expiry is a matter of policy.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags(_NO_CHECK_TIME)
        return context

    def add_trust_anchors(self, certificates: Iterable[bytes]) -> None:
        """Accept client certificates below these CA certificates (DER) from the next handshake on; known ones are ignored."""
        new = [certificate for certificate in dict.fromkeys(certificates) if certificate not in self._anchors]
        if new:
            self.context.load_verify_locations(cadata=b"".join(new))
            self._anchors.update(new)

    def replace_certificate(self, certificate: bytes, chain: Iterable[bytes], key: PrivateKey) -> None:
        """Serve ``certificate`` (DER) with ``chain`` (issuing CA first, DER) from the next handshake on.

        Raises ssl.SSLError when key and certificate do not belong together; the old certificate then stays.
        """
        issuers = tuple(chain)
        load_identity(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate, issuers, key)
        load_identity(self.context, certificate, issuers, key)


def client_chain(transport: asyncio.BaseTransport | None) -> tuple[bytes, ...]:
    """The certificates (DER) the client sent in its handshake, its own first; empty without TLS or without a certificate.

    OpenSSL has verified the first one against the anchors of the context.
    """
    tls = transport.get_extra_info("ssl_object") if transport is not None else None
    if tls is None:
        return ()
    leaf: bytes | None = tls.getpeercert(True)
    if leaf is None:
        return ()
    if hasattr(tls, "get_unverified_chain"):  # public from Python 3.13 on
        return tuple(tls.get_unverified_chain())
    sent = tls._sslobj.get_unverified_chain() or []
    return tuple(item.public_bytes(2) for item in sent)  # 2 is _ssl.ENCODING_DER; 3.10 to 3.12 have it without a public name


@cache
def _take_any_purpose() -> bool:
    """Let handshakes of this process take client certificates whatever their extKeyUsage, as far as OpenSSL can be told.

    A TLS server's certificate must be able to ask for its own renewal (RFC 7030 section 4.2.2), which OpenSSL's rules for the
    purpose "ssl_client" forbid: the handshake would end without a word on why. Those rules stand in a table that a program may
    extend (X509_VERIFY_PARAM_add0_table); Python's ssl gives no way to it, so the library is called directly. What a
    certificate may then be used for is decided by the authority: gateway.authority.policy for ours, gateway.pki.chains for
    makers'.

    False where the interpreter hides the library's functions; such certificates are then refused in the handshake.
    """
    try:
        import _ssl

        library = ctypes.CDLL(_ssl.__file__)  # the very library that ssl uses: its symbols are looked up behind the module's
        new, table = library.X509_VERIFY_PARAM_new, library.X509_VERIFY_PARAM_add0_table
        name, purpose = library.X509_VERIFY_PARAM_set1_name, library.X509_VERIFY_PARAM_set_purpose
    except (ImportError, OSError, AttributeError) as error:
        _log.warning("certificates without the usage clientAuth cannot be renewed over TLS here: %s", error)
        return False
    new.restype = ctypes.c_void_p
    name.argtypes, purpose.argtypes = [ctypes.c_void_p, ctypes.c_char_p], [ctypes.c_void_p, ctypes.c_int]
    table.argtypes = [ctypes.c_void_p]
    parameters = new()
    return bool(
        parameters and name(parameters, b"ssl_client") and purpose(parameters, _PURPOSE_ANY) and table(parameters)
    )  # the table owns it now and for the life of the process


class TlsConnection(sslproto.SSLProtocol):
    """asyncio's TLS with a small read buffer, counted by the listener from the first packet to the last.

    The listener accepts plain TCP and puts this in front of HTTP itself, instead of passing ``ssl=`` to asyncio, so that a
    connection counts against the limits before its handshake, which is what costs.
    """

    #: asyncio's 256 KiB read buffer makes an idle connection cost 291 KB; with 32 KiB it costs 67 KB. A request fits in it.
    max_size = 32 * 1024

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        http: asyncio.Protocol,
        context: ssl.SSLContext,
        *,
        admit: Callable[[asyncio.BaseTransport], bool],
        release: Callable[[asyncio.BaseTransport], None],
        handshake_s: float,
    ) -> None:
        # typeshed wants a future and whole seconds; the implementation takes None for "nobody waits" and any positive number.
        super().__init__(
            loop,
            http,
            context,
            None,  # type: ignore[arg-type]
            server_side=True,
            ssl_handshake_timeout=handshake_s,  # type: ignore[arg-type]
            ssl_shutdown_timeout=5,
        )
        self._admit = admit
        self._release = release
        self._admitted: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._admit(transport):
            self._admitted = transport
            super().connection_made(transport)
        else:
            transport.close()

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._admitted is not None:
            self._release(self._admitted)
            self._admitted = None
        super().connection_lost(exc)

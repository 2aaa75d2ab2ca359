"""Central's own TLS certificate: from its root, renewed while it runs."""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from gateway.clock import Clock
from gateway.errors import ConfigError, RequestError, Unavailable
from gateway.keys.signer import KeySpec
from gateway.keys.software import SoftwareKeys
from gateway.pki.algorithms import PrivateKey, default_algorithm
from gateway.pki.csr import CertificationRequest, read_csr
from gateway.pki.extensions import check_dns_name
from gateway.pki.profiles import BUILTIN_PROFILES
from gateway.pki.tbs import build_tbs
from sync.central.authority import TLS_SERVER, CentralAuthority
from sync.central.listing import every
from sync.central.rows import RootIssuance
from sync.central.store import CentralStore

_log = logging.getLogger(__name__)
KEY = "tls"
_LOOK_S = 60.0
#: RFC 5280 appendix A.1: a commonName has at most 64 characters.
_COMMON_NAME = 64


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """What a TLS server presents. ``chain`` begins with the root: a gateway that joins looks for it there."""

    certificate: bytes
    chain: tuple[bytes, ...]
    key: PrivateKey


class ServerIdentity:
    """Keeps the certificate for ``names`` (DNS names and IP addresses). ``use`` is told each one that comes into use."""

    def __init__(
        self,
        *,
        store: CentralStore,
        authority: CentralAuthority,
        keys: SoftwareKeys,
        clock: Clock,
        names: Sequence[str],
        validity_hours: int,
        use: Callable[[TlsIdentity], None],
    ) -> None:
        self._store, self._authority, self._keys, self._clock = store, authority, keys, clock
        self._names, self._validity_s, self._use = tuple(map(general_name, names)), validity_hours * 3600, use
        self._current: x509.Certificate | None = None

    async def renew_due(self) -> bool:
        """Take the newest certificate, or have one made when two thirds of its time are over; whether it is another one.

        Raises SignerUnavailable while the root is away; the certificate in use then stays.
        """
        if self._current is not None and not self._is_due(self._current):
            return False
        key = await asyncio.to_thread(self._keys.load_or_generate, KEY, KeySpec.P256)
        request = self._request(key)
        certificate = await self._known(request)
        if certificate is None or self._is_due(certificate):
            profile = replace(BUILTIN_PROFILES["tls-server"], validity=self._validity_s)

            def build(serial: int) -> bytes:
                return build_tbs(
                    profile=profile, ca=self._authority.root, request=request, serial=serial, now_ms=self._clock.now_ms(),
                    publication=self._authority.publication,
                )  # fmt: skip

            try:
                certificate = x509.load_der_x509_certificate(await self._authority.issue(TLS_SERVER, "", build))
            except Unavailable:
                if certificate is None:
                    raise
                _log.warning("central's TLS certificate cannot be renewed now; the one in use is good for some time")
        self._current = certificate
        self._use(TlsIdentity(certificate.public_bytes(Encoding.DER), self._authority.chain, key))
        return True

    async def run(self) -> None:
        """Renew it whenever that is due, for ever."""
        while True:
            try:
                await self.renew_due()
            except Unavailable as error:
                _log.warning("central's TLS certificate cannot be renewed: %s", error)
            await asyncio.sleep(_LOOK_S)

    def _is_due(self, certificate: x509.Certificate) -> bool:
        begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
        return self._clock.now_ms() / 1000 >= begin + (end - begin) * 2 / 3

    async def _known(self, request: CertificationRequest) -> x509.Certificate | None:
        """The newest certificate of this key with these names that has some time left."""
        newest: x509.Certificate | None = None
        now_ms = self._clock.now_ms()
        async with self._store.transaction() as t:
            async for row in every(t, RootIssuance, profile=TLS_SERVER):
                if not row.certificate or row.revoked or row.not_after <= now_ms:
                    continue
                found = x509.load_der_x509_certificate(row.certificate)
                names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
                if found.public_key() == request.public_key and set(names) == set(self._names):
                    newest = found
        return newest

    def _request(self, key: PrivateKey) -> CertificationRequest:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, str(self._names[0].value)[:_COMMON_NAME])])
        builder = x509.CertificateSigningRequestBuilder().subject_name(name)
        builder = builder.add_extension(x509.SubjectAlternativeName(self._names), critical=False)
        hash_ = cast("hashes.SHA256 | None", default_algorithm(key.public_key()).hash)
        return read_csr(builder.sign(key, hash_).public_bytes(Encoding.DER))


def general_name(name: str) -> x509.GeneralName:
    """Raises ConfigError."""
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        try:
            check_dns_name(name, wildcards=False)
        except RequestError as error:
            raise ConfigError(f"tls.names: {error}") from error
        return x509.DNSName(name)

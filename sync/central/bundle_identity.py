"""Central's key for bundles: what gateways encrypt them to, and how they are opened here.

The key is RSA, for key transport (RFC 5652 section 6.2.1), and a software key: a bundle is opened also while the root's token
is away. Its certificate comes from the root and is renewed in time. Every certificate of the key stays good for opening: a
bundle may have been on its way for long.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from gateway.clock import Clock
from gateway.errors import IntegrityError, MalformedRequest, TooLarge, Unavailable
from gateway.keys.signer import KeySpec
from gateway.keys.software import SoftwareKeys
from gateway.pki.csr import CertificationRequest, read_csr
from gateway.pki.profiles import Profile
from gateway.pki.tbs import build_tbs
from sync.bundle import MOST_SEALED_OCTETS, decrypt, is_sealed
from sync.central.authority import SCOPE, CentralAuthority
from sync.central.listing import every
from sync.central.rows import RootIssuance, Setting
from sync.central.store import CentralStore, Transaction

_log = logging.getLogger(__name__)
KEY: Final = "bundles"
BUNDLES: Final = "bundles"  # profile of the root's issuance
#: The setting with the certificate in use, PEM.
BUNDLE_CERTIFICATE: Final = "bundle-certificate"
_LOOK_S = 60.0
#: RFC 5280 appendix A.1: a commonName has at most 64 characters.
_COMMON_NAME = 64
_PROFILE = Profile(
    name=BUNDLES,
    key_types=frozenset({KeySpec.RSA_3072.value}),
    key_usage=("keyEncipherment",),
    extended_key_usage=("emailProtection",),  # RFC 8551 section 4.4.4: what CMS programs look for
    validity=365 * 86_400,
)


async def bundle_certificate(t: Transaction) -> str:
    """The certificate to which bundles are encrypted, PEM; empty while there is none."""
    setting = await t.find(Setting, SCOPE, BUNDLE_CERTIFICATE)
    return setting.value if setting is not None else ""


class BundleIdentity:
    """Keeps the certificate and opens bundles. The key is made when it is first needed."""

    def __init__(self, store: CentralStore, authority: CentralAuthority, keys: SoftwareKeys, clock: Clock) -> None:
        self._store, self._authority, self._keys, self._clock = store, authority, keys, clock
        self._key: RSAPrivateKey | None = None
        self._renewing = asyncio.Lock()

    async def renew_due(self) -> bool:
        """Have a certificate made where there is none, or when two thirds of its time are over; whether there is another one.

        Documents follow by themselves. Raises SignerUnavailable while the root is away; the certificate in use then stays.
        """
        async with self._renewing:
            key = await self._load()
            async with self._store.transaction() as t:
                pem = await bundle_certificate(t)
            if pem:
                current = x509.load_pem_x509_certificate(pem.encode())
                if current.public_key() == key.public_key() and not self._is_due(current):
                    return False
            request = self._request(key)

            def build(serial: int) -> bytes:
                return build_tbs(
                    profile=_PROFILE, ca=self._authority.root, request=request, serial=serial, now_ms=self._clock.now_ms(),
                    publication=self._authority.publication,
                )  # fmt: skip

            made = x509.load_der_x509_certificate(await self._authority.issue(BUNDLES, "", build))
            async with self._store.transaction() as t:
                await t.put(Setting(SCOPE, BUNDLE_CERTIFICATE, made.public_bytes(Encoding.PEM).decode()))
            return True

    async def try_renew(self) -> None:
        """The same, where it is no misfortune that the root's key is away."""
        try:
            await self.renew_due()
        except Unavailable as error:
            _log.warning("the certificate for bundles cannot be renewed: %s", error)

    async def run(self) -> None:
        """Renew it whenever that is due, for ever."""
        while True:
            await self.try_renew()
            await asyncio.sleep(_LOOK_S)

    async def open(self, data: bytes) -> bytes:
        """The archive in a bundle that was encrypted to this central, or the bundle itself where it is not encrypted.

        Raises TooLarge, MalformedRequest for one that is encrypted to somebody else.
        """
        if len(data) > MOST_SEALED_OCTETS:
            raise TooLarge(f"a bundle has at most {MOST_SEALED_OCTETS >> 20} MiB")
        if not is_sealed(data):
            return data
        key = await self._load()
        for certificate in await self._certificates(key):
            try:
                return await asyncio.to_thread(decrypt, data, certificate, key)
            except MalformedRequest:
                continue
        raise MalformedRequest(
            "this is no bundle, or not all of it, or it is encrypted to another central: copy it again, "
            "or make another one with edge-gateway export --plain"
        )

    async def _certificates(self, key: RSAPrivateKey) -> list[x509.Certificate]:
        """Every certificate of this key, the newest first."""
        async with self._store.transaction() as t:
            rows = [row async for row in every(t, RootIssuance, profile=BUNDLES) if row.certificate]
        found = [x509.load_der_x509_certificate(row.certificate) for row in sorted(rows, key=lambda row: -row.planned)]
        return [each for each in found if each.public_key() == key.public_key()]

    async def _load(self) -> RSAPrivateKey:
        if self._key is None:
            key = await asyncio.to_thread(self._keys.load_or_generate, KEY, KeySpec.RSA_3072)
            if not isinstance(key, RSAPrivateKey):
                raise IntegrityError("the key for bundles is not an RSA key")
            self._key = key
        return self._key

    def _is_due(self, certificate: x509.Certificate) -> bool:
        begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
        return self._clock.now_ms() / 1000 >= begin + (end - begin) * 2 / 3

    def _request(self, key: RSAPrivateKey) -> CertificationRequest:
        text = f"Bundles for {self._authority.identity.name}"[:_COMMON_NAME]
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
        builder = x509.CertificateSigningRequestBuilder().subject_name(name)
        return read_csr(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER))

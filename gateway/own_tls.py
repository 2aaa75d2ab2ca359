"""The gateway's own TLS identity at work: what its HTTPS listener presents, and what vouches for keys that it made."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509

from gateway.authority.authority import TLS_IDENTITY, Authority
from gateway.authority.delegated import DelegatedIdentity, DelegatedKeys
from gateway.pki.algorithms import SignatureAlgorithm, default_algorithm, sign
from gateway.protocols.tls import ServerTls


def server_tls(authority: Authority) -> ServerTls:
    """The TLS context: our newest certificate, and whose client certificates it takes: our own and the makers'."""
    tls, generations = ServerTls(), authority.generations
    tls.add_trust_anchors(authority.makers.anchors)

    def trust() -> None:
        tls.add_trust_anchors(each.certificate for each in generations.all)

    def use(identity: DelegatedIdentity) -> None:
        if identity.name == TLS_IDENTITY:
            tls.replace_certificate(identity.certificate, _without_root(identity.chain), identity.private_key)

    trust()
    generations.watch(trust)  # a new CA's certificates count from its activation on, not from our next TLS certificate
    authority.delegated.watch(use)
    return tls


def _without_root(chain: tuple[bytes, ...]) -> tuple[bytes, ...]:
    """What a TLS server sends beside its certificate: the root may be left out (RFC 8446 section 4.4.2)."""
    parsed = ((der, x509.load_der_x509_certificate(der)) for der in chain)
    return tuple(der for der, certificate in parsed if certificate.subject != certificate.issuer)


@dataclass(frozen=True, slots=True)
class PackageSigner:
    """Vouches for the private keys that the gateway made, with the key of its TLS certificate (RFC 7030 section 4.4.2)."""

    delegated: DelegatedKeys

    @property
    def certificate(self) -> bytes:
        return self.delegated.current(TLS_IDENTITY).certificate

    @property
    def algorithm(self) -> SignatureAlgorithm:
        return default_algorithm(self.delegated.current(TLS_IDENTITY).private_key.public_key())

    async def sign(self, message: bytes) -> bytes:
        return sign(self.delegated.current(TLS_IDENTITY).private_key, self.algorithm, message)

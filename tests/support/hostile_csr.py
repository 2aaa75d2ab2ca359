"""Certification requests to begin fuzzing from: the same bytes in every run, so with fixed keys and fixed signatures."""

from __future__ import annotations

from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from gateway.pki import der
from gateway.pki.algorithms import PrivateKey, SignatureAlgorithm
from tests.support.csrs import csr_attributes, encode_extension, extension, make_csr, name_der, spki_of

_ECDSA = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
_ED25519 = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(7, 39)))


@cache
def seed_requests() -> tuple[bytes, ...]:
    """Good requests of several key types and with every part filled, some that need a leniency switch, some half finished."""
    p256, p384 = (ec.derive_private_key(1 << 200 | 7, curve) for curve in (ec.SECP256R1(), ec.BrainpoolP384R1()))
    san = ["DNS:a.example", "IP:192.0.2.7", "HMN:1.3.6.1.4.1.32473.1:0a1b", "PID:1.2.3:x", "UPN:a@b", "URI:urn:a", "email:a@b"]
    usage = encode_extension(x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.3.6.1.5.5.7.3.2")]))
    extensions = [usage, extension("1.2.3", b"\x05\x00", critical=True)]
    mixed = csr_attributes(san=san[:2], challenge="secret", extensions=extensions)
    null = der.sequence(SignatureAlgorithm.ECDSA_SHA256.value[2:], der.null())
    good = _signed(p256, name_der("CN=a,O=Example,C=DE"), csr_attributes(san=san))
    return (
        good,
        _signed(p256, name_der("CN=grün+2.5.4.5=7,O=Example"), mixed),
        _signed(p384, name_der(""), []),
        _signed(p256, name_der("CN=a"), sorted(mixed, reverse=True), ordered=False),
        _signed(p256, name_der("CN=a"), [], algorithm=null),
        _signed(p256, name_der("CN=a"), [], version=2),
        b"\x30\x80" + good[4:] + b"\x00\x00",
        make_csr(_ED25519, subject="CN=a", san=san[:1]),
        make_csr("rsa-2048", subject="2.5.4.5=4711", challenge="x"),
        make_csr("rsa-2048-e3", subject="CN=a"),
        good[:200],
        spki_of(p256),
    )


def _signed(
    key: ec.EllipticCurvePrivateKey,
    subject: bytes,
    attributes: list[bytes],
    *,
    ordered: bool = True,
    version: int = 0,
    algorithm: bytes | None = None,
) -> bytes:
    members = sorted(attributes) if ordered else attributes
    information = der.sequence(der.integer(version), subject, spki_of(key), der.context(0, *members))
    signer: PrivateKey = key
    return make_csr(
        signer,
        information=information,
        algorithm=SignatureAlgorithm.ECDSA_SHA256.value if algorithm is None else algorithm,
        signature=key.sign(information, _ECDSA),
    )

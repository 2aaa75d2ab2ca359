"""Certificates and keys as the line hands them to a driver, made for one test."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import Name

from gateway.pki.algorithms import PublicKey
from gateway.pki.names import name_from_text
from provisioning.device import Delivery
from tests.support.csrs import key_for, new_key

ROOT, ISSUER = name_from_text("CN=Root"), name_from_text("CN=Plant CA,O=Maker")
NOT_BEFORE, NOT_AFTER = datetime(2026, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def private_key(key_type: str = "p-256") -> bytes:
    """PKCS #8 of a fresh key; RSA is the vector of that size."""
    key = key_for(key_type) if key_type.startswith("rsa-") else new_key(key_type)
    return key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def certificate(public_key: PublicKey, subject: str = "CN=unit,serialNumber=1") -> bytes:
    return _sign(public_key, name_from_text(subject), ISSUER, "issuer")


def delivery(public_key: PublicKey, serial: str = "SN-1") -> Delivery:
    """The unit's certificate, the issuing CA's and the root's."""
    return Delivery(certificate(public_key, f"CN=unit,serialNumber={serial}"), chain(), serial)


@cache
def chain() -> tuple[bytes, bytes]:
    """The issuing CA's certificate and the root's, the same in the whole run."""
    issuer, root = key_for("p-256", "issuer"), key_for("p-256", "root")
    return _sign(issuer.public_key(), ISSUER, ROOT, "root"), _sign(root.public_key(), ROOT, ROOT, "root")


def _sign(public_key: PublicKey, subject: Name, issuer: Name, label: str) -> bytes:
    signer = key_for("p-256", label)
    assert isinstance(signer, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    builder = x509.CertificateBuilder(issuer, subject, public_key, x509.random_serial_number(), NOT_BEFORE, NOT_AFTER)
    return builder.sign(signer, hashes.SHA256()).public_bytes(Encoding.DER)

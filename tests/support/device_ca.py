"""A root and an issuing CA for tests of drivers: what the gateway would deliver for a device's request."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from gateway.pki.algorithms import PublicKey, default_algorithm, signature_is_valid
from provisioning.device import Delivery

_FROM, _UNTIL = datetime(2026, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@cache
def _authority() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate, x509.Certificate]:
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root = _certificate("Root", root_key.public_key(), "Root", root_key, True)
    return key, _certificate("Issuing CA", key.public_key(), "Root", root_key, True), root


def _certificate(
    subject: str, key: PublicKey, issuer: str, issuer_key: ec.EllipticCurvePrivateKey, is_ca: bool
) -> x509.Certificate:
    builder = x509.CertificateBuilder(_name(issuer), _name(subject), key, x509.random_serial_number(), _FROM, _UNTIL)
    return builder.add_extension(x509.BasicConstraints(is_ca, None), critical=True).sign(issuer_key, SHA256())


def deliver(csr: bytes, serial: str = "PLC-0001", ticket: bytes = b"") -> Delivery:
    """The certificate for this request, and its chain."""
    key, issuing, root = _authority()
    request = x509.load_der_x509_csr(csr)
    assert request.is_signature_valid
    certificate = _certificate(serial, request.public_key(), "Issuing CA", key, False)  # type: ignore[arg-type]
    chain = tuple(each.public_bytes(Encoding.DER) for each in (issuing, root))
    return Delivery(certificate.public_bytes(Encoding.DER), chain, serial, ticket)


def proves(certificate: bytes, challenge: bytes, signature: bytes) -> bool:
    """Whether ``signature`` is one by the certificate's key, as the line checks it."""
    key: PublicKey = x509.load_der_x509_certificate(certificate).public_key()  # type: ignore[assignment]
    return signature_is_valid(key, default_algorithm(key), signature, challenge)

"""A certificate for a device's request, from a throw-away CA of the test: what the line would have got from the gateway."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from provisioning.device import Delivery

_BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


class StationCa:
    """One self-signed CA."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Line CA")])
        builder = x509.CertificateBuilder(name, name, self.key.public_key(), 1, _BEGIN, _BEGIN + timedelta(days=3650))
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.root = builder.sign(self.key, hashes.SHA256())

    def certify(self, csr_der: bytes) -> bytes:
        """The certificate (DER), after the request's own signature was found to be valid."""
        csr = x509.load_der_x509_csr(csr_der)
        assert csr.is_signature_valid
        builder = x509.CertificateBuilder(
            self.root.subject, csr.subject, csr.public_key(), x509.random_serial_number(), _BEGIN, _BEGIN + timedelta(days=3650)
        )
        return builder.sign(self.key, hashes.SHA256()).public_bytes(Encoding.DER)

    def delivery(self, csr_der: bytes, *, serial: str = "SN-0001") -> Delivery:
        return Delivery(self.certify(csr_der), (self.root.public_bytes(Encoding.DER),), serial)

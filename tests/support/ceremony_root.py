"""A parent CA for ceremonies: signs the sub-CA certificates that a CSR asks for, also wrong ones."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.pki.names import name_from_text


@cache
def root_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def ca_certificate(
    subject: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    *,
    issuer: x509.Name,
    issuer_key: ec.EllipticCurvePrivateKey,
    ca: bool = True,
    crl_sign: bool = True,
    path_length: int | None = 0,
    start: timedelta = timedelta(days=-1),
    end: timedelta = timedelta(days=400),
) -> bytes:
    now = datetime.now(UTC)
    usage = x509.KeyUsage(
        digital_signature=True, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=ca, crl_sign=crl_sign, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + start)
        .not_valid_after(now + end)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=path_length if ca else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )


ROOT_NAME = name_from_text("CN=Plant Root,O=Test")


def root_certificate(*, path_length: int | None = None, end: timedelta = timedelta(days=800)) -> bytes:
    return ca_certificate(
        ROOT_NAME, root_key().public_key(), issuer=ROOT_NAME, issuer_key=root_key(), path_length=path_length, end=end
    )


def sub_ca(csr: bytes, **options: object) -> tuple[bytes, bytes]:
    """(the sub-CA certificate that ``csr`` asks for, the root)."""
    request = x509.load_der_x509_csr(csr)
    public_key = request.public_key()
    assert isinstance(public_key, ec.EllipticCurvePublicKey)
    certificate = ca_certificate(
        request.subject, public_key, issuer=ROOT_NAME, issuer_key=root_key(), **options  # type: ignore[arg-type]
    )  # fmt: skip
    return certificate, root_certificate()

"""Certification requests as a client makes them."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.pki.algorithms import PrivateKey
from gateway.pki.der import tlv


def name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def csr_der(
    common_name: str = "device-1",
    key: PrivateKey | None = None,
    names: Sequence[x509.GeneralName] = (),
    attributes: Sequence[tuple[x509.ObjectIdentifier, bytes]] = (),
) -> bytes:
    builder = x509.CertificateSigningRequestBuilder().subject_name(name(common_name))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for oid, value in attributes:
        builder = builder.add_attribute(oid, value)
    return builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256()).public_bytes(
        serialization.Encoding.DER
    )


def csr_with_octets(oid: str, value: bytes) -> bytes:
    """A correctly signed request with one attribute whose value is an OCTET STRING (the builder can write strings only)."""
    key = ec.generate_private_key(ec.SECP256R1())
    template = csr_der("device-octets", key, attributes=[(x509.ObjectIdentifier(oid), b"\x01" * len(value))])
    information = x509.load_der_x509_csr(template).tbs_certrequest_bytes
    marker = b"\x0c" + bytes((len(value),)) + b"\x01" * len(value)
    information = information.replace(marker, b"\x04" + bytes((len(value),)) + value)
    signature = key.sign(information, ec.ECDSA(hashes.SHA256()))
    body = information + bytes.fromhex("300a06082a8648ce3d040302") + tlv(0x03, b"\0" + signature)
    return tlv(0x30, body)

"""Certification requests as a client makes them."""

from __future__ import annotations

from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from gateway.pki import der
from gateway.pki.algorithms import PrivateKey
from gateway.pki.walk import content, elements


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


def csr_with_attribute(
    oid: str,
    *values: bytes,
    common_name: str = "device-1",
    key: ec.EllipticCurvePrivateKey | None = None,
    names: Sequence[x509.GeneralName] = (),
) -> bytes:
    """A correctly signed request with one more attribute, its values as DER (the builder can write strings only)."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    information = x509.load_der_x509_csr(csr_der(common_name, key, names)).tbs_certrequest_bytes
    inside, _ = content(information, der.SEQUENCE)
    fields = elements(information, inside, len(information))
    at = fields[2][2]  # behind version, subject and key
    attributes = [der.sequence(der.oid(oid), der.set_of(values))]
    for tag, start, end in elements(information, *fields[3][1:]):
        attributes.append(der.tlv(tag, information[start:end]))
    information = der.sequence(information[inside:at], der.context(0, *sorted(attributes)))
    signature = key.sign(information, ec.ECDSA(hashes.SHA256()))
    return der.sequence(information, bytes.fromhex("300a06082a8648ce3d040302"), der.bit_string(signature))


def csr_with_octets(oid: str, value: bytes) -> bytes:
    """A correctly signed request with one attribute whose value is an OCTET STRING."""
    return csr_with_attribute(oid, der.octet_string(value), common_name="device-octets")

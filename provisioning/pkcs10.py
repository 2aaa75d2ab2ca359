"""Certification requests (RFC 2986) for keys that sign elsewhere: in a TPM, in a smart card. Pure.

The gateway writes what is to be signed, because it knows the public key and the subject; the chip signs it. The line checks the
request as it checks any other.
"""

from __future__ import annotations

from cryptography import x509

from gateway.errors import DeviceRefused, MalformedRequest
from gateway.pki import der
from gateway.pki.algorithms import SignatureAlgorithm
from gateway.pki.names import name_from_text


def request_information(subject: str, spki: bytes) -> bytes:
    """CertificationRequestInfo without attributes: these bytes are signed. Raises DeviceRefused for no RFC 4514 name."""
    return der.sequence(der.integer(0), subject_name(subject).public_bytes(), spki, der.context(0))


def subject_name(subject: str) -> x509.Name:
    """Raises DeviceRefused: to a driver a subject that is none is one more thing that its device cannot do."""
    try:
        return name_from_text(subject)
    except MalformedRequest as error:
        raise DeviceRefused(f"the device is given no such subject: {error}") from error


def request(information: bytes, algorithm: SignatureAlgorithm, signature: bytes) -> bytes:
    """The CertificationRequest; ``signature`` as :func:`gateway.pki.algorithms.sign` gives it."""
    return der.sequence(information, algorithm.value, der.bit_string(signature))

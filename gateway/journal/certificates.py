"""From an intent and an issued record back to the certificate, with its DER checked against the recorded digest. Pure."""

from __future__ import annotations

from hashlib import sha256

from gateway.errors import IntegrityError
from gateway.journal.records import Intent, Issued
from gateway.pki.algorithms import SignatureAlgorithm


def _der(tag: int, content: bytes) -> bytes:
    length = len(content)
    if length < 0x80:
        return bytes((tag, length)) + content
    octets = length.to_bytes((length.bit_length() + 7) // 8, "big")
    return bytes((tag, 0x80 | len(octets))) + octets + content


def certificate_from(tbs: bytes, algorithm: SignatureAlgorithm, signature: bytes) -> bytes:
    """SEQUENCE { tbs, algorithm, BIT STRING signature } in DER (RFC 5280 section 4.1)."""
    return _der(0x30, tbs + algorithm.value + _der(0x03, b"\x00" + signature))


def certificate_of(intent: Intent, issued: Issued) -> bytes:
    """The recorded certificate in DER.

    Raises IntegrityError when the algorithm is unknown or the result is not what the issued record says.
    """
    try:
        algorithm = SignatureAlgorithm[intent.algorithm]
    except KeyError as error:
        raise IntegrityError(f"unknown signature algorithm {intent.algorithm}") from error
    certificate = certificate_from(intent.tbs, algorithm, issued.signature)
    if sha256(certificate).digest() != issued.certificate_digest:
        raise IntegrityError("TBS and signature do not make the certificate that was recorded")
    return certificate

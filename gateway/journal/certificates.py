"""From an intent and an issued record back to the certificate, checked against the recorded digest. Pure."""

from __future__ import annotations

from hashlib import sha256

from gateway.errors import IntegrityError
from gateway.journal.records import Intent, Issued
from gateway.pki.algorithms import SignatureAlgorithm
from gateway.pki.tbs import assemble


def certificate_of(intent: Intent, issued: Issued) -> bytes:
    """The certificate (DER) that two records stand for.

    Raises IntegrityError when the algorithm is unknown or the result is not what the issued record says.
    """
    try:
        algorithm = SignatureAlgorithm[intent.algorithm]
    except KeyError as error:
        raise IntegrityError(f"unknown signature algorithm {intent.algorithm}") from error
    certificate = assemble(intent.tbs, algorithm, issued.signature)
    if sha256(certificate).digest() != issued.certificate_digest:
        raise IntegrityError("TBS and signature do not make the certificate that was recorded")
    return certificate

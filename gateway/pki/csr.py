"""Certification requests (PKCS#10, RFC 2986): reading, proof of possession, what was asked for. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509

from gateway.pki.algorithms import PublicKey


@dataclass(frozen=True, slots=True)
class CertificationRequest:
    """A request whose self-signature was verified.

    ``der`` is what arrived (after the named leniencies acted, see ``leniencies``); ``spki`` the exact SubjectPublicKeyInfo
    bytes, which go into the certificate unchanged.
    """

    der: bytes
    subject: x509.Name
    subject_der: bytes
    public_key: PublicKey
    spki: bytes
    san: tuple[x509.GeneralName, ...] = ()
    #: Extensions asked for (extensionRequest attribute), by OID; policy decides what becomes of them.
    extensions: tuple[x509.Extension[x509.ExtensionType], ...] = ()
    challenge_password: bytes | None = None
    #: Names of the leniency switches that had to act to accept this request.
    leniencies: tuple[str, ...] = ()

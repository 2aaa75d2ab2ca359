"""Certificates of CAs as bytes: a root for itself, sub-CAs below it, and the request for one (RFC 5280, RFC 2986). Pure.

Devices' certificates are :mod:`gateway.pki.tbs`' matter: no profile can carry a certificate authority.
"""

from __future__ import annotations

from cryptography import x509

from gateway.errors import OperatorError
from gateway.pki import der
from gateway.pki.algorithms import SignatureAlgorithm
from gateway.pki.extensions import (
    OID_BASIC_CONSTRAINTS,
    OID_CRL_DISTRIBUTION_POINTS,
    OID_KEY_USAGE,
    OID_SUBJECT_KEY_IDENTIFIER,
    Publication,
    authority_info_access,
    authority_key_identifier,
    distribution_points,
    extension,
    key_identifier,
    named_bits,
    subject_key_identifier,
)
from gateway.pki.tbs import CaInfo, encode_serial, encode_time, key_bits

_OID_EXTENSION_REQUEST = "1.2.840.113549.1.9.14"  # RFC 2985 section 5.4.2
_VERSION_3 = bytes.fromhex("a003020102")
#: keyCertSign and cRLSign (section 4.2.1.3).
_USAGE = extension(OID_KEY_USAGE, named_bits((5, 6)), critical=True)


def build_ca_tbs(
    *,
    issuer: CaInfo | None,
    algorithm: SignatureAlgorithm,
    subject: x509.Name,
    spki: bytes,
    serial: int,
    not_before_ms: int,
    not_after_ms: int,
    path_length: int | None = 0,
    publication: Publication | None = None,
) -> bytes:
    """The TBSCertificate of a CA: of a self-signed root where ``issuer`` is None.

    ``algorithm`` is that of the key which signs. A sub-CA ends no later than its issuer. Raises OperatorError for an empty
    subject or the issuer's own, and for a time outside of the issuer's.
    """
    name = subject.public_bytes()
    if not list(subject):
        raise OperatorError("a CA has a name: its subject cannot be empty (RFC 5280 section 4.1.2.6)")
    if issuer is not None:
        if name == issuer.subject_der:
            raise OperatorError("a CA cannot have the name of the CA above it")
        not_before_ms, not_after_ms = max(not_before_ms, issuer.not_before_ms), min(not_after_ms, issuer.not_after_ms)
    if not_after_ms // 1000 <= not_before_ms // 1000:
        raise OperatorError("the CA above is not valid at this time")
    own_key = key_identifier(key_bits(spki))
    extensions = [
        authority_key_identifier(issuer.key_identifier if issuer else own_key),
        _USAGE,
        _basic_constraints(path_length),
        subject_key_identifier(own_key),
    ]
    if publication is not None and publication.crl_urls:
        extensions.append(distribution_points(OID_CRL_DISTRIBUTION_POINTS, publication.crl_urls))
    if publication is not None and (publication.ocsp_urls or publication.issuer_urls):
        extensions.append(authority_info_access(publication))
    return der.tlv(
        0x30,
        _VERSION_3,
        encode_serial(serial),
        algorithm.value,
        issuer.subject_der if issuer else name,
        der.tlv(0x30, encode_time(not_before_ms // 1000), encode_time(not_after_ms // 1000)),
        name,
        spki,
        der.tlv(0xA3, der.tlv(0x30, *extensions)),
    )


def ca_request_info(subject: x509.Name, spki: bytes, *, path_length: int | None = 0) -> bytes:
    """CertificationRequestInfo (RFC 2986 section 4.1) that asks for what a CA needs. ``path_length`` 0: only end entities."""
    wanted = (
        _basic_constraints(path_length),
        _USAGE,
        extension(OID_SUBJECT_KEY_IDENTIFIER, der.tlv(0x04, key_identifier(key_bits(spki)))),
    )
    attribute = der.tlv(0x30, der.oid(_OID_EXTENSION_REQUEST), der.tlv(0x31, der.tlv(0x30, *wanted)))
    return der.tlv(0x30, der.integer(0), subject.public_bytes(), spki, der.tlv(0xA0, attribute))


def _basic_constraints(path_length: int | None) -> bytes:
    limit = b"" if path_length is None else der.integer(path_length)
    return extension(OID_BASIC_CONSTRAINTS, der.tlv(0x30, der.boolean(True), limit), critical=True)

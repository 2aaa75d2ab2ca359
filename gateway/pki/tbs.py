"""The exact bytes a CA signs: TBSCertificate from profile, CA and request (RFC 5280 section 4.1). Pure.

The DER is put together by hand, byte for byte what ``cryptography``'s builder writes for the same content, because this is
the hot path: everything that profile, CA and publication points decide is encoded once and kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from cryptography import x509

from gateway.errors import BadKey, MalformedRequest, NotReady, OperatorError
from gateway.pki import der
from gateway.pki.algorithms import PublicKey, SignatureAlgorithm, default_algorithm
from gateway.pki.csr import CertificationRequest
from gateway.pki.extensions import (
    Publication,
    copied_extensions,
    fixed_extensions,
    key_identifier,
    subject_alt_name,
    subject_key_identifier,
)
from gateway.pki.keycheck import is_allowed, key_type
from gateway.pki.profiles import Profile
from gateway.pki.subjects import certificate_names, certificate_subject
from gateway.pki.walk import content, elements

__all__ = [
    "NO_EXPIRY_MS",
    "SERIAL_RANDOM_BYTES",
    "CaInfo",
    "Publication",
    "TbsFields",
    "assemble",
    "build_tbs",
    "ca_info",
    "encode_serial",
    "encode_time",
    "extensions_of",
    "key_bits",
    "key_group",
    "new_serial",
    "tbs_fields",
    "tbs_of",
]

#: notAfter of a certificate without a well-defined expiry (RFC 5280 section 4.1.2.5): 99991231235959Z.
NO_EXPIRY_MS = 253_402_300_799_000
SERIAL_RANDOM_BYTES = 12
_VERSION_3 = bytes.fromhex("a003020102")
_EMPTY_NAME = b"\x30\x00"


@dataclass(frozen=True, slots=True, eq=False)
class CaInfo:
    """An issuing CA, prepared for signing. Compared and hashed by identity: make it once and pass it around."""

    certificate: x509.Certificate
    subject_der: bytes
    #: The CA's subjectKeyIdentifier; it becomes keyIdentifier of the authorityKeyIdentifier in all it signs.
    key_identifier: bytes
    algorithm: SignatureAlgorithm
    not_after_ms: int
    not_before_ms: int
    public_key: PublicKey
    #: The content of the subjectPublicKey BIT STRING, which OCSP hashes (RFC 6960 section 4.1.1).
    key_bits: bytes


def ca_info(certificate_der: bytes) -> CaInfo:
    """Read an issuing CA's certificate.

    Raises OperatorError when it cannot be one: unreadable, not a CA, no keyCertSign or cRLSign, no subjectKeyIdentifier.
    """
    try:
        certificate = x509.load_der_x509_certificate(certificate_der)
        extensions = certificate.extensions
        public_key = certificate.public_key()
    except ValueError as error:
        raise OperatorError(f"this is not a certificate: {error}") from error
    try:
        constraints = extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = extensions.get_extension_for_class(x509.KeyUsage).value
        identifier = extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound as error:
        raise OperatorError(f"the CA certificate lacks an extension that RFC 5280 requires: {error}") from error
    if not (constraints.ca and usage.key_cert_sign and usage.crl_sign):
        raise OperatorError("the certificate may not sign certificates and CRLs (basicConstraints, keyUsage)")
    fields = tbs_fields(tbs_of(certificate_der))
    return CaInfo(
        certificate=certificate,
        subject_der=fields.subject,
        key_identifier=identifier.digest,
        algorithm=default_algorithm(public_key),  # type: ignore[arg-type]
        not_after_ms=int(certificate.not_valid_after_utc.timestamp()) * 1000,
        not_before_ms=int(certificate.not_valid_before_utc.timestamp()) * 1000,
        public_key=public_key,  # type: ignore[arg-type]
        key_bits=key_bits(fields.spki),
    )


def new_serial(now_ms: int, random: bytes) -> int:
    """A serial number of at most 19 octets: the time in 56 bits, then 96 random bits.

    Never 0 and never negative; the leading time keeps the journal's index flat, the random bits make it unpredictable
    (CA/Browser Forum BR 7.1 asks for 64).
    """
    if len(random) != SERIAL_RANDOM_BYTES or not 0 < now_ms < 1 << 55:
        raise ValueError("a serial number takes a positive time and 12 random bytes")
    return now_ms << 8 * SERIAL_RANDOM_BYTES | int.from_bytes(random, "big")


def build_tbs(
    *, profile: Profile, ca: CaInfo, request: CertificationRequest, serial: int, now_ms: int, publication: Publication
) -> bytes:
    """The TBSCertificate for ``request``.

    Raises BadKey for a key type the profile does not take, Forbidden or MalformedRequest for names it does not, NotReady when
    the CA certificate is not valid at ``now_ms``.
    """
    kind = key_type(request.public_key)
    if not is_allowed(kind, profile.key_types):
        raise BadKey(f"profile {profile.name} does not accept {kind} keys; it takes {', '.join(sorted(profile.key_types))}")
    subject = certificate_subject(profile, request)
    names = certificate_names(profile, request)
    extensions = [
        fixed_extensions(profile, key_group(kind), ca.key_identifier, publication),
    ]
    if profile.subject_key_identifier:
        extensions.append(subject_key_identifier(key_identifier(key_bits(request.spki))))
    if names:
        extensions.append(subject_alt_name(names, critical=subject == _EMPTY_NAME))
    if profile.copy_extensions:
        extensions.append(copied_extensions(profile, request.extensions))
    return der.tlv(
        0x30,
        _VERSION_3,
        encode_serial(serial),
        ca.algorithm.value,
        ca.subject_der,
        _validity(profile, ca, now_ms // 1000),
        subject,
        request.spki,
        der.tlv(0xA3, der.tlv(0x30, *extensions)),
    )


def key_group(kind: str) -> str:
    """What a key of this type can do besides signing: "rsa" enciphers, "ec" agrees, "sign" neither."""
    if kind.startswith("rsa"):
        return "rsa"
    return "ec" if kind.startswith(("p-", "brainpool")) else "sign"


def encode_serial(serial: int) -> bytes:
    """A positive INTEGER of at most 20 octets (RFC 5280 section 4.1.2.2). Raises ValueError for any other."""
    length = serial.bit_length() // 8 + 1
    if serial <= 0 or length > 20:
        raise ValueError("a serial number is positive and has at most 20 octets")
    return bytes((0x02, length)) + serial.to_bytes(length, "big")


def _validity(profile: Profile, ca: CaInfo, now_s: int) -> bytes:
    """Never longer than the CA's own validity, except without a well-defined expiry (see :attr:`Profile.validity`)."""
    if not ca.not_before_ms <= now_s * 1000 + 999 or now_s * 1000 >= ca.not_after_ms:
        raise NotReady("the CA certificate is not valid at this time; see edge-gateway ca status", retry_after=3600)
    not_before = max(now_s - profile.backdate, ca.not_before_ms // 1000)
    if profile.validity is None:
        return _encode_validity(not_before, NO_EXPIRY_MS // 1000)
    return _encode_validity(not_before, min(now_s + profile.validity, ca.not_after_ms // 1000))


@lru_cache(maxsize=128)
def _encode_validity(not_before_s: int, not_after_s: int) -> bytes:
    return der.tlv(0x30, encode_time(not_before_s), encode_time(not_after_s))


def encode_time(seconds: int) -> bytes:
    """UTCTime until 2049, GeneralizedTime from 2050 (RFC 5280 section 4.1.2.5)."""
    moment = datetime.fromtimestamp(seconds, UTC)
    if 1950 <= moment.year < 2050:
        return b"\x17\x0d" + moment.strftime("%y%m%d%H%M%SZ").encode("ascii")
    return b"\x18\x0f" + moment.strftime("%Y%m%d%H%M%SZ").encode("ascii")


def key_bits(spki: bytes) -> bytes:
    """The content of the subjectPublicKey BIT STRING, without the octet that counts unused bits."""
    (_, _, _), (_, start, end) = elements(spki, *content(spki, 0x30))
    return spki[start + 1 : end]


class TbsFields(NamedTuple):  # no dataclass: on the hot path, and a frozen one takes four times as long to make
    """The parts of a TBSCertificate version 3, each with its header except ``serial`` and ``extensions``."""

    serial: bytes  # content octets
    algorithm: bytes
    issuer: bytes
    validity: bytes
    subject: bytes
    spki: bytes
    extensions: tuple[int, int]  # start and end of what the SEQUENCE of Extensions holds, in the TBS; empty without any


def tbs_fields(tbs: bytes) -> TbsFields:
    """Take a version 3 TBSCertificate apart. Raises MalformedRequest."""
    start, end = content(tbs, 0x30)
    found = elements(tbs, start, end)
    extensions = (end, end)
    if len(found) == 8:
        tag, inner, stop = found.pop()
        extensions = content(tbs, 0x30, inner, stop)
        if tag != 0xA3:
            raise MalformedRequest("this is not a TBSCertificate of version 3")
    if len(found) != 7:
        raise MalformedRequest("a TBSCertificate of version 3 has seven or eight fields that we know")
    (
        (_, _, version),
        (t1, number, serial),
        (t2, _, algorithm),
        (t3, _, issuer),
        (t4, _, validity),
        (t5, _, subject),
        (t6, _, spki),
    ) = found
    if (t1, t2, t3, t4, t5, t6) != _TBS_TAGS or tbs[start:version] != _VERSION_3:
        raise MalformedRequest("this is not a TBSCertificate of version 3")
    return TbsFields(
        tbs[number:serial],
        tbs[serial:algorithm],
        tbs[algorithm:issuer],
        tbs[issuer:validity],
        tbs[validity:subject],
        tbs[subject:spki],
        extensions,
    )


#: serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo.
_TBS_TAGS = (0x02, 0x30, 0x30, 0x30, 0x30, 0x30)


def extensions_of(tbs: bytes, fields: TbsFields) -> list[tuple[int, int]]:
    """Start and end of the content of each Extension in the TBS. Raises MalformedRequest."""
    found = elements(tbs, *fields.extensions)
    if any(tag != 0x30 for tag, _, _ in found):
        raise MalformedRequest("an Extension is a SEQUENCE")
    return [(start, end) for _, start, end in found]


def assemble(tbs: bytes, algorithm: SignatureAlgorithm, signature: bytes) -> bytes:
    """The signed structure: Certificate, CertificateList. ``signature`` as :func:`gateway.pki.algorithms.sign` gives it."""
    return der.tlv(0x30, tbs, algorithm.value, der.tlv(0x03, b"\x00", signature))


def tbs_of(certificate: bytes) -> bytes:
    """The exact to-be-signed bytes of a Certificate or CertificateList in DER. Raises MalformedRequest."""
    start, end = content(certificate, 0x30)
    return certificate[start : elements(certificate, start, end)[0][2]]

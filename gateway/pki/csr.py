"""Certification requests (PKCS#10, RFC 2986): reading, proof of possession, what was asked for. Pure.

:func:`read_csr` accepts strict DER. What devices get wrong is accepted only under a named switch of
:mod:`gateway.pki.leniency`: then a canonical form is made *for reading*, while the signature is always verified over the
bytes that arrived. The number and size of everything is bounded before any cryptography is done.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from gateway.errors import BadKey, BadProofOfPossession, MalformedRequest, TooLarge
from gateway.pki import der
from gateway.pki.algorithms import PublicKey, SignatureAlgorithm, signature_is_valid
from gateway.pki.keycheck import MIN_RSA_EXPONENT, check_key
from gateway.pki.leniency import CSR_SHA1_SIGNATURE, RSA_SMALL_EXPONENT, canonical_form
from gateway.pki.names import name_from_der
from gateway.pki.walk import NameAttribute, content, elements, name_attributes

MAX_CSR_SIZE = 32_768
MAX_ATTRIBUTES = 16
MAX_RDNS = 64
MAX_EXTENSIONS = 32
MAX_NAMES = 256
#: RFC 2985 section 5.4.1, upper bound of challengePassword in characters.
MAX_CHALLENGE_PASSWORD = 255

_TEXT_ENCODINGS = {
    der.UTF8_STRING: "utf-8",
    der.PRINTABLE_STRING: "ascii",
    0x14: "latin-1",  # T61String, as it is used in practice
    der.IA5_STRING: "ascii",
    0x1C: "utf-32-be",  # UniversalString
    0x1E: "utf-16-be",  # BMPString
}
_PLAIN_STRINGS = frozenset((der.UTF8_STRING, der.PRINTABLE_STRING, der.IA5_STRING))
_COMMON_NAME = der.oid("2.5.4.3")[2:]
_COUNTRIES = (der.oid("2.5.4.6")[2:], der.oid("1.3.6.1.4.1.311.60.2.1.3")[2:])  # countryName, and the jurisdiction's
_CHALLENGE_PASSWORD = der.oid("1.2.840.113549.1.9.7")[2:]
#: extensionRequest of RFC 2985 section 5.4.2, and what Microsoft used before it.
_EXTENSION_REQUESTS = (der.oid("1.2.840.113549.1.9.14")[2:], der.oid("1.3.6.1.4.1.311.2.1.14")[2:])

#: Tags of the parts of a request (RFC 2986 section 4.2), and of the fields of the information in it (section 4.1).
_PARTS = [der.SEQUENCE, der.SEQUENCE, der.BIT_STRING]
_FIELDS = [der.INTEGER, der.SEQUENCE, der.SEQUENCE, 0xA0]

_ALGORITHMS = {algorithm.value: algorithm for algorithm in SignatureAlgorithm}
# RFC 4055 section 5: the parameters are NULL, but leaving them out must be understood as well.
_ALGORITHMS |= {
    der.sequence(algorithm.value[2:-2]): algorithm for algorithm in SignatureAlgorithm if algorithm.name.startswith("RSA")
}
_RSA_SHA1 = der.sequence(der.oid("1.2.840.113549.1.1.5"), der.null())
_ECDSA_SHA1 = der.sequence(der.oid("1.2.840.10045.4.1"))
_RSA_PSS = der.oid("1.2.840.113549.1.1.10")
_PSS_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)


@dataclass(frozen=True, slots=True)
class CertificationRequest:
    """A request whose self-signature was verified.

    ``der`` is what arrived, byte for byte; ``subject_der`` the exact Name and ``spki`` the exact SubjectPublicKeyInfo bytes
    (in DER, after the named leniencies acted), which go into the certificate unchanged.
    """

    der: bytes
    subject_der: bytes
    public_key: PublicKey
    spki: bytes
    san: tuple[x509.GeneralName, ...] = ()
    #: Extensions asked for (extensionRequest attribute), subjectAltName included; policy decides what becomes of them.
    extensions: tuple[x509.Extension[x509.ExtensionType], ...] = ()
    #: RFC 2985 section 5.4.1, as UTF-8 whatever string type it came in.
    challenge_password: bytes | None = None
    #: Names of the leniency switches that had to act to accept this request.
    leniencies: tuple[str, ...] = ()
    _subject: x509.Name | None = field(init=False, compare=False, repr=False, default=None)
    # No argument, so a request with another subject never has the attributes of this one.
    _rdns: list[list[NameAttribute]] | None = field(init=False, compare=False, repr=False, default=None)

    @property
    def subject(self) -> x509.Name:
        """The Name in ``subject_der``, made when first asked for: that costs as much as the rest of the parsing."""
        if self._subject is None:
            object.__setattr__(self, "_subject", name_from_der(self.subject_der))
        return cast("x509.Name", self._subject)

    @property
    def rdns(self) -> list[list[NameAttribute]]:
        """The attributes of each relative distinguished name in ``subject_der``; not to be changed."""
        if self._rdns is None:
            rdns = name_attributes(self.subject_der, *content(self.subject_der, der.SEQUENCE))
            object.__setattr__(self, "_rdns", rdns)
        return cast("list[list[NameAttribute]]", self._rdns)


@dataclass(slots=True)
class _Parsed:
    """A request in strict DER, taken apart but not verified."""

    request: x509.CertificateSigningRequest
    information: bytes
    subject_der: bytes
    rdns: list[list[NameAttribute]]
    spki: bytes
    san: tuple[x509.GeneralName, ...]
    extensions: tuple[x509.Extension[x509.ExtensionType], ...]
    challenge_password: bytes | None
    algorithm: bytes
    signature: bytes


def read_csr(
    data: bytes,
    *,
    leniency: frozenset[str] = frozenset(),
    blocked: Callable[[bytes], bool] | None = None,
    max_size: int = MAX_CSR_SIZE,
) -> CertificationRequest:
    """Read a CertificationRequest in DER, check its key and its proof of possession.

    ``leniency`` holds the switches of :mod:`gateway.pki.leniency` that may act; ``blocked`` says whether the SHA-256 digest of
    a SubjectPublicKeyInfo is on a list of unwanted keys. Raises MalformedRequest, TooLarge, BadKey (also for a signature
    algorithm that is not accepted) or BadProofOfPossession, with the reason.
    """
    if len(data) > max_size:
        raise TooLarge(f"the certification request has {len(data)} bytes; at most {max_size} are accepted")
    acted: tuple[str, ...] = ()
    try:
        parsed = _parse(data)
        signed: tuple[bytes, ...] = (parsed.information,)
    except MalformedRequest as error:
        parsed, signed, acted = _parse_leniently(data, error, leniency)
    public_key = _public_key(parsed.request)
    kind = check_key(public_key, parsed.spki, leniency=leniency, blocked=blocked)
    if kind.startswith("rsa-") and cast("rsa.RSAPublicKey", public_key).public_numbers().e < MIN_RSA_EXPONENT:
        acted += (RSA_SMALL_EXPONENT,)
    if parsed.algorithm in (_RSA_SHA1, _ECDSA_SHA1):
        if CSR_SHA1_SIGNATURE not in leniency:
            raise BadKey(f"the request is signed with SHA-1; use SHA-256 or stronger (leniency switch: {CSR_SHA1_SIGNATURE})")
        acted += (CSR_SHA1_SIGNATURE,)
    for information in signed:
        if _is_signed(parsed, public_key, information):
            break
    else:
        raise BadProofOfPossession("the request's signature does not verify with the public key in it")
    request = CertificationRequest(
        der=data,
        subject_der=parsed.subject_der,
        public_key=public_key,
        spki=parsed.spki,
        san=parsed.san,
        extensions=parsed.extensions,
        challenge_password=parsed.challenge_password,
        leniencies=acted,
    )
    object.__setattr__(request, "_rdns", parsed.rdns)  # the reader has taken the subject apart already
    return request


def _parse_leniently(
    data: bytes, error: MalformedRequest, leniency: frozenset[str]
) -> tuple[_Parsed, tuple[bytes, ...], tuple[str, ...]]:
    """What a canonical form gives where strict parsing gave ``error``; the error names the switches that are missing."""
    try:
        canonical = canonical_form(data)
        parsed = _parse(canonical.der) if canonical.acted else None
    except (MalformedRequest, TooLarge):
        parsed = None
    if parsed is None:
        raise error  # no leniency would help: the first finding is the most telling
    missing = [switch for switch in canonical.acted if switch not in leniency]
    if missing:
        raise MalformedRequest(f"{error} (leniency switch: {', '.join(missing)})") from error
    return parsed, canonical.signed, canonical.acted


def _parse(data: bytes) -> _Parsed:
    start, end = content(data, der.SEQUENCE)
    outer = elements(data, start, end)
    if [tag for tag, _, _ in outer] != _PARTS:
        raise MalformedRequest("a certification request has three parts: information, algorithm, signature")
    (_, info_start, info_end), (_, _, algorithm_end), (_, signature_start, signature_end) = outer
    fields = elements(data, info_start, info_end)
    tags = [tag for tag, _, _ in fields]
    if tags != _FIELDS:
        missing = tags == _FIELDS[:-1]
        reason = "the attributes [0] are missing" if missing else "version, subject, key, attributes expected"
        raise MalformedRequest(f"certification request information: {reason}")
    (_, version_start, version_end), (_, _, subject_end), (_, _, spki_end), (_, attributes_start, attributes_end) = fields
    if data[version_start:version_end] != b"\x00":
        raise MalformedRequest("the version of a certification request is written as 0")
    if data[signature_start : signature_start + 1] != b"\x00":
        raise MalformedRequest("the signature is not made of whole octets")
    challenge_password, has_extensions = _attributes(data, attributes_start, attributes_end)
    subject_der = data[version_end:subject_end]
    try:
        request = x509.load_der_x509_csr(data)
        rdns = _check_subject(subject_der)
        extensions = tuple(request.extensions) if has_extensions else ()
    except (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as error:
        raise MalformedRequest(f"not a certification request in DER: {str(error)[:200]}") from error
    if len(extensions) > MAX_EXTENSIONS:
        raise MalformedRequest(f"more than {MAX_EXTENSIONS} extensions are requested")
    return _Parsed(
        request=request,
        information=data[start:info_end],
        subject_der=subject_der,
        rdns=rdns,
        spki=data[subject_end:spki_end],
        san=_alternative_names(extensions),
        extensions=extensions,
        challenge_password=challenge_password,
        algorithm=data[info_end:algorithm_end],
        signature=data[signature_start + 1 : signature_end],
    )


def _check_subject(subject_der: bytes) -> list[list[NameAttribute]]:
    """Refuse what the library leaves out or only warns about, and a Name that the library could not read later."""
    rdns = name_attributes(subject_der, *content(subject_der, der.SEQUENCE))
    if len(rdns) > MAX_RDNS:
        raise MalformedRequest(f"the subject has more than {MAX_RDNS} relative distinguished names")
    simple = True
    for rdn in rdns:
        if not 1 <= len(rdn) <= MAX_ATTRIBUTES:
            raise MalformedRequest(f"a relative distinguished name is not a SET of 1 to {MAX_ATTRIBUTES} attributes")
        for oid, tag, value in rdn:
            if not value:
                raise MalformedRequest("a subject attribute is empty")
            if oid == _COMMON_NAME:
                if len(value) > 64 and len(_text(tag, value, "commonName")) > 64:
                    raise MalformedRequest("commonName has more than 64 characters")
            elif oid in _COUNTRIES and len(_text(tag, value, "countryName").encode()) != 2:
                raise MalformedRequest("countryName must be a country code of two letters")
            simple = simple and tag in _PLAIN_STRINGS and value.isascii()
        simple = simple and len(rdn) == 1
    if not simple:  # ASCII text, one attribute to each RDN: there is nothing the library could refuse
        name_from_der(subject_der)
    return rdns


def _attributes(data: bytes, start: int, end: int) -> tuple[bytes | None, bool]:
    """The challengePassword, and whether extensions are requested; the attributes' frame is checked."""
    challenge_password: bytes | None = None
    has_extensions = False
    seen: set[bytes] = set()
    previous = b""
    for tag, attribute_start, attribute_end in elements(data, start, end):
        pair = elements(data, attribute_start, attribute_end)
        if tag != der.SEQUENCE or len(pair) != 2 or pair[0][0] != der.OID or pair[1][0] != der.SET:
            raise MalformedRequest("an attribute is not a pair of type and SET of values")
        whole = data[start:attribute_end]
        start = attribute_end
        if whole < previous:
            raise MalformedRequest("the attributes are not in DER order")
        previous = whole
        (_, oid_start, oid_end), (_, values_start, values_end) = pair
        oid = data[oid_start:oid_end]
        if oid in seen or (has_extensions and oid in _EXTENSION_REQUESTS):
            raise MalformedRequest("an attribute appears twice")
        seen.add(oid)
        if len(seen) > MAX_ATTRIBUTES:
            raise MalformedRequest(f"more than {MAX_ATTRIBUTES} attributes")
        values = elements(data, values_start, values_end)
        if oid in _EXTENSION_REQUESTS:
            has_extensions = True
        elif oid != _CHALLENGE_PASSWORD:
            continue
        if len(values) != 1:
            raise MalformedRequest("challengePassword and extensionRequest have exactly one value")
        if oid == _CHALLENGE_PASSWORD:
            value_tag, value_start, value_end = values[0]
            text = _text(value_tag, data[value_start:value_end], "challengePassword")
            if not 1 <= len(text) <= MAX_CHALLENGE_PASSWORD:
                raise MalformedRequest(f"challengePassword must have 1 to {MAX_CHALLENGE_PASSWORD} characters")
            challenge_password = text.encode()
    return challenge_password, has_extensions


def _text(tag: int, octets: bytes, what: str) -> str:
    try:
        return octets.decode(_TEXT_ENCODINGS[tag])
    except (KeyError, UnicodeDecodeError):
        raise MalformedRequest(f"{what} is not a text of its type") from None


def _alternative_names(extensions: tuple[x509.Extension[x509.ExtensionType], ...]) -> tuple[x509.GeneralName, ...]:
    for extension in extensions:
        if isinstance(extension.value, x509.SubjectAlternativeName):
            names = tuple(extension.value)
            if not 1 <= len(names) <= MAX_NAMES:
                raise MalformedRequest(f"subjectAltName holds {len(names)} names; it must be 1 to {MAX_NAMES}")
            return names
    return ()


def _public_key(request: x509.CertificateSigningRequest) -> PublicKey:
    try:
        return request.public_key()  # type: ignore[return-value]  # check_key refuses the types that PublicKey does not list
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadKey(f"the public key cannot be used: {str(error)[:200]}") from error


def _is_signed(parsed: _Parsed, public_key: PublicKey, information: bytes) -> bool:
    """Whether the signature is one of ``information``. Raises BadKey for an algorithm that is not accepted."""
    algorithm = _ALGORITHMS.get(parsed.algorithm)
    if algorithm is not None:
        return signature_is_valid(public_key, algorithm, parsed.signature, information)
    try:
        if parsed.algorithm == _RSA_SHA1 and isinstance(public_key, rsa.RSAPublicKey):
            public_key.verify(parsed.signature, information, padding.PKCS1v15(), hashes.SHA1())  # noqa: S303
        elif parsed.algorithm == _ECDSA_SHA1 and isinstance(public_key, ec.EllipticCurvePublicKey):
            public_key.verify(parsed.signature, information, ec.ECDSA(hashes.SHA1()))  # noqa: S303
        elif _RSA_PSS in parsed.algorithm[:20] and isinstance(public_key, rsa.RSAPublicKey):
            pss, hash_ = parsed.request.signature_algorithm_parameters, parsed.request.signature_hash_algorithm
            if not isinstance(pss, padding.PSS) or not isinstance(hash_, _PSS_HASHES):
                raise BadKey("RSASSA-PSS is accepted with SHA-256, SHA-384 or SHA-512")
            public_key.verify(parsed.signature, information, pss, hash_)
        else:
            oid = parsed.request.signature_algorithm_oid.dotted_string
            raise BadKey(f"the request's signature algorithm {oid} is not accepted for its key; use SHA-256 or stronger")
    except InvalidSignature:
        return False
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadKey(f"the request's signature algorithm is not accepted: {str(error)[:200]}") from error
    return True

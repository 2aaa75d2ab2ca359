"""A last look at the bytes before they are signed: the rules of RFC 5280 and of the profile, checked on the TBS itself. Pure.

The check reads the finished DER and knows nothing of how :mod:`gateway.pki.tbs` made it, so a fault there is caught here,
before the one operation that cannot be undone. It is no replacement for a full linter; the tests hold both against each
other. What depends on the profile and the CA alone is looked at once per distinct content and remembered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import lru_cache

from gateway.errors import MalformedRequest
from gateway.pki import der
from gateway.pki.algorithms import SignatureAlgorithm
from gateway.pki.extensions import named_bits
from gateway.pki.profiles import EXTENDED_KEY_USAGES, KEY_USAGE_BITS, Profile
from gateway.pki.subjects import ATTRIBUTE_TYPES, IA5_STRING, PRINTABLE_STRING, UTF8_STRING
from gateway.pki.tbs import NO_EXPIRY_MS, CaInfo, TbsFields, tbs_fields
from gateway.pki.walk import content, element, elements, name_attributes


class Level(Enum):
    ERROR = "error"  # must not be signed
    WARNING = "warning"  # unusual, allowed


@dataclass(frozen=True, slots=True)
class Finding:
    """``rule`` is a stable short name, ``text`` one sentence."""

    level: Level
    rule: str
    text: str


def _error(rule: str, text: str) -> Finding:
    return Finding(Level.ERROR, rule, text)


def _oid(dotted: str) -> bytes:
    return der.oid(dotted)[2:]


_AKI, _SKI, _KU, _EKU = _oid("2.5.29.35"), _oid("2.5.29.14"), _oid("2.5.29.15"), _oid("2.5.29.37")
_BC, _SAN, _POLICIES = _oid("2.5.29.19"), _oid("2.5.29.17"), _oid("2.5.29.32")
_CDP, _FRESHEST, _AIA = _oid("2.5.29.31"), _oid("2.5.29.46"), _oid("1.3.6.1.5.5.7.1.1")
_NOCHECK = _oid("1.3.6.1.5.5.7.48.1.5")
#: Criticality that RFC 5280 section 4.2 (nocheck: RFC 6960 section 4.2.2.2.1) prescribes; subjectAltName has its own rule.
_CRITICAL = {
    _AKI: False, _SKI: False, _KU: True, _POLICIES: False, _CDP: False, _FRESHEST: False, _AIA: False, _NOCHECK: False,
}  # fmt: skip
_ALGORITHMS = frozenset(algorithm.value for algorithm in SignatureAlgorithm)
#: Key groups by the OID in the SubjectPublicKeyInfo: RFC 3279, RFC 5480, RFC 8410, RFC 9881.
_KEY_GROUPS = {
    _oid("1.2.840.113549.1.1.1"): "rsa",
    _oid("1.2.840.10045.2.1"): "ec",
    _oid("1.3.101.112"): "sign",
    _oid("2.16.840.1.101.3.4.3.17"): "sign",
    _oid("2.16.840.1.101.3.4.3.18"): "sign",
    _oid("2.16.840.1.101.3.4.3.19"): "sign",
}
#: GeneralName tags that may stand in a subjectAltName: otherName, rfc822Name, dNSName, URI, iPAddress.
_NAME_TAGS = frozenset({0xA0, 0x81, 0x82, 0x86, 0x87})


def lint_tbs(tbs: bytes, profile: Profile, *, ca: CaInfo | None = None) -> tuple[Finding, ...]:
    """What is wrong with ``tbs`` as a certificate of ``profile`` (and, when given, of ``ca``); empty when nothing is."""
    try:
        fields = tbs_fields(tbs)
        group = _key_group(fields.spki)
        return (
            *_serial(fields.serial),
            *_issuer(fields, ca),
            *_validity(fields.validity, profile, ca),
            *_subject(fields.subject, profile),
            *_extensions(tbs, fields, profile, group, ca.key_identifier if ca else None),
        )
    except (MalformedRequest, ValueError, IndexError) as error:
        return (_error("der", f"the TBSCertificate cannot be read: {error}"),)


def _key_group(spki: bytes) -> str:
    start, end = content(spki, 0x30)
    (_, oid_start, algorithm_end), (bits, _, _) = elements(spki, start, end)
    _, inner, oid_end = element(spki, oid_start, algorithm_end)
    group = _KEY_GROUPS.get(spki[inner:oid_end])
    if group is None or bits != 0x03:
        raise MalformedRequest("the SubjectPublicKeyInfo is of an unknown kind")
    return group


def _serial(octets: bytes) -> tuple[Finding, ...]:
    if not octets or len(octets) > 20:
        return (_error("serial-length", "the serial number must have 1 to 20 octets"),)
    if octets[0] >= 0x80 or not any(octets):
        return (_error("serial-positive", "the serial number must be positive"),)
    if octets[0] == 0 and octets[1] < 0x80:
        return (_error("serial-minimal", "the serial number is not in its shortest form"),)
    if len(octets) < 9:
        return (Finding(Level.WARNING, "serial-entropy", "the serial number has no room for 64 random bits"),)
    return ()


def _issuer(fields: TbsFields, ca: CaInfo | None) -> tuple[Finding, ...]:
    findings = []
    if fields.algorithm not in _ALGORITHMS or (ca is not None and fields.algorithm != ca.algorithm.value):
        findings.append(_error("algorithm", "the signature algorithm is not the CA's"))
    if fields.issuer == b"\x30\x00" or (ca is not None and fields.issuer != ca.subject_der):
        findings.append(_error("issuer", "the issuer is not the CA's subject"))
    return tuple(findings)


@lru_cache(maxsize=64)
def _validity(validity: bytes, profile: Profile, ca: CaInfo | None) -> tuple[Finding, ...]:
    times = elements(validity, *content(validity, 0x30))
    if len(times) != 2:
        return (_error("validity-form", "validity holds two times"),)
    moments: list[datetime] = []
    for tag, start, end in times:
        text = validity[start:end].decode("ascii")
        if tag == 0x17 and len(text) == 13:
            text = ("20" if text < "50" else "19") + text
        elif tag != 0x18 or len(text) != 15 or text < "2050":
            return (_error("validity-form", "a time until 2049 is UTCTime, a later one GeneralizedTime, in whole seconds"),)
        moments.append(datetime.strptime(text, "%Y%m%d%H%M%SZ"))
    not_before, not_after = (int((moment - datetime(1970, 1, 1)).total_seconds()) * 1000 for moment in moments)
    findings = []
    if not_before >= not_after:
        findings.append(_error("validity-order", "notAfter is not later than notBefore"))
    if profile.validity is None:
        if not_after != NO_EXPIRY_MS:
            findings.append(_error("validity-expiry", "this profile has no well-defined expiry: notAfter is 99991231235959Z"))
    elif not_after - not_before > (profile.validity + profile.backdate) * 1000:
        findings.append(_error("validity-length", "the certificate is valid for longer than its profile allows"))
    if ca is not None and (not_before < ca.not_before_ms or (profile.validity is not None and not_after > ca.not_after_ms)):
        findings.append(_error("validity-ca", "the certificate's validity is not within the CA's"))
    return tuple(findings)


def _subject(subject: bytes, profile: Profile) -> list[Finding]:
    findings = []
    present = set()
    for rdn in name_attributes(subject, *content(subject, 0x30)):
        if not rdn:
            findings.append(_error("subject-form", "a relative distinguished name is a SET of attributes"))
        for oid, tag, value in rdn:
            short, bound, tags = _ATTRIBUTES.get(oid, _UNKNOWN_ATTRIBUTE)
            present.add(short)
            if not short:
                findings.append(_error("subject-attribute", "the subject has an attribute of an unknown type"))
            elif tag not in tags:
                findings.append(_error("subject-string-type", f"the attribute {short} has the wrong string type"))
            elif not 0 < len(value.decode()) <= bound:
                findings.append(_error("subject-bound", f"the attribute {short} must have 1 to {bound} characters"))
    findings += [
        _error("subject-required", f"the subject lacks {required}")
        for required in profile.subject_required
        if required not in present
    ]
    return findings


_STRING_TAGS = {
    "directory": frozenset({UTF8_STRING, PRINTABLE_STRING}),
    "printable": frozenset({PRINTABLE_STRING}),
    "ia5": frozenset({IA5_STRING}),
}
#: By the content of the OID: short name, upper bound in characters, permitted string types.
_ATTRIBUTES = {oid: (short, bound, _STRING_TAGS[kind]) for oid, (short, bound, kind) in ATTRIBUTE_TYPES.items()}
_UNKNOWN_ATTRIBUTE: tuple[str, int, frozenset[int]] = ("", 0, frozenset())


def _extensions(
    tbs: bytes, fields: TbsFields, profile: Profile, group: str, authority_key: bytes | None
) -> tuple[Finding, ...]:
    """The extensions that profile and CA decide come first, in the same few forms for ever: they are looked at as one block
    and the result is remembered. From the first one on that is different in every certificate, each is looked at anew."""
    start, end = fields.extensions
    at = start
    while at < end:
        _, inner, stop = element(tbs, at, end)
        if tbs[inner : inner + 5] in _OWN_OF_REQUEST:
            break
        at = stop
    oids, findings = _fixed_extensions(tbs[start:at], profile, group, authority_key)
    empty_subject = fields.subject == b"\x30\x00"
    for tag, inner, stop in elements(tbs, at, end):
        if tag != 0x30:
            raise MalformedRequest("an Extension is a SEQUENCE")
        if stop - inner == _USUAL_KEY_IDENTIFIER_LENGTH and tbs.startswith(_USUAL_KEY_IDENTIFIER, inner):
            oids += (_SKI,)
        elif tbs[inner : inner + 5] in _OWN_OF_REQUEST:
            oid, critical, value = _take_apart(tbs, inner, stop)
            found = _subject_key(value, critical) if oid == _SKI else _alt_names(value, critical, empty_subject)
            findings += tuple(found)
            oids += (oid,)
        else:
            further, more = _fixed_extensions(tbs[at:stop], profile, group, authority_key)
            findings += more
            oids += further
        at = stop
    return findings + _presence(oids, profile, empty_subject)


#: How an Extension begins whose content is different in every certificate.
_OWN_OF_REQUEST = frozenset({b"\x06\x03" + _SKI, b"\x06\x03" + _SAN})
#: A subjectKeyIdentifier that is not critical and has 20 octets, as nearly all have, up to those octets: nothing to find there.
_USUAL_KEY_IDENTIFIER = b"\x06\x03" + _SKI + b"\x04\x16\x04\x14"
_USUAL_KEY_IDENTIFIER_LENGTH = len(_USUAL_KEY_IDENTIFIER) + 20


def _take_apart(data: bytes, start: int, end: int) -> tuple[bytes, bool, bytes]:
    """OID octets, critical, and what extnValue holds of the Extension with this content. Raises MalformedRequest."""
    parts = elements(data, start, end)
    if bytes([tag for tag, _, _ in parts]) not in (b"\x06\x04", b"\x06\x01\x04"):
        raise MalformedRequest("an Extension is an OID, perhaps a BOOLEAN, and an OCTET STRING")
    critical = len(parts) == 3
    if critical and data[parts[1][1] : parts[1][2]] != b"\xff":
        raise MalformedRequest("critical is TRUE as 0xff or absent (FALSE is the default)")
    return data[parts[0][1] : parts[0][2]], critical, data[parts[-1][1] : parts[-1][2]]


def _subject_key(value: bytes, critical: bool) -> list[Finding]:
    findings = [_error("criticality", "subjectKeyIdentifier must not be critical")] if critical else []
    start, end = content(value, 0x04)
    if start == end:
        findings.append(_error("key-identifier", "subjectKeyIdentifier is empty"))
    return findings


def _alt_names(value: bytes, critical: bool, empty_subject: bool) -> list[Finding]:
    findings = []
    if critical != empty_subject:
        findings.append(_error("criticality", "subjectAltName is critical exactly when the subject is empty"))
    names = elements(value, *content(value, 0x30))
    if not names:
        findings.append(_error("san-empty", "subjectAltName holds no name"))
    for tag, start, end in names:
        if tag not in _NAME_TAGS or start == end:
            findings.append(_error("san-name", "subjectAltName holds an empty name or one of an unexpected type"))
        elif tag == 0x87 and end - start not in (4, 16):
            findings.append(_error("san-address", "an iPAddress has 4 or 16 octets"))
        elif tag in (0x81, 0x82, 0x86) and not value[start:end].isascii():
            findings.append(_error("san-name", "a name in subjectAltName is not an IA5String"))
        elif tag == 0x82 and (value[start] == 0x2E or value[end - 1] == 0x2E or b" " in value[start:end]):
            findings.append(_error("san-dns", "a dNSName has no leading or trailing dot and no space"))
        elif tag == 0x86 and b":" not in value[start:end]:
            findings.append(_error("san-uri", "a URI needs a scheme"))
    return findings


@lru_cache(maxsize=512)
def _fixed_extensions(
    block: bytes, profile: Profile, group: str, authority_key: bytes | None
) -> tuple[tuple[bytes, ...], tuple[Finding, ...]]:
    """OIDs (content octets) and findings of some extensions that the profile and the CA decide."""
    oids: list[bytes] = []
    findings: list[Finding] = []
    for tag, start, end in elements(block, 0, len(block)):
        if tag != 0x30:
            raise MalformedRequest("an Extension is a SEQUENCE")
        oid, critical, value = _take_apart(block, start, end)
        oids.append(oid)
        if _CRITICAL.get(oid, critical) != critical:
            findings.append(_error("criticality", f"the extension with OID octets {oid.hex()} has the wrong criticality"))
        findings += _fixed_extension(oid, value, profile, group, authority_key)
    return tuple(oids), tuple(findings)


def _fixed_extension(oid: bytes, value: bytes, profile: Profile, group: str, authority_key: bytes | None) -> list[Finding]:
    """What is wrong with the content of such an extension."""
    findings = []
    if oid in _EXPECTED:
        expected, rule, text = _EXPECTED[oid]
        if value != expected(profile, group):
            findings.append(_error(rule, text))
    elif oid == _AKI:
        parts = elements(value, *content(value, 0x30))
        identifier = value[parts[0][1] : parts[0][2]] if [tag for tag, _, _ in parts] == [0x80] else b""
        if not identifier or authority_key not in (None, identifier):
            findings.append(_error("authority-key", "authorityKeyIdentifier is not the CA's key identifier"))
    elif oid in (_CDP, _FRESHEST, _AIA):
        if not elements(value, *content(value, 0x30)):
            findings.append(_error("extension-empty", f"the extension with OID octets {oid.hex()} is empty"))
    elif oid not in {_oid(copied) for copied in profile.copy_extensions}:
        findings.append(_error("extension-unknown", f"the extension with OID octets {oid.hex()} is not in the profile"))
    return findings


def _expected_key_usage(profile: Profile, group: str) -> bytes:
    usages = profile.key_usage + {"rsa": profile.key_usage_rsa, "ec": profile.key_usage_ec}.get(group, ())
    return named_bits(KEY_USAGE_BITS[name] for name in usages)


def _expected_extended_key_usage(profile: Profile, _group: str) -> bytes:
    return der.tlv(0x30, *(der.oid(EXTENDED_KEY_USAGES.get(name, name)) for name in profile.extended_key_usage))


def _expected_policies(profile: Profile, _group: str) -> bytes:
    return der.tlv(0x30, *(der.tlv(0x30, der.oid(policy)) for policy in profile.policies))


#: Extensions with exactly one right content: what computes it, the rule and what to say when it is another.
_EXPECTED: dict[bytes, tuple[Callable[[Profile, str], bytes], str, str]] = {
    _KU: (_expected_key_usage, "key-usage", "keyUsage is not what the profile says for this type of key"),
    _EKU: (_expected_extended_key_usage, "extended-key-usage", "extKeyUsage is not what the profile says"),
    _POLICIES: (_expected_policies, "policies", "certificatePolicies is not what the profile says"),
    _BC: (lambda _profile, _group: b"\x30\x00", "not-a-ca", "basicConstraints must say that this is no CA"),
    _NOCHECK: (lambda _profile, _group: b"\x05\x00", "nocheck", "id-pkix-ocsp-nocheck holds NULL"),
}


@lru_cache(maxsize=256)
def _presence(oids: tuple[bytes, ...], profile: Profile, empty_subject: bool) -> tuple[Finding, ...]:
    """Whether the extensions with these OIDs are the right ones and each there once."""
    findings = [
        _error("extension-twice", f"the extension with OID octets {oid.hex()} occurs twice")
        for number, oid in enumerate(oids)
        if oid in oids[:number]
    ]
    seen = frozenset(oids)
    if _AKI not in seen:
        findings.append(_error("authority-key", "authorityKeyIdentifier is missing"))
    if (_SKI in seen) != profile.subject_key_identifier:
        findings.append(_error("key-identifier", "subjectKeyIdentifier is there or missing against the profile"))
    if _KU not in seen and profile.key_usage:
        findings.append(_error("key-usage", "keyUsage is missing"))
    if (_EKU in seen) != bool(profile.extended_key_usage):
        findings.append(_error("extended-key-usage", "extKeyUsage is there or missing against the profile"))
    if (_BC in seen) != profile.basic_constraints:
        findings.append(_error("not-a-ca", "basicConstraints is there or missing against the profile"))
    if (_NOCHECK in seen) != profile.ocsp_nocheck:
        findings.append(_error("nocheck", "id-pkix-ocsp-nocheck is there or missing against the profile"))
    if (_POLICIES in seen) != bool(profile.policies):
        findings.append(_error("policies", "certificatePolicies is there or missing against the profile"))
    if _SAN not in seen and (empty_subject or profile.san_required or profile.san_required_any):
        findings.append(_error("san-missing", "subjectAltName is missing"))
    if profile.publication and _CDP not in seen and _AIA not in seen:
        findings.append(Finding(Level.WARNING, "no-status", "nothing in the certificate says where its status can be asked"))
    if not profile.publication and not seen.isdisjoint((_CDP, _FRESHEST, _AIA)):
        findings.append(_error("publication", "this profile publishes no status"))
    return tuple(findings)

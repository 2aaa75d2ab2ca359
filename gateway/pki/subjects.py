"""From what a request asks to the names a certificate gets: subject and subjectAltName by a profile's rules. Pure.

The characters of a name are never changed, only its string type: RFC 5280 section 4.1.2.4 lets a CA write PrintableString and
UTF8String only, and appendix A fixes PrintableString or IA5String for some attributes, while devices still send T61String,
BMPString and a serialNumber in UTF8String.
"""

from __future__ import annotations

import re

from cryptography import x509

from gateway.errors import Forbidden, GatewayError, MalformedRequest
from gateway.pki import der
from gateway.pki.csr import CertificationRequest
from gateway.pki.extensions import general_name, kind_of
from gateway.pki.profiles import SUBJECT_ATTRIBUTES, Profile
from gateway.pki.sans import san_from_text
from gateway.pki.walk import NameAttribute, content, name_attributes

MAX_ATTRIBUTES = 24
_URI_TAG = 0x86  # GeneralName [6]

UTF8_STRING, PRINTABLE_STRING, IA5_STRING = 0x0C, 0x13, 0x16
_ENCODINGS = {
    UTF8_STRING: "utf-8",
    PRINTABLE_STRING: "ascii",
    0x14: "latin-1",  # T61String, as it is used in practice
    IA5_STRING: "ascii",
    0x1C: "utf-32-be",  # UniversalString
    0x1E: "utf-16-be",  # BMPString
}
_PRINTABLE_TEXT = re.compile(r"[A-Za-z0-9 '()+,./:=?-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_PLACEHOLDER = re.compile(r"\{([A-Za-z]+)(\.hex)?\}")
#: Attribute types by the content octets of their OID.
ATTRIBUTE_TYPES = {der.oid(oid)[2:]: (short, bound, kind) for short, (oid, bound, kind) in SUBJECT_ATTRIBUTES.items()}
_OIDS = {short: der.oid(oid) for short, (oid, _, _) in SUBJECT_ATTRIBUTES.items()}


def certificate_subject(profile: Profile, request: CertificationRequest) -> bytes:
    """The DER Name for the certificate. Raises MalformedRequest or Forbidden, naming the attribute."""
    if profile.subject_template:
        fields = request_fields(request)
        data = der.tlv(0x30, *(_template_rdn(text, fields) for text in profile.subject_template))
        rdns = name_attributes(data, *content(data, 0x30))
    else:
        data, rdns = request.subject_der, request.rdns
    names: list[str] = []
    rewritten: dict[tuple[int, int], bytes] = {}  # the values that must change their string type, by place
    for number, rdn in enumerate(rdns):
        for place, (oid, tag, value) in enumerate(rdn):
            known = ATTRIBUTE_TYPES.get(oid)
            if known is None or not (known[0] in profile.subject_allowed or profile.subject_template):
                raise Forbidden(f"profile {profile.name} does not allow the subject attribute {_attribute_name(oid)}")
            names.append(known[0])
            written = _checked_value(known, tag, value)
            if written is not None:
                rewritten[number, place] = written
    _check_presence(profile, names)
    return _rewritten(rdns, rewritten) if rewritten else data


def _rewritten(rdns: list[list[NameAttribute]], values: dict[tuple[int, int], bytes]) -> bytes:
    """The Name of ``rdns`` with other values (header included) at some places; each SET in order again."""
    encoded = []
    for number, rdn in enumerate(rdns):
        attributes = [
            der.tlv(0x30, der.tlv(0x06, oid), values.get((number, place)) or der.tlv(tag, value))
            for place, (oid, tag, value) in enumerate(rdn)
        ]
        encoded.append(der.set_of(attributes))
    return der.tlv(0x30, *encoded)


def _check_presence(profile: Profile, names: list[str]) -> None:
    for required in profile.subject_required:
        if required not in names:
            raise MalformedRequest(f"profile {profile.name} needs {required} in the subject")
    if not names and not profile.subject_may_be_empty:
        raise MalformedRequest(f"profile {profile.name} needs a subject")
    if len(names) > MAX_ATTRIBUTES:
        raise MalformedRequest(f"more than {MAX_ATTRIBUTES} attributes in the subject")


def _checked_value(known: tuple[str, int, str], tag: int, value: bytes) -> bytes | None:
    """``None`` when the attribute may stay as it is, else the value in the string type it should have had."""
    short, bound, kind = known
    try:
        text = value.decode(_ENCODINGS[tag])
    except (KeyError, UnicodeDecodeError):
        raise MalformedRequest(f"the subject attribute {short} is not a text of its type") from None
    if not text or len(text) > bound:
        raise MalformedRequest(f"the subject attribute {short} must have 1 to {bound} characters")
    if not text.isprintable() and _CONTROL.search(text):
        raise MalformedRequest(f"the subject attribute {short} holds control characters")
    if short == "C" and not (len(text) == 2 and text.isascii() and text.isalpha()):
        raise MalformedRequest("the subject attribute C must be a country code of two letters")
    if tag == PRINTABLE_STRING and kind != "ia5" and _PRINTABLE_TEXT.fullmatch(text):
        return None
    if tag == UTF8_STRING and kind == "directory":
        return None
    if kind == "directory":
        return der.tlv(UTF8_STRING, text.encode())
    if kind == "printable" and not _PRINTABLE_TEXT.fullmatch(text):
        raise MalformedRequest(f"the subject attribute {short} may only hold letters, digits and '()+,-./:=?")
    if not text.isascii():
        raise MalformedRequest(f"the subject attribute {short} may only hold ASCII characters")
    if tag == IA5_STRING and kind == "ia5":
        return None
    return der.tlv(PRINTABLE_STRING if kind == "printable" else IA5_STRING, text.encode())


def _attribute_name(oid: bytes) -> str:
    known = ATTRIBUTE_TYPES.get(oid)
    return known[0] if known else "with OID octets " + oid.hex()


def request_fields(request: CertificationRequest) -> dict[str, str]:
    """Values for a template's placeholders: subject attributes by short name and SAN kinds; the first of each counts."""
    fields: dict[str, str] = {}
    for attribute in request.subject:
        known = ATTRIBUTE_TYPES.get(der.oid(attribute.oid.dotted_string)[2:])
        if known and isinstance(attribute.value, str):
            fields.setdefault(known[0], attribute.value)
    for name in request.san:
        kind = kind_of(name)
        if isinstance(name, x509.DNSName | x509.UniformResourceIdentifier | x509.RFC822Name):
            fields.setdefault(kind, name.value)
        elif isinstance(name, x509.IPAddress):
            fields.setdefault(kind, str(name.value))
    return fields


def expand(template: str, fields: dict[str, str]) -> str:
    """``template`` with its placeholders filled in. Raises MalformedRequest when the request lacks one."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in fields:
            raise MalformedRequest(f"the request has no {match[1]}, which this profile puts into the certificate")
        return fields[match[1]].encode().hex() if match[2] else fields[match[1]]

    return _PLACEHOLDER.sub(value, template)


def _template_rdn(template: str, fields: dict[str, str]) -> bytes:
    short, _, text = template.partition("=")
    kind = SUBJECT_ATTRIBUTES[short][2]
    tag = {"directory": UTF8_STRING, "printable": PRINTABLE_STRING, "ia5": IA5_STRING}[kind]
    return der.tlv(0x31, der.tlv(0x30, _OIDS[short], der.tlv(tag, expand(text, fields).encode())))


def certificate_names(profile: Profile, request: CertificationRequest) -> list[bytes]:
    """The encoded GeneralNames for the certificate, requested ones first. Raises MalformedRequest or Forbidden."""
    encoded: dict[bytes, None] = {}
    kinds: set[str] = set()
    for name in request.san:
        kind = kind_of(name)
        if kind not in profile.san_allowed:
            raise Forbidden(f"profile {profile.name} does not allow names of type {kind} in subjectAltName")
        kinds.add(kind)
        encoded[general_name(name, wildcards=profile.san_wildcards)] = None
    templates = profile.san_template if encoded else profile.san_template + profile.san_default
    if templates:
        fields = request_fields(request)
        for template in templates:
            name = _template_name(template, fields)
            kinds.add(kind_of(name))
            encoded[general_name(name, wildcards=profile.san_wildcards)] = None
    for required in profile.san_required:
        if required not in kinds:
            raise MalformedRequest(f"profile {profile.name} needs a name of type {required} in subjectAltName")
    if profile.san_required_any and kinds.isdisjoint(profile.san_required_any):
        wanted = " or ".join(sorted(profile.san_required_any))
        raise MalformedRequest(f"profile {profile.name} needs a name of type {wanted} in subjectAltName")
    if len(encoded) > profile.san_limit:
        raise MalformedRequest(f"more than {profile.san_limit} names in subjectAltName")
    if profile.rules == "idevid" and kinds and "HMN" not in kinds:
        raise MalformedRequest("the subjectAltName of an IDevID must hold a hardwareModuleName (IEEE 802.1AR clause 8.10.4)")
    if profile.rules == "opcua" and sum(name[0] == _URI_TAG for name in encoded) != 1:
        raise MalformedRequest("an OPC UA certificate has exactly one URI: its ApplicationUri (OPC 10000-6 section 6.2.2)")
    return list(encoded)


def _template_name(template: str, fields: dict[str, str]) -> x509.GeneralName:
    text = expand(template, fields)
    try:
        return san_from_text(text)
    except (GatewayError, ValueError) as error:
        raise MalformedRequest(f"this profile would write the name {text[:80]!r}, which is not one") from error

"""What ``csrattrs`` tells a client of the request a profile wants (RFC 7030 section 4.5.2, RFC 9908). Pure.

The answer says the same thing twice, as RFC 9908 section 4 provides for: as single OIDs and attributes for older clients, and
as one ``id-aa-certificationRequestInfoTemplate`` for newer ones, which then ignore the rest. Both can only say "use this";
neither has an "or". So where a profile leaves the choice, nothing is said:

- The key: an RSA key of one size, one curve, or one other algorithm is named whole. RSA of several sizes is named without a
  size. Several curves are named to older clients (the bare ``id-ecPublicKey``) but not in the template, because its
  AlgorithmIdentifier must name a curve (RFC 5480 section 2.1.1). Keys of several algorithms are not mentioned.
- The subject: attributes the request must bring stand without a value, those that the profile writes itself with theirs.
- subjectAltName: stands without a value where the profile asks for "DNS or IP" or for a kind that has no empty form; with empty
  names to be filled in where it asks for certain kinds; complete where the profile fixes the names.
- keyUsage and extKeyUsage are the profile's own; they are shown where they are the same for every key the profile takes.

challengePassword is never asked for: nothing here binds a request to its connection.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from gateway.pki import der
from gateway.pki.extensions import OID_SUBJECT_ALT_NAME, extended_key_usage, extension, general_name, key_usage
from gateway.pki.profiles import SUBJECT_ATTRIBUTES, Profile
from gateway.pki.sans import san_from_text
from gateway.pki.tbs import key_group

_TEMPLATE = der.oid("1.2.840.113549.1.9.16.2.61")  # id-aa-certificationRequestInfoTemplate, RFC 9908 appendix A
_EXTENSION_REQUEST_TEMPLATE = der.oid("1.2.840.113549.1.9.16.2.62")  # id-aa-extensionReqTemplate, likewise
_EXTENSION_REQUEST = der.oid("1.2.840.113549.1.9.14")  # RFC 2985 section 5.4.2
_EC = der.oid("1.2.840.10045.2.1")
_RSA = der.oid("1.2.840.113549.1.1.1")
_RSA_SHA256 = der.oid("1.2.840.113549.1.1.11")
_ECDSA = "1.2.840.10045.4.3."
#: Curve, and the signature algorithm whose hash is as strong (RFC 5480 section 4).
_CURVES = {
    "p-256": (der.oid("1.2.840.10045.3.1.7"), der.oid(_ECDSA + "2")),
    "p-384": (der.oid("1.3.132.0.34"), der.oid(_ECDSA + "3")),
    "p-521": (der.oid("1.3.132.0.35"), der.oid(_ECDSA + "4")),
    "brainpoolp256r1": (der.oid("1.3.36.3.3.2.8.1.1.7"), der.oid(_ECDSA + "2")),
    "brainpoolp384r1": (der.oid("1.3.36.3.3.2.8.1.1.11"), der.oid(_ECDSA + "3")),
    "brainpoolp512r1": (der.oid("1.3.36.3.3.2.8.1.1.13"), der.oid(_ECDSA + "4")),
}
#: Algorithms whose one OID names key and signature (RFC 8410, RFC 9881).
_OTHERS = {
    "ed25519": der.oid("1.3.101.112"),
    "ml-dsa-44": der.oid("2.16.840.1.101.3.4.3.17"),
    "ml-dsa-65": der.oid("2.16.840.1.101.3.4.3.18"),
    "ml-dsa-87": der.oid("2.16.840.1.101.3.4.3.19"),
}
_RSA_SIZE = re.compile(r"rsa-(\d+)")
_RSA_EXPONENT = 65537
#: GeneralNames without a value, to be filled in by the client (RFC 9908 section 3.4).
_EMPTY_NAMES = {"email": b"\x81\x00", "DNS": b"\x82\x00", "URI": b"\x86\x00", "IP": b"\x87\x00"}
_PLACEHOLDER = re.compile(r"\{([A-Za-z]+)(?:\.hex)?\}")
_STRING_TAGS = {"directory": der.UTF8_STRING, "printable": der.PRINTABLE_STRING, "ia5": der.IA5_STRING}
_SAN = der.oid(OID_SUBJECT_ALT_NAME)


@dataclass(frozen=True, slots=True)
class _Wishes:
    """What is asked for, each as DER."""

    #: Elements of CsrAttrs for older clients.
    key_hints: tuple[bytes, ...] = ()
    #: Content of subjectPKInfo, empty for no requirement.
    key: bytes = b""
    #: Subject attributes by short name with the text they must have; ``None`` for any.
    subject: tuple[tuple[str, str | None], ...] = ()
    #: Complete Extensions.
    extensions: tuple[bytes, ...] = ()
    #: ExtensionTemplate of a subjectAltName that the client completes; empty for none.
    open_names: bytes = b""


def encode_csrattrs(profile: Profile, subject_wanted: Collection[str] = ()) -> bytes | None:
    """DER CsrAttrs for ``profile``; ``None`` where there is nothing to say.

    ``subject_wanted`` are short names of subject attributes that a rule outside the profile needs in the request.
    """
    hints, key = _key(profile.key_types)
    names, open_names = _alternative_names(profile)
    extensions = (*names, *_usages(profile))
    wishes = _Wishes(hints, key, _subject(profile, subject_wanted), extensions, open_names)
    if wishes == _Wishes():
        return None
    return der.sequence(*_for_older_clients(wishes), _template(wishes))


def _for_older_clients(wishes: _Wishes) -> Iterable[bytes]:
    yield from wishes.key_hints
    for short, _ in wishes.subject:
        yield der.oid(SUBJECT_ATTRIBUTES[short][0])
    if wishes.open_names:
        yield _SAN
    if wishes.extensions:
        yield _attribute(_EXTENSION_REQUEST, der.sequence(*wishes.extensions))


def _template(wishes: _Wishes) -> bytes:
    """The attribute with one CertificationRequestInfoTemplate: version, subject, [0] key, [1] attributes."""
    parts = [der.integer(0)]
    if wishes.subject:
        parts.append(der.sequence(*(der.set_of([_rdn(short, text)]) for short, text in wishes.subject)))
    if wishes.key:
        parts.append(der.context(0, wishes.key))
    attributes = b""
    if wishes.open_names:  # then all extensions are templates: the two kinds of attribute exclude each other
        attributes = _attribute(_EXTENSION_REQUEST_TEMPLATE, der.sequence(wishes.open_names, *wishes.extensions))
    elif wishes.extensions:
        attributes = _attribute(_EXTENSION_REQUEST, der.sequence(*wishes.extensions))
    return _attribute(_TEMPLATE, der.sequence(*parts, der.context(1, attributes)))


def _attribute(oid: bytes, value: bytes) -> bytes:
    return der.sequence(oid, der.set_of([value]))


def _rdn(short: str, text: str | None) -> bytes:
    oid, _, kind = SUBJECT_ATTRIBUTES[short]
    return der.sequence(der.oid(oid), b"" if text is None else der.tlv(_STRING_TAGS[kind], text.encode()))


def _key(key_types: frozenset[str]) -> tuple[tuple[bytes, ...], bytes]:
    """Hints for older clients, and the content of subjectPKInfo."""
    if all(kind.startswith("rsa") for kind in key_types):
        algorithm = der.sequence(_RSA, der.null())
        size = _RSA_SIZE.fullmatch(next(iter(key_types))) if len(key_types) == 1 else None
        if size is None:
            return (_RSA, _RSA_SHA256), algorithm
        bits = int(size[1])
        modulus = (1 << bits) - 1  # a placeholder of that length, no key
        placeholder = der.bit_string(der.sequence(der.integer(modulus), der.integer(_RSA_EXPONENT)))
        return (_attribute(_RSA, der.integer(bits)), _RSA_SHA256), algorithm + placeholder
    if key_types <= _CURVES.keys():
        if len(key_types) > 1:
            return (_EC,), b""
        curve, signature = _CURVES[next(iter(key_types))]
        return (_attribute(_EC, curve), signature), der.sequence(_EC, curve)
    if len(key_types) == 1 and (other := _OTHERS.get(next(iter(key_types)))) is not None:
        return (other,), der.sequence(other)
    return (), b""


def _placeholders(templates: Iterable[str]) -> list[str]:
    return [name for text in templates for name in _PLACEHOLDER.findall(text)]


def _subject(profile: Profile, wanted: Collection[str]) -> tuple[tuple[str, str | None], ...]:
    """In the order of the profile; no attribute that is to be filled in stands twice."""
    found: dict[tuple[str, str | None], None] = {}
    for text in profile.subject_template:
        short, _, value = text.partition("=")
        names = _placeholders([value])
        if names:  # written by the profile from what these attributes say
            found.update(((name, None), None) for name in names if name in SUBJECT_ATTRIBUTES)
        else:
            found[short, value] = None
    if not profile.subject_template:
        found.update(((name, None), None) for name in profile.subject_required)
    needed = (*wanted, *_placeholders(profile.san_template))
    found.update(((name, None), None) for name in needed if name in SUBJECT_ATTRIBUTES)
    return tuple(found)


def _alternative_names(profile: Profile) -> tuple[tuple[bytes, ...], bytes]:
    """A complete subjectAltName (or none), and one to be completed (or nothing)."""
    made = {text.partition(":")[0] for text in profile.san_template}
    kinds = set(profile.san_required) | {
        name for name in _placeholders((*profile.subject_template, *profile.san_template)) if name not in SUBJECT_ATTRIBUTES
    }
    kinds -= made
    choice = profile.san_required_any if profile.san_required_any.isdisjoint(made | kinds) else frozenset()
    # Names that the profile adds itself are shown only where a request that brings them is not refused.
    fixed = [
        general_name(san_from_text(text), wildcards=profile.san_wildcards)
        for text in profile.san_template
        if not _placeholders([text]) and text.partition(":")[0] in profile.san_allowed
    ]
    if choice or not kinds <= _EMPTY_NAMES.keys():
        return (), der.sequence(_SAN)
    names = [*fixed, *(_EMPTY_NAMES[kind] for kind in sorted(kinds))]
    if not names:
        return (), b""
    encoded = extension(OID_SUBJECT_ALT_NAME, der.sequence(*names))
    return ((), encoded) if kinds else ((encoded,), b"")


def _usages(profile: Profile) -> Sequence[bytes]:
    found = []
    usages = {
        profile.key_usage + {"rsa": profile.key_usage_rsa, "ec": profile.key_usage_ec}.get(key_group(kind), ())
        for kind in profile.key_types
    }
    if len(usages) == 1 and (usage := usages.pop()):
        found.append(key_usage(usage))
    if profile.extended_key_usage:
        found.append(extended_key_usage(profile.extended_key_usage))
    return found

"""Certificate extensions as DER (RFC 5280 section 4.2), and the rules for the names in them. Pure.

Each function returns one complete ``Extension`` SEQUENCE. What a profile, a CA and its publication points decide alone is put
together once by :func:`fixed_extensions` and kept; names and key identifier of a request are added by the caller.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509

from gateway.errors import Forbidden, MalformedRequest
from gateway.pki import der
from gateway.pki.profiles import EXTENDED_KEY_USAGES, KEY_USAGE_BITS, Profile
from gateway.pki.sans import ON_HARDWARE_MODULE_NAME, ON_PERMANENT_IDENTIFIER, ON_USER_PRINCIPAL_NAME, san_to_text

OID_SUBJECT_KEY_IDENTIFIER = "2.5.29.14"
OID_KEY_USAGE = "2.5.29.15"
OID_SUBJECT_ALT_NAME = "2.5.29.17"
OID_BASIC_CONSTRAINTS = "2.5.29.19"
OID_CRL_DISTRIBUTION_POINTS = "2.5.29.31"
OID_CERTIFICATE_POLICIES = "2.5.29.32"
OID_AUTHORITY_KEY_IDENTIFIER = "2.5.29.35"
OID_EXTENDED_KEY_USAGE = "2.5.29.37"
OID_FRESHEST_CRL = "2.5.29.46"
OID_AUTHORITY_INFO_ACCESS = "1.3.6.1.5.5.7.1.1"
OID_OCSP_NOCHECK = "1.3.6.1.5.5.7.48.1.5"
_AD_OCSP = "1.3.6.1.5.5.7.48.1"
_AD_CA_ISSUERS = "1.3.6.1.5.5.7.48.2"

#: otherName types the profiles know: RFC 4108 section 5, RFC 4043, Microsoft userPrincipalName.
OTHER_NAMES = {ON_HARDWARE_MODULE_NAME: "HMN", ON_PERMANENT_IDENTIFIER: "PID", ON_USER_PRINCIPAL_NAME: "UPN"}

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DNS_NAME = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
#: RFC 3986: a scheme, a colon, and only characters that may stand in a URI.
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!#$%&'()*+,/0-9:;=?@A-Z\[\]_a-z~.-]+")
_MAILBOX = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}@(.+)")
MAX_DNS_NAME = 253
MAX_URI = 2048


@dataclass(frozen=True, slots=True)
class Publication:
    """Where the world finds this CA's status and certificate; each tuple in order of preference, URLs as ASCII text."""

    crl_urls: tuple[str, ...] = ()
    delta_crl_urls: tuple[str, ...] = ()
    ocsp_urls: tuple[str, ...] = ()
    issuer_urls: tuple[str, ...] = ()


def extension(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    """An Extension; ``value`` is the DER that extnValue wraps. ``critical`` FALSE is the default and thus not written."""
    return der.tlv(0x30, der.oid(oid), b"\x01\x01\xff" if critical else b"", der.tlv(0x04, value))


def named_bits(numbers: Iterable[int]) -> bytes:
    """A named bit list: BIT STRING without trailing zero bits (X.690 section 11.2.2)."""
    bits = 0
    highest = -1
    for number in numbers:
        bits |= 1 << number
        highest = max(highest, number)
    if highest < 0:
        return b"\x03\x01\x00"
    length = highest // 8 + 1
    content = bytes(sum(0x80 >> i for i in range(8) if bits >> (8 * octet + i) & 1) for octet in range(length))
    return der.tlv(0x03, bytes((length * 8 - 1 - highest,)), content)


def key_usage(names: Iterable[str]) -> bytes:
    return extension(OID_KEY_USAGE, named_bits(KEY_USAGE_BITS[name] for name in names), critical=True)


def extended_key_usage(names: Iterable[str]) -> bytes:
    oids = (der.oid(EXTENDED_KEY_USAGES.get(name, name)) for name in names)
    return extension(OID_EXTENDED_KEY_USAGE, der.tlv(0x30, *oids))


def authority_key_identifier(key_identifier: bytes) -> bytes:
    return extension(OID_AUTHORITY_KEY_IDENTIFIER, der.tlv(0x30, der.tlv(0x80, key_identifier)))


def key_identifier(key_bits: bytes) -> bytes:
    """RFC 7093 method 1: the leftmost 160 bits of SHA-256 over the subjectPublicKey bits.

    It has the size of the usual SHA-1 identifier, so nobody notices, and is computed where SHA-1 is switched off (FIPS).
    """
    return hashlib.sha256(key_bits).digest()[:20]


def subject_key_identifier(identifier: bytes) -> bytes:
    return _SKI_HEAD + identifier


_SKI_HEAD = bytes.fromhex("301d0603551d0e04160414")  # Extension holding an OCTET STRING of 20 bytes in its extnValue


def distribution_points(oid: str, urls: tuple[str, ...]) -> bytes:
    """cRLDistributionPoints or freshestCRL: one point, whose URLs all give the same list (RFC 5280 section 4.2.1.13)."""
    names = b"".join(der.tlv(0x86, url.encode("ascii")) for url in urls)
    return extension(oid, der.tlv(0x30, der.tlv(0x30, der.tlv(0xA0, der.tlv(0xA0, names)))))


def authority_info_access(publication: Publication) -> bytes:
    access = [(_AD_OCSP, url) for url in publication.ocsp_urls]
    access += [(_AD_CA_ISSUERS, url) for url in publication.issuer_urls]
    descriptions = (der.tlv(0x30, der.oid(method), der.tlv(0x86, url.encode("ascii"))) for method, url in access)
    return extension(OID_AUTHORITY_INFO_ACCESS, der.tlv(0x30, *descriptions))


def subject_alt_name(names: Iterable[bytes], *, critical: bool) -> bytes:
    """``names`` are encoded GeneralNames. Critical when the subject is empty (RFC 5280 section 4.2.1.6)."""
    return extension(OID_SUBJECT_ALT_NAME, der.tlv(0x30, *names), critical=critical)


@lru_cache(maxsize=256)
def fixed_extensions(
    profile: Profile,
    group: str,
    authority_key: bytes,
    publication: Publication,
) -> bytes:
    """All extensions that do not depend on the request, concatenated. ``group`` is the key group: rsa, ec or sign."""
    usages = profile.key_usage
    if group == "rsa":
        usages += profile.key_usage_rsa
    elif group == "ec":
        usages += profile.key_usage_ec
    parts = [authority_key_identifier(authority_key)]
    if usages:
        parts.append(key_usage(usages))
    if profile.extended_key_usage:
        parts.append(extended_key_usage(profile.extended_key_usage))
    if profile.basic_constraints:
        parts.append(extension(OID_BASIC_CONSTRAINTS, b"\x30\x00", critical=True))
    if profile.policies:
        policies = (der.tlv(0x30, der.oid(policy)) for policy in profile.policies)
        parts.append(extension(OID_CERTIFICATE_POLICIES, der.tlv(0x30, *policies)))
    if profile.publication:
        if publication.crl_urls:
            parts.append(distribution_points(OID_CRL_DISTRIBUTION_POINTS, publication.crl_urls))
        if publication.delta_crl_urls:
            parts.append(distribution_points(OID_FRESHEST_CRL, publication.delta_crl_urls))
        if publication.ocsp_urls or publication.issuer_urls:
            parts.append(authority_info_access(publication))
    if profile.ocsp_nocheck:
        parts.append(extension(OID_OCSP_NOCHECK, b"\x05\x00"))
    return b"".join(parts)


def kind_of(name: x509.GeneralName) -> str:
    """The SAN kind of ``name`` as profiles spell it, or the name of its type where profiles know none."""
    if isinstance(name, x509.OtherName):
        return OTHER_NAMES.get(name.type_id, f"otherName {name.type_id.dotted_string}")
    return _KINDS.get(type(name), type(name).__name__)


_KINDS: dict[type, str] = {
    x509.DNSName: "DNS",
    x509.IPAddress: "IP",
    x509.UniformResourceIdentifier: "URI",
    x509.RFC822Name: "email",
}


def general_name(name: x509.GeneralName, *, wildcards: bool = False) -> bytes:
    """A GeneralName as DER, after checking that it is one a certificate may carry. Raises MalformedRequest or Forbidden."""
    if isinstance(name, x509.DNSName):
        check_dns_name(name.value, wildcards=wildcards)
        return der.tlv(0x82, name.value.encode("ascii"))
    if isinstance(name, x509.IPAddress):
        if not isinstance(name.value, ipaddress.IPv4Address | ipaddress.IPv6Address):
            raise MalformedRequest(f"an address in a subjectAltName must be one host, not the network {name.value}")
        return der.tlv(0x87, name.value.packed)
    if isinstance(name, x509.UniformResourceIdentifier):
        if len(name.value) > MAX_URI or not _URI.fullmatch(name.value):
            raise MalformedRequest(f"not an absolute URI: {name.value[:80]!r}")
        return der.tlv(0x86, name.value.encode("ascii"))
    if isinstance(name, x509.RFC822Name):
        mailbox = _MAILBOX.fullmatch(name.value)
        if mailbox is None:
            raise MalformedRequest(f"not an e-mail address: {name.value[:80]!r}")
        check_dns_name(mailbox[1], wildcards=False)
        return der.tlv(0x81, name.value.encode("ascii"))
    if isinstance(name, x509.OtherName) and name.type_id in OTHER_NAMES:
        if san_to_text(name).startswith("other:"):
            raise MalformedRequest(f"the content of a name of type {kind_of(name)} is not what its type says")
        return der.tlv(0xA0, der.oid(name.type_id.dotted_string), der.tlv(0xA0, name.value))
    raise Forbidden(f"names of type {kind_of(name)} are not issued here")


def check_dns_name(text: str, *, wildcards: bool) -> None:
    """Letters, digits, hyphens; labels up to 63, the name up to 253 characters (RFC 1034 section 3.5, RFC 1123 section 2.1).

    Raises MalformedRequest, or Forbidden for a wildcard where the profile allows none. A wildcard is the whole leftmost label,
    with at least two more labels (RFC 9525 section 6.3).
    """
    if len(text) > MAX_DNS_NAME or not _DNS_NAME.fullmatch(text):
        raise MalformedRequest(f"not a DNS name: {text[:80]!r}")
    if text.rpartition(".")[2].isdigit():
        raise MalformedRequest(f"an address is not a DNS name: {text!r}; use an iPAddress name")
    if text[0] == "*":
        if not wildcards:
            raise Forbidden(f"this profile allows no wildcard such as {text!r}")
        if text.count(".") < 2:
            raise MalformedRequest(f"a wildcard needs two labels behind it: {text!r}")


def copied_extensions(profile: Profile, requested: Iterable[x509.Extension[x509.ExtensionType]]) -> bytes:
    """The requested extensions that the profile copies, unchanged; others are left out silently, as RFC 5280 CAs do.

    Raises MalformedRequest for a repeated one.
    """
    parts: list[bytes] = []
    seen: set[str] = set()
    for requested_extension in requested:
        oid = requested_extension.oid.dotted_string
        if oid not in profile.copy_extensions:
            continue
        if oid in seen:
            raise MalformedRequest(f"the extension {oid} is requested twice")
        seen.add(oid)
        value = requested_extension.value.public_bytes()
        parts.append(extension(oid, value, critical=requested_extension.critical))
    return b"".join(parts)

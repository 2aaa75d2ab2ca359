"""Profiles: what goes into a certificate, as data. Pure.

A profile says which names it takes from the request and which it makes itself, which keys it accepts, and which extensions
the certificate carries; :mod:`gateway.pki.tbs` turns it into bytes and :mod:`gateway.pki.lint` checks the result against it.
Who may ask for a profile is policy and not written here. Sources: RFC 5280 (all), IEEE 802.1AR-2018 clause 8 (idevid, ldevid),
OPC 10000-6 section 6.2.2 (opcua-application), RFC 6960 section 4.2.2.2 (ocsp-responder), RFC 7030 section 3.7 (station).

A configuration table may use every field name of :class:`Profile` as a key, except ``name``; ``base`` names the builtin
profile that supplies the rest.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from gateway.errors import ConfigError
from gateway.pki.keycheck import MAX_RSA_BITS, MIN_RSA_BITS

#: Key types by name, as :func:`gateway.pki.keycheck.key_type` says them; of the RSA sizes the usual ones.
ALL_KEY_TYPES = frozenset(
    {
        "rsa-2048",
        "rsa-3072",
        "rsa-4096",
        "rsa-8192",
        "p-256",
        "p-384",
        "p-521",
        "brainpoolp256r1",
        "brainpoolp384r1",
        "brainpoolp512r1",
        "ed25519",
        "ml-dsa-44",
        "ml-dsa-65",
        "ml-dsa-87",
    }
)
#: What a profile takes that does not say otherwise: everything the gateway accepts, RSA of 2048 to 8192 bits.
COMMON_KEY_TYPES = frozenset(kind for kind in ALL_KEY_TYPES if not kind.startswith("rsa-")) | {"rsa>=2048"}

#: RFC 5280 section 4.2.1.3, by bit number.
KEY_USAGE_BITS = {
    "digitalSignature": 0,
    "nonRepudiation": 1,
    "keyEncipherment": 2,
    "dataEncipherment": 3,
    "keyAgreement": 4,
}
#: Names accepted for an extended key usage; a dotted OID is accepted as well.
EXTENDED_KEY_USAGES = {
    "serverAuth": "1.3.6.1.5.5.7.3.1",
    "clientAuth": "1.3.6.1.5.5.7.3.2",
    "codeSigning": "1.3.6.1.5.5.7.3.3",
    "emailProtection": "1.3.6.1.5.5.7.3.4",
    "timeStamping": "1.3.6.1.5.5.7.3.8",
    "OCSPSigning": "1.3.6.1.5.5.7.3.9",
    "eapOverLAN": "1.3.6.1.5.5.7.3.14",
    "cmcRA": "1.3.6.1.5.5.7.3.28",
}
#: Extensions whose content the profile decides by its own fields; they are never copied from a request.
OWN_EXTENSIONS = frozenset(
    {
        "2.5.29.14",  # subjectKeyIdentifier
        "2.5.29.15",  # keyUsage
        "2.5.29.17",  # subjectAltName
        "2.5.29.19",  # basicConstraints
        "2.5.29.30",  # nameConstraints: only for CAs
        "2.5.29.31",  # cRLDistributionPoints
        "2.5.29.32",  # certificatePolicies
        "2.5.29.35",  # authorityKeyIdentifier
        "2.5.29.37",  # extKeyUsage
        "2.5.29.46",  # freshestCRL
        "1.3.6.1.5.5.7.1.1",  # authorityInfoAccess
        "1.3.6.1.5.5.7.48.1.5",  # id-pkix-ocsp-nocheck
    }
)
SAN_KINDS = frozenset({"DNS", "IP", "URI", "email", "HMN", "PID", "UPN"})
#: Subject attribute types by short name: OID, upper bound in characters (RFC 5280 appendix A.1, RFC 4519), string type. The
#: type is "directory" (PrintableString or UTF8String as the requester chose), "printable" or "ia5".
SUBJECT_ATTRIBUTES: dict[str, tuple[str, int, str]] = {
    "CN": ("2.5.4.3", 64, "directory"),
    "SN": ("2.5.4.4", 32768, "directory"),
    "serialNumber": ("2.5.4.5", 64, "printable"),
    "C": ("2.5.4.6", 2, "printable"),
    "L": ("2.5.4.7", 128, "directory"),
    "ST": ("2.5.4.8", 128, "directory"),
    "street": ("2.5.4.9", 128, "directory"),
    "O": ("2.5.4.10", 64, "directory"),
    "OU": ("2.5.4.11", 64, "directory"),
    "title": ("2.5.4.12", 64, "directory"),
    "postalCode": ("2.5.4.17", 40, "directory"),
    "GN": ("2.5.4.42", 32768, "directory"),
    "dnQualifier": ("2.5.4.46", 64, "printable"),
    "pseudonym": ("2.5.4.65", 128, "directory"),
    "organizationIdentifier": ("2.5.4.97", 256, "directory"),
    "UID": ("0.9.2342.19200300.100.1.1", 256, "directory"),
    "DC": ("0.9.2342.19200300.100.1.25", 63, "ia5"),
    "emailAddress": ("1.2.840.113549.1.9.1", 255, "ia5"),
}
_COMMON_SUBJECT = ("CN", "O", "OU", "C", "ST", "L", "serialNumber", "DC", "UID")

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400, "y": 31_557_600}  # a year of 365.25 days
NO_WELL_DEFINED_EXPIRY = "no-well-defined-expiry"
_DURATION = re.compile(r"(\d{1,9})([smhdwy])")
_OID = re.compile(r"[0-2](\.(0|[1-9]\d{0,38})){1,40}")
#: An RSA size of one's own, or a lowest one; see :func:`gateway.pki.keycheck.is_allowed`.
_RSA_SIZE = re.compile(r"rsa(?:-|>=)([1-9]\d{3,4})")
_PLACEHOLDER = re.compile(r"\{([A-Za-z]+)(?:\.hex)?\}")


@dataclass(frozen=True, slots=True)
class Profile:
    """What goes into a certificate.

    ``subject_template`` and ``san_template`` are texts like ``O=Acme``, ``CN=plc-{serialNumber}`` or
    ``HMN:1.3.6.1.4.1.32473.1:{serialNumber.hex}``. A placeholder is a subject attribute's short name or a SAN kind of the
    request (its first value); ``.hex`` writes the value's UTF-8 bytes as hex. A profile cannot carry a certificate authority.
    """

    name: str
    description: str = ""
    #: Attribute short names a requester may put into the subject; empty with a template means the template alone decides.
    subject_allowed: tuple[str, ...] = _COMMON_SUBJECT
    subject_required: tuple[str, ...] = ()
    #: When not empty, the subject is made of these ``name=text`` RDNs instead of being taken from the request.
    subject_template: tuple[str, ...] = ()
    subject_may_be_empty: bool = False
    #: SAN kinds (see :data:`SAN_KINDS`) copied from the request; any other kind in the request is refused.
    san_allowed: frozenset[str] = frozenset()
    #: Kinds of which the certificate must carry at least one each.
    san_required: frozenset[str] = frozenset()
    #: Kinds of which the certificate must carry at least one together; empty for no such rule.
    san_required_any: frozenset[str] = frozenset()
    #: Names added always, unless the request has the very same one.
    san_template: tuple[str, ...] = ()
    #: Names used when the request asks for none.
    san_default: tuple[str, ...] = ()
    san_wildcards: bool = False
    san_limit: int = 64
    key_types: frozenset[str] = COMMON_KEY_TYPES
    key_usage: tuple[str, ...] = ("digitalSignature",)
    #: Added for keys that can encipher (RSA), RFC 4055 section 3.
    key_usage_rsa: tuple[str, ...] = ()
    #: Added for keys that can agree (elliptic curves except Ed25519), RFC 5480 section 3.
    key_usage_ec: tuple[str, ...] = ()
    extended_key_usage: tuple[str, ...] = ()
    #: Seconds, capped by the CA's own notAfter; ``None`` means 99991231235959Z (RFC 5280 section 4.1.2.5), which is not capped:
    #: IEEE 802.1AR clause 8.7 wants an IDevID to live as long as its device, and thus longer than the CA that made it.
    validity: int | None = 365 * 86_400
    #: Seconds notBefore lies in the past, for devices whose clock is slow.
    backdate: int = 300
    #: Whether an (empty, critical) basicConstraints is written: it says "not a CA" to those who only look there.
    basic_constraints: bool = True
    #: IEEE 802.1AR clause 8.10.2 does not recommend subjectKeyIdentifier in an IDevID.
    subject_key_identifier: bool = True
    #: Policy OIDs for certificatePolicies.
    policies: tuple[str, ...] = ()
    #: Whether the certificate says where its CRL, OCSP responder and issuer are.
    publication: bool = True
    #: id-pkix-ocsp-nocheck: nobody asks for the status of this certificate, so it is short-lived.
    ocsp_nocheck: bool = False
    #: OIDs of requested extensions copied as they are, critical flag included.
    copy_extensions: frozenset[str] = frozenset()
    #: Additional rules of :mod:`gateway.pki.subjects` for the names: "idevid", "opcua" or nothing.
    rules: str = ""
    _hash: int = field(init=False, compare=False, repr=False, default=0)

    def __post_init__(self) -> None:
        # A profile is the key of the extension cache on the hot path: hashing 25 fields there costs more than the lookup.
        values = tuple(getattr(self, item.name) for item in fields(self) if item.compare)
        object.__setattr__(self, "_hash", hash(values))

    def __hash__(self) -> int:
        return self._hash

    def check(self) -> None:
        """Raise ConfigError unless every name in the profile is known and the rules can be met together."""
        self._check_names()
        for policy in (*self.policies, *self.copy_extensions):
            if not _OID.fullmatch(policy):
                raise ConfigError(f"profile {self.name}: {policy!r} is not an object identifier")
        for oid in self.copy_extensions & OWN_EXTENSIONS:
            raise ConfigError(f"profile {self.name}: the extension {oid} is decided by the profile and cannot be copied")
        for usage in self.extended_key_usage:
            if usage not in EXTENDED_KEY_USAGES and not _OID.fullmatch(usage):
                raise ConfigError(f"profile {self.name}: {usage!r} is not a known extended key usage")
        if not self.key_types:
            raise ConfigError(f"profile {self.name}: no key type is allowed")
        if self.validity is not None and self.validity <= 0:
            raise ConfigError(f"profile {self.name}: validity must be positive")
        if not 0 <= self.backdate <= 7 * 86_400:
            raise ConfigError(f"profile {self.name}: backdate must lie between 0 and 7 days")
        self._check_templates()

    def _check_templates(self) -> None:
        for text in self.subject_template:
            name, equals, _ = text.partition("=")
            if not equals or name not in SUBJECT_ATTRIBUTES:
                raise ConfigError(f"profile {self.name}: {text!r} is not attribute=text with a known attribute")
        for text in (*self.san_template, *self.san_default):
            if text.partition(":")[0] not in SAN_KINDS:
                raise ConfigError(f"profile {self.name}: {text!r} does not begin with one of {_listed(SAN_KINDS)}")
        for text in (*self.subject_template, *self.san_template, *self.san_default):
            for match in _PLACEHOLDER.finditer(text):
                _known(self.name, "placeholder", (match[1],), SUBJECT_ATTRIBUTES.keys() | SAN_KINDS)
            if "{" in _PLACEHOLDER.sub("", text) or "}" in _PLACEHOLDER.sub("", text):
                raise ConfigError(f"profile {self.name}: unbalanced or unknown placeholder in {text!r}")

    def _check_names(self) -> None:
        attributes = SUBJECT_ATTRIBUTES.keys()
        _known(self.name, "subject attribute", (*self.subject_allowed, *self.subject_required), attributes)
        _known(self.name, "SAN kind", (*self.san_allowed, *self.san_required, *self.san_required_any), SAN_KINDS)
        for kind in self.key_types:
            size = _RSA_SIZE.fullmatch(kind)
            if size is None:
                _known(self.name, "key type", (kind,), ALL_KEY_TYPES)
            elif not MIN_RSA_BITS <= int(size[1]) <= MAX_RSA_BITS:
                raise ConfigError(f"profile {self.name}: RSA keys have {MIN_RSA_BITS} to {MAX_RSA_BITS} bits, not {kind!r}")
        usages = (*self.key_usage, *self.key_usage_rsa, *self.key_usage_ec)
        _known(self.name, "key usage", usages, KEY_USAGE_BITS.keys())
        _known(self.name, "rule set", (self.rules,), {"", "idevid", "opcua"})
        if not {"keyEncipherment", "dataEncipherment", "keyAgreement"}.isdisjoint(self.key_usage):
            raise ConfigError(f"profile {self.name}: usages of one key type belong into key_usage_rsa or key_usage_ec")
        if not {"keyEncipherment", "dataEncipherment"}.isdisjoint(self.key_usage_ec) or "keyAgreement" in self.key_usage_rsa:
            raise ConfigError(f"profile {self.name}: a key usage does not fit its key type")


def _listed(names: frozenset[str] | set[str]) -> str:
    return ", ".join(sorted(names))


def _known(profile: str, what: str, given: tuple[str, ...] | frozenset[str], known: object) -> None:
    known_names = set(known)  # type: ignore[call-overload]
    for name in given:
        if name not in known_names:
            raise ConfigError(f"profile {profile}: unknown {what} {name!r}; known are {_listed(known_names)}")


def parse_duration(text: str) -> int:
    """Seconds of ``90s``, ``15m``, ``12h``, ``30d``, ``8w`` or ``2y`` (years of 365.25 days). Raises ConfigError."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ConfigError(f"{text!r} is not a duration such as 12h, 30d or 2y")
    return int(match[1]) * _UNITS_S[match[2]]


_BUILTIN = (
    Profile(
        name="idevid",
        description="IEEE 802.1AR initial device identity: for the life of the device",
        subject_required=("serialNumber",),
        san_allowed=frozenset({"HMN", "PID", "URI"}),
        validity=None,
        basic_constraints=False,
        subject_key_identifier=False,
        rules="idevid",
    ),
    Profile(
        name="ldevid",
        description="IEEE 802.1AR local device identity: a device of this site, as client",
        subject_allowed=(*_COMMON_SUBJECT, "emailAddress"),
        san_allowed=frozenset({"DNS", "IP", "URI", "email", "HMN", "PID", "UPN"}),
        extended_key_usage=("clientAuth",),
    ),
    Profile(
        name="tls-server",
        description="TLS server, by DNS name or address",
        san_allowed=frozenset({"DNS", "IP"}),
        san_required_any=frozenset({"DNS", "IP"}),
        san_default=("DNS:{CN}",),
        subject_may_be_empty=True,
        key_usage_rsa=("keyEncipherment",),
        extended_key_usage=("serverAuth",),
        validity=90 * 86_400,
    ),
    Profile(
        name="tls-client",
        description="TLS client",
        subject_allowed=(*_COMMON_SUBJECT, "emailAddress"),
        san_allowed=frozenset({"DNS", "IP", "URI", "email", "UPN"}),
        extended_key_usage=("clientAuth",),
    ),
    Profile(
        name="opcua-application",
        description="OPC UA application instance (OPC 10000-6 section 6.2.2)",
        subject_required=("CN", "O"),
        san_allowed=frozenset({"URI", "DNS", "IP"}),
        san_required=frozenset({"URI"}),
        san_required_any=frozenset({"DNS", "IP"}),
        key_types=COMMON_KEY_TYPES - {"ml-dsa-44", "ml-dsa-65", "ml-dsa-87", "p-521", "brainpoolp512r1"},
        key_usage=("digitalSignature", "nonRepudiation"),
        key_usage_rsa=("keyEncipherment", "dataEncipherment"),
        extended_key_usage=("serverAuth", "clientAuth"),
        rules="opcua",
    ),
    Profile(
        name="ocsp-responder",
        description="delegated OCSP responder of this gateway (RFC 6960 section 4.2.2.2)",
        extended_key_usage=("OCSPSigning",),
        validity=7 * 86_400,
        publication=False,
        ocsp_nocheck=True,
    ),
    Profile(
        name="radius-server",
        description="RADIUS server for EAP-TLS (RFC 5216 section 5.3)",
        subject_required=("CN",),
        san_allowed=frozenset({"DNS"}),
        san_required=frozenset({"DNS"}),
        san_default=("DNS:{CN}",),
        key_usage_rsa=("keyEncipherment",),
        extended_key_usage=("serverAuth",),
    ),
    Profile(
        name="station",
        description="production station that acts as registration authority (RFC 7030 section 3.7)",
        subject_required=("CN",),
        san_allowed=frozenset({"DNS", "IP"}),
        extended_key_usage=("clientAuth", "cmcRA"),
        validity=30 * 86_400,
    ),
)
BUILTIN_PROFILES: dict[str, Profile] = {profile.name: profile for profile in _BUILTIN}


def profile_from_table(name: str, table: Mapping[str, object]) -> Profile:
    """The profile a configuration table describes.

    ``base`` names the builtin profile whose fields apply where the table is silent; without it, that is the builtin one of the
    same name if there is one. Durations (``validity``, ``backdate``) are seconds or texts as :func:`parse_duration` reads
    them; ``validity`` may be ``no-well-defined-expiry``. Raises ConfigError naming the profile and the key.
    """
    values = dict(table)
    base_name = values.pop("base", name if name in BUILTIN_PROFILES else None)
    if base_name is None:
        base = Profile(name=name)
    elif isinstance(base_name, str) and base_name in BUILTIN_PROFILES:
        base = replace(BUILTIN_PROFILES[base_name], name=name)
    else:
        raise ConfigError(f"profile {name}: base must be one of {_listed(set(BUILTIN_PROFILES))}")
    defaults = {item.name: getattr(base, item.name) for item in fields(base) if item.init and item.name != "name"}
    for key, value in values.items():
        if key not in defaults:
            raise ConfigError(f"profile {name}: unknown key {key!r}; known are base, {_listed(set(defaults))}")
        defaults[key] = _field_value(f"profile {name}: {key}", key, defaults[key], value)
    profile = Profile(name=name, **defaults)
    profile.check()
    return profile


def _field_value(where: str, key: str, default: object, value: object) -> object:
    """``value`` from TOML as the type the field has."""
    if key in ("validity", "backdate"):
        if key == "validity" and value == NO_WELL_DEFINED_EXPIRY:
            return None
        if isinstance(value, str):
            return parse_duration(value)
        default = 0
    if isinstance(default, tuple | frozenset):
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise ConfigError(f"{where} must be a list of texts")
        return type(default)(value)
    if type(value) is not type(default):
        raise ConfigError(f"{where} must be of type {type(default).__name__}")
    return value

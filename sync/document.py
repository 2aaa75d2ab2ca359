"""What central desires of one gateway: the document's parts, to and from canonical JSON; docs/SYNC.md has the table. Pure.

Reading is strict: a document with a key, format or command that this version does not know is refused as a whole, because what
is silently left out may be a limit. Certificates and requests stay the texts that arrived until somebody asks for them;
:meth:`Desired.check` reads every one, and nothing is applied before it has.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass, field
from typing import Final, TypeAlias, TypeVar, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.authority.policy import ClockDoubt
from gateway.authority.policy_tables import Table
from gateway.errors import MalformedRequest
from gateway.journal.canonical import JsonValue
from gateway.journal.statements import from_json, number_of, text_of, to_json
from gateway.pki.crl import Reason
from gateway.pki.csr import CertificationRequest, read_csr
from gateway.pki.tbs import ca_info

FORMAT: Final = 1
#: Of each list and table in a document.
MOST_ENTRIES: Final = 100_000
#: Characters of a name: of a profile, a label, an allow-list's file.
_MOST_NAME = 255
_COMMAND_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
#: Names under which lists are served and kept; those that begin with a digit are the gateway's own (gateway.authority.parents).
_CRL_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}\.crl")
_SERIAL = re.compile(r"[1-9a-f][0-9a-f]{0,39}")  # at most 20 octets (RFC 5280 section 4.1.2.2)
_DIGEST_OCTETS = 32
_CLOCK_TOLERANCE_S = 300


@dataclass(frozen=True, slots=True)
class PolicyPart:
    """The policy, as tables like those of the configuration file. ``version`` rises when anything of it changes."""

    version: int
    profiles: Mapping[str, Table]
    clock_doubt: str = ClockDoubt.MARK.value
    clock_tolerance_s: int = _CLOCK_TOLERANCE_S
    labels: Mapping[str, str] = field(default_factory=dict)  # EST label -> profile
    default_profile: str = ""  # where the path has no label; empty: as the local file says


@dataclass(frozen=True, slots=True)
class CaCertificate:
    """The certificate for a CA key that the gateway asked for, PEM; ``chain`` begins with its issuer and ends with the root."""

    certificate: str
    chain: tuple[str, ...]

    def ders(self) -> tuple[bytes, ...]:
        """The certificate, then its chain. Raises MalformedRequest."""
        return tuple(der for pem in (self.certificate, *self.chain) for der in _certificates(pem))


@dataclass(frozen=True, slots=True)
class RevokeCommand:
    """Revoke a certificate of the gateway's CA ``generation``; ``certificateHold`` puts it on hold. ``revoked_at`` in ms."""

    id: str
    serial: int
    generation: int
    reason: Reason
    revoked_at: int


@dataclass(frozen=True, slots=True)
class ReleaseCommand:
    """Lift the hold of a certificate."""

    id: str
    serial: int
    generation: int


Command: TypeAlias = RevokeCommand | ReleaseCommand


@dataclass(frozen=True, slots=True)
class Desired:
    """One version of what central desires of the gateway ``origin``. Times in ms UTC by central's clock."""

    origin: str
    version: int
    issued: int
    expires: int = 0  # 0 for no end
    policy: PolicyPart | None = None  # None: the local file counts
    allow_lists: Mapping[str, str] = field(default_factory=dict)  # file name -> its text
    quotas: Mapping[str, int] = field(default_factory=dict)  # profile -> certificates in all
    makers: tuple[str, ...] = ()  # PEM
    blocked_keys: frozenset[bytes] = frozenset()  # SHA-256 of SubjectPublicKeyInfos
    crls: Mapping[str, bytes] = field(default_factory=dict)  # file name -> DER
    trust_lists: JsonValue = None  # opaque, as orders
    orders: JsonValue = None
    ca_certificates: tuple[CaCertificate, ...] = ()
    ocsp_csr: str = ""  # PEM of central's OCSP key; empty: none is to be certified
    bundle_certificate: str = ""  # PEM: to whom bundles are encrypted; empty: to nobody
    commands: tuple[Command, ...] = ()

    def to_bytes(self) -> bytes:
        """The canonical JSON, which is what gets signed. Raises TypeError or ValueError for a table that JSON cannot hold."""
        certified: list[JsonValue] = [
            {"certificate": each.certificate, "chain": list(each.chain)} for each in self.ca_certificates
        ]
        return to_json(
            {
                "format": FORMAT, "origin": self.origin, "version": self.version, "issued": self.issued,
                "expires": self.expires, "policy": policy_to_json(self.policy), "allow_lists": dict(self.allow_lists),
                "quotas": dict(self.quotas), "makers": list(self.makers), "blocked_keys": hex_of(self.blocked_keys),
                "crls": {name: base64.b64encode(der).decode() for name, der in self.crls.items()},
                "trust_lists": self.trust_lists, "orders": self.orders, "ca_certificates": certified,
                "ocsp": {"csr": self.ocsp_csr} if self.ocsp_csr else None, "bundle_certificate": self.bundle_certificate,
                "commands": [_command_to_json(command) for command in self.commands],
            }
        )  # fmt: skip

    @classmethod
    def from_bytes(cls, data: bytes) -> Desired:
        """Raises MalformedRequest naming the key."""
        body = from_json(data)
        if number_of(body, "format") != FORMAT:
            raise MalformedRequest(f"this gateway reads documents of format {FORMAT} only; it needs newer software")
        _only(body, _KEYS, "the document")
        _check_canonical(body, data)
        desired = cls(
            origin=text_of(body, "origin"), version=number_of(body, "version"), issued=number_of(body, "issued"),
            expires=number_of(body, "expires"), policy=_policy_from_json(body.get("policy")),
            allow_lists={_name(key, "allow_lists"): _text(value, f"allow_lists.{key}")
                         for key, value in _table(body, "allow_lists").items()},
            quotas={_name(key, "quotas"): _number(value, f"quotas.{key}") for key, value in _table(body, "quotas").items()},
            makers=tuple(_text(each, "makers") for each in _list(body, "makers")),
            blocked_keys=frozenset(_digest(each) for each in _list(body, "blocked_keys")),
            crls={_crl_name(key): _octets(value, f"crls.{key}") for key, value in _table(body, "crls").items()},
            trust_lists=body.get("trust_lists"), orders=body.get("orders"),
            ca_certificates=tuple(_ca_certificate(each) for each in _list(body, "ca_certificates")),
            ocsp_csr=_ocsp_csr(body.get("ocsp")), bundle_certificate=text_of(body, "bundle_certificate", ""),
            commands=tuple(_command(each) for each in _list(body, "commands")),
        )  # fmt: skip
        if desired.version == 0:
            raise MalformedRequest("version begins with 1")
        if len({command.id for command in desired.commands}) != len(desired.commands):
            raise MalformedRequest("commands: two have the same id")
        return desired

    def maker_certificates(self) -> tuple[bytes, ...]:
        """DER of every maker's CA. Raises MalformedRequest."""
        return tuple(der for pem in self.makers for der in _certificates(pem))

    def ocsp_request(self) -> CertificationRequest | None:
        """Central's OCSP key, with its proof of possession. Raises RequestError."""
        if not self.ocsp_csr:
            return None
        try:
            request = x509.load_pem_x509_csr(self.ocsp_csr.encode())
        except ValueError as error:
            raise MalformedRequest("ocsp.csr is no PEM certification request") from error
        return read_csr(request.public_bytes(Encoding.DER))

    def check(self) -> None:
        """Read every part that is kept as it came. Raises RequestError or OperatorError naming what cannot be read."""
        self.maker_certificates()
        self.ocsp_request()
        if self.bundle_certificate:
            recipient(self.bundle_certificate)
        for each in self.ca_certificates:
            _check_cas(each.ders())
        for name, der in self.crls.items():
            try:
                x509.load_der_x509_crl(der)
            except ValueError as error:
                raise MalformedRequest(f"crls.{name} is no revocation list in DER") from error


# Reading and writing the parts.

_KEYS = frozenset(
    (
        "format", "origin", "version", "issued", "expires", "policy", "allow_lists", "quotas", "makers", "blocked_keys",
        "crls", "trust_lists", "orders", "ca_certificates", "ocsp", "bundle_certificate", "commands",
    )
)  # fmt: skip
_POLICY_KEYS = frozenset({"version", "profiles", "clock_doubt", "clock_tolerance_seconds", "labels", "default_profile"})
_REVOKE_KEYS = frozenset({"id", "do", "serial", "generation", "reason", "revoked_at"})
_RELEASE_KEYS = frozenset({"id", "do", "serial", "generation"})


def recipient(pem: str) -> bytes:
    """DER of the one RSA certificate in ``pem``, to which a bundle can be encrypted. Raises MalformedRequest."""
    found = list(_certificates(pem))
    try:
        if len(found) == 1 and isinstance(x509.load_der_x509_certificate(found[0]).public_key(), RSAPublicKey):
            return found[0]
    except UnsupportedAlgorithm:
        pass
    raise MalformedRequest("bundle_certificate is to be one certificate with an RSA key")


def hex_of(digests: Iterable[bytes]) -> list[JsonValue]:
    return [*sorted(digest.hex() for digest in digests)]


def policy_to_json(policy: PolicyPart | None) -> JsonValue:
    if policy is None:
        return None
    return {
        "version": policy.version,
        "profiles": cast(JsonValue, {name: dict(table) for name, table in policy.profiles.items()}),
        "clock_doubt": policy.clock_doubt,
        "clock_tolerance_seconds": policy.clock_tolerance_s,
        "labels": dict(policy.labels),
        "default_profile": policy.default_profile,
    }


def _policy_from_json(value: JsonValue) -> PolicyPart | None:
    if value is None:
        return None
    table = _as_table(value, "policy")
    _only(table, _POLICY_KEYS, "policy")
    doubt = text_of(table, "clock_doubt", ClockDoubt.MARK.value)
    if doubt not in {each.value for each in ClockDoubt}:
        raise MalformedRequest("policy.clock_doubt must be 'mark' or 'stop'")
    return PolicyPart(
        version=number_of(table, "version"),
        profiles={
            _name(name, "policy.profiles"): _as_table(each, f"policy.profiles.{name}")
            for name, each in _table(table, "profiles").items()
        },
        clock_doubt=doubt,
        clock_tolerance_s=number_of(table, "clock_tolerance_seconds", _CLOCK_TOLERANCE_S),
        labels={
            _name(label, "policy.labels"): _text(profile, f"policy.labels.{label}")
            for label, profile in _table(table, "labels").items()
        },
        default_profile=text_of(table, "default_profile", ""),
    )


def _command_to_json(command: Command) -> JsonValue:
    common: dict[str, JsonValue] = {"id": command.id, "serial": f"{command.serial:x}", "generation": command.generation}
    if isinstance(command, ReleaseCommand):
        return common | {"do": "release"}
    return common | {"do": "revoke", "reason": command.reason.value, "revoked_at": command.revoked_at}


def _command(value: JsonValue) -> Command:
    table = _as_table(value, "commands")
    name = text_of(table, "id")
    if not _COMMAND_ID.fullmatch(name):
        raise MalformedRequest("commands: an id has 1 to 64 letters, digits, '.', '_' and '-'")
    serial = text_of(table, "serial")
    if not _SERIAL.fullmatch(serial):
        raise MalformedRequest(f"commands: serial of {name} must be lower-case hex")
    match text_of(table, "do"):
        case "release":
            _only(table, _RELEASE_KEYS, f"command {name}")
            return ReleaseCommand(name, int(serial, 16), number_of(table, "generation"))
        case "revoke":
            _only(table, _REVOKE_KEYS, f"command {name}")
            reason = text_of(table, "reason")
            if reason not in _REASONS:
                raise MalformedRequest(f"command {name}: {reason[:40]!r} is no reason to revoke")
            return RevokeCommand(
                name, int(serial, 16), number_of(table, "generation"), _REASONS[reason], number_of(table, "revoked_at")
            )
        case other:
            raise MalformedRequest(f"command {name}: this gateway cannot do {other[:40]!r}; it needs newer software")


_REASONS = {reason.value: reason for reason in Reason if reason is not Reason.REMOVE_FROM_CRL}


def _ca_certificate(value: JsonValue) -> CaCertificate:
    table = _as_table(value, "ca_certificates")
    _only(table, frozenset({"certificate", "chain"}), "ca_certificates")
    chain = tuple(_text(each, "ca_certificates.chain") for each in _list(table, "chain"))
    return CaCertificate(text_of(table, "certificate"), chain)


def _ocsp_csr(value: JsonValue) -> str:
    if value is None:
        return ""
    table = _as_table(value, "ocsp")
    _only(table, frozenset({"csr"}), "ocsp")
    return text_of(table, "csr")


def _certificates(pem: str) -> Iterable[bytes]:
    try:
        return [each.public_bytes(Encoding.DER) for each in x509.load_pem_x509_certificates(pem.encode())]
    except ValueError as error:
        raise MalformedRequest(f"not a PEM certificate: {pem[:60]!r}") from error


def _check_cas(certificates: Iterable[bytes]) -> None:
    for der in certificates:
        try:
            ca_info(der)
        except UnsupportedAlgorithm as error:
            raise MalformedRequest("ca_certificates: a key of a type that is not known here") from error


def _check_canonical(body: dict[str, JsonValue], data: bytes) -> None:
    """One spelling only, so that nobody reads another of two equal keys than we do."""
    try:
        canonical = to_json(body) == data
    except (ValueError, RecursionError):  # half a surrogate pair; a number of thousands of digits
        canonical = False
    if not canonical:
        raise MalformedRequest("the document is not in its canonical spelling")


def _only(table: Mapping[str, JsonValue], known: frozenset[str], where: str) -> None:
    unknown = sorted(set(table) - known)
    if unknown:
        names = ", ".join(name[:40] for name in unknown[:5])
        raise MalformedRequest(f"{where} has keys that this gateway does not know: {names}; it needs newer software")


def _as_table(value: JsonValue, where: str) -> dict[str, JsonValue]:
    if not isinstance(value, dict):
        raise MalformedRequest(f"{where} must be an object")
    return value


def _table(body: Mapping[str, JsonValue], key: str) -> dict[str, JsonValue]:
    return _limited(_as_table(body.get(key, {}), key), key)


def _list(body: Mapping[str, JsonValue], key: str) -> list[JsonValue]:
    value = body.get(key, [])
    if not isinstance(value, list):
        raise MalformedRequest(f"{key} must be a list")
    return _limited(value, key)


_Entries = TypeVar("_Entries", bound=Sized)


def _limited(entries: _Entries, key: str) -> _Entries:
    if len(entries) > MOST_ENTRIES:
        raise MalformedRequest(f"{key} has more than {MOST_ENTRIES} entries")
    return entries


def _name(text: str, where: str) -> str:
    if not 0 < len(text) <= _MOST_NAME:
        raise MalformedRequest(f"{where}: a name has 1 to {_MOST_NAME} characters")
    return text


def _crl_name(text: str) -> str:
    if not _CRL_NAME.fullmatch(text):
        raise MalformedRequest(f"crls: {text[:80]!r} cannot be served; a name is like headquarters.crl")
    return text


def _text(value: JsonValue, where: str) -> str:
    if not isinstance(value, str):
        raise MalformedRequest(f"{where} must be a text")
    return value


def _number(value: JsonValue, where: str) -> int:
    return number_of({where: value}, where)


def _octets(value: JsonValue, where: str) -> bytes:
    try:
        return base64.b64decode(_text(value, where), validate=True)
    except binascii.Error as error:
        raise MalformedRequest(f"{where} must be base64") from error


def _digest(value: JsonValue) -> bytes:
    try:
        digest = bytes.fromhex(_text(value, "blocked_keys"))
    except ValueError:
        digest = b""
    if len(digest) != _DIGEST_OCTETS:
        raise MalformedRequest("blocked_keys must be SHA-256 digests in hex")
    return digest

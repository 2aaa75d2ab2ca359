"""The signed papers of one device: its production record, and the hand-over record for a BRSKI MASA. Pure.

A :class:`ProducedDevice` is what the line knows of a finished unit. The papers made from it are JSON Web Signatures by a key of
the line, whose certificate the gateway's CA issued for signing documents (extended key usage id-kp-documentSigning, RFC 9336):
the CA's own key signs certificates and lists only. docs/line/papers.md says what every member means.

Texts that are empty and things that are not known are left out. Times are RFC 3339 in UTC with milliseconds, digests SHA-256 in
lower-case hex.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from gateway.errors import IntegrityError, MalformedRequest
from gateway.pki import der
from gateway.pki.keycheck import key_type
from gateway.pki.names import name_to_text
from provisioning.device import KeyOrigin
from provisioning.jws import Draft, Form, Json, Jws, Part, Party, canonical, read, read_object

#: What a certificate must be for whose key signs papers (RFC 9336 section 2).
DOCUMENT_SIGNING: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.3.36")
#: id-pe-masa-url, an IA5String (RFC 8995 section 2.3.2).
MASA_URL: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.32")
_IA5_STRING: Final = 0x16
#: ``typ`` of RFC 7515 section 4.1.9: a media type without "application/".
RECORD_TYPE: Final = "vnd.edge-gateway.production-record+json"
HANDOVER_TYPE: Final = "vnd.edge-gateway.brski-handover+json"
_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class Step:
    """A state of the unit (:class:`provisioning.station.State`), and when that was durable (UTC milliseconds)."""

    state: str
    at_ms: int


@dataclass(frozen=True, slots=True)
class LabelPrint:
    """One label that was printed; ``reprint`` is 0 for the first, then counts."""

    at_ms: int
    reprint: int
    printer: str


@dataclass(frozen=True, slots=True)
class ProducedDevice:
    """What the line knows of one unit. ``certificate`` is its IDevID in DER, ``chain`` the issuing CA first, the root last."""

    order: str
    product: str
    serial: str  # of the product, not of the certificate
    chip: str
    gateway: str  # origin of its journal
    station: str
    port: str
    key_origin: KeyOrigin
    certificate: bytes
    chain: tuple[bytes, ...]
    steps: tuple[Step, ...]  # in order; a state that was entered again stands again
    software: str  # "edge-gateway 0.1.0"
    uri: str = ""  # ProductInstanceUri and identification link
    manufacturer: str = ""
    model: str = ""
    operator: str = ""
    driver: str = ""
    recipe_digest: bytes = b""  # SHA-256
    evidence_format: str = ""
    evidence_digest: bytes = b""  # SHA-256 of what proves that the key lives in the device
    prints: tuple[LabelPrint, ...] = ()
    facts: Mapping[str, str] = field(default_factory=dict)  # what the device said of itself
    records: tuple[int, ...] = ()  # positions in the gateway's journal
    masa_url: str = ""
    finished_ms: int = 0  # when the line was done with it; none given: when it came into its last state

    def __post_init__(self) -> None:
        if not self.finished_ms and self.steps:
            object.__setattr__(self, "finished_ms", self.steps[-1].at_ms)

    def reached(self, state: str) -> int | None:
        """When the unit came into ``state`` the last time."""
        return next((step.at_ms for step in reversed(self.steps) if step.state.lower() == state), None)


@dataclass(frozen=True, slots=True)
class Particulars:
    """What papers say of a certificate."""

    serial: str  # lower-case hex without leading zeros
    digest: str
    spki_digest: str
    issuer: str
    subject_serial: str  # serialNumber of the subject, empty without
    issuer_key_id: bytes
    not_after: str
    key_type: str
    masa_url: str  # empty without


@lru_cache(maxsize=64)
def particulars(certificate: bytes) -> Particulars:
    """Raises MalformedRequest, BadKey."""
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        key = parsed.public_key()
        extensions = parsed.extensions
    except (ValueError, UnsupportedAlgorithm) as error:
        raise MalformedRequest("the certificate cannot be read") from error
    serials = parsed.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)
    try:
        issuer_key = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    except x509.ExtensionNotFound:
        issuer_key = None
    return Particulars(
        serial=f"{parsed.serial_number:x}",
        digest=hashlib.sha256(certificate).hexdigest(),
        spki_digest=hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest(),
        issuer=name_to_text(parsed.issuer),
        subject_serial=str(serials[0].value) if serials else "",
        issuer_key_id=issuer_key or b"",
        not_after=f"{parsed.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
        key_type=key_type(key),  # type: ignore[arg-type]  # raises BadKey for any other
        masa_url=_masa_url(extensions),
    )


def moment(ms: int) -> str:
    """RFC 3339."""
    return f"{datetime.fromtimestamp(ms // 1000, UTC):%Y-%m-%dT%H:%M:%S}.{ms % 1000:03}Z"


def production_record(device: ProducedDevice, party: Party) -> Draft:
    """The production record, to be signed: flattened JSON. Raises MalformedRequest, BadKey."""
    check_party(party.chain)
    own = particulars(device.certificate)
    members: dict[str, Json] = {
        "version": _VERSION,
        "order": device.order,
        "product": device.product,
        "serial": device.serial,
        "uri": device.uri,
        "manufacturer": device.manufacturer,
        "model": device.model,
        "gateway": device.gateway,
        "station": device.station,
        "port": device.port,
        "operator": device.operator,
        "driver": device.driver,
        "recipe": device.recipe_digest.hex(),
        "chip": device.chip,
        "facts": dict(device.facts),
        "key": {"origin": device.key_origin.value, "type": own.key_type, "sha256": own.spki_digest},
        "certificate": {"serial": own.serial, "sha256": own.digest, "issuer": own.issuer, "notAfter": own.not_after},
        "states": [{"state": step.state.lower(), "time": moment(step.at_ms)} for step in device.steps],
        "finished": _known(device.finished_ms),
        "labels": [{"time": moment(each.at_ms), "reprint": each.reprint, "printer": each.printer} for each in device.prints],
        "records": list(device.records),
        "software": device.software,
    }
    if device.evidence_digest:
        members["evidence"] = {"format": device.evidence_format, "sha256": device.evidence_digest.hex()}
    return _signed(members, RECORD_TYPE, party)


def handover_record(device: ProducedDevice, party: Party) -> Draft:
    """What a MASA must know to give vouchers for this device (RFC 8995), to be signed: flattened JSON.

    RFC 8995 names no format for it. The names are those of RFC 8366's voucher where it has them: a voucher's
    ``serial-number`` is the one in the IDevID's subject (RFC 8995 section 2.3.1), ``idevid-issuer`` the key identifier in its
    authorityKeyIdentifier. Raises MalformedRequest for a certificate without a subject serial number, or with another MASA's
    URL.
    """
    check_party(party.chain)
    own = particulars(device.certificate)
    if not own.subject_serial:
        raise MalformedRequest("BRSKI needs a serialNumber in the IDevID's subject (RFC 8995 section 2.3.1)")
    if own.masa_url and device.masa_url and own.masa_url != device.masa_url:
        raise MalformedRequest(f"the IDevID names another MASA ({own.masa_url}) than the order ({device.masa_url})")
    members: dict[str, Json] = {
        "version": _VERSION,
        "serial-number": own.subject_serial,
        "idevid-issuer": _base64(own.issuer_key_id),
        "masa-url": own.masa_url or device.masa_url,
        "spki-sha256": own.spki_digest,
        "idevid": _base64(device.certificate),
        "created-on": _known(device.finished_ms),
    }
    return _signed(members, HANDOVER_TYPE, party)


def open_paper(document: bytes, kind: str) -> tuple[dict[str, Json], tuple[bytes, ...]]:
    """What a paper of this ``kind`` (RECORD_TYPE, HANDOVER_TYPE) says, and the certificates of who signed it.

    The signature is verified and the certificate is one for signing documents; whether to trust its issuer is the reader's
    decision. Raises MalformedRequest, TooLarge, IntegrityError.
    """
    jws = read(document)
    part = _only_part(jws)
    part.verify_by_chain(jws.payload)
    check_party(part.chain)
    if part.protected_header.get("typ") != kind:
        raise MalformedRequest(f"this paper is not of the type {kind}")
    return read_object(jws.payload, "the paper"), part.chain


def check_party(chain: tuple[bytes, ...]) -> None:
    """That the first certificate is for signing documents, and no CA's. Raises IntegrityError, MalformedRequest."""
    if not chain:
        raise MalformedRequest("there is no certificate of a signer")
    if not _signs_documents(chain[0]):
        raise IntegrityError("the signer's certificate is not one for signing documents (RFC 9336)")


@lru_cache(maxsize=16)  # the line's own, for each paper
def _signs_documents(certificate: bytes) -> bool:
    try:
        found = {type(each.value): each.value for each in x509.load_der_x509_certificate(certificate).extensions}
    except ValueError as error:
        raise MalformedRequest("the signer's certificate cannot be read") from error
    purposes, constraints = found.get(x509.ExtendedKeyUsage), found.get(x509.BasicConstraints)
    authority = isinstance(constraints, x509.BasicConstraints) and constraints.ca
    return isinstance(purposes, x509.ExtendedKeyUsage) and DOCUMENT_SIGNING in purposes and not authority


def _signed(members: Mapping[str, Json], kind: str, party: Party) -> Draft:
    told = {name: value for name, value in members.items() if value not in ("", [], {})}
    header: dict[str, Json] = {"typ": kind, "x5c": party.x5c, "x5t#S256": party.thumbprint}
    return Draft.of(canonical(told), header, party.algorithm, form=Form.FLATTENED)


def _only_part(jws: Jws) -> Part:
    if len(jws.parts) != 1:
        raise MalformedRequest("a paper has one signature")
    return jws.parts[0]


def _known(ms: int) -> str:
    return moment(ms) if ms else ""


def _base64(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


def _masa_url(extensions: x509.Extensions) -> str:
    for extension in extensions:
        if extension.oid == MASA_URL and isinstance(extension.value, x509.UnrecognizedExtension):
            reader = der.Reader(extension.value.value, "the MASA's URL")
            url = reader.read(_IA5_STRING)
            reader.finish()
            return url.decode("ascii", errors="replace")
    return ""

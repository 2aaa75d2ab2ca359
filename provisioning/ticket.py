"""Tickets of OPC 10000-21 v1.05 (Device Onboarding): what a device or composite is, signed by its maker and others. Pure.

Sources, by section of OPC 10000-21 v1.05: 8.1 and Table 5 for the signed document (general JSON serialization of RFC 7515; the
protected header has ``alg``, ``x5c`` with the signer's certificate and all its issuers, ``cty`` and, of a composite's builder,
``opc-uri``); 8.2.2 (Table 7), 8.2.3 (Table 9), 8.2.4 (Table 11) and 8.2.6 (Table 15) for the fields.

The ticket is JSON in the reversible encoding of OPC 10000-6 (5.4 and Annex H): fields that are empty are left out, a DateTime
is ISO 8601 in UTC, a ByteString base64. The names of fields are spelled as in the DataType definitions of the OPC Foundation's
nodeset (``ManufacturerName``), because they are what JSON takes its names from; the tables of OPC 10000-21 spell them with a
small first letter, and both are read here. Neither document has an example of a whole ticket, so this spelling was not checked
against one, and no other implementation of tickets was at hand.

``x5t#S256`` is written as well: RFC 7515 allows it beside what Table 5 lists.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Final, TypeAlias

from cryptography import x509

from gateway.errors import MalformedRequest
from provisioning.jws import Draft, Form, Header, Json, Jws, Part, Party, canonical, read, read_object

_DEVICE: Final = "DeviceIdentityTicketType"
_COMPOSITE: Final = "CompositeIdentityTicketType"
_CONTENT_TYPE: Final = "opc-ticket+json;type="
_MOST_URIS: Final = 10_000
#: RFC 3986 section 3.1 and what may follow; OPC UA compares these URIs as texts.
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[\x21-\x7e]{1,4000}")
#: DateTime.MinValue, "not known" (8.2.2); it is left out when written.
_MIN_VALUE: Final = "0001-01-01T00:00:00Z"
#: ISO 8601 as OPC 10000-6 section 5.4.2.6 has it: UTC, with as many places of a second as one likes.
_DATE: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d+))?Z")


@dataclass(frozen=True, slots=True)
class Authority:
    """CertificateAuthorityType (8.2.6): a CA that issued identities on the device, and its issuers up to the root. DER."""

    certificate: bytes
    issuers: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class BaseTicket:
    """BaseTicketType (8.2.2). Texts that are not known are empty."""

    manufacturer_name: str
    model_name: str = ""
    model_version: str = ""
    hardware_revision: str = ""
    software_revision: str = ""
    serial_number: str = ""
    manufacture_date_ms: int | None = None  # UTC milliseconds since 1970
    authorities: tuple[Authority, ...] = ()


@dataclass(frozen=True, slots=True)
class DeviceTicket(BaseTicket):
    """DeviceIdentityTicketType (8.2.3)."""

    product_instance_uri: str = field(default="", kw_only=True)  # required


@dataclass(frozen=True, slots=True)
class CompositeTicket(BaseTicket):
    """CompositeIdentityTicketType (8.2.4): what can be seen of its parts from outside."""

    composite_instance_uri: str = field(default="", kw_only=True)  # required
    devices: tuple[str, ...] = field(default=(), kw_only=True)  # ProductInstanceUris
    composites: tuple[str, ...] = field(default=(), kw_only=True)  # CompositeInstanceUris


Ticket: TypeAlias = DeviceTicket | CompositeTicket


@dataclass(frozen=True, slots=True)
class Signature:
    """Who signed a ticket, verified with its own certificate; whether to trust that is the reader's decision.

    ``composite_uri`` is that of the composite into which the signer built the device, empty from its maker.
    """

    chain: tuple[bytes, ...]
    composite_uri: str
    header: Header  # unprotected, for instance an RFC 3161 timestamp


def draft(ticket: Ticket, party: Party) -> Draft:
    """The ticket with its maker's signature to be made. Raises MalformedRequest, BadKey."""
    return _draft(encode(ticket), _type_of(ticket), party)


def countersign(document: bytes, party: Party, *, composite_uri: str = "", header: Header | None = None) -> Draft:
    """The same ticket with one more signature to be made: a builder's, with the composite's URI, or a distributor's.

    The signatures that are there must be valid. ``header`` is not signed. Raises MalformedRequest, IntegrityError, BadKey.
    """
    jws = read(document)
    ticket, _ = _verified(jws)
    if composite_uri:
        _check_uri("the composite's URI", composite_uri)
    return _draft(jws.payload, _type_of(ticket), party, uri=composite_uri, header=header, others=jws.parts)


def open_ticket(document: bytes) -> tuple[Ticket, tuple[Signature, ...]]:
    """The ticket, and who signed it; every signature is verified. Raises MalformedRequest, TooLarge, IntegrityError."""
    return _verified(read(document))


def encode(ticket: Ticket) -> bytes:
    """The payload. Raises MalformedRequest for a ticket that lacks its URI or its maker."""
    _check(ticket)
    members: dict[str, Json] = {}
    for each in fields(ticket):
        value = getattr(ticket, each.name)
        if each.name == "manufacture_date_ms":
            if value is not None:
                members["ManufactureDate"] = _date(value)
        elif each.name == "authorities":
            if value:
                members["Authorities"] = [_authority(authority) for authority in value]
        elif value:
            members[_name(each.name)] = value if isinstance(value, str) else list(value)
    return canonical(members)


def decode(payload: bytes, type_name: str) -> Ticket:
    """Undoes :func:`encode`; ``type_name`` is the parameter of ``cty``. Unknown fields are ignored. Raises MalformedRequest."""
    kind = {_DEVICE: DeviceTicket, _COMPOSITE: CompositeTicket}.get(type_name)
    if kind is None:
        raise MalformedRequest(f"{type_name!r} is no type of ticket")
    members = _members(payload)
    values: dict[str, object] = {}
    for each in fields(kind):
        if each.name == "manufacture_date_ms":
            values[each.name] = _read_date(members.get("ManufactureDate"))
        elif each.name == "authorities":
            values[each.name] = tuple(_read_authority(one) for one in _list(members.get("Authorities")))
        elif each.name in {"devices", "composites"}:
            values[each.name] = tuple(_text(one, _name(each.name)) for one in _list(members.get(_name(each.name))))
        else:
            values[each.name] = _text(members.get(_name(each.name)) or "", _name(each.name))
    ticket: Ticket = kind(**values)  # each was read as its field's type
    _check(ticket)
    return ticket


def _draft(
    payload: bytes, type_name: str, party: Party, *, uri: str = "", header: Header | None = None, others: tuple[Part, ...] = ()
) -> Draft:
    protected: dict[str, Json] = {"cty": _CONTENT_TYPE + type_name, "x5c": party.x5c, "x5t#S256": party.thumbprint}
    if uri:
        protected["opc-uri"] = uri
    return Draft.of(payload, protected, party.algorithm, form=Form.GENERAL, header=header, others=others)


def _verified(jws: Jws) -> tuple[Ticket, tuple[Signature, ...]]:
    signatures = []
    types = set()
    for part in jws.parts:
        part.verify_by_chain(jws.payload)
        uri = part.protected_header.get("opc-uri", "")
        content_type = part.protected_header.get("cty")
        if not isinstance(uri, str) or not isinstance(content_type, str) or not content_type.startswith(_CONTENT_TYPE):
            raise MalformedRequest("this signed document is no ticket (OPC 10000-21, Table 5)")
        types.add(content_type.removeprefix(_CONTENT_TYPE))
        signatures.append(Signature(part.chain, uri, part.header))
    if len(types) != 1:
        raise MalformedRequest("the parties signed this as tickets of different types")
    return decode(jws.payload, types.pop()), tuple(signatures)


def _type_of(ticket: Ticket) -> str:
    return _DEVICE if isinstance(ticket, DeviceTicket) else _COMPOSITE


def _check(ticket: Ticket) -> None:
    if not ticket.manufacturer_name:
        raise MalformedRequest("a ticket names the manufacturer")
    if isinstance(ticket, DeviceTicket):
        _check_uri("ProductInstanceUri", ticket.product_instance_uri)
        return
    _check_uri("CompositeInstanceUri", ticket.composite_instance_uri)
    if not ticket.devices and not ticket.composites:
        raise MalformedRequest("a composite has devices or composites in it")
    for uri in (*ticket.devices, *ticket.composites):
        _check_uri("the URI of a part", uri)


def _check_uri(what: str, uri: str) -> None:
    if not _URI.fullmatch(uri):
        raise MalformedRequest(f"{what} is no URI: {uri[:100]!r}")


def _name(attribute: str) -> str:
    """``product_instance_uri`` as the nodeset spells it."""
    return "".join(word.capitalize() for word in attribute.split("_"))


def _date(ms: int) -> str:
    moment = datetime.fromtimestamp(ms // 1000, UTC)
    fraction = f".{ms % 1000:03}" if ms % 1000 else ""
    return f"{moment:%Y-%m-%dT%H:%M:%S}{fraction}Z"


def _read_date(value: Json) -> int | None:
    if value is None or value == _MIN_VALUE:
        return None
    match = _DATE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise MalformedRequest("ManufactureDate is a date and time in UTC, as 2026-01-31T12:00:00Z")
    try:
        moment = datetime.fromisoformat(match[1]).replace(tzinfo=UTC)
    except ValueError as error:
        raise MalformedRequest("ManufactureDate is no date") from error
    return int(moment.timestamp()) * 1000 + int(f"{match[2] or '':0<3}"[:3])


def _authority(authority: Authority) -> Json:
    members: dict[str, Json] = {"AuthorityCertificate": base64.b64encode(authority.certificate).decode()}
    if authority.issuers:
        members["IssuerCertificates"] = [base64.b64encode(each).decode() for each in authority.issuers]
    return members


def _read_authority(value: Json) -> Authority:
    members = _capitals(value)
    issuers = tuple(_certificate(each) for each in _list(members.get("IssuerCertificates")))
    return Authority(_certificate(members.get("AuthorityCertificate")), issuers)


def _certificate(value: Json) -> bytes:
    try:
        encoded = base64.b64decode(_text(value, "a certificate"), validate=True)
        x509.load_der_x509_certificate(encoded)
    except (binascii.Error, ValueError) as error:
        raise MalformedRequest("a certificate of an authority cannot be read") from error
    return encoded


def _members(payload: bytes) -> Mapping[str, Json]:
    return _capitals(read_object(payload, "the ticket"))


def _capitals(value: Json) -> Mapping[str, Json]:
    if not isinstance(value, Mapping):
        raise MalformedRequest("an object is expected here")
    members = {name[:1].upper() + name[1:]: each for name, each in value.items()}
    if len(members) != len(value):
        raise MalformedRequest("a name stands twice, once with a small first letter")
    return members


def _list(value: Json) -> Sequence[Json]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > _MOST_URIS:
        raise MalformedRequest(f"a list of at most {_MOST_URIS} is expected here")
    return value


def _text(value: Json, what: str) -> str:
    if not isinstance(value, str):
        raise MalformedRequest(f"{what} is a text")
    return value

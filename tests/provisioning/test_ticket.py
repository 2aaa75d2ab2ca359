"""Tickets of OPC 10000-21: the fields of its tables, the signed document of its section 8.1, signatures of later parties."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws as other
from joserfc.jwk import ECKey

from gateway.errors import IntegrityError, MalformedRequest
from provisioning.jws import Draft, Form, canonical, read
from provisioning.jws import decode as base64url
from provisioning.ticket import Authority, CompositeTicket, DeviceTicket, countersign, decode, draft, encode, open_ticket
from tests.support.parties import finished, issuers, party, party_key

TICKET = DeviceTicket(
    manufacturer_name="Müller GmbH",
    model_name="Drive 7",
    model_version="B",
    hardware_revision="2.1",
    software_revision="1.9.0",
    serial_number="D7-000123",
    manufacture_date_ms=1_790_000_000_250,
    authorities=(Authority(issuers()[0], issuers()[1:]),),
    product_instance_uri="https://id.example.com/D7-000123",
)
COMPOSITE = CompositeTicket(
    manufacturer_name="Builder AG",
    composite_instance_uri="tag:builder.example,2026-01:cabinet:7",
    devices=("https://id.example.com/D7-000123", "https://id.example.com/D7-000124"),
    composites=("tag:builder.example,2026-01:drawer:9",),
)
BUILDER = "Builder"


def protected(document: bytes, index: int = 0) -> dict[str, object]:
    return json.loads(base64url(json.loads(document)["signatures"][index]["protected"]))


def test_the_payload_has_the_fields_of_the_tables() -> None:
    members = json.loads(encode(TICKET))
    certificate, root = (base64.b64encode(each).decode() for each in issuers())
    assert members == {
        "ManufacturerName": "Müller GmbH",
        "ModelName": "Drive 7",
        "ModelVersion": "B",
        "HardwareRevision": "2.1",
        "SoftwareRevision": "1.9.0",
        "SerialNumber": "D7-000123",
        "ManufactureDate": "2026-09-21T14:13:20.250Z",
        "Authorities": [{"AuthorityCertificate": certificate, "IssuerCertificates": [root]}],
        "ProductInstanceUri": "https://id.example.com/D7-000123",
    }


def test_a_composite_lists_its_devices() -> None:
    members = json.loads(encode(COMPOSITE))
    assert members["CompositeInstanceUri"] == COMPOSITE.composite_instance_uri
    assert (members["Devices"], members["Composites"]) == (list(COMPOSITE.devices), list(COMPOSITE.composites))


def test_what_is_not_known_is_left_out() -> None:
    bare = DeviceTicket(manufacturer_name="M", product_instance_uri="urn:m:1")
    assert json.loads(encode(bare)) == {"ManufacturerName": "M", "ProductInstanceUri": "urn:m:1"}
    assert open_ticket(finished(draft(bare, party())))[0] == bare


@pytest.mark.parametrize("ticket", [TICKET, COMPOSITE], ids=["device", "composite"])
def test_a_signed_ticket_opens_as_it_was(ticket: DeviceTicket | CompositeTicket) -> None:
    opened, (signature,) = open_ticket(finished(draft(ticket, party())))
    assert (opened, signature.chain, signature.composite_uri) == (ticket, party().chain, "")


def test_the_document_is_the_one_of_section_8_1() -> None:
    document = finished(draft(TICKET, party()))
    assert set(json.loads(document)) == {"payload", "signatures"}
    header = protected(document)
    assert header["alg"] == "ES256"
    assert header["cty"] == "opc-ticket+json;type=DeviceIdentityTicketType"
    assert header["x5c"] == [base64.b64encode(each).decode() for each in party().chain]
    assert "opc-uri" not in header
    assert protected(finished(draft(COMPOSITE, party())))["cty"] == "opc-ticket+json;type=CompositeIdentityTicketType"
    assert protected(finished(draft(TICKET, party("rsa-2048")), "rsa-2048"))["alg"] == "RS256"


def test_another_implementation_verifies_a_ticket() -> None:
    pem = party_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    key = ECKey.import_key(pem)
    registry = other.JWSRegistry(algorithms=["ES256"], strict_check_header=False)
    registry.max_header_length = 1 << 20  # x5c is long
    opened = other.deserialize_json(json.loads(finished(draft(TICKET, party()))), key, registry=registry)
    assert json.loads(opened.payload)["SerialNumber"] == "D7-000123"


def test_a_builder_adds_a_signature_with_the_uri_of_the_composite() -> None:
    maker = finished(draft(TICKET, party()))
    uri = COMPOSITE.composite_instance_uri
    second = countersign(maker, party("p-384", BUILDER), composite_uri=uri, header={"stamp": "MIIB"})
    document = finished(second, "p-384", BUILDER)
    ticket, signatures = open_ticket(document)
    assert ticket == TICKET
    assert [(each.chain, each.composite_uri) for each in signatures] == [
        (party().chain, ""),
        (party("p-384", BUILDER).chain, uri),
    ]
    assert signatures[1].header == {"stamp": "MIIB"}
    assert protected(document, 1)["opc-uri"] == uri
    assert json.loads(document)["signatures"][0] == json.loads(maker)["signatures"][0]


def test_a_ticket_that_was_changed_does_not_open_nor_gets_another_signature() -> None:
    document = json.loads(finished(draft(TICKET, party())))
    document["payload"] = json.loads(finished(draft(replace(TICKET, serial_number="X"), party())))["payload"]
    changed = json.dumps(document).encode()
    with pytest.raises(IntegrityError):
        open_ticket(changed)
    with pytest.raises(IntegrityError):
        countersign(changed, party("p-384", BUILDER))


def test_one_wrong_signature_of_two_is_enough_to_refuse() -> None:
    document = json.loads(finished(countersign(finished(draft(TICKET, party())), party("p-384", BUILDER)), "p-384", BUILDER))
    document["signatures"][1]["signature"] = document["signatures"][0]["signature"]
    with pytest.raises(IntegrityError):
        open_ticket(json.dumps(document).encode())


@pytest.mark.parametrize(
    "ticket",
    [
        DeviceTicket(manufacturer_name="M"),
        DeviceTicket(manufacturer_name="", product_instance_uri="urn:m:1"),
        DeviceTicket(manufacturer_name="M", product_instance_uri="no uri"),
        DeviceTicket(manufacturer_name="M", product_instance_uri="urn:m:1\n"),
        CompositeTicket(manufacturer_name="M", composite_instance_uri="urn:m:1"),
        CompositeTicket(manufacturer_name="M", devices=("urn:m:1",)),
        replace(COMPOSITE, devices=("x",)),
    ],
)
def test_a_ticket_without_what_it_needs_is_not_made(ticket: DeviceTicket) -> None:
    with pytest.raises(MalformedRequest):
        draft(ticket, party())


def test_field_names_with_a_small_first_letter_are_read() -> None:
    members = json.loads(encode(TICKET))
    small = {name[:1].lower() + name[1:]: value for name, value in members.items()}
    small["authorities"] = [{name[:1].lower() + name[1:]: value for name, value in small["authorities"][0].items()}]
    assert decode(canonical(small), "DeviceIdentityTicketType") == TICKET
    with pytest.raises(MalformedRequest, match="twice"):
        decode(canonical(members | {"serialNumber": "other"}), "DeviceIdentityTicketType")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ManufactureDate", "yesterday"),
        ("ManufactureDate", "2026-02-30T00:00:00Z"),
        ("ManufactureDate", 5),
        ("Authorities", {}),
        ("Authorities", [1]),
        ("Authorities", [{}]),
        ("Authorities", [{"AuthorityCertificate": "AAAA"}]),
        ("Authorities", [{"AuthorityCertificate": "?"}]),
        ("SerialNumber", 7),
        ("ProductInstanceUri", ["urn:a:b"]),
        ("ProductInstanceUri", None),
    ],
    ids=map(str, range(11)),
)
def test_a_field_of_the_wrong_kind_is_refused(name: str, value: object) -> None:
    payload = json.dumps(json.loads(encode(TICKET)) | {name: value}).encode()
    with pytest.raises(MalformedRequest):
        decode(payload, "DeviceIdentityTicketType")


def test_the_smallest_date_says_that_it_is_not_known() -> None:
    payload = json.dumps(json.loads(encode(TICKET)) | {"ManufactureDate": "0001-01-01T00:00:00Z"}).encode()
    assert decode(payload, "DeviceIdentityTicketType") == replace(TICKET, manufacture_date_ms=None)


@pytest.mark.parametrize("payload", [b"[]", b"\xff", b"{}"])
def test_a_payload_that_is_no_ticket_is_refused(payload: bytes) -> None:
    with pytest.raises(MalformedRequest):
        decode(payload, "DeviceIdentityTicketType")


def signed_with(**header: object) -> bytes:
    whole = {"x5c": party().x5c, **header}
    return finished(Draft.of(encode(TICKET), whole, "ES256", form=Form.GENERAL))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"cty": "application/json"},
        {"cty": "opc-ticket+json;type=TicketListType"},
        {"cty": "opc-ticket+json;type=DeviceIdentityTicketType", "opc-uri": 1},
    ],
)
def test_another_signed_document_is_no_ticket(header: dict[str, object]) -> None:
    with pytest.raises(MalformedRequest):
        open_ticket(signed_with(**header))


def test_parties_must_agree_what_type_of_ticket_it_is() -> None:
    first = read(signed_with(cty="opc-ticket+json;type=DeviceIdentityTicketType"))
    second = Draft.of(
        first.payload,
        {"x5c": party().x5c, "cty": "opc-ticket+json;type=CompositeIdentityTicketType"},
        "ES256",
        form=Form.GENERAL,
        others=first.parts,
    )
    with pytest.raises(MalformedRequest, match="different types"):
        open_ticket(finished(second))


@given(
    st.builds(
        DeviceTicket,
        st.text(min_size=1, max_size=20),
        *[st.text(max_size=20)] * 5,
        st.none() | st.integers(0, 4_000_000_000_000),
        product_instance_uri=st.from_regex(r"[a-z]{1,8}:[!-~]{1,30}", fullmatch=True),
    )
)
def test_decoding_undoes_encoding(ticket: DeviceTicket) -> None:
    try:
        payload = encode(ticket)
    except MalformedRequest:
        return  # half a surrogate pair
    assert decode(payload, "DeviceIdentityTicketType") == ticket

"""The production record and the hand-over record: what they say, who may sign them, what is refused."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.errors import BadKey, IntegrityError, MalformedRequest
from gateway.pki import der
from provisioning.jws import Draft, Form, Party, read
from provisioning.papers import (
    HANDOVER_TYPE,
    MASA_URL,
    RECORD_TYPE,
    Step,
    check_party,
    handover_record,
    moment,
    open_paper,
    particulars,
    production_record,
)
from tests.support.csrs import key_for
from tests.support.parties import ISSUER, PURPOSE, certify, finished, issuers, party, produced

DEVICE = produced()
MASA = x509.UnrecognizedExtension(MASA_URL, der.tlv(0x16, b"https://masa.example.com"))


def opened(draft: Draft, kind: str = RECORD_TYPE) -> dict[str, object]:
    return open_paper(finished(draft), kind)[0]  # type: ignore[return-value]


def test_the_production_record_says_who_when_where_and_which() -> None:
    record = opened(production_record(DEVICE, party()))
    certificate = x509.load_der_x509_certificate(DEVICE.certificate)
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    states = record.pop("states")
    assert states[0] == {"state": "reserved", "time": "2026-09-21T14:13:20.000Z"}
    assert states[-1] == {"state": "labelled", "time": "2026-09-21T14:13:21.750Z"}
    assert record == {
        "version": 1,
        "order": "A-2026-17",
        "product": "drive-7",
        "serial": "D7-000123",
        "uri": "https://id.example.com/D7-000123",
        "manufacturer": "Müller GmbH",
        "model": "Drive 7",
        "gateway": "plant-7",
        "station": "station-3",
        "port": "usb-1-2.4",
        "operator": "badge-12",
        "driver": "linux-console",
        "recipe": "01" * 32,
        "chip": "0123f1822c38dd7a01",
        "facts": {"firmware": "1.9.0"},
        "key": {"origin": "device", "type": "p-256", "sha256": hashlib.sha256(spki).hexdigest()},
        "certificate": {
            "serial": f"{certificate.serial_number:x}",
            "sha256": hashlib.sha256(DEVICE.certificate).hexdigest(),
            "issuer": "CN=Line Issuing CA,O=Maker",
            "notAfter": "2045-01-01T00:00:00Z",
        },
        "evidence": {"format": "cose-sign1", "sha256": "02" * 32},
        "labels": [
            {"time": "2026-09-21T14:13:21.400Z", "reprint": 0, "printer": "zd-1"},
            {"time": "2026-09-21T14:13:21.450Z", "reprint": 1, "printer": "zd-1"},
        ],
        "finished": "2026-09-21T14:13:21.750Z",
        "records": [7, 8, 9],
        "software": "edge-gateway 0.1.0",
    }


def test_the_same_device_gives_the_same_bytes_to_sign() -> None:
    again = replace(DEVICE, facts={"b": "2", "a": "1"})
    assert production_record(again, party()).signing_input == production_record(
        replace(DEVICE, facts={"a": "1", "b": "2"}), party()
    ).signing_input  # fmt: skip


def test_what_is_not_known_is_left_out() -> None:
    bare = replace(DEVICE, uri="", operator="", evidence_digest=b"", evidence_format="", prints=(), facts={}, records=())
    record = opened(production_record(bare, party()))
    assert not {"uri", "operator", "evidence", "labels", "facts", "records"} & set(record)


def test_a_record_that_was_changed_or_signed_by_another_key_is_refused() -> None:
    document = json.loads(finished(production_record(DEVICE, party())))
    other = json.loads(finished(production_record(produced("D7-000124"), party())))
    with pytest.raises(IntegrityError):
        open_paper(json.dumps(document | {"payload": other["payload"]}).encode(), RECORD_TYPE)
    foreign = finished(production_record(DEVICE, party()), name="Somebody")
    with pytest.raises(IntegrityError):
        open_paper(foreign, RECORD_TYPE)


def test_a_paper_of_another_type_is_refused() -> None:
    with pytest.raises(MalformedRequest, match="type"):
        open_paper(finished(production_record(DEVICE, party())), HANDOVER_TYPE)


def test_a_paper_with_two_signatures_is_refused() -> None:
    first = read(finished(production_record(DEVICE, party())))
    both = Draft.of(first.payload, {}, "ES256", form=Form.GENERAL, others=first.parts)
    with pytest.raises(MalformedRequest, match="one signature"):
        open_paper(finished(both), RECORD_TYPE)


def test_a_certificate_for_another_purpose_signs_no_papers() -> None:
    key, issuer_key = key_for("p-256", "tls"), key_for("p-256", "papers-issuer")
    server = certify("CN=tls", key, ISSUER, issuer_key, extensions=(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),))
    authority = certify("CN=sub", key, ISSUER, issuer_key, ca=True, extensions=(PURPOSE,))
    for certificate in (server, authority, issuers()[0]):
        with pytest.raises(IntegrityError):
            production_record(DEVICE, Party((certificate, *issuers())))
    for chain in ((), (b"x",)):
        with pytest.raises(MalformedRequest):
            check_party(chain)


def test_a_device_without_a_readable_certificate_has_no_papers() -> None:
    with pytest.raises(MalformedRequest):
        production_record(replace(DEVICE, certificate=b"x"), party())


def test_a_state_that_was_entered_twice_counts_from_the_last_time() -> None:
    device = replace(DEVICE, steps=(Step("written", 1), Step("keyed", 2), Step("written", 3)))
    assert (device.reached("written"), device.reached("locked")) == (3, None)


def test_a_unit_is_finished_with_its_last_state_or_when_it_is_said() -> None:
    assert produced().finished_ms == DEVICE.steps[-1].at_ms
    assert (
        opened(production_record(replace(DEVICE, finished_ms=1_790_000_002_000), party()))["finished"]
        == "2026-09-21T14:13:22.000Z"
    )
    record = opened(production_record(replace(DEVICE, steps=(), finished_ms=0), party()))
    assert not {"finished", "states"} & set(record)


def test_the_hand_over_record_names_the_masa_and_what_a_voucher_needs() -> None:
    device = produced(extensions=(MASA,))
    record = opened(handover_record(device, party()), HANDOVER_TYPE)
    certificate = x509.load_der_x509_certificate(device.certificate)
    issuer = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    assert record == {
        "version": 1,
        "serial-number": "D7-000123",
        "idevid-issuer": base64.b64encode(issuer or b"").decode(),
        "masa-url": "https://masa.example.com",
        "spki-sha256": particulars(device.certificate).spki_digest,
        "idevid": base64.b64encode(device.certificate).decode(),
        "created-on": "2026-09-21T14:13:21.750Z",
    }


def test_the_masa_of_the_order_counts_where_the_certificate_names_none() -> None:
    record = opened(handover_record(replace(DEVICE, masa_url="masa.example.com"), party()), HANDOVER_TYPE)
    assert record["masa-url"] == "masa.example.com"


def test_a_certificate_that_names_another_masa_is_not_handed_over() -> None:
    with pytest.raises(MalformedRequest, match="another MASA"):
        handover_record(replace(produced(extensions=(MASA,)), masa_url="https://other.example.com"), party())


def test_a_certificate_without_a_serial_number_in_its_subject_is_not_handed_over() -> None:
    with pytest.raises(MalformedRequest, match="serialNumber"):
        handover_record(produced(subject="CN=Drive 7,O=M"), party())


def test_a_masa_url_that_is_no_text_is_refused() -> None:
    wrong = x509.UnrecognizedExtension(MASA_URL, der.octet_string(b"x"))
    with pytest.raises(MalformedRequest):
        particulars(produced("D7-9", extensions=(wrong,)).certificate)


def test_a_certificate_of_an_unknown_kind_of_key_has_no_papers() -> None:
    with pytest.raises(BadKey):
        particulars(produced("D7-8", kind="secp256k1").certificate)


def test_moments_have_milliseconds() -> None:
    assert moment(1_790_000_000_007) == "2026-09-21T14:13:20.007Z"

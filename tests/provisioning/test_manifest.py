"""Manifest entries: the members that Microchip's document names, read by another implementation."""

from __future__ import annotations

import base64
import json
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from joserfc import jws as other
from joserfc.jwk import ECKey, OKPKey, RSAKey

from gateway.errors import BadKey, IntegrityError, MalformedRequest
from provisioning.jws import Party, decode, encode
from provisioning.manifest import Entity, as_array, entry, open_entry, public_jwk
from provisioning.papers import ProducedDevice
from tests.support.csrs import key_for
from tests.support.parties import KINDS, PURPOSE, certify, finished, issuers, party, party_key, produced

DEVICE = produced()
MAKER, SELLER = Entity("Müller GmbH", "Line 3"), Entity("Seller")


def line(device: ProducedDevice = DEVICE) -> bytes:
    return finished(entry(device, party(), provisioner=MAKER, distributor=SELLER))


def test_an_entry_has_the_members_of_a_secure_element() -> None:
    element = open_entry(line(), party().chain[0])
    (key,) = element.pop("publicKeySet")["keys"]  # type: ignore[index,call-overload]
    assert element == {
        "version": 1,
        "model": "Drive 7",
        "partNumber": "drive-7",
        "manufacturer": {"organizationName": "Müller GmbH"},
        "provisioner": {"organizationName": "Müller GmbH", "organizationalUnitName": "Line 3"},
        "distributor": {"organizationName": "Seller"},
        "groupId": "A-2026-17",
        "provisioningTimestamp": "2026-09-21T14:13:21.750Z",
        "uniqueId": "0123f1822c38dd7a01",
    }
    assert (key["kid"], key["kty"], key["crv"]) == ("0", "EC", "P-256")
    assert key["x5c"] == [base64.b64encode(each).decode() for each in (DEVICE.certificate, issuers()[0])]


def test_an_entry_is_a_flattened_document_with_the_headers_of_section_2_4() -> None:
    members = json.loads(line())
    assert set(members) == {"payload", "protected", "header", "signature"}
    assert members["header"] == {"uniqueId": "0123f1822c38dd7a01"}
    certificate = x509.load_der_x509_certificate(party().chain[0])
    identifier = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert json.loads(decode(members["protected"])) == {
        "alg": "ES256",
        "typ": "JWT",
        "kid": encode(identifier),
        "x5t#S256": party().thumbprint,
    }
    assert b"\n" not in line()


def test_another_implementation_reads_the_array_and_its_keys() -> None:
    devices = [produced(f"D7-{number}", kind) for number, kind in enumerate(KINDS)]
    registry = other.JWSRegistry(strict_check_header=False)  # uniqueId is Microchip's own
    registry.max_header_length = 1 << 20
    pem = party_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    entries = json.loads(as_array([*(line(device) + b"\n" for device in devices), b"\n"]))
    assert len(entries) == len(KINDS)
    for device, each in zip(devices, entries, strict=True):
        element = json.loads(other.deserialize_json(each, ECKey.import_key(pem), registry=registry).payload)
        (key,) = element["publicKeySet"]["keys"]
        kind = {"EC": ECKey, "RSA": RSAKey, "OKP": OKPKey}[key["kty"]]
        read_key = kind.import_key({name: value for name, value in key.items() if name != "x5c"})
        assert read_key.as_pem(private=False) == x509.load_der_x509_certificate(device.certificate).public_key().public_bytes(
            Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        )


def test_an_entry_of_another_signer_or_changed_is_refused() -> None:
    with pytest.raises(IntegrityError):
        open_entry(line(), party(name="Somebody").chain[0])
    with pytest.raises(IntegrityError, match="signing documents"):
        open_entry(line(), issuers()[0])
    members = json.loads(line())
    with pytest.raises(MalformedRequest, match="uniqueId"):
        open_entry(json.dumps(members | {"header": {"uniqueId": "other"}}).encode(), party().chain[0])
    members["payload"] = json.loads(line(replace(DEVICE, chip="other")))["payload"]
    with pytest.raises(IntegrityError):
        open_entry(json.dumps(members).encode(), party().chain[0])


def test_an_array_of_what_is_no_entry_is_not_made() -> None:
    with pytest.raises(MalformedRequest):
        as_array([b"{}"])


def test_a_device_without_a_certificate_has_no_entry() -> None:
    with pytest.raises(MalformedRequest, match="cannot be read"):
        line(replace(DEVICE, certificate=b"x"))
    with pytest.raises(MalformedRequest, match="nothing is known"):
        line(replace(DEVICE, steps=(), finished_ms=0))


def test_what_the_order_does_not_say_is_taken_from_what_it_says() -> None:
    element = open_entry(line(replace(DEVICE, manufacturer="", model="")), party().chain[0])
    assert (element["manufacturer"], element["model"]) == ({"organizationName": "Müller GmbH"}, "drive-7")


def test_a_key_that_json_cannot_name_has_no_entry() -> None:
    with pytest.raises(BadKey):
        public_jwk(key_for("secp256k1").public_key())


def test_a_signer_without_a_key_identifier_gets_the_usual_one() -> None:
    """RFC 5280 section 4.2.1.2 (1)."""
    bare = certify("CN=bare", party_key(), "CN=bare", party_key(), identifiers=False, extensions=(PURPOSE,))
    kid = json.loads(decode(entry(DEVICE, Party((bare,)), provisioner=MAKER, distributor=SELLER).protected))["kid"]
    assert decode(kid) == x509.SubjectKeyIdentifier.from_public_key(party_key().public_key()).digest

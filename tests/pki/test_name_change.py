"""ChangeSubjectName: the new names are read as strictly as a request's own, in both encodings that are about."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography import x509

from gateway.errors import MalformedRequest
from gateway.pki import der
from gateway.pki.csr import MAX_NAMES, CertificationRequest, read_csr
from gateway.pki.name_change import renamed
from gateway.pki.names import name_from_text, name_to_text
from gateway.pki.sans import san_to_text
from tests.support.est_requests import csr_der, csr_with_attribute

OID = "1.3.6.1.5.5.7.7.36"
NAME = name_from_text("CN=new-1,O=Acme").public_bytes()
DNS = b"\x82\x09new-1.lan"
IP = b"\x87\x04\x0a\x00\x00\x01"


def request(*values: bytes, names: tuple[x509.GeneralName, ...] = (x509.DNSName("old-1.lan"),)) -> CertificationRequest:
    return read_csr(csr_with_attribute(OID, *values, common_name="old-1", names=names))


def names_of(changed: CertificationRequest | None) -> tuple[str, list[str]]:
    assert changed is not None
    return name_to_text(changed.subject), [san_to_text(name) for name in changed.san]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (der.sequence(NAME), ("CN=new-1,O=Acme", [])),
        (der.sequence(NAME, der.sequence(DNS, IP)), ("CN=new-1,O=Acme", ["DNS:new-1.lan", "IP:10.0.0.1"])),
        (der.sequence(NAME, der.tlv(0xA1, DNS, IP)), ("CN=new-1,O=Acme", ["DNS:new-1.lan", "IP:10.0.0.1"])),
        (der.sequence(NAME, der.tlv(0xA1, der.sequence(DNS))), ("CN=new-1,O=Acme", ["DNS:new-1.lan"])),
        (der.sequence(der.sequence(DNS)), ("", ["DNS:new-1.lan"])),
        (der.sequence(der.tlv(0xA1, DNS)), ("", ["DNS:new-1.lan"])),
        (der.sequence(der.sequence(), der.sequence(DNS)), ("", ["DNS:new-1.lan"])),
        (der.sequence(der.sequence()), ("", [])),
    ],
)
def test_what_is_not_given_is_empty_afterwards(value: bytes, expected: tuple[str, list[str]]) -> None:
    asked = request(value)
    assert names_of(asked) == ("CN=old-1", ["DNS:old-1.lan"])
    changed = renamed(asked)
    assert names_of(changed) == expected
    assert changed is not None
    assert (changed.der, changed.spki) == (asked.der, asked.spki)


def test_a_request_without_the_attribute_keeps_its_names() -> None:
    assert renamed(read_csr(csr_der())) is None
    elsewhere = der.oid(OID).decode("latin-1")
    assert renamed(read_csr(csr_der(f"x{elsewhere}"))) is None


def test_the_octets_of_the_identifier_in_another_attribute_mean_nothing() -> None:
    assert renamed(read_csr(csr_with_attribute("1.3.6.1.4.1.32473.1", der.oid(OID)))) is None


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ((der.sequence(),), "neither"),
        ((der.sequence(NAME), der.sequence(der.sequence(DNS))), "exactly one value"),
        ((der.null(),), "exactly one value"),
        ((der.sequence(NAME, NAME),), "each at most once"),
        ((der.sequence(der.sequence(DNS), NAME),), "each at most once"),
        ((der.sequence(der.sequence(DNS), der.tlv(0xA1, DNS)),), "each at most once"),
        ((der.sequence(NAME, der.null()),), "each at most once"),
        ((der.sequence(der.sequence(der.utf8_string("CN=x"))),), "distinguished name"),
        ((der.sequence(der.sequence(b"\x8f\x00")),), "cannot be read"),
        ((der.sequence(der.tlv(0xA1)),), "0 alternative names"),
        ((der.sequence(der.sequence(*[DNS] * (MAX_NAMES + 1))),), f"{MAX_NAMES + 1} alternative names"),
        ((b"\x30\x03\x30\x05\x00",), "longer"),
    ],
)
def test_a_malformed_attribute_is_refused_with_its_reason(values: tuple[bytes, ...], reason: str) -> None:
    asked = request(*values)
    with pytest.raises(MalformedRequest, match=reason):
        renamed(asked)


def test_names_that_the_request_itself_could_not_have_are_refused() -> None:
    spoiled = name_from_text("C=DE").public_bytes().replace(b"DE", b"\xff\xfe")
    with pytest.raises(MalformedRequest):
        renamed(request(der.sequence(spoiled)))


def test_a_request_without_attributes_is_looked_at_without_harm() -> None:
    """As the switch csr-no-attributes lets it through; the octets of the identifier stand in its name."""
    asked = read_csr(csr_der(f"x{der.oid(OID).decode('latin-1')}"))
    information = der.sequence(der.integer(0), asked.subject_der, asked.spki)
    assert renamed(replace(asked, der=der.sequence(information))) is None

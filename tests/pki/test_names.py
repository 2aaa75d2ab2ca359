"""Names as RFC 4514 text."""

from __future__ import annotations

import pytest
from cryptography import x509

from gateway.errors import MalformedRequest
from gateway.pki.names import name_from_text, name_to_text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "CN=plc-7,O=Acme,C=DE",
        "serialNumber=4711,CN=a\\,b",
        "CN=a+serialNumber=1,O=b",
        "emailAddress=a@b.example",
        "GN=a,SN=b",
    ],
)
def test_text_comes_back(text: str) -> None:
    assert name_to_text(name_from_text(text)) == text


def test_the_most_specific_attribute_is_last_in_the_certificate() -> None:
    assert [attribute.value for attribute in name_from_text("CN=a,C=DE")] == ["DE", "a"]


def test_short_names_and_object_identifiers_mean_the_same() -> None:
    assert name_from_text("2.5.4.5=1") == name_from_text("serialNumber=1")
    assert name_from_text("STREET=a") == name_from_text("street=a")


def test_unknown_types_are_written_by_oid() -> None:
    assert name_to_text(x509.Name([x509.NameAttribute(x509.ObjectIdentifier("1.2.3"), "a")])) == "1.2.3=a"


@pytest.mark.parametrize(
    "text", ["CN", "CN=", "=a", "XYZ=a", "CN=a,,O=b", "C=DEU", "CN=" + "a" * 65, "CN=" + "a" * 3000, "CN=a\\"]
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(MalformedRequest):
        name_from_text(text)

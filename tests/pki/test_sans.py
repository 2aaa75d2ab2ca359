"""Subject alternative names as text, and the otherName types of devices."""

from __future__ import annotations

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import MalformedRequest
from gateway.pki import der
from gateway.pki.sans import (
    ON_HARDWARE_MODULE_NAME,
    ON_PERMANENT_IDENTIFIER,
    ON_USER_PRINCIPAL_NAME,
    HardwareModuleName,
    PermanentIdentifier,
    san_from_text,
    san_to_text,
)

TEXTS = [
    "DNS:plc-7.plant.example",
    "IP:192.0.2.7",
    "IP:2001:db8::7",
    "URI:urn:plc-7",
    "email:line3@plant.example",
    "HMN:1.3.6.1.4.1.32473.1:0a1b",
    "PID:1.3.6.1.4.1.32473.2:4711",
    "PID::4711",
    "PID:1.2.3:",
    "UPN:device@plant.example",
    "other:1.2.3.4:0c0161",
    "RID:1.2.3",
    "DN:CN=a,O=b",
]


@pytest.mark.parametrize("text", TEXTS)
def test_text_comes_back(text: str) -> None:
    assert san_to_text(san_from_text(text)) == text


def test_hardware_module_name_is_encoded_as_rfc_4108_says() -> None:
    name = san_from_text("HMN:1.2.3:0a1b")
    assert isinstance(name, x509.OtherName)
    assert name.value.hex() == "300806022a0304020a1b"


@given(st.binary(min_size=1, max_size=40))
def test_hardware_module_names_come_back(serial: bytes) -> None:
    assert HardwareModuleName.decode(HardwareModuleName("1.2.3", serial).encode()) == HardwareModuleName("1.2.3", serial)


@pytest.mark.parametrize("value", [None, "4711"])
@pytest.mark.parametrize("assigner", [None, "1.2.3"])
def test_permanent_identifiers_come_back(value: str | None, assigner: str | None) -> None:
    assert PermanentIdentifier.decode(PermanentIdentifier(value, assigner).encode()) == PermanentIdentifier(value, assigner)


@pytest.mark.parametrize(
    "text",
    [
        "", "DNS", "DNS:", "dns:a", "FOO:a", "IP:1.2.3", "IP:192.0.2.0/24", "DNS:ä", "URI:ä", "email:ä", "HMN:1.2.3",
        "HMN:1.2.3:", "HMN:1.2.3:0", "HMN:1.2.3:zz", "HMN:9.9:00", "HMN::00",
        "PID:a", "PID:x:y", "other:1.2", "other:x:00", "RID:x", "RID:1",
        "DN:CN", "DNS:" + "a" * 5000,
    ],
)  # fmt: skip
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(MalformedRequest):
        san_from_text(text)


@pytest.mark.parametrize(
    "data", [b"", b"\x30\x00", der.sequence(der.oid("1.2"), der.octet_string(b"")), der.sequence(der.oid("1.2"), der.null())]
)
def test_broken_hardware_module_names_are_refused_and_shown_raw(data: bytes) -> None:
    with pytest.raises(MalformedRequest):
        HardwareModuleName.decode(data)
    assert san_to_text(x509.OtherName(ON_HARDWARE_MODULE_NAME, data)) == f"other:1.3.6.1.5.5.7.8.4:{data.hex()}"


@pytest.mark.parametrize("oid", [ON_PERMANENT_IDENTIFIER, ON_USER_PRINCIPAL_NAME])
def test_other_broken_names_are_shown_raw(oid: x509.ObjectIdentifier) -> None:
    assert san_to_text(x509.OtherName(oid, b"\x05\x00")) == f"other:{oid.dotted_string}:0500"


def test_a_type_without_text_is_refused() -> None:
    class Other(x509.GeneralName):
        value = None

    with pytest.raises(MalformedRequest, match="Other"):
        san_to_text(Other())

"""The names of an IDevID are the order's, whatever the device asked for."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import MalformedRequest
from gateway.pki.names import name_to_text
from gateway.pki.sans import san_to_text
from provisioning.idevid import named, product_uri, subject_of
from tests.support.authority import device_csr
from tests.support.line import order_of

KEY = ec.derive_private_key(7, ec.SECP256R1())


def test_the_device_chooses_nothing() -> None:
    csr = device_csr("CN=root,O=Evil", ["DNS:evil.example"])
    made = named(order_of(subject=("C=DE", "O=Acme", "CN={product} {serial}")), "SN-00042", csr)
    assert name_to_text(made.subject) == "serialNumber=SN-00042,CN=PLC 7 SN-00042,O=Acme,C=DE"
    assert [san_to_text(name) for name in made.san] == [
        f"HMN:1.3.6.1.4.1.32473.1:{b'SN-00042'.hex()}",
        "URI:https://acme.example/SN-00042",
    ]
    assert (made.spki, made.der, made.extensions) == (csr.spki, csr.der, ())


def test_an_order_without_hardware_type_and_uri_has_no_alternative_names() -> None:
    order = order_of(hardware_type="", uri="")
    assert named(order, "SN-00001", device_csr("CN=x")).san == ()
    assert product_uri(order, "SN-00001") == ""


@given(st.text(alphabet=st.sampled_from("AZaz09 ()+,.:=?-"), min_size=1, max_size=40).filter(lambda text: text[0].isalnum()))
def test_any_serial_number_is_one_attribute_and_comes_back(serial: str) -> None:
    made = named(order_of(numbers=None, serials=("*",), uri=""), serial, device_csr("CN=x"))
    (attribute,) = made.subject.get_attributes_for_oid(x509.NameOID.SERIAL_NUMBER)
    assert attribute.value == serial
    assert len(list(made.subject)) == 2


def test_a_product_with_signs_of_a_name_stays_one_attribute() -> None:
    assert subject_of(order_of(product='A, "B"+C=1'), "1").endswith('O=A\\, \\"B\\"\\+C\\=1')


def test_a_template_that_makes_no_name_is_said_so() -> None:
    with pytest.raises(MalformedRequest):
        named(order_of(subject=("nonsense",)), "1", device_csr("CN=x"))
    with pytest.raises(MalformedRequest):
        named(order_of(hardware_type="not.an.oid"), "1", device_csr("CN=x"))

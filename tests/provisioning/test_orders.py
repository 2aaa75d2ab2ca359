"""Work orders: one spelling, one gateway, strict about what they say."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConfigError, Forbidden, IntegrityError, MalformedRequest
from gateway.journal.statements import sign_statement
from provisioning.device import KeyOrigin
from provisioning.order_files import order_from_toml, sign_file
from provisioning.orders import KIND, MOST_OCTETS, NumberRange, WorkOrder, filled, open_order, sign_order
from tests.support.line import ORDER_KEY, ORDER_VKEY, ORIGIN, order_of, signed

OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


@pytest.mark.parametrize(
    "order",
    [
        order_of(),
        order_of(numbers=None, serials=("SN-1", "SN-2026-*"), stations=("port:p?",), recipe="0" * 64, driver="linux"),
        order_of(key_origin=KeyOrigin.POOL, key_type="rsa-2048", lock=False, label="plate", ticket=True, overdue="revoke"),
    ],
    ids=["numbers", "serials", "everything else"],
)
def test_an_order_comes_back_from_its_signed_octets(order: WorkOrder) -> None:
    assert open_order(signed(order), [ORDER_VKEY]) == order


def body(**changes: Any) -> bytes:
    table = json.loads(order_of().to_bytes()) | changes
    return json.dumps(
        {key: value for key, value in table.items() if value != "REMOVED"}, sort_keys=True, separators=(",", ":")
    ).encode()


MALFORMED = {
    "another format": ({"format": 2}, "newer software"),
    "a key too many": ({"speed": 1}, "does not know: speed"),
    "a key too few": ({"credit": "REMOVED"}, "credit"),
    "no id": ({"id": ""}, "id"),
    "a path as id": ({"id": "../O-1"}, "id"),
    "version 0": ({"version": 0}, "version"),
    "no product": ({"product": ""}, "product"),
    "negative credit": ({"credit": -1}, "credit"),
    "endless credit": ({"credit": 10**9, "numbers": None, "serials": ["*"]}, "credit must be at most"),
    "more credit than numbers": ({"credit": 10_001}, "fewer serial numbers"),
    "numbers and serials": ({"serials": ["SN-1"]}, "either numbers"),
    "neither numbers nor serials": ({"numbers": None}, "either numbers"),
    "a range backwards": ({"numbers": {"prefix": "S", "first": 9, "last": 1, "digits": 3}, "credit": 0}, "do not fit"),
    "a range with another key": ({"numbers": {"prefix": "S", "first": 1, "last": 9}}, "prefix, first, last"),
    "a prefix with a slash": ({"numbers": {"prefix": "a/", "first": 1, "last": 900, "digits": 3}}, "no serial number"),
    "a serial number with a slash": ({"numbers": None, "serials": ["a/b"]}, "no serial number"),
    "an unknown key type": ({"key_type": "rsa-512"}, "key_type"),
    "an unknown key origin": ({"key_origin": "cloud"}, "key_origin"),
    "a flag that is none": ({"lock": 1}, "lock must be true or false"),
    "texts that are none": ({"stations": ["a", 1]}, "stations must be a list"),
    "a digest that is none": ({"recipe": "abc"}, "recipe"),
    "another way to be overdue": ({"overdue": "ignore"}, "overdue"),
    "an unknown placeholder": ({"uri": "https://x/{mac}"}, "no {mac}"),
    "a placeholder in the subject": ({"subject": ["O={owner}"]}, "no {owner}"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_an_order_that_cannot_be_carried_out_is_refused_with_the_key(name: str) -> None:
    changes, named = MALFORMED[name]
    document = sign_statement(KIND, body(**changes), "orders.test", ORDER_KEY)
    with pytest.raises(MalformedRequest) as caught:
        open_order(document, [ORDER_VKEY])
    assert named in str(caught.value)


def test_another_spelling_of_the_same_order_is_refused() -> None:
    spaced = json.dumps(json.loads(order_of().to_bytes())).encode()
    with pytest.raises(MalformedRequest, match="canonical"):
        WorkOrder.from_bytes(spaced)


def test_only_a_listed_key_makes_an_order_count() -> None:
    with pytest.raises(IntegrityError):
        open_order(sign_order(order_of(), "orders.test", OTHER_KEY), [ORDER_VKEY])
    with pytest.raises(IntegrityError, match="order_keys"):
        open_order(signed(order_of()), [])
    with pytest.raises(IntegrityError):
        open_order(sign_statement("desired", order_of().to_bytes(), "orders.test", ORDER_KEY), [ORDER_VKEY])
    with pytest.raises(MalformedRequest, match="at most"):
        open_order(b"x" * (MOST_OCTETS + 1), [ORDER_VKEY])


@given(st.integers(0, 10**6), st.integers(0, 1000), st.integers(1, 9), st.integers(0, 2000))
def test_a_range_gives_out_what_it_contains_and_nothing_else(first: int, span: int, digits: int, index: int) -> None:
    numbers = NumberRange("SN-", first, first + span, digits)
    if index <= span:
        assert numbers.serial(index) in numbers
    else:
        with pytest.raises(Forbidden, match="used up"):
            numbers.serial(index)
    assert numbers.serial_of(first + span + 1) not in numbers
    assert "SN-" not in numbers
    assert "SN-²" not in numbers
    assert 7 not in numbers


def test_leading_zeros_are_part_of_a_serial_number() -> None:
    order = order_of()
    assert order.allows("SN-00001")
    assert not order.allows("SN-1")
    assert not order.allows("SN-000001")
    assert not order.allows("SN-00000")


@pytest.mark.parametrize(("serial", "allowed"), [("A-1", True), ("B-77", True), ("B-", False), ("a-1", False), ("B-7/", False)])
def test_an_allow_list_has_numbers_and_patterns(serial: str, allowed: bool) -> None:
    assert order_of(numbers=None, serials=("A-1", "B-?*")).allows(serial) is allowed


@pytest.mark.parametrize(
    ("changes", "use", "reason"),
    [
        ({"expires": 1000}, {"now_ms": 1000}, "has expired"),
        ({"stations": ("port:a*",)}, {}, "not for station port:p1"),
        ({"driver": "linux"}, {"driver": "uboot"}, "for devices of driver linux"),
        ({"recipe": "0" * 64}, {"recipe": "1" * 64}, "another recipe"),
    ],
    ids=["time", "station", "driver", "recipe"],
)
def test_an_order_binds_time_place_driver_and_recipe(changes: Any, use: Any, reason: str) -> None:
    whole = {"station": "port:p1", "driver": "linux", "recipe": "", "now_ms": 999} | use
    order_of().check_use(**whole)
    with pytest.raises(Forbidden, match=reason):
        order_of(**changes).check_use(**whole)


def test_placeholders_are_filled_once_and_never_evaluated() -> None:
    assert filled("{serial}-{product}", {"serial": "{product}", "product": "P"}) == "{product}-P"
    with pytest.raises(MalformedRequest):
        filled("{serial.__class__}{}", {"serial": "x"})


ORDER_TOML = """
id = "O-2026-17"
product = "PLC 7"
profile = "idevid"
credit = 5
expires = 2030-12-31T23:59:59Z
key_origin = "pool"
numbers = { prefix = "SN-", first = 1, last = 5, digits = 6 }
"""


def test_an_order_written_as_toml_is_signed_and_counts() -> None:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem = ORDER_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    order = order_from_toml(ORDER_TOML, ORIGIN)
    document, vkey = sign_file(order, pem, "orders.test")
    assert vkey == ORDER_VKEY
    opened = open_order(document, [vkey])
    assert opened == order
    assert (opened.expires, opened.key_origin, opened.version) == (1_924_991_999_000, KeyOrigin.POOL, 1)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("id = ", "not valid TOML"),
        (ORDER_TOML.replace('id = "O-2026-17"', ""), "says no id"),
        (ORDER_TOML + "colour = 'red'", "unknown keys: colour"),
        (ORDER_TOML.replace("23:59:59Z", "23:59:59"), "time zone"),
        (ORDER_TOML.replace("credit = 5", "credit = 6"), "fewer serial numbers"),
        (ORDER_TOML.replace("credit = 5", "credit = 5.5"), "nothing that an order can hold"),
    ],
    ids=["toml", "missing", "unknown", "zone", "range", "fraction"],
)
def test_a_wrong_order_file_says_which_key(text: str, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        order_from_toml(text, ORIGIN)


def test_a_key_of_another_kind_signs_no_order() -> None:
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    for key in (pem, b"no key"):
        with pytest.raises(ConfigError):
            sign_file(order_of(), key, "x")


def test_every_field_of_an_order_travels() -> None:
    assert set(json.loads(order_of().to_bytes())) == {item.name for item in dataclasses.fields(WorkOrder)} | {"format"}

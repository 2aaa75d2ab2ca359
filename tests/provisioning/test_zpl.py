"""ZPL: whatever a text has in it, it stays a text."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import MalformedRequest
from provisioning.labels import Label, QrCode, Values, fill, parse_template
from provisioning.zpl import render
from tests.support.label_templates import VALUES, one, plate

PLATE = parse_template(plate())
FIELD = re.compile(rb"\^FD(.*?)\^FS", re.DOTALL)


def commands(zpl: bytes) -> list[bytes]:
    """The commands alone, without their parameters and without any data."""
    return re.findall(rb"[\^~][A-Z0-9@]{2}", FIELD.sub(b"^FD^FS", zpl))


def data(zpl: bytes) -> list[str]:
    """What the fields say once the printer has undone the hex."""
    return [
        re.sub(rb"_([0-9A-F]{2})", lambda match: bytes.fromhex(match[1].decode()), each).decode() for each in FIELD.findall(zpl)
    ]


def test_a_label_says_what_the_template_and_the_unit_say() -> None:
    assert data(render(fill(PLATE, VALUES, reprint=2))) == [
        "Förderantrieb Größe 7",
        "S/N D7-000123 {2026-11-29}",
        "A-2026-17",
        "reprint 2",
        "QA,https://id.example.com/D7-000123",
        "D7-000123",
    ]


def test_a_label_is_one_format_of_its_size() -> None:
    zpl = render(fill(PLATE, VALUES))
    assert zpl.startswith(b"^XA^CI28^PW709^LL354^LH0,0^PQ1^FO")
    assert zpl.endswith(b"^FS^XZ\n")


HOSTILE = [
    "^XZ^XA^IDR:*.*^XZ",
    "~JA",
    "~DGR:X.GRF,1,1,FF",
    "_5EXZ",
    "^FS^FDx",
    "a_b",
    "{serial}",
    "^~_\\,|",
    "QA,",
    "\\&",
    "Ünï€😀",
]


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("name", ["product", "order", "date"])
def test_no_text_is_a_command(name: str, text: str) -> None:
    zpl = render(fill(PLATE, replace(VALUES, **{name: text})))
    assert commands(zpl) == commands(render(fill(PLATE, VALUES)))
    assert any(text in each for each in data(zpl))


@given(st.text(max_size=12), st.text(max_size=20), st.text(max_size=20))
def test_whatever_the_texts_are_the_commands_are_the_same(order: str, product: str, date: str) -> None:
    try:
        label = fill(PLATE, replace(VALUES, order=f"x{order}", product=f"x{product}", date=date))
    except MalformedRequest:
        return
    zpl = render(label)
    assert commands(zpl) == commands(render(fill(PLATE, VALUES)))
    assert data(zpl)[0] == f"x{product}".strip()
    assert zpl.isascii()


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=20))
def test_no_code_is_a_command(serial: str) -> None:
    values = Values(serial, "p", "o", "urn:x:" + serial)
    try:
        zpl = render(fill(PLATE, values))
    except MalformedRequest:
        assert "|" in serial
        return
    assert data(zpl)[-2:] == ["QA,urn:x:" + serial, serial]
    assert zpl.count(b"^XZ") == 1


def test_a_data_matrix_with_the_escape_of_the_printer_is_refused() -> None:
    with pytest.raises(MalformedRequest, match="Data Matrix"):
        render(fill(PLATE, replace(VALUES, serial="a|b")))


def test_modules_that_a_printer_does_not_have_are_refused() -> None:
    code = QrCode("urn:x:1", 5, 5, 1.0)
    with pytest.raises(MalformedRequest, match="10 dots"):
        render(Label(PLATE.format, (code,), "1"))


def test_a_line_is_at_least_a_dot() -> None:
    line = "[[line]]\nx_mm = 1.0\ny_mm = 1.0\nwidth_mm = 10.0\nheight_mm = 0.01"
    assert b"^GB118,1,1^FS" in render(fill(parse_template(one(line)), VALUES))

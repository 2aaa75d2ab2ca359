"""Label templates: what is said when one is wrong, what goes into a label, and what a scan of it confirms."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import ConfigError, MalformedRequest
from provisioning.labels import Label, QrCode, Text, Values, code_modules, fill, frame, parse_template, scanned_back
from tests.support.label_templates import VALUES, one, plate

PLATE = parse_template(plate())
TEXT = '[[text]]\nvalue = "VALUE"\nx_mm = 1.0\ny_mm = 1.0\nheight_mm = 3.0'
QR = '[[qr]]\nvalue = "VALUE"\nx_mm = 4.0\ny_mm = 3.0\nmodule_mm = 0.5'
MATRIX = '[[datamatrix]]\nvalue = "VALUE"\nx_mm = 4.0\ny_mm = 3.0\nmodule_mm = 0.5'


def texts(label: Label) -> list[str]:
    return [each.value for each in label.elements if isinstance(each, Text)]


def test_a_label_has_the_texts_of_the_unit() -> None:
    label = fill(PLATE, VALUES)
    assert texts(label) == ["Förderantrieb Größe 7", "S/N D7-000123 {2026-11-29}", "A-2026-17"]
    assert label.codes == ("https://id.example.com/D7-000123", "D7-000123")


def test_a_reprint_is_marked_and_the_first_print_is_not() -> None:
    assert not any("reprint" in text for text in texts(fill(PLATE, VALUES)))
    for number in (1, 2, 17):
        assert f"reprint {number}" in texts(fill(PLATE, VALUES, reprint=number))
    german = parse_template(one("", reprint_text="Nachdruck {n}"))
    assert texts(fill(german, VALUES, reprint=3)) == ["Nachdruck 3"]


def test_a_value_that_looks_like_a_placeholder_is_none() -> None:
    label = fill(parse_template(one(TEXT.replace("VALUE", "{product}"))), replace(VALUES, product="{serial} {{x}}"))
    assert texts(label) == ["{serial} {{x}}"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x", "not valid TOML"),
        ("a" * 70_000, "at most"),
        ("", "needs a table"),
        ("[label]\nname = 'x'", "width_mm is missing"),
        (plate().replace("name =", "nmae ="), "unknown key label.nmae"),
        (plate().replace("dpi = 300", "dpi = 301"), "dpi"),
        (plate().replace("dpi = 300", "dpi = true"), "label.dpi"),
        (plate().replace("width_mm = 60.0", "width_mm = '60'"), "label.width_mm"),
        (plate().replace("width_mm = 60.0", "width_mm = 600.0"), "200 mm wide"),
        (plate().replace("[[line]]", "[[circle]]"), "unknown table"),
        (plate().replace("[[qr]]", "[qr]"), "two brackets"),
        (plate().replace("bold = true", "bold = 1"), r"text\[0\].bold"),
        (plate().replace("height_mm = 3.5", "height_mm = 0.5"), "letters"),
        (plate().replace("module_mm = 0.5", "module_mm = 0.1"), "two dots"),
        (plate().replace("frame = true", "correction = 'L'"), "M, Q or H"),
        (plate().replace("{order}", "{ordr}"), "unknown placeholder {ordr}"),
        (plate().replace("{order}", "{order"), "unknown placeholder {"),
        (plate().replace("{order}", "{order.__class__}"), "unknown placeholder"),
        (plate().replace("{order}", "{0}"), "unknown placeholder"),
        (plate().replace('"{reprint}"', '"copy"'), "reprint"),
        (plate().replace('"{uri}"', '"{uri}{reprint}"'), "on every print"),
        (one("", reprint_text="again"), "{n}"),
    ],
    ids=map(str, range(22)),
)
def test_a_wrong_template_is_refused_with_the_place(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_template(text)


@pytest.mark.parametrize("name", ["serial", "product", "order", "uri", "date"])
@pytest.mark.parametrize("value", ["a\nb", "a\x00", "\x1b[2J", "a\u2028b", "a\u202eb", "\ud800", "x" * 256])
def test_values_that_cannot_be_printed_are_refused(name: str, value: str) -> None:
    with pytest.raises(MalformedRequest, match=name):
        fill(PLATE, replace(VALUES, **{name: value}))


@pytest.mark.parametrize("uri", ["", "https://müller.example/1", "https://e.example/" + "x" * 200])
def test_a_code_that_cannot_be_made_is_refused(uri: str) -> None:
    with pytest.raises(MalformedRequest):
        fill(PLATE, replace(VALUES, uri=uri))


def test_a_code_that_grows_over_the_edge_or_over_a_text_is_refused() -> None:
    small = parse_template(one(QR.replace("VALUE", "{uri}"), width=20, height=25))
    assert fill(small, replace(VALUES, uri="urn:a:1")).codes == ("urn:a:1",)
    with pytest.raises(MalformedRequest, match="does not fit"):
        fill(small, replace(VALUES, uri="https://id.example.com/D7-000123"))
    crowded = parse_template(one(MATRIX.replace("VALUE", "{serial}") + "\n" + TEXT.replace("VALUE", "{product}")))
    with pytest.raises(MalformedRequest, match="quiet zone of the Data Matrix"):
        fill(crowded, VALUES)


def test_a_line_in_the_quiet_zone_of_a_code_is_refused() -> None:
    line = "[[line]]\nx_mm = 2.5\ny_mm = 1.0\nwidth_mm = 0.3\nheight_mm = 10.0"
    with pytest.raises(MalformedRequest, match="a line lies in the quiet zone"):
        fill(parse_template(one(QR.replace("VALUE", "{uri}") + "\n" + line)), VALUES)


def test_a_long_text_gets_smaller_letters_until_nobody_could_read_it() -> None:
    template = parse_template(one(TEXT.replace("VALUE", "{product}") + "\nwidth_mm = 20.0"))
    short, long = (fill(template, replace(VALUES, product="x" * length)).elements[-1] for length in (5, 20))
    assert isinstance(short, Text)
    assert isinstance(long, Text)
    assert (short.height_mm, long.height_mm < 3.0) == (3.0, True)
    with pytest.raises(MalformedRequest, match="too long"):
        fill(template, replace(VALUES, product="x" * 40))


def test_a_text_without_anything_in_it_takes_no_place() -> None:
    assert fill(parse_template(one(TEXT.replace("VALUE", " {order} "))), replace(VALUES, order="")).elements == ()


def test_a_qr_code_too_long_for_any_version_is_refused() -> None:
    with pytest.raises(MalformedRequest, match="do not fit"):
        code_modules(QrCode("x" * 300, 0, 0, 0.5))
    assert [code_modules(QrCode("x" * size, 0, 0, 0.5)) for size in (11, 12, 258)] == [21, 25, 73]


def test_the_frame_lies_around_the_quiet_zone() -> None:
    code = QrCode("x", 10, 10, 0.5)
    bars = list(frame(code, PLATE.format))
    module, left = 6, 118
    assert bars[0] == (left - 5 * module, left - 5 * module, 31 * module, module)
    inner = left - 4 * module, left + (21 + 4) * module
    assert min(x for x, _, _, _ in bars) == left - 5 * module
    assert max(x + width for x, _, width, _ in bars) == inner[1] + module


@pytest.mark.parametrize(
    "scanned",
    [
        "D7-000123",
        "https://id.example.com/D7-000123",
        " D7-000123\r\n",
        "]d2D7-000123",
        "]Q1https://id.example.com/D7-000123\n",
    ],
)
def test_a_scan_of_its_codes_or_its_serial_number_confirms_a_label(scanned: str) -> None:
    assert scanned_back(scanned, fill(PLATE, VALUES)) == ""
    assert scanned_back(scanned, fill(PLATE, VALUES, reprint=2)) == ""


@pytest.mark.parametrize(
    "scanned", ["D7-000124", "D7-00012", "https://id.example.com/D7-000124", "", "\n", "]", "]d2", "START"]
)
def test_a_scan_of_anything_else_says_what_to_do(scanned: str) -> None:
    sentence = scanned_back(scanned, fill(PLATE, VALUES))
    assert "Scan" in sentence
    assert sentence.endswith(".")


@given(st.builds(Values, *[st.text(max_size=30)] * 5), st.integers(0, 99))
def test_filling_gives_a_label_or_says_why_not(values: Values, reprint: int) -> None:
    try:
        label = fill(PLATE, values, reprint=reprint)
    except MalformedRequest:
        return
    assert label.codes == tuple(dict.fromkeys((values.uri, values.serial)))

"""Labels as others read them: zbarimg and dmtxread on pictures, on pages of a PDF, and on what a renderer makes of our ZPL."""

from __future__ import annotations

import random
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from gateway.errors import ConfigError
from provisioning import zpl
from provisioning.datamatrix import square
from provisioning.labels import Label, Text, fill, parse_template
from provisioning.rendering import FONTS, pdf, picture, png
from tests.support.label_templates import SMALL, VALUES, one, plate
from tests.support.scanners import data_matrix, draw_zpl, page_sizes, pages, qr_codes

DPIS = (203, 300, 600)
URI, SERIAL = VALUES.uri, VALUES.serial


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("dpi", DPIS)
def test_scanners_read_the_codes_of_the_picture(tmp_path: Path, dpi: int) -> None:
    image = written(tmp_path / "label.png", png(fill(parse_template(plate(dpi)), VALUES)))
    assert qr_codes(image) == [URI]
    assert data_matrix(image) == SERIAL


@pytest.mark.parametrize("dpi", DPIS)
def test_scanners_read_the_codes_of_each_page(tmp_path: Path, dpi: int) -> None:
    template = parse_template(plate(dpi))
    units = [replace(VALUES, serial=f"D7-{number}", uri=f"https://id.example.com/D7-{number}") for number in (1, 2, 3)]
    document = written(tmp_path / "labels.pdf", pdf([fill(template, unit) for unit in units]))
    images = pages(document, 300)
    assert [qr_codes(image) for image in images] == [[unit.uri] for unit in units]
    assert [data_matrix(image) for image in images] == [unit.serial for unit in units]


@pytest.mark.parametrize("dpi", DPIS)
def test_scanners_read_the_smallest_code_of_a_small_label(tmp_path: Path, dpi: int) -> None:
    label = fill(parse_template(SMALL.replace("DPI", str(dpi))), VALUES)
    drawn = tmp_path / "printed.png"
    draw_zpl(zpl.render(label), drawn, 25, 10, dpi)
    image = written(tmp_path / "label.png", png(label))
    (page,) = pages(written(tmp_path / "label.pdf", pdf([label])), 600)
    assert [data_matrix(each) for each in (drawn, image, page)] == [URI] * 3


def test_a_page_has_the_size_of_the_label(tmp_path: Path) -> None:
    document = written(tmp_path / "labels.pdf", pdf([fill(parse_template(plate()), VALUES)]))
    (size,) = page_sizes(document)
    width, _, height, *_ = size.split()
    assert (float(width) / 72 * 25.4, float(height) / 72 * 25.4) == pytest.approx((60, 30), abs=0.05)


def test_a_pdf_is_one_that_strict_readers_take(tmp_path: Path) -> None:
    document = written(tmp_path / "labels.pdf", pdf([fill(parse_template(plate()), VALUES)] * 2))
    done = subprocess.run(["pdfinfo", str(document)], capture_output=True, check=True)
    assert done.stderr == b""
    assert b"Pages:           2" in done.stdout


@pytest.mark.parametrize("dpi", [203, 300])
@pytest.mark.parametrize(
    "values",
    [
        VALUES,
        replace(VALUES, serial="a_b~c^d,e:f\\g", uri="https://id.example.com/?a=1&b=2~_x%5E#f", product="^XZ~JA_5E"),
    ],
    ids=["plain", "hostile"],
)
def test_scanners_read_the_codes_that_a_printer_makes_of_our_zpl(tmp_path: Path, dpi: int, values: object) -> None:
    label = fill(parse_template(plate(dpi)), values)  # type: ignore[arg-type]
    drawn = tmp_path / "printed.png"
    draw_zpl(zpl.render(label), drawn, 60, 30, dpi)
    assert qr_codes(drawn) == [label.codes[0]]
    assert data_matrix(drawn) == label.codes[1]


def test_the_printer_and_we_draw_the_codes_in_the_same_place(tmp_path: Path) -> None:
    label = fill(parse_template(plate(203)), VALUES)
    drawn = tmp_path / "printed.png"
    draw_zpl(zpl.render(label), drawn, 60, 30, 203)
    printed = Image.open(drawn).convert("1")
    ours = picture(label)
    code = (20, 20, 200, 200)  # frame, quiet zone and QR code; masks may differ, edges may not
    shift = (printed.width - ours.width) // 2  # the renderer centres the label on its canvas
    theirs = printed.crop((code[0] + shift, code[1], code[2] + shift, code[3]))
    assert theirs.convert("L").point(lambda value: 255 - value).getbbox() == ours.crop(code).convert("L").point(
        lambda value: 255 - value
    ).getbbox()  # fmt: skip


def test_a_code_without_its_quiet_zone_would_not_be_read(tmp_path: Path) -> None:
    """The control: what fill() refuses is what scanners cannot read."""
    image = picture(fill(parse_template(plate()), VALUES))
    image.paste(0, (0, 0, 47 + 6 * 2, image.height))  # black up to the code's second module
    image.save(tmp_path / "spoilt.png")
    assert qr_codes(tmp_path / "spoilt.png") == []


@pytest.mark.parametrize("dpi", DPIS)
def test_text_is_in_its_place_and_not_wider(dpi: int) -> None:
    text = '[[text]]\nvalue = "{product}"\nx_mm = 5.0\ny_mm = 5.0\nheight_mm = 4.0\nwidth_mm = 30.0'
    template = parse_template(one(text, dpi=dpi))
    for product in ("W" * 12, "ÄÖÜßäöü", "i" * 40):
        label = fill(template, replace(VALUES, product=product))
        box = picture(label).convert("L").point(lambda value: 255 - value).getbbox()
        assert box is not None
        left, top, right, bottom = (side * 25.4 / dpi for side in box)
        assert left >= 4.8
        assert right <= 35.3
        assert 4.8 <= top < bottom <= 10


def test_umlauts_are_letters_of_the_font_and_not_boxes() -> None:
    def drawn(value: str) -> bytes:
        label = fill(parse_template(one("")), VALUES)
        return picture(Label(label.format, (Text(value, 5, 5, 8, 30),), "x")).tobytes()

    missing = drawn("\ue123")
    assert len({drawn(letter) for letter in "ÄÖÜäöüßéçñ€"} | {missing}) == 12


def test_every_size_of_data_matrix_is_read(tmp_path: Path) -> None:
    chance = random.Random(7)
    for length in (1, 4, 7, 12, 18, 22, 30, 36, 44, 60, 84, 110, 140, 170, 200, 270):
        text = "".join(chance.choice("abcdXYZ:/.-_~% 0123456789") for _ in range(length))
        rows = square(text)
        image = Image.new("1", (len(rows) + 4,) * 2, 1)
        image.putdata([0 if dark else 1 for row in framed(rows) for dark in row])
        image.resize((image.width * 6,) * 2).save(tmp_path / "code.png")
        assert data_matrix(tmp_path / "code.png") == text, length


def framed(rows: tuple[tuple[bool, ...], ...]) -> list[tuple[bool, ...]]:
    empty = (False,) * (len(rows) + 4)
    return [empty, empty, *((False, False, *row, False, False) for row in rows), empty, empty]


def test_without_fonts_it_is_said_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fonts-dejavu-core"):
        png(fill(parse_template(plate()), VALUES), fonts=tmp_path)
    assert (FONTS / "DejaVuSans.ttf").exists()

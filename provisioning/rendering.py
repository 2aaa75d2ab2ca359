"""A label as a picture (PNG) and as a page (PDF), for printers that speak no ZPL and for looking at it.

Both are the same dots, black or white, so the page shows what the picture does. Texts are set in DejaVu Sans, which Debian and
Ubuntu have in ``fonts-dejavu-core``; a text that is wider than its place is set in smaller letters. Everything here computes:
callers on the event loop use a thread.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import segno
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from gateway.errors import ConfigError
from provisioning import datamatrix
from provisioning.labels import DataMatrix, Element, Format, Label, Line, QrCode, Text, frame

FONTS: Final = Path("/usr/share/fonts/truetype/dejavu")
_POINTS_PER_INCH: Final = 72
_WHITE, _BLACK = 1, 0


def picture(label: Label, *, fonts: Path = FONTS) -> Image.Image:
    """One bit for each dot. Raises ConfigError without fonts, MalformedRequest for a code whose text does not fit."""
    own = label.format
    canvas = Image.new("1", (own.dots(own.width_mm), own.dots(own.height_mm)), _WHITE)
    draw = ImageDraw.Draw(canvas)
    draw.fontmode = "1"  # letters that were hinted for black and white: grey ones lose their thin strokes
    for element in label.elements:
        _paint(draw, element, own, fonts)
    return canvas


def png(label: Label, *, fonts: Path = FONTS) -> bytes:
    """A PNG that knows its resolution and the serial number whose it is."""
    facts = PngImagePlugin.PngInfo()
    facts.add_itxt("Title", label.serial)
    buffer = io.BytesIO()
    picture(label, fonts=fonts).save(buffer, "PNG", dpi=(label.format.dpi,) * 2, pnginfo=facts, optimize=True)
    return buffer.getvalue()


def pdf(labels: Sequence[Label], *, fonts: Path = FONTS) -> bytes:
    """A page of the label's size for each label (ISO 32000-1), its dots as a picture of one bit."""
    objects = [b"<< /Type /Catalog /Pages 2 0 R >>", b""]
    pages = []
    for label in labels:
        image = picture(label, fonts=fonts)
        width, height = (side * _POINTS_PER_INCH / label.format.dpi for side in image.size)
        page = len(objects) + 1
        pages.append(b"%d 0 R" % page)
        objects += [
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 {width:.3f} {height:.3f}] /Contents {page + 1} 0 R"
            f" /Resources << /XObject << /L {page + 2} 0 R >> >> >>".encode(),
            _stream("", f"q {width:.3f} 0 0 {height:.3f} 0 0 cm /L Do Q".encode()),
            _stream(
                f"/Type /XObject /Subtype /Image /Width {image.width} /Height {image.height} /ColorSpace /DeviceGray"
                " /BitsPerComponent 1 /Interpolate false",
                image.tobytes(),
            ),
        ]
    objects[1] = b"<< /Type /Pages /Count %d /Kids [%s] >>" % (len(pages), b" ".join(pages))
    return _document(objects)


def _stream(entries: str, content: bytes) -> bytes:
    packed = zlib.compress(content, 9)
    return f"<< {entries} /Filter /FlateDecode /Length {len(packed)} >>\nstream\n".encode() + packed + b"\nendstream"


def _document(objects: Sequence[bytes]) -> bytes:
    written = bytearray(b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n")
    offsets = []
    for number, content in enumerate(objects, start=1):
        offsets.append(len(written))
        written += b"%d 0 obj\n" % number + content + b"\nendobj\n"
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    start = len(written)
    written += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1) + table
    written += b"trailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
    return bytes(written)


def _paint(draw: ImageDraw.ImageDraw, element: Element, own: Format, fonts: Path) -> None:
    x, y = own.dots(element.x_mm), own.dots(element.y_mm)
    match element:
        case Text():
            font = _font(element, own, fonts)
            draw.text((x, y), element.value, fill=_BLACK, font=font, anchor="la")
        case QrCode():
            if element.frame:
                for bar in frame(element, own):
                    _bar(draw, *bar)
            code = segno.make(element.value, error=element.correction.lower(), micro=False, boost_error=False, encoding="utf-8")
            _modules(draw, x, y, own.module_dots(element.module_mm), [[bool(dark) for dark in row] for row in code.matrix])
        case DataMatrix():
            _modules(draw, x, y, own.module_dots(element.module_mm), datamatrix.square(element.value))
        case Line():
            _bar(draw, x, y, max(1, own.dots(element.width_mm)), max(1, own.dots(element.height_mm)))


def _modules(draw: ImageDraw.ImageDraw, x: int, y: int, size: int, rows: Sequence[Sequence[bool]]) -> None:
    for down, row in enumerate(rows):
        for right, dark in enumerate(row):
            if dark:
                _bar(draw, x + right * size, y + down * size, size, size)


def _bar(draw: ImageDraw.ImageDraw, x: int, y: int, width: int, height: int) -> None:
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=_BLACK)


def _font(element: Text, own: Format, fonts: Path) -> ImageFont.FreeTypeFont:
    """The largest that is not too high and not too wide."""
    name = "DejaVuSans-Bold.ttf" if element.bold else "DejaVuSans.ttf"
    size = max(1, own.dots(element.height_mm))
    most = own.dots(element.width_mm)
    while (font := _load(fonts / name, size)).getlength(element.value) > most and size > 1:
        size = max(1, min(size - 1, int(size * most / font.getlength(element.value))))
    return font


@lru_cache(maxsize=64)
def _load(path: Path, size: int) -> ImageFont.FreeTypeFont:
    try:
        # Its content, because of a name Pillow would look for a font of that name elsewhere.
        return ImageFont.truetype(io.BytesIO(path.read_bytes()), size)
    except OSError as error:
        raise ConfigError(f"{path} is needed to draw labels: apt-get install fonts-dejavu-core") from error

"""Labels: a template in TOML, filled with the texts of one unit. Pure; what a printer or a file makes of it is elsewhere.

::

    [label]
    name = "type plate"
    width_mm = 50.0
    height_mm = 25.0
    dpi = 300                    # of the printer

    [[text]]
    value = "{product}"          # {serial} {product} {order} {uri} {date} {reprint}; a brace itself is {{ or }}
    x_mm = 20.0
    y_mm = 2.0
    height_mm = 3.0
    width_mm = 28.0              # smaller letters where the text is longer

    [[qr]]
    value = "{uri}"
    x_mm = 2.0
    y_mm = 2.0
    module_mm = 0.4

    [[datamatrix]]
    [[line]]                     # a filled rectangle

A template has a text with ``{reprint}``: it is empty on the first print and ``reprint n`` on the nth after it. A value goes
into the label as it is, whatever it looks like; one with control characters is refused. Everything lies on the label, and
nothing in the quiet zone of a code: four modules around a QR code (ISO/IEC 18004), one around a Data Matrix (ISO/IEC 16022).

The QR code of an identification link (IEC 61406-1) has nothing but the link in it, error correction Q, or M at least, modules
of 0.35 mm or more, and a frame with a corner filled. We read these figures in descriptions of DIN SPEC 91406, from which IEC
61406-1 was made; the standard itself and the frame's exact measures we have not seen.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Final, TypeAlias, TypeVar

from gateway.errors import ConfigError, MalformedRequest
from provisioning import datamatrix

_MM_PER_INCH: Final = 25.4
_DPIS: Final = (203, 300, 600)
_PLACEHOLDER: Final = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")
_PLACEHOLDERS: Final = ("serial", "product", "order", "uri", "date", "reprint")
#: What an identification link may be long at most; and no text on a label is longer.
_MOST_CHARACTERS: Final = 255
#: Letters smaller than this nobody reads.
_LEAST_LETTERS_MM: Final = 1.0
#: How wide a letter is on average, of its height; on the generous side for the fonts that printers and we use.
_LETTER: Final = 0.62
#: A template is written by hand.
_MOST_TEMPLATE: Final = 65_536
#: ISO/IEC 18004, table 7: octets that versions 1, 2, ... hold in byte mode.
_QR_OCTETS: Final = {
    "M": (14, 26, 42, 62, 84, 106, 122, 152, 180, 213, 251, 287),
    "Q": (11, 20, 32, 46, 60, 74, 86, 108, 130, 151, 177, 203, 241, 258),
    "H": (7, 14, 24, 34, 44, 58, 64, 84, 98, 119, 137, 155, 177, 194, 220, 250, 280),
}
QR_QUIET: Final = 4
DATA_MATRIX_QUIET: Final = 1
#: Modules between a QR code and the middle of its frame.
FRAME_DISTANCE: Final = QR_QUIET
#: AIM's identifiers that a scanner may send before the content (ISO/IEC 15424).
_SYMBOLOGY: Final = re.compile(r"\][A-Za-z][0-9A-Za-z]")


@dataclass(frozen=True, slots=True)
class Text:
    value: str
    x_mm: float
    y_mm: float
    height_mm: float
    width_mm: float = 0.0  # none given: up to the label's right edge
    bold: bool = False


@dataclass(frozen=True, slots=True)
class QrCode:
    value: str
    x_mm: float  # of its first module, without the quiet zone
    y_mm: float
    module_mm: float
    correction: str = "Q"
    frame: bool = False  # that of an identification link


@dataclass(frozen=True, slots=True)
class DataMatrix:
    value: str
    x_mm: float
    y_mm: float
    module_mm: float


@dataclass(frozen=True, slots=True)
class Line:
    x_mm: float
    y_mm: float
    width_mm: float
    height_mm: float


Element: TypeAlias = Text | QrCode | DataMatrix | Line
_Table = TypeVar("_Table")


_TABLES: Final[Mapping[str, type[Element]]] = {"text": Text, "qr": QrCode, "datamatrix": DataMatrix, "line": Line}
_NAMES: Final[Mapping[type[Element], str]] = {Text: "the text", QrCode: "the QR code", DataMatrix: "the Data Matrix"}


@dataclass(frozen=True, slots=True)
class Format:
    """The table ``[label]``."""

    name: str
    width_mm: float
    height_mm: float
    dpi: int = 300
    reprint_text: str = "reprint {n}"

    def dots(self, mm: float) -> int:
        return round(mm * self.dpi / _MM_PER_INCH)

    def module_dots(self, mm: float) -> int:
        """A module is whole dots, one at least."""
        return max(1, self.dots(mm))


@dataclass(frozen=True, slots=True)
class Template:
    format: Format
    elements: tuple[Element, ...]


@dataclass(frozen=True, slots=True)
class Values:
    """The texts of one unit."""

    serial: str
    product: str = ""
    order: str = ""
    uri: str = ""
    date: str = ""


@dataclass(frozen=True, slots=True)
class Label:
    """A template with the texts of one unit in it. ``serial`` is whose label it is."""

    format: Format
    elements: tuple[Element, ...]
    serial: str
    reprint: int = 0
    codes: tuple[str, ...] = field(default=())  # what a scanner reads from it


def parse_template(text: str) -> Template:
    """Raises ConfigError naming the table and key."""
    if len(text) > _MOST_TEMPLATE:
        raise ConfigError(f"a label template has at most {_MOST_TEMPLATE} characters")
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the label template is not valid TOML: {error}") from error
    head = tables.pop("label", None)
    if unknown := set(tables) - set(_TABLES):
        raise ConfigError(f"unknown table [[{min(unknown)}]] in the label template; there are: {', '.join(_TABLES)}")
    elements: list[Element] = []
    for name, kind in _TABLES.items():
        listed = tables.get(name, [])
        if not isinstance(listed, list):
            raise ConfigError(f"write [[{name}]] with two brackets in the label template")
        elements += [_read(kind, table, f"{name}[{index}]") for index, table in enumerate(listed)]
    template = Template(_read(Format, head, "label"), tuple(elements))
    _check(template)
    return template


def fill(template: Template, values: Values, *, reprint: int = 0) -> Label:
    """The label of one unit. ``reprint`` is 0 for its first. Raises MalformedRequest where its texts do not fit."""
    mark = template.format.reprint_text.replace("{n}", str(reprint)) if reprint else ""
    texts = {"reprint": mark, **{each.name: getattr(values, each.name) for each in fields(values)}}
    for name, text in texts.items():
        _check_text(name, text)
    elements = tuple(_filled(element, texts, template.format) for element in template.elements)
    shown = tuple(each for each in elements if not isinstance(each, Text) or each.value)
    _check_places(template.format, shown)
    codes = tuple(dict.fromkeys(each.value for each in shown if isinstance(each, QrCode | DataMatrix)))
    return Label(template.format, shown, values.serial, reprint, codes)


def scanned_back(scanned: str, label: Label) -> str:
    """What is wrong with a label that was scanned at the unit, as a sentence for the technician; empty if it is the right one.

    ``scanned`` is as the scanner typed it: perhaps with a line's end and with AIM's symbology identifier before it.
    """
    text = _SYMBOLOGY.sub("", scanned.strip(), count=1) if scanned.startswith("]") else scanned.strip()
    if not text:
        return "Nothing was scanned. Scan the code on the label again."
    if text in label.codes or text == label.serial:
        return ""
    return f"This is another label: it says {text[:80]!r}, and the unit here is {label.serial}. Scan the label on this unit."


def code_modules(element: QrCode | DataMatrix) -> int:
    """Modules of a side, without the quiet zone; at most this many for a QR code. Raises MalformedRequest."""
    if isinstance(element, DataMatrix):
        return datamatrix.side(element.value)
    size = len(element.value.encode())
    for version, capacity in enumerate(_QR_OCTETS[element.correction], start=1):
        if size <= capacity:
            return 17 + 4 * version
    raise MalformedRequest(f"{size} octets do not fit into the label's QR code")


def frame(element: QrCode, own: Format) -> Iterator[tuple[int, int, int, int]]:
    """The frame of an identification link, its corner at the right below filled, as bars: left, top, width, height in dots."""
    module = own.module_dots(element.module_mm)
    left, top = (own.dots(mm) - (FRAME_DISTANCE + 1) * module for mm in (element.x_mm, element.y_mm))
    side = (code_modules(element) + 2 * (FRAME_DISTANCE + 1)) * module
    yield left, top, side, module
    yield left, top + side - module, side, module
    yield left, top, module, side
    yield left + side - module, top, module, side
    for row in range(1, FRAME_DISTANCE * module):
        yield left + side - module - row, top + side - module - FRAME_DISTANCE * module + row, row, 1


def _read(kind: type[_Table], table: object, path: str) -> _Table:
    if not isinstance(table, dict):
        raise ConfigError(f"the label template needs a table [{path}]")
    known = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]  # each is a dataclass
    for name, value in table.items():
        if name not in known:
            raise ConfigError(f"unknown key {path}.{name} in the label template; known here: {', '.join(known)}")
        wanted = {"str": (str,), "float": (int, float), "int": (int,), "bool": (bool,)}[str(known[name].type)]
        if not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted):
            raise ConfigError(f"{path}.{name} in the label template must be of the type {known[name].type}")
    for name, each in known.items():
        if each.default is MISSING and name not in table:
            raise ConfigError(f"{path}.{name} is missing in the label template")
    return kind(**table)


def _check(template: Template) -> None:
    """What can be said before there are texts. Raises ConfigError."""
    own = template.format
    if own.dpi not in _DPIS:
        raise ConfigError(f"label.dpi is one of {', '.join(map(str, _DPIS))}")
    if not (5 <= own.width_mm <= 200 and 5 <= own.height_mm <= 300):
        raise ConfigError("a label is 5 to 200 mm wide and 5 to 300 mm high")
    if "{n}" not in own.reprint_text:
        raise ConfigError("label.reprint_text has {n} in it, the number of the reprint")
    used: set[str] = set()
    for element in template.elements:
        if not isinstance(element, Line):
            used.update(_placeholders(element.value, isinstance(element, Text)))
        if isinstance(element, QrCode) and element.correction not in _QR_OCTETS:
            raise ConfigError("the correction of a QR code is M, Q or H (IEC 61406-1: Q, or M at least)")
        if isinstance(element, QrCode | DataMatrix) and own.dots(element.module_mm) < 2:
            raise ConfigError("a module of a code is at least two dots of the printer")
        if isinstance(element, Text) and not _LEAST_LETTERS_MM <= element.height_mm <= 50:
            raise ConfigError(f"letters are {_LEAST_LETTERS_MM} to 50 mm high")
    if "reprint" not in used:
        raise ConfigError(
            "the label template needs a [[text]] with {reprint}, so that a second label can be told from the first"
        )


def _placeholders(value: str, is_text: bool) -> Iterator[str]:
    for match in _PLACEHOLDER.finditer(value):
        if match[0] in {"{{", "}}"}:
            continue
        if match[1] not in _PLACEHOLDERS:
            raise ConfigError(f"unknown placeholder {match[0]} in the label template; there are: {', '.join(_PLACEHOLDERS)}")
        if match[1] == "reprint" and not is_text:
            raise ConfigError("{reprint} belongs into a [[text]]: a code says the same on every print")
        yield match[1]


def _check_text(name: str, text: str) -> None:
    if len(text) > _MOST_CHARACTERS:
        raise MalformedRequest(f"the {name} is longer than {_MOST_CHARACTERS} characters")
    if any(unicodedata.category(character) in {"Cc", "Cs", "Zl", "Zp", "Cf"} for character in text):
        raise MalformedRequest(f"the {name} has a control character in it, which cannot be printed")


def _substituted(value: str, texts: Mapping[str, str]) -> str:
    def replaced(match: re.Match[str]) -> str:
        return match[0][0] if match[1] is None else texts[match[1]]

    return _PLACEHOLDER.sub(replaced, value)


def _filled(element: Element, texts: Mapping[str, str], own: Format) -> Element:
    if isinstance(element, Line):
        return element
    value = _substituted(element.value, texts)
    if isinstance(element, Text):
        return _fitted(element, value.strip(), own)
    if not value or not value.isascii():
        raise MalformedRequest(f"the text of a code is ASCII and not empty; this one is {value[:80]!r}")
    if isinstance(element, DataMatrix):
        return DataMatrix(value, element.x_mm, element.y_mm, element.module_mm)
    return QrCode(value, element.x_mm, element.y_mm, element.module_mm, element.correction, element.frame)


def _fitted(element: Text, value: str, own: Format) -> Text:
    """With letters as high as they should be, or smaller where the text would be too wide."""
    width = element.width_mm or own.width_mm - element.x_mm
    height = min(element.height_mm, width / (_LETTER * max(1, len(value))))
    if height < _LEAST_LETTERS_MM:
        raise MalformedRequest(f"{value[:80]!r} is too long for its place on the label")
    return Text(value, element.x_mm, element.y_mm, height, width, element.bold)


@dataclass(frozen=True, slots=True)
class _Area:
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: _Area) -> bool:
        return self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom


def _area(element: Element, own: Format) -> _Area:
    """What it covers, with the quiet zone (and the frame) of a code."""
    if isinstance(element, QrCode | DataMatrix):
        module = own.module_dots(element.module_mm) * _MM_PER_INCH / own.dpi
        quiet = QR_QUIET if isinstance(element, QrCode) else DATA_MATRIX_QUIET
        if isinstance(element, QrCode) and element.frame:
            quiet = FRAME_DISTANCE + 1
        side = code_modules(element) + quiet
        x, y = element.x_mm, element.y_mm
        return _Area(x - quiet * module, y - quiet * module, x + side * module, y + side * module)
    return _Area(element.x_mm, element.y_mm, element.x_mm + element.width_mm, element.y_mm + element.height_mm)


def _check_places(own: Format, elements: Sequence[Element]) -> None:
    slack = 0.05  # mm: dots are not millimetres
    areas = [(element, _area(element, own)) for element in elements]
    for element, area in areas:
        if min(area.left, area.top) < -slack or area.right > own.width_mm + slack or area.bottom > own.height_mm + slack:
            raise MalformedRequest(f"{_named(element)} does not fit on the label with its quiet zone")
        for other, others_area in areas:
            if other is not element and isinstance(element, QrCode | DataMatrix) and area.meets(others_area):
                raise MalformedRequest(f"{_named(other)} lies in the quiet zone of {_named(element)}")


def _named(element: Element) -> str:
    return "a line" if isinstance(element, Line) else f"{_NAMES[type(element)]} {element.value[:40]!r}"

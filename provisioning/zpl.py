"""A label as ZPL II, the language of Zebra's printers and of many others. Pure.

Whatever a text has in it, it is data: every octet that is not a letter, a digit or one of a few harmless marks is written in
hex (``^FH_``), so there is no way to write a command. Texts are UTF-8 (``^CI28``) in the printer's scalable font 0; codes are
made by the printer (``^BQ``, ``^BX``). Source: the commands of Zebra's ZPL II Programming Guide, and what an independent
renderer makes of them; no Zebra printer was at hand.
"""

from __future__ import annotations

from typing import Final

from gateway.errors import MalformedRequest
from provisioning.labels import DataMatrix, Element, Format, Label, Line, QrCode, Text, frame

#: What stands in a field as it is. Not among them: ^ and ~, which begin commands, _, which begins hex, and , and : to be sure.
_PLAIN: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789 -./")
#: Largest magnification of ^BQ that every firmware has.
_MOST_QR_DOTS: Final = 10
#: Begins ^BX's own escapes. Its default is ~ or _ by firmware, so another is set, and no Data Matrix may have it.
_BX_ESCAPE: Final = "|"


def render(label: Label) -> bytes:
    """One label, to be printed once. Raises MalformedRequest for what a printer cannot make."""
    own = label.format
    head = f"^XA^CI28^PW{own.dots(own.width_mm)}^LL{own.dots(own.height_mm)}^LH0,0^PQ1"
    return "".join((head, *(_field(element, own) for element in label.elements), "^XZ\n")).encode("ascii")


def _field(element: Element, own: Format) -> str:
    x, y = own.dots(element.x_mm), own.dots(element.y_mm)
    match element:
        case Text():
            height = own.dots(element.height_mm)
            return f"^FO{x},{y}^A0N,{height},{height}{_data(element.value)}"
        case QrCode():
            module = own.module_dots(element.module_mm)
            if module > _MOST_QR_DOTS:
                raise MalformedRequest(f"a printer's QR code has modules of at most {_MOST_QR_DOTS} dots")
            bars = "".join(_bar(*bar) for bar in frame(element, own)) if element.frame else ""
            return f"{bars}^FO{x},{y}^BY2,3,0^BQN,2,{module}{_data(element.value, f'{element.correction}A,')}"
        case DataMatrix():
            if _BX_ESCAPE in element.value:
                raise MalformedRequest(f"a printer's Data Matrix cannot have {_BX_ESCAPE} in it")
            return f"^FO{x},{y}^BXN,{own.module_dots(element.module_mm)},200,0,0,6,{_BX_ESCAPE}{_data(element.value)}"
        case Line(width_mm=width, height_mm=height):
            return _bar(x, y, max(1, own.dots(width)), max(1, own.dots(height)))


def _bar(x: int, y: int, width: int, height: int) -> str:
    return f"^FO{x},{y}^GB{width},{height},{min(width, height)}^FS"


def _data(text: str, before: str = "") -> str:
    """``before`` is a prefix of our own that the code's command wants."""
    octets = "".join(chr(octet) if octet in _PLAIN else f"_{octet:02X}" for octet in text.encode())
    return f"^FH_^FD{before}{octets}^FS"

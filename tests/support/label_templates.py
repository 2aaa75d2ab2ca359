"""Label templates for tests."""

from __future__ import annotations

from provisioning.labels import Values

#: A type plate of 60 x 30 mm with everything a template can have. {dpi} and {module} are put in by the caller.
PLATE = """
[label]
name = "type plate"
width_mm = 60.0
height_mm = 30
dpi = DPI

[[text]]
value = "{product}"
x_mm = 31.0
y_mm = 2.0
height_mm = 3.5
bold = true

[[text]]
value = "S/N {serial} {{{date}}}"
x_mm = 31.0
y_mm = 7.0
height_mm = 3.0

[[text]]
value = "{order}"
x_mm = 31.0
y_mm = 11.0
height_mm = 2.5

[[text]]
value = "{reprint}"
x_mm = 44.0
y_mm = 27.0
height_mm = 2.5

[[qr]]
value = "{uri}"
x_mm = 4.0
y_mm = 4.0
module_mm = 0.5
frame = true

[[datamatrix]]
value = "{serial}"
x_mm = 46.0
y_mm = 16.0
module_mm = 0.5

[[line]]
x_mm = 31.0
y_mm = 14.6
width_mm = 28.0
height_mm = 0.3
"""
VALUES = Values("D7-000123", "Förderantrieb Größe 7", "A-2026-17", "https://id.example.com/D7-000123", "2026-11-29")


def plate(dpi: int = 300) -> str:
    return PLATE.replace("DPI", str(dpi))


def one(element: str, *, width: float = 50, height: float = 25, dpi: int = 300, reprint_text: str = "reprint {n}") -> str:
    """A template with one element, and the text for reprints at the foot."""
    return f"""
[label]
name = "test"
width_mm = {width}
height_mm = {height}
dpi = {dpi}
reprint_text = "{reprint_text}"

[[text]]
value = "{{reprint}}"
x_mm = 1.0
y_mm = {height - 2}
height_mm = 2.0

{element}
"""


#: A label of 25 x 10 mm, as goes on a board: modules of two dots at 203 dpi, the smallest that a template may have.
SMALL = """
[label]
name = "board"
width_mm = 25.0
height_mm = 10.0
dpi = DPI

[[datamatrix]]
value = "{uri}"
x_mm = 1.0
y_mm = 1.0
module_mm = 0.25

[[text]]
value = "{serial} {reprint}"
x_mm = 10.0
y_mm = 1.5
height_mm = 2.0
"""

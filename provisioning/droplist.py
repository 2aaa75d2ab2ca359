"""The lists in a file drop: CSV from stations without a network, read line by line, and what is wrong in words. Pure.

Every physical line is read for itself, so a quote that is not closed, a wrong octet or a misspelt number costs its own line and
no other, and the number in a message is the one that an editor shows. What makes the whole list doubtful (its columns, its
encoding, its size) refuses all of it: then nothing was done. docs/line/papers.md has the formats.
"""

from __future__ import annotations

import base64
import binascii
import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.errors import MalformedRequest, TooLarge

UNITS: Final = "units.csv"
REPORTS: Final = "reports.csv"
MOST_LINES: Final = 100_000
MOST_LIST_OCTETS: Final = 32 << 20
MOST_CSR_OCTETS: Final = 16_384
_MOST_LINE_OCTETS: Final = 4096
_MOST_CELL: Final = 200
#: What a station may tell of a unit, in the order in which it happens, and that it is scrap.
EVENTS: Final = ("written", "verified", "locked", "labelled", "confirmed", "scrapped")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9._-]+")
_PEM: Final = re.compile(rb"-----BEGIN (NEW )?CERTIFICATE REQUEST-----(.*?)-----END (NEW )?CERTIFICATE REQUEST-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class UnitLine:
    """A unit that wants a certificate. ``csr`` is the name of a file in the same drop."""

    line: int
    order: str
    serial: str
    chip: str
    csr: str


@dataclass(frozen=True, slots=True)
class ReportLine:
    """What became of a unit."""

    line: int
    order: str
    serial: str
    event: str
    detail: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A line of which nothing was done, and why."""

    line: int
    order: str
    serial: str
    text: str


def read_units(data: bytes) -> tuple[list[UnitLine], list[Refusal]]:
    """Raises MalformedRequest, TooLarge where the whole list is refused."""
    lines: list[UnitLine] = []
    refused: list[Refusal] = []
    for number, cells, problem in _rows(data, ("order", "serial", "csr"), ("chip",)):
        line = UnitLine(number, cells.get("order", ""), cells.get("serial", ""), cells.get("chip", ""), cells.get("csr", ""))
        if problem:
            refused.append(Refusal(number, line.order, line.serial, problem))
        else:
            lines.append(line)
    doubled = _doubled({each.line: (each.csr,) for each in lines}, "the file {} is named")
    doubled |= _doubled({each.line: (each.order, each.serial) for each in lines}, "the serial number {} stands")
    refused += [Refusal(each.line, each.order, each.serial, doubled[each.line]) for each in lines if each.line in doubled]
    return [each for each in lines if each.line not in doubled], sorted(refused, key=lambda each: each.line)


def read_reports(data: bytes) -> tuple[list[ReportLine], list[Refusal]]:
    """Raises MalformedRequest, TooLarge where the whole list is refused."""
    lines: list[ReportLine] = []
    refused: list[Refusal] = []
    for number, cells, problem in _rows(data, ("order", "serial", "event"), ("detail",)):
        order, serial, event = (cells.get(name, "") for name in ("order", "serial", "event"))
        if problem:
            refused.append(Refusal(number, order, serial, problem))
        elif event not in EVENTS:
            said = f"{event!r} is nothing that can happen to a unit; there are: {', '.join(EVENTS)}"
            refused.append(Refusal(number, order, serial, said))
        else:
            lines.append(ReportLine(number, order, serial, event, cells.get("detail", "")))
    return lines, refused


def csr_der(content: bytes) -> bytes:
    """A certification request in DER from a file with DER, or PEM of RFC 7468. Raises MalformedRequest, TooLarge."""
    if len(content) > MOST_CSR_OCTETS:
        raise TooLarge(f"a certification request has at most {MOST_CSR_OCTETS} octets")
    if content[:1] == b"\x30":
        return content
    match = _PEM.search(content)
    if match is None:
        raise MalformedRequest("the file is no certification request: neither DER nor PEM with BEGIN CERTIFICATE REQUEST")
    try:
        return base64.b64decode(b"".join(match[2].split()), validate=True)
    except binascii.Error as error:
        raise MalformedRequest("the certification request is damaged: what is between BEGIN and END is not base64") from error


def safe_name(text: str) -> str:
    """``text`` as a part of a file's name on any system."""
    return _UNSAFE.sub("_", text).strip("._")[:64] or "unit"


def csv_line(cells: Sequence[str]) -> str:
    """RFC 4180, with CRLF; no cell is a formula of a spreadsheet (see :mod:`provisioning.exports`)."""
    guarded = ("'" + cell if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell for cell in cells)
    return ",".join('"' + cell.replace('"', '""') + '"' if re.search(r'[,"\r\n]', cell) else cell for cell in guarded) + "\r\n"


def _rows(data: bytes, required: Sequence[str], optional: Sequence[str]) -> Iterator[tuple[int, Mapping[str, str], str]]:
    """Number, cells by column, and what is wrong with the line (empty if nothing)."""
    if len(data) > MOST_LIST_OCTETS:
        raise TooLarge(f"the list has more than {MOST_LIST_OCTETS >> 20} MiB")
    if data[:2] in {b"\xff\xfe", b"\xfe\xff"} or b"\x00" in data[:4]:
        raise MalformedRequest('the list is UTF-16 ("Unicode text"); save it as "CSV UTF-8"')
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    columns, delimiter = _columns(lines[0], required, optional)
    count = 0
    for number, octets in enumerate(lines[1:], start=2):
        if not octets.strip(b" \t\r,;"):
            continue
        count += 1
        if count > MOST_LINES:
            raise TooLarge(f"the list has more than {MOST_LINES} lines; make several drops of it")
        yield number, *_row(octets, columns, delimiter, required)


def _columns(header: bytes, required: Sequence[str], optional: Sequence[str]) -> tuple[list[str], str]:
    known = (*required, *optional)
    delimiter = max(",;\t", key=lambda mark: header.count(mark.encode()))
    names = [name.strip(' "').lower() for name in header.decode(errors="replace").strip().split(delimiter)]
    if unknown := next((name for name in names if name not in known), None):
        raise MalformedRequest(f"line 1: there is no column {unknown[:40]!r}; the columns are {', '.join(known)}")
    if missing := next((name for name in required if name not in names), None):
        raise MalformedRequest(f"line 1: the column {missing!r} is missing; the columns are {', '.join(known)}")
    if len(set(names)) != len(names):
        raise MalformedRequest("line 1: a column stands twice")
    return names, delimiter


def _row(octets: bytes, columns: Sequence[str], delimiter: str, required: Sequence[str]) -> tuple[Mapping[str, str], str]:
    if len(octets) > _MOST_LINE_OCTETS:
        return {}, f"the line is longer than {_MOST_LINE_OCTETS} octets"
    try:
        text = octets.decode()
    except UnicodeDecodeError:
        return {}, 'the line is not UTF-8 (Windows-1252, perhaps); save the list as "CSV UTF-8"'
    try:
        (row,) = csv.reader([text.rstrip("\r")], delimiter=delimiter, strict=True)
    except (csv.Error, ValueError) as error:
        return {}, f"the line is no CSV: {error}"
    cells = {name: cell.strip() for name, cell in zip(columns, row, strict=False)}
    if len(row) != len(columns):
        return cells, f"the line has {len(row)} cells, and there are {len(columns)} columns"
    for name, cell in cells.items():
        if name in required and not cell:
            return cells, f"{name} is empty"
        if len(cell) > _MOST_CELL or not cell.isprintable():
            return {}, f"{name} is longer than {_MOST_CELL} characters, or has a control character in it"
    return cells, ""


def _doubled(keys: Mapping[int, tuple[str, ...]], what: str) -> dict[int, str]:
    """Of lines with the same key: what to say of each."""
    places: dict[tuple[str, ...], list[int]] = {}
    for number, key in keys.items():
        places.setdefault(key, []).append(number)
    return {
        number: f"{what.format(key[-1])} in lines {', '.join(map(str, numbers[:5]))}; nothing was done for any of them"
        for key, numbers in places.items()
        if len(numbers) > 1
        for number in numbers
    }

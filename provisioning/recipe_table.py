"""A table of a recipe, read key by key; what is wrong is noted with its line in the file. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    line: int
    key: str
    why: str

    def __str__(self) -> str:
        return f"{self.line}: {self.key} {self.why}" if self.key else f"{self.line}: {self.why}"


def line_of(text: str, path: str) -> int:
    """The line where ``path`` stands: ``read_csr[2].run`` is the key run of the second step of read_csr; else the nearest."""
    found = re.fullmatch(r"([a-z_]*)(?:\[(\d+)\])?(?:\.(.+))?", path)
    if found is None:
        return 1
    section, number, key = found[1], int(found[2] or 0), found[3] or ""
    lines = text.split("\n")
    header = re.compile(rf"\s*\[\[\s*{section}\s*\]\]" if number else rf"\s*\[\[?\s*{section}\s*\]\]?")
    seen = 0
    for at, line in enumerate(lines):
        if header.match(line):
            seen += 1
            if seen == max(number, 1):
                return _key_below(lines, at + 1, key) or at + 1
        elif not number and _is_key(line, section):
            return at + 1
    return 1


def _key_below(lines: list[str], start: int, key: str) -> int:
    """The line of ``key`` before the next section; 0 when it is not there."""
    for at in range(start, len(lines)):
        if re.match(r"\s*\[", lines[at]):
            return 0
        if key and _is_key(lines[at], key):
            return at + 1
    return 0


def _is_key(line: str, key: str) -> bool:
    return bool(key) and re.match(rf"\s*[\"']?{re.escape(key.split('.', maxsplit=1)[0])}[\"']?\s*[=.]", line) is not None


class TableReader:
    """``table`` at ``place``; ``known`` are its keys, where that is for this reader to say."""

    def __init__(
        self, text: str, place: str, table: Mapping[str, object], problems: list[Problem], known: tuple[str, ...] = ()
    ) -> None:
        self.place = place
        self._text = text
        self._table = table
        self._problems = problems
        for name in table:
            if known and name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                self.add(name, f"is not known here; {f'did you mean {near[0]}?' if near else 'there are ' + ', '.join(known)}")

    def path(self, key: str) -> str:
        return f"{self.place}.{key}" if self.place else key

    def add(self, key: str, why: str) -> None:
        self._problems.append(Problem(line_of(self._text, self.path(key)), self.path(key), why))

    def has(self, key: str) -> bool:
        return key in self._table

    def text(self, key: str, default: str | None = None) -> str:
        """A text; one without a default must be there."""
        if key not in self._table:
            if default is None:
                self.add(key, "is missing")
            return default or ""
        value = self._table[key]
        if not isinstance(value, str):
            self.add(key, "is a text in quotes, as in \"text\" or 'text'")
            return default or ""
        return value

    def flag(self, key: str, default: bool) -> bool:
        value = self._table.get(key, default)
        if not isinstance(value, bool):
            self.add(key, "is true or false")
            return default
        return value

    def number(self, key: str, default: float, least: float, most: float) -> float:
        value = self._table.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            self.add(key, f"is a number from {least:g} to {most:g}")
            return default
        return float(value)

    def whole(self, key: str, default: int | None, least: int, most: int) -> int | None:
        value = self._table.get(key, default)
        if value is None:
            self.add(key, "is missing")
        elif isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            self.add(key, f"is a whole number from {least} to {most}")
            return default
        return value if isinstance(value, int) else default

    def choice(self, key: str, default: str | None, choices: tuple[str, ...]) -> str:
        value = self.text(key, default)
        if value and value not in choices:
            self.add(key, f"is one of {', '.join(choices)}")
            return choices[0]
        return value

    def table(self, key: str) -> Mapping[str, object]:
        value = self._table.get(key, {})
        if not isinstance(value, dict):
            self.add(key, 'is a table, as in { "name" = "text" }')
            return {}
        return value

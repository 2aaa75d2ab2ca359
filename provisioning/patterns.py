"""Regular expressions that a recipe may use on what a device says: a part of Python's, so that no answer takes long. Pure.

Python's engine goes back when a choice was wrong, and a device, or a mistake in a pattern, can make it go back for hours. So a
pattern may repeat single characters only (``[0-9A-F]+``, not ``(ab)+``), a repetition must be followed by something that it
does not match itself, and there are at most :data:`MAX_CHOICES` alternatives and optional parts. Then a line is matched in time
that grows with its length for each place where a match may begin, and lines are bounded.

``{name}`` in a pattern stands for a value, taken literally; ``{token}`` for the token of the moment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Final

MAX_PATTERN: Final = 500
MAX_CHOICES: Final = 8
MAX_REPEAT: Final = 4096
#: A token is so many hexadecimal digits in small letters.
TOKEN_LENGTH: Final = 12

_EVERY: Final = (1 << 256) - 1
_DIGITS: Final = sum(1 << ord(c) for c in "0123456789")
_WORD: Final = _DIGITS | sum(1 << ord(c) for c in "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
_SPACE: Final = sum(1 << ord(c) for c in " \t\r\n\f\v")
_SETS: Final = {"d": _DIGITS, "w": _WORD, "s": _SPACE, "D": _EVERY ^ _DIGITS, "W": _EVERY ^ _WORD, "S": _EVERY ^ _SPACE}
_PLACEHOLDER: Final = re.compile(r"\{([a-z][a-z0-9_]*)\}")
_COUNT: Final = re.compile(r"\{(\d{1,5})(,(\d{0,5}))?\}")
_TOKEN_GROUP: Final = "T"  # noqa: S105  # no recipe's own group begins with a capital
_GROUP: Final = re.compile(r"\((?:\?:|\?P<([a-z][a-z0-9_]*)>|(?!\?))")


class BadPattern(ValueError):
    """What is wrong, and what to write instead."""


@dataclass(frozen=True, slots=True)
class _Node:
    """A part of a pattern by what can follow: the characters it may begin with, and whether it may be empty.

    ``loop`` are the repetitions that may stand at its end, as the characters they repeat.
    """

    first: int
    empty: bool
    loops: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Pattern:
    """A checked pattern. ``names`` are its named groups, ``values`` what it takes from outside."""

    text: str
    names: frozenset[str]
    values: frozenset[str]

    def search(self, line: str, values: Mapping[str, str]) -> re.Match[str] | None:
        """Where it stands in ``line``, with the values in their places. Its own names are in :attr:`names`, others are not its.

        The token changes with every command: any token is looked for, and then compared, so nothing is compiled anew.
        """
        fixed = tuple((name, values[name]) for name in sorted(self.values - {"token"}))
        compiled = _compiled(self.text, fixed)
        tokens = [name for name in compiled.groupindex if name.startswith(_TOKEN_GROUP)]
        if not tokens:
            return compiled.search(line)
        for found in compiled.finditer(line):
            if all(found[name] in {None, values["token"]} for name in tokens):  # None: of another alternative
                return found
        return None


@lru_cache(maxsize=512)
def _compiled(text: str, values: tuple[tuple[str, str], ...]) -> re.Pattern[str]:
    known, numbers = dict(values), count()

    def value(found: re.Match[str]) -> str:
        if found[1] == "token":
            return f"(?P<{_TOKEN_GROUP}{next(numbers)}>[0-9a-f]{{{TOKEN_LENGTH}}})"
        return re.escape(known[found[1]])

    return re.compile(_PLACEHOLDER.sub(value, text), re.ASCII)


def read_pattern(text: str) -> Pattern:
    """Raises BadPattern."""
    if len(text) > MAX_PATTERN:
        raise BadPattern(f"a pattern has at most {MAX_PATTERN} characters")
    if not text.isascii() or not text.isprintable():
        raise BadPattern("a pattern is made of printable ASCII; write others as \\xNN")
    parser = _Parser(text)
    parser.read()
    return Pattern(text, frozenset(parser.names), frozenset(parser.values))


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._choices = 0
        self._variable = 0  # repetitions whose count is open
        self.names: set[str] = set()
        self.values: set[str] = set()

    def read(self) -> None:
        node = self._alternatives(depth=0)
        if self._at < len(self._text):
            raise self._bad("there is a ) without its (")
        if node.empty and not self._text.startswith("^"):
            raise BadPattern("the pattern also matches nothing at all: say what must be there")
        try:
            re.compile(_PLACEHOLDER.sub("x", self._text), re.ASCII)
        except re.error as error:
            raise BadPattern(f"no regular expression: {error}") from error

    def _bad(self, why: str) -> BadPattern:
        return BadPattern(f"{why} (at character {self._at + 1} of the pattern)")

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _alternatives(self, depth: int) -> _Node:
        if depth > 4:
            raise self._bad("groups stand in more than 4 others")
        node = self._sequence(depth)
        while self._peek() == "|":
            self._at += 1
            self._choose()
            other = self._sequence(depth)
            node = _Node(node.first | other.first, node.empty or other.empty, node.loops + other.loops)
        return node

    def _choose(self) -> None:
        self._choices += 1
        if self._choices > MAX_CHOICES:
            raise self._bad(f"more than {MAX_CHOICES} alternatives and optional parts: split the pattern into several steps")

    def _sequence(self, depth: int) -> _Node:
        node = _Node(0, empty=True)
        if depth == 0 and self._peek() == "^":
            self._at += 1
        while self._peek() not in {"", "|", ")"}:
            part = self._repeated(depth)
            for repeated, source in node.loops:
                if repeated & part.first:
                    raise self._bad(
                        f"{source} may take what comes after it: say what it must not contain, as in [^:]*: instead of .*:"
                    )
            first = node.first | part.first if node.empty else node.first
            node = _Node(first, node.empty and part.empty, part.loops + (node.loops if part.empty else ()))
        return node

    def _repeated(self, depth: int) -> _Node:
        start, undecided = self._at, self._choices + self._variable
        single = self._peek() != "("
        node = self._atom(depth)
        sign = self._peek()
        if sign == "?":
            self._at += 1
            self._choose()
            node = _Node(node.first, empty=True, loops=node.loops)
        elif sign in {"*", "+"} or (sign == "{" and _COUNT.match(self._text, self._at)):
            least, most = self._count()
            if not single and least != most:
                raise self._bad("only single characters may be repeated, as in [0-9]+, not groups")
            if self._choices + self._variable != undecided:
                raise self._bad("a group that is repeated must not leave anything open itself")
            if least != most:
                self._variable += 1
                node = _Node(node.first, least == 0, ((node.first, self._text[start : self._at]),))
        if self._peek() in {"?", "*", "+"}:
            raise self._bad("a repetition of a repetition, or one that is not greedy, is not allowed")
        return node

    def _count(self) -> tuple[int, int]:
        sign = self._peek()
        if sign in {"*", "+"}:
            self._at += 1
            return (0 if sign == "*" else 1), MAX_REPEAT
        found = _COUNT.match(self._text, self._at)
        if found is None:
            raise self._bad("no count")
        least = int(found[1])
        most = least if found[2] is None else int(found[3]) if found[3] else MAX_REPEAT
        if not least <= most <= MAX_REPEAT or most == 0:
            raise self._bad(f"a repetition is from 0 to {MAX_REPEAT} times, the lower number first")
        self._at = found.end()
        return least, most

    def _atom(self, depth: int) -> _Node:
        character = self._peek()
        if character == "(":
            return self._group(depth)
        if found := _PLACEHOLDER.match(self._text, self._at):
            self.values.add(found[1])
            self._at = found.end()
            return _Node(_EVERY, empty=False)
        if character == "$":
            if self._at + 1 < len(self._text) and self._text[self._at + 1] not in "|)":
                raise self._bad("$ stands at the end only")
            self._at += 1
            return _Node(0, empty=True)
        if character in {"*", "+", "?", "{", "^"}:
            raise self._bad(f"{character} stands for itself as \\{character} only")
        self._at += 1
        if character == "[":
            return _Node(self._class(), empty=False)
        if character == "\\":
            return _Node(self._escape(), empty=False)
        return _Node(_EVERY if character == "." else 1 << ord(character), empty=False)

    def _group(self, depth: int) -> _Node:
        found = _GROUP.match(self._text, self._at)
        if found is None:
            raise self._bad("of groups there are (...), (?:...) and (?P<name>...) with a name in small letters")
        if found[1]:
            if found[1] in self.names:
                raise self._bad(f"there are two groups named {found[1]}")
            self.names.add(found[1])
        self._at = found.end()
        node = self._alternatives(depth + 1)
        if self._peek() != ")":
            raise self._bad("there is a ( without its )")
        self._at += 1
        return node

    def _escape(self) -> int:
        """Behind a backslash: a set, or the one character."""
        letter = self._peek()
        self._at += 1
        if letter in _SETS:
            return _SETS[letter]
        if letter == "x" and re.fullmatch("[0-9A-Fa-f]{2}", self._text[self._at : self._at + 2]):
            self._at += 2
            return 1 << int(self._text[self._at - 2 : self._at], 16)
        if letter == "t":
            return 1 << 9
        if letter and not letter.isalnum():
            return 1 << ord(letter)
        raise self._bad(f"\\{letter} is not known here; there are \\d \\w \\s \\D \\W \\S \\t \\xNN and signs like \\.")

    def _class(self) -> int:
        """Behind a ``[``: what it holds."""
        inverted = self._peek() == "^"
        self._at += inverted
        found = 0
        begin = self._at
        while self._peek() != "]" or self._at == begin:
            low = self._member()
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] not in {"]", ""}:
                self._at += 1
                high = self._member()
                if low.bit_count() != 1 or high.bit_count() != 1 or low > high:
                    raise self._bad("a range goes from one character to a later one, as in A-F")
                low = (high << 1) - low
            found |= low
        self._at += 1
        return _EVERY ^ found if inverted else found

    def _member(self) -> int:
        character = self._peek()
        if not character:
            raise self._bad("there is a [ without its ]")
        self._at += 1
        return self._escape() if character == "\\" else 1 << ord(character)

"""How a REST interface is described: one table of routes, from which requests are checked and the OpenAPI document is made.

What a route does not name is refused, so that a misspelt key is never a setting left as it was. What the answers are made with
is the interface's own matter: a route is generic in it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar
from urllib.parse import unquote

from gateway.errors import MalformedRequest
from gateway.journal.canonical import JsonValue

P = TypeVar("P")
TEXT: Final = "string"
NUMBER: Final = "integer"
TRUTH: Final = "boolean"
ANYTHING: Final = "any"
_VARIABLE = re.compile(r"\{([a-z_]+)\}")
_DIGITS = re.compile(r"[0-9]{1,16}")
JSON_TYPE: Final = "application/json"
OCTETS_TYPE: Final = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Field:
    """Of a query or of a JSON body."""

    name: str
    about: str
    type: str = TEXT
    required: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """One request, checked against its route. ``content`` is the body where that is not JSON."""

    operator: str
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Mapping[str, JsonValue]
    content: bytes = b""
    if_match: str = ""
    if_none_match: str = ""
    head: Mapping[str, str] = field(default_factory=dict)  # the request's header fields, their names in any case

    def text(self, name: str) -> str:
        """Of the body or the query, "" when it is not there."""
        value = self.body.get(name, self.query.get(name, ""))
        return value if isinstance(value, str) else ""

    def number(self, name: str, default: int) -> int:
        value = self.body.get(name)
        if isinstance(value, int):
            return value
        return int(self.query.get(name, default))

    def truth(self, name: str, default: bool) -> bool:
        return {"true": True, "false": False}.get(self.query.get(name, ""), default)


@dataclass(frozen=True, slots=True)
class Reply:
    """``content`` is JSON, or octets of ``media``."""

    content: JsonValue | bytes
    status: int = 200
    media: str = JSON_TYPE
    head: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)  # no slots: typing notes on each instance of a generic class what it was made for
class Route(Generic[P]):
    """``octets`` is the most of a body that is not JSON but of the type ``takes``."""

    method: str
    path: str  # below the prefix; variables in braces are one segment each, percent-encoded
    answer: Callable[[P, Call], Awaitable[Reply]]
    summary: str
    gives: str  # what a successful answer is
    query: tuple[Field, ...] = ()
    body: tuple[Field, ...] = ()
    octets: int = 0
    media: str = JSON_TYPE
    status: int = 200
    takes: str = OCTETS_TYPE

    @property
    def changes(self) -> bool:
        return self.method != "GET"

    @property
    def variables(self) -> tuple[str, ...]:
        return tuple(_VARIABLE.findall(self.path))

    def match(self, path: str) -> dict[str, str] | None:
        """The variables in a raw path below the prefix; ``None`` for another path."""
        pattern, given = self.path.split("/"), path.split("/")
        if len(pattern) != len(given):
            return None
        found = {}
        for expected, segment in zip(pattern, given, strict=True):
            if variable := _VARIABLE.fullmatch(expected):
                found[variable[1]] = unquote(segment)
            elif expected != segment:
                return None
        return found if all(value and is_text(value) for value in found.values()) else None

    def check_query(self, query: Mapping[str, str]) -> None:
        """Raises MalformedRequest."""
        known = {each.name: each for each in self.query}
        for name, text in query.items():
            if name not in known:
                raise MalformedRequest(f"{name[:40]!r} cannot be asked for here; known are {', '.join(known) or 'none'}")
            wanted = known[name].type
            if not is_text(text):
                raise MalformedRequest(f"{name} holds what is no text")
            if (wanted == NUMBER and not _DIGITS.fullmatch(text)) or (wanted == TRUTH and text not in ("true", "false")):
                raise MalformedRequest(f"{name} must be {'a whole number' if wanted == NUMBER else 'true or false'}")
        for each in self.query:
            if each.required and each.name not in query:
                raise MalformedRequest(f"{each.name} is missing")

    def check_body(self, body: Mapping[str, JsonValue]) -> None:
        """Raises MalformedRequest."""
        known = {each.name: each for each in self.body}
        for name, value in body.items():
            if name not in known:
                raise MalformedRequest(f"{name[:40]!r} means nothing here; known are {', '.join(known) or 'none'}")
            if not _fits(known[name].type, value):
                raise MalformedRequest(f"{name} must be of the type {known[name].type}")
        for each in self.body:
            if each.required and each.name not in body:
                raise MalformedRequest(f"{each.name} is missing")


def is_text(value: str) -> bool:
    """What every database takes: no NUL, no half of a surrogate pair."""
    return "\0" not in value and not any("\ud800" <= each <= "\udfff" for each in value)


def _fits(wanted: str, value: JsonValue) -> bool:
    match wanted:
        case "string":
            return isinstance(value, str) and is_text(value)
        case "integer":
            return type(value) is int and 0 <= value < 1 << 53
        case "boolean":
            return isinstance(value, bool)
        case _:
            return True

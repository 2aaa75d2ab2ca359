"""How the values of a record are spelled: one writer and one reader for each type a field may have. Pure.

JSON (RFC 8259) in one spelling: integers, text as UTF-8, byte strings as unpadded base64url text (RFC 4648 section 5).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from json.encoder import encode_basestring as _quoted
from typing import TypeAlias

JsonValue: TypeAlias = "bool | int | str | list[JsonValue] | dict[str, JsonValue] | None"


# Writers: one per type a field may have. Types are exact: True is no number, a subclass of str is no text.


def write_text(value: object) -> str:
    if type(value) is not str:
        raise TypeError(f"expected text, found {type(value).__name__}")
    return _quoted(value)


def _write_bytes(value: object) -> str:
    if type(value) is not bytes:
        raise TypeError(f"expected bytes, found {type(value).__name__}")
    return '"' + binascii.b2a_base64(value, newline=False).translate(_URL_SAFE, b"=").decode() + '"'


def _write_number(value: object) -> str:
    if type(value) is not int:
        raise TypeError(f"expected an integer, found {type(value).__name__}")
    return str(value)


def write_place(value: object) -> str:
    if type(value) is not int or value < 0:
        raise ValueError("seq and time are integers from 0")
    return str(value)


def _write_truth(value: object) -> str:
    if type(value) is not bool:
        raise TypeError(f"expected true or false, found {type(value).__name__}")
    return "true" if value else "false"


def _write_texts(value: object) -> str:
    if type(value) is not tuple:
        raise TypeError(f"expected a tuple, found {type(value).__name__}")
    return "[" + ",".join(map(write_text, value)) + "]"


def _write_byte_strings(value: object) -> str:
    if type(value) is not tuple:
        raise TypeError(f"expected a tuple, found {type(value).__name__}")
    return "[" + ",".join(map(_write_bytes, value)) + "]"


# Readers undo the writers; what they let through by mistake, the comparison of the canonical bytes finds.


def _read_bytes(value: JsonValue) -> bytes:
    if not isinstance(value, str):
        raise TypeError("bytes are written as text")
    return base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)


def _read_sequence(value: JsonValue) -> list[JsonValue]:
    if not isinstance(value, list):
        raise TypeError("a sequence is written as a list")
    return value


Writer: TypeAlias = Callable[[object], str]
Reader: TypeAlias = Callable[[JsonValue], object]
_URL_SAFE = bytes.maketrans(b"+/", b"-_")
FORMS: dict[object, tuple[Writer, Reader]] = {
    str: (write_text, lambda value: value),
    int: (_write_number, lambda value: value),
    bool: (_write_truth, lambda value: value),
    bytes: (_write_bytes, _read_bytes),
    tuple[str, ...]: (_write_texts, lambda value: tuple(_read_sequence(value))),
    tuple[bytes, ...]: (_write_byte_strings, lambda value: tuple(map(_read_bytes, _read_sequence(value)))),
}

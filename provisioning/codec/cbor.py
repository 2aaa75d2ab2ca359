"""CBOR (RFC 8949) as devices speak it: in MCUmgr's answers and in COSE attestations. Pure.

The writer is deterministic (RFC 8949 section 4.2.1). The reader takes what small firmware writes, indefinite lengths and
lengths that are not the shortest included, and refuses the rest: floats, undefined, simple values, a key that comes twice,
octets behind the end. It is bounded in depth, and in size by what the caller hands it: no length in the data makes it take
more memory than the data has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from gateway.errors import DeviceFault

#: What an item is in Python. A reader's maps have int or str keys only, as SMP and COSE have.
Value: TypeAlias = "int | bytes | str | bool | Sequence[Value] | Mapping[int | str, Value] | Tagged | None"

#: COSE_Sign1 inside a token is four deep, MCUmgr's deepest answer (statistics, image lists) is three.
MAX_DEPTH = 8
_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _SIMPLE = range(8)
_BREAK = 0xFF
_INDEFINITE = 31


@dataclass(frozen=True, slots=True)
class Tagged:
    """A tagged item (RFC 8949 section 3.4), for example 18 for COSE_Sign1."""

    tag: int
    value: Value


def encode(value: Value) -> bytes:
    """Raises ValueError for integers beyond 64 bits."""
    match value:
        case None:
            return b"\xf6"
        case bool():
            return b"\xf5" if value else b"\xf4"
        case int():
            return _head(_UNSIGNED, value) if value >= 0 else _head(_NEGATIVE, -1 - value)
        case bytes():
            return _head(_BYTES, len(value)) + value
        case str():
            text = value.encode()
            return _head(_TEXT, len(text)) + text
        case Tagged():
            return _head(_TAG, value.tag) + encode(value.value)
        case Mapping():
            pairs = sorted((encode(key), encode(item)) for key, item in value.items())
            return _head(_MAP, len(pairs)) + b"".join(key + item for key, item in pairs)
        case _:
            return _head(_ARRAY, len(value)) + b"".join(map(encode, value))


def _head(major: int, argument: int) -> bytes:
    if argument < 24:
        return bytes((major << 5 | argument,))
    for additional, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if argument < 1 << 8 * size:
            return bytes((major << 5 | additional,)) + argument.to_bytes(size, "big")
    raise ValueError("an integer of more than 64 bits")


def decode(data: bytes) -> Value:
    """The one item that ``data`` is. Raises DeviceFault."""
    reader = _Reader(data)
    value = reader.item(MAX_DEPTH)
    if reader.position != len(data):
        raise DeviceFault(f"the device's answer has {len(data) - reader.position} octets too many behind its end")
    return value


def decode_map(data: bytes) -> Mapping[int | str, Value]:
    """:func:`decode` for what must be a map. Raises DeviceFault."""
    value = decode(data)
    if not isinstance(value, Mapping):
        raise DeviceFault("the device's answer is not a CBOR map")
    return value


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def item(self, depth: int) -> Value:
        if depth == 0:
            raise DeviceFault(f"the device's answer nests deeper than {MAX_DEPTH} levels")
        major, additional = self._first()
        if major == _SIMPLE:
            return _simple(additional)
        if additional == _INDEFINITE:
            return self._indefinite(major, depth)
        argument = self._argument(additional)
        match major:
            case 0:
                return argument
            case 1:
                return -1 - argument
            case 2:
                return self._take(argument)
            case 3:
                return _text(self._take(argument))
            case 4:
                self._must_have(argument)
                return [self.item(depth - 1) for _ in range(argument)]
            case 5:
                self._must_have(2 * argument)
                pairs: dict[int | str, Value] = {}
                for _ in range(argument):
                    self._pair(pairs, depth)
                return pairs
            case _:
                return Tagged(argument, self.item(depth - 1))

    def _indefinite(self, major: int, depth: int) -> Value:
        if major == _ARRAY:
            items: list[Value] = []
            while not self._ended():
                items.append(self.item(depth - 1))
            return items
        if major == _MAP:
            pairs: dict[int | str, Value] = {}
            while not self._ended():
                self._pair(pairs, depth)
            return pairs
        if major not in (_BYTES, _TEXT):
            raise DeviceFault("the device's answer has an item without an end")
        pieces = []
        while not self._ended():
            piece_major, additional = self._first()
            if piece_major != major or additional == _INDEFINITE:
                raise DeviceFault("the device's answer has a string in pieces of another kind")
            pieces.append(self._take(self._argument(additional)))
        return b"".join(pieces) if major == _BYTES else _text(b"".join(pieces))

    def _pair(self, pairs: dict[int | str, Value], depth: int) -> None:
        key = self.item(depth - 1)
        if isinstance(key, bool) or not isinstance(key, int | str):
            raise DeviceFault("the device's answer has a map key that is neither a number nor a text")
        if key in pairs:
            raise DeviceFault("the device's answer has the same map key twice")
        pairs[key] = self.item(depth - 1)

    def _ended(self) -> bool:
        """Whether the break of an indefinite item is next; it is read then."""
        self._must_have(1)
        if self._data[self.position] != _BREAK:
            return False
        self.position += 1
        return True

    def _first(self) -> tuple[int, int]:
        first = self._take(1)[0]
        return first >> 5, first & 0x1F

    def _argument(self, additional: int) -> int:
        if additional < 24:
            return additional
        if additional > 27:
            raise DeviceFault("the device's answer is no CBOR: a reserved length")
        return int.from_bytes(self._take(1 << additional - 24), "big")

    def _take(self, count: int) -> bytes:
        self._must_have(count)
        start = self.position
        self.position += count
        return self._data[start : self.position]

    def _must_have(self, count: int) -> None:
        if count > len(self._data) - self.position:
            raise DeviceFault("the device's answer is cut off in the middle")


def _simple(additional: int) -> bool | None:
    if additional not in (20, 21, 22):
        raise DeviceFault("the device's answer has a float or a simple value, which these protocols do not use")
    return {20: False, 21: True, 22: None}[additional]


def _text(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError as error:
        raise DeviceFault("the device's answer has a text that is not UTF-8") from error

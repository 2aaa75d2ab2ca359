"""Data Matrix ECC 200 (ISO/IEC 16022): text to a square of modules. Pure.

Square symbols of 10 to 64 modules, ASCII encodation (two digits in one codeword), which is what serial numbers and
identification links need. The quiet zone of one module is not part of the square.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Final, TypeAlias

from gateway.errors import MalformedRequest

Square: TypeAlias = tuple[tuple[bool, ...], ...]

#: Table 7: modules of a side; codewords of data and of error correction; regions of a side; blocks.
_SIZES: Final = (
    (10, 3, 5, 1, 1),
    (12, 5, 7, 1, 1),
    (14, 8, 10, 1, 1),
    (16, 12, 12, 1, 1),
    (18, 18, 14, 1, 1),
    (20, 22, 18, 1, 1),
    (22, 30, 20, 1, 1),
    (24, 36, 24, 1, 1),
    (26, 44, 28, 1, 1),
    (32, 62, 36, 2, 1),
    (36, 86, 42, 2, 1),
    (40, 114, 48, 2, 1),
    (44, 144, 56, 2, 1),
    (48, 174, 68, 2, 1),
    (52, 204, 84, 2, 2),
    (64, 280, 112, 4, 2),
)
_PAD: Final = 129
_PRIME: Final = 0x12D  # x^8 + x^5 + x^3 + x^2 + 1


def side(text: str) -> int:
    """How many modules a side has. Raises MalformedRequest for text that is not ASCII, or too long."""
    return _size(len(_codewords(text)))[0]


def square(text: str) -> Square:
    """Rows from the top, True for dark. Raises MalformedRequest for text that is not ASCII, or too long."""
    codewords = _codewords(text)
    modules, capacity, correction, regions, blocks = _size(len(codewords))
    data = _padded(codewords, capacity)
    whole = data + _corrections(data, correction, blocks)
    inner = modules - 2 * regions
    return _with_finders(_placed(whole, inner), modules, regions)


def _codewords(text: str) -> list[int]:
    codewords = []
    at = 0
    while at < len(text):
        if text[at : at + 2].isascii() and text[at : at + 2].isdigit() and len(text) > at + 1:
            codewords.append(130 + int(text[at : at + 2]))
            at += 2
            continue
        if ord(text[at]) > 127:
            raise MalformedRequest("a Data Matrix holds ASCII only")
        codewords.append(ord(text[at]) + 1)
        at += 1
    return codewords


def _size(codewords: int) -> tuple[int, int, int, int, int]:
    for size in _SIZES:
        if codewords <= size[1]:
            return size
    raise MalformedRequest(f"a Data Matrix holds at most {_SIZES[-1][1]} codewords; this text needs {codewords}")


def _padded(codewords: Sequence[int], capacity: int) -> list[int]:
    """The first pad as it is, the others disguised by their position (Annex B)."""
    padded = list(codewords)
    if len(padded) < capacity:
        padded.append(_PAD)
    while len(padded) < capacity:
        disguised = _PAD + (149 * (len(padded) + 1)) % 253 + 1
        padded.append(disguised if disguised <= 254 else disguised - 254)
    return padded


@lru_cache(maxsize=1)
def _field() -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Powers of 2 and logarithms in GF(256)."""
    powers, value = [], 1
    for _ in range(255):
        powers.append(value)
        value = value << 1 ^ (_PRIME if value & 0x80 else 0)
    logarithms = [0] * 256
    for exponent, power in enumerate(powers):
        logarithms[power] = exponent
    return tuple(powers), tuple(logarithms)


def _product(a: int, b: int) -> int:
    powers, logarithms = _field()
    return powers[(logarithms[a] + logarithms[b]) % 255] if a and b else 0


@lru_cache(maxsize=len(_SIZES))
def _generator(degree: int) -> tuple[int, ...]:
    """The product of (x - 2^i) for i of 1 to ``degree``, highest power first and without its coefficient 1 (Annex E)."""
    polynomial = [1]
    for exponent in range(1, degree + 1):
        root = _field()[0][exponent]
        shifted = [_product(coefficient, root) for coefficient in polynomial]
        polynomial = [polynomial[0], *(b ^ a for a, b in zip(shifted, polynomial[1:], strict=False)), shifted[-1]]
    return tuple(polynomial[1:])


def _corrections(data: Sequence[int], correction: int, blocks: int) -> list[int]:
    """Reed-Solomon codewords; blocks are interleaved."""
    generator = _generator(correction // blocks)
    found = [0] * correction
    for block in range(blocks):
        remainder = [0] * len(generator)
        for codeword in data[block::blocks]:
            factor = codeword ^ remainder[0]
            remainder = [b ^ _product(factor, g) for b, g in zip([*remainder[1:], 0], generator, strict=True)]
        found[block::blocks] = remainder
    return found


def _placed(codewords: Sequence[int], inner: int) -> list[list[bool]]:
    """The bits of the codewords in a square of ``inner`` modules (Annex F)."""
    places: list[list[bool | None]] = [[None] * inner for _ in range(inner)]
    values = iter(codewords)

    def put(shape: Sequence[tuple[int, int]]) -> None:
        value = next(values)
        for bit, (row, column) in enumerate(shape):
            if row < 0:
                row, column = row + inner, column + 4 - (inner + 4) % 8  # noqa: PLW2901
            if column < 0:
                row, column = row + 4 - (inner + 4) % 8, column + inner  # noqa: PLW2901
            places[row][column] = bool(value & 0x80 >> bit)

    for row, column in _walk(inner):
        if isinstance(column, str):
            put(_CORNERS[column](inner))
        elif places[row][column] is None:
            put([(row + down, column + right) for down, right in _UTAH])
    if places[-1][-1] is None:  # a corner that no codeword reaches
        places[-1][-1] = places[-2][-2] = True
    return [[bool(place) for place in row] for row in places]


#: The eight modules of a codeword from its last one, by falling bits.
_UTAH: Final = ((-2, -2), (-2, -1), (-1, -2), (-1, -1), (-1, 0), (0, -2), (0, -1), (0, 0))
#: Codewords that are bent around the corners; the other two of Annex F are of rectangular symbols only.
_CORNERS: Final[dict[str, Callable[[int], Sequence[tuple[int, int]]]]] = {
    "1": lambda n: ((n - 1, 0), (n - 1, 1), (n - 1, 2), (0, n - 2), (0, n - 1), (1, n - 1), (2, n - 1), (3, n - 1)),
    "2": lambda n: ((n - 3, 0), (n - 2, 0), (n - 1, 0), (0, n - 4), (0, n - 3), (0, n - 2), (0, n - 1), (1, n - 1)),
}


def _walk(inner: int) -> Iterator[tuple[int, int | str]]:
    """Where codewords end, in the order of their numbers: diagonals up and down, and the corners between them."""
    row, column = 4, 0
    while row < inner or column < inner:
        yield from _corner(row, column, inner)
        while True:
            if row < inner and column >= 0:
                yield row, column
            row, column = row - 2, column + 2
            if row < 0 or column >= inner:
                break
        row, column = row + 1, column + 3
        while True:
            if row >= 0 and column < inner:
                yield row, column
            row, column = row + 2, column - 2
            if row >= inner or column < 0:
                break
        row, column = row + 3, column + 1


def _corner(row: int, column: int, inner: int) -> Iterator[tuple[int, str]]:
    if row == inner and column == 0:
        yield row, "1"
    if row == inner - 2 and column == 0 and inner % 4:
        yield row, "2"


def _with_finders(bits: Sequence[Sequence[bool]], modules: int, regions: int) -> Square:
    """Each region framed: solid at the left and below, alternating above and at the right."""
    size = modules // regions
    whole = []
    for row in range(modules):
        line = []
        for column in range(modules):
            down, right = row % size, column % size
            if right == 0 or down == size - 1:
                line.append(True)
            elif down == 0:
                line.append(right % 2 == 0)
            elif right == size - 1:
                line.append(down % 2 == 1)
            else:
                line.append(bits[row - 1 - 2 * (row // size)][column - 1 - 2 * (column // size)])
        whole.append(tuple(line))
    return tuple(whole)

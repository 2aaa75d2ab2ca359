"""Data Matrix: sizes and limits; that it can be read is shown by test_rendering.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import MalformedRequest
from provisioning.datamatrix import side, square

#: Longest runs of letters, and of digits, that a side of so many modules holds (ISO/IEC 16022, table 7).
CAPACITY = {10: 3, 12: 5, 14: 8, 16: 12, 18: 18, 20: 22, 22: 30, 24: 36, 26: 44, 32: 62, 36: 86, 40: 114, 44: 144, 48: 174}


@pytest.mark.parametrize("modules", CAPACITY)
def test_a_side_holds_what_the_table_says(modules: int) -> None:
    assert side("a" * CAPACITY[modules]) == modules
    assert side("1" * 2 * CAPACITY[modules]) == modules
    assert side("a" * (CAPACITY[modules] + 1)) > modules


def test_too_much_text_is_refused() -> None:
    assert len(square("a" * 280)) == 64
    with pytest.raises(MalformedRequest, match="at most 280"):
        square("a" * 281)


@pytest.mark.parametrize("text", ["ü", "1²", "٣٣", "\x80"])
def test_what_is_not_ascii_is_refused(text: str) -> None:
    with pytest.raises(MalformedRequest, match="ASCII"):
        square(text)


def test_a_symbol_stays_as_it_is() -> None:
    """Scanners compare nothing, but what was printed and what is printed tomorrow should not differ."""
    assert ["".join("#" if dark else "." for dark in row) for row in square("123456")] == [
        "#.#.#.#.#.",
        "##..#.##.#",
        "##.....#..",
        "##...###.#",
        "##....#...",
        "#.....####",
        "###.##....",
        "####.##..#",
        "#..###.#..",
        "##########",
    ]


@given(st.text(st.characters(max_codepoint=127), max_size=280))
def test_every_ascii_text_makes_a_framed_square(text: str) -> None:
    rows = square(text)
    assert all(len(row) == len(rows) for row in rows)
    assert all(row[0] for row in rows)
    assert all(rows[-1])
    assert list(rows[0][:-1:2]) == [True] * (len(rows) // 2)
    assert side(text) == len(rows)

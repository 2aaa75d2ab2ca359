"""Patterns that recipes may use: what may take for ever is refused with a sentence, the rest means what it says."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from provisioning.patterns import MAX_PATTERN, BadPattern, read_pattern

GOOD = [
    (r"login: $", "gw login: ", True),
    (r"^OK$", "OK", True),
    (r"^OK$", "NOK", False),
    (r"^(?:OK|ERROR|\+CME ERROR: [0-9]+)$", "+CME ERROR: 10", True),
    (r"@E{token}:(?P<status>\d{1,3})$", "x@E0123456789ab:0", True),
    (r"@E{token}:(?P<status>\d{1,3})$", "x@E0123456789ac:0", False),
    (r"@B{token}", "@B0123456789ac @B0123456789ab", True),
    (r"{token}-{token}", "0123456789ab-0123456789ab", True),
    (r"{token}-{token}", "0123456789ab-0123456789ac", False),
    (r"^{serial} ", "a.b ", True),
    (r"^{serial} ", "axb ", False),
    (r"serial[ \t]*=[ \t]*(?P<serial>[A-Z0-9-]+)", "serial = AB-12;", True),
    (r"[^:]*: (?P<value>.*)$", "a: b: c", True),
    (r"^\x41[\]\-]{2}$", "A]-", True),
    (r"^(?:ab){2}$", "abab", True),
    (r"^a?b?c$", "ac", True),
    (r"^$", "", True),
    (r"^OK$|^ERROR", "ERROR 1", True),
    (r"^OK$|^ERROR", "NO ERROR", False),
    (r"^[0-9a-f]{64} ", "0" * 64 + " *stdin", True),
]


@pytest.mark.parametrize(("text", "line", "matches"), GOOD, ids=[f"{n}" for n in range(len(GOOD))])
def test_a_pattern_means_what_it_says(text: str, line: str, matches: bool) -> None:
    pattern = read_pattern(text)
    assert (pattern.search(line, {"token": "0123456789ab", "serial": "a.b"}) is not None) is matches


def test_its_names_and_values_are_known() -> None:
    pattern = read_pattern(r"{token} (?P<chip>\w+) {serial}$")
    assert (pattern.names, pattern.values) == ({"chip"}, {"token", "serial"})


BAD = [
    (r"(a+)+$", "not groups"),
    (r"(?:a|aa)+$", "not groups"),
    (r"(?:a|aa){0,60}$", "not groups"),
    (r"(?:a+b){5}", "must not leave anything open"),
    (r"(?:a?){4096}", "must not leave anything open"),
    (r"(?:ab|a){2}c", "must not leave anything open"),
    (r".*.*=x", "may take what comes after it"),
    (r"\d+\d+x", "may take what comes after it"),
    (r"\w*\d", "may take what comes after it"),
    (r"[a-z]+(?:b|c)", "may take what comes after it"),
    (r"(?:x|a+)a", "may take what comes after it"),
    (r"a+(?:b)?a", "may take what comes after it"),
    (r"[0-9]+{token}", "may take what comes after it"),
    (r"a*", "matches nothing at all"),
    (r"a|b*", "matches nothing at all"),
    (r"a**", "repetition of a repetition"),
    (r"a+?b", "repetition of a repetition"),
    (r"(?=a)b", "of groups there are"),
    (r"(?P=name)", "of groups there are"),
    (r"(?P<Name>a)", "of groups there are"),
    (r"(?P<a>x)(?P<a>y)", "two groups named a"),
    (r"(a", "( without its )"),
    (r"a)", ") without its ("),
    (r"[a", "[ without its ]"),
    (r"[z-a]", "a later one"),
    (r"[\d-x]", "a later one"),
    (r"\1", "not known here"),
    (r"\bword", "not known here"),
    (r"\x4", "not known here"),
    ("\\", "not known here"),
    (r"*a", "stands for itself"),
    (r"{x", "stands for itself"),
    (r"a^b", "stands for itself"),
    (r"a$b", "stands at the end only"),
    (r"a{3,2}", "the lower number first"),
    (r"a{0}", "the lower number first"),
    (r"a{99999}", "from 0 to 4096"),
    ("é", "printable ASCII"),
    ("a\nb", "printable ASCII"),
    ("a" * (MAX_PATTERN + 1), "at most 500"),
    ("|".join("abcdefghijk"), "more than 8 alternatives"),
    ("((((((a))))))", "groups stand in more than 4"),
]


@pytest.mark.parametrize(("text", "words"), BAD, ids=[f"{n}" for n in range(len(BAD))])
def test_what_may_take_long_or_says_nothing_is_refused(text: str, words: str) -> None:
    with pytest.raises(BadPattern, match=re.escape(words)):
        read_pattern(text)


@settings(deadline=None)
@given(st.text(st.sampled_from("ab.*+?|()[]{}^$\\d12,:<>P-"), max_size=30))
def test_whatever_is_accepted_is_a_regular_expression(text: str) -> None:
    try:
        pattern = read_pattern(text)
    except BadPattern:
        return
    pattern.search("ab12" * 20, {"a": "x", "b": "y", "d": "z"})


def steps(pattern: str, line: str) -> int:
    """How many partial matches a backtracking search of ``line`` makes at most: a small model of such an engine."""
    counted = 0

    def match(nodes: list[tuple[str, int, int]], at: int) -> bool:
        nonlocal counted
        counted += 1
        if not nodes:
            return True
        (kind, least, most), rest = nodes[0], nodes[1:]
        run = 0
        while run < most and at + run < len(line) and re.fullmatch(kind, line[at + run]):
            run += 1
        return any(match(rest, at + count) for count in range(run, least - 1, -1))

    parts = re.findall(r"(\[[^]]*\]|\\.|.)([*+]?)", pattern)
    nodes = [(kind, 0 if sign == "*" else 1, len(line) if sign else 1) for kind, sign in parts]
    any(match(nodes, start) for start in range(len(line)))
    return counted


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b", "[ab]", "c"]), st.sampled_from(["", "*", "+"])), min_size=2, max_size=6))
def test_an_accepted_pattern_never_goes_back_far(parts: list[tuple[str, str]]) -> None:
    """Matching from one place takes no more than a few looks at each character; the search begins at each place once."""
    text = "".join(kind + sign for kind, sign in parts)
    try:
        read_pattern(text)
    except BadPattern:
        return
    line = "a" * 20 + "b" * 20 + "d"
    assert steps(text, line) <= (len(parts) + 1) * (len(line) + 1) * len(line)


def test_the_model_sees_what_goes_back_far() -> None:
    assert steps("a*a*a*c", "a" * 41) > 5 * 42 * 41

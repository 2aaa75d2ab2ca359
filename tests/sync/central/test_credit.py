"""Credit of work orders: never more than the quantity, never taken back, never more than a step ahead of the records."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.central.credit import Terms, credit, held

terms = st.builds(Terms, st.integers(1, 300), st.integers(1, 100), st.booleans())


@pytest.mark.parametrize(
    ("granted", "used", "expected"),
    [(0, 0, 100), (100, 0, 100), (100, 49, 100), (100, 50, 150), (100, 100, 200), (950, 940, 1000), (1000, 1000, 1000)],
)
def test_more_credit_follows_the_records_of_what_was_used(granted: int, used: int, expected: int) -> None:
    assert credit(Terms(1000, 100, True), granted=granted, used=used, elsewhere=0) == expected


@pytest.mark.parametrize("used", [0, 60, 100])
def test_without_receipts_the_operator_alone_gives_more(used: int) -> None:
    assert credit(Terms(1000, 100, False), granted=100, used=used, elsewhere=0) == 100
    assert credit(Terms(1000, 400, False), granted=100, used=used, elsewhere=0) == 400


@given(terms, st.lists(st.tuples(st.integers(0, 3), st.integers(0, 40)), max_size=60))
def test_gateways_together_never_hold_more_than_the_quantity(given_terms: Terms, history: list[tuple[int, int]]) -> None:
    """Whoever asks, in whatever order, whatever they used of what they had."""
    granted, used = [0] * 4, [0] * 4
    for gateway, more in history:
        used[gateway] += min(more, granted[gateway] - used[gateway])
        elsewhere = sum(held(granted[each], used[each], over=False) for each in range(4) if each != gateway)
        before = granted[gateway]
        granted[gateway] = credit(given_terms, granted=before, used=used[gateway], elsewhere=elsewhere)
        assert granted[gateway] >= before
        assert not given_terms.after_receipt or granted[gateway] <= used[gateway] + given_terms.step
        assert sum(granted) <= given_terms.quantity


@given(terms, st.integers(0, 300), st.integers(0, 300))
def test_the_share_of_who_begins_nothing_more_is_what_was_used(given_terms: Terms, granted: int, used: int) -> None:
    assert held(granted, used, over=True) == used
    assert held(granted, used, over=False) >= granted

"""The filter of used idempotency keys: it may forget to be sure, never be sure wrongly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.journal.absence import KeyFilter
from gateway.journal.tip import idem_column


@given(st.lists(st.binary(max_size=40), max_size=50), st.integers(0, 2**31), st.integers(0, 2**31))
def test_what_was_added_may_be_there_on_whatever_day(keys: list[bytes], added: int, asked: int) -> None:
    filter_ = KeyFilter()
    for key in keys:
        filter_.add(idem_column(added, key))
    assert filter_.count == len(keys)
    assert all(filter_.may_hold(idem_column(asked, key)) for key in keys)


def test_new_keys_are_told_apart() -> None:
    filter_ = KeyFilter()
    assert not filter_.may_hold(idem_column(0, b"new"))
    for number in range(20_000):
        filter_.add(idem_column(1, b"used%d" % number))
    assert sum(filter_.may_hold(idem_column(1, b"new%d" % number)) for number in range(5_000)) <= 2

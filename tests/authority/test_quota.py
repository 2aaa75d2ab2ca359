"""The ledger never gives more than a limit, and never loses a unit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.authority.quota import Exhausted, Ledger, is_token_exhausted, profile_quota, token_quota
from gateway.errors import Forbidden, QuotaExhausted


def test_a_name_without_limit_is_counted() -> None:
    ledger = Ledger()
    ledger.reserve(["a"])
    ledger.commit(["a"])
    assert (ledger.spent("a"), ledger.remaining("a")) == (1, None)
    ledger.limit("a", 1)
    assert ledger.remaining("a") == 0


def test_tallies_of_the_journal_count_against_the_limit() -> None:
    ledger = Ledger({"a": 3})
    ledger.limit("a", 3)
    with pytest.raises(Exhausted, match="a of 3") as caught:
        ledger.reserve(["a"])
    assert isinstance(caught.value, QuotaExhausted)
    assert caught.value.name == "a"


def test_all_names_are_reserved_or_none() -> None:
    ledger = Ledger()
    ledger.limit("b", 0)
    with pytest.raises(Exhausted, match="b"):
        ledger.reserve(["a", "b"])
    ledger.limit("a", 1)
    assert ledger.remaining("a") == 1


def test_a_reserved_unit_is_taken_but_not_spent() -> None:
    ledger = Ledger()
    ledger.limit("a", 2)
    ledger.reserve(["a"])
    assert (ledger.spent("a"), ledger.remaining("a")) == (0, 1)


def test_released_and_refunded_units_can_be_taken_again() -> None:
    ledger = Ledger()
    ledger.limit("a", 1)
    ledger.reserve(["a"])
    ledger.release(["a"])
    ledger.reserve(["a"])
    ledger.commit(["a"])
    ledger.refund(["a"])
    assert ledger.remaining("a") == 1


def test_a_lifted_limit_binds_nobody() -> None:
    ledger = Ledger({"a": 5})
    ledger.limit("a", 5)
    ledger.limit("a", None)
    ledger.limit("never", None)
    ledger.reserve(["a"])


def test_a_limit_below_what_is_spent_leaves_nothing() -> None:
    ledger = Ledger({"a": 5})
    ledger.limit("a", 2)
    assert ledger.remaining("a") == 0


@pytest.mark.parametrize("operation", ["commit", "release", "refund"])
def test_what_was_not_taken_cannot_be_given_back(operation: str) -> None:
    with pytest.raises(ValueError, match="no unit of a"):
        getattr(Ledger(), operation)(["a"])


def test_a_unit_in_the_making_cannot_be_refunded() -> None:
    ledger = Ledger()
    ledger.reserve(["a"])
    with pytest.raises(ValueError, match="taken"):
        ledger.refund(["a"])


def test_only_a_used_up_token_is_a_matter_of_authentication() -> None:
    assert is_token_exhausted(Exhausted(token_quota("x"), 1))
    assert not is_token_exhausted(Exhausted(profile_quota("x"), 1))
    assert not is_token_exhausted(Forbidden("no"))


@given(st.integers(0, 5), st.lists(st.booleans(), max_size=30))
def test_reservations_never_exceed_the_limit(limit: int, keeps: list[bool]) -> None:
    ledger = Ledger()
    ledger.limit("a", limit)
    for keep in keeps:
        try:
            ledger.reserve(["a"])
        except Exhausted:
            assert ledger.spent("a") == limit
        else:
            (ledger.commit if keep else ledger.release)(["a"])
        assert ledger.spent("a") <= limit


class LedgerMachine(RuleBasedStateMachine):
    """Against the plainest model there is: three numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger, self.reserved, self.spent = Ledger({"a": 1}), 0, 1
        self.ledger.limit("a", 4)

    @rule()
    def reserve(self) -> None:
        if self.reserved + self.spent < 4:
            self.ledger.reserve(["a"])
            self.reserved += 1
        else:
            with pytest.raises(Exhausted):
                self.ledger.reserve(["a"])

    @precondition(lambda self: self.reserved)
    @rule()
    def commit(self) -> None:
        self.ledger.commit(["a"])
        self.reserved, self.spent = self.reserved - 1, self.spent + 1

    @precondition(lambda self: self.reserved)
    @rule()
    def release(self) -> None:
        self.ledger.release(["a"])
        self.reserved -= 1

    @precondition(lambda self: self.spent)
    @rule()
    def refund(self) -> None:
        self.ledger.refund(["a"])
        self.spent -= 1

    @invariant()
    def agrees(self) -> None:
        assert self.ledger.spent("a") == self.spent
        assert self.ledger.remaining("a") == 4 - self.spent - self.reserved


TestLedgerMachine = LedgerMachine.TestCase

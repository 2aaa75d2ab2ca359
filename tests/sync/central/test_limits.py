from __future__ import annotations

from sync.central.limits import Allowance, Limits


def test_what_is_overdrawn_is_paid_back_before_the_next_message() -> None:
    allowance = Allowance(100, 0, 0)
    assert allowance.wait_s(0) == 0
    allowance.spend(350, 10**9, 0)
    assert allowance.wait_s(0) == 3
    assert allowance.wait_s(1_500) == 1
    assert allowance.wait_s(2_500) == 0


def test_octets_count_like_records_and_the_longer_wait_counts() -> None:
    allowance = Allowance(100, 1_000, 0)
    allowance.spend(200, 6_000, 0)
    assert allowance.wait_s(0) == 5


def test_nothing_is_saved_up_beyond_one_second() -> None:
    allowance = Allowance(100, 100, 0)
    allowance.spend(300, 0, 3_600_000)
    assert allowance.wait_s(3_600_000) == 2


def test_no_limit_is_never_a_reason_to_wait() -> None:
    allowance = Limits().total(0)
    allowance.spend(10**9, 10**12, 0)
    assert allowance.wait_s(0) == 0


def test_a_clock_that_goes_back_gives_nothing() -> None:
    allowance = Allowance(100, 100, 1_000)
    allowance.spend(200, 0, 1_000)
    assert allowance.wait_s(0) == 1


def test_an_allowance_is_whole_when_nothing_is_owed() -> None:
    allowance = Limits(records_per_s=100, octets_per_s=100).one(0)
    assert allowance.is_whole(0)
    allowance.spend(1, 1, 0)
    assert not allowance.is_whole(0)
    assert allowance.is_whole(1_000)

"""Each lane has its own bound, and a full one says when to come back."""

from __future__ import annotations

import pytest

from gateway.authority.lanes import RETRY_AFTER_S, Lanes
from gateway.authority.requests import Lane
from gateway.errors import Busy


@pytest.fixture
def lanes() -> Lanes:
    return Lanes({Lane.LINE: 1, Lane.RENEWAL: 2, Lane.BULK: 3})


@pytest.mark.parametrize("lane", Lane)
def test_a_full_lane_is_busy_and_says_when_to_come_back(lanes: Lanes, lane: Lane) -> None:
    for _ in range(lane.value):
        lanes.enter(lane)
    with pytest.raises(Busy) as caught:
        lanes.enter(lane)
    # A person stands at the line, nobody waits for a renewal, and a bulk job has all day.
    assert caught.value.retry_after == RETRY_AFTER_S[lane] == {Lane.LINE: 2, Lane.RENEWAL: 10, Lane.BULK: 15}[lane]
    assert lanes.occupied(lane) == lane.value


def test_the_line_is_never_blocked_by_bulk(lanes: Lanes) -> None:
    for _ in range(3):
        lanes.enter(Lane.BULK)
    lanes.enter(Lane.LINE)
    assert lanes.occupied(Lane.LINE) == 1


def test_a_place_that_was_left_is_free(lanes: Lanes) -> None:
    lanes.enter(Lane.LINE)
    lanes.leave(Lane.LINE)
    assert lanes.occupied(Lane.LINE) == 0
    lanes.enter(Lane.LINE)


def test_a_place_is_left_also_by_an_error(lanes: Lanes) -> None:
    def fail() -> None:
        with lanes.place(Lane.LINE):
            assert lanes.occupied(Lane.LINE) == 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert lanes.occupied(Lane.LINE) == 0


def test_the_line_is_asked_to_come_back_first() -> None:
    assert RETRY_AFTER_S[Lane.LINE] < RETRY_AFTER_S[Lane.RENEWAL] < RETRY_AFTER_S[Lane.BULK]

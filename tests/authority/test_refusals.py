"""What is worth a record, and that a hammering device fills neither disk nor memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.authority.refusals import MOST_OF_ONE, WINDOW_MS, RefusalFilter
from gateway.journal.records import Refused

REFUSED = Refused(profile="p", protocol="est", requester="r", csr_digest=bytes(32), error="Forbidden", reason="no")


def test_the_same_refusal_is_recorded_once_in_a_window() -> None:
    refusals = RefusalFilter()
    assert refusals.is_worth_recording(REFUSED, 0)
    assert not refusals.is_worth_recording(REFUSED, WINDOW_MS - 1)
    assert refusals.is_worth_recording(REFUSED, WINDOW_MS)
    assert not refusals.is_worth_recording(REFUSED, WINDOW_MS + 1)


@pytest.mark.parametrize(
    "changes", [{"profile": "q"}, {"requester": "s"}, {"csr_digest": bytes(31) + b"1"}, {"error": "BadKey"}, {"reason": "n"}]
)
def test_another_refusal_is_another_record(changes: dict[str, object]) -> None:
    refusals = RefusalFilter()
    refusals.is_worth_recording(REFUSED, 0)
    assert refusals.is_worth_recording(replace(REFUSED, **changes), 0)  # type: ignore[arg-type]


def test_one_requester_has_a_limit_and_does_not_use_up_anothers() -> None:
    refusals = RefusalFilter()
    answers = [refusals.is_worth_recording(replace(REFUSED, reason=str(n)), 0) for n in range(MOST_OF_ONE + 5)]
    assert answers == [True] * MOST_OF_ONE + [False] * 5
    assert refusals.is_worth_recording(replace(REFUSED, requester="s"), 0)


def test_memory_is_bounded() -> None:
    refusals = RefusalFilter()
    for index in range(1_100):
        refusals.is_worth_recording(replace(REFUSED, requester=str(index)), 0)
    assert len(refusals._windows) == 1_024
    assert refusals.is_worth_recording(replace(REFUSED, requester="0"), 0)
    assert not refusals.is_worth_recording(replace(REFUSED, requester="1099"), 0)


def test_who_is_refused_again_is_remembered_longer_than_who_came_once() -> None:
    refusals = RefusalFilter()
    for index in range(1_024):
        refusals.is_worth_recording(replace(REFUSED, requester=str(index)), 0)
    refusals.is_worth_recording(replace(REFUSED, requester="0", reason="another"), 0)
    refusals.is_worth_recording(replace(REFUSED, requester="new"), 0)
    assert not refusals.is_worth_recording(replace(REFUSED, requester="0"), 0)
    assert refusals.is_worth_recording(replace(REFUSED, requester="1"), 0)


def test_text_that_no_encoding_knows_is_a_refusal_like_another() -> None:
    assert RefusalFilter().is_worth_recording(replace(REFUSED, reason="\udc80"), 0)

"""The gateway's machine: every transition, and what it holds to whatever is fed in whatever order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.session import (
    ANSWERS,
    HEARTBEAT_S,
    LONGEST_PAUSE_S,
    MOST_RETRY_AFTER_S,
    SHORTEST_PAUSE_S,
    Action,
    AskChallenge,
    Busy,
    CheckRootAt,
    Confirmed,
    Connected,
    DesiredHandled,
    DesiredVersion,
    Event,
    Fence,
    FetchDesired,
    IsFenced,
    LinkLost,
    NewRecords,
    Nonce,
    OwnRoot,
    Phase,
    Refused,
    ResumeAt,
    SayHello,
    SendBatch,
    SendForkProof,
    SendHello,
    SendUrgent,
    State,
    Tick,
    UrgentRecords,
    UrgentSent,
    Wait,
    step,
)
from sync.wire import Welcome

ROOT, OTHER = b"r" * 32, b"o" * 32
SESSION = "s1"


def welcome(size: int = 3, desired: int = 0) -> Welcome:
    return Welcome(SESSION, size, ROOT, "receipt", desired)


def fed(state: State, *events: Event, chance: float = 0.0) -> tuple[State, Action | None]:
    action: Action | None = None
    for event in events:
        state, action = step(state, event, chance)
    return state, action


#: A session up to where the own root at central's size was compared; one answer is missing.
GREETED = (Connected(), Nonce("n"), welcome(), OwnRoot(ROOT))


def idle(head: int = 3) -> State:
    state, action = fed(State(head), *GREETED[:2], welcome(head), OwnRoot(ROOT))
    assert action == Wait(HEARTBEAT_S)
    return state


def sending() -> State:
    """A batch is under way."""
    state, action = fed(State(9), *GREETED, UrgentSent(9))
    assert action == SendBatch(3, SESSION)
    return state


# The order of a session.


def test_a_session_begins_with_challenge_hello_and_the_comparison_of_roots() -> None:
    state, action = fed(State(9), Connected())
    assert action == AskChallenge()
    state, action = step(state, Nonce("n"))
    assert action == SendHello("n")
    state, action = step(state, welcome(3))
    assert action == CheckRootAt(3)
    state, action = step(state, OwnRoot(ROOT))
    assert action == SendUrgent(3)
    assert state.session == SESSION
    assert state.backlog == 6


def test_urgent_records_then_the_document_then_the_backlog_then_the_heartbeat() -> None:
    state, action = fed(State(9, have=1), Connected(), Nonce("n"), welcome(3, desired=2), OwnRoot(ROOT))
    assert action == SendUrgent(3)
    state, action = step(state, UrgentSent(9))
    assert action == FetchDesired(1)
    state, action = step(state, DesiredHandled(2))
    assert action == SendBatch(3, SESSION)
    state, action = step(state, Confirmed(6, 2))
    assert action == SendBatch(6, SESSION)
    state, action = step(state, Confirmed(9, 2))
    assert action == Wait(HEARTBEAT_S)
    state, action = step(state, Tick())
    assert action == SendBatch(9, SESSION)


def test_urgent_records_that_did_not_fit_follow_at_once() -> None:
    assert fed(State(9), *GREETED, UrgentSent(5))[1] == SendUrgent(5)


@pytest.mark.parametrize(
    ("news", "expected"),
    [
        (NewRecords(4), SendBatch(3, SESSION)),
        (UrgentRecords(4), SendUrgent(3)),
        (DesiredVersion(1), FetchDesired(0)),
        (Connected(), SendBatch(3, SESSION)),
        (NewRecords(3), None),
        (DesiredVersion(0), None),
    ],
)
def test_news_interrupts_idleness_if_there_is_something_to_do(news: Event, expected: Action | None) -> None:
    assert fed(idle(), news)[1] == expected


@pytest.mark.parametrize("news", [NewRecords(20), UrgentRecords(20), DesiredVersion(9), Tick(), Connected()])
def test_news_does_not_disturb_what_is_under_way_and_is_not_forgotten(news: Event) -> None:
    state, action = fed(sending(), news)
    assert action is None
    assert state.phase is Phase.BATCH
    todo = {NewRecords: SendBatch, UrgentRecords: SendUrgent, DesiredVersion: FetchDesired, Tick: Wait, Connected: Wait}
    assert isinstance(fed(state, Confirmed(9, 0))[1], todo[type(news)])


def test_an_urgent_record_written_while_others_travel_is_sent_after_them() -> None:
    state, action = fed(State(9), *GREETED)
    assert action == SendUrgent(3)
    state, action = fed(state, UrgentRecords(10), UrgentSent(9))
    assert action == SendUrgent(9)


def test_a_document_that_is_announced_and_not_to_be_had_does_not_stop_the_records() -> None:
    state = replace(sending(), desired=5)
    state, action = fed(state, Confirmed(9, 5))
    assert action == FetchDesired(0)
    state, action = step(state, DesiredHandled(0))
    assert action == Wait(HEARTBEAT_S)
    assert fed(state, Tick(), Confirmed(9, 5))[1] == FetchDesired(0)


def test_a_document_announced_while_another_is_fetched_is_fetched_next() -> None:
    state, _ = fed(idle(), DesiredVersion(1), DesiredVersion(2))
    assert fed(state, DesiredHandled(1))[1] == FetchDesired(1)


# Sizes and roots.


def test_a_restored_central_is_filled_again_and_told_the_urgent_records_again() -> None:
    state, action = fed(State(9), *GREETED, UrgentSent(9), Confirmed(9, 0), Tick(), LinkLost())
    state, action = fed(state, Tick(), Nonce("n"), Welcome("s2", 1, ROOT, "", 0), OwnRoot(ROOT))
    assert action == SendUrgent(1)
    assert fed(state, UrgentSent(9))[1] == SendBatch(1, "s2")


def test_another_root_is_looked_at_twice_then_fences_and_proves() -> None:
    state, action = fed(State(9), *GREETED[:3], OwnRoot(OTHER))
    assert action == CheckRootAt(3, thorough=True)
    state, action = step(state, OwnRoot(OTHER))
    assert isinstance(action, SendForkProof)
    assert (action.size, action.session) == (3, SESSION)
    assert state.fenced == action.reason
    assert "another journal of 3 records" in action.reason


def test_a_cache_that_was_wrong_fences_nobody() -> None:
    state, action = fed(State(9), *GREETED[:3], OwnRoot(OTHER), OwnRoot(ROOT))
    assert action == SendUrgent(3)
    assert not state.fenced


@pytest.mark.parametrize("answer", [Confirmed(3, 0), ResumeAt(2, ROOT), Refused("no"), IsFenced("fork")])
def test_once_central_has_the_proof_all_is_over(answer: Event) -> None:
    state, action = fed(State(9), *GREETED[:3], OwnRoot(OTHER), OwnRoot(OTHER), answer)
    assert isinstance(action, Fence)
    assert "another journal" in action.reason
    assert state.phase is Phase.FENCED
    assert fed(state, Tick(), Connected(), UrgentRecords(99), DesiredVersion(9)) == (
        replace(state, head=99, urgent=99, desired=9),
        None,
    )


@pytest.mark.parametrize("answer", [LinkLost(), Busy(5), SayHello()])
def test_a_proof_that_did_not_arrive_is_sent_again_in_a_new_session(answer: Event) -> None:
    state, action = fed(State(9), *GREETED[:3], OwnRoot(OTHER), OwnRoot(OTHER), answer)
    if isinstance(action, Wait):
        state, action = step(state, Tick())
    assert isinstance(action, AskChallenge)
    assert action.fence == state.fenced != ""
    state, action = fed(state, Nonce("n"), Welcome("s2", 3, ROOT, "", 0), OwnRoot(OTHER), OwnRoot(OTHER))
    assert isinstance(action, SendForkProof)
    assert action.session == "s2"


def test_a_fenced_gateway_sends_nothing_where_central_agrees() -> None:
    state, action = fed(State(9, fenced="the anchor says so"), *GREETED)
    assert action == Fence("the anchor says so")
    assert state.session == ""


def test_a_journal_shorter_than_central_fences_and_says_hello_so_that_central_sees_it() -> None:
    state, action = fed(sending(), ResumeAt(20, ROOT), OwnRoot(None))
    assert isinstance(action, AskChallenge)
    assert "this journal has fewer" in action.fence
    assert isinstance(fed(state, Nonce("n"), IsFenced("restored"))[1], Fence)


def test_a_shorter_journal_that_central_welcomes_all_the_same_ends() -> None:
    _, action = fed(sending(), ResumeAt(20, ROOT), OwnRoot(None), Nonce("n"), welcome(20), OwnRoot(None))
    assert isinstance(action, Fence)
    assert "this journal has fewer" in action.reason


def test_central_elsewhere_is_followed_once_the_roots_agree() -> None:
    state, action = fed(sending(), ResumeAt(1, ROOT))
    assert action == CheckRootAt(1)
    assert fed(state, OwnRoot(ROOT))[1] == SendBatch(1, SESSION)


def test_a_central_that_is_always_elsewhere_is_asked_after_pauses_only() -> None:
    state, action = fed(sending(), ResumeAt(1, ROOT), OwnRoot(ROOT), ResumeAt(2, ROOT), chance=0.5)
    assert isinstance(action, Wait)
    assert state.session == ""


# Trouble.


def test_fenced_by_central_is_the_end() -> None:
    state, action = fed(sending(), IsFenced("there are two"))
    assert action == Fence("there are two")
    assert state.trouble == state.fenced == "there are two"


def test_an_unknown_session_begins_again_at_once_and_then_with_pauses() -> None:
    state, action = fed(sending(), SayHello())
    assert action == AskChallenge()
    state, action = fed(state, Nonce("n"), SayHello(), chance=0.5)
    assert action == Wait(SHORTEST_PAUSE_S + 0.5 * 3)


def test_what_is_refused_is_tried_again_after_the_longest_pause() -> None:
    state, action = fed(sending(), Refused("a wrong checkpoint"))
    assert action == Wait(LONGEST_PAUSE_S)
    assert state.trouble == "a wrong checkpoint"
    assert fed(state, Tick())[1] == AskChallenge()


def test_refused_urgent_records_come_in_their_place() -> None:
    state, action = fed(State(9), *GREETED, Refused("no"))
    assert action == SendBatch(3, SESSION)
    assert state.trouble == "no"


def test_a_refused_request_for_the_document_does_not_stop_the_records() -> None:
    assert fed(idle(), DesiredVersion(1), NewRecords(5), Refused("no"))[1] == SendBatch(3, SESSION)


def test_busy_is_waited_for_and_the_session_goes_on() -> None:
    state, action = fed(sending(), Busy(30, "later"))
    assert action == Wait(30)
    assert fed(state, Tick())[1] == SendBatch(3, SESSION)


@pytest.mark.parametrize(
    ("asked", "least", "most"), [(0, 1, 2), (30, 30, 60), (10**9, MOST_RETRY_AFTER_S, 2 * MOST_RETRY_AFTER_S)]
)
def test_gateways_turned_away_together_do_not_come_back_together(asked: float, least: float, most: float) -> None:
    assert fed(sending(), Busy(asked), chance=0.0)[1] == Wait(least)
    assert fed(sending(), Busy(asked), chance=1.0)[1] == Wait(most)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_busy_before_the_roots_agree_begins_again_with_hello(at: int) -> None:
    state, action = fed(State(9), *GREETED[:at], Busy(5))
    assert action == Wait(5)
    assert fed(state, Tick())[1] == AskChallenge()


def test_the_pause_doubles_with_full_jitter_up_to_five_minutes() -> None:
    state, most = fed(State(9), Connected())[0], []
    for _ in range(20):
        low = fed(state, LinkLost(), chance=0.0)[1]
        assert low == Wait(SHORTEST_PAUSE_S)
        state, action = fed(state, LinkLost("no route"), chance=1.0)
        assert isinstance(action, Wait)
        most.append(action.seconds)
        assert state.trouble == "no route"
        state, _ = fed(state, Tick())
    assert most[:9] == [2, 4, 8, 16, 32, 64, 128, 256, 300]
    assert set(most[9:]) == {LONGEST_PAUSE_S}


def test_only_what_central_confirms_ends_the_trouble() -> None:
    state, _ = fed(sending(), LinkLost("gone"), Tick(), Nonce("n"), welcome(), OwnRoot(ROOT), UrgentSent(9))
    assert (state.failures, state.trouble) == (1, "gone")
    state, _ = fed(state, Confirmed(9, 0))
    assert (state.failures, state.trouble) == (0, "")


def test_a_pause_ends_early_when_the_link_comes_up_and_not_by_new_records() -> None:
    state, _ = fed(sending(), LinkLost())
    assert fed(state, NewRecords(50), UrgentRecords(51), DesiredVersion(2))[1] is None
    assert fed(state, Connected())[1] == AskChallenge()


def test_an_answer_to_another_action_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="Nonce is no answer to what is under way: batch"):
        step(sending(), Nonce("n"))


def test_every_phase_has_its_answers() -> None:
    assert set(ANSWERS) == set(Phase)


# Whatever happens.

_SIZES = st.integers(0, 12)
_NEWS = st.one_of(
    st.builds(NewRecords, _SIZES), st.builds(UrgentRecords, _SIZES), st.builds(DesiredVersion, st.integers(0, 4)),
    st.just(Tick()), st.just(Connected()),
)  # fmt: skip
_ANSWERS: dict[type, st.SearchStrategy[Event]] = {
    Nonce: st.just(Nonce("n")),
    Welcome: st.builds(welcome, _SIZES, st.integers(0, 4)),
    OwnRoot: st.sampled_from([OwnRoot(ROOT), OwnRoot(ROOT), OwnRoot(ROOT), OwnRoot(OTHER), OwnRoot(None)]),
    UrgentSent: st.builds(UrgentSent, st.integers(8, 12)),
    Confirmed: st.builds(Confirmed, _SIZES, st.integers(0, 4)),
    DesiredHandled: st.builds(DesiredHandled, st.integers(0, 4)),
    ResumeAt: st.builds(ResumeAt, _SIZES, st.just(ROOT)),
    SayHello: st.just(SayHello()),
    Refused: st.just(Refused("no")),
    IsFenced: st.just(IsFenced("fenced")),
    Busy: st.builds(Busy, st.floats(0, 1e6)),
    LinkLost: st.just(LinkLost()),
}


@given(st.data())
def test_whatever_is_fed_the_machine_keeps_its_word(data: st.DataObject) -> None:
    state, pending = State(5), None
    compared = False  # whether the own root was found to be central's, in this session
    for _ in range(40):
        answers = [_ANSWERS[each] for each in ANSWERS[state.phase]]
        event = data.draw(st.one_of(_NEWS, *answers))
        before = state
        state, action = step(state, event, data.draw(st.floats(0, 1, exclude_max=True)))
        if isinstance(event, ANSWERS[before.phase]):
            assert action is not None, "every answer leads on"
            pending = None
        if isinstance(event, Welcome | ResumeAt):
            compared = False
        elif event == OwnRoot(ROOT):
            compared = True
        if action is not None:
            assert pending is None or isinstance(pending, Wait), "one action is under way"
            pending = action
        if before.fenced:
            assert state.fenced == before.fenced, "fenced is for good"
            assert not isinstance(action, SendUrgent | SendBatch | FetchDesired), "and sends nothing of worth"
        if isinstance(action, SendBatch | SendUrgent):
            assert compared, "nothing is sent before the roots agree"
            assert action.start >= state.there or isinstance(action, SendBatch)
        if isinstance(action, Wait):
            assert SHORTEST_PAUSE_S <= action.seconds <= 2 * MOST_RETRY_AFTER_S
        if isinstance(action, SendBatch) and not isinstance(event, Tick | Connected):
            assert state.urgent <= max(state.told, state.there), "urgent records are ahead of every batch"
        if isinstance(action, Fence):
            assert state.phase is Phase.FENCED

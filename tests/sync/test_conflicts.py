"""The conflict table. Which row is proved where (paths below tests/):

| row | where |
|---|---|
| the same record twice, lost acknowledgement | sync/test_ingest.py, sim |
| revoked on both sides | here, sim |
| central revokes while the edge renews | here, sim |
| policy changed while apart | here, sim |
| violation found later | here (the judgement); the alert and the command: sync/central/test_projector.py |
| record central cannot decode | sync/central/test_projector.py |
| quota | here (what is too much), authority/test_quota.py (the edge's spending), sim |
| allow-list | authority/test_policy.py, sync/test_desired.py |
| CRLs, trust lists | authority/test_parents.py, sync/central/test_projection.py |
| CRL number after a restore | pki/test_crl.py, authority/test_crl.py |
| central must give status while the edge is off | sync/central/test_status.py |
| sub-CA renewed with a backlog | authority/test_generations.py, sync/central/test_projection.py |
| clocks differ or jump | authority/test_issue.py (stop or mark), sim (the journal's time) |
| same device id, other key, two gateways | here |
| same key, other device id | here |
| record not signed by this sub-CA, bad root | sync/test_ingest.py (root); the sub-CA: sync/central/test_projection.py |
| gateway restored from backup | sync/test_ingest.py, sync/test_session.py, sim |
| gateway cloned | sync/test_ingest.py, sim |
| restore that lost only what central never saw | journal/test_anchor_return.py, sim |
| central restored from backup | sync/test_session.py, here (its own decisions), sim |
| crash between intent and issued | journal/test_journal.py, faults/test_issuing_kill.py |
| device repeats a request | authority/test_issue.py |
| a command delivered twice | sync/test_orders.py, sim |
| hardware replaced | sync/central/test_registry.py |
"""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.authority import revoke
from gateway.journal.records import Intent, PolicyApplied, Record, Released, Revoked, Stopped
from gateway.pki.crl import Reason
from sync.conflicts import (
    CENTRAL,
    DECISION_MS,
    SILENT,
    DuplicateIdentity,
    Identity,
    Revocation,
    SharedKey,
    Word,
    clash,
    edge_word,
    join,
    merged,
    next_number,
    overspent,
    policy_violation,
    quota_step,
    reason_for_successor,
    repeated_word,
)

HOLD, KEY, OLD, LEFT = (
    Reason.CERTIFICATE_HOLD, Reason.KEY_COMPROMISE, Reason.SUPERSEDED, Reason.CESSATION_OF_OPERATION,
)  # fmt: skip

words = st.builds(
    Word, st.integers(-1, 6), st.none() | st.sampled_from([HOLD, KEY, OLD, LEFT, Reason.UNSPECIFIED]), st.integers(0, 5)
)


def told(edge: Word, central: Word) -> tuple[Reason, int] | None:
    found = merged(edge, central)
    return (found.reason, found.revoked_ms) if found else None


# Revoked on both sides.


@given(words, words)
def test_joining_two_words_is_commutative(one: Word, other: Word) -> None:
    assert join(one, other) == join(other, one)


@given(words, words, words)
def test_joining_words_is_associative(one: Word, two: Word, three: Word) -> None:
    assert join(join(one, two), three) == join(one, join(two, three))


@given(words)
def test_joining_a_word_with_itself_or_with_silence_changes_nothing(word: Word) -> None:
    assert join(word, word) == word
    assert join(word, SILENT) == word or word.number == -1


@given(words, words)
def test_a_revocation_is_never_taken_back_nor_dated_later(one: Word, other: Word) -> None:
    if one.is_final:
        both = join(one, other)
        assert both.is_final
        assert both.revoked_ms <= one.revoked_ms
        assert one.reason is not KEY or both.reason is KEY


@given(words, words)
def test_what_one_side_revoked_is_revoked_whatever_the_other_says(edge: Word, central: Word) -> None:
    found = merged(edge, central)
    if edge.is_final or central.is_final:
        assert found is not None
        assert found.reason is not HOLD
        finals = [word.revoked_ms for word in (edge, central) if word.is_final]
        assert found.revoked_ms <= min(finals)


@pytest.mark.parametrize(
    ("edge", "central", "expected"),
    [
        (SILENT, SILENT, None),
        (Word(5, OLD, 10), SILENT, (OLD, 10)),
        (SILENT, Word(5, OLD, 10), (OLD, 10)),
        (Word(5, OLD, 10), Word(6, LEFT, 20), (OLD, 10)),
        (Word(5, OLD, 20), Word(6, LEFT, 10), (OLD, 10)),
        (Word(5, OLD, 10), Word(6, KEY, 20), (KEY, 10)),
        (Word(5, KEY, 20), Word(6, OLD, 10), (KEY, 10)),
        (Word(5, HOLD, 10), Word(6, OLD, 20), (OLD, 10)),
        (Word(5, OLD, 20), Word(6, HOLD, 10), (OLD, 10)),
        (Word(5, HOLD, 20), Word(6, HOLD, 10), (HOLD, 10)),
    ],
)
def test_revoked_on_both_sides_the_higher_state_the_earliest_date_and_key_compromise(
    edge: Word, central: Word, expected: tuple[Reason, int] | None
) -> None:
    assert told(edge, central) == expected


def test_a_hold_is_lifted_by_the_side_that_set_it() -> None:
    assert told(Word(5, HOLD, 10), SILENT) == (HOLD, 10)
    assert told(Word(6), SILENT) is None
    assert told(SILENT, Word(6, HOLD, 10)) == (HOLD, 10)
    assert told(SILENT, Word(7)) is None
    assert told(Word(9), Word(6, HOLD, 10)) == (HOLD, 10), "the edge cannot lift central's"


def test_central_overrules_the_holds_that_it_knew_of() -> None:
    edge = Word(5, HOLD, 10)
    central = Word(next_number(edge, SILENT))
    assert told(edge, central) is None
    assert told(Word(7, HOLD, 30), central) == (HOLD, 30), "a later hold stands"
    assert next_number(edge, central) == 7


def test_central_lifts_no_revocation() -> None:
    assert told(Word(5, OLD, 10), Word(6)) == (OLD, 10)


def test_records_in_any_order_and_twice_say_the_same() -> None:
    records = [
        Record(3, 0, Revoked("a1", 1, HOLD.value, 100, "anna")),
        Record(4, 0, Released("a1", 1, "anna")),
        Record(7, 0, Revoked("a1", 1, OLD.value, 200, "anna")),
        Record(9, 0, Revoked("a1", 1, KEY.value, 150, "anna")),
    ]
    for order in permutations([*records, records[1]]):
        word = SILENT
        for record in order:
            word = join(word, edge_word(record))
        assert word == Word(9, KEY, 150)


def test_only_revocations_and_releases_are_words() -> None:
    with pytest.raises(TypeError, match="stopped says nothing"):
        edge_word(Record(1, 0, Stopped()))
    with pytest.raises(ValueError, match="whim"):
        edge_word(Record(1, 0, Revoked("a1", 1, "whim", 0, "anna")))


# Central restored from backup.


def test_a_restored_central_learns_its_own_decisions_from_the_edge() -> None:
    lifted = Record(14, 0, Released("a1", 1, CENTRAL))
    assert repeated_word(lifted, pending=False) == Word(14)
    assert join(Word(0, HOLD, 10), repeated_word(lifted, pending=False)) == Word(14)


@pytest.mark.parametrize("payload", [Released("a1", 1, "anna"), Revoked("a1", 1, HOLD.value, 0, "anna"), Stopped()])
def test_what_the_edge_decided_is_no_word_of_central(payload: Released | Revoked | Stopped) -> None:
    assert repeated_word(Record(14, 0, payload), pending=False) is SILENT


def test_while_a_command_is_on_its_way_central_knows_better() -> None:
    assert repeated_word(Record(14, 0, Released("a1", 1, CENTRAL)), pending=True) is SILENT


def test_the_name_of_central_in_records_is_that_of_the_gateway() -> None:
    assert CENTRAL == revoke.CENTRAL


# Central revokes while the edge renews.


@pytest.mark.parametrize("reason", Reason)
def test_a_successor_falls_with_a_stolen_key_or_a_withdrawn_right_only(reason: Reason) -> None:
    falls = reason in (Reason.KEY_COMPROMISE, Reason.PRIVILEGE_WITHDRAWN)
    assert reason_for_successor(reason) is (reason if falls else None)


# Policy changed while apart; violation found later.


def intent(version: int, time: int, *, seq: int = 10, requester: str = "token:1") -> Record:
    plan = Intent("a1", b"", "ecdsa", 1, "ldevid", "est", "enroll", requester, b"", b"", version, b"")
    return Record(seq, time, plan)


APPLIED = [
    Record(2, 0, PolicyApplied(1, "file", b"")),
    Record(4, 0, PolicyApplied(2, "central", b"", 1_000)),
    Record(6, 0, Stopped()),
    Record(12, 0, PolicyApplied(3, "central", b"", 0)),
]


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (intent(1, 10**12), ""),
        (intent(2, 999), ""),
        (intent(2, 1_000 + DECISION_MS - 1), ""),
        (intent(2, 1_000 + DECISION_MS), "issued after version 2 of the policy had expired"),
        (intent(3, 0), "issued under version 3 of the policy, which was not in force"),
        (intent(3, 0, seq=13), ""),
        (intent(2, 10**12, requester="gateway:tls"), ""),
    ],
)
def test_policy_changed_while_apart_the_version_in_the_record_judges(record: Record, reason: str) -> None:
    assert policy_violation(record, APPLIED) == reason


def test_a_version_applied_again_with_a_later_end_counts_from_then() -> None:
    again = [*APPLIED, Record(8, 0, PolicyApplied(2, "central", b"", 10**9))]
    assert policy_violation(intent(2, 10**8), again) == ""
    assert policy_violation(intent(2, 10**8, seq=7), again) != ""


def test_only_an_intent_is_judged() -> None:
    with pytest.raises(TypeError, match="stopped is not an intent"):
        policy_violation(Record(1, 0, Stopped()), APPLIED)


# Quota.


@pytest.mark.parametrize(
    ("granted", "spent", "over", "reached"),
    [
        (100, 0, 0, 0),
        (100, 79, 0, 0),
        (100, 80, 0, 80),
        (100, 95, 0, 95),
        (100, 100, 0, 100),
        (100, 103, 3, 100),
        (0, 0, 0, 100),
    ],
)
def test_quota_overspent_and_nearly_used(granted: int, spent: int, over: int, reached: int) -> None:
    assert overspent(granted, spent) == over
    assert quota_step(granted, spent) == reached


# Identities.

ONE = Identity(10, "plant/1", "a1", "SN-1", b"k1")


def test_same_device_id_other_key_two_gateways_the_later_one_alerts() -> None:
    other = replace(ONE, time_ms=20, origin="plant/2", spki=b"k2")
    assert clash(ONE, other) == clash(other, ONE) == DuplicateIdentity(ONE, other)


def test_same_key_other_device_id_is_blocked() -> None:
    other = replace(ONE, time_ms=5, device="SN-2")
    found = clash(ONE, other)
    assert found == clash(other, ONE) == SharedKey(other, ONE)
    assert isinstance(found, SharedKey)
    assert found.blocked == b"k1"


@pytest.mark.parametrize(
    "other",
    [
        replace(ONE, serial="a2", spki=b"k2"),  # a new key from the same gateway
        replace(ONE, serial="a2", origin="plant/2"),  # renewed at another gateway
        replace(ONE, device="SN-2", spki=b"k2"),
        replace(ONE, device="", origin="plant/2"),
    ],
)
def test_what_is_no_clash(other: Identity) -> None:
    assert clash(ONE, other) is None
    assert clash(other, ONE) is None


def test_a_revocation_is_a_value() -> None:
    assert merged(Word(1, OLD, 5), SILENT) == Revocation(5, OLD)

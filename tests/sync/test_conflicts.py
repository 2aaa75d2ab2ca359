"""The conflict table. :data:`ROWS` says which row is proved where; the decisions that are pure are proved here.

Beside these, the simulation (tests/sim) plays whole histories with most rows in them, each with a rule broken on purpose.
"""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import permutations
from pathlib import Path

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

#: Row of the conflict table -> the tests of the product that prove it, below tests/.
ROWS = {
    "the same record twice, lost acknowledgement": (
        "sync/test_ingest.py::test_the_same_record_twice_or_a_lost_acknowledgement_is_nothing_to_do",
        "sync/central/test_service.py::test_the_same_batch_again_gets_the_same_receipt_and_adds_nothing",
        "sync/test_link.py::test_a_fault_at_any_message_loses_and_doubles_nothing",
    ),
    "revoked on both sides": (
        "sync/test_conflicts.py::test_revoked_on_both_sides_the_higher_state_the_earliest_date_and_key_compromise",
        "authority/test_revoke.py::test_central_joins_a_hold_of_the_gateway_and_then_only_central_lifts_it",
        "interop/test_conflict_table.py::test_a_hold_of_both_sides_is_lifted_by_central_alone",
        "interop/test_conflict_table.py::test_revoked_on_both_sides_the_earliest_date_and_key_compromise_hold_everywhere",
    ),
    "central revokes while the edge renews": (
        "sync/test_conflicts.py::test_a_successor_falls_with_a_stolen_key_or_a_withdrawn_right_only",
        "sync/central/test_projector.py::test_the_whole_line_of_a_compromised_certificate_falls",
        "sync/central/test_projector.py::test_the_successor_of_a_superseded_certificate_is_fine",
    ),
    "policy changed while apart": (
        "sync/test_conflicts.py::test_policy_changed_while_apart_the_version_in_the_record_judges",
        "sync/central/test_projection.py::test_a_certificate_is_judged_by_the_policy_version_in_its_record",
    ),
    "violation found later": (
        "interop/test_conflict_table.py"
        "::test_what_was_issued_after_its_policy_had_expired_is_disputed_and_a_command_to_revoke_it_goes_down",
        "sync/central/test_projector.py::test_a_certificate_against_the_policy_is_kept_disputed_and_revoked",
    ),
    "record central cannot decode": (
        "sync/central/test_projector.py::test_a_poison_record_is_set_aside_and_the_stream_goes_on",
        "sync/central/test_projector.py::test_what_was_set_aside_is_tried_again_by_the_next_start",
    ),
    "quota": (
        "sync/test_conflicts.py::test_quota_overspent_and_nearly_used",
        "authority/test_issue.py::test_quota_is_never_exceeded_by_64_at_once",
        "authority/test_issue.py::test_quota_outlives_a_restart",
        "sync/test_orders.py::test_a_document_puts_policy_and_quota_in_force_and_a_restart_keeps_them",
    ),
    "allow-list": (
        "interop/test_conflict_table.py"
        "::test_an_allow_list_is_centrals_alone_and_what_is_not_on_it_is_denied_or_waits_while_offline",
    ),
    "CRLs, trust lists": (
        "authority/test_parents.py::test_an_older_list_never_replaces_a_newer_one",
        "authority/test_crl.py::test_an_expired_list_is_degraded",
        "sync/central/test_status.py::test_the_gateways_own_list_is_served_and_never_replaced_by_a_lower_number",
    ),
    "CRL number after a restore": (
        "interop/test_conflict_table.py::test_the_number_of_a_list_does_not_go_back_when_the_gateway_was_restored",
    ),
    "central must give status while the edge is off": (
        "sync/test_orders.py::test_central_gets_a_certificate_for_its_ocsp_key_once",
        "sync/central/test_status.py::test_a_journalled_certificate_is_good",
    ),
    "sub-CA renewed with a backlog": (
        "sync/central/test_projector.py::test_certificates_of_every_generation_are_told_apart",
        "authority/test_generations.py::test_the_newest_generation_issues_and_the_older_one_stays",
    ),
    "clocks differ or jump": (
        "authority/test_issue.py::test_a_doubtful_clock_stops_issuing_where_policy_says_so",
        "sync/central/test_service.py::test_a_clock_that_is_far_off_is_an_alert_until_it_is_set",
        "interop/test_conflict_table.py"
        "::test_where_clocks_differ_by_days_the_order_of_records_decides_and_both_sides_tell_the_same",
    ),
    "same device id, other key, two gateways": (
        "sync/test_conflicts.py::test_same_device_id_other_key_two_gateways_the_later_one_alerts",
        "sync/central/test_projector.py::test_the_same_device_with_another_key_at_two_gateways_is_an_alert",
    ),
    "same key, other device id": (
        "sync/test_conflicts.py::test_same_key_other_device_id_is_blocked",
        "interop/test_conflict_table.py::test_a_key_under_two_device_ids_is_refused_by_every_gateway_once_its_document_arrives",
    ),
    "record not signed by this sub-CA, bad root": (
        "sync/central/test_projector.py::test_a_certificate_that_the_ca_did_not_sign_fences_the_gateway",
        "sync/central/test_service.py::test_another_history_fences_and_the_message_is_kept",
        "interop/test_conflict_table.py"
        "::test_forged_records_are_refused_with_the_reason_on_both_sides_and_the_technician_sees_it",
    ),
    "gateway restored from backup": (
        "sync/test_link.py::test_a_restored_gateway_is_fenced_on_both_sides",
        "sync/central/test_registry.py::test_a_gateway_joins_again_with_a_new_journal_that_names_the_old_one",
    ),
    "gateway cloned": (
        "sync/central/test_service.py::test_a_start_that_another_one_replaced_fences_for_good",
        "sync/central/test_service.py::test_another_history_fences_and_the_message_is_kept",
    ),
    "restore that lost only what central never saw": (
        "sim/test_simulation.py::test_clones_and_restores_are_found_in_every_way_there_is",
        "journal/test_journal.py::test_a_restored_older_journal_is_fenced_and_can_be_read",
        "journal/test_anchor_return.py::test_a_stick_that_comes_back_with_more_records_fences_and_is_not_overwritten",
    ),
    "central restored from backup": (
        "sync/test_link.py::test_a_restored_central_is_filled_again",
        "sync/central/test_projector.py::test_a_restored_central_learns_from_the_gateway_what_it_had_said_itself",
        "sync/central/test_desired_state.py::test_a_document_that_this_central_did_not_make_is_overtaken",
        "interop/test_conflict_table.py::test_a_restored_central_knows_again_what_it_had_lifted_and_its_documents_are_taken",
        "faults/test_sync_restored.py::test_a_restored_central_is_refilled_and_then_agrees_again",
    ),
    "crash between intent and issued": (
        "journal/test_journal.py::test_open_intents_become_void_at_the_next_start_and_give_their_quota_back",
        "authority/test_crl.py::test_openssl_agrees_on_good_revoked_held_released_and_void",
        "faults/test_issuing_kill.py::test_sigkill_at_every_call_of_a_life_breaks_no_promise",
    ),
    "device repeats a request": (
        "authority/test_issue.py::test_a_retry_gets_the_same_certificate",
        "authority/test_issue.py::test_a_retry_after_a_restart_gets_the_same_certificate",
    ),
    "a command delivered twice": (
        "sync/test_orders.py::test_a_command_is_carried_out_once_and_recorded_with_its_effect",
        "sync/test_orders.py::test_a_crash_between_document_and_command_is_made_up_for_at_the_next_start",
    ),
    "hardware replaced": (
        "interop/test_conflict_table.py::test_a_closed_journal_says_its_last_root_and_its_successor_names_it",
    ),
}
TESTS = Path(__file__).parents[1]
HOLD, KEY, OLD, LEFT = (
    Reason.CERTIFICATE_HOLD, Reason.KEY_COMPROMISE, Reason.SUPERSEDED, Reason.CESSATION_OF_OPERATION,
)  # fmt: skip

words = st.builds(
    Word, st.integers(-1, 6), st.none() | st.sampled_from([HOLD, KEY, OLD, LEFT, Reason.UNSPECIFIED]), st.integers(0, 5)
)


def told(edge: Word, central: Word) -> tuple[Reason, int] | None:
    found = merged(edge, central)
    return (found.reason, found.revoked_ms) if found else None


def test_the_rows_are_those_of_the_document() -> None:
    text = (TESTS.parent / "docs" / "SYNC.md").read_text(encoding="utf-8")
    table = text.partition("## The conflict table\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+?) \|", table, re.MULTILINE)
    assert rows[1:] == list(ROWS)


@pytest.mark.parametrize("row", ROWS)
def test_every_row_of_the_conflict_table_is_a_test(row: str) -> None:
    for path, _, name in (each.partition("::") for each in ROWS[row]):
        names = re.findall(r"^(?:async )?def (\w+)", (TESTS / path).read_text(encoding="utf-8"), re.MULTILINE)
        assert name in names


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

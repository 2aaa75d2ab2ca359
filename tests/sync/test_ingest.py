"""Central's decisions: what is taken, what is answered, and who is fenced, with real hashing and signatures."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.journal.checkpoint import Checkpoint, sign_note, verifier_key
from gateway.journal.merkle import EMPTY_ROOT, root_of
from gateway.journal.records import leaf_hash
from sync.ingest import (
    Appended,
    BatchVerdict,
    Convict,
    Greet,
    IsFenced,
    Refuse,
    Resume,
    Standing,
    Welcomed,
    challenge,
    judge_batch,
    judge_hello,
)
from sync.wire import Batch, Hello

ORIGIN = "plant/1"
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
FOREIGN = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
VKEY = verifier_key(ORIGIN, KEY.public_key())
BODIES = tuple(b"record %d" % number for number in range(12))
FORKED = (*BODIES[:3], *(b"other %d" % number for number in range(9)))
EMPTY = Standing(ORIGIN, VKEY)


def note(bodies: tuple[bytes, ...], *, origin: str = ORIGIN, key: Ed25519PrivateKey = KEY) -> str:
    return sign_note(Checkpoint(origin, len(bodies), root_of(map(leaf_hash, bodies))), origin, key)


def batch(start: int, stop: int, bodies: tuple[bytes, ...] = BODIES, session: str = "s1") -> Batch:
    return Batch(ORIGIN, session, start, note(bodies[:stop]), bodies[start:stop])


def known(given: Batch, size: int, bodies: tuple[bytes, ...] = BODIES) -> list[bytes]:
    return list(map(leaf_hash, bodies[given.start : min(given.stop, size)]))


def judged(standing: Standing, given: Batch) -> BatchVerdict:
    return judge_batch(standing, given, known(given, standing.size))


def with_records(size: int, **changes: str) -> Standing:
    """Central after a session that brought ``size`` records."""
    verdict = judged(replace(EMPTY, session="s1", incarnation="i1"), batch(0, size))
    assert isinstance(verdict, Appended)
    return replace(verdict.standing, receipt="receipt", **changes)


def hello(
    size: int, nonce: str = "n", *, bodies: tuple[bytes, ...] = BODIES, incarnation: str = "i1", origin: str = ORIGIN
) -> Hello:
    return Hello(origin, nonce, incarnation, note(bodies[:size]), 0, 0, "")


# Batches.


def test_records_are_appended_and_the_checkpoint_is_to_be_cosigned() -> None:
    given = batch(0, 5)
    verdict = judged(replace(EMPTY, session="s1"), given)
    assert isinstance(verdict, Appended)
    assert verdict.records == BODIES[:5]
    assert verdict.leaves == tuple(map(leaf_hash, BODIES[:5]))
    assert verdict.note == given.checkpoint
    assert verdict.standing.size == 5
    assert verdict.standing.root == root_of(map(leaf_hash, BODIES[:5]))


@pytest.mark.parametrize(
    ("start", "stop", "new"), [(5, 8, 3), (3, 8, 3), (0, 8, 3), (5, 5, 0), (2, 5, 0), (1, 3, 0), (3, 3, 0)]
)
def test_the_same_record_twice_or_a_lost_acknowledgement_is_nothing_to_do(start: int, stop: int, new: int) -> None:
    verdict = judged(with_records(5), batch(start, stop))
    assert isinstance(verdict, Appended)
    assert verdict.records == BODIES[8 - new : 8]
    assert verdict.standing.size == 5 + new
    assert bool(verdict.note) is bool(new)


def test_every_way_to_cut_a_journal_into_batches_gives_the_same_log() -> None:
    for first in range(1, 11):
        for second in range(first, 12):
            standing = replace(EMPTY, session="s1")
            for start, stop in ((0, first), (0, first), (max(0, first - 2), second), (second, 12)):
                verdict = judged(standing, batch(start, stop))
                assert isinstance(verdict, Appended)
                standing = verdict.standing
            assert standing.root == root_of(map(leaf_hash, BODIES))


def test_a_receipt_is_made_where_a_restored_central_has_none() -> None:
    given = batch(5, 5)
    verdict = judged(replace(with_records(5), receipt=""), given)
    assert isinstance(verdict, Appended)
    assert verdict.note == given.checkpoint
    empty = judged(replace(EMPTY, session="s1"), batch(0, 0))
    assert empty == Appended(replace(EMPTY, session="s1"), (), (), "")


def test_a_gap_is_answered_with_where_to_go_on() -> None:
    assert judged(with_records(5), batch(6, 8)) == Resume("central has 5 records")


def test_another_session_is_told_to_greet() -> None:
    assert isinstance(judged(with_records(5), batch(5, 8, session="s0")), Greet)


@pytest.mark.parametrize("given", [batch(3, 8, FORKED), batch(5, 8, FORKED), batch(0, 5, FORKED), batch(5, 5, FORKED)])
def test_a_fork_signed_by_the_gateway_convicts_it_with_its_own_note_as_evidence(given: Batch) -> None:
    verdict = judge_batch(with_records(5), given, known(given, 5))
    assert isinstance(verdict, Convict)
    assert verdict.evidence == given.checkpoint
    assert verdict.standing.fenced == verdict.reason
    assert verdict.standing.session == verdict.standing.nonce == ""
    assert judged(verdict.standing, batch(5, 8)) == IsFenced(verdict.reason)


def test_a_changed_record_on_a_stick_is_refused_and_fences_nobody() -> None:
    good = batch(3, 8, session="")
    for at in range(5):
        records = tuple(b"changed" if number == at else body for number, body in enumerate(good.records))
        assert isinstance(judged(with_records(5), replace(good, records=records)), Refuse)


@pytest.mark.parametrize(
    "records", [BODIES[5:7], (*BODIES[5:8], b"one more"), (BODIES[6], BODIES[5], BODIES[7]), (), (*BODIES[5:7], b"")]
)
def test_truncated_reordered_and_added_records_are_refused(records: tuple[bytes, ...]) -> None:
    for session in ("", "s1"):
        verdict = judged(with_records(5), replace(batch(5, 8, session=session), records=records))
        assert isinstance(verdict, Convict if session and len(records) == 3 else Refuse)


def test_a_bundle_without_records_carries_the_proof_of_a_fork() -> None:
    assert isinstance(judged(with_records(5), batch(5, 5, FORKED, session="")), Convict)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"origin": "plant/2"}, "records of 'plant/2'"),
        ({"checkpoint": note(BODIES[:8], key=FOREIGN)}, "no signature"),
        ({"checkpoint": note(BODIES[:7])}, "of 7 records"),
        ({"checkpoint": "nonsense"}, "not a signed note"),
        ({"checkpoint": sign_note(Checkpoint("plant/2", 8, bytes(32)), ORIGIN, KEY)}, "another journal"),
    ],
)
def test_what_is_not_what_it_claims_is_refused_with_the_reason(changes: dict[str, str], reason: str) -> None:
    verdict = judged(with_records(5), replace(batch(5, 8), **changes))  # type: ignore[arg-type]
    assert isinstance(verdict, Refuse)
    assert reason in verdict.reason


def test_an_empty_journal_has_one_root_only() -> None:
    signed = sign_note(Checkpoint(ORIGIN, 0, bytes(32)), ORIGIN, KEY)
    verdict = judged(EMPTY, Batch(ORIGIN, "", 0, signed, ()))
    assert isinstance(verdict, Refuse)
    assert EMPTY.root == EMPTY_ROOT


def test_nobody_is_convicted_for_what_central_did_not_look_up() -> None:
    with pytest.raises(ValueError, match="2 leaf hashes are needed from 3 on, not 1"):
        judge_batch(with_records(5), batch(3, 8), [leaf_hash(BODIES[3])])


def test_records_from_a_bundle_make_the_nonce_void_and_those_of_a_session_do_not() -> None:
    standing = with_records(5, nonce="n")
    for session, nonce in (("", ""), ("s1", "n")):
        verdict = judged(standing, batch(5, 8, session=session))
        assert isinstance(verdict, Appended)
        assert verdict.standing.nonce == nonce
    verdict = judged(standing, batch(3, 5, session=""))
    assert isinstance(verdict, Appended)
    assert verdict.standing.nonce == "n", "nothing grew"


# Hello.


def test_hello_begins_a_session_and_uses_the_nonce_up() -> None:
    verdict = judge_hello(challenge(with_records(5), "n"), hello(7), "s2")
    assert isinstance(verdict, Welcomed)
    assert (verdict.standing.session, verdict.standing.nonce, verdict.standing.incarnation) == ("s2", "", "i1")
    assert isinstance(judge_hello(verdict.standing, hello(7), "s3"), Greet)


@pytest.mark.parametrize("given", ["", "n0"])
def test_only_the_nonce_given_last_counts(given: str) -> None:
    standing = with_records(5)
    assert isinstance(judge_hello(standing, hello(5, given), "s2"), Greet)
    assert isinstance(judge_hello(challenge(challenge(standing, "n0"), "n"), hello(5, given), "s2"), Greet)


def test_a_new_start_retires_the_one_before() -> None:
    first = judge_hello(challenge(EMPTY, "n"), hello(5), "s1")
    assert isinstance(first, Welcomed)
    assert not first.standing.retired
    second = judge_hello(challenge(first.standing, "n"), hello(5, incarnation="i2"), "s2")
    assert isinstance(second, Welcomed)
    assert second.standing.retired == {"i1"}
    third = judge_hello(challenge(second.standing, "n"), hello(5, incarnation="i2"), "s3")
    assert isinstance(third, Welcomed)
    assert third.standing.retired == {"i1"}


def test_gateway_cloned_a_retired_start_speaks_again() -> None:
    standing = replace(challenge(with_records(5), "n"), incarnation="i2", retired=frozenset({"i1"}))
    verdict = judge_hello(standing, hello(5), "s2")
    assert isinstance(verdict, Convict)
    assert "two of it" in verdict.reason


def test_gateway_restored_from_a_backup_has_fewer_records_than_central() -> None:
    verdict = judge_hello(challenge(with_records(5), "n"), hello(4, incarnation="i2"), "s2")
    assert isinstance(verdict, Convict)
    assert verdict.reason == "the gateway has 4 records and central 5: it was restored from a backup"


def test_another_root_at_the_same_size_is_a_fork() -> None:
    verdict = judge_hello(challenge(with_records(5), "n"), hello(5, bodies=FORKED), "s2")
    assert isinstance(verdict, Convict)
    assert "another journal of the same 5 records" in verdict.reason


def test_hello_of_a_fenced_or_foreign_or_unsigned_journal() -> None:
    standing = challenge(with_records(5), "n")
    assert judge_hello(replace(standing, fenced="why"), hello(5), "s2") == IsFenced("why")
    assert isinstance(judge_hello(standing, hello(5, origin="plant/2"), "s2"), Refuse)
    unsigned = replace(hello(5), checkpoint=note(BODIES[:5], key=FOREIGN))
    assert isinstance(judge_hello(standing, unsigned, "s2"), Refuse)


def test_a_hello_signed_before_a_bundle_brought_newer_records_fences_nobody() -> None:
    late = hello(5)
    verdict = judged(challenge(with_records(5), "n"), batch(5, 8, session=""))
    assert isinstance(verdict, Appended)
    assert isinstance(judge_hello(verdict.standing, late, "s2"), Greet)

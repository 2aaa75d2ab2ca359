"""The journal's promises as its callers see them, on a real SQLite file."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.errors import (
    AlreadyExists,
    Conflict,
    Fenced,
    IntegrityError,
    JournalFailed,
    JournalFull,
    MalformedRequest,
    NotFound,
    OperatorError,
)
from gateway.journal import disk, writer
from gateway.journal.anchor import AnchoredHead
from gateway.journal.backup import manifest_path, restore
from gateway.journal.checkpoint import open_note
from gateway.journal.journal import Journal, JournalState
from gateway.journal.merkle import root_of
from gateway.journal.records import (
    Genesis,
    OperatorAction,
    PolicyApplied,
    Refused,
    Revoked,
    Started,
    Stopped,
    TokenRevoked,
    Void,
    decode,
    leaf_hash,
)
from gateway.journal.store import Broken, DiskFull, Store
from gateway.journal.tip import DAY_MS
from gateway.journal.verify import verify
from tests.support.journal import KEY, ORIGIN, START_MS, Place, intent, issue, issued


async def _payloads(journal: Journal) -> list[object]:
    return [decode(body).payload for body in await journal.read(0, 10_000)]


async def test_every_return_of_append_is_covered_by_a_signed_checkpoint(place: Place) -> None:
    journal = await place.create()
    for number in range(5):
        await issue(journal, number)
        head = journal.head
        checkpoint = open_note(head.note, journal.genesis.verifier_key)
        bodies = await journal.read(0, 1000)
        assert (checkpoint.origin, checkpoint.size, checkpoint.root) == (ORIGIN, head.size, head.root)
        assert checkpoint.root == root_of(map(leaf_hash, bodies))
        assert checkpoint.size == len(bodies)
    await journal.close()


async def test_seq_has_no_gap_and_time_never_goes_back(place: Place) -> None:
    journal = await place.create()
    await journal.append(TokenRevoked("a", "op"))
    await journal.close()
    place.hands.now -= 5_000_000  # the box lost its clock
    journal = await place.open()
    await journal.append(TokenRevoked("b", "op"))
    records = [decode(body) for body in await journal.read(0, 100)]
    assert [record.seq for record in records] == list(range(len(records)))
    assert all(one.time <= other.time for one, other in pairwise(records))
    started = [record.payload async for record in journal.scan(Started)]
    assert [(start.clean, start.time_certain) for start in started if isinstance(start, Started)] == [
        (True, True),
        (True, False),
    ]
    await journal.close()


async def test_a_group_is_adjacent_and_atomic(place: Place) -> None:
    journal = await place.create()
    groups = await asyncio.gather(*(journal.append(*(TokenRevoked(f"{g}-{n}", "op") for n in range(3))) for g in range(50)))
    for number, group in enumerate(groups):
        assert [record.seq for record in group] == list(range(group[0].seq, group[0].seq + 3))
        assert [record.payload for record in group] == [TokenRevoked(f"{number}-{n}", "op") for n in range(3)]
    size = journal.head.size
    with pytest.raises(Conflict):
        await journal.append(TokenRevoked("x", "op"), Void(9999, "ff", "no such intent"))
    assert journal.head.size == size
    await journal.close()


async def test_a_cancelled_caller_takes_nothing_back(place: Place) -> None:
    journal = await place.create()
    size = journal.head.size
    task = asyncio.create_task(journal.append(TokenRevoked("a", "op")))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await journal.append(TokenRevoked("b", "op"))
    assert journal.head.size == size + 2
    await journal.close()


async def test_reads_never_see_what_is_not_durable(place: Place) -> None:
    journal = await place.create()
    seq = journal.head.size
    append = asyncio.create_task(journal.append(intent(1)))
    early = asyncio.create_task(journal.get(seq))
    await append
    found = await early
    assert found is None or found.seq == seq
    assert (await journal.get(seq)) is not None
    assert await journal.get(seq + 1) is None
    await journal.close()


async def test_a_retry_finds_its_certificate_inside_its_window(place: Place) -> None:
    journal = await place.create()
    plan, done = await issue(journal, 1)
    key = plan.payload.idempotency_key  # type: ignore[union-attr]
    place.hands.now += 3 * DAY_MS
    await journal.append(TokenRevoked("time goes by", "op"))
    assert await journal.find_issued(key, START_MS) == (plan, done)
    assert await journal.find_issued(key, START_MS + 1) is None
    assert await journal.find_issued(key, -1) == (plan, done)
    assert await journal.find_issued(b"another", 0) is None
    again = await issue(journal, 2, key=key)
    assert await journal.find_issued(key, 0) == again
    await journal.append(intent(3, key=b"only planned"))
    assert await journal.find_issued(b"only planned", 0) is None
    await journal.close()


async def test_everything_about_a_serial_number_is_found_in_order(place: Place) -> None:
    journal = await place.create()
    plan, done = await issue(journal, 1)
    serial = plan.payload.serial  # type: ignore[union-attr]
    (revoked,) = await journal.append(Revoked(serial, 1, "superseded", START_MS, "op"))
    assert await journal.by_serial(int(serial, 16)) == (plan, done, revoked)
    assert await journal.by_serial(12345) == ()
    assert await journal.by_serial(1 << 200) == ()
    assert await journal.by_serial(0) == ()
    await journal.close()


async def test_many_lookups_at_once_each_get_their_own_answer(place: Place) -> None:
    journal = await place.create()
    pairs = [await issue(journal, number) for number in range(30)]
    answers = await asyncio.gather(
        *(journal.find_issued(plan.payload.idempotency_key, 0) for plan, _ in pairs),  # type: ignore[union-attr]
        journal.find_issued(b"nobody", 0),
    )
    assert answers == [*pairs, None]
    serials = await asyncio.gather(*(journal.by_serial(int(plan.payload.serial, 16)) for plan, _ in pairs))  # type: ignore[union-attr]
    assert serials == pairs
    await journal.close()


async def test_a_scan_gives_the_kinds_asked_for_by_seq_beyond_one_page(place: Place) -> None:
    journal = await place.create()
    await asyncio.gather(*(journal.append(TokenRevoked(f"{n}", "op"), PolicyApplied(n, "file", b"d")) for n in range(400)))
    await journal.append(Refused("p", "est", "r", b"d", "Forbidden", "no"))
    rare = [record async for record in journal.scan(PolicyApplied, TokenRevoked, Genesis)]
    assert len(rare) == 801
    assert [record.seq for record in rare] == sorted(record.seq for record in rare)
    common = [record async for record in journal.scan(Refused, PolicyApplied)]
    assert len(common) == 401
    await journal.close()


async def test_a_serial_number_is_never_recorded_twice_and_takes_nobody_else_down(place: Place) -> None:
    journal = await place.create()
    await journal.append(intent(1))
    others = [journal.append(intent(number)) for number in range(2, 6)]
    results = await asyncio.gather(others[0], others[1], journal.append(intent(1)), *others[2:], return_exceptions=True)
    assert [isinstance(result, Conflict) for result in results] == [False, False, True, False, False]
    assert journal.state is JournalState.OK
    assert len(journal.head.open_intents) == 5
    await journal.close()
    assert verify(place.path).clean


async def test_an_intent_is_completed_once_and_by_its_own_serial_number(place: Place) -> None:
    journal = await place.create()
    (plan,) = await journal.append(intent(1))
    done = issued(plan)
    with pytest.raises(Conflict, match="another serial"):
        await journal.append(replace(done, serial="ff"))
    with pytest.raises(Conflict, match="another quota"):
        await journal.append(Void(plan.seq, done.serial, "why"))
    with pytest.raises(Conflict, match="not an open intent"):
        await journal.append(done, Void(plan.seq, done.serial, "why", ("line-a",)))
    await journal.append(done)
    with pytest.raises(Conflict, match="not an open intent"):
        await journal.append(done)
    await journal.close()


@pytest.mark.parametrize("serial", ["", "0", "0a", "A1", "-1", "f" * 41, "xyz"])
async def test_what_is_no_serial_number_is_refused(place: Place, serial: str) -> None:
    journal = await place.create()
    with pytest.raises(MalformedRequest):
        await journal.append(replace(intent(1), serial=serial))
    assert journal.state is JournalState.OK
    await journal.close()


async def test_open_intents_become_void_at_the_next_start_and_give_their_quota_back(place: Place) -> None:
    journal = await place.create()
    await issue(journal, 1)
    (plan,) = await journal.append(intent(2, quota=("line-a", "order-9")))
    assert journal.head.tallies == {"line-a": 2, "order-9": 1}
    assert journal.head.open_intents == (plan.seq,)
    await journal.close()
    journal = await place.open()
    assert journal.head.tallies == {"line-a": 1, "order-9": 0}
    assert journal.head.open_intents == ()
    voids = [record.payload async for record in journal.scan(Void)]
    assert [void.intent for void in voids if isinstance(void, Void)] == [plan.seq]
    await journal.close()
    assert verify(place.path).clean


async def test_an_unclean_end_is_said_at_the_next_start(place: Place, tmp_path: Path) -> None:
    journal = await place.create()
    await journal.close()
    db = sqlite3.connect(place.path)
    assert db.execute("SELECT kind FROM record ORDER BY seq DESC LIMIT 1").fetchone() == ("stopped",)
    db.close()
    journal = await place.open()
    await journal.backup(tmp_path / "copy.db")  # ends without Stopped, like a crash
    await journal.close()
    crashed = Place(tmp_path / "crashed")
    crashed.directory.mkdir()
    restore(tmp_path / "copy.db", crashed.path)
    journal = await crashed.open()
    assert [p.clean for p in await _payloads(journal) if isinstance(p, Started)] == [True, True, False]
    await journal.close()


async def test_create_never_overwrites(place: Place) -> None:
    journal = await place.create()
    await journal.close()
    with pytest.raises(AlreadyExists):
        await place.create()
    place.path.unlink()
    with pytest.raises(AlreadyExists, match="anchor"):
        await place.create()
    with pytest.raises(NotFound):
        await place.open()
    with pytest.raises(ValueError, match="random"):
        await Journal.create(place.options, origin="o", key_name="k", key=KEY, clock=place.clock(), random=b"short")


async def test_only_one_process_opens_a_journal(place: Place) -> None:
    journal = await place.create()
    with pytest.raises(OperatorError, match="another process"):
        await place.open()
    await journal.close()


async def test_another_checkpoint_key_does_not_open_it(place: Place) -> None:
    journal = await place.create()
    await journal.close()
    with pytest.raises(IntegrityError, match="another checkpoint key"):
        await replace(place, key=Ed25519PrivateKey.generate()).open()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE record SET body = zeroblob(40) WHERE seq = (SELECT max(seq) FROM record)",
        "UPDATE record SET serial = NULL WHERE kind = 'intent'",
        "DELETE FROM record WHERE seq = (SELECT max(seq) FROM record)",
        "DELETE FROM record WHERE seq = 3",
        "DELETE FROM head",
        "DELETE FROM record WHERE seq = 0",
        "UPDATE record SET body = (SELECT body FROM record WHERE seq = 1) WHERE seq = 0",
        "UPDATE head SET size = size + 1",
        "UPDATE head SET frontier = zeroblob(40)",
        "UPDATE head SET note = replace(note, 'a', 'b')",
        "UPDATE head SET open = x'0000000000000001'",
        "PRAGMA user_version = 99",
    ],
)
async def test_a_damaged_end_is_found_at_start(place: Place, statement: str) -> None:
    journal = await place.create()
    await issue(journal, 1)
    await journal.close()
    db = sqlite3.connect(place.path, isolation_level=None)
    db.execute(statement)
    db.close()
    with pytest.raises(IntegrityError):
        await place.open()


async def test_what_is_no_database_does_not_open(place: Place) -> None:
    place.path.write_bytes(b"not a database" * 1000)
    with pytest.raises(IntegrityError):
        await place.open()


# Disk


def elapsed_by_hand(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The monotonic clock of the journal, milliseconds, moved by a test."""
    elapsed = [0]
    monkeypatch.setattr(writer, "elapsed_ms", lambda: elapsed[0])
    return elapsed


async def test_a_filling_disk_warns_then_refuses_all_but_urgent_records(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    used = [0.5]
    elapsed = elapsed_by_hand(monkeypatch)
    monkeypatch.setattr(disk.DiskWatch.__init__, "__kwdefaults__", {"usage": lambda _: used[0]})
    journal = await place.create(replace(place.options, disk_warn=0.80, disk_refuse=0.95))
    assert journal.state is JournalState.OK
    assert journal.options.reserve.stat().st_size == journal.options.reserve_bytes
    used[0], elapsed[0] = 0.85, elapsed[0] + 1000
    await journal.append(intent(1))
    assert journal.state is JournalState.WARNING
    used[0], elapsed[0] = 0.95, elapsed[0] + 1000
    with pytest.raises(JournalFull):
        await journal.append(intent(2))
    await journal.append(Revoked(intent(1).serial, 1, "superseded", START_MS, "op"), urgent=True)
    assert journal.state is JournalState.FULL
    assert journal.state_detail
    used[0], elapsed[0] = 0.5, elapsed[0] + 1000
    await journal.append(intent(3))
    assert journal.state is JournalState.OK
    await journal.close()


async def test_a_full_disk_frees_the_reserve_for_revocations_and_comes_back(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    elapsed = elapsed_by_hand(monkeypatch)
    journal = await place.create()
    await journal.append(intent(1))
    write = Store.write

    async def no_space(self: Store, *batch: Any) -> None:
        if journal.options.reserve.exists():
            raise DiskFull("database or disk is full")
        await write(self, *batch)

    monkeypatch.setattr(Store, "write", no_space)
    revoked = Revoked(intent(1).serial, 1, "superseded", START_MS, "op")
    results = await asyncio.gather(journal.append(intent(2)), journal.append(revoked, urgent=True), return_exceptions=True)
    assert isinstance(results[0], JournalFull)
    assert isinstance(results[1], tuple)
    assert journal.state is JournalState.FULL
    assert not journal.options.reserve.exists()
    monkeypatch.setattr(Store, "write", write)
    elapsed[0] += 1000  # the clock itself stands still: the box woke up before the journal's last time
    await journal.append(intent(3))
    assert journal.state is JournalState.OK
    assert journal.options.reserve.exists()
    await journal.close()
    assert verify(place.path).clean


# The latch


async def _fail(place: Place, monkeypatch: pytest.MonkeyPatch) -> tuple[Journal, list[object]]:
    journal = await place.create()
    calls = 0

    async def broken(self: Store, *_: object) -> None:
        nonlocal calls
        calls += 1
        raise Broken("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write", broken)
        results = await asyncio.gather(
            *(journal.append(intent(number)) for number in range(3)), journal.get(0), return_exceptions=True
        )
    assert calls == 1, "a failed write is never tried again"
    return journal, results


async def test_an_io_error_latches_for_good(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, results = await _fail(place, monkeypatch)
    assert all(isinstance(result, JournalFailed) for result in results[:3])
    assert journal.state is JournalState.FAILED
    assert isinstance(journal.failure.exception(), JournalFailed)
    for call in (journal.append(intent(9)), journal.get(0), journal.read(0, 1), journal.append(Stopped(), urgent=True)):
        with pytest.raises(JournalFailed):
            await call
    assert journal.options.failed_marker.exists()
    await journal.close()


async def test_any_surprise_in_a_commit_latches_and_leaves_nobody_waiting(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await place.create()
    monkeypatch.setattr(journal._writer, "_signer", None)
    with pytest.raises(JournalFailed):
        await asyncio.wait_for(journal.append(intent(1)), 10)
    assert journal.state is JournalState.FAILED
    await journal.close()


async def test_a_question_that_cannot_be_asked_is_its_askers_mistake(place: Place) -> None:
    journal = await place.create()
    with pytest.raises(OverflowError):
        await journal.read(1 << 70, 1)
    assert await journal.get(1 << 70) is None
    assert await journal.get(-1) is None
    assert journal.state is JournalState.OK
    await journal.close()


async def test_the_start_after_a_latch_verifies_everything(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, _ = await _fail(place, monkeypatch)
    await journal.close()
    journal = await place.open()
    assert not journal.options.failed_marker.exists()
    assert [p.clean for p in await _payloads(journal) if isinstance(p, Started)] == [True, False]
    for number in range(100):
        await journal.append(TokenRevoked(f"{number}", "op"))
    await journal.close()
    db = sqlite3.connect(place.path, isolation_level=None)
    db.execute("UPDATE record SET leaf = zeroblob(32) WHERE seq = 1")  # further back than an ordinary start looks
    db.close()
    journal = await place.open()
    await journal.close()
    journal.options.failed_marker.write_text("disk I/O error")
    with pytest.raises(IntegrityError, match="does not verify"):
        await place.open()


async def test_the_failure_completes_without_error_on_an_orderly_end(place: Place) -> None:
    journal = await place.create()
    failure = journal.failure
    await journal.close()
    await journal.close()
    assert failure.result() is None
    with pytest.raises(JournalFailed, match="closed"):
        await journal.append(intent(1))


# The anchor


async def test_a_restored_older_journal_is_fenced_and_can_be_read(place: Place, tmp_path: Path) -> None:
    journal = await place.create()
    await issue(journal, 1)
    await journal.backup(tmp_path / "backup.db")
    await issue(journal, 2)
    await journal.close()
    place.path.unlink()
    restore(tmp_path / "backup.db", place.path)
    journal = await place.open()
    assert journal.state is JournalState.FENCED
    assert "the anchor has seen" in journal.state_detail
    with pytest.raises(Fenced):
        await journal.append(intent(3))
    assert await journal.get(0) is not None
    await journal.close()


async def test_a_journal_that_went_another_way_than_its_anchor_is_fenced(place: Place, tmp_path: Path) -> None:
    journal = await place.create()
    await journal.backup(tmp_path / "backup.db")
    await journal.append(intent(1))
    await journal.close()
    place.path.unlink()
    restore(tmp_path / "backup.db", place.path)
    away = replace(place.options, anchor=None)
    journal = await place.open(away)
    for number in range(10, 20):
        await issue(journal, number)
    await journal.close()
    journal = await place.open()
    assert journal.state is JournalState.FENCED
    assert "not the beginning" in journal.state_detail
    await journal.close()


@pytest.mark.parametrize("spoil", [lambda path: path.write_bytes(b"{}"), lambda path: (path.unlink(), path.mkdir())])
async def test_an_unreadable_anchor_fences(place: Place, spoil: Callable[[Path], object]) -> None:
    journal = await place.create()
    await journal.close()
    spoil(place.anchor)
    journal = await place.open()
    assert journal.state is JournalState.FENCED
    await journal.close()


async def test_the_anchor_of_another_journal_fences(place: Place, tmp_path: Path) -> None:
    other = Place(tmp_path, key=Ed25519PrivateKey.generate())
    for each in (place, other):
        journal = await each.create()
        await journal.close()
    place.anchor.write_bytes(other.anchor.read_bytes())
    journal = await place.open()
    assert "another journal" in journal.state_detail
    await journal.close()


async def test_a_missing_anchor_is_written_anew_and_said_in_the_journal(place: Place) -> None:
    journal = await place.create()
    await journal.close()
    place.anchor.unlink()
    journal = await place.open()
    assert any(isinstance(payload, OperatorAction) for payload in await _payloads(journal))
    await journal.close()
    checkpoint, _ = AnchoredHead.from_bytes(place.anchor.read_bytes()).opened(journal.genesis.verifier_key, ORIGIN)
    assert checkpoint.size == journal.head.size


async def test_an_anchor_that_cannot_be_written_warns_and_stops_nothing(place: Place) -> None:
    options = replace(place.options, anchor=place.directory / "stick" / "anchor")
    journal = await place.create(options)
    await journal.append(intent(1))
    await journal.close()
    assert journal.state is JournalState.WARNING
    assert "anchor" in journal.state_detail


async def test_central_can_fence(place: Place) -> None:
    journal = await place.create()
    journal.fence("central said stop")
    with pytest.raises(Fenced, match="central said stop"):
        await journal.append(intent(1))
    await journal.close()


# Backup


async def test_a_backup_made_while_issuing_is_the_journal_of_one_moment(place: Place, tmp_path: Path) -> None:
    journal = await place.create()
    for number in range(0, 700, 100):
        await asyncio.gather(*(issue(journal, number + n) for n in range(100)))
    head = journal.head
    target = tmp_path / "backup.db"
    await asyncio.gather(journal.backup(target), *(issue(journal, 1000 + n) for n in range(50)))
    await journal.close()
    report = verify(target)
    assert report.clean
    assert report.checkpoint is not None
    assert (report.checkpoint.size, report.checkpoint.root) == (head.size, head.root)
    restored = tmp_path / "restored.db"
    assert restore(target, restored).size == head.size


async def test_backup_and_restore_overwrite_nothing_and_believe_nothing(place: Place, tmp_path: Path) -> None:
    journal = await place.create()
    await issue(journal, 1)
    target, restored = tmp_path / "backup.db", tmp_path / "restored.db"
    await journal.backup(target)
    with pytest.raises(AlreadyExists):
        await journal.backup(target)
    with pytest.raises(OperatorError):
        await journal.backup(tmp_path / "nowhere" / "backup.db")
    await journal.close()
    with pytest.raises(AlreadyExists):
        restore(target, place.path)
    with pytest.raises(NotFound):
        restore(tmp_path / "none.db", restored)
    manifest = manifest_path(target).read_text()
    for bad in ("{}", "[", manifest.replace('"size": 4', '"size": 5'), manifest.replace('sha256": "', 'sha256": "0')):
        manifest_path(target).write_text(bad)
        with pytest.raises(IntegrityError):
            restore(target, restored)
    manifest_path(target).unlink()
    with pytest.raises(NotFound, match="manifest"):
        restore(target, restored)
    manifest_path(target).write_text(manifest)
    octets = bytearray(target.read_bytes())
    octets[len(octets) // 2] ^= 1
    target.write_bytes(octets)
    with pytest.raises(IntegrityError, match="manifest describes"):
        restore(target, restored)
    assert sorted(os.listdir(tmp_path)) == ["backup.db", "backup.db.manifest.json", "state"]


# Counts that do not depend on the machine


async def test_all_that_waits_shares_one_transaction_of_few_statements(place: Place) -> None:
    journal = await place.create()
    statements: list[str] = []
    await journal._writer._store.trace(statements.append)
    await asyncio.gather(*(journal.append(intent(number)) for number in range(31)))
    await journal._writer._store.trace(None)
    kinds = [statement.split("(")[0].strip() for statement in statements]
    assert kinds.count("BEGIN ") + kinds.count("BEGIN") == 1
    assert kinds.count("COMMIT") == 1
    assert len(kinds) == 1 + 1 + 3, "rows by 64, one tally, head, BEGIN, COMMIT"
    await journal.close()


async def test_waiting_lookups_share_one_statement(place: Place) -> None:
    journal = await place.create()
    keys = [(await issue(journal, number))[0].payload.idempotency_key for number in range(5)]  # type: ignore[union-attr]
    await _known(journal)
    statements: list[str] = []
    await journal._writer._store.trace(statements.append)
    found = await asyncio.gather(*(journal.find_issued(key, place.hands.now) for key in keys))
    await journal._writer._store.trace(None)
    assert all(found)
    assert len(statements) == 2, "the certificates of all keys, and their intents"
    await journal.close()


async def _known(journal: Journal, not_before_ms: int = START_MS) -> None:
    """Ask for the first time, and wait until the writer has read all keys of that window."""
    await journal.find_issued(b"the first question", not_before_ms)
    while journal._writer._keys.learning is not None:
        await journal.get(0)


async def test_a_new_key_is_known_to_be_new_without_asking_the_database(place: Place) -> None:
    journal = await place.create()
    await issue(journal, 1)
    await _known(journal)
    statements: list[str] = []
    await journal._writer._store.trace(statements.append)
    for number in range(200):
        assert await journal.find_issued(b"%d" % number, place.hands.now) is None
    await journal._writer._store.trace(None)
    assert statements == []
    await journal.close()


async def test_every_key_of_earlier_runs_and_of_this_one_is_found(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the keys were read, after it, with a longer window than the first one asked for, and when the filter overflows."""
    monkeypatch.setattr("gateway.journal.lookups._KEYS_READ", 2)
    journal = await place.create()
    issues = [await issue(journal, number) for number in range(5)]
    await journal.close()
    place.hands.now += 3 * 86_400_000
    journal = await place.open()
    issues.append(await issue(journal, 5))

    async def all_are_found() -> None:
        for plan, done in issues:
            assert await journal.find_issued(plan.payload.idempotency_key, START_MS) == (plan, done)  # type: ignore[union-attr]

    await _known(journal, place.hands.now)  # knows the last one's day only
    await all_are_found()
    await _known(journal)
    issues.append(await issue(journal, 6))
    await all_are_found()
    monkeypatch.setattr("gateway.journal.lookups.MOST_KEYS", 8)
    issues += [await issue(journal, number) for number in range(7, 12)]
    await all_are_found()
    await journal.find_issued(b"starts to read again, and finds too many keys", START_MS)
    await journal.get(0)
    issues.append(await issue(journal, 12))
    await all_are_found()
    await journal.close()


async def test_journal_backup_and_restored_journal_are_for_their_owner_alone(place: Place) -> None:
    """Whatever the umask and the directory allow others."""
    before = os.umask(0o000)
    try:
        journal = await place.create()
        target = place.directory / "copy"
        await journal.backup(target)
        restored = place.directory / "restored.db"
        await asyncio.to_thread(restore, target, restored)
        files = [place.path, place.path.with_name("journal.db-wal"), place.anchor, target, manifest_path(target), restored]
        assert {path.name: oct(path.stat().st_mode & 0o777) for path in files} == dict.fromkeys(
            (path.name for path in files), "0o600"
        )
        await journal.close()
    finally:
        os.umask(before)

"""Findings that need a head signed for something else."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gateway.journal import verify as verifying
from gateway.journal.checkpoint import Checkpoint, sign_note, verifier_key
from gateway.journal.merkle import Frontier
from gateway.journal.records import Genesis, Record, encode
from gateway.journal.store import HeadRow, Store
from gateway.journal.tip import row_of
from gateway.journal.verify import verify
from tests.support.journal import KEY, ORIGIN, START_MS, Place, issue


async def test_a_checkpoint_of_another_origin_is_found(tmp_path: Path) -> None:
    """The same key, size and root, but the note speaks of another journal."""
    record = Record(0, START_MS, Genesis(ORIGIN, verifier_key(ORIGIN, KEY.public_key()), "00" * 16, "1"))
    row, frontier = row_of(record, encode(record)), Frontier()
    frontier.append(row.leaf)
    note = sign_note(Checkpoint("line.example/another", 1, frontier.root()), ORIGIN, KEY)
    store = await Store.open(tmp_path / "j.db", create=True)
    await store.write([row], [], HeadRow(1, frontier.to_bytes(), (), note))
    await store.close()
    assert [str(problem) for problem in verify(tmp_path / "j.db").problems] == ["the checkpoint was signed for another origin"]


async def _findings_without(place: Place, seqs: str) -> list[str]:
    journal = await place.create()
    for number in range(4):
        await issue(journal, number)
    await journal.close()
    with closing(sqlite3.connect(place.path)) as db, db:
        db.execute(f"DELETE FROM record WHERE seq IN ({seqs})")
    return [str(problem) for problem in verify(place.path).problems]


async def test_a_missing_record_is_named_once(place: Place) -> None:
    findings = await _findings_without(place, "3, 4")
    gaps = [finding for finding in findings if "should stand here" in finding]
    assert gaps == ["record 5: record 3 should stand here; records are missing or out of place"]


async def test_a_missing_end_is_named_with_both_sizes(place: Place) -> None:
    findings = await _findings_without(place, "9, 10")
    assert "the signed checkpoint covers 11 records, there are 9" in findings


async def test_progress_is_told_now_and_then_and_at_the_end(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = await place.create()
    await issue(journal, 1)
    await journal.close()
    monkeypatch.setattr(verifying, "_PROGRESS_EVERY", 2)
    total = verify(place.path).records
    told: list[tuple[int, int]] = []
    verify(place.path, progress=lambda done, of: told.append((done, of)))
    assert told == [*((done, total) for done in range(2, total + 1, 2)), (total, total)]


async def test_a_hopeless_journal_is_described_in_so_many_lines(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifying, "MOST_PROBLEMS", 2)
    assert len(await _findings_without(place, "1, 3, 5, 7")) == 2

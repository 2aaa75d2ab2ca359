"""``verify`` finds every change of a journal that was not made by the holder of the checkpoint key."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.errors import NotFound, OperatorError
from gateway.journal.checkpoint import verifier_key
from gateway.journal.merkle import Frontier
from gateway.journal.records import Released, Revoked, TokenCreated, Void, decode, encode, leaf_hash
from gateway.journal.tip import row_of
from gateway.journal.verify import verify
from tests.support.journal import KEY, ORIGIN, START_MS, Place, intent, issue

VKEY = verifier_key(ORIGIN, KEY.public_key())
COLUMNS = ("seq", "kind", "time", "serial", "idem", "leaf", "body")


async def _write(place: Place) -> None:
    journal = await place.create()
    for number in range(12):
        place.hands.now += 1000
        await issue(journal, number, quota=("line-a", f"order-{number % 3}"))
    await journal.append(TokenCreated("t1", b"\1" * 32, "tls-client", 5, START_MS, "operator"))
    await journal.append(Revoked(intent(3).serial, 1, "certificateHold", START_MS, "operator"))
    await journal.append(Released(intent(3).serial, 1, "operator"))
    (plan,) = await journal.append(intent(50))
    await journal.append(Void(plan.seq, intent(50).serial, "signer refused", ("line-a",)))
    await journal.append(intent(51))
    await journal.close()


@pytest.fixture
async def written(place: Place) -> Place:
    """A journal with every kind of effect in it, closed; the last intent is open."""
    await _write(place)
    return place


async def test_an_honest_journal_verifies(written: Place) -> None:
    seen: list[tuple[int, int]] = []
    report = verify(written.path, vkey=VKEY, anchor=written.anchor.read_bytes(), progress=lambda *at: seen.append(at))
    assert report.clean, report.problems
    assert report.certificates == 12
    assert report.checkpoint is not None
    assert seen[-1] == (report.records, report.records)


def _flip(value: object, chance: random.Random) -> object:
    """The value with one bit turned over, of the same type; None becomes something."""
    if isinstance(value, int):
        return value ^ (1 << chance.randrange(40))
    octets = bytearray(value.encode() if isinstance(value, str) else value if isinstance(value, bytes) else b"")
    if not octets:
        return b"\0" * 20
    if isinstance(value, str):
        at = chance.randrange(len(octets))
        octets[at] ^= 1 << chance.randrange(6)
        return octets.decode("latin-1")
    octets[chance.randrange(len(octets))] ^= 1 << chance.randrange(8)
    return bytes(octets)


def flip_a_bit(db: sqlite3.Connection, chance: random.Random, size: int) -> None:
    seq, column = chance.randrange(size), chance.choice(COLUMNS)
    (value,) = db.execute(f"SELECT {column} FROM record WHERE seq = ?", (seq,)).fetchone()
    db.execute(f"UPDATE record SET {column} = ? WHERE seq = ?", (_flip(value, chance), seq))


def forget_a_column(db: sqlite3.Connection, chance: random.Random, size: int) -> None:
    column = chance.choice(("serial", "idem"))
    seqs = [seq for (seq,) in db.execute(f"SELECT seq FROM record WHERE {column} IS NOT NULL")]
    db.execute(f"UPDATE record SET {column} = NULL WHERE seq = ?", (chance.choice(seqs),))


def delete(db: sqlite3.Connection, chance: random.Random, size: int) -> None:
    db.execute("DELETE FROM record WHERE seq = ?", (chance.randrange(size),))


def delete_and_close_the_gap(db: sqlite3.Connection, chance: random.Random, size: int) -> None:
    at = chance.randrange(size - 1)
    db.execute("DELETE FROM record WHERE seq = ?", (at,))
    for seq in range(at + 1, size):
        db.execute("UPDATE record SET seq = ? WHERE seq = ?", (seq - 1, seq))


def truncate(db: sqlite3.Connection, chance: random.Random, size: int) -> None:
    db.execute("DELETE FROM record WHERE seq >= ?", (chance.randrange(1, size),))


def swap(db: sqlite3.Connection, chance: random.Random, size: int) -> None:
    one, other = chance.sample(range(size), 2)
    for old, new in ((one, -1), (other, one), (-1, other)):
        db.execute("UPDATE record SET seq = ? WHERE seq = ?", (new, old))


def insert(db: sqlite3.Connection, chance: random.Random, size: int) -> None:
    (body,) = db.execute("SELECT body FROM record WHERE kind = 'token-created'").fetchone()
    record = replace(decode(body), seq=size)
    row = row_of(record, encode(record))
    db.execute("INSERT INTO record (seq, kind, time, serial, idem, leaf, body) VALUES (?, ?, ?, ?, ?, ?, ?)", row)


def rewrite_consistently(db: sqlite3.Connection, chance: random.Random, size: int) -> None:
    """Change a record and everything computed from it: only the signature cannot be made."""
    seq = chance.randrange(size)
    (body,) = db.execute("SELECT body FROM record WHERE seq = ?", (seq,)).fetchone()
    record = replace(decode(body), time=decode(body).time + 1 + chance.randrange(100))
    row = row_of(record, encode(record))
    db.execute(
        "UPDATE record SET time = ?, idem = ?, leaf = ?, body = ? WHERE seq = ?", (row.time, row.idem, row.leaf, row.body, seq)
    )
    frontier = Frontier()
    for (changed,) in db.execute("SELECT body FROM record ORDER BY seq"):
        frontier.append(leaf_hash(changed))
    db.execute("UPDATE head SET frontier = ?", (frontier.to_bytes(),))


def change_the_head(db: sqlite3.Connection, chance: random.Random, size: int) -> None:
    column = chance.choice(("size", "frontier", "open", "note"))
    (value,) = db.execute(f"SELECT {column} FROM head").fetchone()
    db.execute(f"UPDATE head SET {column} = ?", (_flip(value, chance),))


def change_a_tally(db: sqlite3.Connection, chance: random.Random, size: int) -> None:
    scope, used = chance.choice(db.execute("SELECT scope, used FROM tally").fetchall())
    db.execute("UPDATE tally SET used = ? WHERE scope = ?", (_flip(used, chance), scope))


MUTATIONS: tuple[Callable[[sqlite3.Connection, random.Random, int], None], ...] = (
    flip_a_bit, flip_a_bit, flip_a_bit, flip_a_bit, forget_a_column, delete, delete_and_close_the_gap, truncate, swap, insert,
    rewrite_consistently, change_the_head, change_a_tally,
)  # fmt: skip


async def test_every_random_mutation_of_the_rows_is_found(written: Place, tmp_path: Path) -> None:
    size = verify(written.path).records
    missed: list[str] = []
    for seed in range(520):
        chance = random.Random(seed)
        mutation = MUTATIONS[seed % len(MUTATIONS)]
        copy = tmp_path / "mutant.db"
        shutil.copyfile(written.path, copy)
        db = sqlite3.connect(copy, isolation_level=None)
        db.execute("PRAGMA journal_mode = MEMORY")
        db.execute("PRAGMA synchronous = OFF")
        try:
            mutation(db, chance, size)
        except sqlite3.IntegrityError:
            continue  # the table's own constraints refuse this one
        finally:
            db.close()
        if verify(copy).clean:
            missed.append(f"{mutation.__name__} with seed {seed}")
    assert not missed


async def test_every_bit_flip_in_the_file_that_reaches_a_record_is_found(written: Place, tmp_path: Path) -> None:
    """Flips in the raw file: found, or the file still says exactly the same (free space inside a page)."""
    original = written.path.read_bytes()
    honest = _content(written.path)
    copy = tmp_path / "mutant.db"
    missed: list[int] = []
    for seed in range(300):
        chance = random.Random(seed)
        octets = bytearray(original)
        at = chance.randrange(len(octets))
        octets[at] ^= 1 << chance.randrange(8)
        copy.write_bytes(octets)
        if verify(copy, vkey=VKEY).clean and _content(copy) != honest:
            missed.append(at)
    assert not missed


def _content(path: Path) -> list[tuple[object, ...]]:
    db = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    try:
        return [
            *db.execute("SELECT * FROM record ORDER BY seq"),
            *db.execute("SELECT * FROM head"),
            *db.execute("SELECT * FROM tally"),
        ]
    finally:
        db.close()


async def test_a_truncated_file_is_found(written: Place, tmp_path: Path) -> None:
    original = written.path.read_bytes()
    copy = tmp_path / "short.db"
    for keep in range(0, len(original), 4096):
        copy.write_bytes(original[:keep])
        assert not verify(copy).clean, keep


@pytest.mark.parametrize(
    "statement",
    [
        "DROP INDEX record_rare",
        "CREATE TABLE extra (x)",
        "CREATE TRIGGER t AFTER INSERT ON record BEGIN DELETE FROM tally; END",
        "DELETE FROM head",
        "UPDATE tally SET scope = 'other' WHERE scope = 'line-a'",
        "INSERT INTO tally VALUES ('new', 0)",
        "PRAGMA application_id = 1",
        "PRAGMA user_version = 3",
    ],
)
async def test_a_change_beside_the_records_is_found(written: Place, statement: str) -> None:
    db = sqlite3.connect(written.path, isolation_level=None)
    db.execute(statement)
    db.close()
    assert not verify(written.path).clean


async def test_a_journal_rewritten_with_another_key_is_found_by_whoever_knows_the_key(place: Place) -> None:
    forged = replace(place, key=Ed25519PrivateKey.generate())
    await _write(forged)
    assert verify(forged.path).clean
    assert not verify(forged.path, vkey=VKEY).clean
    assert not verify(forged.path, public_key=KEY.public_key()).clean


async def test_an_older_copy_is_found_by_the_anchor(place: Place, tmp_path: Path) -> None:
    journal = await place.create()
    await journal.close()
    old = tmp_path / "old.db"
    shutil.copyfile(place.path, old)
    journal = await place.open()
    await issue(journal, 1)
    await journal.close()
    assert verify(old).clean
    assert any("anchor" in problem.text for problem in verify(old, anchor=place.anchor.read_bytes()).problems)
    assert any("anchor" in problem.text for problem in verify(old, anchor=b"{}").problems)


async def test_an_anchor_of_the_past_is_accepted_and_one_of_another_past_is_not(place: Place, tmp_path: Path) -> None:
    journal = await place.create()
    await journal.close()
    earlier = place.anchor.read_bytes()
    journal = await place.open()
    await issue(journal, 1)
    await journal.close()
    assert verify(place.path, anchor=earlier).clean
    other = Place(tmp_path)
    other.hands.now += 5
    journal = await other.create()
    await journal.close()
    assert not verify(place.path, anchor=other.anchor.read_bytes()).clean


async def test_a_journal_in_use_is_not_read(place: Place) -> None:
    journal = await place.create()
    with pytest.raises(OperatorError, match="another process"):
        verify(place.path)
    await journal.close()


def test_no_journal_is_not_a_clean_journal(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        verify(tmp_path / "journal.db")

"""The backup's manifest has one spelling, in every version of the gateway."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.errors import AlreadyExists, IntegrityError, OperatorError
from gateway.journal.backup import Manifest, check_room, restore
from tests.support.journal import Place


def test_the_manifest_is_written_as_ever() -> None:
    text = Manifest(5, "aa", "origin\n5\n", "bb").to_json()
    assert text == (
        '{\n "type": "edge-gateway-backup-v1",\n "size": 5,\n "root": "aa",\n "note": "origin\\n5\\n",\n "sha256": "bb"\n}\n'
    )
    assert Manifest.from_json(text) == Manifest(5, "aa", "origin\n5\n", "bb")


async def test_a_refused_restore_leaves_nothing_beside_the_place(place: Place, tmp_path: Path) -> None:
    """A log left behind would be played into whatever is restored there next."""
    journal = await place.create()
    await journal.backup(tmp_path / "backup.db")
    await journal.close()
    damaged = bytearray((tmp_path / "backup.db").read_bytes())
    damaged[-1] ^= 1
    (tmp_path / "backup.db").write_bytes(damaged)
    target = tmp_path / "restored" / "journal.db"
    target.parent.mkdir()
    for leftover in ("-wal", "-shm"):
        (target.parent / f"journal.db.new{leftover}").touch()
    with pytest.raises(IntegrityError, match="manifest"):
        restore(tmp_path / "backup.db", target)
    assert list(target.parent.iterdir()) == []


async def test_a_copy_that_does_not_fit_is_refused_before_it_is_begun(place: Place, tmp_path: Path) -> None:
    journal = await place.create(replace(place.options, disk_warn=0.000_000_1, disk_refuse=0.000_000_2))
    with pytest.raises(OperatorError, match=r"needs [1-9]\d* MiB in .*, where 0 MiB may be used, and the gateway would stop"):
        await journal.backup(place.directory / "copy.db")
    assert not list(place.directory.glob("copy.db*"))
    await journal.close()


def test_a_copy_to_another_medium_needs_its_space_there(tmp_path: Path) -> None:
    journal = tmp_path / "journal.db"
    with journal.open("wb") as file:
        file.truncate(1 << 43)  # takes no space: a file of holes
    with pytest.raises(OperatorError, match="needs 8388608 MiB in"):
        check_room(journal, Path("/dev/shm/copy.db"), 0.95)
    with pytest.raises(OperatorError, match="cannot be written to"):
        check_room(journal, tmp_path / "nowhere" / "copy.db", 0.95)
    journal.write_bytes(b"small")
    check_room(journal, Path("/dev/shm/copy.db"), 0.95)


def test_a_manifest_in_another_spelling_is_not_ours() -> None:
    text = Manifest(5, "aa", "origin\n5\n", "bb").to_json()
    with pytest.raises(IntegrityError, match="not as it was written"):
        Manifest.from_json(text + "\n")


async def test_a_log_without_its_journal_is_not_restored_over(place: Place, tmp_path: Path) -> None:
    journal = await place.create()
    await journal.backup(tmp_path / "backup.db")
    await journal.close()
    target = tmp_path / "restored.db"
    Path(f"{target}-wal").touch()
    with pytest.raises(AlreadyExists):
        restore(tmp_path / "backup.db", target)
    Path(f"{target}-wal").unlink()
    Path(f"{target}.new").touch(mode=0o644)  # of an attempt that was cut short
    restore(tmp_path / "backup.db", target)
    assert target.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.glob("restored*")) == ["restored.db"]


async def test_what_a_copy_cut_short_left_does_not_spoil_the_next(place: Place, tmp_path: Path) -> None:
    journal = await place.create()
    directory = tmp_path / "backups"
    directory.mkdir()
    for leftover in ("b.db.new", "b.db.new-journal"):
        (directory / leftover).write_bytes(b"half a copy")
    await journal.backup(directory / "b.db")
    await journal.close()
    assert sorted(path.name for path in directory.iterdir()) == ["b.db", "b.db.manifest.json"]

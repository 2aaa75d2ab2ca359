"""An anchor that comes back is compared before it is written: it may be the only witness of what a restored disk lost."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from gateway.errors import Fenced
from gateway.journal.anchor import FileAnchor
from gateway.journal.journal import Journal, JournalState
from tests.support.journal import Place, intent


@pytest.fixture
def stick(place: Place) -> FileAnchor:
    return FileAnchor(place.anchor)


async def reaches(journal: Journal, state: JournalState) -> None:
    async with asyncio.timeout(60):
        while journal.state is not state:
            await asyncio.sleep(0.01)


async def start_without_the_stick(place: Place, monkeypatch: pytest.MonkeyPatch) -> tuple[Journal, list[bool]]:
    """An open journal whose anchor can neither be found nor written until the list's entry becomes False."""
    away = [True]
    load, store = FileAnchor.load, FileAnchor.store

    def absent(self: FileAnchor) -> bytes | None:
        return None if away[0] else load(self)

    def unwritable(self: FileAnchor, value: bytes) -> None:
        if away[0]:
            raise FileNotFoundError(2, "No such file or directory")
        store(self, value)

    monkeypatch.setattr(FileAnchor, "load", absent)
    monkeypatch.setattr(FileAnchor, "store", unwritable)
    journal = await place.open()
    await reaches(journal, JournalState.WARNING)
    return journal, away


async def test_a_stick_that_comes_back_with_more_records_fences_and_is_not_overwritten(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await place.create()
    await journal.close()
    shutil.copy(place.path, tmp_path / "old")
    journal = await place.open()
    for number in range(20):
        await journal.append(intent(number))
    await journal.close()
    witness = place.anchor.read_bytes()
    shutil.copy(tmp_path / "old", place.path)
    journal, away = await start_without_the_stick(place, monkeypatch)
    away[0] = False
    await journal.append(intent(50))
    await reaches(journal, JournalState.FENCED)
    with pytest.raises(Fenced):
        await journal.append(intent(51))
    await journal.close()
    assert place.anchor.read_bytes() == witness


async def test_the_own_stick_that_comes_back_is_written_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = await place.create()
    await journal.close()
    before = place.anchor.read_bytes()
    journal, away = await start_without_the_stick(place, monkeypatch)
    away[0] = False
    await journal.append(intent(1))
    await reaches(journal, JournalState.OK)
    await journal.close()
    assert place.anchor.read_bytes() != before


async def test_another_gateways_stick_is_left_alone_and_stops_nothing(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other").mkdir()
    other = Place(tmp_path / "other")
    foreign = await Journal.create(
        other.options, origin="another", key_name="another", key=place.key, clock=other.clock(), random=bytes(16)
    )
    await foreign.close()
    journal = await place.create()
    await journal.close()
    journal, away = await start_without_the_stick(place, monkeypatch)
    shutil.copy(other.anchor, place.anchor)
    away[0] = False
    await journal.append(intent(1))
    await journal.close()
    assert journal.state is JournalState.WARNING
    assert place.anchor.read_bytes() == other.anchor.read_bytes()

"""An anchor that comes back is compared before it is written: it may be the only witness of what a restored disk lost."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.errors import Fenced, Unavailable
from gateway.journal.anchor import FileAnchor, LostAnchor
from gateway.journal.journal import Journal, JournalOptions, JournalState
from gateway.journal.records import OperatorAction
from tests.support.journal import Place, intent


class Stick:
    """A directory that stands for a second medium: pulled out, it has another name."""

    def __init__(self, place: Place, directory: Path) -> None:
        self.place = place
        self.here, self.drawer = directory / "stick", directory / "drawer"
        self.here.mkdir()

    @property
    def anchor(self) -> Path:
        return self.here / "anchor"

    @property
    def options(self) -> JournalOptions:
        return replace(self.place.options, anchor=self.anchor, anchor_interval_s=0.02)

    def pull(self) -> None:
        self.here.rename(self.drawer)

    def plug(self) -> None:
        self.drawer.rename(self.here)

    async def created(self) -> None:
        journal = await self.place.create(self.options)
        await journal.close()

    async def open(self) -> Journal:
        return await self.place.open(self.options)


@pytest.fixture
def stick(place: Place, tmp_path: Path) -> Stick:
    return Stick(place, tmp_path)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def reaches(journal: Journal, state: JournalState) -> None:
    await until(lambda: journal.state is state)


async def restored_disk(stick: Stick, tmp_path: Path) -> bytes:
    """Twenty certificates are planned, then the disk is as it was before; what the stick knows of them."""
    await stick.created()
    shutil.copy(stick.place.path, tmp_path / "old")
    journal = await stick.open()
    for number in range(20):
        await journal.append(intent(number))
    await journal.close()
    shutil.copy(tmp_path / "old", stick.place.path)
    return stick.anchor.read_bytes()


async def test_a_stick_that_comes_back_with_more_records_fences_and_is_not_overwritten(stick: Stick, tmp_path: Path) -> None:
    witness = await restored_disk(stick, tmp_path)
    stick.pull()
    journal = await stick.open()
    await reaches(journal, JournalState.WARNING)
    stick.plug()
    await reaches(journal, JournalState.FENCED)
    with pytest.raises(Fenced):
        await journal.append(intent(51))
    await journal.close()
    assert stick.anchor.read_bytes() == witness


async def test_a_stick_mounted_over_the_directory_that_was_read_is_not_overwritten(stick: Stick, tmp_path: Path) -> None:
    """A mount point stays when its stick is pulled: the start finds an empty directory there, and can write to it."""
    witness = await restored_disk(stick, tmp_path)
    stick.pull()
    stick.here.mkdir()
    journal = await stick.open()
    await until(stick.anchor.exists)
    shutil.rmtree(stick.here)
    stick.plug()
    await journal.append(intent(50))
    await reaches(journal, JournalState.FENCED)
    await journal.close()
    assert stick.anchor.read_bytes() == witness


async def test_the_own_stick_that_comes_back_is_written_again(stick: Stick) -> None:
    await stick.created()
    before = stick.anchor.read_bytes()
    journal = await stick.open()
    stick.pull()
    await journal.append(intent(1))
    await reaches(journal, JournalState.WARNING)
    stick.plug()
    await reaches(journal, JournalState.OK)
    await journal.close()
    assert stick.anchor.read_bytes() != before


async def test_another_gateways_stick_is_left_alone_and_stops_nothing(stick: Stick, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Place(tmp_path / "other")
    foreign = await Journal.create(
        other.options, origin="another", key_name="another", key=stick.place.key, clock=other.clock(), random=bytes(16)
    )
    await foreign.close()
    await stick.created()
    stick.pull()
    journal = await stick.open()
    await reaches(journal, JournalState.WARNING)
    shutil.copy(other.anchor, stick.drawer / "anchor")
    stick.plug()
    await until(lambda: "left alone" in journal.state_detail)
    await journal.append(intent(1))
    await journal.close()
    assert journal.state is JournalState.WARNING
    assert stick.anchor.read_bytes() == other.anchor.read_bytes()


class Absent(LostAnchor):
    """A medium that was away at the start and is blank when it comes; then it is a file."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), "not plugged in")
        self._file = FileAnchor(path)
        self.here = False

    async def load(self) -> bytes | None:
        return await self._file.load() if self.here else await super().load()

    async def store(self, value: bytes) -> None:
        await self._file.store(value)


async def test_a_blank_medium_that_comes_late_is_written_and_said_in_the_journal(stick: Stick, tmp_path: Path) -> None:
    await stick.created()
    anchor = Absent(tmp_path / "blank")
    journal = await Journal.open(
        replace(stick.options, anchor=None), key=stick.place.key, clock=stick.place.clock(), anchor=anchor
    )
    assert journal.state is JournalState.WARNING
    assert "not plugged in" in journal.state_detail
    anchor.here = True
    await reaches(journal, JournalState.OK)
    actions = [record.payload async for record in journal.scan(OperatorAction)]
    assert OperatorAction("anchor-renewed", "gateway", "no anchor was found") in actions
    await journal.close()
    assert (tmp_path / "blank").exists()


async def test_an_anchor_that_cannot_be_opened_is_out_of_reach(tmp_path: Path) -> None:
    anchor = LostAnchor("pkcs11:token=x", "no module")
    for attempt in (anchor.load(), anchor.store(b"x")):
        with pytest.raises(Unavailable, match="no module"):
            await attempt
    assert not anchor.returned()

"""The gateway goes away between any two calls of a station, and after an answer that the station never got."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import JournalFailed, JournalFull
from gateway.journal.verify import verify
from tests.support.authority import TestCa
from tests.support.line import order_of
from tests.support.stations import BenchDevice, Station, counter

UNIT = "/units/O-1%2FSN-00001%2F1"
CALLS = ("open", "csr", "written", "verified", "locking", "locked", "labelled", "confirmed")


async def call(station: Station, device: BenchDevice, name: str) -> Any:
    if name == "open":
        return (await station.done("/units", {"order": "O-1", "chip": device.chip}))["unit"]
    if name == "csr":
        answer = await station.post(f"{UNIT}/csr", device.csr())
        assert answer.status == 200, answer.content
        return answer.content
    body = device.prove((await station.get(f"{UNIT}/challenge")).json["challenge"]) if name == "verified" else None
    return (await station.done(f"{UNIT}/{name}", body))["times"]


async def test_a_unit_goes_on_after_a_kill_between_any_two_calls_each_told_twice(tmp_path: Path) -> None:
    """What a kill leaves is the directory as it is while the gateway runs; the next one starts from a copy of that."""
    root, device, orders = TestCa.make("Test Root"), BenchDevice("chip-1"), [order_of(label="plate")]
    directory, results = tmp_path / "0", []
    directory.mkdir()
    for index, name in enumerate(each for each in CALLS for _ in range(2)):  # each answer is lost once
        left = tmp_path / str(index + 1)
        async with counter(directory, orders=orders, root=root) as it:
            if name == "open" and index == 1:
                assert len(it.units.open) == 1
            results.append(await call(await it.station(), device, name))
            assert it.world.journal.head.tallies["order:O-1"] == 1
            assert not it.balance()
            shutil.copytree(directory, left)
        shutil.rmtree(directory)
        directory = left
    assert all(results[index] == results[index + 1] for index in range(0, len(results), 2))
    assert verify(directory / "journal.db", signatures=True).clean


@pytest.mark.parametrize("persisted", [False, True])
@pytest.mark.parametrize("nth", [1, 2, 3, 4, 5, 6])
async def test_a_failed_record_anywhere_in_the_making_leaves_one_certificate(tmp_path: Path, nth: int, persisted: bool) -> None:
    root, device = TestCa.make("Test Root"), BenchDevice("chip-1")
    async with counter(tmp_path, orders=[order_of()], root=root) as it:
        station = await it.station()
        it.world.journal.fail_append(
            nth, JournalFailed("I/O error") if persisted else JournalFull("no space"), persisted=persisted
        )
        answer = await station.post("/units", {"order": "O-1", "chip": "chip-1"})
        if answer.status == 200:
            answer = await station.post(f"{UNIT}/csr", device.csr())
        assert answer.status == (503 if nth < 6 else 200), answer.content
    async with counter(tmp_path, root=root) as it:
        station = await it.station()
        await station.opened(device)
        unit = await it.units.latest_with("chip-1")
        assert unit is not None
        again = await station.post(f"/units/{unit.id.replace('/', '%2F')}/csr", device.csr())
        assert again.status == 200, again.content
        assert it.world.journal.head.tallies["order:O-1"] == 1
        assert not it.balance()

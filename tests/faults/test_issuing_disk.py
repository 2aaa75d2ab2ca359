"""A disk that reports errors or is full under a whole gateway: nothing leaves without its record, and revoking goes on."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from gateway.app import Gateway, opened
from gateway.authority.requests import Issued
from gateway.config import JournalSection
from gateway.errors import JournalFull
from gateway.journal.journal import JournalState
from gateway.pki.crl import Reason
from tests.support.crash import Told, invariants
from tests.support.crash_requests import configuration, request
from tests.support.crash_stage import EXTRA_STEP, Calls, Fault, Past, Run, broken, copy_of, lives, sweep
from tests.support.power_cut import small_disk


def assert_contained(runs: list[Run]) -> None:
    """No promise is broken, and whoever is turned down is told so in the gateway's own words."""
    assert not broken(runs)
    assert not [run.call for run in runs if run.told.after_failure], "a certificate left after the error"
    assert all(run.told.status in (0, 3, 4) for run in runs), "a life ended in another way than the daemon's"


def errors_of(runs: list[Run]) -> set[str]:
    return {error for run in runs for error in run.told.errors}


def test_an_io_error_at_every_call_latches_and_breaks_no_promise(diskfault: Path, past: Past, tmp_path: Path) -> None:
    runs = sweep(diskfault, tmp_path, lives(past, Fault.io_error(Calls.ALL)))
    assert_contained(runs)
    assert "JournalFailed" in errors_of(runs)


def test_a_write_that_fails_though_it_was_carried_out_breaks_no_promise(diskfault: Path, past: Past, tmp_path: Path) -> None:
    runs = sweep(diskfault, tmp_path, lives(past, Fault.io_error(Calls.WRITE, though_done=True)), step=EXTRA_STEP)
    assert_contained(runs)
    assert "JournalFailed" in errors_of(runs)


def test_a_full_disk_at_every_write_and_sync_breaks_no_promise(diskfault: Path, past: Past, tmp_path: Path) -> None:
    runs = sweep(diskfault, tmp_path, lives(past, Fault.disk_full(Calls.WRITE | Calls.SYNC)))
    assert_contained(runs)
    assert {"JournalFull", "JournalFailed"} <= errors_of(runs)


def test_the_control_that_retries_after_an_io_error_is_caught(diskfault: Path, past: Past, tmp_path: Path) -> None:
    runs = sweep(diskfault, tmp_path, lives(past, Fault.io_error(Calls.SYNC), "retry-after-error"), step=2)
    assert any(run.told.after_failure for run in runs)


class Line:
    """Clients of a gateway that is open in this process."""

    def __init__(self, gateway: Gateway, told: Told) -> None:
        self._gateway, self._told = gateway, told

    async def enrol(self, name: str) -> Issued:
        self._told.asked.append(name)
        outcome = await self._gateway.authority.enroll(await request(self._gateway, name, self._told))
        assert isinstance(outcome, Issued)
        self._told.held.setdefault(name, []).append(outcome.certificate.hex())
        return outcome

    async def enrol_many(self, count: int) -> list[Issued]:
        """By 64 clients: so much is in SQLite's log at once, and nowhere else yet, as it can be."""
        held: list[Issued] = []
        for start in range(0, count, 64):
            held += await asyncio.gather(*(self.enrol(f"ldevid/many-{number}") for number in range(start, start + 64)))
        return held

    async def revoke(self, held: Issued) -> None:
        done = await self._gateway.authority.revoker.revoke(held.serial, Reason.KEY_COMPROMISE, "operator:line")
        self._told.revoked[f"{done.serial:x}"] = done.reason.value

    async def enrol_when_there_is_room(self, name: str) -> Issued:
        """As a client with Retry-After does; the journal looks at its disk once a second."""
        async with asyncio.timeout(60):
            while True:
                try:
                    return await self.enrol(name)
                except JournalFull:
                    await asyncio.sleep(0.05)


def fill(disk: Path) -> Path:
    """Another program takes every free block."""
    room = os.statvfs(disk)
    filler = disk / "filler"
    filler.write_bytes(bytes(room.f_bavail * room.f_frsize))
    return filler


async def test_on_a_full_disk_revoking_goes_on_also_after_a_restart_and_issuing_when_there_is_room(
    past: Past, tmp_path: Path
) -> None:
    reserve = JournalSection().reserve_bytes
    with small_disk(tmp_path / "disk", megabytes=24) as disk:
        config = configuration(copy_of(past.state, disk / "state"), reserve_bytes=reserve)
        told = Told()
        async with opened(config) as gateway:
            line = Line(gateway, told)
            held = await line.enrol_many(640)
            filler = fill(disk)
            with pytest.raises(JournalFull) as caught:
                await line.enrol("ldevid/too-late")
            assert caught.value.retry_after > 0
            assert gateway.journal.state is JournalState.FULL
            for each in held[:300]:
                await line.revoke(each)
            await gateway.authority.publisher.publish_now()
            assert gateway.authority.crl("1").number
        async with opened(config) as gateway:
            line = Line(gateway, told)
            for each in held[300:600]:
                await line.revoke(each)
            filler.unlink()
            await line.enrol_when_there_is_room("ldevid/too-late")
            assert gateway.journal.state is JournalState.OK
        assert not await invariants(config, told, request)

"""Power cuts after each of the journal's promises: see :mod:`tests.support.power_cut`."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

from tests.support.journal import Place
from tests.support.journal_faults import Outcome, Workload, broken_promises
from tests.support.power_cut import Disk


def _cut_after(disk: Disk, workload: Workload, state: str, lines: int, variant: str) -> Outcome:
    """Run until the workload has made ``lines`` promises, then cut the current. All it promised before the cut counts."""
    outcome = Outcome()
    with disk.plugged() as mount:
        directory = mount / state
        directory.mkdir()
        subprocess.run(["sync", "-f", mount], check=True)
        process = workload.begin(directory, variant=variant)
        workload.go(directory)
        ended = False
        while not ended and lines > 0:
            ended, lines = outcome.hear(workload.line()), lines - 1
        disk.cut(process)
        while not ended:
            ended = outcome.hear(workload.line())  # what was on its way when the current failed
    return outcome


def _cuts(tmp_path: Path, variant: str, after: range) -> list[str]:
    disk = Disk(tmp_path, megabytes=512)  # every life leaves a journal and its reserve behind
    broken: list[str] = []
    with Workload() as workload:
        for lines in after:
            outcome = _cut_after(disk, workload, str(lines), lines, variant)
            with disk.plugged() as mount:
                found = asyncio.run(broken_promises(Place(mount / str(lines)), outcome))
            broken += [f"cut after {lines} promises: {text}" for text in found]
    return broken


def test_a_power_cut_after_every_promise_loses_nothing(tmp_path: Path) -> None:
    assert not _cuts(tmp_path, "product", range(36))


def test_the_control_with_synchronous_normal_is_caught(tmp_path: Path) -> None:
    broken = _cuts(tmp_path, "synchronous-normal", range(4, 34, 3))
    assert any("is lost" in text or "no journal" in text or "anchor" in text for text in broken)

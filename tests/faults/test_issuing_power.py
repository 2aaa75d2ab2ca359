"""Power cuts under 64 clients: whatever reached one of them is in the journal when the current comes back."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.crash import Told
from tests.support.crash_stage import Past, Stage, copy_of, stage
from tests.support.power_cut import Disk

_CLIENTS = 64
#: More of them with POWER_CUTS in the environment; docs/FAULTS.md says how many were made.
_CUTS = int(os.environ.get("POWER_CUTS", "8"))


def _cut_after(disk: Disk, place: Stage, past: Past, certificates: int, variant: str) -> list[str]:
    """Cut the current when the clients hold so many certificates; the promises broken when it is back."""
    told = Told()
    with disk.plugged() as mount:
        state = copy_of(past.state, mount / str(certificates))
        subprocess.run(["sync", "-f", mount], check=True)
        process = place.begin("live", state, clients=_CLIENTS, each=20, variant=variant)
        while len(told.held) < certificates and not told.hear(place.line()):
            pass
        disk.cut(process)
        place.hear(told)  # what was on its way when the current failed has left, and counts
    with disk.plugged() as mount:
        found = place.broken(mount / str(certificates), told)
        shutil.rmtree(mount / str(certificates))  # the disk is small
        return found


def _cuts(diskfault: Path, past: Past, directory: Path, variant: str, cuts: int) -> Iterator[str]:
    """Cut after cut, each promise that it broke."""
    disk = Disk(directory)
    with stage(diskfault) as place:
        for number in range(cuts):
            certificates = 1 + number * 800 // cuts
            for text in _cut_after(disk, place, past, certificates, variant):
                yield f"cut at {certificates} certificates: {text}"


def test_a_power_cut_under_64_clients_breaks_no_promise(diskfault: Path, past: Past, tmp_path: Path) -> None:
    assert not list(_cuts(diskfault, past, tmp_path, "product", _CUTS))


@pytest.mark.parametrize("mistake", ["synchronous-normal", "acknowledge-before-sync"])
def test_the_controls_are_caught(mistake: str, diskfault: Path, past: Past, tmp_path: Path) -> None:
    """Not by every cut: an answer that left too early is only found when the cut comes before its sync."""
    broken = _cuts(diskfault, past, tmp_path, mistake, 40)
    assert any("holds a certificate without a record" in text or "is lost" in text for text in broken)

"""Power cuts under the file drop: a drop is there, or its whole answer is; whatever a station may see of an answer is whole."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from tests.support.drops import Answer, Place, units, zipped
from tests.support.power_cut import Disk

DROPS, LINES = 12, 8


def _life(disk: Disk, variant: str, answers: int) -> None:
    """One run of the file drop; the current fails once there are so many answers, or the run is over."""
    with disk.plugged() as mount:
        command = [sys.executable, "-m", "tests.support.drop_worker", str(mount), variant]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            out = mount / "out"
            while process.poll() is None and len(list(out.glob("*.answer.zip"))) < answers:
                pass
            disk.cut(process.pid)
        assert process.returncode in {-9, 0}


def _broken(mount: Path) -> list[str]:
    """Promises that do not hold."""
    broken = []
    waiting = {path.stem for path in (mount / "in").glob("*.zip")}
    answered = set()
    for path in (mount / "out").glob("*.answer.zip"):
        try:
            assert Answer(path.read_bytes()).facts["issued"] == LINES
            answered.add(path.name.split(".")[0])
        except (zipfile.BadZipFile, AssertionError, KeyError, EOFError):
            broken.append(f"{path.name} is not whole")
    broken += [f"drop-{number} is lost" for number in range(DROPS) if f"drop-{number}" not in waiting | answered]
    for path in (mount / "kept").glob("*.zip"):
        if not zipfile.is_zipfile(path):
            broken.append(f"kept {path.name} is not whole")
    return broken


def _cuts(tmp_path: Path, variant: str) -> list[str]:
    disk = Disk(tmp_path)
    broken = []
    with disk.plugged() as mount:
        place = Place.make(mount)
        for number in range(DROPS):
            first = number * LINES
            place.drop(f"drop-{number}.zip", zipped(units(range(first, first + LINES))))
        subprocess.run(["sync", "-f", mount], check=True)
    for answers in (1, 2, 4, 8, DROPS):
        _life(disk, variant, answers)
        with disk.plugged() as mount:
            broken += [f"cut after {answers} answers: {text}" for text in _broken(mount)]
    return broken


def test_a_power_cut_loses_no_drop_and_leaves_no_half_answer(tmp_path: Path) -> None:
    assert not _cuts(tmp_path, "product")


def test_the_control_that_does_not_sync_is_caught(tmp_path: Path) -> None:
    assert _cuts(tmp_path, "unsynced")

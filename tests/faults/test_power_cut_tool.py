"""What the power cut tests stand on: nothing is told after the cut, what was synced stays, the rest is gone."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.power_cut import Disk, stop

#: Writes a line, syncs it where asked, tells its number, and so on for ever.
_WRITER = """
import os, sys
file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
for number in range(1_000_000):
    os.write(file, b"%08d\\n" % number)
    if sys.argv[2] == "sync":
        os.fdatasync(file)
    os.write(1, b"%08d\\n" % number)
"""


@contextmanager
def _writer(file: Path, sync: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", _WRITER, file, sync], stdout=subprocess.PIPE)
    with process:
        yield process
        process.wait(60)


def _told_and_kept(disk: Disk, sync: str, lines: int) -> tuple[int, int]:
    """How many lines the writer told, and how many of them from the first on are there after the cut."""
    with disk.plugged() as mount:
        subprocess.run(["sync", "-f", mount], check=True)
        with _writer(mount / f"{sync}{lines}", sync) as process:
            assert process.stdout is not None
            told = [process.stdout.readline() for _ in range(lines)]
            disk.cut(process.pid)
            told += process.stdout.readlines()
    with disk.plugged() as mount:
        there = mount / f"{sync}{lines}"
        kept = there.read_bytes().splitlines(keepends=True) if there.exists() else []
    return len(told), next((number for number, line in enumerate(told) if kept[number : number + 1] != [line]), len(told))


def test_what_was_synced_and_told_before_the_cut_is_there_and_what_was_not_synced_is_gone(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    for lines in range(1, 60, 6):
        told, kept = _told_and_kept(disk, "sync", lines)
        assert told == kept
        assert told >= lines
    told, kept = _told_and_kept(disk, "no", 1000)
    assert kept < told


def test_a_stopped_process_tells_nothing_more(tmp_path: Path) -> None:
    with _writer(tmp_path / "file", "no") as process:
        assert process.stdout is not None
        process.stdout.readline()
        stop(process.pid)
        states = [(task / "stat").read_text().rpartition(") ")[2][0] for task in Path(f"/proc/{process.pid}/task").iterdir()]
        process.kill()
    assert set(states) <= set("TD")
    stop(process.pid)  # of one that has ended it does nothing


def test_a_file_system_is_gone_when_unplugged_although_another_process_holds_a_copy_of_its_mount(tmp_path: Path) -> None:
    """Or the power cut tests would go on with the dead file system, whatever another test does with mount namespaces."""
    disk = Disk(tmp_path)
    with disk.plugged():
        holder = subprocess.Popen(["unshare", "--mount", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write(b"begun\n")
        holder.stdin.flush()
        assert holder.stdout.readline() == b"begun\n"
        disk.shut_down()
    with holder, disk.plugged() as mount:
        (mount / "alive").touch()
        holder.stdin.close()

"""A disk whose current can be cut: ext4 in a file, shut down (SHUTDOWN ioctl, log not flushed) under a process that dies of it.

Whatever was in the page cache only is gone then, exactly as when the current fails. The process must not outlive the disk: a
sync that is under way when the file system is shut down may report success although its data is gone, and a process that
goes on would pass that on (``tests/faults/sync_across_cut.py`` shows it; see ``docs/FAULTS.md``). So it is stopped first and
killed afterwards. Needs root for the loop mount.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

EXT4_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = (2).to_bytes(4, "little")


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)


class Disk:
    """An ext4 file system in a file of ``directory``."""

    def __init__(self, directory: Path, *, megabytes: int = 48) -> None:
        assert os.geteuid() == 0, "the power cut tests mount a file system: run the tests as root"
        self._image, self.mount = directory / "disk.img", directory / "disk"
        self.mount.mkdir()
        with self._image.open("wb") as file:
            file.truncate(megabytes << 20)
        for number in range(8):  # containers come without the loop devices
            if not Path(f"/dev/loop{number}").exists():
                os.mknod(f"/dev/loop{number}", 0o600 | 0o060000, os.makedev(7, number))
        run("mkfs.ext4", "-q", "-F", self._image)

    @contextmanager
    def plugged(self) -> Iterator[Path]:
        run("mount", "-o", "loop", self._image, self.mount)
        try:
            yield self.mount
        finally:
            run("umount", self.mount)
            # Another process's mount namespace may hold a copy of this mount, and the next one would be the same dead file
            # system again. Removing the directory takes it away from all of them.
            self.mount.rmdir()
            self.mount.mkdir()

    def cut(self, process: int) -> None:
        """Cut the current under ``process``. What it has told is what it told before; a sync under way is cut with it."""
        stop(process)
        self.shut_down()
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)

    def shut_down(self) -> None:
        """Only the disk."""
        descriptor = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH)
        finally:
            os.close(descriptor)


def stop(process: int) -> None:
    """Stop every thread of ``process``, also one that has ended. From here on none carries out an instruction of its program.

    Threads that wait for the disk within a call are not waited for, so that the cut comes in the middle of it; they stop
    before the call returns to the program. The first thread must have stopped: with it all others are told to.
    """
    with suppress(ProcessLookupError, FileNotFoundError):  # it has ended
        os.kill(process, signal.SIGSTOP)
        threads = Path(f"/proc/{process}/task")
        while _state(threads / str(process)) not in "TZX" or any(_state(thread) not in "TZXD" for thread in threads.iterdir()):
            os.sched_yield()


def _state(thread: Path) -> str:
    """R runs, S sleeps, D waits for the disk, T is stopped, Z and X have ended: proc(5)."""
    try:
        return (thread / "stat").read_text().rpartition(") ")[2][0]
    except (FileNotFoundError, ProcessLookupError):
        return "X"


@contextmanager
def small_disk(directory: Path, *, megabytes: int) -> Iterator[Path]:
    """A file system of this size in memory, to be filled."""
    directory.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", directory)
    try:
        yield directory
    finally:
        run("umount", directory)

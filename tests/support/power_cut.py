"""A disk whose current can be cut: ext4 in a file, shut down under the running process (SHUTDOWN ioctl, log not flushed).

Whatever was in the page cache only is gone then, exactly as when the current fails. Needs root for the loop mount.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
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

    def cut(self) -> None:
        descriptor = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, NO_LOG_FLUSH)
        finally:
            os.close(descriptor)


@contextmanager
def small_disk(directory: Path, *, megabytes: int) -> Iterator[Path]:
    """A file system of this size in memory, to be filled."""
    directory.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", directory)
    try:
        yield directory
    finally:
        run("umount", directory)

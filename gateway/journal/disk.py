"""How full the journal's disk is, and the reserve that keeps revoking possible when it is full.

The reserve is a file of allocated blocks next to the journal. It is given up when SQLite reports a full disk, so that urgent
records (revocations, voids) still find room, and taken again once there is space.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from enum import Enum
from pathlib import Path

_log = logging.getLogger(__name__)
#: A look at the file system costs a few microseconds; once a second is enough to see it fill.
CHECK_INTERVAL_MS = 1000


class DiskLevel(Enum):
    OK = "ok"
    WARNING = "warning"
    FULL = "full"


def used_fraction(directory: Path) -> float:
    """The used part of the file system as ``df`` shows it: what root alone may use counts as used."""
    status = os.statvfs(directory)
    used = status.f_blocks - status.f_bfree
    return used / max(1, used + status.f_bavail)


class DiskWatch:
    """Watches one directory. ``warn`` and ``refuse`` are fractions of the file system in use."""

    def __init__(
        self,
        reserve: Path,
        *,
        reserve_bytes: int,
        warn: float,
        refuse: float,
        usage: Callable[[Path], float] = used_fraction,
    ) -> None:
        self._reserve, self._reserve_bytes = reserve, reserve_bytes
        self._warn, self._refuse = warn, refuse
        self._usage = usage
        self._checked_ms: int | None = None
        self._level = DiskLevel.OK
        self._gave_up = False

    def level(self, now_ms: int) -> DiskLevel:
        """How full the disk is; looked up at most once per second of ``now_ms``, a time that goes on also where the gateway's
        clock stands still. Takes the reserve again when it can."""
        if self._checked_ms is not None and now_ms - self._checked_ms < CHECK_INTERVAL_MS:
            return self._level
        self._checked_ms = now_ms
        used = self._usage(self._reserve.parent)
        if used >= self._refuse or (not self._has_reserve() and not self._take_reserve()):
            self._level = DiskLevel.FULL
        else:
            self._level = DiskLevel.WARNING if used >= self._warn else DiskLevel.OK
            self._gave_up = False
        return self._level

    def give_up_reserve(self) -> None:
        """SQLite found no space: free the reserve and report FULL until a later look finds room for it again."""
        self._level = DiskLevel.FULL
        if not self._gave_up:
            _log.error("the disk is full: the journal's reserve of %d bytes is given up for revocations", self._reserve_bytes)
        self._gave_up = True
        self._reserve.unlink(missing_ok=True)

    def _has_reserve(self) -> bool:
        try:
            return self._reserve.stat().st_size >= self._reserve_bytes
        except FileNotFoundError:
            return False

    def _take_reserve(self) -> bool:
        """Allocate the reserve; False when there is no room for it."""
        if not self._reserve_bytes:
            return True
        try:
            descriptor = os.open(self._reserve, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self._reserve_bytes)
            finally:
                os.close(descriptor)
        except OSError as error:
            if not self._gave_up:  # once: a full disk is no place for a line a second
                _log.warning("no room for the journal's reserve: %s", error)
            self._gave_up = True
            self._reserve.unlink(missing_ok=True)
            return False
        return True

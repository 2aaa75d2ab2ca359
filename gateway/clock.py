"""Time for the whole gateway: UTC milliseconds since the Unix epoch, never behind what the journal has seen.

Pure modules get a time as an argument; everything else asks the one :class:`Clock` that ``app.py`` builds. A factory
box may have no battery-backed clock and no NTP: that is a normal state, not an error.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


def system_time_ms() -> int:
    """The operating system's wall clock, UTC milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


def elapsed_ms() -> int:
    """Milliseconds of this process's monotonic clock, for spans of time: the gateway's own clock may stand still for long."""
    return time.monotonic_ns() // 1_000_000


class Clock(Protocol):
    """What issues timestamps. ``now_ms`` never decreases."""

    def now_ms(self) -> int: ...

    def behind_ms(self) -> int:
        """How far the raw source lies behind the highest time seen, in milliseconds; 0 when it is ahead."""


class MonotonicClock:
    """A clock that never goes back: not between calls, and not behind a time it was told with :meth:`observe`.

    While the source is behind (it was set back, or the box woke up in 1970) the clock stands still at the highest time
    seen; :meth:`behind_ms` says by how much, and policy decides whether to issue.
    """

    def __init__(self, source: Callable[[], int] = system_time_ms, *, floor_ms: int = 0) -> None:
        self._source = source
        self._highest = floor_ms

    def observe(self, time_ms: int) -> None:
        """Raise the floor, e.g. to the time of the journal's last record."""
        self._highest = max(self._highest, time_ms)

    def now_ms(self) -> int:
        self._highest = max(self._highest, self._source())
        return self._highest

    def behind_ms(self) -> int:
        return max(0, self._highest - self._source())

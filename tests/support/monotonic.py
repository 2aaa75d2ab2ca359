"""Monotonic time that moves only when a test says so, in the place of a module's ``time``."""

from __future__ import annotations


class StoppedTime:
    """Put in with ``monkeypatch.setattr(module, "time", StoppedTime())``; the event loop keeps the real one."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s

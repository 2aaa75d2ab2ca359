"""How long the last operations took: what the status page shows as p50 and p95. Pure."""

from __future__ import annotations

from collections import deque

_WINDOW = 256


class Figures:
    """Durations in milliseconds over the last operations, and their number since the start."""

    __slots__ = ("_durations", "operations")

    def __init__(self) -> None:
        self._durations: deque[float] = deque(maxlen=_WINDOW)
        self.operations = 0

    def add(self, duration_ms: float) -> None:
        self._durations.append(duration_ms)
        self.operations += 1

    def quantile(self, share: float) -> float:
        """The nearest-rank quantile in milliseconds; 0 before the first operation."""
        if not self._durations:
            return 0.0
        ordered = sorted(self._durations)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

"""How much central takes from one gateway and from all of them together; time is an argument.

An allowance may be overdrawn by one message and must be paid back before the next: so no message is too large for it, and
what a message costs is only known when it was unpacked.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """``batches`` at once on this worker bounds its memory (8 MiB each at most). Rates are per second, 0 for no limit; one
    gateway's are far above what it sends and far below what could starve the others."""

    batches: int = 16
    records_per_s: int = 50_000
    octets_per_s: int = 64 << 20
    all_records_per_s: int = 0
    all_octets_per_s: int = 0

    def one(self, now_ms: int) -> Allowance:
        return Allowance(self.records_per_s, self.octets_per_s, now_ms)

    def total(self, now_ms: int) -> Allowance:
        return Allowance(self.all_records_per_s, self.all_octets_per_s, now_ms)


class Allowance:
    """Records and octets that may still be spent; grows with time up to one second's worth."""

    __slots__ = ("_at_ms", "_left", "_rates")

    def __init__(self, records_per_s: int, octets_per_s: int, now_ms: int) -> None:
        self._rates = (records_per_s, octets_per_s)
        self._left = [float(rate) for rate in self._rates]
        self._at_ms = now_ms

    def wait_s(self, now_ms: int) -> int:
        """For how many seconds nothing may be spent, 0 when something may."""
        self._grow(now_ms)
        debts = [-left / rate for left, rate in zip(self._left, self._rates, strict=True) if rate and left < 0]
        return math.ceil(max(debts, default=0))

    def spend(self, records: int, octets: int, now_ms: int) -> None:
        self._grow(now_ms)
        self._left[0] -= records
        self._left[1] -= octets

    def is_whole(self, now_ms: int) -> bool:
        """Whether nothing was spent for so long that a new one would be the same."""
        self._grow(now_ms)
        return all(left >= rate for left, rate in zip(self._left, self._rates, strict=True))

    def _grow(self, now_ms: int) -> None:
        elapsed_s = max(0, now_ms - self._at_ms) / 1000
        self._at_ms = now_ms
        self._left = [min(rate, left + rate * elapsed_s) for left, rate in zip(self._left, self._rates, strict=True)]

"""Admission: how many requests of each lane may be in the making at once.

Each lane has its own bound, so a flood of one never takes the places of another: the production line goes on while a
thousand devices renew. Who of the admitted goes first at the key is decided by the signer's priorities.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from gateway.authority.requests import Lane
from gateway.errors import Busy

#: Seconds after which a refused requester may come again: a person waits at the line, nobody waits for a renewal.
RETRY_AFTER_S = {Lane.LINE: 2, Lane.RENEWAL: 10, Lane.BULK: 15}


class Lanes:
    """Counts what is in the making, by lane. ``limits`` has an entry for every lane."""

    def __init__(self, limits: Mapping[Lane, int]) -> None:
        self._limits = dict(limits)
        self._counts = dict.fromkeys(Lane, 0)

    def enter(self, lane: Lane) -> None:
        """Take a place. Raises Busy with ``retry_after`` when the lane is full."""
        if self._counts[lane] >= self._limits[lane]:
            raise Busy(f"the {lane.name.lower()} lane is full", retry_after=RETRY_AFTER_S[lane])
        self._counts[lane] += 1

    def leave(self, lane: Lane) -> None:
        """Give the place back."""
        self._counts[lane] -= 1

    @contextmanager
    def place(self, lane: Lane) -> Iterator[None]:
        """A place for the length of a ``with`` block. Raises Busy."""
        self.enter(lane)
        try:
            yield
        finally:
            self.leave(lane)

    def occupied(self, lane: Lane) -> int:
        """How many places of the lane are taken."""
        return self._counts[lane]

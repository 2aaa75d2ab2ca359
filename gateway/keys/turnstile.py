"""Who signs next: a bounded gate in front of a scarce token.

A caller takes a turn, the most urgent first and equals in order of arrival. When too many wait, the next one is told so at
once (Busy) instead of being kept: what cannot be served within a device's patience must not wait in memory.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.errors import Busy
from gateway.keys.signer import Priority


class Turnstile:
    """At most ``width`` callers are inside, at most ``limit`` wait."""

    def __init__(self, *, width: int, limit: int) -> None:
        self._free = width
        self._limit = limit
        self._arrivals = 0
        self._queue: list[tuple[int, int, asyncio.Future[None]]] = []
        self._waiting = 0

    @property
    def waiting(self) -> int:
        return self._waiting

    @asynccontextmanager
    async def turn(self, priority: Priority, *, retry_after: int = 5) -> AsyncIterator[None]:
        """Wait for a turn and hold it inside the block. Raises Busy (``retry_after`` in seconds) when the queue is full."""
        if self._free and not self._waiting:
            self._free -= 1
        else:
            await self._wait(priority, retry_after)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, priority: Priority, retry_after: int) -> None:
        if self._waiting >= self._limit:
            raise Busy(f"{self._waiting} requests wait for the signing key", retry_after=retry_after)
        ticket: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._arrivals += 1
        heapq.heappush(self._queue, (int(priority), self._arrivals, ticket))
        self._waiting += 1
        try:
            await ticket
        except asyncio.CancelledError:
            if ticket.done() and not ticket.cancelled():
                self._pass_on()  # the turn came in the same moment as the cancellation: it must not be lost
            else:
                self._waiting -= 1
            raise

    def _pass_on(self) -> None:
        while self._queue:
            ticket = heapq.heappop(self._queue)[2]
            if not ticket.done():
                self._waiting -= 1
                ticket.set_result(None)
                return
        self._free += 1

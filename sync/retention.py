"""When the gateway lets go of old records: once a day, what central has confirmed and the retention does not hold any more."""

from __future__ import annotations

import asyncio
import logging

from gateway.clock import Clock
from gateway.errors import IntegrityError, Unavailable
from gateway.journal.journal import Journal
from gateway.journal.pruning import Retention
from gateway.journal.records import CommandDone
from sync.orders import Orders
from sync.receipts import Receipts

_log = logging.getLogger(__name__)
_DAY_MS = 86_400_000
#: The first time soon after a start, because a gateway may be switched off every evening.
_FIRST_S, _NEXT_S = 600, 86_400


class Pruning:
    """``days`` is the retention; 0 keeps everything for ever. ``central_key`` is the vkey that receipts are signed with."""

    def __init__(
        self, journal: Journal, receipts: Receipts, orders: Orders, clock: Clock, *, central_key: str, days: int
    ) -> None:
        self._journal, self._receipts, self._orders, self._clock = journal, receipts, orders, clock
        self._central_key, self._days = central_key, days

    async def run(self) -> None:
        """For ever, or not at all."""
        pause = _FIRST_S
        while self._days:
            await asyncio.sleep(pause)
            await self.once()
            pause = _NEXT_S

    async def once(self) -> int:
        """How many records lost their bodies. What stands in the way is logged, and tried again the next day."""
        if not self._days or not self._receipts.note:
            return 0
        commands = {command.id for command in self._orders.desired.commands} if self._orders.desired else set()

        def needed(done: CommandDone) -> bool:
            return self._orders.desired is None or done.command in commands

        before_ms = self._clock.now_ms() - self._days * _DAY_MS
        try:
            count = await self._journal.prune(Retention(self._receipts.note, self._central_key, before_ms, needed))
        except (IntegrityError, Unavailable) as error:
            _log.warning("nothing was pruned: %s", error)
            return 0
        if count:
            _log.info("%d records lost their bodies: central has them, and nothing here needs them", count)
        return count

"""Keeping the anchor: when it is written, when it is compared, and what is said while it is out of reach.

Written at intervals after commits and a last time at a clean end; never before it was compared with this journal since it came,
because what it holds may be the only witness of what a restored disk has lost. A medium that is out of reach stops nothing: the
journal is in WARNING and issues, and the first append after the medium's return waits for the comparison. An anchor that has
seen more, or another past, fences the journal. Another gateway's is left alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from gateway.clock import Clock
from gateway.errors import GatewayError, IntegrityError, JournalFailed, PinError, Unavailable
from gateway.journal.anchor import Anchor, AnchoredHead
from gateway.journal.records import Genesis, OperatorAction
from gateway.journal.startup import NO_ANCHOR, anchor_objection
from gateway.journal.writer import Writer

_log = logging.getLogger(__name__)
#: Seconds between two looks for a medium that is away.
_LOOK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class AnchorStatus:
    """``records`` and ``written_ms`` (UTC) of the last writing in this run, both 0 before it. ``trouble`` is one sentence."""

    name: str
    records: int
    written_ms: int
    trouble: str


class AnchorKeeper:
    """Keeps ``anchor`` behind the journal of ``writer``, at most one writing per ``interval_s`` seconds.

    ``away`` says why the anchor was not compared at start; empty when it was. ``fence`` is called when it contradicts.
    """

    def __init__(
        self,
        anchor: Anchor,
        writer: Writer,
        genesis: Genesis,
        *,
        clock: Clock,
        interval_s: float,
        away: str,
        fence: Callable[[str], None],
    ) -> None:
        self._anchor, self._writer, self._genesis, self._clock = anchor, writer, genesis, clock
        self._interval_s = interval_s
        self._fence = fence
        self._trouble = ""
        self._agrees = not away  # what it holds was compared since it was last out of reach
        self._new = bool(away)  # nothing of it was seen in this run yet
        self._anchored = self._written_ms = 0
        self._one_at_a_time = asyncio.Lock()
        self._committed = asyncio.Event()
        self._closing = asyncio.Event()
        if away:
            self._out_of_reach(away)
        self._task = asyncio.create_task(self._keep(), name="journal-anchor")

    @property
    def status(self) -> AnchorStatus:
        return AnchorStatus(self._anchor.name, self._anchored, self._written_ms, self._trouble)

    def committed(self) -> None:
        """There is something new to write."""
        self._committed.set()

    async def before_append(self) -> None:
        """Return when nothing speaks against appending: a medium that has just come back is compared first."""
        if self._anchor.returned():
            async with self._one_at_a_time:
                if self._anchor.returned():
                    await self._guarded(self._compare)

    async def close(self) -> None:
        """Write a last time, if the medium is there."""
        self._closing.set()
        self._committed.set()
        await self._task

    async def _keep(self) -> None:
        while True:
            closing = self._closing.is_set()  # read before the head: what closing appended is then in it
            async with self._one_at_a_time:
                await self._guarded(self._write)
            if closing:
                return
            await self._rest()
            if not self._trouble:
                await self._committed.wait()
            self._committed.clear()

    async def _rest(self) -> None:
        """Until the anchor may be written again, the medium returns, or the end."""
        end = asyncio.get_running_loop().time() + self._interval_s
        while not self._closing.is_set() and (left := end - asyncio.get_running_loop().time()) > 0:
            if self._trouble and self._anchor.returned():
                return
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, _LOOK_S) if self._trouble else left):
                    await self._closing.wait()

    async def _guarded(self, step: Callable[[], Awaitable[None]]) -> None:
        """Neither a pulled stick nor a broken one stops the gateway: the journal's state says it, and it is tried again."""
        try:
            await step()
        except (Unavailable, PinError) as error:
            self._agrees = False
            self._out_of_reach(str(error))
        except OSError as error:
            self._agrees = False
            self._say(f"The anchor {self._anchor.name} cannot be read or written: {error.strerror or error}")

    async def _write(self) -> None:
        if not self._agrees or self._anchor.returned():
            await self._compare()
        tip = self._writer.tip
        if self._agrees and tip.size != self._anchored:
            size, value = tip.size, AnchoredHead(self._writer.note, tip.frontier.to_bytes()).to_bytes()
            await self._anchor.store(value)
            self._anchored, self._written_ms = size, self._clock.now_ms()

    async def _compare(self) -> None:
        """Look at what the anchor holds; afterwards it ``_agrees``, or ``_trouble`` says why not."""
        self._agrees = False
        found = await self._anchor.load()
        if found is None:
            self._anchored = 0
            if self._new:  # an auditor should see that nothing could be compared
                with suppress(GatewayError):
                    await self._writer.append((OperatorAction("anchor-renewed", "gateway", NO_ANCHOR),), urgent=True)
        else:
            frontier = self._writer.tip.frontier.copy()
            try:
                checkpoint, anchored = AnchoredHead.from_bytes(found).opened(self._genesis.verifier_key, self._genesis.origin)
                objection = await self._writer.read(lambda store: anchor_objection(store, checkpoint, anchored, frontier))
            except (IntegrityError, JournalFailed) as error:  # another gateway's must not stop this one, nor be lost
                self._say(f"The anchor {self._anchor.name} is left alone: {error}")
                return
            if objection is not None:
                self._say(objection)
                self._fence(objection)
                return
            self._anchored = checkpoint.size
        self._agrees, self._new, self._trouble = True, False, ""

    def _out_of_reach(self, why: str) -> None:
        self._say(f"The anchor {self._anchor.name} is out of reach, and a disk that was copied back is not noticed: {why}")

    def _say(self, trouble: str) -> None:
        if trouble != self._trouble:
            _log.error("%s", trouble)
        self._trouble = trouble

"""How long an event loop was held up by its own work, less the time the machine gave the core to others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_TICK_S = 0.005


def _run_delay_s() -> float:
    """How long this thread was ready to run but other threads had the core (proc(5), schedstat)."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9


@contextmanager
def measured_loop() -> Iterator[list[float]]:
    """Seconds by which each tick of the running loop came late."""
    stalls: list[float] = []

    async def tick() -> None:
        while True:
            before, delayed = time.monotonic(), _run_delay_s()
            await asyncio.sleep(_TICK_S)
            stalls.append(time.monotonic() - before - _TICK_S - (_run_delay_s() - delayed))

    ticker = asyncio.get_running_loop().create_task(tick())
    try:
        yield stalls
    finally:
        ticker.cancel()

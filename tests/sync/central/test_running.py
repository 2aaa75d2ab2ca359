"""Background work outlives what passes, and nothing else."""

from __future__ import annotations

import asyncio

import pytest

from sync.central.running import repeated
from sync.central.store import StoreBusy, StoreFailed


async def test_what_passes_is_waited_for_and_what_is_final_ends_the_work(caplog: pytest.LogCaptureFixture) -> None:
    looks = 0

    async def look() -> None:
        nonlocal looks
        looks += 1
        if looks < 3:
            raise StoreBusy("the database restarts", retry_after=1)
        if looks == 5:
            raise StoreFailed("an I/O error")

    with pytest.raises(StoreFailed):
        await asyncio.wait_for(repeated(look, 0.0, "documents are made"), 10)
    assert looks == 5
    assert caplog.text.count("documents are made later: the database restarts") == 2

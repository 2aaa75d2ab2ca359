"""The end of a journal on a disk that fails in that very moment."""

from __future__ import annotations

import threading

import pytest

from gateway.journal.journal import JournalState
from gateway.journal.store import Broken, Store
from tests.support.journal import Place, intent


async def test_a_disk_that_fails_at_the_last_record_ends_the_journal(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = threading.active_count()
    journal = await place.create()
    await journal.append(intent(1))

    async def broken(self: Store, *_: object) -> None:
        raise Broken("disk I/O error")

    monkeypatch.setattr(Store, "write", broken)
    await journal.close()
    assert journal.state is JournalState.FAILED
    assert journal.options.failed_marker.exists()
    names = [thread.name for thread in threading.enumerate() if not thread.name.startswith("asyncio")]
    assert len(names) <= threads, "the connection's thread would keep the process alive for ever"

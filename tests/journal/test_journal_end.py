"""The end of a journal on a disk that fails in that very moment."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest

from gateway.errors import GatewayError
from gateway.journal.journal import JournalState
from gateway.journal.startup import settle_failed_run
from gateway.journal.store import Broken, Store
from gateway.journal.verify import verify
from tests.support.journal import KEY, Place, intent


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


async def test_the_start_after_a_failed_run_writes_the_log_anew_before_it_trusts_it(place: Place, tmp_path: Path) -> None:
    journal = await place.create()
    for number in range(5):
        await journal.append(intent(number))
    (tmp_path / "cut").mkdir()
    copy = tmp_path / "cut" / "journal.db"
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{place.path}{suffix}", f"{copy}{suffix}")
    await journal.close()
    marker = copy.with_suffix(".failed")
    marker.write_text("disk I/O error")
    log = Path(f"{copy}-wal")
    assert log.stat().st_size > 0
    settle_failed_run(copy, marker, KEY.public_key())
    assert not log.exists() or log.stat().st_size == 0
    assert not marker.exists()
    report = verify(copy)
    assert (report.clean, report.records) == (True, journal.head.size - 1)  # all but Stopped


async def test_a_disk_that_still_fails_keeps_the_mark(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = await place.create()
    await journal.close()
    marker = place.options.failed_marker
    marker.write_text("disk I/O error")
    place.path.with_name("journal.db-wal").mkdir()  # the log cannot be opened
    with pytest.raises(GatewayError):
        settle_failed_run(place.path, marker, KEY.public_key())
    assert marker.exists()

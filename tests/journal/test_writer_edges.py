"""A closed journal answers nothing, a transaction that failed leaves nothing behind, and what happens between two of them."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from gateway.errors import Conflict, JournalFailed, JournalFull
from gateway.journal import store as store_module
from gateway.journal import writer as writer_module
from gateway.journal.journal import Journal, JournalState
from gateway.journal.records import Record, Revoked, TokenRevoked, encode
from gateway.journal.store import Broken, Duplicate, HeadRow, Store
from gateway.journal.tip import Row, row_of
from gateway.journal.verify import verify
from tests.support.journal import START_MS, Place, intent, issue


async def test_a_closed_journal_does_not_say_that_a_key_is_new(place: Place) -> None:
    """Not even when it could know: "new" would let the caller plan a certificate."""
    journal = await place.create()
    await issue(journal, 1)
    await journal.find_issued(b"the first question", START_MS)
    while journal._writer._keys.learning is not None:
        await journal.get(0)
    await journal.close()
    with pytest.raises(JournalFailed):
        await journal.find_issued(b"never used", START_MS)


async def test_a_transaction_that_fails_half_way_leaves_nothing_for_the_next(place: Place) -> None:
    """After a full disk the writer goes on with what is urgent, on the same connection."""
    rows = []
    for seq in range(2):
        record = Record(seq, START_MS, TokenRevoked("t", "o"))
        rows.append(row_of(record, encode(record)))
    store = await Store.open(place.path, create=True)
    try:
        await store.write(rows[:1], [], HeadRow(1, b"", (), ""))
        with pytest.raises(Duplicate):  # the row is in, then the tally fails
            await store.write(rows[1:], [("line-a", None)], HeadRow(2, b"", (), ""))  # type: ignore[list-item]
        assert await store.last_seq() == 0
        await store.write(rows[1:], [], HeadRow(2, b"", (), ""))
        assert await store.last_seq() == 1
    finally:
        await store.close()


# A transaction that began in the middle of a turn of the event loop, and what waits behind it.


class Held:
    """The database's thread, held in the next transaction until a test lets it go on, or fail with ``error``."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self._go = threading.Event(), threading.Event()
        self._error: Exception | None = None
        self.sizes: list[int] = []
        write = store_module._write

        def held(rows: Sequence[Row], *rest: Any) -> None:
            self.sizes.append(len(rows))
            if len(self.sizes) == 1:
                self.reached.set()
                assert self._go.wait(60)
                if self._error is not None:
                    raise self._error
            write(rows, *rest)

        monkeypatch.setattr(store_module, "_write", held)

    async def is_reached(self) -> None:
        assert await asyncio.to_thread(self.reached.wait, 60)

    def release(self, error: Exception | None = None) -> None:
        self._error = error
        self._go.set()


Appends = list[asyncio.Task[tuple[Record, ...]]]


async def _begun(journal: Journal, monkeypatch: pytest.MonkeyPatch, count: int = 80) -> tuple[Held, Appends]:
    """Appends of one turn: 32 are being written and held there, the others wait."""
    held = Held(monkeypatch)
    appends = [asyncio.create_task(journal.append(intent(number))) for number in range(count)]
    await held.is_reached()
    assert held.sizes == [32]
    return held, appends


async def test_many_groups_begin_before_the_turn_of_the_loop_ends(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their sync overlaps with the rest of that turn. A few wait for company; so does everything when the rule is off."""
    journal = await place.create()
    held = Held(monkeypatch)
    seen: list[bool] = []
    appends = [asyncio.create_task(journal.append(intent(number))) for number in range(40)]
    # Runs in the same turn as the appends, after them; no other turn passes before it is asked.
    asyncio.get_running_loop().call_soon(lambda: seen.append(held.reached.wait(60)))
    await asyncio.sleep(0)
    assert seen == [True]
    held.release()
    await asyncio.gather(*appends)
    assert held.sizes == [32, 8]
    await asyncio.gather(*(journal.append(intent(number)) for number in range(100, 131)))
    assert held.sizes[2:] == [31]
    async with asyncio.timeout(60):  # nothing but what was begun wakes the writer
        await asyncio.gather(*(journal.append(intent(number)) for number in range(150, 182)))
    assert held.sizes[3:] == [32]
    monkeypatch.setattr(writer_module, "_ENOUGH", 1000)
    await asyncio.gather(*(journal.append(intent(number)) for number in range(200, 240)))
    assert held.sizes[4:] == [40]
    await journal.close()


async def test_an_io_error_rejects_what_waits_behind_it_too(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = await place.create()
    size = journal.head.size
    held, appends = await _begun(journal, monkeypatch)
    held.release(sqlite3.OperationalError("disk I/O error"))
    results = await asyncio.gather(*appends, return_exceptions=True)
    assert [type(result) for result in results] == [JournalFailed] * 80
    assert held.sizes == [32], "nothing is written after it"
    assert (journal.state, journal.head.size) == (JournalState.FAILED, size)
    await journal.close()
    report = verify(place.path)
    assert (report.clean, report.records) == (True, size)


async def test_an_io_error_of_a_lookup_rejects_the_transaction_that_is_being_written(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Begun by an append while the writer waited for that lookup: nobody waits for ever, and nothing is acknowledged."""
    journal = await place.create()
    asked, go = asyncio.Event(), asyncio.Event()

    async def broken(self: Store, numbers: object) -> dict[int, bytes]:
        asked.set()
        await go.wait()
        raise Broken("disk I/O error")

    monkeypatch.setattr(Store, "bodies_at", broken)
    question = asyncio.create_task(journal.get(0))
    await asked.wait()
    while journal._writer._begun is not None or journal._writer._wake.is_set():
        await asyncio.sleep(0)
    for _ in range(24):  # the writer has nothing left to do but wait for the lookup
        await asyncio.sleep(0)
    held, appends = await _begun(journal, monkeypatch)
    go.set()
    with pytest.raises(JournalFailed):
        await question
    held.release()
    async with asyncio.timeout(60):
        results = await asyncio.gather(*appends, return_exceptions=True)
    assert [type(result) for result in results] == [JournalFailed] * 80
    await journal.close()


async def test_a_conflict_with_what_is_still_being_written_is_turned_down_alone(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = await place.create()
    held, appends = await _begun(journal, monkeypatch)
    twice = asyncio.create_task(journal.append(intent(5)))
    held.release()
    results = await asyncio.gather(*appends, twice, return_exceptions=True)
    assert [type(result) for result in results] == [tuple] * 80 + [Conflict]
    await journal.close()
    assert verify(place.path).clean


async def test_a_conflict_in_what_is_being_written_is_turned_down_alone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = await place.create()
    await journal.append(intent(5))
    held, appends = await _begun(journal, monkeypatch)
    held.release()
    results = await asyncio.gather(*appends, return_exceptions=True)
    assert [number for number, result in enumerate(results) if not isinstance(result, tuple)] == [5]
    assert isinstance(results[5], Conflict)
    await journal.close()
    assert verify(place.path).clean


async def test_callers_who_leave_take_nothing_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """One of those being written, and one of those that wait."""
    journal = await place.create()
    size = journal.head.size
    held, appends = await _begun(journal, monkeypatch)
    appends[0].cancel()
    appends[79].cancel()
    held.release()
    results = await asyncio.gather(*appends, return_exceptions=True)
    assert [number for number, result in enumerate(results) if not isinstance(result, tuple)] == [0, 79]
    assert journal.head.size == size + 80
    await journal.close()
    assert verify(place.path).clean


@pytest.mark.parametrize("count", [32, 80])
async def test_closing_writes_all_that_was_asked_for_before(place: Place, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    journal = await place.create()
    held, appends = await _begun(journal, monkeypatch, count)
    closing = asyncio.create_task(journal.close())
    await asyncio.sleep(0)
    held.release()
    await closing
    records = [record for (record,) in await asyncio.gather(*appends)]
    assert sorted(record.seq for record in records) == list(range(records[0].seq, records[0].seq + count))
    report = verify(place.path)
    assert (report.clean, report.records) == (True, records[-1].seq + 2), "and Stopped"


def _full(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize("urgent_first", [True, False])
async def test_a_disk_that_gets_full_refuses_all_but_urgent_ones_in_both(
    place: Place, monkeypatch: pytest.MonkeyPatch, urgent_first: bool
) -> None:
    journal = await place.create()
    await journal.append(intent(500))
    revoked = Revoked(intent(500).serial, 1, "superseded", START_MS, "op")
    held = Held(monkeypatch)
    begin = [journal.append(intent(number)) for number in range(40)]
    begin.insert(0 if urgent_first else 40, journal.append(revoked, urgent=True))
    appends = [asyncio.create_task(each) for each in begin]
    await held.is_reached()
    held.release(_full(sqlite3.SQLITE_FULL))
    results = await asyncio.gather(*appends, return_exceptions=True)
    assert isinstance(results.pop(0 if urgent_first else 40), tuple)
    assert [type(result) for result in results] == [JournalFull] * 40
    assert held.sizes == [32, 1]
    assert journal.state is JournalState.FULL
    assert not journal.options.reserve.exists()
    await journal.close()
    assert verify(place.path).clean

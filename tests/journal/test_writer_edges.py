"""A closed journal answers nothing, and a transaction that failed leaves nothing behind."""

from __future__ import annotations

import pytest

from gateway.errors import JournalFailed
from gateway.journal.records import Record, TokenRevoked, encode
from gateway.journal.store import Duplicate, HeadRow, Store
from gateway.journal.tip import row_of
from tests.support.journal import START_MS, Place, issue


async def test_a_closed_journal_does_not_say_that_a_key_is_new(place: Place) -> None:
    """Not even when it could know: "new" would let the caller plan a certificate."""
    journal = await place.create()
    await issue(journal, 1)
    await journal.find_issued(b"the first question", START_MS)
    while journal._writer._learning is not None:
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

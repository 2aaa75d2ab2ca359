"""A closed journal answers nothing, and a transaction that failed leaves nothing behind."""

from __future__ import annotations

import pytest

from gateway.errors import GatewayError, JournalFailed
from gateway.journal.records import Record, TokenRevoked, encode
from gateway.journal.store import HeadRow, Store
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
    store = await Store.open(place.path, create=True)
    record = Record(0, START_MS, TokenRevoked("t", "o"))
    row, head = row_of(record, encode(record)), HeadRow(1, b"", (), "")
    with pytest.raises((GatewayError, Exception)):
        await store.write([row], [("line-a", None)], head)  # type: ignore[list-item]  # the rows are in, the tallies fail
    assert await store.last_seq() == -1
    await store.write([row], [], head)
    assert await store.last_seq() == 0
    await store.close()

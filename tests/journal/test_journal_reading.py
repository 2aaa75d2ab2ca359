"""Reading the journal goes on past a page, and stops at its ends."""

from __future__ import annotations

import pytest

from gateway.journal import journal as module
from gateway.journal.records import Intent, decode
from tests.support.journal import Place, issue


async def test_a_scan_goes_on_past_a_full_page(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PAGE", 2)
    journal = await place.create()
    planned = [(await issue(journal, number))[0].seq for number in range(5)]
    assert [record.seq async for record in journal.scan(Intent)] == planned
    assert [record.seq async for record in journal.scan(Intent, start=planned[1] + 1)] == planned[2:]
    await journal.close()


async def test_what_lies_outside_the_journal_is_not_there(place: Place) -> None:
    journal = await place.create()
    await issue(journal, 1)
    size = journal.head.size
    assert [await journal.get(seq) for seq in (-1, size)] == [None, None]
    assert (await journal.read(0, 0), await journal.read(size, 5)) == ([], [])
    assert [decode(body).seq for body in await journal.read(-3, 2)] == [0, 1]
    await journal.close()

"""Reading all rows of a table, however many: page by page, each page in the transaction of the caller."""

from __future__ import annotations

from collections.abc import AsyncIterator
from operator import attrgetter

from sync.central.row import R
from sync.central.rows import TABLE_OF
from sync.central.store import MOST_ROWS, Transaction, Value


async def every(t: Transaction, row: type[R], **equal: Value) -> AsyncIterator[R]:
    """The rows whose columns have these values, in the order of their keys."""
    columns = TABLE_OF[row].key
    after: tuple[Value, ...] = ()
    while True:
        page = await t.select(row, after=after, limit=MOST_ROWS, **equal)
        for each in page:
            yield each
        if len(page) < MOST_ROWS:
            return
        after = tuple(attrgetter(column)(page[-1]) for column in columns)

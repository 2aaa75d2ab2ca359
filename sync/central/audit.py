"""Whether central still has what it confirmed: every journal's root, computed again from the records as they lie there."""

from __future__ import annotations

from gateway.journal.merkle import Frontier
from gateway.journal.records import leaf_hash
from sync.central.rows import Journal
from sync.central.store import MOST_ROWS, CentralStore


async def root_problems(store: CentralStore) -> list[str]:
    """What is wrong with the records of which journal; empty when all is well. Reads everything, in short transactions."""
    found: list[str] = []
    after: tuple[str, ...] = ()
    while True:
        async with store.transaction() as t:
            journals = await t.select(Journal, after=after)
        for journal in journals:
            if problem := await _problem(store, journal):
                found.append(f"{journal.origin}: {problem}")
        if len(journals) < MOST_ROWS:
            return found
        after = (journals[-1].origin,)


async def _problem(store: CentralStore, journal: Journal) -> str:
    frontier = Frontier()
    while frontier.size < journal.size:
        async with store.transaction() as t:
            records = await t.records(journal, frontier.size, min(MOST_ROWS, journal.size - frontier.size))
        if not records:
            return f"record {frontier.size} is missing"
        for record in records:
            if record.seq != frontier.size:
                return f"record {frontier.size} is missing"
            if leaf_hash(record.body) != record.leaf:
                return f"record {record.seq} is not the one that was confirmed"
            frontier.append(record.leaf)
    if frontier.to_bytes() != journal.frontier:
        return f"its {journal.size} records do not have the root that was confirmed"
    return ""

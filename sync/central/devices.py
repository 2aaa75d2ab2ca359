"""What all gateways know of one device, found by its serial number: the units of lines, and certificates."""

from __future__ import annotations

from sync.central.line_rows import Unit
from sync.central.revocations import words
from sync.central.store import MOST_ROWS, CentralStore, Search
from sync.central.views import JsonObject, certificate_view, unit_view
from sync.conflicts import merged


async def device_views(store: CentralStore, device: str) -> tuple[list[JsonObject], list[JsonObject]]:
    """Its units, oldest first, and its certificates, newest first; both empty for a device that nobody knows."""
    async with store.transaction() as t:
        units = sorted(await t.select(Unit, device=device), key=lambda each: each.begun)
        page = await t.search(Search(device=device), limit=MOST_ROWS)
        certificates = [certificate_view(row, merged(*await words(t, row))) for row in page.certificates]
    return [unit_view(each) for each in units], certificates

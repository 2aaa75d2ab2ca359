"""The shift report: what each station did under each order in a span of time, and whether each order's account adds up.

Counted are the journal's own records, so the report says what was done and not what somebody remembers. What is open or overdue
is so at the time of the question.
"""

from __future__ import annotations

import asyncio
import csv
import io
from collections import defaultdict
from dataclasses import asdict, dataclass, fields
from typing import Final

from gateway.errors import Busy, MalformedRequest
from gateway.journal.canonical import JsonValue
from gateway.journal.journal import Journal
from gateway.journal.line_records import UnitEnded, UnitMoved, UnitReserved
from gateway.journal.records import Record
from gateway.web.routes import Call, Reply
from provisioning.api.visit import Visit
from provisioning.station import State
from provisioning.units import Units

CSV_TYPE: Final = "text/csv; charset=utf-8"
#: Records counted for one report, so that no question costs more than some seconds.
MOST_RECORDS: Final = 250_000
#: A unit is in the account a moment after its record is in the journal; what is still wrong after so many looks is wrong.
_LOOKS, _PAUSE_S = 20, 0.05
_reporting = asyncio.Semaphore(1)


@dataclass(slots=True)
class Tally:
    """What one station did under one order; ``faults`` are units put into quarantine."""

    begun: int = 0
    issued: int = 0
    confirmed: int = 0
    scrapped: int = 0
    reworked: int = 0
    released: int = 0
    open: int = 0
    overdue: int = 0
    faults: int = 0
    label_prints: int = 0


_COUNTED_AS: Final = {
    State.ISSUED: "issued", State.CONFIRMED: "confirmed", State.SCRAPPED: "scrapped", State.REWORKED: "reworked",
    State.RELEASED: "released", State.QUARANTINE: "faults", State.LABELLED: "label_prints",
}  # fmt: skip
_COLUMNS: Final = ("order", "station", *(item.name for item in fields(Tally)), "balance")


async def report(visit: Visit, call: Call) -> Reply:
    since, until, form = call.number("since", 0), call.number("until", 0), call.text("format") or "json"
    if form not in ("json", "csv"):
        raise MalformedRequest("format must be json or csv")
    if _reporting.locked():
        raise Busy("another shift report is being made", retry_after=5)
    async with _reporting:
        tallies, counted_to, is_complete = await _counted(visit, since, until)
        _count_open(visit, tallies)
        orders = sorted(order.id for order in visit.shop.units.orders.all if visit.may_see(order.id))
        faults = {order: await faults_of(visit.shop.units, order) for order in orders}
    if form == "csv":
        return Reply(_as_csv(tallies, faults), media=CSV_TYPE)
    rows: list[JsonValue] = [{"order": order, "station": by, **asdict(tallies[order, by])} for order, by in sorted(tallies)]
    accounts: list[JsonValue] = [
        {"order": order, "balanced": not found, "faults": list(found)} for order, found in faults.items()
    ]
    return Reply({"since": since, "until": counted_to, "complete": is_complete, "rows": rows, "orders": accounts})


async def _counted(visit: Visit, since: int, until: int) -> tuple[dict[tuple[str, str], Tally], int, bool]:
    """(what was done, up to when it is counted, whether that is all there is)."""
    authority, tallies = visit.shop.authority, defaultdict[tuple[str, str], Tally](Tally)
    start, counted = await _first_since(authority.journal, since), 0
    counted_to = until or authority.clock.now_ms()
    async for record in authority.journal.scan(UnitReserved, UnitMoved, UnitEnded, start=start):
        if record.time > counted_to:
            break
        if counted == MOST_RECORDS:
            return tallies, record.time, False
        counted += 1
        _count(tallies, record, visit)
    return tallies, counted_to, True


def _count(tallies: dict[tuple[str, str], Tally], record: Record, visit: Visit) -> None:
    payload = record.payload
    match payload:
        case UnitReserved():
            name, by = "begun", payload.station
        case UnitMoved() | UnitEnded() if (counted_as := _COUNTED_AS.get(State(payload.state))) is not None:
            name, by = counted_as, payload.by
        case _:
            return
    if visit.may_see(payload.order):
        tally = tallies[payload.order, by]
        setattr(tally, name, getattr(tally, name) + 1)


def _count_open(visit: Visit, tallies: dict[tuple[str, str], Tally]) -> None:
    units = visit.shop.units
    overdue = {unit.id for unit in units.unconfirmed_too_long()}
    for unit in units.open.values():
        if visit.may_see(unit.order):
            tally = tallies[unit.order, unit.station]
            tally.open += 1
            tally.overdue += unit.id in overdue


async def faults_of(units: Units, order: str) -> list[str]:
    """What does not add up in the order's account, and stays so."""
    for _ in range(_LOOKS):
        found = units.balance(order).faults()
        if not found:
            break
        await asyncio.sleep(_PAUSE_S)
    return found


async def _first_since(journal: Journal, since_ms: int) -> int:
    """The first record that is not older: found by halving, because records are in the order of time. Pruned ones are old."""
    low, high = 0, journal.head.size
    while low < high:
        middle = (low + high) // 2
        record = await journal.get(middle)
        if record is None or record.time < since_ms:
            low = middle + 1
        else:
            high = middle
    return low


def _as_csv(tallies: dict[tuple[str, str], Tally], faults: dict[str, list[str]]) -> bytes:
    """RFC 4180. Station names begin with what kind they are, so no field is a formula to a spreadsheet."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for order, by in sorted(tallies):
        row = asdict(tallies[order, by])
        writer.writerow([order, by, *row.values(), "; ".join(faults.get(order, [])) or "ok"])
    return text.getvalue().encode()

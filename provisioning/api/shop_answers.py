"""What a station asks beside its units: lists of units, orders, ports, events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from gateway.errors import Forbidden, IntegrityError, MalformedRequest
from gateway.journal.canonical import JsonValue
from gateway.journal.line_records import UnitEnded
from gateway.web.routes import Call, Reply
from provisioning.api.feed import last_event
from provisioning.api.visit import Visit, page
from provisioning.orders import WorkOrder
from provisioning.station import ENDS, State
from provisioning.views import JsonObject, order_json, port_json

EVENTS_TYPE: Final = "text/event-stream"
_USUAL_PAGE, _MOST_PAGE = 100, 500
#: Records looked at for one page of units that are over; a page may be short, and even empty, and yet not be the last.
_MOST_LOOKED_AT: Final = 5_000
_MOST_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class Stream(Reply):
    """An answer that goes on until the client leaves."""

    pieces: AsyncIterator[bytes] | None = None


async def list_units(visit: Visit, call: Call) -> Reply:
    """The open ones, or those that came to a given end."""
    order, state = call.text("order"), call.text("state")
    if state and state not in {each.value for each in State}:
        raise MalformedRequest(f"{state[:40]!r} is no state; there are {', '.join(each.value for each in State)}")
    if order:
        visit.order(order)
    limit = call.number("limit", _USUAL_PAGE)
    if not 1 <= limit <= _MOST_PAGE:
        raise MalformedRequest(f"limit must be 1 to {_MOST_PAGE}")
    if state and State(state) in ENDS:
        return await _list_over(visit, order, state, call.text("cursor"), limit)
    cursor, following = call.text("cursor"), ""
    items: list[JsonObject] = []
    for name in sorted(visit.shop.units.open):
        unit = visit.shop.units.open[name]
        if name <= cursor or (order and unit.order != order) or (state and unit.state.value != state):
            continue
        if not visit.may_see(unit.order):
            continue
        if len(items) == limit:
            following = str(items[-1]["unit"])
            break
        items.append(visit.shown(unit))
    return page(list(items), following)


async def _list_over(visit: Visit, order: str, state: str, cursor: str, limit: int) -> Reply:
    """From the records that ended units, which are kept for ever."""
    if cursor and not (cursor.isascii() and cursor.isdigit() and len(cursor) <= _MOST_DIGITS):
        raise MalformedRequest("cursor must be the next of the page before")
    start = int(cursor or 0)
    items: list[JsonValue] = []
    looked_at = 0
    async for record in visit.shop.authority.journal.scan(UnitEnded, start=start):
        if looked_at == _MOST_LOOKED_AT or len(items) == limit:
            return page(items, str(record.seq))
        looked_at += 1
        ended = record.payload
        if not isinstance(ended, UnitEnded) or ended.state != state or order not in ("", ended.order):
            continue
        if visit.may_see(ended.order):
            items.append(_over(ended, record.seq, record.time))
    return page(items, "")


def _over(ended: UnitEnded, seq: int, at_ms: int) -> JsonObject:
    return {
        "unit": ended.unit, "order": ended.order, "serial": ended.unit.split("/")[1], "state": ended.state,
        "detail": ended.reason, "by": ended.by, "seq": seq, "moved": at_ms,
    }  # fmt: skip


async def list_orders(visit: Visit, call: Call) -> Reply:
    orders = [order for order in visit.shop.units.orders.all if not visit.station.objection(order)]
    return page([_order(visit, order) for order in orders], "")


async def show_order(visit: Visit, call: Call) -> Reply:
    return Reply(_order(visit, visit.order(call.path["order"])))


def _order(visit: Visit, order: WorkOrder) -> JsonObject:
    """With what a station must know to work under it."""
    shop = visit.shop
    return {
        **order_json(order, shop.units.orders, shop.units), "stations": list(order.stations), "recipe": order.recipe,
        "key_type": order.key_type, "key_origin": order.key_origin.value, "lock": order.lock, "label": order.label,
        "ticket": order.ticket, "proof": order.proof, "confirm_hours": order.confirm_hours, "overdue": order.overdue,
    }  # fmt: skip


async def import_order(visit: Visit, call: Call) -> Reply:
    """A signed order is its own authorisation: any station may carry it here, and the records say which one did."""
    shop = visit.shop
    try:
        order = await shop.units.orders.accept(call.content, "file", visit.station.name)
    except IntegrityError as error:
        raise Forbidden(str(error)) from error
    shop.on_order()
    return Reply(_order(visit, order))


async def list_ports(visit: Visit, call: Call) -> Reply:
    ports = visit.shop.line.ports if visit.shop.line is not None else ()
    return page([port_json(view) for view in ports], "")


async def events(visit: Visit, call: Call) -> Reply:
    last = last_event(call.head.get("Last-Event-ID", ""))
    return Stream(None, media=EVENTS_TYPE, pieces=visit.shop.feed.follow(visit.may_see, last))

"""Work orders for production lines, as operators define, see, close and carry them.

An order is a JSON object: ``quantity`` (units in all), ``credit`` (what one gateway may begin at first; by default it all),
``credit_after_receipt`` (whether it then gets more by itself as its records come back), and what else a
:class:`provisioning.orders.WorkOrder` has. It is for one gateway or for a group, whose gateways share the quantity.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TypeAlias

from gateway.clock import Clock
from gateway.errors import Conflict, MalformedRequest, NotFound
from gateway.journal.canonical import JsonValue
from gateway.journal.statements import to_json
from provisioning.orders import MOST_CREDIT, MOST_OCTETS
from sync.central.desired_state import DesiredStates
from sync.central.grants import FILLED_IN, credit_tally, order_for, used_of
from sync.central.line_rows import Grant, Unit, WorkOrder
from sync.central.listing import every
from sync.central.rows import Journal, Tally
from sync.central.store import CentralStore, Transaction

JsonObject: TypeAlias = dict[str, JsonValue]
#: For the signature, and for an origin of any length.
_LONGEST_ORIGIN, _SIGNED_OCTETS = "o" * 255, 1024
#: What became of units, as the gateway's tallies count it.
STATES = ("issued", "confirmed", "scrapped")


class WorkOrders:
    """Raises NotFound, Conflict, MalformedRequest with a sentence for the operator."""

    def __init__(self, store: CentralStore, desired: DesiredStates, clock: Clock) -> None:
        self._store, self._desired, self._clock = store, desired, clock

    async def define(
        self, scope: str, body: Mapping[str, JsonValue], by: str, *, before: Callable[[str], None] = lambda _text: None
    ) -> JsonObject:
        """Make an order, or change it. ``before`` gets its JSON as it stood, "" for none, and may raise."""
        now_ms = self._clock.now_ms()
        identifier, quantity, step, after_receipt = _read(body, shared=scope.startswith("group:"))
        # All of it, so that nothing which is granted later is something that a gateway refuses.
        octets = len(order_for(body, _LONGEST_ORIGIN, MOST_CREDIT, quantity).to_bytes())
        if octets > MOST_OCTETS - _SIGNED_OCTETS:
            raise MalformedRequest(f"an order has at most {MOST_OCTETS >> 20} MiB")
        text = to_json(dict(body)).decode()
        async with self._store.transaction() as t:
            await _check_scope(t, scope)
            stood = await t.find(WorkOrder, identifier, lock=True)
            before(stood.body if stood is not None else "")
            if stood is not None and stood.closed:
                raise Conflict(f"order {identifier} was closed: {stood.closed}")
            if stood is not None and stood.scope != scope:
                raise Conflict(f"order {identifier} is for {stood.scope}; another one needs another id")
            order = WorkOrder(
                identifier, scope, text, quantity, step, int(after_receipt), stood.revision + 1 if stood else 1, by,
                stood.made if stood else now_ms, now_ms,
            )  # fmt: skip
            await t.put(order)
        await self._desired.refresh_all()
        return await self.order(identifier)

    async def close(self, identifier: str, reason: str) -> JsonObject:
        """No gateway gets it any more."""
        async with self._store.transaction() as t:
            order = await t.find(WorkOrder, identifier, lock=True)
            if order is None:
                raise NotFound(f"there is no order {identifier[:80]!r}")
            if not order.closed:
                await t.change(
                    WorkOrder, identifier, closed=reason or "closed", revision=order.revision + 1, changed=self._clock.now_ms()
                )
        await self._desired.refresh_all()
        return await self.order(identifier)

    async def orders(self) -> list[JsonObject]:
        async with self._store.transaction() as t:
            return [await _view(t, order) async for order in every(t, WorkOrder)]

    async def order(self, identifier: str) -> JsonObject:
        """With its body, and what became of it at each gateway."""
        async with self._store.transaction() as t:
            order = await t.find(WorkOrder, identifier)
            if order is None:
                raise NotFound(f"there is no order {identifier[:80]!r}")
            return {**await _view(t, order), "body": json.loads(order.body)}

    async def export(self, identifier: str, origin: str) -> bytes:
        """The signed statement for one gateway, as a file to be carried."""
        async with self._store.transaction() as t:
            if await t.find(WorkOrder, identifier) is None:
                raise NotFound(f"there is no order {identifier[:80]!r}")
            grant = await t.find(Grant, identifier, origin)
        if grant is None or not grant.content:
            raise NotFound(f"order {identifier} grants {origin[:80]!r} nothing")
        return grant.content


def _read(body: Mapping[str, JsonValue], *, shared: bool) -> tuple[str, int, int, bool]:
    for name in FILLED_IN:
        if name in body:
            raise MalformedRequest(f"{name} is written by central; leave it out")
    quantity = _count(body, "quantity")
    if shared and "credit" not in body:
        raise MalformedRequest("gateways of a group share the quantity: say with credit how much each gets at first")
    if shared and body.get("numbers") is not None:
        raise MalformedRequest("gateways of a group would give out the same numbers: make an order with its own range for each")
    step = _count(body, "credit") if "credit" in body else quantity
    if step > quantity:
        raise MalformedRequest(f"credit is {step}, more than the quantity of {quantity}")
    after_receipt = body.get("credit_after_receipt", False)
    if not isinstance(after_receipt, bool):
        raise MalformedRequest("credit_after_receipt is true or false")
    return str(body.get("id", "")), quantity, step, after_receipt


def _count(body: Mapping[str, JsonValue], name: str) -> int:
    value = body.get(name)
    if type(value) is not int or not 0 < value <= MOST_CREDIT:
        raise MalformedRequest(f"{name} is a whole number from 1 to {MOST_CREDIT}")
    return value


async def _check_scope(t: Transaction, scope: str) -> None:
    kind, _, name = scope.partition(":")
    if kind not in ("group", "gateway") or not name:
        raise NotFound(f"an order is for group:NAME or gateway:ORIGIN, not for {scope[:80]!r}")
    if kind == "gateway" and await t.find(Journal, name) is None:
        raise NotFound(f"there is no gateway {name[:80]!r}")


async def _view(t: Transaction, order: WorkOrder) -> JsonObject:
    gateways: list[JsonObject] = [await _share(t, grant) async for grant in every(t, Grant, order=order.id)]
    totals: JsonObject = {
        name: sum(value for each in gateways if isinstance(value := each[name], int))
        for name in ("credit", "used", *STATES, "open")
    }
    return {
        "id": order.id, "scope": order.scope, "quantity": order.quantity, "credit": order.step,
        "credit_after_receipt": bool(order.after_receipt), "revision": order.revision, "by": order.by, "made": order.made,
        "changed": order.changed, "closed": order.closed, "granted": totals.pop("credit"), **totals, "gateways": [*gateways],
    }  # fmt: skip


async def _share(t: Transaction, grant: Grant) -> JsonObject:
    found: JsonObject = {
        "origin": grant.origin, "version": grant.version, "accepted": grant.accepted, "credit": grant.credit,
        "over": grant.over, "used": await used_of(t, grant.order, grant.origin),
    }  # fmt: skip
    for state in STATES:
        tally = await t.find(Tally, grant.origin, f"{credit_tally(grant.order)}/{state}")
        found[state] = tally.used if tally is not None else 0
    found["open"] = await t.count(Unit, order=grant.order, origin=grant.origin, over=0)
    return found

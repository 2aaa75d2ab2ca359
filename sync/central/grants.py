"""Work orders as gateways get them: each one signed by itself, so that the same bytes also work as a file carried by hand.

What an operator defined (:class:`sync.central.rows.WorkOrder`) becomes one statement ``work-order`` for each gateway of its
scope: the operator's JSON with the gateway's origin, the credit that it has there, and a version that rises with every change.
How much credit, :mod:`sync.central.credit` says. The caller holds the journal's lock; the order's row is locked here, so two
gateways never get the same credit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from gateway.errors import MalformedRequest
from gateway.journal.canonical import JsonValue
from gateway.journal.statements import from_json, to_json
from provisioning.orders import WorkOrder as WorkOrderBody
from sync.central.credit import Terms, credit, held
from sync.central.line_rows import Grant, WorkOrder
from sync.central.listing import every
from sync.central.rows import Journal, Tally
from sync.central.store import Transaction

#: What central writes into a body, and the operator does not.
FILLED_IN: Final = ("origin", "version")
#: ``expires`` of an order that was closed: long ago, whatever a gateway's clock says.
ENDED: Final = 1
#: What an operator says to central alone.
FOR_CENTRAL: Final = ("quantity",)


def credit_tally(order: str) -> str:
    """The gateway's tally of units that were begun under an order (its records ``unit-reserved``)."""
    return f"order:{order}"


def scopes_of(journal: Journal) -> tuple[str, ...]:
    own = f"gateway:{journal.origin}"
    return (own, f"group:{journal.group}") if journal.group else (own,)


def terms_of(order: WorkOrder) -> Terms:
    return Terms(order.quantity, order.step, bool(order.after_receipt))


async def used_of(t: Transaction, order: str, origin: str) -> int:
    """How much of its credit a gateway's records say that it used."""
    tally = await t.find(Tally, origin, credit_tally(order))
    return tally.used if tally is not None else 0


async def _orders_of(t: Transaction, journal: Journal) -> list[str]:
    """Ids of the orders that ``journal`` should work on, or has to hear the end of, in one order for all."""
    found = {order.id for scope in scopes_of(journal) async for order in every(t, WorkOrder, scope=scope, closed="")}
    async for grant in every(t, Grant, origin=journal.origin):
        if not grant.over:
            found.add(grant.order)
    return sorted(found)


async def statements(t: Transaction, journal: Journal, sign: Callable[[bytes], bytes], now_ms: int) -> list[JsonValue]:
    """The gateway's work orders as texts; what is new in them is stored."""
    found: list[JsonValue] = []
    for identifier in await _orders_of(t, journal):
        order = await t.find(WorkOrder, identifier, lock=True)
        if order is None or (not order.closed and order.scope not in scopes_of(journal)):
            continue
        if (made := await _granted(t, order, journal.origin, sign, now_ms)) is not None:
            found.append(made.content.decode())
    return found


async def _granted(t: Transaction, order: WorkOrder, origin: str, sign: Callable[[bytes], bytes], now_ms: int) -> Grant | None:
    """The gateway's copy; ``None`` while others hold all of the quantity, and for the end of an order that it never had."""
    before = await t.find(Grant, order.id, origin, lock=True)
    if order.closed and before is None:
        return None
    elsewhere = 0
    async for other in every(t, Grant, order=order.id):
        if other.origin != origin:
            used = await used_of(t, order.id, other.origin) if other.over else 0
            elsewhere += held(other.credit, used, over=bool(other.over))
    granted = credit(
        terms_of(order), granted=before.credit if before else 0, used=await used_of(t, order.id, origin), elsewhere=elsewhere
    )
    if granted <= 0:
        return None
    last = max(before.version, before.accepted) if before else 0
    wanted = order_for(json.loads(order.body), origin, max(last, 1), granted)
    if order.closed:
        wanted = replace(wanted, expires=ENDED, credit=before.credit if before else granted)
    if before is not None and before.content and before.version == last and body_of(before.content) == wanted:
        return before
    # A version above any that the gateway has, also one of a central that was restored since.
    content = sign(replace(wanted, version=last + 1).to_bytes())
    made = Grant(order.id, origin, last + 1, granted, content, now_ms)
    made = replace(made, accepted=before.accepted, over=before.over) if before else made
    await t.put(made)
    return made


def body_of(content: bytes) -> WorkOrderBody:
    """What stands in a statement that this central signed."""
    return WorkOrderBody.from_bytes(content.partition(b"\n\n")[2])


def order_for(given: Mapping[str, JsonValue], origin: str, version: int, credit: int) -> WorkOrderBody:
    """The operator's JSON as the gateway ``origin`` is to read it; what is left out has its default.

    Raises MalformedRequest naming the key.
    """
    for name in ("id", "product", "profile"):
        if not given.get(name):
            raise MalformedRequest(f"an order needs {name}")
    body = {name: value for name, value in given.items() if name not in FOR_CENTRAL}
    return WorkOrderBody.from_bytes(to_json({**_DEFAULTS, **body, "origin": origin, "version": version, "credit": credit}))


_DEFAULTS = from_json(WorkOrderBody("", 1, "", "", "", 0, 0).to_bytes())


async def looks(t: Transaction) -> dict[str, bytes]:
    """For each scope a digest of everything that its work orders' statements are made of."""
    found: dict[str, bytes] = {}
    async for order in every(t, WorkOrder):
        digest = hashlib.sha256(found.get(order.scope, b"") + f"{order.id} {order.revision} {bool(order.closed)}".encode())
        async for grant in every(t, Grant, order=order.id):
            used = await used_of(t, order.id, grant.origin) if order.after_receipt or grant.over else 0
            digest.update(f"{grant.origin} {grant.accepted} {grant.over} {used}\n".encode())
        found[order.scope] = digest.digest()
    return found

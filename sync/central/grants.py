"""Work orders as gateways get them: each one signed by itself, so that the same bytes also work as a file carried by hand.

What an operator defined (:class:`sync.central.rows.WorkOrder`) becomes one statement ``work-order`` for each gateway of its
scope: the operator's JSON with the gateway's origin, the credit that it has there, and a version that rises with every change.
How much credit, :mod:`sync.central.credit` says. The caller holds the journal's lock; the order's row is locked here, so two
gateways never get the same credit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Final

from gateway.journal.canonical import JsonValue
from gateway.journal.statements import from_json, to_json
from sync.central.credit import Terms, credit, held
from sync.central.line_rows import Grant, WorkOrder
from sync.central.listing import every
from sync.central.rows import Journal, Tally
from sync.central.store import Transaction

#: Kind of the signed statement.
WORK_ORDER: Final = "work-order"
#: What central writes into a body, and the operator does not.
FILLED_IN: Final = ("origin", "version")
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


async def open_orders(t: Transaction, journal: Journal) -> AsyncIterator[WorkOrder]:
    """Those that ``journal`` should work on, by id."""
    found = [order for scope in scopes_of(journal) async for order in every(t, WorkOrder, scope=scope, closed="")]
    for order in sorted(found, key=lambda each: each.id):
        yield order


async def statements(t: Transaction, journal: Journal, sign: Callable[[bytes], bytes], now_ms: int) -> list[JsonValue]:
    """The gateway's work orders as texts; what is new in them is stored."""
    found: list[JsonValue] = []
    async for each in open_orders(t, journal):
        order = await t.find(WorkOrder, each.id, lock=True)
        if order is not None and (made := await _granted(t, order, journal.origin, sign, now_ms)) is not None:
            found.append(made.content.decode())
    return found


async def _granted(t: Transaction, order: WorkOrder, origin: str, sign: Callable[[bytes], bytes], now_ms: int) -> Grant | None:
    """The gateway's copy; ``None`` while others hold all of the quantity."""
    before = await t.find(Grant, order.id, origin, lock=True)
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
    body = {name: value for name, value in json.loads(order.body).items() if name not in FOR_CENTRAL}
    body |= {"origin": origin, "credit": granted}
    last = max(before.version, before.accepted) if before else 0
    if before is not None and before.content and before.version == last and _without_version(before.content) == body:
        return before
    # A version above any that the gateway has, also one of a central that was restored since.
    content = sign(to_json({**body, "version": last + 1}))
    made = Grant(order.id, origin, last + 1, granted, content, now_ms)
    made = replace(made, accepted=before.accepted, over=before.over) if before else made
    await t.put(made)
    return made


def _without_version(content: bytes) -> dict[str, JsonValue]:
    body = body_of(content)
    return {name: value for name, value in body.items() if name != "version"}


def body_of(content: bytes) -> dict[str, JsonValue]:
    """What stands in a statement that this central signed."""
    return from_json(content.partition(b"\n\n")[2])


async def looks(t: Transaction) -> dict[str, bytes]:
    """For each scope a digest of everything that its work orders' statements are made of."""
    found: dict[str, bytes] = {}
    async for order in every(t, WorkOrder):
        digest = hashlib.sha256(found.get(order.scope, b"") + f"{order.id} {order.revision} {bool(order.closed)}".encode())
        async for grant in every(t, Grant, order=order.id if not order.closed else ""):
            used = await used_of(t, order.id, grant.origin) if order.after_receipt or grant.over else 0
            digest.update(f"{grant.origin} {grant.accepted} {grant.over} {used}\n".encode())
        found[order.scope] = digest.digest()
    return found

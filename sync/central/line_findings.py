"""What a person must hear of from the records of a production line, and what work orders learn from them.

Part of the transaction that projects the records, and the same when it happens twice, as :mod:`sync.central.findings`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from gateway.journal.line_records import OrderAccepted, OrderClosed
from gateway.journal.records import Record
from sync.central import alarms
from sync.central.alarms import close_alert, open_alert
from sync.central.grants import ENDED, body_of, credit_tally, used_of
from sync.central.line_rows import Grant, Unit
from sync.central.projection import Projection
from sync.central.rows import Alert
from sync.central.store import Transaction
from sync.central.units import is_made


async def look(t: Transaction, origin: str, records: Sequence[Record], done: Projection, now_ms: int) -> None:
    """After the rows of ``done`` are written."""
    for record in records:
        match record.payload:
            case OrderAccepted() as accepted:
                await _accept(t, origin, record, accepted, now_ms)
            case OrderClosed() as closed:
                await t.change(Grant, closed.order, origin, over=record.time)
    await _compare_devices(t, origin, [unit for unit in done.units.values() if is_made(unit)], now_ms)
    await _look_at_credit(t, origin, {unit.order for unit in done.units.values()}, now_ms)


async def _accept(t: Transaction, origin: str, record: Record, accepted: OrderAccepted, now_ms: int) -> None:
    """The gateway works by this version. A central that was restored learns here what it had granted.

    A version that ends the order frees what was not used: all units that were begun before stand in records before this one.
    """
    await t.add(Grant(accepted.order, origin, accepted.version, accepted.credit, b"", now_ms))
    grant = await t.find(Grant, accepted.order, origin, lock=True)
    if grant is not None and grant.accepted < accepted.version:
        credit = max(grant.credit, accepted.credit)
        ended = accepted.version == grant.version and grant.content and body_of(grant.content).expires == ENDED
        over = record.time if ended else grant.over
        await t.change(Grant, accepted.order, origin, accepted=accepted.version, credit=credit, over=over)


# The same device at two gateways.


async def _compare_devices(t: Transaction, origin: str, made: Sequence[Unit], now_ms: int) -> None:
    if not made:
        return
    rivals = {
        row.device: row
        for row in await t.select_in(Unit, "device", sorted({unit.device for unit in made}))
        if row.origin != origin and is_made(row)
    }
    for unit in made:
        rival = rivals.get(unit.device)
        if rival is not None:
            text = (
                f"two gateways made device {unit.device}: unit {rival.unit} of order {rival.order} at {rival.origin}, "
                f"unit {unit.unit} of order {unit.order}"
            )
            await open_alert(t, Alert(alarms.DUPLICATE_DEVICE, origin, unit.device, text, now_ms))


# More units than credit.


async def _look_at_credit(t: Transaction, origin: str, orders: Iterable[str], now_ms: int) -> None:
    for order in sorted(orders):
        grant = await t.find(Grant, order, origin)
        if grant is None:
            continue
        used = await used_of(t, order, origin)
        if used > grant.credit:
            text = f"{used} units were begun under order {order}, {grant.credit} were granted ({credit_tally(order)})"
            await open_alert(t, Alert(alarms.OVERDRAWN, origin, order, text, now_ms))
        else:
            await close_alert(t, alarms.OVERDRAWN, origin, now_ms, order)

"""Units, orders and ports as JSON, the same for everybody who is shown them. Times in ms UTC."""

from __future__ import annotations

from gateway.journal.canonical import JsonValue
from provisioning.line import PortView
from provisioning.order_book import OrderBook
from provisioning.orders import WorkOrder
from provisioning.station import Unit
from provisioning.units import Units

JsonObject = dict[str, JsonValue]


def unit_json(unit: Unit) -> JsonObject:
    return {
        "unit": unit.id, "order": unit.order, "serial": unit.serial, "chip": unit.chip, "state": unit.state.value,
        "detail": unit.detail, "certificate": unit.certificate, "station": unit.station, "port": unit.port,
        "began": unit.began_ms, "moved": unit.moved_ms, "attempt": unit.attempt, "prints": unit.prints, "seq": unit.seq,
        "times": [{"state": state.value, "at": at_ms} for state, at_ms in unit.times],
    }  # fmt: skip


def port_json(view: PortView) -> JsonObject:
    return {
        "port": view.port, "state": view.state.value, "sentence": view.sentence, "hint": view.hint, "unit": view.unit,
        "serial": view.serial, "order": view.order, "step": view.step, "since": view.since_ms, "made": view.made,
        "faults": view.faults,
    }  # fmt: skip


def order_json(order: WorkOrder, orders: OrderBook, units: Units) -> JsonObject:
    """With its balance; ``faults`` says what does not add up."""
    balance = units.balance(order.id)
    return {
        "id": order.id, "version": order.version, "product": order.product, "profile": order.profile,
        "driver": order.driver, "expires": order.expires, "closed": orders.is_closed(order.id),
        "credit": balance.credit, "begun": balance.begun, "issued": balance.issued, "confirmed": balance.confirmed,
        "scrapped": balance.scrapped, "reworked": balance.reworked, "released": balance.released,
        "open": balance.open_with + balance.open_without, "faults": list(balance.faults()),
    }  # fmt: skip

"""What operators ask for about the production line, on the control socket: work orders, ports, units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from gateway.journal.canonical import JsonValue
from gateway.web.unix_rest import Answer, JsonObject, text_in


class LineOperations(Protocol):
    """What is needed of the line."""

    async def import_order(self, document: str, operator: str) -> JsonObject:
        """A signed work order, in base64."""

    async def close_order(self, order: str, operator: str, reason: str) -> JsonObject: ...

    def list_orders(self) -> list[JsonValue]: ...

    def list_ports(self) -> list[JsonValue]: ...

    def assign(self, port: str, order: str) -> None:
        """From the next device on the port works under this order; empty: under the one that fits."""

    def list_units(self) -> list[JsonValue]:
        """The open ones."""

    async def show_unit(self, name: str) -> JsonObject:
        """By name or serial number of the product."""

    async def end_unit(self, name: str, how: str, operator: str, reason: str) -> JsonObject:
        """``how``: scrap, rework or release."""

    async def unit_papers(self, name: str) -> str:
        """Its signed records, as JSON."""

    def scanned(self, code: str) -> JsonObject: ...


def line_answers(line: LineOperations) -> tuple[tuple[str, str, Answer], ...]:
    """Method, path and answer of each request."""

    async def orders(_body: JsonObject, _operator: str, _path: Mapping[str, str]) -> JsonObject:
        return {"orders": line.list_orders()}

    async def import_order(body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        return await line.import_order(text_in(body, "document"), operator)

    async def close_order(body: JsonObject, operator: str, path: Mapping[str, str]) -> JsonObject:
        return await line.close_order(path["order"], operator, text_in(body, "reason"))

    async def ports(_body: JsonObject, _operator: str, _path: Mapping[str, str]) -> JsonObject:
        return {"ports": line.list_ports()}

    async def assign(body: JsonObject, _operator: str, path: Mapping[str, str]) -> JsonObject:
        line.assign(path["port"], text_in(body, "order"))
        return {"port": path["port"], "order": text_in(body, "order")}

    async def units(_body: JsonObject, _operator: str, _path: Mapping[str, str]) -> JsonObject:
        return {"units": line.list_units()}

    async def unit(body: JsonObject, _operator: str, _path: Mapping[str, str]) -> JsonObject:
        return await line.show_unit(text_in(body, "unit"))

    async def end(body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        return await line.end_unit(text_in(body, "unit"), text_in(body, "how"), f"operator:{operator}", text_in(body, "reason"))

    async def papers(body: JsonObject, _operator: str, _path: Mapping[str, str]) -> JsonObject:
        return {"papers": await line.unit_papers(text_in(body, "unit"))}

    async def scanned(body: JsonObject, _operator: str, _path: Mapping[str, str]) -> JsonObject:
        return line.scanned(text_in(body, "code"))

    return (
        ("GET", "/line/orders", orders),
        ("POST", "/line/orders", import_order),
        ("POST", "/line/orders/{order}/close", close_order),
        ("GET", "/line/ports", ports),
        ("POST", "/line/ports/{port}/order", assign),
        ("GET", "/line/units", units),
        # A unit's name has slashes, and a serial number may have any sign: they come in the body.
        ("POST", "/line/units/find", unit),
        ("POST", "/line/units/end", end),
        ("POST", "/line/units/papers", papers),
        ("POST", "/line/scans", scanned),
    )

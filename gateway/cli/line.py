"""``order`` (sign, import, list, close), ``line`` (ports, assign, scan), ``unit`` (list, show, papers, and its ends)."""

from __future__ import annotations

import base64
from pathlib import Path

from gateway import app
from gateway.cli.ceremony import date
from gateway.cli.context import Context, ExitCode, JsonObject
from gateway.cli.control_client import control
from gateway.endpoints_file import write_whole
from gateway.errors import OperatorError
from gateway.journal.canonical import JsonValue


async def sign_order(context: Context) -> int:
    order, key, output = _read(context.path("order")), _read(context.path("key")), context.path("output")
    document, vkey = app.sign_order(order.decode(errors="replace"), key, context.text("origin"), context.text("name"))
    write_whole(output, document)
    context.show({"output": str(output), "order_key": vkey}, f'{output} is signed\nline.order_keys = ["{vkey}"]')
    return ExitCode.OK


async def import_order(context: Context) -> int:
    document = base64.b64encode(_read(context.path("file"))).decode()
    async with control(context) as gateway:
        order = await gateway.post("/line/orders", {"document": document})
    context.show(order, _order_line(order))
    return ExitCode.OK


async def list_orders(context: Context) -> int:
    async with control(context) as gateway:
        answer = await gateway.get("/line/orders")
    context.show(answer, "\n".join(map(_order_line, _objects(answer["orders"]))) or "there are no work orders")
    return ExitCode.OK


async def close_order(context: Context) -> int:
    async with control(context) as gateway:
        order = await gateway.post(f"/line/orders/{context.text('order')}/close", {"reason": context.text("reason")})
    context.show(order, f"order {order['id']} is closed")
    return ExitCode.OK


async def ports(context: Context) -> int:
    async with control(context) as gateway:
        answer = await gateway.get("/line/ports")
    lines = [
        f"{each['port']:12} {each['state']:8} {each['sentence']} {each['hint']}".rstrip() for each in _objects(answer["ports"])
    ]
    context.show(answer, "\n".join(lines) or "there are no ports: [line.port.NAME] in the configuration makes one")
    return ExitCode.OK


async def assign(context: Context) -> int:
    async with control(context) as gateway:
        answer = await gateway.post(f"/line/ports/{context.text('port')}/order", {"order": context.text("order")})
    words = f"works under order {answer['order']}" if answer["order"] else "chooses the order that fits"
    context.show(answer, f"port {answer['port']} {words} from the next device on")
    return ExitCode.OK


async def scan(context: Context) -> int:
    async with control(context) as gateway:
        answer = await gateway.post("/line/scans", {"code": context.text("code")})
    context.show(answer, f"the label belongs to {answer['serial']}")
    return ExitCode.OK


async def list_units(context: Context) -> int:
    async with control(context) as gateway:
        answer = await gateway.get("/line/units")
    context.show(answer, "\n".join(map(_unit_line, _objects(answer["units"]))) or "no unit is open")
    return ExitCode.OK


async def show_unit(context: Context) -> int:
    async with control(context) as gateway:
        unit = await gateway.post("/line/units/find", {"unit": context.text("unit")})
    steps = [f"  {date(each['at'])}  {each['state']}" for each in _objects(unit["times"])]
    context.show(unit, "\n".join([_unit_line(unit), *steps]))
    return ExitCode.OK


async def papers(context: Context) -> int:
    async with control(context) as gateway:
        answer = await gateway.post("/line/units/papers", {"unit": context.text("unit")})
    context.show(answer, str(answer["papers"]).rstrip())
    return ExitCode.OK


async def scrap(context: Context) -> int:
    return await _end(context, "scrap")


async def rework(context: Context) -> int:
    return await _end(context, "rework")


async def release(context: Context) -> int:
    return await _end(context, "release")


async def _end(context: Context, how: str) -> int:
    wish: JsonObject = {"unit": context.text("unit"), "how": how, "reason": context.text("reason")}
    async with control(context) as gateway:
        unit = await gateway.post("/line/units/end", wish)
    revoked = f"; its certificate {unit['certificate']} is revoked" if unit["certificate"] else ""
    context.show(unit, f"unit {unit['unit']} is {unit['state']}{revoked}")
    return ExitCode.OK


def _order_line(order: JsonObject) -> str:
    closed = "  closed" if order["closed"] else ""
    faults = "".join(f"\n  DOES NOT ADD UP: {fault}" for fault in order["faults"]) if isinstance(order["faults"], list) else ""
    return (
        f"{order['id']} v{order['version']}  {order['product']}  {order['begun']} of {order['credit']} begun, "
        f"{order['confirmed']} confirmed, {order['open']} open, {order['scrapped']} scrapped{closed}{faults}"
    )


def _unit_line(unit: JsonObject) -> str:
    return f"{unit['unit']}  {unit['state']}  {unit['station']}  {unit['detail']}".rstrip()


def _objects(value: JsonValue) -> list[JsonObject]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise OperatorError(f"{path} cannot be read: {error.strerror}") from error

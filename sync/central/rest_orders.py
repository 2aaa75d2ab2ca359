"""What the REST interface answers about the work orders of production lines."""

from __future__ import annotations

from gateway.errors import MalformedRequest, NotFound
from gateway.journal.canonical import JsonValue
from gateway.journal.statements import to_json
from sync.central.devices import device_views
from sync.central.preconditions import etag, precondition
from sync.central.rest_records import page
from sync.central.routes import ANYTHING, OCTETS_TYPE, Call, Field, Parts, Reply, Route


def _with_tag(order: dict[str, JsonValue]) -> Reply:
    return Reply(order, head={"ETag": etag(to_json(order["body"]).decode())})


async def orders(parts: Parts, _call: Call) -> Reply:
    return page([*await parts.orders.orders()], "")


async def order(parts: Parts, call: Call) -> Reply:
    return _with_tag(await parts.orders.order(call.path["order"]))


async def set_order(parts: Parts, call: Call) -> Reply:
    body = call.body["order"]
    if not isinstance(body, dict) or body.get("id") != call.path["order"]:
        raise MalformedRequest("order is a JSON object with the id of the address")
    return _with_tag(await parts.orders.define(call.text("scope"), body, call.operator, before=precondition(call)))


async def close(parts: Parts, call: Call) -> Reply:
    return _with_tag(await parts.orders.close(call.path["order"], f"{call.text('reason')} ({call.operator})"))


async def statement(parts: Parts, call: Call) -> Reply:
    content = await parts.orders.export(call.path["order"], call.text("origin"))
    name = f'attachment; filename="{call.path["order"]}.order"'
    return Reply(content, media=OCTETS_TYPE, head={"Content-Disposition": name})


# Devices.


async def device(parts: Parts, call: Call) -> Reply:
    name = call.path["device"]
    units, certificates = await device_views(parts.store, name)
    if not units and not certificates:
        raise NotFound(f"no gateway knows a device {name[:80]!r}")
    return Reply({"device": name, "units": [*units], "certificates": [*certificates]})


ROUTES = (
    Route("GET", "/orders", orders, "List the work orders", "all of them, with what was granted, used and made"),
    Route("GET", "/orders/{order}", order, "Read a work order", "the order, its body, each gateway's share; with an ETag"),
    Route(
        "PUT", "/orders/{order}", set_order, "Make or change a work order, with If-Match or If-None-Match: *", "the order",
        body=(
            Field("scope", "group:NAME or gateway:ORIGIN", required=True),
            Field("order", "the order; central writes origin, version and credit", ANYTHING, required=True),
        ),
    ),
    Route(
        "POST", "/orders/{order}/close", close, "Let no gateway begin anything more under an order", "the order",
        body=(Field("reason", "for the record", required=True),),
    ),
    Route(
        "GET", "/orders/{order}/statement", statement, "A gateway's signed work order, to be carried", "the statement",
        query=(Field("origin", "the gateway", required=True),), media=OCTETS_TYPE,
    ),
    Route(
        "GET", "/devices/{device}", device, "Find a device by its serial number over all gateways",
        "what lines made of it, and its certificates",
    ),
)  # fmt: skip

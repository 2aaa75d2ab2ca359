"""Work orders and devices over REST: changed by who has read them, carried as files, found by serial number."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.journal.canonical import JsonValue
from provisioning.orders import open_order
from tests.support.desk import Desk, open_desk, place
from tests.support.line_edge import ORDER, LineEdge
from tests.support.served_central import joined

AT = f"/orders/{ORDER}"
BODY: dict[str, JsonValue] = {
    "id": ORDER,
    "quantity": 20,
    "credit": 5,
    "product": "PLC",
    "profile": "idevid",
    "serials": ["SN*"],
}


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(tmp_path) as made:
        edge = LineEdge()
        edge.make(1, "SN/1")
        await joined(made.served, edge, group="line-3")
        await made.served.ingest.carried(edge.origin, edge.batch(0))
        await made.served.project()
        yield made


async def test_an_order_is_made_read_changed_and_closed(desk: Desk) -> None:
    assert (await desk.ask("GET", AT)).status == 404
    wanted = {"scope": "group:line-3", "order": BODY}
    assert (await desk.ask("PUT", AT, wanted)).status == 428
    made = await desk.ask("PUT", AT, wanted, If_None_Match="*")
    assert (made.status, made.json["revision"], made.json["by"]) == (200, 1, "anna")
    assert (await desk.ask("PUT", AT, wanted, If_None_Match="*")).status == 412
    tag = (await desk.get(AT)).head["ETag"]
    assert tag == made.head["ETag"]
    changed = await desk.ask("PUT", AT, {**wanted, "order": {**BODY, "quantity": 30}}, If_Match=tag)
    assert changed.json["quantity"] == 30
    assert (await desk.ask("PUT", AT, wanted, If_Match=tag)).status == 412
    (listed,) = (await desk.get("/orders")).items
    assert (listed["used"], listed["confirmed"]) == (1, 1)
    assert (await desk.post(f"{AT}/close", {"reason": "done"})).json["closed"] == "done (anna)"


async def test_an_order_is_carried_as_the_statement_that_the_gateway_checks(desk: Desk) -> None:
    await desk.ask("PUT", AT, {"scope": "group:line-3", "order": BODY}, If_None_Match="*")
    answer = await desk.get(f"{AT}/statement?origin={place(LineEdge().origin)}")
    order = open_order(answer.content, [desk.served.central.authority.identity.vkey])
    assert (order.origin, order.credit, order.product) == (LineEdge().origin, 5, "PLC")
    assert (await desk.ask("GET", f"{AT}/statement?origin=nobody")).status == 404


@pytest.mark.parametrize(
    "body",
    [{"scope": "group:line-3", "order": {**BODY, "id": "other"}}, {"scope": "group:line-3", "order": []}, {"order": BODY}],
)
async def test_an_order_that_is_none_is_refused(desk: Desk, body: dict[str, JsonValue]) -> None:
    assert (await desk.ask("PUT", AT, body, If_None_Match="*")).status == 400
    assert (await desk.get("/orders")).items == []


async def test_a_device_is_found_whatever_its_serial_number_is_written_with(desk: Desk) -> None:
    found = (await desk.get("/devices/SN%2F1")).json
    units = found["units"]
    assert isinstance(units, list)
    assert [(each["state"], each["order"]) for each in units] == [("confirmed", ORDER)]
    assert (await desk.ask("GET", "/devices/SN-2")).status == 404

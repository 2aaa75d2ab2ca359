"""What central makes of a production line's records: a row for each unit, counts for each order, alerts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.errors import IntegrityError
from gateway.journal.canonical import JsonValue
from gateway.journal.line_records import UnitKeyed
from gateway.journal.records import Record, Started, decode
from sync.central.devices import device_views
from sync.central.grants import body_of
from sync.central.line_rows import Grant, Unit
from sync.central.projection import Known, project, readable
from sync.central.rows import Alert, Kept, Quarantined, Tally
from sync.central.units import is_made, needed_units, unit_after
from tests.support.line_edge import ORDER, LineEdge
from tests.support.served_central import Served, joined, served

WORK: dict[str, JsonValue] = {
    "id": ORDER, "quantity": 100, "credit": 10, "credit_after_receipt": True, "product": "PLC", "profile": "idevid",
    "serials": ["SN-*"],
}  # fmt: skip


@dataclass
class Plant:
    served: Served
    one: LineEdge
    two: LineEdge

    async def send(self, *edges: LineEdge) -> None:
        """What these gateways recorded reaches central, and central works out what it means."""
        for edge in edges or (self.one, self.two):
            await self.served.ingest.carried(edge.origin, edge.batch(0))
        await self.served.project()
        await self.served.central.desired.refresh_all()

    async def alerts(self) -> dict[str, str]:
        async with self.served.central.store.transaction() as t:
            return {alert.kind: alert.text for alert in await t.select(Alert, closed=0)}

    async def unit(self, edge: LineEdge, number: int) -> Unit:
        async with self.served.central.store.transaction() as t:
            found = await t.find(Unit, edge.origin, edge.unit(number))
        assert found is not None
        return found

    async def credit(self, edge: LineEdge) -> tuple[object, object]:
        body = body_of(await self.served.central.orders.export(ORDER, edge.origin))
        return body.version, body.credit


@pytest.fixture
async def plant(tmp_path: Path) -> AsyncIterator[Plant]:
    """Two gateways of one group with a work order."""
    async with served(tmp_path) as made:
        edges = LineEdge("one"), LineEdge("two")
        for edge in edges:
            await joined(made, edge, group="line-3")
        await made.central.orders.define("group:line-3", WORK, "anna")
        yield Plant(made, *edges)


async def test_a_unit_is_one_row_that_follows_its_records_however_they_are_cut(plant: Plant) -> None:
    edge = plant.one
    first = edge.reserve(1)
    await plant.send(edge)
    assert ((await plant.unit(edge, 1)).state, (await plant.unit(edge, 1)).seq) == ("reserved", first)
    second = edge.prove(1, first)
    third = edge.move(1, second, "issued", serial="ab")
    await plant.send(edge)
    unit = await plant.unit(edge, 1)
    assert (unit.state, unit.device, unit.order, unit.over) == ("issued", "SN-1", ORDER, 0)
    assert int.from_bytes(unit.serial, "big") == 0xAB
    edge.end(1, third, "confirmed")
    await plant.send(edge)
    unit = await plant.unit(edge, 1)
    assert (unit.state, bool(unit.over), is_made(unit)) == ("confirmed", True, True)


async def test_a_device_is_found_by_its_serial_number_over_all_gateways(plant: Plant) -> None:
    plant.one.make(1, "SN-9", end="scrapped")
    plant.two.issue(1, device="SN-9")
    await plant.send()
    units, certificates = await device_views(plant.served.central.store, "SN-9")
    assert [(each["origin"], each["state"]) for each in units] == [(plant.one.origin, "scrapped")]
    assert [each["origin"] for each in certificates] == [plant.two.origin]
    assert await device_views(plant.served.central.store, "SN-10") == ([], [])


async def test_an_order_is_counted_over_all_gateways(plant: Plant) -> None:
    for number in range(1, 5):
        plant.one.make(number)
    plant.one.make(5, end="scrapped")
    plant.one.make(6, end="")
    plant.one.end(7, plant.one.reserve(7), "scrapped", back=True)  # nothing was made of it: its credit comes back
    plant.two.make(8, end="")
    plant.two.reserve(9)
    await plant.send()
    order = await plant.served.central.orders.order(ORDER)
    assert {name: order[name] for name in ("used", "issued", "confirmed", "scrapped", "open")} == {
        "used": 8, "issued": 7, "confirmed": 4, "scrapped": 2, "open": 3
    }  # fmt: skip


async def test_more_credit_follows_the_records_of_the_used_credit_by_itself(plant: Plant) -> None:
    edge = plant.one
    assert await plant.credit(edge) == (1, 10)
    for number in range(4):
        edge.make(number)
    await plant.send(edge)
    assert await plant.credit(edge) == (1, 10)  # there is more than half of it left
    edge.make(4)
    assert await plant.credit(edge) == (1, 10)  # the record is not back yet
    await plant.send(edge)
    assert await plant.credit(edge) == (2, 15)


async def test_a_version_that_the_gateway_has_accepted_is_known_and_never_fallen_short_of(plant: Plant) -> None:
    edge = plant.one
    edge.accept(1, 10)
    await plant.send(edge)
    async with plant.served.central.store.transaction() as t:
        grant = await t.find(Grant, ORDER, edge.origin)
        assert grant is not None
        assert (grant.accepted, grant.version) == (1, 1)
    edge.accept(6, 70)  # central had granted that before it was restored
    await plant.send(edge)
    assert await plant.credit(edge) == (7, 70)


async def test_an_order_that_is_over_at_a_gateway_leaves_the_rest_to_others(plant: Plant) -> None:
    await plant.served.central.orders.define("group:line-3", {**WORK, "quantity": 20}, "anna")
    plant.one.make(1)
    for number in range(10, 16):
        plant.two.make(number)
    await plant.send()
    assert [(await plant.credit(each))[1] for each in (plant.one, plant.two)] == [10, 10]
    plant.one.close()
    await plant.send()
    assert (await plant.credit(plant.two))[1] == 16
    plant.two.make(16)
    plant.two.make(17)
    plant.two.make(18)
    plant.two.make(19)
    plant.two.make(20)
    await plant.send()
    assert (await plant.credit(plant.two))[1] == 19  # all that the first one did not use


async def test_a_gateway_that_accepted_the_end_of_an_order_has_used_what_its_records_say(plant: Plant) -> None:
    plant.one.make(1)
    plant.one.accept(1, 10)
    await plant.send()
    await plant.served.central.orders.close(ORDER, "enough")
    version, _ = await plant.credit(plant.one)
    plant.one.reserve(2)
    plant.one.accept(int(str(version)), 10)
    await plant.send()
    async with plant.served.central.store.transaction() as t:
        over = {grant.origin: bool(grant.over) for grant in await t.select(Grant)}
    assert over == {plant.one.origin: True, plant.two.origin: False}
    order = await plant.served.central.orders.order(ORDER)
    assert (order["used"], order["open"]) == (2, 1)


async def test_two_gateways_that_made_the_same_device_are_an_alert(plant: Plant) -> None:
    plant.one.make(1, "SN-7")
    plant.two.make(2, "SN-7", end="")
    await plant.send(plant.one)
    assert "duplicate-device" not in await plant.alerts()
    await plant.send()
    said = (await plant.alerts())["duplicate-device"]
    assert "SN-7" in said
    assert plant.one.unit(1) in said
    assert plant.two.unit(2) in said


@pytest.mark.parametrize("end", ["scrapped", "reworked"])
async def test_a_unit_that_came_to_a_bad_end_is_no_second_device(plant: Plant, end: str) -> None:
    plant.one.make(1, "SN-7", end=end)
    plant.two.make(2, "SN-7")
    plant.two.prove(3, plant.two.reserve(3, "SN-8"))
    plant.one.make(4, "SN-8")
    await plant.send()
    assert "duplicate-device" not in await plant.alerts()


async def test_the_same_device_again_at_one_gateway_is_its_own_matter(plant: Plant) -> None:
    plant.one.make(1, "SN-7")
    plant.one.make(2, "SN-7")
    await plant.send()
    assert "duplicate-device" not in await plant.alerts()


async def test_more_units_than_credit_are_an_alert_until_it_covers_them(plant: Plant) -> None:
    for number in range(11):
        plant.one.make(number)
    await plant.send(plant.one)
    assert "11 units were begun under order WO-17, 10 were granted" in (await plant.alerts())["overdrawn"]
    plant.one.make(11)
    await plant.send(plant.one)  # more credit was granted meanwhile
    assert "overdrawn" not in await plant.alerts()


async def test_a_record_that_is_not_the_next_of_its_unit_is_set_aside_and_counts_for_nothing(plant: Plant) -> None:
    edge = plant.one
    first = edge.reserve(1)
    edge.move(1, first - 1, "issued")
    edge.move(2, first, "issued")  # a unit that nobody began
    await plant.send(edge)
    assert (await plant.unit(edge, 1)).state == "reserved"
    async with plant.served.central.store.transaction() as t:
        aside = {row.seq: row.reason for row in await t.select(Quarantined)}
        tallies = {row.name: row.used for row in await t.select(Tally, origin=edge.origin)}
    assert len(aside) == 2
    assert "ends with record" in aside[first + 1]
    assert "nothing is known of the beginning" in aside[first + 2]
    assert tallies == {f"order:{ORDER}": 1}


def test_a_unit_ends_once() -> None:
    edge = LineEdge()
    last = edge.make(1)
    edge.end(1, last, "scrapped")
    kept = [Kept(seq, b"", body, 0) for seq, body in enumerate(edge.records)]
    done = project(readable(kept)[0], Known(edge.origin, {}), verify=False)
    assert done.units["one/1"].state == "confirmed"
    assert "not with" in done.aside[last + 1]


def test_only_units_that_began_before_are_asked_for() -> None:
    edge = LineEdge()
    edge.make(1)
    edge.prove(2, 0)
    assert needed_units([decode(body) for body in edge.records]) == {"one/2"}


def test_what_is_no_record_of_a_unit_is_our_own_mistake() -> None:
    with pytest.raises(TypeError):
        unit_after(Record(1, 1, Started("1", True, True)), None, "o")
    with pytest.raises(IntegrityError, match="nothing is known"):
        unit_after(Record(1, 1, UnitKeyed("u", 0, bytes(32), bytes(32))), None, "o")

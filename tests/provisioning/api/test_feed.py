"""Events and long polls: nothing is missed and nothing told twice, over a break and over a restart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from provisioning.api.endpoint import LineLimits
from provisioning.orders import NumberRange
from tests.support.line import order_of
from tests.support.stations import BenchDevice, Station, counter


class Events:
    """An EventSource: what it read, and the id that it would send after a break."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.last = ""

    async def next(self, kind: str = "unit") -> dict[str, Any]:
        """The data of the next event of this kind. Raises EOFError at the end of the stream."""
        fields: dict[str, str] = {}
        async with asyncio.timeout(60):
            while line := await self._response.content.readline():
                name, _, value = line.decode().rstrip("\n").partition(": ")
                if name:
                    fields[name] = value
                    continue
                self.last = fields.get("id", self.last)
                if fields.get("event") == kind:
                    found = json.loads(fields["data"])
                    assert isinstance(found, dict)
                    return found
                fields = {}
        raise EOFError


@asynccontextmanager
async def watching(station: Station, last: str = "") -> AsyncIterator[Events]:
    head = {"Last-Event-ID": last} if last else {}
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=station.counter.context(station.files))) as session,
        session.get(f"{station.counter.url}/events", headers=head) as response,
    ):
        assert (response.status, response.content_type) == (200, "text/event-stream")
        await response.content.readline()  # "retry": from here on nothing is missed
        yield Events(response)


async def test_every_move_of_a_unit_is_told_once_in_order(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of()]) as it:
        station = await it.station()
        async with watching(station) as events:
            await station.made(BenchDevice("chip-1"))
            told = [await events.next() for _ in range(8)]
        assert [each["state"] for each in told] == [
            "reserved", "keyed", "issued", "written", "verified", "locking", "locked", "confirmed",
        ]  # fmt: skip
        assert [each["seq"] for each in told] == sorted({each["seq"] for each in told})
        assert {(each["unit"], each["order"], each["serial"]) for each in told} == {("O-1/SN-00001/1", "O-1", "SN-00001")}
        assert {each["by"] for each in told if each["state"] != "keyed"} == {"station:bench-1"}


async def test_after_a_break_and_a_restart_a_watcher_misses_nothing(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of()]) as it:
        station = await it.station()
        async with watching(station) as events:
            unit, _ = await station.certified(BenchDevice("chip-1"))
            for _ in range(2):
                await events.next()
            last = events.last
        await station.done(f"{unit}/written")
        root = it.world.root
    async with counter(tmp_path, root=root) as it:
        station = await it.station()
        await station.done(f"{unit}/quarantine", {"reason": "look"})
        async with watching(station, last) as events:
            assert [(await events.next())["state"] for _ in range(3)] == ["issued", "written", "quarantine"]
            last = events.last
        async with watching(station, last) as events:  # what was seen is not told again
            await station.done(f"{unit}/scrap", {"reason": "no"})
            assert (await events.next())["state"] == "scrapped"


async def test_a_watcher_sees_its_own_orders_only(tmp_path: Path) -> None:
    theirs = order_of(id="O-2", stations=("station:other-*",), numbers=NumberRange("X-", 1, 10, 5), credit=5)
    async with counter(tmp_path, orders=[order_of(), theirs]) as it:
        one, other = await it.station(), await it.station("other-1")
        async with watching(one) as events:
            await other.opened(BenchDevice("chip-2"), "O-2")
            await one.opened(BenchDevice("chip-1"))
            assert (await events.next())["order"] == "O-1"


async def test_who_is_too_far_behind_is_told_so(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of()], limits=LineLimits(backlog=5)) as it:
        station = await it.station()
        await station.made(BenchDevice("chip-1"))
        for last in ("1", "999999"):
            async with watching(station, last) as events:
                assert (await events.next("lost"))["after"] == it.size - 1
        async with watching(station, str(it.size - 4)) as events:
            assert (await events.next())["state"] in {"locking", "locked", "verified"}


async def test_the_end_of_the_gateway_ends_the_stream(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of()]) as it:
        station = await it.station()
        async with watching(station) as events:
            it.endpoint.close()
            try:
                await events.next()
            except EOFError:
                return
            raise AssertionError("the stream goes on")


async def test_a_long_poll_returns_when_the_unit_moves(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of()]) as it:
        station = await it.station()
        unit = await station.opened(BenchDevice("chip-1"))
        seq = (await station.get(unit)).json["seq"]
        assert (await station.get(f"{unit}?wait=60&after={seq - 1}")).json["seq"] == seq  # it has moved already
        waiting = asyncio.create_task(station.get(f"{unit}?wait=60&after={seq}"))
        await station.done(f"{unit}/quarantine", {"reason": "look"})
        assert (await waiting).json["state"] == "quarantine"
        await station.done(f"{unit}/release", {"reason": "fine"})
        assert (await station.get(f"{unit}?wait=60")).json["state"] == "released"  # and will not move any more

"""Requests that no station should send: a problem document each, and a journal that is as it was."""

from __future__ import annotations

from pathlib import Path

from gateway.journal.records import Refused
from tests.support.hostile_station import hostile_requests
from tests.support.line import order_of
from tests.support.stations import BenchDevice, counter


async def test_every_hostile_request_is_refused_with_a_problem_document_and_changes_nothing(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of(credit=5_000)]) as it:
        station, device = await it.station(), BenchDevice("chip-1")
        unit = await station.opened(device)
        requests = hostile_requests(unit)
        assert len(requests) > 100
        size = len(it.world.journal.appended)
        before = (await station.get(unit)).json
        used = it.world.journal.head.tallies["order:O-1"]
        accepted: dict[str, object] = {}
        async with station.session() as session:
            for name, each in requests.items():
                answer = await session.ask(each.method, each.path, each.body, **each.head)
                if not 400 <= answer.status < 500:
                    accepted[name] = (answer.status, answer.content)
                    continue
                assert answer.detail, name
                assert answer.json["hint"], name
        assert accepted == {}
        assert (await station.get(unit)).json == before
        assert it.world.journal.head.tallies["order:O-1"] == used
        assert {type(payload) for payload in it.world.journal.appended[size:]} <= {Refused}
        await station.made(device)  # the control: the same unit goes on


async def test_hostile_http_is_refused_by_the_listener(tmp_path: Path) -> None:
    import asyncio

    from tests.support.hostile_http import REQUESTS

    async with counter(tmp_path, orders=[order_of()]) as it:
        station = await it.station()
        size = it.size
        for name, octets in REQUESTS.items():
            reader, writer = await asyncio.open_connection("localhost", it.port, ssl=it.context(station.files), family=2)
            writer.write(octets.replace(b"/.well-known/est/simpleenroll", b"/api/v1/line/units"))
            async with asyncio.timeout(10):
                line = await reader.readline()
            assert not line or int(line.split()[1]) >= 400, name
            writer.close()
        assert it.size == size

"""The line as the configuration makes it: orders and units as operators see them, papers that can be checked."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gateway import settings
from gateway.authority.authority import Authority
from gateway.config import Config, LineSection, PortSection, config_from_table
from gateway.errors import ConfigError, Conflict, MalformedRequest, NotFound
from gateway.journal.line_records import UnitEnded
from provisioning.drivers import DRIVERS
from provisioning.papers import RECORD_TYPE, open_paper
from provisioning.plant import Plant
from tests.support import line_port
from tests.support.authority import authority_in, policy_of
from tests.support.label_templates import PLATE
from tests.support.line import ORDER_VKEY, order_of, signed
from tests.support.simulated_device import SimulatedDevice, make_devices

ADA = "operator:ada"


@asynccontextmanager
async def plant(
    directory: Path, devices: dict[str, SimulatedDevice], monkeypatch: pytest.MonkeyPatch, **changes: object
) -> AsyncIterator[Plant]:
    monkeypatch.setitem(DRIVERS, "simulated", "tests.support.line_port")
    line_port.PORTS.clear()
    line_port.PORTS.update(devices)
    (directory / "labels").mkdir()
    (directory / "labels" / "plate.toml").write_text(PLATE.replace("DPI", "300").replace("MODULE", "0.5"))
    ports = {name: PortSection(f"simulated:{name}", "simulated") for name in devices}
    section = LineSection((ORDER_VKEY,), "Acme", directory / "labels", poll_seconds=0.05, retry_seconds=0.05, port=ports)
    section = replace(section, **changes)  # type: ignore[arg-type]
    own = settings.own_profiles(Config())
    (directory / "state").mkdir()
    async with authority_in(directory / "state", policy=policy_of(own)) as world:
        authority: Authority = world.authority
        made = await Plant.open(section, authority, directory / "state", lambda: ())
        yield made


async def made(place: Plant, count: int) -> None:
    """Run the line until so many units are confirmed."""
    done = asyncio.Event()

    def look(_: object) -> None:
        if sum(each.confirmed for each in map(place.units.balance, (order.id for order in place.orders.all))) >= count:
            done.set()

    place.units.watch(look)
    running = asyncio.create_task(place.run())
    async with asyncio.timeout(120):
        await done.wait()
    running.cancel()
    await asyncio.wait([running])


async def test_an_imported_order_makes_devices_with_papers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = {f"p{n}": device for n, device in enumerate(make_devices(2))}
    async with plant(tmp_path, devices, monkeypatch) as place:
        order = order_of(label="plate", masa_url="https://masa.acme.example", ticket=True)
        told = await place.import_order(base64.b64encode(signed(order)).decode(), ADA)
        assert (told["id"], told["credit"], told["begun"]) == ("O-1", 100, 0)
        await place.authority.delegated.renew_due()
        await made(place, 2)
        assert place.list_units() == []
        assert [(each["begun"], each["confirmed"], each["faults"]) for each in place.list_orders()] == [(2, 2, [])]  # type: ignore[index,call-overload]
        unit = await place.find_unit("SN-00001")
        papers = json.loads(await place.unit_papers("SN-00001"))
        assert set(papers) == {"production_record", "manifest", "ticket", "brski_handover"}
        record, signer = open_paper(json.dumps(papers["production_record"]).encode(), RECORD_TYPE)
        assert (record["serial"], record["order"], record["chip"]) == ("SN-00001", "O-1", unit.chip)
        assert record["records"] == list(unit.records[:-1])
        assert len(record["labels"]) == 1  # type: ignore[arg-type]
        assert len(signer) > 1
        ended = await place.authority.journal.get(unit.seq)
        assert ended is not None
        assert isinstance(ended.payload, UnitEnded)
        assert ended.payload.digest == hashlib.sha256(place.papers.path(unit).read_bytes()).digest()
        assert place.papers.path(unit).with_suffix(".png").read_bytes().startswith(b"\x89PNG")
        device = next(each for each in devices.values() if each.serial == "SN-00001")
        assert json.loads(device.read("ticket"))["payload"] == papers["ticket"]["payload"]


async def test_a_scanned_label_lets_its_unit_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (device,) = make_devices(1)
    async with plant(tmp_path, {"p": device}, monkeypatch, scan_labels=True) as place:
        await place.import_order(base64.b64encode(signed(order_of(label="plate"))).decode(), ADA)
        await place.authority.delegated.renew_due()
        with pytest.raises(NotFound, match="no unit waits"):
            place.scanned("https://acme.example/SN-00001")
        printed = asyncio.Event()
        place.papers.printed = lambda _unit, _label: asyncio.get_running_loop().call_soon(printed.set) and None
        running = asyncio.create_task(made(place, 1))
        await printed.wait()
        with pytest.raises(NotFound):
            place.scanned("https://acme.example/SN-00002")
        assert place.scanned("https://acme.example/SN-00001") == {"serial": "SN-00001"}
        await running


async def test_ends_need_a_reason_and_an_open_unit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from provisioning.units import Place

    async with plant(tmp_path, {}, monkeypatch) as place:
        await place.import_order(base64.b64encode(signed(order_of())).decode(), ADA)
        unit = await place.units.reserve("O-1", Place("s"), chip="c")
        for how, reason in (("burn", "x"), ("scrap", "")):
            with pytest.raises(MalformedRequest):
                await place.end_unit(unit.id, how, ADA, reason)
        with pytest.raises(Conflict, match="no papers yet"):
            await place.unit_papers(unit.id)
        told = await place.end_unit(unit.serial, "scrap", ADA, "fell down")
        assert told["state"] == "released"
        with pytest.raises(Conflict, match="is over"):
            await place.end_unit(unit.id, "scrap", ADA, "again")
        with pytest.raises(NotFound):
            await place.show_unit("nobody")
        assert (await place.show_unit(unit.id))["detail"] == "fell down"
        with pytest.raises(MalformedRequest):
            await place.import_order("%", ADA)
        await place.close_order("O-1", ADA, "done")
        assert place.report()["open_units"] == 0


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ({"port": {"p1": {"address": "tcp://h:1", "driver": "nobody"}}}, "line.port.p1: there is no driver"),
        ({"port": {"p1": {"address": "nowhere", "driver": "pkcs11"}}}, "line.port.p1: 'nowhere' is no address"),
        (
            {"port": {"p1": {"address": "tcp://h:1", "driver": "pkcs11", "recipe": "missing.toml"}}},
            "line.port.p1: .*missing.toml",
        ),
        ({"port": {"p1": {"address": "tcp://h:1", "driver": "pkcs11", "recipe": "x.toml", "settings": {"a": 1}}}}, "not both"),
        ({"printer": ":9100"}, "line.printer"),
        ({"drop": {"packing": {"inbox": "in"}}}, "line.drop.packing needs"),
    ],
    ids=["driver", "address", "recipe", "both", "printer", "drop"],
)
async def test_a_wrong_section_says_which_part(tmp_path: Path, line: dict[str, object], named: str) -> None:
    section = config_from_table({"line": line}, tmp_path).line
    async with authority_in(tmp_path) as world:
        with pytest.raises(ConfigError, match=named):
            await Plant.open(section, world.authority, tmp_path, lambda: ())

"""Simulated devices go through the real line as they say to configure them; each fault ends where it should, nowhere else."""

from __future__ import annotations

import tempfile
import tomllib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from gateway.authority.authority import Authority
from provisioning.device import Address
from provisioning.drivers import driver
from provisioning.line import Line, Port, PortState
from provisioning.simulator import Plan, settings_of
from provisioning.station import State
from provisioning.units import Place
from tests.provisioning.test_simulator import simulated
from tests.support.line import FAST, Hall, hall, order_of


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a short name, for the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="sim") as made:
        yield Path(made)


def port_of(device: Plan) -> Port:
    """As what the simulator prints says it."""
    table = tomllib.loads(f"port = {{ {settings_of(device)} }}")["port"]
    name, address, module = f"p{device.number}", Address.parse(f"unix:{device.port}"), driver(table["driver"])
    return Port(
        name, Place(f"port:{name}", name, table["driver"]), module.KEYS, partial(module.open_device, address, table["settings"])
    )


@pytest.mark.parametrize("kind", ["modem", "shell"])
async def test_devices_go_through_the_line_and_faults_stay_where_they_are(tmp_path: Path, folder: Path, kind: str) -> None:
    faults = ["silent", "cut", "cloned-key", "cloned-key", "wrong-chip"]
    async with hall(tmp_path, {}, orders=[order_of()]) as room, simulated(folder, 8, kind, faults) as devices:
        authority = cast(Authority, room.world.authority)
        room.line = Line(authority, room.units, room.finisher, [port_of(device) for device in devices], FAST)

        def settled(seen: Hall) -> bool:
            states = {view.port: view.state for view in seen.line.ports}
            good = all(states[f"p{number}"] is PortState.DONE for number in (1, 2, 3, 5))
            clones = {states["p6"], states["p7"]}
            quarantined = [unit for unit in seen.units.open.values() if unit.state is State.QUARANTINE]
            return good and PortState.DONE in clones and len(quarantined) >= 2

        await room.work(settled)
        assert len(room.finisher.concluded) == len(set(room.finisher.concluded)) >= 5
        assert room.balance() == []
        sentences = " ".join(view.sentence for view in room.line.ports)
        assert "seen before" in sentences

"""Central's database is lost and its backup put back: gateways fill it again from where it stands, nothing twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.fleet import Fleet
from tests.support.fleet_story import (
    account_of,
    agreement,
    differences,
    entry_of,
    revoke_at_central,
    revoke_at_gateway,
    set_validity,
)

pytestmark = pytest.mark.alone


async def test_a_restored_central_is_refilled_and_then_agrees_again(tmp_path: Path) -> None:
    async with Fleet.running(tmp_path, gateways=1) as fleet:
        gateway, central = fleet.gateways[0], fleet.central
        await fleet.issue(20, "kept")
        await agreement(fleet)
        copy = tmp_path / "central.backup"
        await central.ask("/backups", {"target": str(copy)})
        old = (await entry_of(central, gateway.origin))["records"]

        await fleet.issue(40, "lost")
        devices = (await account_of(gateway)).devices()
        await revoke_at_gateway(gateway, devices[-3:])
        await revoke_at_central(central, devices[:3])
        await agreement(fleet)
        confirmed = (await gateway.ask("/central"))["confirmed"]

        fleet.cable.unplug()
        await central.stop()
        database = central.state / "central.db"
        for leftover in central.state.glob("central.db*"):
            leftover.unlink()
        shutil.copyfile(copy, database)
        await central.start()
        assert (await entry_of(central, gateway.origin))["records"] == old
        assert isinstance(old, int)
        assert isinstance(confirmed, int)
        assert old < confirmed  # the gateway has a receipt for more than central has now
        assert await differences(fleet)

        await fleet.plug()
        await agreement(fleet)
        account = await account_of(gateway)
        assert {account.revoked[serial] for serial in devices[-3:]} == {"keyCompromise"}
        assert {account.revoked[serial] for serial in devices[:3]} == {"superseded"}
        # Documents go on from a version that the gateway takes: what central wants from now on arrives.
        await set_validity(central, 15)
        await agreement(fleet)
        assert (await central.command("verify"))["journals"] == 1
        report = await gateway.ask("/central")
        assert (report["fenced"], report["refused"]) == ("", "")

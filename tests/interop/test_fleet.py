"""A new user's fleet, smaller: a central and two gateways as processes, the cable out and in, then bundles carried by hand."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import cast

import pytest

from gateway.journal.records import Intent, Issued, Record, encode
from tests.support.fleet import Fleet, FleetError, Gateway, until
from tests.support.fleet_story import Account, account_of, by_bundle, by_cable, differences, revoke_at_gateway

_CERTIFICATES, _REVOCATIONS = 60, 6


async def test_two_gateways_and_central_agree_after_the_cable_was_out_and_after_bundles(tmp_path: Path) -> None:
    said: list[str] = []
    async with Fleet.running(tmp_path) as fleet:
        await by_cable(fleet, _CERTIFICATES, _REVOCATIONS, said.append)
        await by_bundle(fleet, _CERTIFICATES, _REVOCATIONS, said.append)
        # The comparison that found no difference finds one certificate that only one side has, and one revocation.
        fleet.cable.unplug()
        gateway = fleet.gateways[0]
        await gateway.issue(1, "extra")
        assert any("certificates, central has" in each for each in await differences(fleet, by_bundle=True))
        await revoke_at_gateway(gateway, (await account_of(gateway)).devices()[:1])
        assert any("are revoked, by central" in each for each in await differences(fleet, by_bundle=True))
    assert sum("both sides agree" in each for each in said) == 4


async def test_the_command_starts_serves_and_ends_cleanly_and_goes_on_where_it_was(tmp_path: Path) -> None:
    origins: list[str] = []
    for turn in range(2):
        line = [sys.executable, "-m", "tests.support.fleet_command", "--state", str(tmp_path / "fleet")]
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        fleet = await asyncio.create_subprocess_exec(*line, stdout=asyncio.subprocess.PIPE, env=environment)
        try:
            assert fleet.stdout is not None
            shown = ""
            while "import /tmp/gateway-2.answer" not in shown:
                text = await asyncio.wait_for(fleet.stdout.readline(), 120)
                assert text, shown
                shown += text.decode()
            for words, answer in (
                (["unplug"], "the cable is out"),
                (["issue", "6"], "6 certificates in"),
                (["plug"], "the cable is in"),
            ):
                process = await asyncio.create_subprocess_exec(*line, *words, stdout=asyncio.subprocess.PIPE)
                printed, _ = await process.communicate()
                assert process.returncode == 0
                assert answer in printed.decode()
            journal = Gateway(tmp_path / "fleet" / "gateway-1").endpoints["journal"]
            assert isinstance(journal, dict)
            origins.append(str(journal["origin"]))
        finally:
            fleet.send_signal(signal.SIGINT)
            await asyncio.wait_for(fleet.wait(), 120)
        assert fleet.returncode == 0, f"start {turn}"
        assert not list((tmp_path / "fleet").glob("*/endpoints.json"))  # each daemon ended in order
    assert origins[0] == origins[1]


def test_a_certificate_that_is_there_twice_is_found() -> None:
    account = Account(certificates={"1a": b"x"})
    twice = Issued(3, "1a", bytes(64), bytes(32), bytes(32))
    with pytest.raises(FleetError, match="twice"):
        account.take(encode(Record(4, 0, twice)), dict[str, Intent]())


async def test_a_work_order_of_central_counts_at_its_gateway_until_central_closes_it(tmp_path: Path) -> None:
    order = {"id": "WO-1", "product": "PLC", "profile": "idevid", "quantity": 20, "credit": 5, "serials": ["SN-*"]}
    (tmp_path / "order.json").write_text(json.dumps(order), encoding="utf-8")
    async with Fleet.running(tmp_path / "fleet", gateways=1) as fleet:
        gateway, central = fleet.gateways[0], fleet.central

        async def share() -> dict[str, object]:
            shown = await central.command("order", "show", "WO-1")
            (found,) = cast(list[dict[str, object]], shown["gateways"])
            return found

        async def accepted() -> bool:
            return (await share())["accepted"] == 1

        async def over() -> bool:
            return bool((await share())["over"])

        await central.command("order", "set", str(tmp_path / "order.json"), "--gateway", gateway.origin)
        await until(accepted, "the gateway's record says that it works by the order", every_s=0.5)
        assert "WO-1" in json.dumps(await gateway.command("order", "list"))
        await central.command("order", "close", "WO-1")
        await until(over, "the gateway's record says that it begins nothing more", every_s=0.5)

"""Two central daemons on one PostgreSQL database, killed by turns while gateways retry through both: no record lost or doubled.

Each worker has a cable of its own; one is pulled by turns, too, so gateways change over with requests under way. PostgreSQL
itself is killed once as well and recovers from its log.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.journal.verify import verify
from sync.central.audit import root_problems
from sync.central.rows import Certificate, Journal
from sync.central.store_postgres import PostgresStore
from tests.support.fault_proxy import FaultProxy
from tests.support.fleet import Daemon, Fleet, free_ports, until
from tests.support.fleet_story import Account, account_in, journal_at_rest
from tests.support.postgres import PostgresServer, postgres_server

#: How often a worker is killed; more of it with SYNC_KILLS in the environment, other moments with SYNC_SEED.
_KILLS = int(os.environ.get("SYNC_KILLS", "4"))
_SEED = int(os.environ.get("SYNC_SEED", "7"))
_CERTIFICATES = 120

pytestmark = pytest.mark.alone


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    with postgres_server() as running:
        yield running


class Workers(Fleet):
    """``central`` and ``other`` are workers of one central; gateways know the address of either's cable."""

    def __init__(self, directory: Path, dsn: str) -> None:
        super().__init__(directory, 2)
        self.dsn = dsn
        self.other = Daemon("sync.central.cli", directory / "central-2")
        self.other_cable = FaultProxy(lambda: ("127.0.0.1", self.other.port("https")))

    @property
    def daemons(self) -> list[Daemon]:
        return [self.central, self.other, *self.gateways]

    async def start(self) -> None:
        first, second = await self._prepare_workers()
        await self.cable.start(first)
        await self.other_cable.start(second)
        await asyncio.gather(*(gateway.prepare() for gateway in self.gateways))
        await asyncio.gather(self.central.start(), self.other.start())
        await asyncio.gather(*(gateway.start() for gateway in self.gateways))
        for gateway, port, worker in zip(self.gateways, (first, second), (self.central, self.other), strict=True):
            await gateway.join(worker, f"https://localhost:{port}")

    async def stop(self) -> None:
        try:
            await super().stop()
        finally:
            await self.other_cable.close()

    async def _prepare_workers(self) -> tuple[int, int]:
        """As docs/OPERATIONS.md says: init and a first start of one, then its keys for the other, but not ``tls.key``."""
        cables = free_ports(2)
        urls = ", ".join(f'"https://localhost:{port}"' for port in cables)
        for worker in (self.central, self.other):
            worker.state.mkdir(mode=0o700, parents=True)
            https, http = free_ports(2)
            (worker.state / "central.toml").write_text(
                f'[central]\nname = "central"\nurls = [{urls}]\nbase_url = "http://pki.test"\n'
                f'[listen.https]\nhost = "127.0.0.1"\nport = {https}\n[listen.http]\nhost = "127.0.0.1"\nport = {http}\n'
                f'[tls]\nnames = ["localhost", "127.0.0.1"]\n[database]\nurl = "{self.dsn}"\n',
                encoding="utf-8",
            )
        await self.central.command("init")
        await self.central.start()
        await self.central.stop()
        shutil.copytree(self.central.state / "keys", self.other.state / "keys", ignore=shutil.ignore_patterns("tls.key"))
        return cables[0], cables[1]

    async def agree(self) -> None:
        """Until every gateway says that nothing waits and the newest document is in force."""

        async def settled() -> bool:
            entries = {each["origin"]: each for each in (await self.central.ask("/gateways"))["gateways"]}  # type: ignore[union-attr, index, call-overload]
            for gateway in self.gateways:
                report = await gateway.ask("/central")
                if report["waiting"] or report["applied"] != entries[gateway.origin]["document"]:
                    return False
            return True

        await until(settled, "both gateways have sent everything and obey")

    async def projected(self) -> list[Account]:
        """What the database holds of each gateway, once every record has become its rows."""
        store = await PostgresStore.open(self.dsn)
        try:
            accounts = [await account_in(store, gateway.origin) for gateway in self.gateways]
            assert await root_problems(store) == []

            async def all_rows() -> bool:
                async with store.transaction() as t:
                    rows = await t.count(Certificate, state="issued")
                return rows == sum(len(each.certificates) for each in accounts)

            await until(all_rows, "each certificate has its row, once")
            async with store.transaction() as t:
                assert not [each.fenced for each in await t.select(Journal) if each.fenced]
            return accounts
        finally:
            await store.close()


async def _devices(fleet: Workers, round_: int) -> None:
    await asyncio.gather(*(gateway.issue(_CERTIFICATES, f"{gateway.name}-{round_}") for gateway in fleet.gateways))


async def test_gateways_go_on_through_either_worker_and_every_record_lies_there_once(
    tmp_path: Path, server: PostgresServer
) -> None:
    rng = random.Random(_SEED)
    fleet = Workers(tmp_path, server.new_database())
    try:
        await fleet.start()
        sides = [(fleet.central, fleet.cable), (fleet.other, fleet.other_cable)]
        for round_ in range(_KILLS):
            victim, _ = sides[round_ % 2]
            devices = asyncio.create_task(_devices(fleet, round_))
            await asyncio.sleep(rng.uniform(0.1, 0.8))  # the moment itself
            await victim.kill()
            await devices
            heard = [await gateway.ask("/central") for gateway in fleet.gateways]
            assert all(report["joined"] and not report["fenced"] for report in heard)
            if round_ == _KILLS - 1:  # with one worker dead, the other one takes everything
                await _by_survivor(fleet, round_)
            await victim.start()
            _, cable = sides[(round_ + 1) % 2]
            cable.unplug()  # and now the one that was alive is out of reach
            await fleet.agree()
            cable.plug()
        server.stop(signal.SIGQUIT)
        server.start()
        await _devices(fleet, _KILLS)
        await fleet.agree()
        theirs = await fleet.projected()
    finally:
        await fleet.stop()
    for gateway, account in zip(fleet.gateways, theirs, strict=True):
        assert verify(gateway.state / "journal.db", signatures=True).clean
        ours = journal_at_rest(gateway.state / "journal.db")
        assert ours.records[: len(account.records)] == account.records
        assert len(account.devices()) == _CERTIFICATES * (_KILLS + 1)
        assert set(account.certificates.items()) == set(ours.certificates.items())


async def _by_survivor(fleet: Workers, round_: int) -> None:
    survivor = fleet.other if round_ % 2 == 0 else fleet.central

    async def taken() -> bool:
        reports = [await gateway.ask("/central") for gateway in fleet.gateways]
        return not any(report["waiting"] for report in reports)

    await until(taken, "the worker that is left takes everything")
    assert (await survivor.command("verify"))["journals"] == 2

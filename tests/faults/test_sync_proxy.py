"""The line breaks after any octet of an exchange, in either direction: nothing is lost, nothing is there twice.

Central is a process of its own; the gateway is opened here, so that each exchange begins anew: TLS, challenge, hello, records,
desired document, the record that it is in force. The octets are those of TCP, so a cut falls anywhere in TLS as well.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from gateway.app import Gateway, opened
from gateway.config import load_config
from gateway.journal.journal import JournalState
from gateway.journal.records import OperatorAction
from sync import session
from tests.support.fault_proxy import Cut, Direction, FaultProxy
from tests.support.fleet import Fleet, until
from tests.support.fleet_story import central_at_rest, entry_of, journal_at_rest

#: Positions in each direction; SYNC_CUTS=all in the environment cuts at every octet, which takes hours. SYNC_PART=2/5 does
#: every fifth of those, from the second on, so that five processes share the work: most of it is waiting.
_CUTS = os.environ.get("SYNC_CUTS", "40")
_PART = os.environ.get("SYNC_PART", "1/1")
_SEED = int(os.environ.get("SYNC_SEED", "5"))
_RECORDS = 3

pytestmark = pytest.mark.alone


@dataclass
class Pair:
    fleet: Fleet
    gateway: Gateway
    origin: str
    exchanges: int = 0

    async def exchange(self, cut: Cut | None) -> bool:
        """One exchange from its beginning until both sides agree; whether the line broke in it."""
        self.exchanges += 1
        actions = [OperatorAction("noted", "test", f"{self.exchanges}-{number}") for number in range(_RECORDS)]
        await self.gateway.journal.append(*actions)
        quota = {"scope": "central", "name": "quotas", "value": {"ldevid": 1_000_000 + self.exchanges}}
        await self.fleet.central.ask("/settings", quota)  # type: ignore[arg-type]
        document = int(str((await entry_of(self.fleet.central, self.origin))["document"]))
        self.fleet.cable.arm(cut)
        line = asyncio.create_task(self.gateway.member.run())

        async def agreed() -> bool:
            report = self.gateway.member.report()
            applied = report["applied"]
            # Central may have made a newer one by itself: the first records tell it that the CA is active.
            return isinstance(applied, int) and applied >= document and report["waiting"] == 0

        try:
            await until(agreed, f"agreement on document {document} after {cut}", deadline_s=60, every_s=0.01)
        finally:
            line.cancel()
            await asyncio.gather(line, return_exceptions=True)
        assert (await entry_of(self.fleet.central, self.origin))["records"] == self.gateway.journal.head.size
        return cut is not None and not self.fleet.cable.armed


@asynccontextmanager
async def pair(directory: Path) -> AsyncIterator[Pair]:
    """A gateway that has joined as a process, and was opened again here."""
    fleet = Fleet(directory, 1)
    try:
        await fleet.start()
        (joined,) = fleet.gateways
        await joined.stop()
        config = load_config(joined.state / "config.toml").with_state(joined.state)
        async with opened(config) as gateway:
            work = asyncio.create_task(gateway.authority.run())  # the certificate for the line, lists
            try:
                yield Pair(fleet, gateway, joined.origin)
            finally:
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)
            assert gateway.journal.state is not JournalState.FENCED
    finally:
        await fleet.stop()


def positions(octets: int, rng: random.Random) -> list[int]:
    """Where to cut an exchange of so many octets: everywhere, or one place in each of equal parts."""
    if _CUTS == "all":
        first, step = map(int, _PART.split("/"))
        return list(range(first - 1, octets, step))
    parts = int(_CUTS)
    return [rng.randrange(octets * part // parts, octets * (part + 1) // parts) for part in range(parts)]


async def test_a_line_that_breaks_anywhere_costs_no_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "SHORTEST_PAUSE_S", 0.01)
    monkeypatch.setattr(session, "LONGEST_PAUSE_S", 0.02)
    rng = random.Random(_SEED)
    async with pair(tmp_path) as two:
        await two.exchange(None)
        await two.exchange(None)
        passed = dict(two.fleet.cable.passed)  # of a whole exchange
        assert min(passed.values()) > 3_000
        broken = made = 0
        print(f"octets of an exchange: {passed}")
        for direction in Direction:
            for octets in positions(passed[direction], rng):
                made += 1
                broken += await two.exchange(Cut(direction, octets))
        print(f"{made} cuts made, {broken} of them broke an exchange")
        assert broken >= made * 9 // 10  # exchanges differ by some octets, so the last places may not be reached
        origin, state = two.origin, two.fleet.gateways[0].state
        central = two.fleet.central.state
    ours = journal_at_rest(state / "journal.db")
    theirs = await central_at_rest(central / "central.db", origin)
    assert ours.records[: len(theirs.records)] == theirs.records
    assert len(ours.records) - len(theirs.records) <= 1  # "stopped", when nobody listened any more
    noted = [body for body in theirs.records if b'"action":"noted"' in body]
    assert len(noted) == len(set(noted)) == _RECORDS * two.exchanges


async def test_the_cut_falls_after_exactly_so_many_octets() -> None:
    """The proxy itself: what it lets through is what it says, and afterwards it lets everything through."""
    received: list[bytes] = []
    done = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parts = []
        try:
            while part := await reader.read(100):
                parts.append(part)
        except ConnectionError:
            pass
        received.append(b"".join(parts))
        writer.close()
        done.set()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    address = server.sockets[0].getsockname()[:2]
    proxy = FaultProxy(lambda: address)
    await proxy.start()
    try:
        for octets, expected in ((7, b"0123456"), (0, b""), (99, b"0123456789")):
            done.clear()
            proxy.arm(Cut(Direction.UP, octets))
            reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            writer.write(b"0123456789")
            if octets > 10:
                writer.write_eof()
            await asyncio.wait_for(done.wait(), 10)
            assert received.pop() == expected
            assert proxy.armed == (octets > 10)
            writer.close()
            proxy.arm(None)
        proxy.unplug()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        writer.close()
    finally:
        await proxy.close()
        server.close()

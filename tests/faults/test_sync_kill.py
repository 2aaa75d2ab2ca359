"""kill -9 of a gateway, of central, of both, while devices enrol and records travel: nothing is lost, nothing doubled."""

from __future__ import annotations

import asyncio
import base64
import os
import random
import ssl
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from gateway.journal.verify import verify
from tests.support.est_requests import csr_der
from tests.support.fleet import Daemon, Fleet, Gateway, until
from tests.support.fleet_story import Account, agreement, central_at_rest, entry_of, journal_at_rest

#: Lives that end with SIGKILL; more of them with SYNC_KILLS in the environment, other moments with SYNC_SEED.
_KILLS = int(os.environ.get("SYNC_KILLS", "6"))
_SEED = int(os.environ.get("SYNC_SEED", "3"))
_CLIENTS = 8

pytestmark = pytest.mark.alone


@dataclass
class Crowd:
    """Devices of one gateway. ``held``: the certificates (DER) that each name was given, over all lives."""

    gateway: Gateway
    held: dict[str, set[bytes]] = field(default_factory=dict)

    async def client(self, prefix: str, stop: asyncio.Event) -> None:
        """Enrol one name after the other; a name without an answer is asked for again with the same request."""
        plan = self.gateway.plan(1, prefix)
        trust = ssl.create_default_context(cafile=plan.anchors)
        headers = {"Authorization": plan.authorization, "Content-Type": plan.content_type}
        url, number = f"https://localhost:{plan.port}{plan.path}", 0
        connector = aiohttp.TCPConnector(ssl=trust, force_close=True)
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:
            while not stop.is_set():
                name = f"{prefix}-{number}"
                body = base64.b64encode(csr_der(name, ec.generate_private_key(ec.SECP256R1())))
                while not await self._enrol(session, url, name, body) and not stop.is_set():
                    await asyncio.sleep(0.05)  # as devices do
                number += 1

    async def _enrol(self, session: aiohttp.ClientSession, url: str, name: str, body: bytes) -> bool:
        try:
            async with session.post(url, data=body) as answer:
                content = await answer.read()
        except (aiohttp.ClientError, OSError):
            return False
        if answer.status != 200:
            assert answer.status == 503, content
            return False
        (certificate,) = pkcs7.load_der_pkcs7_certificates(base64.b64decode(content))
        self.held.setdefault(name, set()).add(certificate.public_bytes(Encoding.DER))
        return True


def broken_promises(ours: Account, theirs: Account, held: dict[str, set[bytes]]) -> list[str]:
    """What was lost or is there twice; an account itself refuses a serial that was issued twice."""
    found = []
    if ours.records != theirs.records:
        found.append(f"the gateway has {len(ours.records)} records, central {len(theirs.records)}, and they are not the same")
    at_central = list(theirs.certificates.values())
    for name, certificates in held.items():
        if len(certificates) != 1:
            found.append(f"{name} was given {len(certificates)} certificates for one request")
        found += [f"{name}: central lacks its certificate" for each in certificates if at_central.count(each) != 1]
    return found


async def _life(fleet: Fleet, crowd: Crowd, life: int, rng: random.Random) -> None:
    """Issue, let records travel, kill at a random moment, start again while devices go on asking."""
    gateway = fleet.gateways[0]
    victims: list[Daemon] = [[gateway], [fleet.central], [gateway, fleet.central]][life % 3]
    stop, backlog = asyncio.Event(), rng.random() < 0.5
    if backlog:
        fleet.cable.unplug()
    enough = len(crowd.held) + rng.randrange(20, 200)
    clients = [asyncio.create_task(crowd.client(f"device-{life}-{number}", stop)) for number in range(_CLIENTS)]

    async def issued() -> bool:
        return len(crowd.held) >= enough

    await until(issued, f"{enough} certificates")
    if backlog:
        before = (await entry_of(fleet.central, gateway.origin))["records"]
        fleet.cable.plug()

        async def flows() -> bool:
            return (await entry_of(fleet.central, gateway.origin))["records"] != before

        await until(flows, "records reach central again")
    await asyncio.sleep(rng.uniform(0, 0.2))  # the moment itself
    for victim in victims:
        await victim.kill()
    for victim in victims:
        await victim.start()
    after = len(crowd.held) + _CLIENTS

    async def goes_on() -> bool:
        return len(crowd.held) >= after

    await until(goes_on, "devices get certificates after the restart")
    stop.set()
    await asyncio.gather(*clients)


async def test_kill_of_either_side_loses_no_record_and_makes_none_twice(tmp_path: Path) -> None:
    rng = random.Random(_SEED)
    async with Fleet.running(tmp_path, gateways=1) as fleet:
        gateway = fleet.gateways[0]
        crowd = Crowd(gateway)
        for life in range(_KILLS):
            await _life(fleet, crowd, life, rng)
        await agreement(fleet)
        assert (await fleet.central.command("verify"))["journals"] == 1
        alerts = (await fleet.central.ask("/alerts"))["alerts"]
        assert not alerts
    assert verify(gateway.state / "journal.db", signatures=True).clean
    ours = journal_at_rest(gateway.state / "journal.db")
    theirs = await central_at_rest(fleet.central.state / "central.db", gateway.origin)
    # The gateway's last word, "stopped", was written when nobody listened any more.
    missing = len(ours.records) - len(theirs.records)
    assert missing <= 1
    ours.records = ours.records[: len(theirs.records)]
    assert broken_promises(ours, theirs, crowd.held) == []
    assert len(crowd.held) > 20 * _KILLS

    # The comparison bites: a record less, a certificate less, a second certificate for one request.
    ours.records.pop()
    assert broken_promises(ours, theirs, {})
    name = next(iter(crowd.held))
    assert broken_promises(ours, Account(), {name: crowd.held[name]})
    assert broken_promises(Account(), Account(), {name: {b"one", b"two"}})

"""A token that is pulled out, hangs, crashes or lies under 64 enrolments: no certificate is lost, none is made twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gateway import app
from gateway.app import Gateway
from gateway.authority.requests import Issued
from gateway.config import Config
from gateway.errors import Unavailable
from gateway.journal import records
from gateway.keys.keeper import TokenTimes
from gateway.keys.provider import KeyRing
from gateway.keys.signer import KeyState
from gateway.keys.wrapping import WrappingKey
from tests.support.crash import Told, invariants
from tests.support.crash_requests import configuration, request
from tests.support.loop_stalls import measured_loop
from tests.support.tokens import FaultyToken, build_fault_module, softhsm_store, softhsm_token

_CLIENTS = 64
#: As long as a fast USB token takes, so that most requests wait when the fault comes. Milliseconds.
_LATENCY = "latency=15"
_LOGGED = "C_Sign"

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def p11fault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_fault_module(tmp_path_factory.mktemp("p11fault"))


@dataclass
class Stand:
    """A gateway whose CA key is on a token that can be made to fail."""

    config: Config
    faulty: FaultyToken
    told: Told = field(default_factory=Told)
    waits: list[int] = field(default_factory=list)  # Retry-After of whoever was turned down

    @asynccontextmanager
    async def gateway(self) -> AsyncIterator[Gateway]:
        async with app.opened(self.config) as gateway:
            await until(lambda: gateway.authority.generations.active.signer.health().state is KeyState.UP)
            yield gateway

    async def client(self, gateway: Gateway, name: str) -> None:
        """Ask until there is a certificate, as a client with Retry-After does; but sooner."""
        self.told.asked.append(name)
        while True:
            try:
                outcome = await gateway.authority.enroll(await request(gateway, name, self.told))
            except Unavailable as error:
                self.waits.append(error.retry_after)
                await asyncio.sleep(0.1)
                continue
            assert isinstance(outcome, Issued)
            self.told.held.setdefault(name, []).append(outcome.certificate.hex())
            return


async def until(condition: Callable[[], bool]) -> None:
    """Poll; a minute is for a machine with a hundred other things to do."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.005)


@pytest.fixture
async def stand(p11fault: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    def keyring(config: Config, wrapping: WrappingKey) -> KeyRing:
        # A hung token is given up after 10 s; here sooner. Everything else is as in production.
        return KeyRing(config.gateway.state / "keys", wrapping, times=TokenTimes(sign=1.0))

    monkeypatch.setattr(app, "_keyring", keyring)
    real = softhsm_token(softhsm_store(tmp_path / "softhsm"), "ca token")
    faulty = FaultyToken(p11fault, tmp_path / "faulty", real)
    (tmp_path / "pin").write_text(real.pin)
    (tmp_path / "s" / "demo").mkdir(parents=True)
    config = configuration(tmp_path / "s", ca_key=faulty.token.uri("ca", pin_source=f"file:{tmp_path / 'pin'}"))
    await app.prepare_demo(config)
    return Stand(config, faulty)


async def made(gateway: Gateway) -> tuple[int, int]:
    """How many certificates and voids the journal has."""
    kinds = [type(record.payload) async for record in gateway.journal.scan(records.Issued, records.Void)]
    return kinds.count(records.Issued), kinds.count(records.Void)


async def test_one_operation_of_the_token_makes_one_certificate(stand: Stand) -> None:
    async with stand.gateway() as gateway:
        before = stand.faulty.count(_LOGGED)
        clients = [stand.client(gateway, f"ldevid/{number % _CLIENTS}") for number in range(2 * _CLIENTS)]
        await asyncio.gather(*clients)
        assert await made(gateway) == (_CLIENTS, 0)
        assert stand.faulty.count(_LOGGED) - before == _CLIENTS
    assert not await invariants(stand.config, stand.told, request)


@pytest.mark.parametrize("fault", ["unplugged", "hang", "abort", "wrong"])
async def test_a_token_that_fails_under_64_clients_loses_and_doubles_nothing(stand: Stand, fault: str) -> None:
    async with stand.gateway() as gateway:
        before = stand.faulty.count(_LOGGED)
        stand.faulty.order(_LATENCY)
        clients = [asyncio.create_task(stand.client(gateway, f"ldevid/{number % _CLIENTS}")) for number in range(2 * _CLIENTS)]
        await until(lambda: len(stand.told.held) >= 8)
        # From here on: that 128 requests begin in one turn of the loop is the test's doing, not the token's.
        with measured_loop() as stalls:
            stand.faulty.order(fault, _LATENCY)
            await until(lambda: bool(stand.waits))
            held = len(stand.told.held)
            assert held < _CLIENTS, "the fault came when all was done"
            stand.faulty.replug()
            replugged = time.monotonic()
            await until(lambda: len(stand.told.held) > held)
            assert time.monotonic() - replugged < 5
            await asyncio.gather(*clients)
        issued, void = await made(gateway)
        assert issued == _CLIENTS
        assert void > 0, "no signature was cut short"
        # Whatever was asked of the token made the one certificate of its intent, or none: nothing is ever asked twice.
        assert issued <= stand.faulty.count(_LOGGED) - before <= issued + void
        assert max(stalls) < 0.05
        assert min(stand.waits) > 0
    assert not await invariants(stand.config, stand.told, request)

"""The daemon itself over TLS under 64 clients: what they are answered, and what a SIGKILL in the midst of it leaves behind."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import signal
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from gateway.config import load_config
from gateway.demo import CONFIG_NAME
from tests.support.crash import Told, invariants
from tests.support.demo_gateway import DemoGateway, running_demo
from tests.support.est_requests import csr_der

_CLIENTS = 64

pytestmark = pytest.mark.alone


def body_of(name: str) -> bytes:
    """A request for ``name`` as a device sends it: the same key every time, the signature made anew."""
    secret = int.from_bytes(hashlib.sha256(name.encode()).digest(), "big") >> 1
    return base64.b64encode(csr_der(name, ec.derive_private_key(secret, ec.SECP256R1())))


@dataclass
class Crowd:
    """Clients of one gateway and what they saw of it, over all its lives."""

    told: Told = field(default_factory=Told)
    statuses: list[tuple[int, str]] = field(default_factory=list)  # with the Retry-After

    def session(self, gateway: DemoGateway) -> aiohttp.ClientSession:
        demo: Any = gateway.endpoints["demo"]
        trust = ssl.create_default_context(cafile=str(gateway.endpoints["trust_anchors"]))
        login = base64.b64encode(f"{demo['token']['user']}:{demo['token']['secret']}".encode()).decode()
        headers = {"Authorization": f"Basic {login}", "Content-Type": "application/pkcs10"}
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust, limit=0), headers=headers)

    async def enrol(self, session: aiohttp.ClientSession, gateway: DemoGateway, name: str) -> None:
        """Ask until the answer is no 503. Raises ClientError or OSError when the gateway is gone."""
        self.told.asked.append(name)
        url = f"{gateway.endpoints['est']}/simpleenroll"
        while True:
            async with session.post(url, data=body_of(name)) as answer:
                content = await answer.read()
                self.statuses.append((answer.status, answer.headers.get("Retry-After", "")))
            if answer.status != 503:
                break
            await asyncio.sleep(0.05)
        if answer.status == 200:
            (certificate,) = pkcs7.load_der_pkcs7_certificates(base64.b64decode(content))
            self.told.held.setdefault(name, []).append(certificate.public_bytes(Encoding.DER).hex())

    def surprises(self) -> list[tuple[int, str]]:
        """Answers that are neither a certificate nor a deliberate "later"."""
        later = {(status, wait) for status, wait in self.statuses if status == 503 and int(wait or 0) > 0}
        return [each for each in self.statuses if each[0] != 200 and each not in later]


async def test_64_clients_get_certificates_or_a_deliberate_503_and_the_identical_one_again(tmp_path: Path) -> None:
    crowd = Crowd()
    with running_demo(tmp_path / "state") as gateway:

        async def client(number: int) -> None:
            async with crowd.session(gateway) as session:
                for turn in range(2):  # five requests at once: more than the lane has places for
                    names = [f"device-{number}-{turn}-{each}" for each in (0, 1, 2, 0, 0)]
                    await asyncio.gather(*(crowd.enrol(session, gateway, name) for name in names))
                    await crowd.enrol(session, gateway, names[0])

        await asyncio.gather(*(client(number) for number in range(_CLIENTS)))
        assert gateway.stop() == 0
    assert not crowd.surprises()
    assert len(crowd.told.held) == 6 * _CLIENTS
    assert {len(set(certificates)) for certificates in crowd.told.held.values()} == {1}
    assert not await invariants(load_config(tmp_path / "state" / CONFIG_NAME).with_state(tmp_path / "state"), crowd.told)


async def test_sigkill_of_the_daemon_under_64_clients_breaks_no_promise(tmp_path: Path) -> None:
    crowd, state = Crowd(), tmp_path / "state"
    for life in range(4):
        with running_demo(state) as gateway:
            enough = len(crowd.told.held) + 50 + 100 * life

            async def client(number: int, gateway: DemoGateway, enough: int, life: int) -> None:
                turns = 0
                async with crowd.session(gateway) as session:
                    try:
                        if life:  # whatever came of the request that was cut off: once more
                            mine = [name for name in crowd.told.asked if name.startswith(f"device-{number}-")]
                            await crowd.enrol(session, gateway, mine[-1])
                        while gateway.process.poll() is None:
                            await crowd.enrol(session, gateway, f"device-{number}-{life}-{turns}")
                            turns += 1
                            if len(crowd.told.held) >= enough:
                                gateway.process.send_signal(signal.SIGKILL)
                    except (aiohttp.ClientError, OSError):
                        return  # the gateway is gone

            await asyncio.gather(*(client(number, gateway, enough, life) for number in range(_CLIENTS)))
            assert gateway.process.wait(60) == -signal.SIGKILL
        assert not await invariants(load_config(state / CONFIG_NAME).with_state(state), crowd.told), f"life {life}"
    assert not crowd.surprises()

"""Hostile peers against the running gateway: each gets a 4xx with a reason or an OCSP error, and leaves no trace.

No trace: the journal does not grow, memory stays bounded, and the next honest client is served. What a peer may do slowly
(headers and bodies that never end) is in ``tests/protocols/test_server.py``, with deadlines of a fraction of a second.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ssl
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.x509 import ocsp

from tests.support import est_clients, hostile_http
from tests.support.est_stack import HttpAnswer, read_answer
from tests.support.hostile_est import BODIES, CREDENTIALS, DER_BODIES, PATHS, PREFIX
from tests.support.hostile_ocsp import GET_PATHS, POST_BODIES
from tests.support.hostile_requests import hostile_csrs
from tests.support.plant_gateway import Plant

#: One request may make the daemon hold its largest body a few times over; nothing of it may stay. KB.
_GROWTH_KB = 24 * 1024


@dataclass
class Attack:
    """Sends requests as they are, each over a connection of its own, from an address of its own."""

    plant: Plant
    answers: dict[str, HttpAnswer] = field(default_factory=dict)

    async def send(self, name: str, request: bytes, *, tls: bool = True) -> HttpAnswer:
        port = int(self.plant.text("https" if tls else "http").rsplit(":", 1)[1])
        context = ssl.create_default_context(cafile=str(self.plant.anchors)) if tls else None
        # 127.0.0.2, so that wrong passwords do not count against the honest clients of this machine
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="localhost" if tls else None, local_addr=("127.0.0.2", 0)
        )
        try:
            writer.write(request)
            with contextlib.suppress(ConnectionError):  # the gateway may answer and close before it has read everything
                await writer.drain()
            answer = await read_answer(reader, head=request.startswith(b"HEAD"))
        finally:
            writer.transport.abort()  # an orderly end of TLS would wait for a peer that may be gone
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()
        self.answers[f"{len(self.answers)} {name}"] = answer
        return answer

    def refused(self) -> None:
        """Every answer so far is a 4xx that says why; a 401 says it in its header (RFC 7030 clients want no body)."""
        for name, answer in self.answers.items():
            assert 400 <= answer.status < 500, (name, answer)
            assert len(answer.body) > 10 or (answer.status == 401 and "www-authenticate" in answer.headers), (name, answer)
            assert b"Traceback" not in answer.body, name


@pytest.fixture
def attack(plant: Plant, tmp_path: Path) -> Iterator[Attack]:
    """No trace is left: checked when the test has ended."""
    before, memory = plant.journal_size(), plant.memory_kb()
    attack = Attack(plant)
    yield attack
    assert attack.answers
    assert plant.journal_size() == before
    assert plant.memory_kb() - memory < _GROWTH_KB
    service = plant.service(tmp_path)
    _, request = est_clients.openssl_request(service, f"honest-{before}")
    honest = est_clients.curl(service, "simpleenroll", body=request.read_bytes(), user=plant.token.credentials)
    assert honest.certificate, honest


def post(path: str, body: bytes, *fields: str) -> bytes:
    head = [f"POST {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(body)}", *fields]
    return "\r\n".join([*head, "\r\n"]).encode() + body


def basic(plant: Plant) -> str:
    """The header of someone who may enrol: only what is asked for is wrong."""
    return "Authorization: Basic " + base64.b64encode(plant.token.credentials.encode()).decode()


def operations(names: Iterable[str] = ("simpleenroll", "serverkeygen")) -> list[str]:
    return [f"{PREFIX}/{name}" for name in names]


async def test_bodies_that_are_no_request(plant: Plant, attack: Attack) -> None:
    for path in operations():
        for name, body in (BODIES | DER_BODIES).items():
            await attack.send(name, post(path, body, "Content-Type: application/pkcs10", basic(plant)))
    attack.refused()
    assert len(attack.answers) >= 100


async def test_requests_that_no_ca_should_sign(plant: Plant, attack: Attack) -> None:
    for path in operations(("simpleenroll", "simplereenroll", "serverkeygen")):
        for name, der in hostile_csrs().items():
            body = base64.b64encode(der)
            await attack.send(name, post(path, body, "Content-Type: application/pkcs10", basic(plant)))
    attack.refused()
    assert len(attack.answers) >= 200


async def test_paths_that_must_not_reach_an_operation(plant: Plant, attack: Attack) -> None:
    for path in PATHS:
        await attack.send(path[:60], post(path, b"MIIB", "Content-Type: application/pkcs10", basic(plant)))
    attack.refused()


async def test_credentials_that_prove_nothing(attack: Attack) -> None:
    body = base64.b64encode(hostile_csrs()["a bit turned at " + str(_last_bit())])
    for credential in CREDENTIALS:
        fields = ("Content-Type: application/pkcs10", f"Authorization: {credential}")
        await attack.send(credential[:40], post(f"{PREFIX}/simpleenroll", body, *fields))
    attack.refused()


def _last_bit() -> int:
    return max(int(name.rsplit(" ", 1)[1]) for name in hostile_csrs() if name.startswith("a bit"))


@pytest.mark.parametrize("tls", [True, False], ids=["https", "http"])
async def test_what_is_not_http(attack: Attack, tls: bool) -> None:
    for name in hostile_http.REQUESTS.keys() - hostile_http.UNFINISHED:
        request = hostile_http.REQUESTS[name]
        await attack.send(name, request, tls=tls)
    attack.refused()


async def test_ocsp_requests_that_are_none(attack: Attack) -> None:
    requests = {path[:40]: f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for path in GET_PATHS if " " not in path}
    requests |= {name: post("/ocsp", body, "Content-Type: application/ocsp-request") for name, body in POST_BODIES.items()}
    for name, request in requests.items():
        answer = await attack.send(name, request, tls=False)
        if answer.status == 200:
            status = ocsp.load_der_ocsp_response(answer.body).response_status
            assert status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST, name
        else:
            assert 400 <= answer.status < 500, (name, answer)
            assert answer.body, name

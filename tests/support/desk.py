"""An operator's desk: central's REST interface and page over real TLS, and a client that asks as one operator."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import aiohttp

from gateway.protocols.server import Endpoint
from sync.central.operators import Operators, add_operator
from sync.central.pages import Pages
from sync.central.rest import RestEndpoint
from sync.central.rest_answers import ROUTES
from sync.central.routes import Parts
from tests.support.authority import SteppedClock
from tests.support.served_central import Device, Served, served

_keys = itertools.count()


@dataclass
class Answer:
    status: int
    head: Mapping[str, str]  # in any case
    content: bytes

    @property
    def json(self) -> dict[str, object]:
        found = json.loads(self.content)
        assert isinstance(found, dict)
        return found

    @property
    def items(self) -> list[dict[str, object]]:
        found = self.json["items"]
        assert isinstance(found, list)
        return found


@dataclass
class Desk:
    """An operator's place: asks with a secret, a new Idempotency-Key for each change."""

    served: Served
    secret: str
    file: Path
    device: Device | None = None

    async def ask(self, method: str, path: str, body: object = None, **head: str) -> Answer:
        headers = {"Authorization": f"Bearer {self.secret}"} if self.secret else {}
        if method != "GET":
            headers["Idempotency-Key"] = f"test-key-{next(_keys)}"
        headers |= {name.replace("_", "-"): value for name, value in head.items()}
        data = io.BytesIO(body) if isinstance(body, bytes) else json.dumps(body) if body is not None else None
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self.served.context(self.device))) as session,
            session.request(method, f"{self.served.url}/api/v1{path}", data=data, headers=headers) as answer,
        ):
            return Answer(answer.status, answer.headers, await answer.read())

    async def get(self, path: str) -> Answer:
        answer = await self.ask("GET", path)
        assert answer.status == 200, answer.content
        return answer

    async def post(self, path: str, body: object = None, **head: str) -> Answer:
        return await self.ask("POST", path, body, **head)


@asynccontextmanager
async def open_desk(directory: Path, clock: SteppedClock | None = None) -> AsyncIterator[Desk]:
    """The operator is called anna."""
    file = directory / "operators.json"
    secret = add_operator(file, "anna", "operator")

    def more(made: Served) -> list[Endpoint]:
        one = made.central
        parts = Parts(one.store, one.clock, one.desired, one.registry, one.revocations, made.bundles, one.orders)
        return [RestEndpoint(ROUTES, parts, Operators(file)), Pages()]

    async with served(directory / "central", clock, more=more) as made:
        yield Desk(made, secret, file)


def place(origin: str) -> str:
    return quote(origin, safe="")

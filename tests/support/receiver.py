"""A web server of somebody else's on a free port of 127.0.0.1: notes what it gets and answers as it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from aiohttp import web


@dataclass
class Received:
    method: str
    path: str
    head: dict[str, str]
    body: bytes


@dataclass
class Receiver:
    """``statuses`` are given one after the other, then 200."""

    url: str = ""
    got: list[Received] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)

    async def answer(self, request: web.BaseRequest) -> web.Response:
        head = {name.lower(): value for name, value in request.headers.items()}
        self.got.append(Received(request.method, request.path, head, await request.read()))
        status = self.statuses.pop(0) if self.statuses else 200
        return web.Response(status=status, text="as told\nto", headers={"Location": "/elsewhere"})


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    made = Receiver()
    runner = web.ServerRunner(web.Server(made.answer))  # type: ignore[arg-type]
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    made.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield made
    finally:
        await runner.cleanup()

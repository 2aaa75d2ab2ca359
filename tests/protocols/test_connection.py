"""One connection's requests: answered in order by one task, whichever way an answer is written."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from gateway.protocols import connection
from gateway.protocols.connection import Answer, Whole
from gateway.protocols.server import Limits, Listener
from tests.support.est_stack import read_answer

GET = b"GET /whole HTTP/1.1\r\nHost: a\r\n\r\n"


@dataclass
class Endpoint:
    """Answers with what stands in ``body``, once ``gate`` is open; notes how much was still unsent at each request."""

    body: bytes = b"a whole answer"
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    unsent: list[int] = field(default_factory=list)
    prefixes: Sequence[str] = ("/whole",)

    async def answer(self, request: web.BaseRequest) -> Answer:
        assert request.transport is not None
        self.unsent.append(request.transport.get_write_buffer_size())
        self.reached.set()
        await self.gate.wait()
        return Whole(self.body, (("Content-Type", "text/plain"),))


@dataclass
class World:
    endpoint: Endpoint
    listener: Listener

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.listener.addresses[0][1])


@pytest.fixture
async def world() -> AsyncIterator[World]:
    endpoint = Endpoint()
    endpoint.gate.set()
    listener = Listener("test", [endpoint], limits=Limits(headers_s=60.0, body_s=60.0, idle_s=60.0))
    await listener.start()
    yield World(endpoint, listener)
    await listener.close(1.0)


async def ended(reader: asyncio.StreamReader) -> bool:
    """Whether the gateway closes the connection without another word, and long before it would close an idle one."""
    async with asyncio.timeout(10):
        return await reader.read() == b""


@pytest.mark.parametrize(
    ("request_bytes", "says"),
    [
        (GET, None),
        (GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), "close"),
        (GET.replace(b"1.1", b"1.0"), None),
        (GET.replace(b"1.1\r\n", b"1.0\r\nConnection: keep-alive\r\n"), "keep-alive"),
        (GET.replace(b"GET", b"HEAD"), None),
        (GET.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"), None),
    ],
    ids=["1.1", "1.1 close", "1.0", "1.0 keep-alive", "HEAD", "upgrade"],
)
async def test_an_answer_says_the_same_whichever_way_it_is_written(
    world: World, request_bytes: bytes, says: str | None
) -> None:
    reader, writer = await world.connect()
    head = request_bytes.startswith(b"HEAD")
    writer.write(request_bytes)
    answer = await read_answer(reader, head=head)
    assert answer.status == 200
    assert answer.body == (b"" if head else world.endpoint.body)
    fields = {name: value for name, value in answer.headers.items() if name not in ("date", "connection")}
    assert fields == {"server": "edge-gateway", "content-type": "text/plain", "content-length": str(len(world.endpoint.body))}
    assert "date" in answer.headers
    assert answer.headers.get("connection") == says
    if says == "keep-alive" or (says is None and b"HTTP/1.1" in request_bytes):
        writer.write(GET)
        assert (await read_answer(reader)).body == world.endpoint.body
    else:
        assert await ended(reader)
    writer.close()


async def test_a_body_that_nobody_wanted_is_read_away_before_the_next_request(world: World) -> None:
    reader, writer = await world.connect()
    writer.write(b"POST /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
    assert (await read_answer(reader)).status == 404
    writer.write(bytes(1_000_000) + GET)  # more than is kept for a reader
    assert (await read_answer(reader)).status == 200
    writer.close()


async def test_a_body_that_nobody_wanted_and_that_never_ends_costs_the_connection(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "_LINGERING_S", 0.05)
    reader, writer = await world.connect()
    writer.write(b"POST /nothing HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\nx")
    assert (await read_answer(reader)).status == 404
    assert await ended(reader)
    writer.close()


async def test_more_requests_at_once_than_are_queued_are_all_answered(world: World) -> None:
    reader, writer = await world.connect()
    writer.write(500 * GET)
    for _ in range(500):
        assert (await read_answer(reader)).status == 200
    writer.close()


async def test_who_reads_no_answers_gets_no_more_of_them(world: World) -> None:
    world.endpoint.body = bytes(8_000_000)  # more than the kernel takes for a reader that does not read
    reader, writer = await world.connect()
    writer.write(3 * GET)
    for _ in range(3):
        assert len((await read_answer(reader)).body) == 8_000_000
    assert max(world.endpoint.unsent) < 1_000_000
    writer.close()


async def test_closing_waits_for_the_request_that_is_being_answered(world: World) -> None:
    world.endpoint.gate.clear()
    reader, writer = await world.connect()
    writer.write(GET)
    await world.endpoint.reached.wait()
    closing = asyncio.create_task(world.listener.close(60.0))
    await asyncio.sleep(0)
    assert not closing.done()
    world.endpoint.gate.set()
    assert (await read_answer(reader)).status == 200
    async with asyncio.timeout(10):
        await closing
    assert await ended(reader)
    writer.close()


async def test_a_request_that_does_not_end_is_cut_off_when_the_grace_is_over(world: World) -> None:
    world.endpoint.gate.clear()
    reader, writer = await world.connect()
    writer.write(GET)
    await world.endpoint.reached.wait()
    await world.listener.close(0.05)
    assert await ended(reader)
    writer.close()


@pytest.mark.parametrize("waits_for_answer", [True, False])
async def test_a_client_that_has_gone_disturbs_nobody(
    world: World, waits_for_answer: bool, caplog: pytest.LogCaptureFixture
) -> None:
    _, writer = await world.connect()
    if waits_for_answer:
        world.endpoint.gate.clear()
        writer.write(GET)
        await world.endpoint.reached.wait()
    writer.transport.abort()
    reader, other = await world.connect()
    other.write(GET)
    while world.listener.connections != 1:
        await asyncio.sleep(0)
    world.endpoint.gate.set()
    assert (await read_answer(reader)).status == 200
    other.close()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []

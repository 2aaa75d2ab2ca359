"""The listener under hostile peers: every one is answered 4xx or cut off in bounded time, and none costs another anything."""

from __future__ import annotations

import asyncio
import socket
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.protocols.server import Limits
from tests.support.est_requests import csr_der
from tests.support.est_stack import EstStack, TestPki, read_answer
from tests.support.hostile_http import EST, POST, REQUESTS


@pytest.fixture
async def quick(test_pki: TestPki, tmp_path: Path) -> AsyncIterator[EstStack]:
    """Deadlines of a fraction of a second."""
    stack = EstStack(
        test_pki,
        tmp_path,
        Limits(headers_s=0.2, body_s=0.2, handshake_s=0.3, idle_s=0.4, connections=8, connections_per_peer=6),
    )
    await stack.start()
    yield stack
    await stack.close()


@pytest.mark.parametrize("tls", [True, False], ids=["https", "http"])
async def test_every_hostile_request_is_a_4xx_with_a_reason_and_changes_nothing(stack: EstStack, tls: bool) -> None:
    for name, request in REQUESTS.items():
        answer = await stack.raw(request, tls=tls)
        assert 400 <= answer.status < 500, (name, answer)
        assert answer.body or answer.status == 401, name
        assert b"Traceback" not in answer.body, name
        assert answer.headers["server"] == "edge-gateway", name
    assert stack.authority.head == 0
    assert (await stack.est_request("GET", EST.decode() + "/cacerts")).status == 200


@pytest.mark.parametrize("tls", [True, False])
async def test_headers_that_never_end_are_408_within_their_deadline(quick: EstStack, tls: bool) -> None:
    reader, writer = await quick.connect(tls=tls)
    writer.write(b"GET / HTTP/1.1\r\nHo")
    assert (await read_answer(reader)).status == 408
    assert await reader.read() == b""
    writer.close()


async def test_headers_that_dribble_do_not_move_the_deadline(quick: EstStack) -> None:
    reader, writer = await quick.connect(tls=False)

    writer.write(b"GET / HTTP/1.1\r\nX: ")

    async def dribble() -> None:
        while True:
            writer.write(b"X")
            await asyncio.sleep(0.02)

    task = asyncio.create_task(dribble())
    assert (await read_answer(reader)).status == 408
    task.cancel()
    writer.close()


async def test_a_body_that_never_comes_is_a_400_within_its_deadline(quick: EstStack) -> None:
    answer = await quick.raw(POST + b"Content-Length: 100\r\n\r\nMII")
    assert (answer.status, b"did not arrive" in answer.body) == (400, True)


async def test_a_body_that_ends_early_changes_nothing(quick: EstStack) -> None:
    _, writer = await quick.connect(tls=True)
    writer.write(POST + b"Content-Length: 100\r\n\r\nMII")
    await writer.drain()
    writer.close()
    assert (await quick.est_request("GET", EST.decode() + "/cacerts")).status == 200
    assert quick.authority.head == 0


async def test_a_silent_connection_is_closed(quick: EstStack) -> None:
    reader, writer = await quick.connect(tls=False)
    assert await reader.read() == b""
    writer.close()


async def test_a_handshake_that_never_ends_is_closed_and_was_counted(quick: EstStack) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", quick.https_port)
    writer.write(b"\x16\x03\x01")
    assert await reader.read() == b""
    writer.close()
    assert (await quick.est_request("GET", EST.decode() + "/cacerts")).status == 200
    assert quick.https.connections <= 1


@pytest.mark.parametrize("tls", [True, False])
async def test_a_peer_has_only_so_many_connections_and_may_come_back(quick: EstStack, tls: bool) -> None:
    port = quick.https_port if tls else quick.http_port
    held = [await asyncio.open_connection("127.0.0.1", port) for _ in range(6)]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert await reader.read() == b""
    listener = quick.https if tls else quick.http
    assert listener.refused_connections == 1
    for _, each in (*held, (reader, writer)):
        each.close()
    for held_reader, _ in held:
        await held_reader.read()
    answer = await quick.raw(b"GET " + EST + b"/cacerts HTTP/1.1\r\nHost: a\r\n\r\n", tls=tls)
    assert answer.status in (200, 404)


async def test_pipelined_requests_are_answered_in_order(stack: EstStack) -> None:
    reader, writer = await stack.connect(tls=True)
    get = b"GET " + EST + b"/cacerts HTTP/1.1\r\nHost: a\r\n\r\n"
    writer.write(get + get.replace(b"cacerts", b"nothing") + get)
    assert [(await read_answer(reader)).status for _ in range(3)] == [200, 404, 200]
    writer.close()


async def test_a_request_smuggled_in_a_body_is_not_answered(stack: EstStack) -> None:
    inner = b"GET " + EST + b"/cacerts HTTP/1.1\r\nHost: a\r\n\r\n"
    reader, writer = await stack.connect(tls=True)
    writer.write(POST + b"Content-Length: %d\r\nConnection: close\r\n\r\n" % len(inner) + inner)
    assert (await read_answer(reader)).status == 400
    assert await reader.read() == b""
    writer.close()


async def test_a_thousand_requests_on_one_connection_keep_no_memory(stack: EstStack) -> None:
    reader, writer = await stack.connect(tls=False)

    async def ask(count: int) -> None:
        for _ in range(count):
            writer.write(b"POST /ocsp HTTP/1.1\r\nHost: a\r\nContent-Length: 2000\r\n\r\n" + b"\x30" * 2000)
            await read_answer(reader)

    await ask(50)
    tracemalloc.start()
    await ask(50)
    before, _ = tracemalloc.get_traced_memory()
    await ask(900)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 100_000
    writer.close()


async def test_a_huge_body_is_refused_without_being_kept(stack: EstStack) -> None:
    tracemalloc.start()
    answer = await stack.raw(POST + b"Content-Length: 65537\r\n\r\n" + b"M" * 65_537)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert answer.status == 413
    assert peak < 4_000_000


async def test_a_listener_takes_a_socket_that_is_already_open(test_pki: TestPki, tmp_path: Path) -> None:
    stack = EstStack(test_pki, tmp_path)
    listening = socket.create_server(("127.0.0.1", 0))
    await stack.https.start(sock=listening)
    await stack.http.start()
    assert stack.https_port == listening.getsockname()[1]
    assert (await stack.est_request("POST", EST.decode() + "/simpleenroll", csr_der())).status == 200
    await stack.close()


async def test_closing_ends_idle_connections(stack: EstStack) -> None:
    reader, writer = await stack.connect(tls=False)
    writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    await read_answer(reader)
    await stack.http.close(0.5)
    assert await reader.read() == b""
    writer.close()

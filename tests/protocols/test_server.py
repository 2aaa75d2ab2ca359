"""The listener under hostile peers: every one is answered 4xx or cut off in bounded time, and none costs another anything."""

from __future__ import annotations

import asyncio
import base64
import socket
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.protocols.server import Limits
from tests.support.est_requests import csr_der
from tests.support.est_stack import EstStack, TestPki, read_answer

EST = b"/.well-known/est"
AUTH = b"Authorization: Basic " + base64.b64encode(b"device:secret") + b"\r\n"
POST = b"POST " + EST + b"/simpleenroll HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/pkcs10\r\n" + AUTH

CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
FORM = POST.replace(b"application/pkcs10", b"application/x-www-form-urlencoded")

#: Name -> bytes that are not an acceptable HTTP request.
REQUESTS: dict[str, bytes] = {
    "not http": b"hello\r\n\r\n",
    "binary": bytes(range(128, 256)) + b"\r\n\r\n",
    "null bytes": bytes(64) + b"\r\n\r\n",
    "a tls hello on plain http": bytes.fromhex("160301002e0100002a0303") + bytes(40) + b"\r\n\r\n",
    "http 0.9": b"GET /\r\n\r\n",
    "http 2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "http 3.7": b"GET / HTTP/3.7\r\nHost: a\r\n\r\n",
    "a method with a space": b"GE T / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a method of symbols": b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a null in the target": b"GET /ocsp\x00 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a null in a header": b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
    "a bare carriage return": b"GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
    "a header without a colon": b"GET / HTTP/1.1\r\nHost\r\n\r\n",
    "a header without a name": b"GET / HTTP/1.1\r\n: a\r\n\r\n",
    "a space before the colon": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "a folded header": b"GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n",
    "a header too long": b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 9_000 + b"\r\n\r\n",
    "too many headers": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"".join(b"X%d: 1\r\n" % n for n in range(200)) + b"\r\n",
    "a target too long": b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
    "two lengths": POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    "a negative length": POST + b"Content-Length: -1\r\n\r\n",
    "a length that is no number": POST + b"Content-Length: ten\r\n\r\n",
    "a length with a plus": POST + b"Content-Length: +3\r\n\r\nabc",
    "a length of 2**64": POST + b"Content-Length: 18446744073709551616\r\n\r\n",
    "a huge length": POST + b"Content-Length: 99999999999\r\n\r\n",
    "a length just too big": POST + b"Content-Length: 65537\r\n\r\n",
    "length and chunked": POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "an unknown transfer coding": POST + b"Transfer-Encoding: rot13\r\n\r\n",
    "chunked twice": POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "a chunk size of letters": POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nabc\r\n0\r\n\r\n",
    "a negative chunk size": POST + b"Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n",
    "a chunk size of 2**70": POST + b"Transfer-Encoding: chunked\r\n\r\n400000000000000000\r\nabc\r\n",
    "a chunk longer than said": POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n",
    "a chunk without an end of line": POST + b"Transfer-Encoding: chunked\r\n\r\n3abc0\r\n\r\n",
    "chunks of no content": POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "too many chunks": CHUNKED + (b"400\r\n" + b"M" * 1024 + b"\r\n") * 70 + b"0\r\n\r\n",
    "a compressed body": POST + b"Content-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    "a doubly compressed body": POST + b"Content-Encoding: gzip, gzip\r\nContent-Length: 3\r\n\r\nabc",
    "a body of form data": FORM + b"Content-Length: 3\r\n\r\na=b",
    "an absolute target": b"GET http://other/.well-known/est/cacerts HTTP/1.1\r\nHost: other\r\n\r\n",
    "an asterisk": b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    "connect": b"CONNECT other:443 HTTP/1.1\r\nHost: other:443\r\n\r\n",
    "trace": b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
    "a path outside": b"GET /../../etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
    "an encoded path outside": b"GET /ca/%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n",
    "utf-8 in the target": "GET /ca/ü.cer HTTP/1.1\r\nHost: a\r\n\r\n".encode(),
    "a websocket": b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
    "the root": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
}  # fmt: skip


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

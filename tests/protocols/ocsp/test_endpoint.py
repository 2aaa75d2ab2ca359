"""OCSP over HTTP: GET and POST, caching headers, OCSP errors inside a 200, and a short way that is never out of date."""

from __future__ import annotations

import base64
import urllib.parse
from email.utils import parsedate_to_datetime

import pytest

from gateway.protocols.ocsp.codec import MALFORMED
from tests.support.est_stack import Answer, EstStack, HttpAnswer, read_answer
from tests.support.hostile_ocsp import GET_PATHS, POST_BODIES

REQUEST = b"\x30\x10" + bytes(range(16))
TEXT = base64.b64encode(REQUEST).decode()
GET = f"GET /ocsp/{TEXT} HTTP/1.1\r\nHost: a\r\n\r\n".encode()


def post(
    body: bytes = REQUEST, headers: bytes = b"Content-Type: application/ocsp-request\r\n", path: bytes = b"/ocsp"
) -> bytes:
    return b"POST " + path + b" HTTP/1.1\r\nHost: a\r\n" + headers + b"Content-Length: %d\r\n\r\n" % len(body) + body


@pytest.fixture(params=["signed on demand", "at hand"])
def answered(stack: EstStack, request: pytest.FixtureRequest) -> EstStack:
    """A responder that answers REQUEST, once through the HTTP parser and once by the short way."""
    stack.authority.at_hand[REQUEST] = Answer(b"\x30\x03ans", next_update_ms=stack.clock.now_ms() + 3_600_000)
    if request.param == "signed on demand":
        stack.authority.ocsp_at_hand = lambda request_der: None
    return stack


def check(answer: HttpAnswer) -> None:
    assert answer.status == 200
    assert answer.body == b"\x30\x03ans"
    assert answer.headers["content-type"] == "application/ocsp-response"
    assert "chunked" not in answer.headers.get("transfer-encoding", "")
    seconds = int(answer.headers["cache-control"].partition("max-age=")[2].partition(",")[0])
    assert 3_500 <= seconds <= 3_600
    expires, date = (parsedate_to_datetime(answer.headers[name]) for name in ("expires", "date"))
    assert (expires - date).total_seconds() == seconds
    assert answer.headers["last-modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert answer.headers["etag"].startswith('"')


@pytest.mark.parametrize(
    "request_bytes",
    [
        GET,
        GET.replace(TEXT.encode(), urllib.parse.quote(TEXT, safe="").encode()),
        GET.replace(b"1.1\r\nHost: a", b"1.0"),
        GET.replace(b"Host: a", b"Host: a\r\nConnection: close"),
        GET.replace(b"Host: a", b"host:a\r\nAccept: */*\r\nUser-Agent: x (y; z)"),
        post(),
        post(headers=b""),
        post(headers=b"Content-Type: text/plain\r\n"),
        post(path=b"/ocsp/"),
        post(headers=b"X-Note: a\r\n"),
        b"POST /ocsp HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n12\r\n" + REQUEST + b"\r\n0\r\n\r\n",
    ],
)
async def test_an_answer_comes_with_the_headers_of_rfc_5019(answered: EstStack, request_bytes: bytes) -> None:
    check(await answered.raw(request_bytes, tls=False))


async def test_both_ways_give_the_same_bytes(stack: EstStack) -> None:
    stack.authority.at_hand[REQUEST] = Answer(b"\x30\x03ans")
    quick = await stack.raw(GET, tls=False)
    stack.authority.ocsp_at_hand = lambda request_der: None
    slow = await stack.raw(GET, tls=False)
    assert (quick.status, quick.body) == (slow.status, slow.body)
    drop = ("date", "expires", "cache-control")
    assert {k: v for k, v in quick.headers.items() if k not in drop} == {k: v for k, v in slow.headers.items() if k not in drop}


async def test_a_revocation_is_seen_by_the_very_next_request_on_a_connection(stack: EstStack) -> None:
    reader, writer = await stack.connect(tls=False)
    for text in (b"\x30\x04good", b"\x30\x07revoked", b"\x30\x04more"):
        stack.authority.at_hand[REQUEST] = Answer(text)
        writer.write(GET)
        assert (await read_answer(reader)).body == text
    writer.close()


async def test_an_answer_at_hand_needs_no_call_of_the_authority(stack: EstStack) -> None:
    stack.authority.at_hand[REQUEST] = Answer(b"\x30\x03ans")
    for request in (GET, post()):
        await stack.raw(request, tls=False)
    assert stack.authority.ocsp_calls == 0


async def test_what_is_not_cacheable_is_marked_so(stack: EstStack) -> None:
    answer = await stack.raw(post(), tls=False)
    assert answer.headers["cache-control"] == "no-store"
    assert "expires" not in answer.headers
    stack.authority.at_hand[REQUEST] = Answer(b"\x30\x03ans", cacheable=False)
    assert (await stack.raw(GET, tls=False)).headers["cache-control"] == "no-store"


async def test_every_hostile_request_is_an_ocsp_error_in_a_200(stack: EstStack) -> None:
    requests = [f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for path in GET_PATHS if " " not in path and path.isascii()]
    requests += [post(body) for body in POST_BODIES.values()]
    requests += [post(b"\x30" + b"\x80" * 20_000), post(b"\x30" * 65_537)]
    for request in requests:
        answer = await stack.raw(request, tls=False)
        assert (answer.status, answer.body) == (200, MALFORMED), request[:80]
        assert answer.headers["cache-control"] == "no-store"
    assert stack.authority.ocsp_calls == 0


@pytest.mark.parametrize("method", ["PUT", "DELETE", "HEAD", "OPTIONS"])
async def test_another_method_is_405(stack: EstStack, method: str) -> None:
    answer = await stack.raw(f"{method} /ocsp HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".encode(), tls=False)
    assert (answer.status, answer.headers["allow"]) == (405, "GET, POST")


async def test_a_post_below_the_address_is_not_found(stack: EstStack) -> None:
    assert (await stack.raw(post(path=b"/ocsp/x"), tls=False)).status == 404


async def test_a_fault_of_the_responder_is_500_with_a_reference(stack: EstStack) -> None:
    answer = await stack.raw(post(b"\x30\x82\xff" + bytes(10)), tls=False)
    assert answer.status == 500
    assert b"secret" not in answer.body


@pytest.mark.parametrize(
    "request_bytes",
    [
        GET.replace(b"Host: a\r\n", b""),
        GET.replace(b"Host: a", b"Host: a\r\nHost: b"),
        GET.replace(b"Host: a", b"Host : a"),
        GET.replace(b"Host: a", b"Host: a\x00"),
        GET.replace(b"Host: a", b"Host: a\r\nContent-Length: 4") + b"abcd",
        GET.replace(b"Host: a", b"Host: a\r\nContent-Length: x"),
        GET.replace(b"Host: a", b"Host: a\r\nTransfer-Encoding: chunked"),
        GET.replace(b"Host: a", b"Host: a\r\nContent-Length: 0\r\nContent-Length: 0"),
        GET + GET,
        GET[:-1],
        GET.replace(b"GET", b"HEAD"),
        GET.replace(b"/ocsp/", b"/ca/"),
        GET.replace(b"/ocsp/", "/ocsp/ü".encode()),
        GET.replace(b"Host: a", b"Host: a\r\nX: " + b"x" * 2_000),
        post(b"\x31\x00"),
        post().replace(b"/ocsp ", b"/ocsp/x "),
        b"hello",
        b"hello HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
async def test_only_the_plainest_requests_take_the_short_way(stack: EstStack, request_bytes: bytes) -> None:
    stack.authority.at_hand[REQUEST] = Answer(b"\x30\x03ans")
    assert stack.ocsp.instant(request_bytes) is None


async def test_what_is_remembered_is_bounded(stack: EstStack) -> None:
    stack.authority.ocsp_at_hand = lambda request_der: Answer(b"\x30\x03ans")
    for number in range(5_000):
        assert stack.ocsp.instant(post(b"\x30" + number.to_bytes(4, "big")))
    assert len(stack.ocsp._known) == 4_096

"""CRLs and CA certificates over plain HTTP: media types, caching, conditional requests, and nothing else to be found."""

from __future__ import annotations

import asyncio

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import pkcs7

from gateway.protocols.caching import cache_headers, etag_matches
from tests.support.est_stack import EstStack, HttpAnswer, der


async def get(stack: EstStack, path: str, *, method: str = "GET", headers: str = "") -> HttpAnswer:
    return await stack.raw(f"{method} {path} HTTP/1.1\r\nHost: a\r\n{headers}\r\n".encode(), tls=False)


async def test_a_crl_is_served_with_its_times(stack: EstStack) -> None:
    answer = await get(stack, "/crl/1.crl")
    assert (answer.status, answer.headers["content-type"], answer.body) == (200, "application/pkix-crl", b"\x30\x03crl")
    assert answer.headers["last-modified"] == "Tue, 14 Nov 2023 22:13:20 GMT"
    assert "max-age=86400" in answer.headers["cache-control"]


async def test_the_issuing_ca_is_found_by_name_and_by_key(stack: EstStack) -> None:
    identifier = x509.SubjectKeyIdentifier.from_public_key(stack.pki.ca.public_key()).digest.hex()
    for path in ("/ca/issuing.cer", f"/ca/{identifier}.cer"):
        answer = await get(stack, path)
        assert (answer.body, answer.headers["content-type"]) == (der(stack.pki.ca), "application/pkix-cert")


async def test_the_chain_holds_every_certificate(stack: EstStack) -> None:
    answer = await get(stack, "/ca/chain.p7c")
    assert set(pkcs7.load_der_pkcs7_certificates(answer.body)) == {stack.pki.ca, stack.pki.root}


async def test_the_trust_anchors_are_the_roots_as_pem(stack: EstStack) -> None:
    answer = await get(stack, "/ca/trust-anchors.pem")
    assert x509.load_pem_x509_certificates(answer.body) == [stack.pki.root]


@pytest.mark.parametrize("path", ["/crl/1.crl", "/ca/issuing.cer", "/ca/chain.p7c", "/ca/trust-anchors.pem"])
async def test_an_unchanged_file_is_304_and_head_has_no_body(stack: EstStack, path: str) -> None:
    full = await get(stack, path)
    again = await get(stack, path, headers=f"If-None-Match: {full.headers['etag']}\r\n")
    assert (again.status, again.body, again.headers["etag"]) == (304, b"", full.headers["etag"])
    head = await get(stack, path, method="HEAD")
    assert (head.status, head.headers["content-length"]) == (200, str(len(full.body)))


@pytest.mark.parametrize(
    "path",
    [
        "/crl/2.crl", "/crl/", "/crl/1", "/crl/1.crl/", "/crl//1.crl", "/crl/../crl/1.crl", "/crl/%31.crl", "/crl/1.crl%00",
        "/crl/.crl", "/crl/1.CRL", "/ca/", "/ca/issuing.pem", "/ca/issuing.cer/", "/ca/../ca/issuing.cer", "/ca/ISSUING.cer",
        "/ca/none.cer", "/ca/" + "a" * 300 + ".cer", "/CA/issuing.cer", "//ca/issuing.cer", "/", "/index.html", "/ca",
    ],
)  # fmt: skip
async def test_nothing_else_is_found(stack: EstStack, path: str) -> None:
    answer = await get(stack, path)
    assert answer.status == 404
    assert answer.body


@pytest.mark.parametrize("path", ["/crl/1.crl", "/ca/issuing.cer"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_nothing_can_be_written(stack: EstStack, path: str, method: str) -> None:
    answer = await get(stack, path, method=method, headers="Content-Length: 0\r\n")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_without_a_ca_the_files_are_503(stack: EstStack) -> None:
    stack.authority.ca_certificates = lambda: ()
    assert (await get(stack, "/ca/issuing.cer")).status == 503
    assert (await stack.est_request("GET", "/.well-known/est/cacerts")).status == 503


async def test_a_new_ca_is_served_at_once(stack: EstStack) -> None:
    await get(stack, "/ca/issuing.cer")
    stack.authority.ca_certificates = lambda: (der(stack.pki.maker),)
    assert (await get(stack, "/ca/issuing.cer")).body == der(stack.pki.maker)


def test_an_answer_past_its_time_is_not_cached() -> None:
    headers = cache_headers("x", this_update_ms=0, next_update_ms=1_000, now_ms=5_000)
    assert headers["Cache-Control"].startswith("max-age=0,")
    assert headers["Expires"] == headers["Date"] == "Thu, 01 Jan 1970 00:00:05 GMT"


@pytest.mark.parametrize(
    ("header", "expected"),
    [(None, False), ("", False), ('"x"', True), ('W/"x"', True), ('"a", "x"', True), ("*", True), ("x", False), ('"y"', False)],
)
def test_etags_are_compared_weakly(header: str | None, expected: bool) -> None:
    assert etag_matches(header, "x") is expected


async def test_a_slow_reader_of_a_large_list_holds_no_copy_of_it(stack: EstStack) -> None:
    stack.authority.crl_der = content = b"\x30" + bytes(range(256)) * 65_536  # 16 MB, more than the sockets' buffers take
    reader, writer = await stack.connect(tls=False)
    writer.write(b"GET /crl/1.crl HTTP/1.1\r\nHost: a\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert f"content-length: {len(content)}\r\n".encode() in head.lower()
    (transport,) = stack.http._open
    assert isinstance(transport, asyncio.WriteTransport)
    assert transport.get_write_buffer_size() < 1_000_000
    assert await reader.readexactly(len(content)) == content
    writer.close()

"""EST clients that others wrote work against one and the same endpoint: enrol, renew, server-side key, pending, refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509

from tests.support import est_clients
from tests.support.est_clients import Service
from tests.support.est_stack import EstStack, TestPki


@pytest.fixture(scope="module")
def test_pki(tmp_path_factory: pytest.TempPathFactory) -> TestPki:
    return TestPki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
async def stack(test_pki: TestPki, tmp_path: Path) -> AsyncIterator[EstStack]:
    stack = EstStack(test_pki, tmp_path)
    await stack.start()
    yield stack
    await stack.close()


@pytest.fixture
def service(stack: EstStack, tmp_path: Path) -> Service:
    return Service("localhost", stack.https_port, stack.pki.anchors, stack.pki.issuing, tmp_path)


def subject(certificate: bytes) -> str:
    return x509.load_der_x509_certificate(certificate).subject.rfc4514_string()


async def test_curl_and_openssl(stack: EstStack, service: Service) -> None:
    def work() -> None:
        assert est_clients.curl(service, "cacerts").status == 200
        assert est_clients.curl(service, "csrattrs").status == 204
        _, request = est_clients.openssl_request(service, "curl-1")
        for body in (est_clients.one_line(request.read_bytes()), request.read_bytes()):
            done = est_clients.curl(service, "simpleenroll", body=body, user="device:secret")
            assert subject(done.certificate) == "CN=curl-1", done
        assert est_clients.curl(service, "simpleenroll", body=body).status == 401
        assert est_clients.curl(service, "simpleenroll", body=body, user="refused:secret").status == 403
        waiting = est_clients.curl(service, "simpleenroll", body=body, user="waiting:secret")
        assert (waiting.status, waiting.body) == (202, b"")
        renewed = est_clients.curl(service, "simplereenroll", body=body, client=stack.pki.client("own-curl"))
        assert subject(renewed.certificate) == "CN=curl-1", renewed
        made = est_clients.curl(service, "serverkeygen", body=body, user="device:secret")
        assert made.status == 200
        assert made.body.count(b"Content-Transfer-Encoding: base64") == 2

    await asyncio.to_thread(work)


async def test_strongswan_pki(stack: EstStack, service: Service) -> None:
    def work() -> None:
        assert len(est_clients.strongswan_cacerts(service)) == 2
        _, request = est_clients.openssl_request(service, "strongswan-1", key_type="rsa")
        done = est_clients.strongswan_enroll(service, request, user="device:secret")
        assert subject(done.certificate) == "CN=strongswan-1", done
        renewed = est_clients.strongswan_enroll(service, request, client=stack.pki.client("own-strongswan"))
        assert subject(renewed.certificate) == "CN=strongswan-1", renewed
        assert est_clients.strongswan_enroll(service, request, user="refused:secret").returncode != 0

    await asyncio.to_thread(work)


async def test_strongswan_pki_polls_a_request_that_waits(stack: EstStack, service: Service) -> None:
    _, request = est_clients.openssl_request(service, "strongswan-2", key_type="rsa")
    polling = asyncio.create_task(
        asyncio.to_thread(est_clients.strongswan_enroll, service, request, user="waiting:secret", poll_s=20)
    )
    async with asyncio.timeout(20):
        while not stack.authority.requests:
            await asyncio.sleep(0.05)
    stack.authority.approved = True
    assert subject((await polling).certificate) == "CN=strongswan-2"


async def test_bouncy_castle(stack: EstStack, service: Service) -> None:
    def work() -> None:
        assert "Test Issuing CA" in est_clients.bouncy_castle(service, "cacerts").log
        assert "no attributes" in est_clients.bouncy_castle(service, "csrattrs").log
        done = est_clients.bouncy_castle(service, "simpleenroll", user="device:secret")
        assert done.certificate, done.log
        assert subject(done.certificate) == "CN=device-bc"
        renewed = est_clients.bouncy_castle(service, "simplereenroll", client=stack.pki.client("own-bc"))
        assert renewed.certificate, renewed.log
        made = est_clients.bouncy_castle(service, "serverkeygen", user="device:secret")
        assert "key " in made.log, made.log
        assert est_clients.bouncy_castle(service, "simpleenroll", user="refused:secret").returncode == 1
        assert est_clients.bouncy_castle(service, "simpleenroll", user="waiting:secret").returncode == 3

    await asyncio.to_thread(work)

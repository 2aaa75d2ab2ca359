"""OCSP clients that others wrote understand the answers over POST and GET, with and without a nonce."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509

from tests.support.est_stack import EstStack, TestPki
from tests.support.ocsp_clients import get_status, gnutls_status, openssl_status
from tests.support.ocsp_responder import Responder


@pytest.fixture(scope="module")
def test_pki(tmp_path_factory: pytest.TempPathFactory) -> TestPki:
    return TestPki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
async def stack(test_pki: TestPki, tmp_path: Path) -> AsyncIterator[EstStack]:
    stack = EstStack(test_pki, tmp_path)
    responder = Responder(test_pki)
    good, _ = test_pki.client("ocsp-good")
    revoked, _ = test_pki.client("ocsp-revoked")
    responder.revoked.add(x509.load_pem_x509_certificate(revoked.read_bytes()).serial_number)
    stack.authority.ocsp = responder.ocsp
    stack.certificates = {"good": good, "revoked": revoked}
    await stack.start()
    yield stack
    await stack.close()


@pytest.mark.parametrize("status", ["good", "revoked"])
async def test_every_client_reads_the_status_and_accepts_the_signature(stack: EstStack, status: str, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{stack.http_port}/ocsp"
    certificate = stack.certificates[status]
    places = {"issuer": stack.pki.issuing, "anchor": stack.pki.anchors}

    def work() -> None:
        for nonce in (True, False):
            said = openssl_status(url, [certificate], **places, nonce=nonce)
            assert f": {status}" in said, said
            assert "Response verify OK" in said, said
        said = gnutls_status(url, certificate, **places)
        assert f"Certificate Status: {status}" in said, said
        for encoded in (True, False):
            assert f": {status}" in get_status(url, certificate, **places, work=tmp_path, encoded=encoded)

    await asyncio.to_thread(work)

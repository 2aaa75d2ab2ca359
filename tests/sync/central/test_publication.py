"""Lists and CA certificates over HTTP: what a certificate points at is there, and caches are told how long."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.pki.tbs import ca_info
from gateway.protocols.server import Listener
from sync.central.lists import CentralLists
from sync.central.publication import CentralPublication
from tests.support.central import Central, NewGateway, central


@dataclass
class Site:
    central: Central
    ca: bytes
    session: aiohttp.ClientSession
    url: str

    async def get(self, path: str, **headers: str) -> tuple[int, bytes, Mapping[str, str]]:
        async with self.session.get(self.url + path, headers=headers) as answer:
            return answer.status, await answer.read(), answer.headers


@asynccontextmanager
async def site(directory: Path) -> AsyncIterator[Site]:
    async with central(directory) as one:
        answer = await one.join(NewGateway())
        lists = CentralLists(one.store, one.authority, one.clock)
        await lists.publish_due()
        listener = Listener("http", (CentralPublication(one.store, one.authority, lists, one.clock),))
        await listener.start()
        try:
            async with aiohttp.ClientSession() as session:
                yield Site(one, answer.certificate, session, f"http://127.0.0.1:{listener.addresses[0][1]}")
        finally:
            await listener.close(grace_s=0)


async def test_what_a_gateways_ca_certificate_points_at_is_served(tmp_path: Path) -> None:
    async with site(tmp_path) as one:
        extensions = x509.load_der_x509_certificate(one.ca).extensions
        points = extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        access = extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
        for name in (*(points[0].full_name or ()), *(each.access_location for each in access)):
            status, content, headers = await one.get("/" + str(name.value).split("/", 3)[3])
            assert status == 200
            assert "max-age" in headers["Cache-Control"]
            if headers["Content-Type"] == "application/pkix-crl":
                assert x509.load_der_x509_crl(content).is_signature_valid(one.central.authority.root.public_key)
            else:
                assert content == one.central.authority.identity.certificate


async def test_the_ca_of_a_gateway_and_the_trust_anchor(tmp_path: Path) -> None:
    async with site(tmp_path) as one:
        _, content, _ = await one.get(f"/ca/{ca_info(one.ca).key_identifier.hex()}.cer")
        assert content == one.ca
        _, content, _ = await one.get("/ca/trust-anchors.pem")
        root = x509.load_pem_x509_certificate(content)
        assert root.public_bytes(Encoding.DER) == one.central.authority.identity.certificate


async def test_a_cache_asks_with_what_it_has(tmp_path: Path) -> None:
    async with site(tmp_path) as one:
        _, _, headers = await one.get("/crl/root.crl")
        status, content, _ = await one.get("/crl/root.crl", **{"If-None-Match": headers["ETag"]})
        assert (status, content) == (304, b"")


@pytest.mark.parametrize("path", ["/crl/none.crl", "/crl/../root.crl", "/crl/", "/ca/00.cer", "/ca/xyz.cer", "/ca/"])
async def test_nothing_else_is_there(tmp_path: Path, path: str) -> None:
    async with site(tmp_path) as one:
        assert (await one.get(path))[0] == 404
        async with one.session.post(one.url + "/crl/root.crl") as answer:
            assert answer.status == 405

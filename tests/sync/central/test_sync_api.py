"""What central answers to gateways, over real TLS, asked by the gateway's own client."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
import zstandard
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.errors import Fenced
from gateway.journal.cosignature import open_receipt
from gateway.pki.algorithms import sign
from gateway.pki.crl import assemble, build_crl_tbs
from gateway.pki.tbs import ca_info
from sync.central.rows import Crl, Revocation
from sync.client import (
    CentralBusy,
    CentralClient,
    CentralRefuses,
    FencedByCentral,
    HelloNeeded,
    LinkLost,
    ResumeElsewhere,
    find_root,
)
from sync.desired import open_desired
from sync.joining import open_answer, read_code
from sync.wire import BATCH_TYPE, MOST_OCTETS, Welcome
from tests.support.central import NewGateway
from tests.support.edge import Edge
from tests.support.served_central import Device, Joined, Served, client_certificate, joined, served


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(tmp_path) as made:
        yield made


@pytest.fixture
async def gateway(one: Served) -> Joined:
    edge = Edge()
    for number in range(10):
        edge.issue(number)
    return await joined(one, edge)


async def greet(client: CentralClient, edge: Edge) -> Welcome:
    return await client.hello(edge.hello(await client.challenge()))


async def raw(one: Served, device: Device | None, method: str, path: str, **more: object) -> tuple[int, dict[str, object], str]:
    """Status, JSON body and Retry-After of an answer to what no client of ours sends."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=one.context(device))) as session,
        session.request(method, f"{one.url}/sync/v1/{path}", **more) as answer,  # type: ignore[arg-type]
    ):
        content = await answer.read()
        return answer.status, json.loads(content or b"{}"), answer.headers.get("Retry-After", "")


# A whole session.


async def test_a_gateway_sends_its_whole_journal(one: Served, gateway: Joined) -> None:
    edge = gateway.edge
    async with one.client(gateway.device) as client:
        welcome = await greet(client, edge)
        assert (welcome.size, welcome.desired) == (0, 1)
        for start in range(0, edge.size, 7):
            accepted = await client.records(edge.batch(start, min(start + 7, edge.size), welcome.session))
        identity = one.central.authority.identity
        receipt = open_receipt(accepted.receipt, edge.vkey, identity.vkey)
        assert receipt.checkpoint.size == edge.size
        assert await client.records(edge.batch(edge.size, session=welcome.session)) == accepted
        assert (await greet(client, edge)).size == edge.size


async def test_urgent_records_reach_central_before_the_backlog(one: Served, gateway: Joined) -> None:
    seq = gateway.edge.revoke(3)
    async with one.client(gateway.device) as client:
        await client.urgent(gateway.edge.urgent(seq))
    async with one.central.store.transaction() as t:
        assert await t.count(Revocation, origin=gateway.edge.origin) == 1


async def test_a_waiting_request_is_answered_when_there_is_a_new_document(one: Served, gateway: Joined) -> None:
    async with one.client(gateway.device) as client:
        first = await client.desired(0, 0)
        assert first is not None
        assert await client.desired(1, 0) is None
        waiting = asyncio.create_task(client.desired(1, 60))
        await one.central.desired.set("central", "quotas", {"tls-client": 7})
        second = await asyncio.wait_for(waiting, 30)
        assert second is not None
        desired = open_desired(second, one.central.authority.identity.vkey)
        assert (desired.version, desired.quotas) == (2, {"tls-client": 7})


async def test_a_list_is_taken_and_a_foreign_one_refused(one: Served, gateway: Joined) -> None:
    edge, ca = gateway.edge, ca_info(gateway.answer.certificate)

    def signed(number: int, key: ec.EllipticCurvePrivateKey) -> bytes:
        now_ms = one.clock.now_ms()
        tbs = build_crl_tbs(ca=ca, entries=[], number=number, this_update_ms=now_ms, next_update_ms=now_ms + 86_400_000)
        return assemble(tbs, ca.algorithm, sign(key, ca.algorithm, tbs))

    async with one.client(gateway.device) as client:
        await client.put_crl("1.crl", signed(5, edge.ca_key))
        await client.put_crl("1.crl", signed(4, edge.ca_key))  # a lower number changes nothing
        with pytest.raises(CentralRefuses):
            await client.put_crl("1.crl", signed(6, ec.generate_private_key(ec.SECP256R1())))
    async with one.central.store.transaction() as t:
        found = await t.find(Crl, ca.key_identifier, "1.crl")
    assert found is not None
    assert found.number == 5


# What is not success.


async def test_each_refusal_becomes_the_gateways_error_of_that_name(one: Served, gateway: Joined) -> None:
    edge = gateway.edge
    async with one.client(gateway.device) as client:
        with pytest.raises(HelloNeeded):
            await client.records(edge.batch(0, session="no session"))
        with pytest.raises(HelloNeeded):
            await client.hello(edge.hello("not the nonce"))
        session = (await greet(client, edge)).session
        await client.records(edge.batch(0, 5, session))
        with pytest.raises(ResumeElsewhere) as caught:
            await client.records(edge.batch(6, session=session))
        async with one.central.store.transaction() as t:
            (journal,) = await t.select(type(edge.row()), origin=edge.origin)
        assert (caught.value.size, caught.value.root) == (5, journal.standing().root)
        with pytest.raises(CentralRefuses):
            await client.records(replace(edge.batch(5, session=session), checkpoint=Edge("two").note()))
        await one.central.registry.fence(edge.origin, "a test")
        for call in (client.records(edge.batch(5, session=session)), client.desired(0, 0), client.urgent(edge.urgent(2))):
            with pytest.raises(FencedByCentral) as fenced:
                await call
            assert isinstance(fenced.value, Fenced)


async def test_a_pause_is_asked_for_with_its_length(one: Served, gateway: Joined) -> None:
    edge = gateway.edge
    async with one.client(gateway.device) as client:
        session = (await greet(client, edge)).session
        async with one.ingest._admitted(edge.origin):
            with pytest.raises(CentralBusy) as caught:
                await client.records(edge.batch(0, session=session))
        assert caught.value.retry_after == 1
        status, body, retry_after = 0, {}, ""
        async with one.ingest._admitted(edge.origin):
            packed = zstandard.compress(edge.batch(0, session=session).to_bytes())
            status, body, retry_after = await raw(one, gateway.device, "POST", "records", data=packed)
        assert (status, body["type"], retry_after) == (503, "urn:edge-gateway:sync:busy", "1")


@pytest.mark.parametrize(
    "body",
    [b"", b"no zstd", zstandard.compress(b"no batch"), zstandard.compress(bytes(MOST_OCTETS + 1)), bytes(MOST_OCTETS + 1)],
    ids=["empty", "other octets", "other content", "bomb", "too large"],
)
async def test_octets_that_are_no_batch_are_refused_as_a_problem(one: Served, gateway: Joined, body: bytes) -> None:
    status, problem, _ = await raw(
        one, gateway.device, "POST", "records", data=io.BytesIO(body), headers={"Content-Type": BATCH_TYPE}
    )
    assert status in (400, 413)
    assert problem["type"] == "urn:edge-gateway:sync:refused"
    assert problem["status"] == status
    async with one.client(gateway.device) as client:
        assert (await greet(client, gateway.edge)).size == 0


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "records", 405),
        ("POST", "desired", 405),
        ("GET", "crl/1.crl", 405),
        ("GET", "join", 405),
        ("PUT", "crl/..%2Fkey", 404),
        ("POST", "records/more", 404),
        ("GET", "desired?have=-1", 400),
        ("GET", "desired?wait=x", 400),
        ("GET", "desired?have=1e3", 400),
    ],
)
async def test_other_requests_are_refused(one: Served, gateway: Joined, method: str, path: str, expected: int) -> None:
    async with (
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=one.context(gateway.device))) as session,
        session.request(method, f"{one.url}/sync/v1/{path}") as answer,
    ):
        assert answer.status == expected


# Who speaks.


async def test_without_a_certificate_nobody_is_a_gateway(one: Served, gateway: Joined) -> None:
    status, problem, _ = await raw(one, None, "POST", "challenge")
    assert (status, problem["type"]) == (403, "urn:edge-gateway:sync:unknown")


async def test_a_device_of_the_same_sub_ca_is_not_the_gateway(one: Served, gateway: Joined) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = client_certificate("one", key, gateway.answer.certificate, gateway.edge.ca_key)
    status, problem, _ = await raw(one, Device(key, certificate, gateway.device.chain), "POST", "challenge")
    assert (status, problem["type"]) == (403, "urn:edge-gateway:sync:unknown")


async def test_a_registered_key_below_another_root_does_not_get_through_the_handshake(one: Served, gateway: Joined) -> None:
    other = Edge("other")
    certificate = client_certificate("one", gateway.device.key, other.ca.public_bytes(Encoding.DER), other.ca_key)
    async with one.client(Device(gateway.device.key, certificate, (other.ca.public_bytes(Encoding.DER),))) as client:
        with pytest.raises((LinkLost, CentralRefuses)):
            await client.challenge()


async def test_an_expired_client_certificate_still_names_its_gateway(one: Served, caplog: pytest.LogCaptureFixture) -> None:
    """A gateway that was dark for long must be able to come back; the journal's key convicts, not the date."""
    gateway = await joined(one, Edge("late"), days=-1)
    async with one.client(gateway.device) as client:
        assert (await greet(client, gateway.edge)).size == 0
    assert caplog.text.count("has expired") == 1


async def test_one_gateway_cannot_speak_for_another(one: Served, gateway: Joined) -> None:
    two = await joined(one, Edge("two"))
    async with one.client(two.device) as client:
        await client.challenge()
        with pytest.raises(CentralRefuses):
            await client.hello(gateway.edge.hello("x"))


# Joining.


async def test_a_gateway_joins_over_the_network_by_its_code_alone(one: Served) -> None:
    code = read_code((await one.central.registry.make_code()).text())
    host, port = one.url.removeprefix("https://").split(":")
    assert await find_root(host, int(port), code.root_digest) == one.root
    with pytest.raises(CentralRefuses):
        await find_root(host, int(port), bytes(16))
    request = NewGateway().request(code)
    async with one.client() as client:
        answer = await client.join(request)
        assert open_answer(answer, code, request).root == one.root
        assert await client.join(request) == answer
        with pytest.raises(CentralRefuses, match="used"):
            await client.join(NewGateway("plant-8/1a2b3c").request(code))


async def test_join_requests_are_looked_at_so_often(tmp_path: Path) -> None:
    async with served(tmp_path, joins_per_s=2) as one, one.client() as client:
        for _ in range(3):
            with pytest.raises(CentralRefuses):
                await client.join(b"{}")
        with pytest.raises(CentralBusy):
            await client.join(b"{}")
        one.now_ms += 5_000
        with pytest.raises(CentralRefuses):
            await client.join(b"{}")


async def test_a_join_request_has_a_limit(one: Served) -> None:
    status, problem, _ = await raw(one, None, "POST", "join", data=bytes(100_000))
    assert (status, problem["type"]) == (413, "urn:edge-gateway:sync:refused")

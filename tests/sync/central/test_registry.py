"""Joining and membership: a code joins one gateway once, whatever is lost or repeated in between."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.errors import Conflict, MalformedRequest, NotFound, SignerUnavailable
from gateway.keys.signer import Priority
from gateway.pki.crl import Reason
from gateway.pki.tbs import ca_info
from sync.central.alarms import CLOCK, FENCED, FENCED_THERE, open_alert
from sync.central.authority import SUB_CA
from sync.central.registry import CA_REQUESTED, CA_WAITS
from sync.central.rows import Alert, Ca, Code, Document, Event, Journal, RootIssuance
from sync.desired import open_desired
from sync.joining import CodeUnknown, CodeUsed, open_answer
from tests.support.authority import DAY_MS
from tests.support.central import URLS, Central, NewGateway, central
from tests.support.postgres import PostgresServer


async def test_a_gateway_joins(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        gateway = NewGateway()
        answer = await one.join(gateway, group="line-3")
        assert (answer.central, answer.urls) == (one.authority.identity.name, URLS)
        assert answer.chain == one.authority.chain
        desired = open_desired(answer.desired, answer.vkey)
        assert (desired.origin, desired.version) == (gateway.origin, 1)
        (journal,) = await one.registry.gateways()
        assert (journal.origin, journal.name, journal.group, journal.size) == (gateway.origin, "plant-7", "line-3", 0)
        assert journal.client_key == hashlib.sha256(gateway.origin.encode()).digest()
        async with one.store.transaction() as t:
            (ca,) = await t.select(Ca, origin=gateway.origin)
        assert (ca.certificate, ca.key_id) == (answer.certificate, ca_info(answer.certificate).key_identifier)


async def test_the_same_request_gets_the_same_answer(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        gateway = NewGateway()
        code = await one.registry.make_code()
        request = gateway.request(code)
        first, second = await asyncio.gather(one.registry.join(request), one.registry.join(request))
        one.clock.advance(100 * DAY_MS)  # long after the code's end
        assert await one.registry.join(request) == first == second
        assert len(await sub_cas(one)) == 1


async def test_a_code_is_good_for_one_request(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        gateway = NewGateway()
        code = await one.registry.make_code()
        await one.registry.join(gateway.request(code))
        with pytest.raises(CodeUsed):
            await one.registry.join(gateway.request(code))
        with pytest.raises(CodeUsed):
            await one.registry.join(NewGateway("plant-8/1", "CN=Plant 8").request(code))
        with pytest.raises(Conflict, match="joined with this code"):
            await one.registry.withdraw_code(code.name)


async def test_a_code_that_ended_was_withdrawn_or_never_was_joins_nobody(tmp_path: Path) -> None:
    async with central(tmp_path) as one, central(tmp_path / "other") as other:
        gateway = NewGateway()
        ended, withdrawn = await one.registry.make_code(hours=1), await one.registry.make_code()
        await one.registry.withdraw_code(withdrawn.name)
        foreign = await other.registry.make_code()
        one.clock.advance(3_600_000)
        for code in (ended, withdrawn, foreign):
            with pytest.raises(CodeUnknown):
                await one.registry.join(gateway.request(code))
        with pytest.raises(NotFound):
            await one.registry.withdraw_code(withdrawn.name)
        assert not await one.registry.gateways()


async def test_a_request_with_another_secret_is_refused(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        code = await one.registry.make_code()
        forged = NewGateway().request(code).replace(b'"time":5', b'"time":6')
        with pytest.raises(CodeUnknown, match="changed on its way"):
            await one.registry.join(forged)
        with pytest.raises(MalformedRequest):
            await one.registry.join(b"{}")


class Failing:
    """The root's key while its token is away."""

    def __init__(self, one: Central) -> None:
        inner = one.authority.signer()
        self.public_key, self.algorithm = inner.public_key, inner.algorithm

    async def ready(self) -> None: ...

    async def sign(self, message: bytes, *, priority: Priority = Priority.BULK) -> bytes:
        raise SignerUnavailable("unplugged")


async def test_a_join_that_was_interrupted_goes_on_with_the_same_request_alone(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        gateway = NewGateway()
        code = await one.registry.make_code()
        request = gateway.request(code)
        whole, one.authority._signer = one.authority._signer, Failing(one)  # type: ignore[assignment]
        with pytest.raises(SignerUnavailable):
            await one.registry.join(request)
        one.authority._signer = whole
        with pytest.raises(CodeUsed):
            await one.registry.join(NewGateway("plant-8/1", "CN=Plant 8").request(code))
        open_answer(await one.registry.join(request), code, request)


async def test_a_request_that_cannot_be_granted_leaves_the_code_good(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        await one.join(NewGateway())
        code = await one.registry.make_code()
        with pytest.raises(Conflict, match="--subject"):
            await one.registry.join(NewGateway("plant-8/1").request(code))
        request = NewGateway("plant-8/1", "CN=Plant 8").request(code)
        open_answer(await one.registry.join(request), code, request)


async def test_what_has_joined_does_not_join_again_as_itself(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        gateway = NewGateway()
        await one.join(gateway)
        with pytest.raises(Conflict, match="joined already"):
            await one.join(gateway)
        copy = NewGateway("plant-8/1", "CN=Plant 8", client_key=hashlib.sha256(gateway.origin.encode()).digest())
        with pytest.raises(Conflict, match="never copied"):
            await one.join(copy)


async def test_a_gateway_joins_again_with_a_new_journal_that_names_the_old_one(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        old = NewGateway()
        await one.join(old)
        new = NewGateway("plant-7/ffff", predecessor=old.origin, client_key=hashlib.sha256(old.origin.encode()).digest())
        with pytest.raises(Conflict, match="still in use"):
            await one.join(new)
        with pytest.raises(NotFound, match="could replace"):
            await one.join(replace(new, predecessor="plant-6/0", client_key=bytes(32)))
        await one.registry.fence(old.origin, "restored from a backup")
        for kind in (FENCED, FENCED_THERE, CA_WAITS, CLOCK):
            async with one.store.transaction() as t:
                await open_alert(t, Alert(kind, old.origin, "", "look", 1))
        await one.join(new)
        assert [alert.kind for alert in await alerts(one)] == [CLOCK]  # what joining again does not mend stays
        before, after = await one.registry.gateways()
        assert (before.closed, before.client_key, before.fenced) == (
            "replaced by plant-7/ffff", b"", "restored from a backup",
        )  # fmt: skip
        assert (after.predecessor, after.closed) == (old.origin, "")


async def test_a_new_ca_key_of_a_known_gateway_is_certified_without_a_person(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        gateway = NewGateway()
        first = await one.join(gateway)
        await asks(one, NewGateway(), 7)
        await one.registry.certify_requests()
        async with one.store.transaction() as t:
            cas = await t.select(Ca, origin=gateway.origin)
            document = await t.find(Document, gateway.origin)
        assert len(cas) == 2
        assert document is not None
        desired = open_desired(document.content, first.vkey)
        assert {each.ders()[0] for each in desired.ca_certificates} == {ca.certificate for ca in cas}
        await one.registry.certify_requests()  # nothing is left to do
        assert len(await sub_cas(one)) == 2


async def asks(one: Central, gateway: NewGateway, seq: int) -> None:
    async with one.store.transaction() as t:
        await t.put(Event(CA_REQUESTED, gateway.origin, seq, 2, gateway.csr().public_bytes(Encoding.DER), 1))


async def sub_cas(one: Central) -> list[RootIssuance]:
    async with one.store.transaction() as t:
        return [row for row in await t.select(RootIssuance) if row.profile == SUB_CA]


async def test_where_a_person_decides_the_request_waits_with_an_alert(tmp_path: Path) -> None:
    async with central(tmp_path, automatic_renewal=False) as one:
        gateway = NewGateway()
        await one.join(gateway)
        with pytest.raises(NotFound, match="asks for no CA"):
            await one.registry.approve(gateway.origin)
        await asks(one, NewGateway(), 7)
        await one.registry.certify_requests()
        assert len(await sub_cas(one)) == 1
        assert [alert.kind for alert in await alerts(one)] == [CA_WAITS]
        await one.registry.approve(gateway.origin)
        assert len(await sub_cas(one)) == 2
        assert not await alerts(one)


async def alerts(one: Central) -> list[Alert]:
    async with one.store.transaction() as t:
        return await t.select(Alert, closed=0)


async def test_a_request_that_cannot_be_granted_is_an_alert_and_done(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        gateway, other = NewGateway(), NewGateway("plant-8/1", "CN=Plant 8")
        await one.join(gateway)
        await one.join(other)
        await asks(one, NewGateway(ca_key=other.ca_key), 7)
        await one.registry.certify_requests()
        (alert,) = await alerts(one)
        assert "another gateway" in alert.text
        async with one.store.transaction() as t:
            (event,) = await t.select(Event)
        assert event.done


async def test_who_is_fenced_or_retired_gets_no_ca(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        gateway = NewGateway()
        await one.join(gateway)
        await asks(one, NewGateway(), 7)
        await one.registry.fence(gateway.origin, "cloned")
        with pytest.raises(Conflict, match="cloned"):
            await one.registry.approve(gateway.origin)
        with pytest.raises(NotFound):
            await one.registry.approve("nobody")


async def test_a_request_of_who_was_fenced_meanwhile_troubles_nobody(tmp_path: Path) -> None:
    async with central(tmp_path, automatic_renewal=False) as one:
        gateway = NewGateway()
        await one.join(gateway)
        await asks(one, NewGateway(), 7)
        await one.registry.certify_requests()
        assert [alert.kind for alert in await alerts(one)] == [CA_WAITS]
        await one.registry.fence(gateway.origin, "cloned")
        await one.registry.certify_requests()
        assert await alerts(one) == []
        async with one.store.transaction() as t:
            (event,) = await t.select(Event)
        assert event.done
        assert len(await sub_cas(one)) == 1


async def test_retiring_may_revoke_the_ca(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        gateway = NewGateway()
        await one.join(gateway)
        await one.registry.retire(gateway.origin, "sold")
        assert not (await sub_cas(one))[0].revoked
        await one.registry.retire(gateway.origin, "stolen", revoke=Reason.CA_COMPROMISE)
        assert (await sub_cas(one))[0].reason == Reason.CA_COMPROMISE.value
        (journal,) = await one.registry.gateways()
        assert journal.closed == "sold"
        with pytest.raises(NotFound):
            await one.registry.retire("nobody", "")


async def test_groups(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        gateway = NewGateway()
        await one.join(gateway)
        await one.desired.set("group:line-3", "quotas", {"ldevid": 5})
        await one.registry.set_group(gateway.origin, "line-3")
        async with one.store.transaction() as t:
            document, journal = await t.find(Document, gateway.origin), await t.find(Journal, gateway.origin)
        assert document is not None
        assert journal is not None
        assert open_desired(document.content, one.authority.identity.vkey).quotas == {"ldevid": 5}
        with pytest.raises(MalformedRequest):
            await one.registry.set_group(gateway.origin, "a\nb")


async def test_a_codes_secret_is_nowhere_but_in_its_row(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        code = await one.registry.make_code()
        answer = await one.registry.join(NewGateway().request(code))
        assert code.secret.hex().encode() not in answer
        async with one.store.transaction() as t:
            (row,) = await t.select(Code)
        assert (row.secret, row.origin) == (code.secret, NewGateway().origin)


# Several workers on one database.


async def test_two_workers_give_one_answer(tmp_path: Path, postgres: PostgresServer) -> None:
    dsn = postgres.new_database()
    async with central(tmp_path, dsn=dsn) as one, central(tmp_path, dsn=dsn, found=False) as two:
        gateway = NewGateway()
        code = await one.registry.make_code()
        request = gateway.request(code)
        answers = await asyncio.gather(*(worker.registry.join(request) for worker in (one, two) for _ in range(3)))
        assert len(set(answers)) == 1
        open_answer(answers[0], code, request)
        assert len(await two.registry.gateways()) == 1
        async with two.store.transaction() as t:
            assert len(await t.select(Ca, origin=gateway.origin)) == 1


async def test_two_workers_certify_a_ca_key_once(tmp_path: Path, postgres: PostgresServer) -> None:
    dsn = postgres.new_database()
    async with central(tmp_path, dsn=dsn) as one, central(tmp_path, dsn=dsn, found=False) as two:
        gateway = NewGateway()
        await one.join(gateway)
        await asks(one, NewGateway(), 7)
        await asyncio.gather(one.registry.certify_requests(), two.registry.certify_requests())
        async with two.store.transaction() as t:
            assert len(await t.select(Ca, origin=gateway.origin)) == 2
            assert all(event.done for event in await t.select(Event))


async def test_two_workers_make_documents_that_never_share_a_version(tmp_path: Path, postgres: PostgresServer) -> None:
    dsn = postgres.new_database()
    async with central(tmp_path, dsn=dsn) as one, central(tmp_path, dsn=dsn, found=False) as two:
        gateway = NewGateway()
        await one.join(gateway)
        for number in range(1, 6):
            await asyncio.gather(
                one.desired.set("central", "quotas", {"ldevid": number}),
                two.desired.set("central", "trust_lists", {"17": number}),
            )
        async with one.store.transaction() as t:
            document = await t.find(Document, gateway.origin)
        assert document is not None
        desired = open_desired(document.content, one.authority.identity.vkey)
        assert (desired.quotas, desired.trust_lists) == ({"ldevid": 5}, {"17": 5})
        assert desired.version <= 11
        await asyncio.gather(*(worker.authority.publish_list(now=True) for worker in (one, two)))

"""From records to tables on a real database of each kind: what is found in them and set aside, and that it happens once."""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.clock import MonotonicClock
from gateway.errors import NotFound
from gateway.journal.records import (
    CaActivated,
    CaRequested,
    Closed,
    CommandDone,
    CrlPublished,
    DesiredApplied,
    DesiredRefused,
    FencedByCentral,
    PolicyApplied,
    Released,
    Revoked,
)
from gateway.journal.tip import serial_column
from gateway.pki.crl import Reason
from sync.central import projector as module
from sync.central.audit import root_problems
from sync.central.desired_state import UNKNOWN_DOCUMENT
from sync.central.findings import REVOKE
from sync.central.projection import read_names
from sync.central.projector import READER, Projector
from sync.central.revocations import Revocations
from sync.central.rows import (
    CENTRAL,
    GATEWAY,
    ISSUED,
    VOID,
    Alert,
    Announced,
    Ca,
    Certificate,
    Cursor,
    Document,
    Event,
    Evidence,
    Journal,
    Order,
    Policy,
    Quarantined,
    Revocation,
    Setting,
    Tally,
)
from sync.central.store import CentralStore, StoreBusy
from sync.central.store_postgres import PostgresStore
from sync.desired import Desired, sign_desired
from tests.support.central_ingest import ingest_on, register
from tests.support.edge import CENTRAL_KEY, START_MS, Edge, ca_certificate, ec_key, spki_of
from tests.support.postgres import PostgresServer


class NoDocuments:
    """What commands are written into is another part's matter."""

    async def refresh(self, origin: str) -> bool:
        return False


class Central:
    """A store, what takes records, what projects them, and a list of what had to be revoked."""

    def __init__(self, store: CentralStore) -> None:
        self.store, self.ingest = store, ingest_on(store)
        self.revoked: list[tuple[int, Reason, bytes]] = []
        self.revocations = Revocations(store, NoDocuments(), MonotonicClock(lambda: START_MS))
        self.projector = self.another()

    def another(self, **options: object) -> Projector:
        return Projector(self.store, MonotonicClock(lambda: START_MS), revoke=self.revoke, **options)  # type: ignore[arg-type]

    async def revoke(self, serial: int, reason: Reason, by: str, *, issuer: bytes) -> None:
        assert by.startswith("central: ")
        await self.revocations.revoke(serial, reason, by, issuer=issuer)
        self.revoked.append((serial, reason, issuer))

    async def take(self, *edges: Edge) -> None:
        """Everything that the gateways have, then the tables of it."""
        for edge in edges:
            async with self.store.transaction() as t:
                journal = await t.find(Journal, edge.origin)
            if journal is None:
                await register(self.store, edge)
            start = journal.size if journal else 0
            for at in range(start, edge.size, 1_000):
                await self.ingest.carried(edge.origin, edge.batch(at, min(at + 1_000, edge.size)))
            await self.project()

    async def project(self) -> None:
        while await self.projector.step():
            pass

    async def certificate(self, edge: Edge, number: int) -> Certificate | None:
        async with self.store.transaction() as t:
            return await t.find(Certificate, serial_column(f"{edge.serial(number):x}"), edge.key_id)

    async def alerts(self) -> dict[tuple[str, str], str]:
        async with self.store.transaction() as t:
            return {(alert.kind, alert.origin): alert.text for alert in await t.select(Alert, closed=0)}


@pytest.fixture
async def central(store: CentralStore) -> Central:
    return Central(store)


# Tables.


async def test_every_certificate_has_its_row_however_the_records_are_cut(store: CentralStore) -> None:
    edge = Edge()
    for number in range(30):
        edge.issue(number, device=f"SN{number}")
    edge.void(90)
    central = Central(store)
    central.projector = central.another(chunk=7)
    await central.take(edge)
    async with store.transaction() as t:
        rows = await t.select(Certificate)
        (tally,) = await t.select(Tally)
        (ca,) = await t.select(Ca)
        (policy,) = await t.select(Policy)
        assert await t.select(Quarantined) == []
        assert (await t.find(Cursor, READER, edge.origin)) == Cursor(READER, edge.origin, edge.size)
    assert [row.state for row in rows] == [ISSUED] * 30 + [VOID]
    assert [int.from_bytes(row.serial, "big") for row in rows] == [edge.serial(number) for number in (*range(30), 90)]
    assert (tally.name, tally.used) == ("profile:tls-client", 30)
    assert (ca.key_id, ca.origin, ca.generation) == (edge.key_id, edge.origin, 1)
    assert policy.version == 1
    assert await central.projector.lag() == 0


async def test_nothing_is_projected_twice(central: Central, store: CentralStore) -> None:
    edge = Edge()
    edge.issue(1)
    await central.take(edge)
    assert await central.projector.step() == 0
    assert await central.another().step() == 0
    async with store.transaction() as t:
        assert [row.used for row in await t.select(Tally)] == [1]


async def test_of_two_projectors_at_the_same_records_one_has_worked_for_nothing(central: Central, store: CentralStore) -> None:
    """Both have read and thought before either writes."""
    edge = Edge()
    await central.take(edge)
    for number in range(5):
        edge.issue(number)
    await central.ingest.carried(edge.origin, edge.batch(edge.size - 10))
    both = asyncio.Barrier(2)

    class Waiting(Projector):
        async def _known(self, piece: module._Piece) -> module.Known:
            known = await super()._known(piece)
            await both.wait()
            return known

    projectors = [Waiting(store, MonotonicClock(lambda: START_MS), revoke=central.revoke) for _ in range(2)]
    assert sorted(await asyncio.gather(*(each.step() for each in projectors))) == [0, 10]
    async with store.transaction() as t:
        assert [row.used for row in await t.select(Tally)] == [5]


async def test_projectors_of_two_workers_do_each_record_once(postgres: PostgresServer) -> None:
    dsn = postgres.new_database()
    stores = [await PostgresStore.open(dsn) for _ in range(2)]
    workers = [Central(store) for store in stores]
    for worker in workers:
        worker.projector = worker.another(chunk=5)
    edges = [Edge(f"gateway-{number}") for number in range(3)]
    for edge in edges:
        for number in range(20):
            edge.issue(number)
        await register(stores[0], edge)
        await workers[0].ingest.carried(edge.origin, edge.batch(0))

    async def project(worker: Central) -> None:
        while await worker.projector.lag():
            await worker.projector.step()

    await asyncio.gather(*map(project, workers))
    async with stores[0].transaction() as t:
        assert [row.used for row in await t.select(Tally)] == [20, 20, 20]
        assert await t.count(Certificate) == 60
    for store in stores:
        await store.close()


async def test_a_crash_before_the_commit_leaves_the_work_to_the_next_one(
    central: Central, store: CentralStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = Edge()
    edge.issue(1)
    await register(store, edge)
    await central.ingest.carried(edge.origin, edge.batch(0))

    async def crash(*_: object, **__: object) -> None:
        raise StoreBusy("the power is gone")

    with monkeypatch.context() as broken:
        broken.setattr(module.findings, "look", crash)
        with pytest.raises(StoreBusy):
            await central.project()
    async with store.transaction() as t:
        assert await t.count(Certificate) == 0
    await central.project()
    async with store.transaction() as t:
        assert [row.used for row in await t.select(Tally)] == [1]


async def test_what_is_asked_for_becomes_an_event_and_lists_are_announced(central: Central, store: CentralStore) -> None:
    edge = Edge()
    seq = edge.add(CaRequested(2, b"csr", "operator"))
    for number in (7, 9, 8):
        edge.add(CrlPublished(1, "full", number, 1, 2, bytes(32), 0))
        await central.take(edge)
    async with store.transaction() as t:
        (event,) = await t.select(Event, kind="ca-requested", done=0)
        (announced,) = await t.select(Announced)
    assert (event.seq, event.content) == (seq, b"csr")
    assert (announced.issuer, announced.number) == (edge.key_id, 9)


# Quarantine.


async def test_a_poison_record_is_set_aside_and_the_stream_goes_on(central: Central, store: CentralStore) -> None:
    edge = Edge()
    edge.issue(1)
    edge.records.append(b'{"kind":"from-the-future","seq":5,"time":1}')
    edge.issue(2)
    await central.take(edge)
    async with store.transaction() as t:
        (aside,) = await t.select(Quarantined)
        assert await t.count(Certificate) == 2
    assert (aside.seq, "not a journal record" in aside.reason) == (5, True)
    assert ("quarantine", edge.origin) in await central.alerts()
    assert await root_problems(store) == []
    assert await central.projector.reproject() == 0


async def test_our_own_mistake_costs_one_record_and_no_more(
    central: Central, store: CentralStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the projection stumbles over, the others are not kept from having their rows."""
    edge = Edge()
    for number in range(4):
        edge.issue(number)

    def stumbles(tbs: bytes, serial: str) -> object:
        if int(serial, 16) == edge.serial(2):
            raise ZeroDivisionError("a mistake")
        return read_names(tbs, serial)

    with monkeypatch.context() as broken:
        broken.setattr("sync.central.projection.read_names", stumbles)
        await central.take(edge)
        async with store.transaction() as t:
            (aside,) = await t.select(Quarantined)
            assert await t.count(Certificate) == 3
        assert aside.reason == "a mistake"
        assert await central.projector.reproject() == 0
    assert await central.projector.reproject() == 1
    assert await central.certificate(edge, 2) is not None
    async with store.transaction() as t:
        assert await t.select(Quarantined) == []
        assert [row.used for row in await t.select(Tally)] == [4]
    assert await central.alerts() == {}


async def test_a_value_that_no_table_takes_costs_one_record(central: Central, store: CentralStore) -> None:
    edge = Edge()
    edge.issue(1)
    edge.add(PolicyApplied(1 << 70, "file", bytes(32)))
    edge.issue(2)
    await central.take(edge)
    async with store.transaction() as t:
        (aside,) = await t.select(Quarantined)
        assert await t.count(Certificate) == 2
    assert aside.reason == "a value that the database cannot hold"


async def test_what_was_set_aside_is_tried_again_by_the_next_start(central: Central, store: CentralStore) -> None:
    """Certificates of a CA that central learns of later."""
    edge = Edge(activated=False)
    edge.issue(1)
    edge.revoke(1)
    await central.take(edge)
    async with store.transaction() as t:
        assert [row.seq for row in await t.select(Quarantined)] == [3, 4]
    edge.activate()
    await central.take(edge)
    assert await central.another().reproject() == 2
    found = await central.certificate(edge, 1)
    assert found is not None
    async with store.transaction() as t:
        assert await t.select(Quarantined) == []
        assert [row.reason for row in await t.select(Revocation)] == ["superseded"]
    assert await central.alerts() == {}


async def test_a_large_quarantine_is_tried_again_bit_by_bit_beside_new_records(
    central: Central, store: CentralStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AGAIN", 3)
    edge = Edge(activated=False)
    for number in range(10):
        edge.issue(number)
    await central.take(edge)
    edge.activate()
    await central.take(edge)
    task = asyncio.create_task(central.another().run())
    async with asyncio.timeout(20):
        while await central.alerts():
            await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with store.transaction() as t:
        assert (await t.count(Certificate), await t.count(Quarantined)) == (10, 0)


async def test_quarantine_of_a_journal_that_is_gone_stays(central: Central, store: CentralStore) -> None:
    async with store.transaction() as t:
        await t.put(Quarantined("nobody", 3, "why", 1))
    assert await central.projector.reproject() == 0


# CAs.


async def test_a_ca_key_of_another_gateway_is_never_taken_over(central: Central, store: CentralStore) -> None:
    """Or one gateway could revoke what another one issued."""
    one, two = Edge("one"), Edge("two")
    one.issue(1)
    two.add(CaActivated(2, "software:x", one.ca.public_bytes(Encoding.DER), (), "operator"))
    two.add(Released(f"{one.serial(1):x}", 2, "operator"))
    await central.take(one, two)
    async with store.transaction() as t:
        assert [row.seq for row in await t.select(Quarantined, origin=two.origin)] == [3, 4]
        assert await t.count(Revocation) == 0
    assert "another gateway's" in (await central.alerts())["foreign-ca", two.origin]


async def test_a_generation_never_changes_its_key(central: Central, store: CentralStore) -> None:
    edge = Edge()
    edge.add(CaActivated(1, "software:x", Edge("two").ca.public_bytes(Encoding.DER), (), "operator"))
    edge.add(CaActivated(2, "software:x", b"no certificate", (), "operator"))
    await central.take(edge)
    async with store.transaction() as t:
        assert [row.seq for row in await t.select(Quarantined)] == [3, 4]
        assert await t.count(Ca) == 1


async def test_certificates_of_every_generation_are_told_apart(central: Central, store: CentralStore) -> None:
    """The CA was renewed while the gateway was alone; the backlog holds certificates of both keys."""
    edge, first = Edge(), Edge()
    edge.issue(1)
    edge.ca_key = ec_key("the next CA key")
    edge.ca = ca_certificate("CA of one", edge.ca_key)
    edge.activate(2)
    edge.issue(2, generation=2)
    edge.add(Revoked(f"{edge.serial(2):x}", 2, "superseded", 1, "operator"))
    edge.revoke(1)
    await central.take(edge)
    async with store.transaction() as t:
        assert [(row.issuer, row.generation) for row in await t.select(Certificate)] == [(first.key_id, 1), (edge.key_id, 2)]
        assert [row.issuer for row in await t.select(Revocation)] == [first.key_id, edge.key_id]
        assert await t.select(Quarantined) == []


async def test_what_the_root_signed_is_known_as_activated_afterwards(central: Central, store: CentralStore) -> None:
    edge = Edge()
    await central.take(edge)
    async with store.transaction() as t:
        (row,) = await t.select(Ca)
        await t.put(replace(row, generation=0, activated=0, signed=77))
        await t.change(Cursor, READER, edge.origin, position=0)
    await central.project()
    async with store.transaction() as t:
        (row,) = await t.select(Ca)
    assert (row.generation, row.signed, row.activated > 0) == (1, 77, True)


async def test_a_certificate_that_the_ca_did_not_sign_fences_the_gateway(central: Central, store: CentralStore) -> None:
    edge = Edge()
    intent = edge.plan(1)
    edge.add(edge.sign(intent, edge.add(intent), key=Edge("two").ca_key))
    await central.take(edge)
    async with store.transaction() as t:
        journal = await t.find(Journal, edge.origin)
        (evidence,) = await t.select(Evidence)
        assert await t.count(Certificate) == 0
    assert journal is not None
    assert "not signed by the CA key" in journal.fenced
    assert evidence.message == edge.records[-1]
    assert ("fenced", edge.origin) in await central.alerts()


async def test_a_journal_that_begins_with_another_key_is_an_alert(central: Central, store: CentralStore) -> None:
    edge = Edge()
    async with store.transaction() as t:
        await t.put(replace(edge.row(), origin="x"))
    edge.records[0] = Edge("two").records[0]
    await central.take(edge)
    assert ("identity", edge.origin) in await central.alerts()


# Revocations.


async def test_the_words_of_a_gateway_are_joined_over_many_batches(central: Central, store: CentralStore) -> None:
    edge = Edge()
    edge.issue(1)
    edge.revoke(1, "certificateHold")
    await central.take(edge)
    edge.add(Released(f"{edge.serial(1):x}", 1, "operator"))
    await central.take(edge)
    async with store.transaction() as t:
        (row,) = await t.select(Revocation)
        assert (row.reason, row.side) == ("", GATEWAY)
    edge.revoke(1, "superseded")
    edge.revoke(1, "keyCompromise", by="boss")
    await central.take(edge)
    async with store.transaction() as t:
        (row,) = await t.select(Revocation)
    assert (row.reason, row.by, row.number) == ("keyCompromise", "boss", edge.size - 1)


async def test_a_revocation_that_came_early_stays_when_it_comes_again(central: Central, store: CentralStore) -> None:
    """Even before the CA is known: then it waits for the record that says whose it is."""
    edge = Edge()
    edge.issue(1)
    hold = edge.revoke(1, "certificateHold")
    final = edge.revoke(1, "keyCompromise")
    await register(store, edge)
    await central.ingest.urgent(edge.origin, edge.urgent(final))
    issuer = b""
    for stop in (2, hold + 1, edge.size):  # before the CA, behind the hold that came before, all of it
        async with store.transaction() as t:
            journal = await t.find(Journal, edge.origin)
            (row,) = await t.select(Revocation)
        assert (row.issuer, row.reason, row.number) == (issuer, "keyCompromise", final)
        assert journal is not None
        await central.ingest.carried(edge.origin, edge.batch(journal.size, stop))
        await central.project()
        issuer = b"" if stop == 2 else edge.key_id
    async with store.transaction() as t:
        (row,) = await t.select(Revocation)
    assert (row.issuer, row.reason, row.number) == (edge.key_id, "keyCompromise", final)


async def test_a_release_never_overtakes(central: Central, store: CentralStore) -> None:
    """A restore of the gateway could take its record back, and central would call good what the gateway holds."""
    edge = Edge()
    edge.issue(1)
    edge.revoke(1, "certificateHold")
    await central.take(edge)
    seq = edge.add(Released(f"{edge.serial(1):x}", 1, "operator"))
    await central.ingest.urgent(edge.origin, edge.urgent(seq))
    async with store.transaction() as t:
        assert [row.reason for row in await t.select(Revocation)] == ["certificateHold"]
    await central.take(edge)
    async with store.transaction() as t:
        assert [row.reason for row in await t.select(Revocation)] == [""]


# A central that was restored from its backup.


async def own_word(central: Central, edge: Edge) -> tuple[str, int] | None:
    async with central.store.transaction() as t:
        row = await t.find(Revocation, serial_column(f"{edge.serial(1):x}"), edge.key_id, CENTRAL)
    return (row.reason, row.number) if row else None


async def test_a_restored_central_learns_from_the_gateway_what_it_had_said_itself(
    central: Central, store: CentralStore
) -> None:
    """Its backup has the hold, and it had lifted it since: else it would say on hold for ever."""
    edge = Edge()
    edge.issue(1)
    await central.take(edge)
    await central.revocations.revoke(edge.serial(1), Reason.CERTIFICATE_HOLD, "boss")
    async with store.transaction() as t:
        (order,) = await t.select(Order)
    edge.revoke(1, "certificateHold", by="central")
    edge.add(CommandDone(order.id, "done"))
    seq = edge.add(Released(f"{edge.serial(1):x}", 1, "central"))  # the command and the word for it are forgotten
    edge.add(CommandDone("forgotten", "done"))
    await central.ingest.urgent(edge.origin, edge.urgent(seq))
    assert await own_word(central, edge) == ("certificateHold", 0)  # it overtook, and may be late
    await central.take(edge)  # all in one piece: the command that is done is pending no more when the release comes
    assert await own_word(central, edge) == ("", seq)


async def test_what_central_had_revoked_since_its_backup_is_its_own_word_again(central: Central) -> None:
    edge = Edge()
    edge.issue(1)
    seq = edge.revoke(1, "certificateHold", by="central")
    await register(central.store, edge)
    await central.ingest.urgent(edge.origin, edge.urgent(seq))
    assert await own_word(central, edge) is None
    await central.take(edge)
    assert await own_word(central, edge) == ("certificateHold", seq)
    edge.revoke(1, "superseded", by="anna")
    await central.take(edge)
    assert await own_word(central, edge) == ("certificateHold", seq)  # what others decide there is the gateway's word


async def test_while_a_command_is_pending_central_knows_better_than_the_gateways_record(central: Central) -> None:
    edge = Edge()
    edge.issue(1)
    await central.take(edge)
    await central.revocations.revoke(edge.serial(1), Reason.CERTIFICATE_HOLD, "boss")
    before = await own_word(central, edge)
    edge.add(Released(f"{edge.serial(1):x}", 1, "central"))  # an older decision, carried out late
    await central.take(edge)
    assert await own_word(central, edge) == before == ("certificateHold", 0)


async def test_a_word_of_central_in_a_record_that_was_set_aside_is_not_heard_late(central: Central) -> None:
    edge = Edge(activated=False)
    edge.issue(1)
    edge.revoke(1, "certificateHold", by="central")
    await central.take(edge)
    edge.activate()
    await central.take(edge)
    assert await central.projector.reproject() == 2
    assert await own_word(central, edge) is None


@pytest.mark.parametrize(("version", "known", "events"), [(3, True, 0), (2, False, 0), (3, False, 1), (4, False, 1)])
async def test_a_document_in_force_that_central_does_not_know_is_noticed(
    central: Central, store: CentralStore, version: int, known: bool, events: int
) -> None:
    edge = Edge()
    await register(store, edge)
    content = sign_desired(Desired(edge.origin, 3, 0), "central.example", CENTRAL_KEY)
    async with store.transaction() as t:
        await t.put(Document(edge.origin, 3, 0, 0, content))
    digest = hashlib.sha256(content).digest() if known else bytes(32)
    edge.add(DesiredApplied(version, digest, 1, 0))
    await central.take(edge)
    async with store.transaction() as t:
        found = await t.select(Event, kind=UNKNOWN_DOCUMENT, done=0)
    assert [event.content for event in found] == [b"%d" % version] * events


async def test_urgent_records_that_cannot_be_read_are_left_for_their_place(central: Central, store: CentralStore) -> None:
    edge = Edge()
    edge.records += [b"[]", b"nothing", b'{"seq":"x"}']
    edge.revoke(1, "bad mood")
    fence = edge.add(FencedByCentral("cloned"))
    edge.revoke(2, "certificateHold")
    edge.revoke(2, "superseded")
    await register(store, edge)
    await central.ingest.urgent(edge.origin, edge.urgent(*range(edge.size)))
    async with store.transaction() as t:
        assert [row.reason for row in await t.select(Revocation)] == ["superseded"]
    assert (await central.alerts())["fenced-there", edge.origin] == "cloned"
    assert fence


# What central makes of it.


async def test_the_same_device_with_another_key_at_two_gateways_is_an_alert(central: Central) -> None:
    one, two = Edge("one"), Edge("two")
    one.issue(1, device="SN-1")
    two.issue(2, device="SN-1")
    await central.take(one, two)
    assert set(await central.alerts()) == {("duplicate-identity", two.origin)}
    assert central.revoked == []


async def test_the_same_device_with_a_new_key_at_one_gateway_is_a_renewal(central: Central) -> None:
    one = Edge("one")
    one.issue(1, device="SN-1")
    await central.take(one)
    one.issue(2, device="SN-1")
    await central.take(one)
    assert await central.alerts() == {}


async def test_a_revoked_identity_clashes_with_nobody(central: Central) -> None:
    one, two = Edge("one"), Edge("two")
    one.issue(1, device="SN-1")
    one.revoke(1)
    two.issue(2, device="SN-1")
    await central.take(one, two)
    assert await central.alerts() == {}


async def test_the_same_key_for_two_devices_is_blocked_everywhere(central: Central, store: CentralStore) -> None:
    one, two = Edge("one"), Edge("two")
    one.issue(1, device="SN-1", key="copied")
    two.issue(2, device="SN-2", key="copied")
    await central.take(one, two)
    digest = spki_of(ec_key("copied"))
    async with store.transaction() as t:
        assert await t.find(Setting, "central", f"blocked-key:{digest.hex()}") is not None
    assert set(await central.alerts()) == {("shared-key", two.origin)}


async def test_a_certificate_against_the_policy_is_kept_disputed_and_revoked(central: Central, store: CentralStore) -> None:
    edge = Edge()
    edge.issue(1, policy_version=9)
    edge.issue(2)
    await central.take(edge)
    row = await central.certificate(edge, 1)
    assert row is not None
    assert "not in force" in row.disputed
    assert central.revoked == [(edge.serial(1), Reason.PRIVILEGE_WITHDRAWN, edge.key_id)]
    assert ("disputed", edge.origin) in await central.alerts()
    await central.projector.carry_out()
    assert len(central.revoked) == 1


@pytest.mark.parametrize("reason", ["keyCompromise", "privilegeWithdrawn"])
async def test_the_whole_line_of_a_compromised_certificate_falls(central: Central, reason: str) -> None:
    """Successors that were there before the revocation, that come after it, and those of a successor."""
    edge = Edge()
    edge.issue(1)
    edge.issue(2, predecessor=1)
    edge.issue(3, predecessor=2)
    edge.issue(5)
    await central.take(edge)
    assert central.revoked == []
    edge.revoke(1, reason)
    edge.issue(4, predecessor=1)
    await central.take(edge)
    await central.projector.carry_out()
    assert {serial for serial, _, _ in central.revoked} == {edge.serial(2), edge.serial(3), edge.serial(4)}
    assert {why for _, why, _ in central.revoked} == {Reason(reason)}


async def test_what_central_revokes_falls_with_its_successors_before_the_gateway_hears_of_it(central: Central) -> None:
    edge = Edge()
    edge.issue(1)
    edge.issue(2, predecessor=1)
    await central.take(edge)
    await central.revocations.revoke(edge.serial(1), Reason.SUPERSEDED, "boss")
    await central.projector.carry_out()
    assert central.revoked == []
    await central.revocations.revoke(edge.serial(1), Reason.KEY_COMPROMISE, "boss")
    await central.projector.carry_out()
    assert [serial for serial, _, _ in central.revoked] == [edge.serial(2)]


async def test_the_successor_of_a_superseded_certificate_is_fine(central: Central) -> None:
    edge = Edge()
    edge.issue(1)
    edge.issue(2, predecessor=1)
    edge.revoke(1, "superseded")
    edge.issue(3, predecessor=1)
    await central.take(edge)
    assert central.revoked == []


async def test_a_successor_falls_for_centrals_own_word_too(central: Central, store: CentralStore) -> None:
    edge = Edge()
    edge.issue(1)
    await central.take(edge)
    serial = serial_column(f"{edge.serial(1):x}")
    async with store.transaction() as t:
        await t.put(Revocation(serial, edge.key_id, CENTRAL, edge.origin, 1, "keyCompromise", 1, "boss", 1))
    edge.issue(2, predecessor=1)
    await central.take(edge)
    assert [each for each, _, _ in central.revoked] == [edge.serial(2)]


async def test_what_cannot_be_revoked_yet_is_tried_again(
    central: Central, store: CentralStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = Edge()
    edge.issue(1, policy_version=9)

    async def refuses(*_: object, **__: object) -> None:
        raise NotFound("not yet")

    with monkeypatch.context() as broken:
        broken.setattr(central.projector, "_revoke", refuses)
        await central.take(edge)
    async with store.transaction() as t:
        assert await t.count(Event, kind=REVOKE, done=0) == 1
    await central.projector.carry_out()
    assert [serial for serial, _, _ in central.revoked] == [edge.serial(1)]


async def test_the_revoker_that_is_out_of_reach_is_waited_for(central: Central, monkeypatch: pytest.MonkeyPatch) -> None:
    edge = Edge()
    edge.issue(1, policy_version=9)

    async def away(*_: object, **__: object) -> None:
        raise StoreBusy("later")

    monkeypatch.setattr(central.projector, "_revoke", away)
    with pytest.raises(StoreBusy):
        await central.take(edge)


# Quota.


async def grant(store: CentralStore, edge: Edge, quota: int) -> None:
    desired = Desired(edge.origin, 1, 0, quotas={"tls-client": quota})
    async with store.transaction() as t:
        await t.put(Document(edge.origin, 1, 0, 0, sign_desired(desired, "central.example", CENTRAL_KEY)))


@pytest.mark.parametrize(
    ("quota", "said"),
    [(20, None), (12, "80 %"), (10, "100 %"), (8, "2 more certificates")],
)
async def test_a_quota_nearly_used_is_an_alert(central: Central, store: CentralStore, quota: int, said: str | None) -> None:
    edge = Edge()
    await register(store, edge)
    await grant(store, edge, quota)
    for number in range(10):
        edge.issue(number)
    await central.take(edge)
    text = (await central.alerts()).get(("quota", edge.origin))
    assert (said in text) if said and text else (text is None and said is None)


async def test_a_quota_that_is_raised_closes_the_alert_with_the_next_certificate(central: Central, store: CentralStore) -> None:
    edge = Edge()
    await register(store, edge)
    await grant(store, edge, 2)
    edge.issue(1)
    edge.issue(2)
    await central.take(edge)
    await grant(store, edge, 200)
    edge.issue(3)
    edge.issue(4, quota=("token:1", "profile:other"))
    await central.take(edge)
    assert await central.alerts() == {}


# Records about the gateway as a whole.


async def test_a_command_is_done_when_the_gateway_says_so(central: Central, store: CentralStore) -> None:
    edge = Edge()
    await central.take(edge)
    orders = [
        Order(name, origin, "revoke", b"\x07" * 20, edge.key_id, 1, "superseded", 1, "boss", 1)
        for name, origin in (("a", edge.origin), ("b", edge.origin), ("c", "somebody else"))
    ]
    async with store.transaction() as t:
        await t.put(*orders)
    edge.add(CommandDone("a", "done"), CommandDone("b", "failed", "no such serial"), CommandDone("c", "done"))
    edge.add(CommandDone("a", "failed", "said again"), CommandDone("nobody's", "done"))
    await central.take(edge)
    async with store.transaction() as t:
        assert [(row.id, row.state, row.detail) for row in await t.select(Order)] == [
            ("a", "done", ""), ("b", "failed", "no such serial"), ("c", "open", "")
        ]  # fmt: skip
    assert ("command-failed", edge.origin) in await central.alerts()


async def test_a_refused_document_is_an_alert_until_one_is_applied(central: Central) -> None:
    edge = Edge()
    edge.add(DesiredRefused(4, bytes(32), "profile.x: no such key"))
    await central.take(edge)
    assert "no such key" in (await central.alerts())["document-refused", edge.origin]
    edge.add(DesiredApplied(5, bytes(32), 1, 0))
    await central.take(edge)
    assert await central.alerts() == {}


async def test_a_gateway_that_fenced_itself_or_closed_its_journal_is_known_so(central: Central, store: CentralStore) -> None:
    edge = Edge()
    edge.add(FencedByCentral("two of it"), Closed(3, bytes(32), "hardware replaced", "operator"), Closed(4, b"", "", "x"))
    await central.take(edge)
    async with store.transaction() as t:
        journal = await t.find(Journal, edge.origin)
    assert journal is not None
    assert journal.closed == "hardware replaced"
    assert ("fenced-there", edge.origin) in await central.alerts()


# Running.


async def test_it_runs_by_itself_and_makes_room_while_records_arrive(
    central: Central, store: CentralStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = Edge()
    edge.issue(1)
    monkeypatch.setattr(module, "_LOOK_S", 0.01)
    monkeypatch.setattr(module, "_RETRY_S", 0.01)
    asked = 0

    def busy() -> bool:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise StoreBusy("the database is away")
        return True

    task = asyncio.create_task(central.another(busy=busy).run())
    await register(store, edge)
    await central.ingest.carried(edge.origin, edge.batch(0))
    async with asyncio.timeout(20):
        while await central.certificate(edge, 1) is None:
            await asyncio.sleep(0.01)
    assert asked
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_database_that_failed_ends_it(central: Central, store: CentralStore, monkeypatch: pytest.MonkeyPatch) -> None:
    async def failed() -> int:
        raise module.JournalFailed("I/O error")

    monkeypatch.setattr(central.projector, "step", failed)
    with pytest.raises(module.JournalFailed):
        await central.projector.run()

"""Central's ear over a real database of each kind: what is judged, kept, confirmed and refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.errors import Busy, MalformedRequest
from gateway.journal.cosignature import open_receipt
from gateway.journal.statements import sign_statement
from sync.central import service
from sync.central.audit import root_problems
from sync.central.limits import Limits
from sync.central.rows import Alert, Document, Evidence, Journal, Retired, Revocation
from sync.central.service import HelloNeeded, Ingest, JournalFenced, NotBelieved, ResumeAt, UnknownGateway
from sync.central.store import CentralStore, desired_topic
from sync.central.store_postgres import PostgresStore
from sync.central.store_sqlite import SqliteStore
from sync.wire import Accepted, Hello, Welcome
from tests.support.central_ingest import ingest_on, pack, register
from tests.support.edge import CENTRAL_VKEY, START_MS, Edge
from tests.support.postgres import PostgresServer


async def journal_of(store: CentralStore, edge: Edge) -> Journal:
    async with store.transaction() as t:
        found = await t.find(Journal, edge.origin)
    assert found is not None
    return found


async def alerts(store: CentralStore) -> dict[str, str]:
    async with store.transaction() as t:
        return {alert.kind: alert.text for alert in await t.select(Alert, closed=0)}


@pytest.fixture
def edge() -> Edge:
    made = Edge()
    for number in range(10):
        made.issue(number)
    return made


@pytest.fixture
async def ingest(store: CentralStore, edge: Edge) -> Ingest:
    await register(store, edge)
    return ingest_on(store)


async def greet(ingest: Ingest, edge: Edge, **changes: str) -> Welcome:
    return await ingest.hello(edge.origin, edge.hello(await ingest.challenge(edge.origin), **changes))  # type: ignore[arg-type]


# Sessions.


async def test_a_gateway_is_known_by_the_key_of_its_client_certificate(ingest: Ingest, edge: Edge) -> None:
    assert (await ingest.gateway(edge.row().client_key)).origin == edge.origin
    with pytest.raises(UnknownGateway):
        await ingest.gateway(b"\x00" * 32)


async def test_a_client_key_that_was_kept_speaks_for_the_newer_journal(ingest: Ingest, edge: Edge, store: CentralStore) -> None:
    successor = replace(edge.row(2), origin="plant.example/a-later-one", joined=START_MS + 1)
    async with store.transaction() as t:
        await t.change(Journal, edge.origin, closed="replaced")
        await t.put(successor)
    assert (await ingest.gateway(edge.row().client_key)).origin == successor.origin
    async with store.transaction() as t:
        await t.change(Journal, successor.origin, joined=1)
    assert (await ingest.gateway(edge.row().client_key)).origin == successor.origin


async def test_nobody_unknown_gets_a_word(ingest: Ingest, edge: Edge) -> None:
    stranger = Edge("stranger")
    with pytest.raises(UnknownGateway):
        await ingest.challenge(stranger.origin)
    with pytest.raises(UnknownGateway):
        await ingest.hello(stranger.origin, stranger.hello("nonce"))
    with pytest.raises(UnknownGateway):
        await ingest.records(stranger.origin, pack(stranger.batch(0, session="s")))
    with pytest.raises(UnknownGateway):
        await ingest.urgent(stranger.origin, stranger.urgent(0))
    with pytest.raises(UnknownGateway):
        await ingest.desired(stranger.origin, 0, 0)


async def test_a_hello_with_the_nonce_begins_a_session(ingest: Ingest, edge: Edge, store: CentralStore) -> None:
    welcome = await greet(ingest, edge)
    journal = await journal_of(store, edge)
    assert (welcome.size, welcome.receipt, welcome.desired) == (0, "", 0)
    assert (journal.session, journal.incarnation, journal.nonce) == (welcome.session, edge.incarnation, "")
    assert (journal.seen, journal.offset, journal.head, journal.applied) == (START_MS, 0, edge.size, 3)


async def test_a_nonce_is_good_once_and_only_the_last_one(ingest: Ingest, edge: Edge) -> None:
    first = await ingest.challenge(edge.origin)
    second = await ingest.challenge(edge.origin)
    with pytest.raises(HelloNeeded):
        await ingest.hello(edge.origin, edge.hello(first))
    await ingest.hello(edge.origin, edge.hello(second))
    with pytest.raises(HelloNeeded):
        await ingest.hello(edge.origin, edge.hello(second))


@pytest.mark.parametrize(
    "change",
    [
        lambda hello: replace(hello, incarnation="Not Hex"),
        lambda hello: replace(hello, origin="plant.example/two"),
        lambda hello: replace(hello, checkpoint="no note"),
    ],
)
async def test_a_hello_that_is_not_what_it_should_be_changes_nothing(
    ingest: Ingest, edge: Edge, store: CentralStore, change: Callable[[Hello], Hello]
) -> None:
    nonce = await ingest.challenge(edge.origin)
    hello = Hello(edge.origin, nonce, edge.incarnation, edge.note(), 0, START_MS, "1")
    with pytest.raises(NotBelieved):
        await ingest.hello(edge.origin, sign_statement("hello", change(hello).to_bytes(), edge.origin, edge.key))
    assert (await journal_of(store, edge)).nonce == nonce


async def test_a_hello_signed_by_another_is_not_believed(ingest: Ingest, edge: Edge) -> None:
    other = Edge("other")
    with pytest.raises(NotBelieved):
        await ingest.hello(edge.origin, other.hello(await ingest.challenge(edge.origin)))


async def test_a_start_that_another_one_replaced_fences_for_good(ingest: Ingest, edge: Edge, store: CentralStore) -> None:
    await greet(ingest, edge)
    await greet(ingest, edge, incarnation="aa" * 16)
    async with store.transaction() as t:
        assert [row.incarnation for row in await t.select(Retired)] == [edge.incarnation]
    with pytest.raises(JournalFenced, match="two of it"):
        await greet(ingest, edge)
    with pytest.raises(JournalFenced):
        await greet(ingest, edge, incarnation="aa" * 16)
    async with store.transaction() as t:
        (evidence,) = await t.select(Evidence)
    assert evidence.note.startswith(edge.origin)
    assert "fenced" in await alerts(store)


async def test_a_restored_gateway_is_fenced_by_its_own_hello(ingest: Ingest, edge: Edge, store: CentralStore) -> None:
    welcome = await greet(ingest, edge)
    await ingest.records(edge.origin, pack(edge.batch(0, session=welcome.session)))
    del edge.records[-3:]
    with pytest.raises(JournalFenced, match="restored from a backup"):
        await greet(ingest, edge, incarnation="bb" * 16)


async def test_a_clock_that_is_far_off_is_an_alert_until_it_is_set(ingest: Ingest, edge: Edge, store: CentralStore) -> None:
    nonce = await ingest.challenge(edge.origin)
    await ingest.hello(edge.origin, edge.hello(nonce, clock_ms=START_MS - 400_000))
    assert (await alerts(store))["clock"] == "its clock is 400 s behind"
    await greet(ingest, edge)
    assert await alerts(store) == {}


# Records.


async def test_records_are_kept_and_confirmed_by_a_receipt_that_anyone_can_check(
    ingest: Ingest, edge: Edge, store: CentralStore
) -> None:
    session = (await greet(ingest, edge)).session
    first = await ingest.records(edge.origin, pack(edge.batch(0, 9, session)))
    second = await ingest.records(edge.origin, pack(edge.batch(9, session=session)))
    assert open_receipt(first.receipt, edge.vkey, CENTRAL_VKEY).checkpoint.size == 9
    assert open_receipt(second.receipt, edge.vkey, CENTRAL_VKEY).checkpoint.size == edge.size
    journal = await journal_of(store, edge)
    async with store.transaction() as t:
        kept = await t.records(journal, 0)
    assert [each.body for each in kept] == edge.records
    assert {each.received for each in kept} == {START_MS}
    assert await root_problems(store) == []


async def test_the_same_batch_again_gets_the_same_receipt_and_adds_nothing(
    ingest: Ingest, edge: Edge, store: CentralStore
) -> None:
    session = (await greet(ingest, edge)).session
    packed = pack(edge.batch(0, session=session))
    first = await ingest.records(edge.origin, packed)
    assert await ingest.records(edge.origin, packed) == first
    assert await ingest.records(edge.origin, pack(edge.batch(3, 12, session))) == first
    journal = await journal_of(store, edge)
    async with store.transaction() as t:
        assert len(await t.records(journal, 0)) == edge.size


async def test_a_batch_that_overlaps_adds_only_what_is_new(ingest: Ingest, edge: Edge, store: CentralStore) -> None:
    session = (await greet(ingest, edge)).session
    await ingest.records(edge.origin, pack(edge.batch(0, 9, session)))
    await ingest.records(edge.origin, pack(edge.batch(4, session=session)))
    assert await root_problems(store) == []
    assert (await journal_of(store, edge)).size == edge.size


async def test_records_without_any_meaning_are_kept_like_others(ingest: Ingest, edge: Edge, store: CentralStore) -> None:
    edge.records += [b'{"kind":"from-the-future"}', b"\xff\x00 not even text", b""]
    session = (await greet(ingest, edge)).session
    await ingest.records(edge.origin, pack(edge.batch(0, session=session)))
    assert (await journal_of(store, edge)).size == edge.size
    assert await root_problems(store) == []


async def test_a_batch_behind_the_end_is_told_where_to_go_on(ingest: Ingest, edge: Edge, store: CentralStore) -> None:
    session = (await greet(ingest, edge)).session
    await ingest.records(edge.origin, pack(edge.batch(0, 5, session)))
    with pytest.raises(ResumeAt) as caught:
        await ingest.records(edge.origin, pack(edge.batch(6, session=session)))
    assert (caught.value.size, caught.value.root) == (5, (await journal_of(store, edge)).standing().root)


async def test_a_batch_of_no_session_or_an_old_one_is_asked_to_greet(ingest: Ingest, edge: Edge) -> None:
    with pytest.raises(HelloNeeded):
        await ingest.records(edge.origin, pack(edge.batch(0)))
    old = (await greet(ingest, edge)).session
    await greet(ingest, edge)
    with pytest.raises(HelloNeeded):
        await ingest.records(edge.origin, pack(edge.batch(0, session=old)))


async def test_another_history_fences_and_the_message_is_kept(ingest: Ingest, edge: Edge, store: CentralStore) -> None:
    session = (await greet(ingest, edge)).session
    await ingest.records(edge.origin, pack(edge.batch(0, session=session)))
    edge.records[4] = edge.records[5]
    proof = edge.batch(edge.size, session=session)
    with pytest.raises(JournalFenced):
        await ingest.records(edge.origin, pack(proof))
    async with store.transaction() as t:
        (evidence,) = await t.select(Evidence, origin=edge.origin)
    assert (evidence.note, evidence.message) == (proof.checkpoint, proof.to_bytes())
    for call in (ingest.records(edge.origin, pack(proof)), ingest.desired(edge.origin, 0, 0)):
        with pytest.raises(JournalFenced):
            await call
    with pytest.raises(JournalFenced):
        await ingest.urgent(edge.origin, edge.urgent(0))


async def test_changed_octets_under_the_signed_root_are_refused_with_an_alert_until_all_is_well(
    ingest: Ingest, edge: Edge, store: CentralStore
) -> None:
    session = (await greet(ingest, edge)).session
    batch = edge.batch(0, session=session)
    with pytest.raises(NotBelieved):
        await ingest.records(edge.origin, pack(replace(batch, checkpoint=Edge("two").note())))
    assert "refused" in await alerts(store)
    assert (await journal_of(store, edge)).size == 0
    await greet(ingest, edge)
    assert await alerts(store) == {}


async def test_a_bundle_needs_no_session_and_convicts_nobody(ingest: Ingest, edge: Edge, store: CentralStore) -> None:
    first = edge.batch(0, 9)
    accepted = await ingest.carried(edge.origin, first)
    assert await ingest.carried(edge.origin, replace(first, session="whatever somebody wrote there")) == accepted
    changed = replace(edge.batch(9), records=(*edge.records[9:-1], b"{}"))
    with pytest.raises(NotBelieved):
        await ingest.carried(edge.origin, changed)
    assert not (await journal_of(store, edge)).fenced
    await ingest.carried(edge.origin, edge.batch(9))
    assert await root_problems(store) == []


async def test_records_by_a_bundle_make_the_nonce_void(ingest: Ingest, edge: Edge) -> None:
    nonce = await ingest.challenge(edge.origin)
    late = edge.hello(nonce)
    edge.issue(90)
    await ingest.carried(edge.origin, edge.batch(0))
    with pytest.raises(HelloNeeded):
        await ingest.hello(edge.origin, late)


async def test_an_empty_batch_is_the_heartbeat(ingest: Ingest, edge: Edge, store: CentralStore) -> None:
    session = (await greet(ingest, edge)).session
    await ingest.records(edge.origin, pack(edge.batch(0, session=session)))
    before = await journal_of(store, edge)
    async with store.transaction() as t:
        await t.put(Document(edge.origin, 7, 0, 0, b"the document"))
    beat = replace(edge.batch(edge.size, session=session), applied=6)
    assert await ingest.records(edge.origin, pack(beat)) == Accepted(before.receipt, 7)
    assert (await journal_of(store, edge)).applied == 6


@pytest.mark.parametrize(
    "packed",
    [b"", b"not zstd", pack(Edge().batch(0))[:40], bytes(9 << 20)],
    ids=["empty", "not zstd", "cut short", "too long"],
)
async def test_octets_that_are_no_batch_change_nothing(ingest: Ingest, edge: Edge, packed: bytes) -> None:
    with pytest.raises(MalformedRequest):
        await ingest.records(edge.origin, packed)


async def test_nothing_is_confirmed_that_could_not_be_kept(
    ingest: Ingest, edge: Edge, store: CentralStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The receipt is made inside the transaction; what cannot be signed is not kept, and what is not kept is not answered."""
    session = (await greet(ingest, edge)).session

    def broken(_note: str) -> str:
        raise OSError("the key is away")

    monkeypatch.setattr(ingest, "_cosign", broken)
    with pytest.raises(OSError, match="away"):
        await ingest.records(edge.origin, pack(edge.batch(0, session=session)))
    journal = await journal_of(store, edge)
    async with store.transaction() as t:
        assert (journal.size, await t.records(journal, 0)) == (0, [])


# Urgent records.


async def test_a_revocation_overtakes_the_backlog(ingest: Ingest, edge: Edge, store: CentralStore) -> None:
    seq = edge.revoke(3, "keyCompromise")
    await ingest.urgent(edge.origin, edge.urgent(seq, 0))
    async with store.transaction() as t:
        (row,) = await t.select(Revocation)
    assert (int.from_bytes(row.serial, "big"), row.reason, row.number) == (edge.serial(3), "keyCompromise", seq)
    assert (await journal_of(store, edge)).size == 0


async def test_urgent_records_are_believed_from_the_gateway_alone(ingest: Ingest, edge: Edge, store: CentralStore) -> None:
    other = Edge("two")
    other.revoke(3)
    for statement in (other.urgent(other.size - 1), b"nothing"):
        with pytest.raises(NotBelieved):
            await ingest.urgent(edge.origin, statement)
    async with store.transaction() as t:
        assert await t.count(Revocation) == 0


async def test_too_many_urgent_records_are_refused(ingest: Ingest, edge: Edge) -> None:
    with pytest.raises(NotBelieved, match="too many"):
        await ingest.urgent(edge.origin, edge.urgent(*([0] * 1_001)))


# The way down.


async def test_a_document_is_given_at_once_when_it_is_newer(ingest: Ingest, edge: Edge, store: CentralStore) -> None:
    assert await ingest.desired(edge.origin, 0, 0) is None
    async with store.transaction() as t:
        await t.put(Document(edge.origin, 2, 0, 0, b"version 2"))
    assert await ingest.desired(edge.origin, 1, 60) == b"version 2"
    assert await ingest.desired(edge.origin, 2, 0) is None


async def test_a_document_is_given_as_soon_as_it_is_made(ingest: Ingest, edge: Edge, store: CentralStore) -> None:
    waiting = asyncio.create_task(ingest.desired(edge.origin, 1, 60))
    await asyncio.sleep(0)
    async with store.transaction() as t:
        t.announce(desired_topic("somebody else"))
    async with store.transaction() as t:
        await t.put(Document(edge.origin, 2, 0, 0, b"version 2"))
        t.announce(desired_topic(edge.origin))
    assert await asyncio.wait_for(waiting, 20) == b"version 2"


# Limits.


async def test_one_batch_of_a_journal_at_a_time(ingest: Ingest, edge: Edge) -> None:
    session = (await greet(ingest, edge)).session
    packed = pack(edge.batch(0, session=session))
    outcomes = await asyncio.gather(*(ingest.records(edge.origin, packed) for _ in range(3)), return_exceptions=True)
    assert sorted(type(each).__name__ for each in outcomes) == ["Accepted", "Busy", "Busy"]
    assert isinstance(await ingest.records(edge.origin, packed), Accepted)


async def test_so_many_batches_in_all(store: CentralStore, edge: Edge) -> None:
    two = Edge("two")
    await register(store, edge, two)
    ingest = ingest_on(store, Limits(batches=1))
    outcomes = await asyncio.gather(
        ingest.carried(edge.origin, edge.batch(0)), ingest.carried(two.origin, two.batch(0)), return_exceptions=True
    )
    assert sorted(type(each).__name__ for each in outcomes) == ["Accepted", "Busy"]


@pytest.mark.parametrize("limits", [Limits(records_per_s=5), Limits(octets_per_s=100), Limits(all_records_per_s=5)])
async def test_who_sends_too_much_waits(store: CentralStore, edge: Edge, limits: Limits) -> None:
    await register(store, edge)
    ingest = ingest_on(store, limits)
    session = (await greet(ingest, edge)).session
    await ingest.records(edge.origin, pack(edge.batch(0, session=session)))
    with pytest.raises(Busy) as caught:
        await ingest.records(edge.origin, pack(edge.batch(edge.size, session=session)))
    assert caught.value.retry_after >= 1


async def test_records_arriving_are_noticed_by_work_that_can_wait(
    ingest: Ingest, edge: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000_000
    monkeypatch.setattr(service, "elapsed_ms", lambda: now)
    assert not ingest.busy
    session = (await greet(ingest, edge)).session
    await ingest.records(edge.origin, pack(edge.batch(0, session=session)))
    assert ingest.busy
    now += 1_000
    assert not ingest.busy


# Several workers.


async def test_two_workers_on_one_database_keep_every_record_once(postgres: PostgresServer) -> None:
    """Every gateway sends each batch through both workers at once, as one does that got no answer in time."""
    dsn = postgres.new_database()
    stores = [await PostgresStore.open(dsn) for _ in range(2)]
    edges = [Edge(f"gateway-{number}") for number in range(4)]
    for edge in edges:
        for number in range(20):
            edge.issue(number)
    await register(stores[0], *edges)
    workers = [ingest_on(store) for store in stores]

    async def drain(edge: Edge) -> None:
        session = (await greet(workers[0], edge)).session
        at = 0
        while at < edge.size:
            stop = min(at + 7, edge.size)
            packed = pack(edge.batch(max(0, at - 2), stop, session))
            answers = await asyncio.gather(*(worker.records(edge.origin, packed) for worker in workers))
            assert answers[0] == answers[1]
            at = stop

    await asyncio.gather(*map(drain, edges))
    assert await root_problems(stores[1]) == []
    for edge in edges:
        journal = await journal_of(stores[0], edge)
        async with stores[1].transaction() as t:
            assert [each.body for each in await t.records(journal, 0)] == edge.records
    for store in stores:
        await store.close()


async def test_what_was_confirmed_survives_the_end_of_the_process(tmp_path: Path, edge: Edge) -> None:
    store = await SqliteStore.open(tmp_path / "central.db")
    await register(store, edge)
    session = (await greet(ingest_on(store), edge)).session
    accepted = await ingest_on(store).records(edge.origin, pack(edge.batch(0, session=session)))
    await store.close()
    store = await SqliteStore.open(tmp_path / "central.db")
    again = ingest_on(store)
    assert await again.records(edge.origin, pack(edge.batch(0, session=session))) == accepted
    assert await root_problems(store) == []
    await store.close()

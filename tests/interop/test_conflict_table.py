"""Rows of the conflict table between a real gateway and a real central: authority, journal, orders, ingest, projection.

tests/sync/test_conflicts.py lists where every row is proved. Here stand those in which both sides have a part; records and
documents are carried by hand, so each test says who knew what when.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.authority.lifecycle import Ceremony
from gateway.authority.requests import Issued, Pending, Refused
from gateway.authority.revoke import CENTRAL
from gateway.cli import doctor
from gateway.errors import Forbidden
from gateway.journal.checkpoint import Checkpoint, NoteSigner, sign_note
from gateway.journal.cosignature import cosign
from gateway.journal.journal import JournalState
from gateway.journal.records import (
    CaKeyGenerated,
    Closed,
    DesiredRefused,
    Joined,
    OperatorAction,
    PolicyApplied,
    Record,
    encode,
)
from gateway.journal.records import Refused as RefusedRecord
from gateway.pki.crl import Reason
from gateway.web.report import report
from sync.central.projector import Projector
from sync.central.revocations import find_certificate, words
from sync.central.rows import Alert, Document, Evidence, Order
from sync.central.rows import Certificate as Row
from sync.central.rows import Journal as Registered
from sync.central.service import Ingest
from sync.central.store_sqlite import SqliteStore
from sync.client import CentralClient
from sync.conflicts import DECISION_MS, merged
from sync.desired import Desired, PolicyPart, sign_desired
from sync.link import Link
from sync.orders import Orders, remembered
from sync.outbox import Outbox
from sync.receipts import Receipts
from sync.wire import Accepted, Batch
from tests.support.authority import START_MS, SteppedClock, World, activation, authority_in, device_csr, enrollment
from tests.support.central import Central, NewGateway, central
from tests.support.edge import Edge, ec_key
from tests.sync.test_link import Wire
from tests.sync.test_member import CHECKPOINT_KEY, membership
from tests.sync.test_orders import JOINED, KEY, LOCAL, OWN, ROOT, VKEY, document

ORIGIN = "gateway.test/1"
HOLD = Reason.CERTIFICATE_HOLD
HOUR_MS = 3_600_000


def name_of_key(world: World) -> str:
    return str(world.journal.genesis.verifier_key).partition("+")[0]


async def register(store: Any, vkey: str) -> None:
    async with store.transaction() as t:
        if await t.find(Registered, ORIGIN) is None:
            await t.put(Registered(ORIGIN, await t.next_number(), "gateway", vkey, b"c" * 32, 1))


@dataclass
class Line:
    """A gateway, its central, and who carries between them."""

    world: World
    orders: Orders
    joined: Joined
    central: Central
    ingest: Ingest
    projector: Projector

    async def up(self) -> None:
        """What central lacks of the journal, and what central makes of it."""
        async with self.central.store.transaction() as t:
            registered = await t.find(Registered, ORIGIN)
        assert registered is not None
        signer = NoteSigner(name_of_key(self.world), CHECKPOINT_KEY)
        outbox = Outbox(self.world.journal.inner, signer, self.world.directory / "position")
        await self.ingest.carried(ORIGIN, await outbox.batch(registered.size, "", self.orders.version))
        while await self.projector.step():
            pass

    async def down(self) -> None:
        """Central's document of now."""
        await self.central.desired.refresh_all()
        async with self.central.store.transaction() as t:
            made = await t.find(Document, ORIGIN)
        assert made is not None
        await self.orders.take(made.content, self.joined)

    async def sync(self) -> None:
        for _ in range(2):
            await self.up()
            await self.down()
        await self.up()

    async def issue(self, index: int = 0) -> int:
        outcome = await self.world.authority.enroll(enrollment(device_csr(f"CN=device-{index}", key=index)))
        assert isinstance(outcome, Issued)
        return outcome.serial

    async def told(self, serial: int) -> tuple[Reason, int] | None:
        """What both sides tell of a certificate; they must tell the same."""
        async with self.central.store.transaction() as t:
            there = merged(*await words(t, await find_certificate(t, serial)))
        here = self.world.authority.status.find(serial)
        assert (here and (here.reason, here.revoked_ms)) == (there and (there.reason, there.revoked_ms))
        return (here.reason, here.revoked_ms) if here else None

    async def alerts(self) -> dict[str, str]:
        async with self.central.store.transaction() as t:
            return {alert.kind: alert.text for alert in await t.select(Alert, closed=0)}


@asynccontextmanager
async def line(directory: Path, *, ahead_ms: int = 0) -> AsyncIterator[Line]:
    """``ahead_ms``: how far central's clock is before the gateway's."""
    state = directory / "central"
    async with (
        central(state, SteppedClock(START_MS + ahead_ms), found=not (state / "central.db").exists()) as one,
        authority_in(directory, root=ROOT, policy=LOCAL) as world,
    ):
        identity = one.authority.identity
        joined = Joined(identity.name, identity.vkey, identity.certificate, (), "anna")
        if not await world.recorded(Joined):
            await world.journal.append(joined)
        await register(one.store, world.journal.genesis.verifier_key)

        async def activated() -> None:
            await world.authority.refresh_generations()

        orders = Orders(
            await remembered(cast(Any, world.journal), directory), directory, authority=world.authority,
            ceremony=Ceremony(cast(Any, world.journal), cast(Any, world.keyring), world.clock), clock=world.clock,
            local=LOCAL, own=OWN, activated=activated,
        )  # fmt: skip
        ingest = Ingest(one.store, cosign=one.authority.cosign, clock=one.clock)
        projector = Projector(one.store, one.clock, revoke=one.revocations.revoke)
        yield Line(world, orders, joined, one, ingest, projector)


# Revoked on both sides.


async def test_a_hold_of_both_sides_is_lifted_by_central_alone(tmp_path: Path) -> None:
    async with line(tmp_path) as one:
        serial, revoker = await one.issue(), one.world.authority.revoker
        held = await revoker.hold(serial, "operator:anna")
        await one.up()
        await one.central.revocations.revoke(serial, HOLD, "boss")
        await one.sync()
        assert await one.told(serial) == (HOLD, held.revoked_ms)
        with pytest.raises(Forbidden, match="central"):
            await revoker.release(serial, "operator:anna")
        await one.central.revocations.release(serial, "boss")
        await one.sync()
        assert await one.told(serial) is None


async def test_a_hold_that_the_gateway_lifts_before_it_hears_of_centrals_is_set_again(tmp_path: Path) -> None:
    async with line(tmp_path) as one:
        serial, revoker = await one.issue(), one.world.authority.revoker
        await revoker.hold(serial, "operator:anna")
        await one.up()
        _, status = await one.central.revocations.revoke(serial, HOLD, "boss")
        await revoker.release(serial, "operator:anna")
        await one.sync()
        assert await one.told(serial) == (HOLD, status.revoked_ms)


@pytest.mark.parametrize("first", ["gateway", "central"])
async def test_revoked_on_both_sides_the_earliest_date_and_key_compromise_hold_everywhere(tmp_path: Path, first: str) -> None:
    async with line(tmp_path) as one:
        serial = await one.issue()
        await one.up()
        early, late = START_MS - 2 * HOUR_MS, START_MS - HOUR_MS
        here, there = (early, late) if first == "gateway" else (late, early)
        await one.world.authority.revoker.revoke(serial, Reason.SUPERSEDED, "operator:anna", revoked_at_ms=here)
        await one.central.revocations.revoke(serial, Reason.CESSATION_OF_OPERATION, "boss", revoked_at_ms=there)
        await one.sync()
        assert await one.told(serial) == (Reason.SUPERSEDED, early)
        await one.central.revocations.revoke(serial, Reason.KEY_COMPROMISE, "boss")
        await one.sync()
        assert await one.told(serial) == (Reason.KEY_COMPROMISE, early)


async def test_a_revocation_of_central_is_dated_back_to_its_hold_on_both_sides(tmp_path: Path) -> None:
    async with line(tmp_path) as one:
        serial = await one.issue()
        await one.up()
        _, held = await one.central.revocations.revoke(serial, HOLD, "boss")
        await one.sync()
        one.central.clock.advance(HOUR_MS)
        one.world.clock.advance(HOUR_MS)
        await one.central.revocations.revoke(serial, Reason.SUPERSEDED, "boss")
        await one.sync()
        assert await one.told(serial) == (Reason.SUPERSEDED, held.revoked_ms)


# Central restored from backup.


async def test_a_restored_central_knows_again_what_it_had_lifted_and_its_documents_are_taken(tmp_path: Path) -> None:
    """Carried by hand, nobody says hello: the records alone tell it."""
    state, copy = tmp_path / "central", tmp_path / "copy"
    async with line(tmp_path) as one:
        held, revoked = await one.issue(), await one.issue(1)
        await one.up()
        await one.central.revocations.revoke(held, HOLD, "boss")
        await one.sync()
    shutil.copytree(state, copy)
    async with line(tmp_path) as one:
        await one.central.revocations.release(held, "boss")
        await one.central.revocations.revoke(revoked, HOLD, "boss")
        await one.sync()
        assert await one.told(held) is None
        before = one.orders.version
    shutil.rmtree(state)
    copy.rename(state)
    async with line(tmp_path) as one:
        await one.sync()
        assert await one.told(held) is None
        assert (await one.told(revoked) or [None])[0] is HOLD
        assert "gap" in await one.alerts()
        assert one.orders.version > before
        await one.central.revocations.release(revoked, "boss")  # its own word again, so its release counts
        await one.sync()
        assert await one.told(revoked) is None
        assert one.orders.refused is None


# Clocks differ or jump.


@pytest.mark.parametrize("ahead_ms", [-48 * HOUR_MS, 48 * HOUR_MS])
async def test_where_clocks_differ_by_days_the_order_of_records_decides_and_both_sides_tell_the_same(
    tmp_path: Path, ahead_ms: int
) -> None:
    async with line(tmp_path, ahead_ms=ahead_ms) as one:
        serial, other = await one.issue(), await one.issue(1)
        await one.up()
        await one.central.revocations.revoke(serial, HOLD, "boss")
        await one.central.revocations.revoke(other, Reason.SUPERSEDED, "boss")
        await one.sync()
        assert (await one.told(serial) or [None])[0] is HOLD
        assert (await one.told(other) or [None])[0] is Reason.SUPERSEDED
        one.world.clock.source_ms -= HOUR_MS  # somebody sets the gateway's clock back
        await one.central.revocations.release(serial, "boss")
        await one.sync()
        assert await one.told(serial) is None


# Violation found later.


async def test_what_was_issued_after_its_policy_had_expired_is_disputed_and_a_command_to_revoke_it_goes_down(
    tmp_path: Path,
) -> None:
    async with line(tmp_path) as one:
        edge = Edge("late")
        async with one.central.store.transaction() as t:
            await t.put(edge.row(await t.next_number()))
        edge.add(PolicyApplied(2, "central", bytes(32), edge.now_ms + 1000))
        edge.issue(1, policy_version=2)
        edge.now_ms += DECISION_MS + 2000
        edge.issue(2, policy_version=2)
        edge.issue(3)
        await one.ingest.carried(edge.origin, edge.batch(0))
        while await one.projector.step():
            pass
        async with one.central.store.transaction() as t:
            rows = await t.select(Row, origin=edge.origin)
            (order,) = await t.select(Order, origin=edge.origin)
            made = await t.find(Document, edge.origin)
            registered = await t.find(Registered, edge.origin)
        assert [bool(row.disputed) for row in rows] == [False, True, False]  # kept, all of them
        assert (order.do, order.reason, order.serial) == ("revoke", "privilegeWithdrawn", rows[1].serial)
        assert made is not None
        commands = Desired.from_bytes(made.content.partition(b"\n\n")[2]).commands
        assert [command.serial for command in commands] == [edge.serial(2)]
        assert registered is not None
        assert (registered.size, registered.fenced) == (edge.size, "")  # acknowledged, and the stream goes on
        assert "expired" in (await one.alerts())["disputed"]


# Same key, other device id.


async def test_a_key_under_two_device_ids_is_refused_by_every_gateway_once_its_document_arrives(tmp_path: Path) -> None:
    async with line(tmp_path) as one:
        for number, device in enumerate(("SN-1", "SN-2")):
            edge = Edge(f"gateway-{number}")
            edge.issue(number, device=device, key="copied")
            async with one.central.store.transaction() as t:
                await t.put(edge.row(await t.next_number()))
            await one.ingest.carried(edge.origin, edge.batch(0))
        assert isinstance(await one.world.authority.enroll(enrollment(device_csr(key=ec_key("fine")))), Issued)
        await one.sync()
        assert "shared-key" in await one.alerts()
        refused = await one.world.authority.enroll(enrollment(device_csr("CN=third", key=ec_key("copied"))))
        assert isinstance(refused, Refused)
        assert isinstance(await one.world.authority.enroll(enrollment(device_csr("CN=third", key=ec_key("own")))), Issued)


# Allow-list.


async def test_an_allow_list_is_centrals_alone_and_what_is_not_on_it_is_denied_or_waits_while_offline(tmp_path: Path) -> None:
    listed = {"base": "ldevid", "allow": {"files": {"CN": "shipment.txt"}}}
    part = PolicyPart(1, {"plc": listed, "hmi": {"base": "ldevid", "approval": True}})
    (tmp_path / "shipment.txt").write_text("SN-9\n")  # a file of that name here is not central's

    async def ask(one: Line, name: str) -> object:
        return await one.world.authority.enroll(enrollment(device_csr(f"CN={name}", key=ec_key(name)), profile="plc"))

    async with line(tmp_path) as one:
        without = sign_desired(Desired(ORIGIN, 1, START_MS, policy=part), CENTRAL, KEY)
        joined = replace(one.joined, central_key=VKEY)
        await one.orders.take(without, joined)
        (refused,) = await one.world.recorded(DesiredRefused)
        assert isinstance(refused, DesiredRefused)
        assert "shipment.txt" in refused.reason
        assert one.orders.version == 0
        lists = {"shipment.txt": "SN-1\n"}
        await one.orders.take(sign_desired(Desired(ORIGIN, 2, START_MS, policy=part, allow_lists=lists), CENTRAL, KEY), joined)
        assert isinstance(await ask(one, "SN-1"), Issued)
        for unlisted in ("SN-2", "SN-9"):
            assert isinstance(await ask(one, unlisted), Refused)
        waits = enrollment(device_csr("CN=SN-2", key=1), profile="hmi", requester=await one.world.token("hmi"))
        assert isinstance(await one.world.authority.enroll(waits), Pending)


# CRL number after a restore.


async def test_the_number_of_a_list_does_not_go_back_when_the_gateway_was_restored(tmp_path: Path) -> None:
    state, copy = tmp_path / "state", tmp_path / "copy"
    clock = SteppedClock()

    async def publish(one: World) -> int:
        one.clock.advance(60_000)
        await one.authority.publisher.publish_now()
        return max(each.number for each in one.authority.publisher.health())

    state.mkdir()
    async with authority_in(state, root=ROOT, clock=clock) as world:
        await publish(world)
    shutil.copytree(state, copy)
    async with authority_in(state, root=ROOT, clock=clock) as world:
        numbers = [await publish(world) for _ in range(3)]
    shutil.rmtree(state)
    copy.rename(state)
    async with authority_in(state, root=ROOT, clock=clock) as world:
        assert await publish(world) > max(numbers)


# Hardware replaced.


async def test_a_closed_journal_says_its_last_root_and_its_successor_names_it(tmp_path: Path) -> None:
    async with line(tmp_path) as one:
        await one.issue()
        head = one.world.journal.head
        await one.world.journal.append(Closed(head.size, head.root, "hardware replaced", "anna"))
        await one.up()
        async with one.central.store.transaction() as t:
            old = await t.find(Registered, ORIGIN)
        assert old is not None
        assert (old.closed, old.size) == ("hardware replaced", head.size + 1)
        await one.central.join(NewGateway("gateway.test/2", predecessor=ORIGIN))
        (new,) = [each for each in await one.central.registry.gateways() if each.origin == "gateway.test/2"]
        assert new.predecessor == ORIGIN


# Refused with the reason on both sides and visible to the technician.


@dataclass
class Session:
    """A member of a central whose line a :class:`Forger` holds, and its own end of it."""

    world: World
    link: Link
    store: SqliteStore
    ingest: Ingest
    wire: Wire
    technician: Callable[[], Any]

    async def alerts(self) -> dict[str, str]:
        async with self.store.transaction() as t:
            return {alert.kind: alert.text for alert in await t.select(Alert, closed=0)}


class Forger(Wire):
    """Changes each batch on its way to central."""

    def __init__(self, ingest: Ingest, change: Callable[[Batch], Batch]) -> None:
        super().__init__(ingest)
        self.change = change

    async def records(self, batch: Batch) -> Accepted:
        return await super().records(self.change(batch) if batch.records else batch)


@asynccontextmanager
async def session(
    directory: Path, change: Callable[[Batch], Batch] = lambda batch: batch, *, fenced: str = ""
) -> AsyncIterator[Session]:
    async with membership(directory, activate=False) as (world, member):
        await world.journal.append(CaKeyGenerated(1, "software:ca", b"spki", "test"), activation(ROOT, world.keys))
        await world.authority.refresh_generations()
        await world.authority.publisher.publish_now()
        if fenced:
            world.journal.fence(fenced)
        store = await SqliteStore.open(directory / "central.db")
        await register(store, world.journal.genesis.verifier_key)
        ingest = Ingest(store, cosign=lambda note: cosign(note, "central", KEY, 1), clock=world.clock)
        receipts = Receipts(directory / "receipt", world.journal.genesis.verifier_key, VKEY)
        wire = Forger(ingest, change)
        link = Link(
            world.journal.inner, Outbox(world.journal.inner, NoteSigner(name_of_key(world), CHECKPOINT_KEY), directory / "p"),
            member._orders, cast(CentralClient, wire), receipts=receipts, joined=JOINED, key=CHECKPOINT_KEY,
            clock=world.clock, chance=lambda: 0.0, fenced=member._fenced(),
        )  # fmt: skip
        member._link = link

        async def technician() -> str:
            """What ``edge-gateway doctor`` prints."""
            ceremony = Ceremony(cast(Any, world.journal), cast(Any, world.keyring), world.clock)
            facts = await report(
                world.clock, world.journal.inner, world.authority, ceremony, central=member.report(), line=None
            )
            return "\n".join(finding.what for finding in doctor.findings(facts))

        try:
            yield Session(world, link, store, ingest, wire, technician)
        finally:
            await store.close()


def _record(text: str, seq: int) -> bytes:
    return encode(Record(seq, START_MS, OperatorAction(text, "mallory")))


def _other_root(batch: Batch, key: Ed25519PrivateKey = CHECKPOINT_KEY) -> Batch:
    name = "gateway.test" if key is CHECKPOINT_KEY else "thief"
    return replace(batch, checkpoint=sign_note(Checkpoint(ORIGIN, batch.stop, bytes(32)), name, key))


FORGED: dict[str, tuple[Callable[[Batch], Batch], str, str]] = {
    "tampered": (
        lambda batch: replace(batch, records=(batch.records[0], _record("changed", 1), *batch.records[2:])), "fenced", "root",
    ),
    "truncated": (lambda batch: replace(batch, records=batch.records[:-1]), "refused", "the batch ends at"),
    "reordered": (lambda batch: replace(batch, records=batch.records[::-1]), "fenced", "root"),
    "foreign record": (lambda batch: replace(batch, records=(*batch.records[:-1], Edge().records[0])), "fenced", "root"),
    "foreign journal": (lambda batch: replace(batch, origin="another/1"), "refused", "another/1"),
    "wrong root": (_other_root, "fenced", "root"),
    "signed by another": (lambda batch: _other_root(batch, KEY), "refused", "sign"),
}  # fmt: skip


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.sync.test_link.ORIGIN", ORIGIN)
    monkeypatch.setattr("sync.session.SHORTEST_PAUSE_S", 0.001)
    monkeypatch.setattr("sync.link._LINGER_S", 0.001)


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("case", FORGED)
async def test_forged_records_are_refused_with_the_reason_on_both_sides_and_the_technician_sees_it(
    tmp_path: Path, case: str
) -> None:
    change, verdict, reason = FORGED[case]
    async with session(tmp_path, change) as one:
        assert reason not in await one.technician()
        task = asyncio.create_task(one.link.run())
        async with asyncio.timeout(20):
            while not one.link.status().trouble:
                await asyncio.sleep(0.005)
            if verdict == "fenced":
                await task
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with one.store.transaction() as t:
            registered = await t.find(Registered, ORIGIN)
            evidence = await t.select(Evidence)
        assert registered is not None
        assert registered.size == 0  # nothing was taken
        said = (await one.alerts())[verdict]
        assert reason in said
        assert bool(registered.fenced) == bool(evidence) == (verdict == "fenced")
        assert (one.world.journal.state is JournalState.FENCED) == (verdict == "fenced")
        assert said in await one.technician()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (document(1), "older than version 2"),
        (document(2, quotas={"ldevid": 9}), "with another content"),
        (document(3)[:-1] + b"]", "wrong"),
        (sign_desired(Desired(ORIGIN, 3, 0), "central", CHECKPOINT_KEY), "sign"),
        (sign_desired(Desired("another/1", 3, 0), "central", KEY), "another/1"),
        (document(3, expires=1), "expired"),
    ],
    ids=["stale", "same version", "tampered", "signed by another", "foreign", "expired"],
)
async def test_a_forged_or_stale_document_is_refused_with_the_reason_on_both_sides_and_the_technician_sees_it(
    tmp_path: Path, bad: bytes, reason: str
) -> None:
    async with session(tmp_path) as one:
        orders = one.link._orders
        await orders.take(document(2, expires=0), JOINED)
        assert "refused" not in await one.technician()
        await orders.take(bad, JOINED)
        assert orders.version == 2
        outbox = Outbox(one.world.journal.inner, NoteSigner(name_of_key(one.world), CHECKPOINT_KEY), tmp_path / "carried")
        await one.ingest.carried(ORIGIN, await outbox.batch(0, "", 2))
        projector = Projector(one.store, one.world.clock, revoke=cast(Any, None))
        while await projector.step():
            pass
        assert reason in (await one.alerts())["document-refused"]
        assert reason in await one.technician()


async def test_an_expired_policy_grants_nothing_which_the_technician_sees_and_central_learns(tmp_path: Path) -> None:
    async with session(tmp_path) as one:
        orders, end = one.link._orders, one.world.clock.now_ms() + 1000
        await orders.take(document(2, expires=end), JOINED)
        one.world.clock.advance(2000)
        outcome = await one.world.authority.enroll(enrollment())
        assert isinstance(outcome, Refused)
        assert "expired" in str(outcome.error)
        assert "nothing is issued" in await one.technician()
        (recorded,) = await one.world.recorded(RefusedRecord)
        outbox = Outbox(one.world.journal.inner, NoteSigner(name_of_key(one.world), CHECKPOINT_KEY), tmp_path / "carried")
        await one.ingest.carried(ORIGIN, await outbox.batch(0, "", 2))
        assert isinstance(recorded, RefusedRecord)
        async with one.store.transaction() as t:
            registered = await t.find(Registered, ORIGIN)
            assert registered is not None
            kept = await t.records(registered, 0)
        assert any(b'"refused"' in each.body for each in kept)


# Fenced before the start.


@pytest.mark.usefixtures("hurried")
async def test_a_gateway_that_was_fenced_before_its_start_greets_and_sends_no_records(tmp_path: Path) -> None:
    async with session(tmp_path, fenced="its anchor has seen more") as one:
        async with asyncio.timeout(20):
            await one.link.run()  # ends by itself
        assert one.wire.sent == ["challenge", "hello"]
        assert one.link.status().fenced == "its anchor has seen more"
        async with one.store.transaction() as t:
            registered = await t.find(Registered, ORIGIN)
        assert registered is not None
        assert registered.size == 0


@pytest.mark.usefixtures("hurried")
async def test_a_journal_that_was_closed_before_its_start_still_sends_what_it_has(tmp_path: Path) -> None:
    async with session(tmp_path, fenced="this journal was closed: hardware replaced") as one:
        task = asyncio.create_task(one.link.run())
        async with asyncio.timeout(20):
            while one.link.status().phase != "idle":
                await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        async with one.store.transaction() as t:
            registered = await t.find(Registered, ORIGIN)
        assert registered is not None
        assert registered.size == one.world.journal.head.size

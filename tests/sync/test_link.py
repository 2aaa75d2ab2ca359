"""The gateway's end of the line against central's real ingest and database, over a wire that loses and repeats messages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
import zstandard

from gateway.clock import MonotonicClock
from gateway.journal.checkpoint import NoteSigner, verifier_key
from gateway.journal.cosignature import cosign
from gateway.journal.journal import Journal, JournalState
from gateway.journal.records import Joined, OperatorAction, Released, Revoked
from sync import client as http
from sync.central.rows import Journal as Registered
from sync.central.service import HelloNeeded, Ingest, JournalFenced, NotBelieved, ResumeAt
from sync.central.store_sqlite import SqliteStore
from sync.client import CentralClient
from sync.link import Link
from sync.orders import Orders
from sync.outbox import Outbox
from sync.receipts import Receipts
from sync.wire import BATCH_RECORDS, Accepted, Batch, Welcome
from tests.support.journal import KEY, ORIGIN, Place
from tests.sync.test_orders import KEY as CENTRAL_KEY
from tests.sync.test_orders import VKEY

T = TypeVar("T")
JOINED = Joined("central", VKEY, b"root", (), "anna")
FAULTS = ("request lost", "answer lost", "repeated")


class Wire:
    """What sync.client.CentralClient is to the link, without sockets. ``faults``: what happens to the n-th message."""

    def __init__(self, ingest: Ingest, faults: dict[int, str] | None = None) -> None:
        self.ingest, self.faults = ingest, faults or {}
        self.sent: list[str] = []

    async def _carry(self, name: str, deliver: Callable[[], Awaitable[T]]) -> T:
        fault = self.faults.get(len(self.sent), "")
        self.sent.append(name)
        if fault == "request lost":
            raise http.LinkLost("cut")
        try:
            if fault == "repeated":
                with suppress(HelloNeeded):  # a nonce is good once
                    await deliver()
            answer = await deliver()
        except HelloNeeded as error:
            raise http.HelloNeeded(str(error)) from error
        except ResumeAt as error:
            raise http.ResumeElsewhere(str(error), error.size, error.root) from error
        except JournalFenced as error:
            raise http.FencedByCentral(str(error)) from error
        except NotBelieved as error:
            raise http.CentralRefuses(str(error)) from error
        if fault == "answer lost":
            raise http.LinkLost("cut")
        return answer

    async def challenge(self) -> str:
        return await self._carry("challenge", lambda: self.ingest.challenge(ORIGIN))

    async def hello(self, statement: bytes) -> Welcome:
        return await self._carry("hello", lambda: self.ingest.hello(ORIGIN, statement))

    async def records(self, batch: Batch) -> Accepted:
        packed = zstandard.ZstdCompressor(level=1).compress(batch.to_bytes())
        return await self._carry(f"records {batch.start}", lambda: self.ingest.records(ORIGIN, packed))

    async def urgent(self, statement: bytes) -> None:
        await self._carry("urgent", lambda: self.ingest.urgent(ORIGIN, statement))

    async def desired(self, have: int, wait_s: int) -> bytes | None:
        if wait_s:
            await asyncio.Event().wait()
        return None

    async def put_crl(self, name: str, crl: bytes) -> None:
        self.sent.append(f"crl {name}")


class NoOrders:
    version = 0
    applied = None


@asynccontextmanager
async def central(directory: Path) -> AsyncIterator[tuple[SqliteStore, Ingest]]:
    clock = MonotonicClock()
    store = await SqliteStore.open(directory / "central.db")
    try:
        async with store.transaction() as t:
            if await t.find(Registered, ORIGIN) is None:
                number = await t.next_number()
                await t.put(Registered(ORIGIN, number, "gateway", verifier_key(ORIGIN, KEY.public_key()), b"c" * 32, 1))
        yield store, Ingest(store, cosign=lambda note: cosign(note, "central", CENTRAL_KEY, 1), clock=clock)
    finally:
        await store.close()


async def kept(store: SqliteStore) -> list[bytes]:
    async with store.transaction() as t:
        journal = await t.find(Registered, ORIGIN)
        assert journal is not None
        return [each.body for each in await t.records(journal, 0)]


def link(journal: Journal, wire: Wire, directory: Path, **options: Any) -> Link:
    receipts = Receipts(directory / "receipt", journal.genesis.verifier_key, VKEY)
    outbox = Outbox(journal, NoteSigner(ORIGIN, KEY), directory / "position")
    made = Link(
        journal, outbox, cast(Orders, NoOrders()), cast(CentralClient, wire), receipts=receipts, joined=JOINED, key=KEY,
        clock=MonotonicClock(), chance=lambda: 0.0, **options,
    )  # fmt: skip
    made.receipts = receipts  # type: ignore[attr-defined]
    return made


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses of the machine are proven by its own tests; here they are short."""
    monkeypatch.setattr("sync.session.SHORTEST_PAUSE_S", 0.001)
    monkeypatch.setattr("sync.link._LINGER_S", 0.001)


async def until_confirmed(journal: Journal, made: Link) -> None:
    async with asyncio.timeout(20):
        while (receipt := made.receipts.newest) is None or receipt.checkpoint.size < journal.head.size:  # type: ignore[attr-defined]
            await asyncio.sleep(0.005)


@asynccontextmanager
async def talking(made: Link) -> AsyncIterator[None]:
    task = asyncio.create_task(made.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def filled(place: Place, records: int = 30) -> Journal:
    journal = await place.create()
    for number in range(records):
        await journal.append(OperatorAction("test", str(number), "x" * 40))
    return journal


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_at_any_message_loses_and_doubles_nothing(
    tmp_path: Path, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sync.outbox.BATCH_RECORDS", 10)
    monkeypatch.setattr(Outbox.batch, "__kwdefaults__", {"records": 10})
    journal = await filled(Place(tmp_path))
    for number in range(6):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        async with central(folder) as (store, ingest):
            wire = Wire(ingest, {number: fault})
            made = link(journal, wire, folder)
            async with talking(made):
                await until_confirmed(journal, made)
            assert len(wire.sent) > number, "the fault was never reached"
            assert await kept(store) == await journal.read(0, 1000)
            async with store.transaction() as t:
                registered = await t.find(Registered, ORIGIN)
            assert registered is not None
            assert registered.fenced == ""
    await journal.close()


async def test_new_records_follow_by_themselves_and_a_restart_goes_on(tmp_path: Path) -> None:
    place = Place(tmp_path)
    journal = await filled(place, 5)
    async with central(tmp_path) as (store, ingest):
        made = link(journal, Wire(ingest), tmp_path)
        async with talking(made):
            await until_confirmed(journal, made)
            await journal.append(OperatorAction("later", "o"))
            await until_confirmed(journal, made)
        assert (tmp_path / "position").exists()  # so that the next start need not hash everything again
        wire = Wire(ingest)
        again = link(journal, wire, tmp_path)
        await journal.append(OperatorAction("after the restart", "o"))
        async with talking(again):
            await until_confirmed(journal, again)
        assert await kept(store) == await journal.read(0, 1000)
        starts = [int(each.split()[1]) for each in wire.sent if each.startswith("records")]
        assert starts
        assert min(starts) > 0  # nothing that central confirmed was sent again
    await journal.close()


async def test_a_revocation_overtakes_the_backlog(tmp_path: Path) -> None:
    place = Place(tmp_path)
    journal = await filled(place)
    await journal.append(Revoked("1a", 1, "keyCompromise", 1, "anna"), Released("1a", 1, "anna"))
    async with central(tmp_path) as (_, ingest):
        wire = Wire(ingest)
        made = link(journal, wire, tmp_path)
        async with talking(made):
            await until_confirmed(journal, made)
            first_batch = next(index for index, name in enumerate(wire.sent) if name.startswith("records"))
            assert "urgent" in wire.sent[:first_batch]
            before = len(wire.sent)
            await journal.append(Revoked("1b", 1, "superseded", 1, "anna"))
            made.urgent()
            await until_confirmed(journal, made)
            assert wire.sent[before] == "urgent"
    await journal.close()


async def test_a_restored_central_is_filled_again(tmp_path: Path) -> None:
    place = Place(tmp_path)
    journal = await filled(place, 12)
    async with central(tmp_path) as (_, ingest):
        made = link(journal, Wire(ingest), tmp_path)
        async with talking(made):
            await until_confirmed(journal, made)
    lost = tmp_path / "new"
    lost.mkdir()
    async with central(lost) as (store, ingest):  # its database came back from before everything
        again = link(journal, Wire(ingest), tmp_path)
        async with talking(again):
            async with asyncio.timeout(20):
                while await kept(store) != await journal.read(0, 1000):
                    await asyncio.sleep(0.01)
    assert journal.state is not JournalState.FENCED
    await journal.close()


@pytest.mark.parametrize("restored", [3, 20])
async def test_a_restored_gateway_is_fenced_on_both_sides(tmp_path: Path, restored: int) -> None:
    """With fewer records than central has; and with as many or more, but others."""
    place = Place(tmp_path / "a")
    place.directory.mkdir()
    journal = await filled(place, 12)
    async with central(tmp_path) as (store, ingest):
        made = link(journal, Wire(ingest), tmp_path)
        async with talking(made):
            await until_confirmed(journal, made)
        await journal.close()
        other = Place(tmp_path / "b")
        other.directory.mkdir()
        twin = await other.create()  # the same key and origin, another history
        for number in range(restored):
            await twin.append(OperatorAction("another life", str(number)))
        (tmp_path / "receipt").unlink(missing_ok=True)
        (tmp_path / "position").unlink(missing_ok=True)
        again = link(twin, Wire(ingest), tmp_path)
        async with asyncio.timeout(20):
            await again.run()  # ends by itself: fenced
        assert twin.state is JournalState.FENCED
        assert again.status().fenced
        async with store.transaction() as t:
            registered = await t.find(Registered, ORIGIN)
        assert registered is not None
        assert registered.fenced
        await twin.close()


async def test_a_fault_of_our_own_is_said_and_the_gateway_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sync.session.LONGEST_PAUSE_S", 0.001)
    journal = await filled(Place(tmp_path), 3)
    async with central(tmp_path) as (store, ingest):
        wire = Wire(ingest)
        broken, right = 3, wire.records

        async def sometimes(batch: Batch) -> Accepted:
            nonlocal broken
            broken -= 1
            if broken >= 0:
                raise ZeroDivisionError
            return await right(batch)

        wire.records = sometimes  # type: ignore[method-assign]
        made = link(journal, wire, tmp_path)
        async with talking(made):
            await until_confirmed(journal, made)
        assert broken == -1
        assert await kept(store) == await journal.read(0, 1000)
    await journal.close()


@pytest.mark.parametrize("enrolling", [True, False])
async def test_a_backlog_rests_between_batches_while_the_journal_grows(tmp_path: Path, enrolling: bool) -> None:
    journal = await filled(Place(tmp_path))
    backlog = 3 * BATCH_RECORDS
    await journal.append(*(OperatorAction("backlog", str(number)) for number in range(backlog)))

    class Busy(Wire):
        async def records(self, batch: Batch) -> Accepted:
            if enrolling and batch.start < 2 * BATCH_RECORDS:
                await journal.append(OperatorAction("enrolled meanwhile", "device"))
            return await super().records(batch)

    rests: list[float] = []

    async def rest(seconds: float) -> None:
        rests.append(seconds)

    async with central(tmp_path) as (_, ingest):
        made = link(journal, Busy(ingest), tmp_path, rest=rest)
        async with talking(made):
            await until_confirmed(journal, made)
    assert len(rests) == (2 if enrolling else 0)  # before the second and third batch; the last one is no backlog
    await journal.close()

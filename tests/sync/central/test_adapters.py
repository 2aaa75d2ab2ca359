"""What leaves central for other systems: in order, at least once, each item with the same id, and nobody waits for it."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.clock import MonotonicClock
from gateway.errors import ConfigError
from gateway.journal.checkpoint import open_note
from gateway.journal.merkle import root_of
from gateway.journal.records import OperatorAction, Released, leaf_hash
from sync.central.adapters.feed import PATIENCE, Adapter, Delivery, Feed, NotDelivered
from sync.central.adapters.files import WIDTH, EjbcaFiles, Tiles, directory_of, entries_path, tile_path
from sync.central.adapters.http import JsonApi, Webhook, resource_id, sign
from sync.central.adapters.settings import build_adapters
from sync.central.alerts import ADAPTER
from sync.central.projector import Projector
from sync.central.rows import Alert, Cursor
from sync.central.service import Ingest
from sync.central.store import CentralStore
from tests.support.edge import START_MS, Edge
from tests.support.receiver import Receiver, receiver
from tests.sync.central.test_service import ingest_on, register

CLOCK = MonotonicClock(lambda: START_MS)


class Kept:
    """An adapter that keeps what it gets, and fails as often as it is told."""

    align = 1

    def __init__(self, failures: int = 0) -> None:
        self.name, self.failures, self.closed = "kept", failures, False
        self.got: list[Delivery] = []

    async def deliver(self, delivery: Delivery) -> None:
        if self.failures:
            self.failures -= 1
            raise NotDelivered("not today")
        self.got.append(delivery)

    async def close(self) -> None:
        self.closed = True

    @property
    def bodies(self) -> list[bytes]:
        return [item.body for delivery in self.got for item in delivery.items]


@pytest.fixture
def edge() -> Edge:
    made = Edge()
    for number in range(1, 4):
        made.issue(number, device=f"SN-{number}")
    made.revoke(2, "certificateHold")
    made.add(Released(f"{made.serial(2):x}", 1, "operator"))
    made.revoke(1, "keyCompromise")
    return made


@pytest.fixture
async def ingest(store: CentralStore, edge: Edge) -> Ingest:
    """Has the whole journal."""
    await register(store, edge)
    made = ingest_on(store)
    await made.carried(edge.origin, edge.batch(0))
    return made


@pytest.fixture
async def other() -> AsyncIterator[Receiver]:
    async with receiver() as made:
        yield made


def feed(store: CentralStore, adapter: Adapter) -> Feed:
    return Feed(store, CLOCK, adapter, jitter=lambda: 0.0)


async def drain(store: CentralStore, adapter: Adapter) -> None:
    one = feed(store, adapter)
    for _ in range(100):
        if await one.attempt() is None:
            return await adapter.close()
    raise AssertionError("there is no end of it")


async def project(store: CentralStore) -> None:
    async def revoke(*_: object, **__: object) -> None:
        raise AssertionError("nothing here is to be revoked")

    projector = Projector(store, CLOCK, revoke=revoke)
    while await projector.step():
        pass


async def open_alerts(store: CentralStore) -> list[str]:
    async with store.transaction() as t:
        return [each.text for each in await t.select(Alert, kind=ADAPTER, closed=0)]


# The feed.


async def test_every_record_goes_out_once_and_in_order(store: CentralStore, edge: Edge, ingest: Ingest) -> None:
    adapter = Kept()
    await drain(store, adapter)
    assert adapter.bodies == edge.records
    edge.issue(9)
    await ingest.carried(edge.origin, edge.batch(0))
    await drain(store, adapter)
    assert adapter.bodies == edge.records
    assert [each.receipt != "" for each in adapter.got] == [True, True]
    assert len({item.id for delivery in adapter.got for item in delivery.items}) == edge.size


async def test_a_certificate_comes_with_its_completion_whatever_delivery_its_plan_was_in(
    store: CentralStore, edge: Edge, ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sync.central.adapters.feed.PAGE", 1)
    adapter = Kept()
    await drain(store, adapter)
    assert all(len(each.items) == 1 for each in adapter.got)
    found = [item.certificate for each in adapter.got for item in each.items if item.certificate]
    assert [x509.load_der_x509_certificate(each).serial_number for each in found] == [edge.serial(n) for n in (1, 2, 3)]


async def test_what_was_delivered_before_a_crash_comes_again_with_the_same_ids(
    store: CentralStore, edge: Edge, ingest: Ingest
) -> None:
    adapter = Kept()
    await drain(store, adapter)
    async with store.transaction() as t:
        await t.put(Cursor("adapter:kept", edge.origin, 3))
    await drain(store, adapter)
    first, again = ([item.id for item in each.items] for each in adapter.got)
    assert again == first[3:]


async def test_a_failing_adapter_is_an_alert_until_it_delivers(store: CentralStore, edge: Edge, ingest: Ingest) -> None:
    adapter = Kept(failures=PATIENCE)
    one = feed(store, adapter)
    for number in range(PATIENCE):
        assert await open_alerts(store) == []
        assert await one.attempt() == 1.0, number
    assert await open_alerts(store) == ["kept does not deliver: not today"]
    assert adapter.got == []
    assert await one.attempt() == 0.0
    assert await open_alerts(store) == []
    assert adapter.bodies == edge.records


async def test_pauses_grow_to_five_minutes(store: CentralStore, ingest: Ingest) -> None:
    one = Feed(store, CLOCK, Kept(failures=100), jitter=lambda: 1.0)
    pauses = [await one.attempt() for _ in range(12)]
    assert pauses[:3] == [2.0, 4.0, 8.0]
    assert pauses[-1] == 300.0


async def test_one_journal_that_cannot_be_delivered_holds_up_no_other(store: CentralStore, edge: Edge, ingest: Ingest) -> None:
    two = Edge("two")
    await register(store, two)
    await ingest.carried(two.origin, two.batch(0))

    class Picky(Kept):
        async def deliver(self, delivery: Delivery) -> None:
            if delivery.journal.origin == edge.origin:
                raise RuntimeError("a mistake of the adapter's")
            await super().deliver(delivery)

    adapter = Picky()
    one = feed(store, adapter)
    assert await one.attempt() == 1.0
    assert adapter.bodies == two.records


async def test_the_feed_wakes_when_records_arrive_and_closes_its_adapter(
    store: CentralStore, edge: Edge, ingest: Ingest
) -> None:
    adapter = Kept()
    delivered = asyncio.Event()
    keep = adapter.deliver

    async def deliver(delivery: Delivery) -> None:
        await keep(delivery)
        delivered.set()

    adapter.deliver = deliver  # type: ignore[method-assign]
    task = asyncio.create_task(feed(store, adapter).run())
    await asyncio.wait_for(delivered.wait(), 30)
    delivered.clear()
    edge.issue(9)
    await ingest.carried(edge.origin, edge.batch(0))
    await asyncio.wait_for(delivered.wait(), 30)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert (adapter.bodies, adapter.closed) == (edge.records, True)


async def test_records_are_taken_while_an_adapter_hangs(store: CentralStore, edge: Edge, ingest: Ingest) -> None:
    class Hanging(Kept):
        async def deliver(self, delivery: Delivery) -> None:
            await asyncio.Event().wait()

    task = asyncio.create_task(feed(store, Hanging()).run())
    await asyncio.sleep(0)
    edge.issue(9)
    await ingest.carried(edge.origin, edge.batch(0))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# Webhook.


async def test_a_webhook_is_signed_and_says_what_the_records_say(
    store: CentralStore, edge: Edge, ingest: Ingest, other: Receiver
) -> None:
    await drain(store, Webhook("hook", f"{other.url}/in", b"key", CLOCK))
    (one,) = other.got
    signed = one.head["edge-timestamp"].encode() + b"." + one.body
    assert one.head["edge-signature"] == "v1=" + hmac.new(b"key", signed, hashlib.sha256).hexdigest()
    assert sign(b"another", one.head["edge-timestamp"], one.body) != one.head["edge-signature"]
    events = json.loads(one.body)["events"]
    assert [each["record"] for each in events] == [json.loads(each) for each in edge.records]
    issued = [each for each in events if each["kind"] == "issued"]
    assert [x509.load_pem_x509_certificate(each["certificate"].encode()).serial_number for each in issued] == [
        edge.serial(n) for n in (1, 2, 3)
    ]


async def test_a_webhook_may_want_some_kinds_only(store: CentralStore, edge: Edge, ingest: Ingest, other: Receiver) -> None:
    await drain(store, Webhook("hook", other.url, b"key", CLOCK, kinds=frozenset({"revoked"})))
    (one,) = other.got
    assert {each["kind"] for each in json.loads(one.body)["events"]} == {"revoked"}
    await drain(store, Webhook("quiet", other.url, b"key", CLOCK, kinds=frozenset({"stopped"})))
    assert len(other.got) == 1


@pytest.mark.parametrize("status", [500, 503, 404, 302])
async def test_an_answer_that_is_no_success_is_no_delivery(
    store: CentralStore, edge: Edge, ingest: Ingest, other: Receiver, status: int
) -> None:
    other.statuses = [status]
    hook = Webhook("hook", other.url, b"key", CLOCK)
    one = feed(store, hook)
    assert await one.attempt() == 1.0
    async with store.transaction() as t:
        assert await t.find(Cursor, "adapter:hook", edge.origin) is None
    assert await one.attempt() == 0.0
    assert other.got[0].head["idempotency-key"] == other.got[1].head["idempotency-key"]
    await hook.close()


async def test_nobody_who_answers_is_no_delivery(store: CentralStore, ingest: Ingest) -> None:
    hook = Webhook("hook", "http://127.0.0.1:1/", b"key", CLOCK)
    assert await feed(store, hook).attempt() == 1.0
    await hook.close()


async def test_a_record_that_nobody_can_read_goes_out_as_such(
    store: CentralStore, edge: Edge, ingest: Ingest, other: Receiver
) -> None:
    edge.records.append(b"\xff\x00")
    await ingest.carried(edge.origin, edge.batch(0))
    await drain(store, Webhook("hook", other.url, b"key", CLOCK))
    last = json.loads(other.got[0].body)["events"][-1]
    assert (last["kind"], last["record"], last["seq"]) == ("unknown", None, edge.size - 1)


# JSON:API.


async def test_json_api_has_a_resource_for_each_certificate(
    store: CentralStore, edge: Edge, ingest: Ingest, other: Receiver
) -> None:
    await drain(store, JsonApi("tma", f"{other.url}/api/v2.0/certificates/", b"token"))
    posted = [json.loads(each.body)["data"] for each in other.got if each.method == "POST"]
    patched = [each for each in other.got if each.method == "PATCH"]
    assert {each.path for each in other.got if each.method == "POST"} == {"/api/v2.0/certificates"}
    assert {each.head["content-type"] for each in other.got} == {"application/vnd.api+json"}
    assert {each.head["authorization"] for each in other.got} == {"Bearer token"}
    assert {each["type"] for each in posted} == {"certificates"}
    identifiers = [resource_id(edge.origin, 1, f"{edge.serial(number):x}") for number in (1, 2, 3)]
    assert [each["id"] for each in posted] == identifiers
    assert posted[0]["attributes"]["serialNumber"] == f"{edge.serial(1):x}"
    assert posted[0]["attributes"]["subjectAlternativeNames"] == ["DNS:device-1.example"]
    said = [(each.path.rpartition("/")[2], json.loads(each.body)["data"]["attributes"]["status"]) for each in patched]
    assert said == [(identifiers[1], "on-hold"), (identifiers[1], "valid"), (identifiers[0], "revoked")]


async def test_json_api_takes_a_conflict_for_a_repetition(
    store: CentralStore, edge: Edge, ingest: Ingest, other: Receiver
) -> None:
    other.statuses = [409, 409, 409]
    await drain(store, JsonApi("tma", other.url, b""))
    assert len(other.got) == 6
    assert "authorization" not in other.got[0].head


# EJBCA.


async def test_ejbca_gets_files_that_its_importer_is_called_with(
    store: CentralStore, edge: Edge, ingest: Ingest, tmp_path: Path
) -> None:
    adapter = EjbcaFiles("ejbca", tmp_path)
    assert await feed(store, adapter).attempt() == 1.0  # before the projection knows the CA's name
    await project(store)
    await drain(store, adapter)
    (directory,) = directory_of(tmp_path, edge.origin).iterdir()
    assert directory.name == f"{0:012}-{edge.size - 1:012}"
    with (directory / "certificates.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["username"], row["caname"], row["status"]) for row in rows] == [
        (f"SN-{number}", "CA of one", "ACTIVE") for number in (1, 2, 3)
    ]
    ca = x509.load_pem_x509_certificate((directory / "ca" / "1.pem").read_bytes())
    for row in rows:
        x509.load_pem_x509_certificate((directory / row["file"]).read_bytes()).verify_directly_issued_by(ca)
    with (directory / "revocations.csv").open(newline="") as file:
        revoked = [(row["issuer"], row["serial"], row["reason"]) for row in csv.DictReader(file)]
    assert revoked == [("CN=CA of one", f"{edge.serial(number):x}", code) for number, code in ((2, "6"), (2, "8"), (1, "1"))]
    async with store.transaction() as t:
        await t.remove(Cursor, reader="adapter:ejbca", origin=edge.origin)
    before = directory.stat().st_mtime_ns
    await drain(store, adapter)
    assert directory.stat().st_mtime_ns == before


async def test_ejbca_gets_nothing_when_there_is_nothing_to_import(store: CentralStore, tmp_path: Path) -> None:
    edge = Edge(activated=False)
    await register(store, edge)
    await ingest_on(store).carried(edge.origin, edge.batch(0))
    await drain(store, EjbcaFiles("ejbca", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


# Tiles.


def check_tiles(directory: Path, edge: Edge) -> int:
    """Read the log as an auditor does, from the checkpoint down; its size."""
    checkpoint = open_note((directory / "checkpoint").read_text(), edge.vkey)
    size = checkpoint.size
    leaves: list[bytes] = []
    for index in range(-(-size // WIDTH)):
        width = min(WIDTH, size - index * WIDTH)
        data = (directory / entries_path(index, width)).read_bytes()
        entries = []
        while data:
            length = int.from_bytes(data[:2], "big")
            entries.append(data[2 : 2 + length])
            data = data[2 + length :]
        assert len(entries) == width
        hashes = [leaf_hash(entry) for entry in entries]
        assert (directory / tile_path(0, index, width)).read_bytes() == b"".join(hashes)
        leaves += hashes
    assert root_of(leaves) == checkpoint.root
    level, below = 1, leaves
    while len(below) >= WIDTH:
        above = [root_of(below[at : at + WIDTH]) for at in range(0, len(below) - len(below) % WIDTH, WIDTH)]
        for index in range(-(-len(above) // WIDTH)):
            part = above[index * WIDTH : (index + 1) * WIDTH]
            assert (directory / tile_path(level, index, len(part))).read_bytes() == b"".join(part)
        level, below = level + 1, above
    return size


async def test_tiles_are_a_whole_log_at_every_checkpoint(store: CentralStore, tmp_path: Path) -> None:
    edge = Edge(activated=False)
    await register(store, edge)
    ingest = ingest_on(store)
    adapter = Tiles("tiles", tmp_path)
    directory = directory_of(tmp_path, edge.origin)
    for size in (3, 200, WIDTH - 1, WIDTH, WIDTH + 1, 3 * WIDTH + 5):
        edge.add(*(OperatorAction("test", "anna", f"{number}") for number in range(size - edge.size)))
        await ingest.carried(edge.origin, edge.batch(ingest_from(directory, edge)))
        await drain(store, adapter)
        assert check_tiles(directory, edge) == size
    assert not (directory / "tile" / "0" / "000.p").exists()
    assert (directory / "tile" / "0" / "003.p" / "5").exists()


def ingest_from(directory: Path, edge: Edge) -> int:
    path = directory / "checkpoint"
    return open_note(path.read_text(), edge.vkey).size if path.exists() else 0


async def test_the_checkpoint_of_the_tiles_is_cosigned(store: CentralStore, edge: Edge, ingest: Ingest, tmp_path: Path) -> None:
    await drain(store, Tiles("tiles", tmp_path))
    async with store.transaction() as t:
        (journal,) = await t.select(type(edge.row()))
    assert (directory_of(tmp_path, edge.origin) / "checkpoint").read_text() == journal.receipt


async def test_a_changed_tile_is_noticed_by_the_check(store: CentralStore, edge: Edge, ingest: Ingest, tmp_path: Path) -> None:
    """The check above is worth something."""
    await drain(store, Tiles("tiles", tmp_path))
    directory = directory_of(tmp_path, edge.origin)
    assert check_tiles(directory, edge) == edge.size
    path = directory / entries_path(0, edge.size)
    path.write_bytes(path.read_bytes().replace(b"keyCompromise", b"keyCompromisE"))
    with pytest.raises(AssertionError):
        check_tiles(directory, edge)


async def test_a_record_too_long_for_a_bundle_is_said_and_holds_up_the_tiles_alone(
    store: CentralStore, edge: Edge, ingest: Ingest, tmp_path: Path
) -> None:
    edge.add(OperatorAction("test", "anna", "x" * 70_000))
    await ingest.carried(edge.origin, edge.batch(0))
    one = feed(store, Tiles("tiles", tmp_path))
    for _ in range(PATIENCE):
        await one.attempt()
    assert "more octets than an entry bundle can say" in (await open_alerts(store))[0]


@pytest.mark.parametrize("make", [EjbcaFiles, Tiles])
async def test_a_directory_that_cannot_be_written_is_no_delivery(
    store: CentralStore, edge: Edge, ingest: Ingest, tmp_path: Path, make: type[EjbcaFiles | Tiles]
) -> None:
    await project(store)
    (tmp_path / "out").write_text("a file")
    assert await feed(store, make("files", tmp_path / "out")).attempt() == 1.0


@pytest.mark.parametrize(
    ("index", "path"), [(0, "tile/0/000"), (67, "tile/0/067"), (1000, "tile/0/x001/000"), (1234067, "tile/0/x001/x234/067")]
)
def test_tiles_have_the_names_of_the_specification(index: int, path: str) -> None:
    assert tile_path(0, index) == path
    assert tile_path(0, index, 8) == f"{path}.p/8"


# Configuration.


def test_adapters_are_built_as_configured(tmp_path: Path, edge: Edge) -> None:
    (tmp_path / "secret").write_text("key\n")
    (tmp_path / "ca.pem").write_bytes(edge.ca.public_bytes(Encoding.PEM))
    tables = {
        "hook": {
            "type": "webhook",
            "url": "https://a.example/in",
            "secret": "file:secret",
            "kinds": ["issued"],
            "ca": "ca.pem",
        },
        "tma": {"type": "jsonapi", "url": "https://tma.example/api/v2.0/certificates"},
        "ejbca": {"type": "ejbca", "directory": "out"},
        "auditors": {"type": "tiles", "directory": "tiles"},
    }
    built = build_adapters(tables, tmp_path, CLOCK)
    assert [type(each) for each in built] == [Webhook, JsonApi, EjbcaFiles, Tiles]
    assert [each.name for each in built] == list(tables)


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("Big Name", {"type": "tiles", "directory": "x"}),
        ("a", {}),
        ("a", {"type": "ftp"}),
        ("a", {"type": "tiles"}),
        ("a", {"type": "tiles", "directry": "x"}),
        ("a", {"type": "webhook", "url": "https://a.example"}),
        ("a", {"type": "webhook", "url": "a.example", "secret": "file:secret"}),
        ("a", {"type": "webhook", "url": "https://a.example", "secret": "hunter2"}),
        ("a", {"type": "webhook", "url": "https://a.example", "secret": "file:missing"}),
        ("a", {"type": "webhook", "url": "https://a.example", "secret": "credential:x"}),
        ("a", {"type": "jsonapi", "url": "https://a.example", "ca": "missing"}),
    ],
)
def test_a_wrong_adapter_is_refused_by_its_key(tmp_path: Path, name: str, table: dict[str, object]) -> None:
    (tmp_path / "secret").write_text("key")
    with pytest.raises(ConfigError, match="adapters\\."):
        build_adapters({name: table}, tmp_path, CLOCK)

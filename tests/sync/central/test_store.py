"""What central's database promises, on SQLite and on PostgreSQL alike; then what each promises of its own."""

from __future__ import annotations

import asyncio
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.errors import AlreadyExists, IntegrityError, MalformedRequest, OperatorError
from gateway.journal.merkle import Frontier
from gateway.journal.records import leaf_hash
from sync.central import store_postgres, store_sqlite
from sync.central.alarms import close_alert, open_alert
from sync.central.audit import root_problems
from sync.central.rows import ISSUED, TABLES, Alert, Certificate, Cursor, Document, Evidence, Journal, Kept, Retired, Setting
from sync.central.store import MOST_SCANNED, CentralStore, Search, StoreBusy, StoreFailed, StoreFull
from sync.central.store_postgres import PostgresStore
from sync.central.store_sqlite import SqliteStore
from tests.support.postgres import PostgresServer, postgres_server


def journal(origin: str = "plant.example/one", number: int = 1) -> Journal:
    return Journal(origin, number, "one", "vkey", b"\x01" * 32, 1_000)


def alert(about: str, *, kind: str = "silence", closed: int = 0) -> Alert:
    return Alert(kind, "plant.example/one", about, "says nothing", 5, closed)


def certificate(number: int, **changes: object) -> Certificate:
    made = Certificate(
        serial=number.to_bytes(20, "big"), issuer=b"\x07" * 20, origin="plant.example/one", generation=1, state=ISSUED,
        intent=2 * number, closing=2 * number + 1, subject=f"CN=pump-{number},O=Example", sans=f"DNS:pump-{number}.example",
        device=f"SN{number:04}", spki=number.to_bytes(32, "big"), profile="tls-client", requester="token:1", policy_version=1,
        not_before=0, not_after=10, issued=number,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


async def fill(store: CentralStore, bodies: list[bytes]) -> Journal:
    """A journal with these records, under its root."""
    frontier = Frontier()
    leaves = [leaf_hash(body) for body in bodies]
    for leaf in leaves:
        frontier.append(leaf)
    async with store.transaction() as t:
        row = replace(journal(number=await t.next_number()), size=len(bodies), frontier=frontier.to_bytes())
        await t.put(row)
        await t.append(row, 0, leaves, bodies, 77)
    return row


async def test_every_row_comes_back_as_it_was_written(store: CentralStore) -> None:
    values = {int: -(1 << 63), str: "Ünï\n'\"%", bytes: b"\x00\xff"}
    for table in TABLES:
        row = table.row(*(values[kind] for _, kind in table.columns))
        async with store.transaction() as t:
            await t.put(row)
        async with store.transaction() as t:
            assert await t.find(table.row, *(getattr(row, name) for name in table.key)) == row


async def test_put_replaces_and_add_does_not(store: CentralStore) -> None:
    async with store.transaction() as t:
        await t.put(alert("a"), alert("b"))
        await t.put(replace(alert("a"), text="again"))
        await t.add(replace(alert("b"), text="again"), alert("c"))
        await t.put(Retired("o", "i", 1))  # a row with nothing but its key and one more
        await t.add(Retired("o", "i", 2))
        assert [(row.about, row.text) for row in await t.select(Alert)] == [
            ("a", "again"), ("b", "says nothing"), ("c", "says nothing")
        ]  # fmt: skip
        assert (await t.select(Retired)) == [Retired("o", "i", 1)]


async def test_the_same_key_twice_in_one_put_is_the_last_of_them(store: CentralStore) -> None:
    async with store.transaction() as t:
        await t.put(alert("a"), alert("b"), replace(alert("a"), text="last"))
        found = await t.find(Alert, "silence", "plant.example/one", "a")
        assert found is not None
        assert found.text == "last"


async def test_more_rows_than_one_statement_takes(store: CentralStore) -> None:
    rows = [Cursor("reader", f"{number:05}", number) for number in range(1_500)]
    async with store.transaction() as t:
        await t.put(*rows)
        await t.put()
        await t.add()
        assert await t.count(Cursor) == 1_500
        assert len(await t.select_in(Cursor, "origin", [row.origin for row in rows[:1_100]])) == 1_100
        assert await t.select_in(Cursor, "origin", []) == []


async def test_select_goes_on_behind_a_key_in_the_order_of_keys(store: CentralStore) -> None:
    names = ["a", "B", "b", "á", "z"]  # by octets: B a b z á
    async with store.transaction() as t:
        await t.put(*(alert(name) for name in names), alert("0", kind="other"))
        first = await t.select(Alert, kind="silence", limit=2)
        rest = await t.select(Alert, kind="silence", after=("silence", "plant.example/one", first[-1].about))
    assert [row.about for row in first] == ["B", "a"]
    assert [row.about for row in rest] == ["b", "z", "á"]


async def test_rows_are_counted_changed_and_removed_by_their_columns(store: CentralStore) -> None:
    async with store.transaction() as t:
        await t.put(alert("a"), alert("b"), alert("c", closed=9))
        assert await t.count(Alert, closed=0) == 2
        assert await t.change(Alert, "silence", "plant.example/one", "a", closed=8, text="over")
        assert not await t.change(Alert, "silence", "plant.example/one", "nobody", closed=8)
        assert await t.count(Alert, closed=0) == 1
        assert await t.remove(Alert, closed=8) == 1
        assert await t.remove(Alert, closed=8) == 0
        assert [row.about for row in await t.select(Alert)] == ["b", "c"]


async def test_a_wrong_column_is_our_own_mistake(store: CentralStore) -> None:
    async with store.transaction() as t:
        with pytest.raises(KeyError, match="no column nonsense"):
            await t.select(Alert, nonsense=1)


async def test_a_transaction_that_fails_leaves_no_trace(store: CentralStore) -> None:
    async def work() -> None:
        async with store.transaction() as t:
            await t.put(alert("a"))
            raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        await work()
    async with store.transaction() as t:
        assert await t.select(Alert) == []


async def test_a_transaction_that_is_cancelled_leaves_no_trace_and_the_next_one_works(store: CentralStore) -> None:
    inside = asyncio.Event()

    async def work() -> None:
        async with store.transaction() as t:
            await t.put(alert("a"))
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(work())
    await inside.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    async with store.transaction() as t:
        assert await t.select(Alert) == []


async def test_a_transaction_that_is_cancelled_anywhere_is_whole_or_nothing(store: CentralStore) -> None:
    """And whatever was under way, the next one works."""

    async def work(number: int) -> None:
        async with store.transaction() as t:
            await t.put(alert(f"{number} first"))
            await t.put(alert(f"{number} second"))

    for number in range(60):
        task = asyncio.create_task(work(number))
        for _ in range(number):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    async with store.transaction() as t:
        found = [row.about for row in await t.select(Alert)]
    assert {each.removesuffix(" first") for each in found if each.endswith("first")} == {
        each.removesuffix(" second") for each in found if each.endswith("second")
    }
    assert not store.failure.done()


@pytest.mark.parametrize("text", ["\ud800", "\x00"])
async def test_a_text_that_cannot_be_stored_harms_nobody_else(store: CentralStore, text: str) -> None:
    """SQLite takes a NUL, PostgreSQL does not; neither takes half a surrogate pair."""
    try:
        async with store.transaction() as t:
            await t.put(Setting("central", "text", text))
    except MalformedRequest:
        pass
    async with store.transaction() as t:
        await t.put(Setting("central", "other", "x"))


async def test_a_number_that_cannot_be_stored_is_refused(store: CentralStore) -> None:
    with pytest.raises(MalformedRequest):
        async with store.transaction() as t:
            await t.put(Cursor("reader", "o", 1 << 63))


async def test_a_journal_is_locked_until_the_transaction_ends(store: CentralStore) -> None:
    """Ten tasks add one each; without the lock they would overwrite each other."""
    async with store.transaction() as t:
        await t.put(journal())

    async def grow() -> None:
        async with store.transaction() as t:
            row = await t.lock(journal().origin)
            assert row is not None
            await asyncio.sleep(0)
            await t.put(replace(row, size=row.size + 1))

    await asyncio.gather(*(grow() for _ in range(10)))
    async with store.transaction() as t:
        row = await t.lock(journal().origin)
        assert row is not None
        assert row.size == 10
        assert await t.lock("nobody") is None


async def test_two_journals_never_get_the_same_number(store: CentralStore) -> None:
    async with store.transaction() as t:
        first = await t.next_number()
        await t.put(journal(number=first))
    async with store.transaction() as t:
        assert await t.next_number() > first


async def test_records_come_back_octet_for_octet_in_order_and_by_number(store: CentralStore) -> None:
    bodies = [b'{"seq":%d}' % number + bytes(number % 7) for number in range(300)]
    row = await fill(store, bodies)
    neighbour = replace(journal("plant.example/two"), number=row.number + 1)
    async with store.transaction() as t:
        await t.append(neighbour, 0, [b"\x09" * 32], [b"of the neighbour"], 78)
        found = await t.records(row, 290)
        assert found == [Kept(number, leaf_hash(bodies[number]), bodies[number], 77) for number in range(290, 300)]
        assert [each.body for each in await t.records(row, 0, 3)] == bodies[:3]
        assert {each.seq for each in await t.records_at(row, [7, 299, 300])} == {7, 299}
        assert await t.leaves(row, 298, 400) == [leaf_hash(body) for body in bodies[298:]]
        assert [each.body for each in await t.records(neighbour, 0)] == [b"of the neighbour"]


async def test_a_place_in_a_journal_is_taken_once(store: CentralStore) -> None:
    row = await fill(store, [b"a", b"b"])

    async def work() -> None:
        async with store.transaction() as t:
            await t.put(alert("in the same transaction"))
            await t.append(row, 1, [leaf_hash(b"c")], [b"c"], 78)

    with pytest.raises(IntegrityError):
        await work()
    async with store.transaction() as t:
        assert [each.body for each in await t.records(row, 0)] == [b"a", b"b"]
        assert await t.select(Alert) == []


# Search.


async def test_a_search_by_text_finds_parts_of_names_in_any_case_newest_first(store: CentralStore) -> None:
    async with store.transaction() as t:
        await t.put(*(certificate(number) for number in range(1, 30)), certificate(40, subject="CN=100%_sure"))
        page = await t.search(Search(text="PUMP-2"), limit=4)
        assert [each.device for each in page.certificates] == ["SN0029", "SN0028", "SN0027", "SN0026"]
        page = await t.search(Search(text="PUMP-2"), after=page.after, limit=20)
        assert [each.device for each in page.certificates] == [f"SN{n:04}" for n in (25, 24, 23, 22, 21, 20, 2)]
        assert page.after is None
        assert [each.serial[-1] for each in (await t.search(Search(text="%_s"))).certificates] == [40]
        assert (await t.search(Search(text="_ump"))).certificates == ()


async def test_a_search_by_serial_device_key_origin_or_profile_is_exact(store: CentralStore) -> None:
    other = certificate(3, origin="plant.example/two", profile="tls-server", issuer=b"\x08" * 20)
    async with store.transaction() as t:
        await t.put(certificate(1), certificate(2), other)
        for search in (
            Search(serial=other.serial), Search(device="SN0003"), Search(spki=other.spki), Search(origin="plant.example/two"),
            Search(profile="tls-server"), Search(device="SN0003", origin="plant.example/two", text="example"),
        ):  # fmt: skip
            assert (await t.search(search)).certificates == (other,)
        assert (await t.search(Search(device="SN0003", origin="plant.example/one"))).certificates == ()
        assert len((await t.search(Search())).certificates) == 3


async def test_a_page_looks_at_so_many_certificates_and_says_where_it_stopped(
    store: CentralStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sync.central.statements.MOST_SCANNED", 10)
    async with store.transaction() as t:
        await t.put(*(certificate(number) for number in range(1, 26)))
        pages = [await t.search(Search(text="pump-3."))]
        while pages[-1].after is not None:
            pages.append(await t.search(Search(text="pump-3."), after=pages[-1].after))
    assert [len(page.certificates) for page in pages] == [0, 0, 1]
    assert MOST_SCANNED > 10


# News.


async def test_an_announcement_wakes_who_listens_for_it_once_it_is_durable(store: CentralStore) -> None:
    with store.listening("desired:a") as wanted, store.listening("desired:b") as other:
        wanted.clear()
        other.clear()
        async with store.transaction() as t:
            await t.put(Document("a", 1, 0, 0, b""))
            t.announce("desired:a")
            assert not wanted.is_set()
        await asyncio.wait_for(wanted.wait(), 10)
        assert not other.is_set()


async def test_what_is_taken_back_is_not_announced(store: CentralStore) -> None:
    async def work() -> None:
        async with store.transaction() as t:
            t.announce("x")
            raise ValueError("enough")

    with store.listening("x") as event:
        event.clear()
        with pytest.raises(ValueError, match="enough"):
            await work()
        async with store.transaction() as t:  # whatever was announced would have come before
            t.announce("y")
        assert not event.is_set()


# Whether all is there.


async def test_an_audit_of_whole_journals_finds_nothing(store: CentralStore) -> None:
    await fill(store, [b"%d" % number for number in range(1_203)])
    assert await root_problems(store) == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda row: replace(row, size=6), "record 5 is missing"),
        (lambda row: replace(row, number=row.number + 1), "record 0 is missing"),
        (lambda row: replace(row, number=row.number - 1), "record 0 is missing"),
        (lambda row: replace(row, frontier=bytes(7) + b"\x05" + bytes(64)), "do not have the root"),
    ],
)
async def test_an_audit_finds_what_does_not_fit(store: CentralStore, damage: object, said: str) -> None:
    row = await fill(store, [b"a", b"b", b"c", b"d", b"e"])
    async with store.transaction() as t:
        await t.put(damage(row))  # type: ignore[operator]
    assert said in (await root_problems(store))[0]


async def test_an_audit_looks_at_every_journal(store: CentralStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sync.central.audit.MOST_ROWS", 2)
    async with store.transaction() as t:
        await t.put(*(replace(journal(f"plant.example/{number}", number + 1), size=1) for number in range(5)))
    assert len(await root_problems(store)) == 5


async def test_a_hole_in_the_middle_is_found(store: CentralStore) -> None:
    leaves = [leaf_hash(b"a"), leaf_hash(b"c")]
    async with store.transaction() as t:
        row = replace(journal(), size=3)
        await t.put(row)
        await t.append(row, 0, leaves[:1], [b"a"], 1)
        await t.append(row, 2, leaves[1:], [b"c"], 1)
    assert await root_problems(store) == [f"{row.origin}: record 1 is missing"]


# Alerts.


async def test_an_alert_keeps_its_time_while_it_is_open(store: CentralStore) -> None:
    one = alert("a")
    async with store.transaction() as t:
        await close_alert(t, one.kind, one.origin, 6, "a")  # there is none
        await open_alert(t, one)
        await open_alert(t, replace(one, opened=7))
        await open_alert(t, replace(one, opened=8, text="worse"))
        assert await t.select(Alert) == [replace(one, text="worse")]
        await close_alert(t, one.kind, one.origin, 9, "a")
        await close_alert(t, one.kind, one.origin, 10, "a")
        assert await t.select(Alert) == [replace(one, text="worse", closed=9)]
        await open_alert(t, replace(one, opened=11))
        assert await t.select(Alert) == [replace(one, opened=11)]


# SQLite alone.


async def test_a_record_changed_in_the_file_is_found(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "central.db")
    row = await fill(store, [b"a", b"b"])
    await store.close()
    with sqlite3.connect(tmp_path / "central.db") as connection:
        connection.execute("UPDATE record SET body = x'00' WHERE place = (SELECT max(place) FROM record)")
    connection.close()
    store = await SqliteStore.open(tmp_path / "central.db")
    try:
        assert await root_problems(store) == [f"{row.origin}: record 1 is not the one that was confirmed"]
    finally:
        await store.close()


async def test_the_file_is_for_its_owner_alone_and_open_once(tmp_path: Path) -> None:
    path = tmp_path / "central.db"
    store = await SqliteStore.open(path)
    try:
        assert path.stat().st_mode & 0o777 == 0o600
        with pytest.raises(OperatorError, match="open in another process"):
            await SqliteStore.open(path)
    finally:
        await store.close()


async def test_every_commit_is_synced(tmp_path: Path) -> None:
    """NORMAL loses what was confirmed in a power cut; tests/faults shows it for the gateway's journal."""
    store = await SqliteStore.open(tmp_path / "central.db")
    try:
        for pragma, expected in (("synchronous", 2), ("journal_mode", "wal"), ("locking_mode", "exclusive")):
            question = f"PRAGMA {pragma}"
            assert await store.run(lambda connection, question=question: connection.execute(question).fetchone()) == (expected,)
    finally:
        await store.close()


async def test_a_file_that_is_not_centrals_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE x (y)")
    connection.close()
    with pytest.raises(OperatorError, match="not a database of central"):
        await SqliteStore.open(tmp_path / "other.db")
    (tmp_path / "text.db").write_text("not a database at all, and long enough to be read as one " * 40)
    with pytest.raises(IntegrityError):
        await SqliteStore.open(tmp_path / "text.db")
    with pytest.raises(OperatorError, match="cannot be opened"):
        await SqliteStore.open(tmp_path / "nowhere" / "central.db")


async def test_another_versions_tables_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await (await SqliteStore.open(tmp_path / "central.db")).close()
    monkeypatch.setattr(store_sqlite, "SCHEMA_VERSION", 99)
    with pytest.raises(OperatorError, match="another version"):
        await SqliteStore.open(tmp_path / "central.db")


async def test_a_full_disk_is_said_and_passes(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "central.db")
    try:
        await store.run(lambda connection: connection.execute("PRAGMA max_page_count = 120").fetchone())
        with pytest.raises(StoreFull):
            async with store.transaction() as t:
                await t.put(Setting("central", "big", "x" * 1_000_000))
        await store.run(lambda connection: connection.execute("PRAGMA max_page_count = 100000").fetchone())
        async with store.transaction() as t:
            await t.put(Setting("central", "big", "x" * 1_000_000))
        assert not store.failure.done()
    finally:
        await store.close()


def io_error(_connection: sqlite3.Connection) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    raise error


async def test_the_first_io_error_is_final_and_the_next_start_checks_everything(tmp_path: Path) -> None:
    path = tmp_path / "central.db"
    store = await SqliteStore.open(path)
    await fill(store, [b"a", b"b"])
    with pytest.raises(StoreFailed):
        async with store.transaction():
            await store.run(io_error)
    with pytest.raises(StoreFailed):
        async with store.transaction():
            pytest.fail("nothing is begun any more")
    with pytest.raises(StoreFailed):
        await store.failure
    await store.close()
    assert (tmp_path / "central.db.failed").exists()

    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE record SET body = x'00' WHERE place = (SELECT max(place) FROM record)")
    connection.close()
    with pytest.raises(IntegrityError, match="record 1 is not the one"):
        await SqliteStore.open(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE record SET body = CAST('b' AS BLOB) WHERE body = x'00'")
    connection.close()
    await (await SqliteStore.open(path)).close()
    assert not (tmp_path / "central.db.failed").exists()


async def test_a_backup_is_a_whole_database_and_overwrites_nothing(tmp_path: Path) -> None:
    store = await SqliteStore.open(tmp_path / "central.db")
    try:
        row = await fill(store, [b"a", b"b"])
        await store.backup(tmp_path / "copy.db")
        with pytest.raises(AlreadyExists):
            await store.backup(tmp_path / "copy.db")
        with pytest.raises(OperatorError, match="cannot be written"):
            await store.backup(tmp_path / "nowhere" / "copy.db")
        assert (tmp_path / "copy.db").stat().st_mode & 0o777 == 0o600
    finally:
        await store.close()
    copy = await SqliteStore.open(tmp_path / "copy.db")
    try:
        assert await root_problems(copy) == []
        async with copy.transaction() as t:
            assert await t.find(Journal, row.origin) == row
    finally:
        await copy.close()


# PostgreSQL alone.


async def test_a_server_that_forgets_is_refused(postgres: PostgresServer) -> None:
    dsn = postgres.new_database()
    postgres.sql("ALTER SYSTEM SET fsync = off")
    postgres.sql("SELECT pg_reload_conf()")
    try:
        with pytest.raises(OperatorError, match="fsync off"):
            await PostgresStore.open(dsn)
    finally:
        postgres.sql("ALTER SYSTEM RESET fsync")
        postgres.sql("SELECT pg_reload_conf()")


async def test_commits_wait_for_the_disk_whatever_the_server_says(postgres: PostgresServer) -> None:
    dsn = postgres.new_database()
    postgres.sql("ALTER ROLE central SET synchronous_commit = off")
    try:
        store = await PostgresStore.open(dsn)
        async with store.transaction() as t:
            assert await t.connection.fetchval("SHOW synchronous_commit") == "on"
        await store.close()
    finally:
        postgres.sql("ALTER ROLE central RESET synchronous_commit")


async def test_two_workers_make_the_tables_at_once(postgres: PostgresServer) -> None:
    dsn = postgres.new_database()
    stores = await asyncio.gather(*(PostgresStore.open(dsn, connections=2) for _ in range(4)))
    for number, store in enumerate(stores):
        async with store.transaction() as t:
            await t.put(Setting("central", str(number), ""))
    async with stores[0].transaction() as t:
        assert await t.count(Setting) == 4
    for store in stores:
        await store.close()


async def test_another_versions_tables_in_the_server_are_refused(
    postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = postgres.new_database()
    await (await PostgresStore.open(dsn)).close()
    monkeypatch.setattr(store_postgres, "SCHEMA_VERSION", 99)
    with pytest.raises(OperatorError, match="tables of version 2"):
        await PostgresStore.open(dsn)


async def test_another_worker_hears_what_is_announced(postgres: PostgresServer) -> None:
    dsn = postgres.new_database()
    here, there = await PostgresStore.open(dsn), await PostgresStore.open(dsn)
    with there.listening("desired:a") as event:
        event.clear()
        async with here.transaction() as t:
            t.announce("desired:a")
        await asyncio.wait_for(event.wait(), 10)
    await here.close()
    await there.close()


async def test_a_server_that_goes_away_makes_requests_wait_and_comes_back() -> None:
    with postgres_server() as server:
        store = await PostgresStore.open(server.new_database())

        async def interrupted() -> None:
            async with store.transaction() as t:
                await t.put(Evidence(b"\x02", "o", "r", "n", b"m", 1))
                server.stop()
                await t.count(Evidence)

        async with store.transaction() as t:
            await t.put(Evidence(b"\x01", "o", "r", "n", b"m", 1))
        with store.listening("x") as event:
            event.clear()
            with pytest.raises(StoreBusy):
                await interrupted()
            with pytest.raises(StoreBusy):
                async with store.transaction():
                    pytest.fail("there is no server")
            await asyncio.wait_for(event.wait(), 10)  # nobody knows what was announced meanwhile
            server.start()
            async with store.transaction() as t:
                assert [row.digest for row in await t.select(Evidence)] == [b"\x01"]
        await store.close()
        with pytest.raises(StoreBusy):
            async with store.transaction():
                pytest.fail("it is closed")


async def test_a_server_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreBusy):
        await PostgresStore.open(f"postgresql://central@/none?host={tmp_path}")

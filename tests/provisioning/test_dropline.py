"""The file drop on the real line: authority, journal and units; only the device's work is the test's."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from gateway.authority.delegated import DelegatedSpec
from gateway.journal.verify import verify
from gateway.pki.names import name_from_text
from provisioning.device import KeyOrigin
from provisioning.dropline import UnitsLine
from provisioning.filedrop import FileDrop, Folders
from provisioning.finishing import PAPERS_IDENTITY, FinisherOptions, Papers
from provisioning.jws import canonical
from provisioning.manifest import open_entry
from provisioning.papers import HANDOVER_TYPE, RECORD_TYPE, open_paper
from provisioning.station import State, Unit
from provisioning.ticket import open_ticket
from provisioning.units import Place as Bench
from tests.support.csrs import key_for, make_csr
from tests.support.drops import HEAD, NOW_MS, Answer, Place, zipped
from tests.support.line import Hall, hall, order_of, signed, states

REPORTS = "order,serial,event,detail\n"


class Station:
    """Puts drops down and takes their answers."""

    def __init__(self, place: Hall, folders: Folders, line: UnitsLine | None = None) -> None:
        self.place, self.folders = place, folders
        self.line = line or UnitsLine(place.units, place.finisher)

    async def ask(self, files: Mapping[str, bytes | str]) -> Answer:
        drop = FileDrop(self.folders, self.line, station="drop:bench-4", now_ms=lambda: NOW_MS)
        (self.folders.inbox / "a.zip").write_bytes(zipped(files))
        assert await drop.look() + await drop.look() == 1
        (answer,) = self.folders.outbox.iterdir()
        content = answer.read_bytes()
        answer.unlink()
        return Answer(content)

    async def report(self, serial: str, *events: str, order: str = "O-1") -> Answer:
        return await self.ask({"reports.csv": REPORTS + "".join(f"{order},{serial},{event},\n" for event in events)})


@pytest.fixture
async def station(tmp_path: Path) -> AsyncIterator[Station]:
    async for made in stations(tmp_path, label="plate", credit=4):
        yield made


async def stations(tmp_path: Path, **order: Any) -> AsyncIterator[Station]:
    (tmp_path / "drop").mkdir()
    folders = Place.make(tmp_path / "drop").folders
    async with hall(tmp_path, {}, orders=[order_of(**{"proof": "read-back", **order}), order_of(id="O-2", credit=1)]) as place:
        yield Station(place, folders)


def wanted(*numbers: int, order: str = "O-1", key: str = "device") -> dict[str, bytes | str]:
    lines = "".join(f"{order},SN-{number:05},chip-{number},{number}.csr\n" for number in numbers)
    requests = {f"{number}.csr": make_csr(key_for("p-256", f"{key}-{number}")) for number in numbers}
    return {"units.csv": HEAD + lines, **requests}


def certificate(answer: Answer) -> x509.Certificate:
    (chain,) = (content for name, content in answer.files.items() if name.startswith("chains/"))
    return x509.load_pem_x509_certificate(chain)


async def test_units_go_through_the_line_and_end_confirmed(station: Station, tmp_path: Path) -> None:
    answer = await station.ask(wanted(1, 2))
    assert answer.facts["issued"] == 2
    first = x509.load_pem_x509_certificate(answer.files["chains/000002-SN-00001.pem"])
    (serial,) = first.subject.get_attributes_for_oid(x509.NameOID.SERIAL_NUMBER)
    assert serial.value == "SN-00001"
    told = await station.report("SN-00001", "written", "verified", "locked", "labelled", "confirmed")
    assert (told.facts["taken"], told.facts["refused"]) == (5, 0)
    unit = await station.place.units.latest_of("SN-00001")
    assert unit is not None
    assert states(unit) == [
        State.RESERVED, State.KEYED, State.ISSUED, State.WRITTEN, State.VERIFIED, State.LOCKED, State.LABELLED, State.CONFIRMED,
    ]  # fmt: skip
    assert station.place.finisher.concluded == ["SN-00001"]
    assert not station.place.balance()
    assert station.place.world.journal.head.tallies["order:O-1"] == 2


async def test_the_same_request_gets_the_same_certificate_also_when_the_unit_is_done(station: Station) -> None:
    first = certificate(await station.ask(wanted(1)))
    for path in station.folders.kept.iterdir():
        path.unlink()  # as after 90 days
    assert certificate(await station.ask(wanted(1))) == first
    await station.report("SN-00001", "written", "verified", "locked", "labelled", "confirmed")
    for path in station.folders.kept.iterdir():
        path.unlink()
    assert certificate(await station.ask(wanted(1))) == first
    assert station.place.world.journal.head.tallies["order:O-1"] == 1


async def test_another_key_for_a_unit_that_is_done_is_refused(station: Station) -> None:
    await station.ask(wanted(1))
    await station.report("SN-00001", "written", "verified", "locked", "labelled", "confirmed")
    assert "has its identity already" in (await station.ask(wanted(1, key="other"))).errors


async def test_another_key_for_an_open_unit_puts_it_into_quarantine_and_nothing_more_is_done(station: Station) -> None:
    await station.ask(wanted(1))
    assert "not the one that this unit began with" in (await station.ask(wanted(1, key="other"))).errors
    assert "in quarantine" in (await station.ask(wanted(1))).errors
    assert (await station.report("SN-00001", "written")).facts["refused"] == 1


async def test_a_quarantined_unit_without_a_certificate_gets_none(station: Station) -> None:
    unit = await station.place.units.reserve("O-1", Bench("s"), serial="SN-00001", chip="chip-1")
    await station.place.units.quarantine(unit, "dropped on the floor", "s")
    answer = await station.ask(wanted(1))
    assert "dropped on the floor" in answer.errors
    unit = station.place.units.open[unit.id]
    assert (unit.state, unit.certificate) == (State.QUARANTINE, "")


async def test_credit_serial_numbers_and_orders_are_the_lines_to_judge(station: Station) -> None:
    answer = await station.ask(wanted(1, 2, 3, 4, 5, 6))
    assert (answer.facts["issued"], answer.facts["refused"]) == (4, 2)
    assert answer.errors.count("is used up") == 2
    assert "order" in (await station.ask(wanted(7, order="O-9"))).errors
    assert "being made under order O-1" in (await station.ask(wanted(1, order="O-2"))).errors
    assert (await station.report("SN-00001", "written", order="O-2")).facts["refused"] == 1
    assert "no unit was begun" in (await station.report("SN-00099", "written")).errors
    assert not station.place.balance()


async def test_reports_must_come_in_their_order_and_may_come_again(station: Station) -> None:
    await station.ask(wanted(1))
    refused = await station.report("SN-00001", "verified")
    assert "is issued; what comes next is write, not verified" in refused.errors
    await station.report("SN-00001", "written", "verified")
    again = await station.report("SN-00001", "written", "written", "verified")
    assert again.facts["taken"] == 3
    assert "what comes next is begin-lock, not confirmed" in (await station.report("SN-00001", "confirmed")).errors
    unit = station.place.units.by_serial("SN-00001")
    assert unit is not None
    assert unit.state is State.VERIFIED


async def test_scrap_revokes_and_may_be_told_again(station: Station) -> None:
    issued = certificate(await station.ask(wanted(1)))
    for _ in range(2):
        assert (await station.report("SN-00001", "scrapped")).facts["taken"] == 1
        for path in station.folders.kept.iterdir():
            path.unlink()
    assert station.place.world.authority.status.find(issued.serial_number, 1) is not None
    assert (await station.report("SN-00001", "written")).facts["refused"] == 1
    assert not station.place.balance()


async def test_an_order_with_keys_from_the_pool_is_not_for_drops(tmp_path: Path) -> None:
    async for station in stations(tmp_path, key_origin=KeyOrigin.POOL):
        assert "gateway's pool" in (await station.ask(wanted(1))).errors


async def test_a_cloned_key_is_found(station: Station) -> None:
    await station.ask(wanted(1))
    files = wanted(2) | {"2.csr": make_csr(key_for("p-256", "device-1"))}
    assert "was seen before, with unit O-1/SN-00001/1" in (await station.ask(files)).errors


PAPERS_PROFILE = {"base": "tls-client", "extended_key_usage": ["1.3.6.1.5.5.7.3.36"], "validity": "365d", "requesters": []}


async def test_a_confirmed_unit_comes_back_with_its_signed_papers(tmp_path: Path) -> None:
    (tmp_path / "drop").mkdir()
    folders = Place.make(tmp_path / "drop").folders
    order = order_of(lock=False, masa_url="https://masa.example", proof="read-back")
    async with hall(tmp_path, {}, orders=[order], tables={"line-papers": PAPERS_PROFILE}) as place:
        delegated = place.world.authority.delegated
        delegated.want([DelegatedSpec(PAPERS_IDENTITY, "line-papers", name_from_text("CN=production records"))])
        await delegated.renew_due()
        made = Papers(FinisherOptions(tmp_path / "line", "Acme", "gateway.test/1"), place.units, delegated)

        async def papers(unit: Unit) -> bytes:
            return made.path(unit).read_bytes()

        station = Station(place, folders, UnitsLine(place.units, made, papers))
        issued = certificate(await station.ask(wanted(1)))
        answer = await station.report("SN-00001", "written", "verified", "confirmed")
        again = await station.report("SN-00001", "confirmed")
    assert answer.errors == ""
    content = json.loads(answer.files["papers/000004-SN-00001.json"])
    assert set(content) == {"production_record", "manifest", "ticket", "brski_handover"}
    record, chain = open_paper(canonical(content["production_record"]), RECORD_TYPE)
    assert record["serial"] == "SN-00001"
    assert record["certificate"]["serial"] == f"{issued.serial_number:x}"  # type: ignore[index,call-overload]
    assert [each["state"] for each in record["states"]] == ["reserved", "keyed", "issued", "written", "verified"]  # type: ignore[union-attr,index,call-overload]
    (line,) = answer.files["manifest.jsonl"].splitlines()
    assert open_entry(line, chain[0])["uniqueId"] == "chip-1"
    ticket, (signature,) = open_ticket(canonical(content["ticket"]))
    assert (ticket.serial_number, signature.chain) == ("SN-00001", chain)
    handover, _ = open_paper(canonical(content["brski_handover"]), HANDOVER_TYPE)
    assert (handover["serial-number"], handover["masa-url"]) == ("SN-00001", "https://masa.example")
    assert again.files["papers/000002-SN-00001.json"] == answer.files["papers/000004-SN-00001.json"]


async def test_the_journal_proves_it_all(tmp_path: Path) -> None:
    async for station in stations(tmp_path, lock=False):
        await station.ask(wanted(1, 2, 3))
        for number in (1, 2):
            assert (await station.report(f"SN-0000{number}", "written", "verified", "confirmed")).facts["taken"] == 3
        assert (await station.report("SN-00003", "scrapped")).facts["taken"] == 1
        assert not station.place.balance()
    assert verify(tmp_path / "journal.db", signatures=True).clean


async def test_a_drop_says_nothing_of_units_that_are_not_its_own(tmp_path: Path) -> None:
    async for station in stations(tmp_path, stations=("drop:bench-4", "port:p1"), credit=4):
        await station.place.units.reserve("O-1", Bench("port:p1", "p1"), serial="SN-00001", chip="c1")
        assert "is made at the gateway's port p1" in (await station.report("SN-00001", "written")).files["result.csv"].decode()
        await station.place.units.reserve("O-2", Bench("drop:other"), serial="SN-00002", chip="c2")
        await station.place.orders.accept(signed(order_of(id="O-2", version=2, credit=1, stations=("drop:other",))), "file")
        assert (
            "is not for station drop:bench-4"
            in (await station.report("SN-00002", "written", order="O-2")).files["result.csv"].decode()
        )


async def test_a_read_back_by_files_counts_only_where_the_order_says_so(tmp_path: Path) -> None:
    async for station in stations(tmp_path, proof="challenge", credit=4):
        await station.ask(wanted(1))
        answer = await station.report("SN-00001", "written", "verified")
        assert "wants a signed challenge" in answer.files["result.csv"].decode()
        unit = station.place.units.by_serial("SN-00001")
        assert unit is not None
        assert unit.state is State.WRITTEN

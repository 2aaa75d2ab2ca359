"""The shift report is what the journal says, by station and order, with the account of each order."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest

from provisioning.api import shift
from provisioning.order_book import Balance
from provisioning.orders import NumberRange
from tests.support.line import order_of
from tests.support.stations import BenchDevice, counter


async def test_the_report_counts_what_each_station_did_since_a_time(tmp_path: Path) -> None:
    orders = [order_of(label="plate", lock=False, confirm_hours=1), order_of(id="O-2", stations=("station:other",))]
    orders[1] = order_of(id="O-2", stations=("station:other",), numbers=NumberRange("X-", 1, 10, 5), credit=5)
    async with counter(tmp_path, orders=orders) as it:
        one, two, other = await it.station("bench-1"), await it.station("bench-2"), await it.station("other")
        await other.opened(BenchDevice("chip-x"), "O-2")
        await one.certified(BenchDevice("before"))
        it.world.clock.advance(7_200_000)
        since = it.world.clock.now_ms()
        unit = await one.verified(BenchDevice("chip-1"))
        await one.done(f"{unit}/labelled")
        await one.done(f"{unit}/labelled", {"again": True})
        await one.done(f"{unit}/confirmed")
        unit, _ = await one.certified(BenchDevice("chip-2"))
        await two.done(f"{unit}/quarantine", {"reason": "smells"})
        await two.done(f"{unit}/scrap", {"reason": "smells"})
        await two.done(f"{await two.opened(BenchDevice('chip-3'))}/release", {"reason": "not today"})
        unit, _ = await two.certified(BenchDevice("chip-4"))
        await two.done(f"{unit}/rework", {"reason": "scratched"})
        report = (await one.get(f"/shift-report?since={since}")).json
        rows = {each["station"]: each for each in report["rows"]}
        nothing = dict.fromkeys(("issued", "confirmed", "scrapped", "reworked", "released", "open", "overdue", "faults"), 0)
        expected = nothing | {
            "order": "O-1",
            "begun": 2,
            "label_prints": 2,
            "issued": 2,
            "confirmed": 1,
            "open": 1,
            "overdue": 1,
        }
        assert rows["station:bench-1"] == expected | {"station": "station:bench-1"}
        expected = nothing | {"order": "O-1", "begun": 2, "issued": 1, "scrapped": 1, "reworked": 1, "released": 1, "faults": 1}
        assert rows["station:bench-2"] == expected | {"label_prints": 0, "station": "station:bench-2"}
        assert set(rows) == {"station:bench-1", "station:bench-2"}
        assert report["orders"] == [{"order": "O-1", "balanced": True, "faults": []}]
        assert report["complete"] is True
        table = await two.get(f"/shift-report?since={since}&format=csv")
        assert table.head["Content-Type"].startswith("text/csv")
        lines = list(csv.DictReader(io.StringIO(table.content.decode())))
        assert [(each["station"], each["begun"], each["balance"]) for each in lines] == [
            ("station:bench-1", "2", "ok"), ("station:bench-2", "2", "ok"),
        ]  # fmt: skip
        empty = (await one.get(f"/shift-report?since=0&until={since - 7_300_000}")).json["rows"]
        assert [(each["station"], each["begun"], each["open"]) for each in empty] == [("station:bench-1", 0, 1)]


async def test_an_account_that_does_not_add_up_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with counter(tmp_path, orders=[order_of()]) as it:
        station = await it.station()
        await station.opened(BenchDevice("chip-1"))
        monkeypatch.setattr(it.units, "balance", lambda _: Balance(100, 5, 2, 0, 0, 0, 0, 1, 1))
        (account,) = (await station.get("/shift-report?since=0")).json["orders"]
        assert account["balanced"] is False
        assert "5 units used credit" in account["faults"][0]


async def test_a_report_over_too_many_records_says_how_far_it_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shift, "MOST_RECORDS", 3)
    async with counter(tmp_path, orders=[order_of()]) as it:
        station = await it.station()
        await station.made(BenchDevice("chip-1"))
        report = (await station.get("/shift-report?since=0")).json
        assert report["complete"] is False
        assert sum(each["begun"] + each["issued"] for each in report["rows"]) == 2

"""Units of the line in the journal: a chain of records each, claims that are given away once, what survives a restart."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.errors import AlreadyExists, Conflict
from gateway.journal.line_records import (
    OrderAccepted,
    UnitEnded,
    UnitKeyed,
    UnitMoved,
    UnitReserved,
    claims_of,
    key_claim,
    serial_claim,
    state_tally,
    unit_claim,
)
from gateway.journal.store import Store
from gateway.journal.verify import verify
from tests.support.journal import Place

QUOTA = ("order:O-1",)


def reserved(number: int, **changes: object) -> UnitReserved:
    made = UnitReserved(
        f"O-1/{number}", "O-1", f"SN-{number}", "port:1", QUOTA, 1, "device", chip=f"chip-{number}", chip_attempt=1
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def keyed(unit: UnitReserved, previous: int, key: bytes = b"k") -> UnitKeyed:
    return UnitKeyed(unit.unit, previous, key.ljust(32, b"\0"), bytes(32))


def moved(unit: UnitReserved, previous: int, state: str = "issued") -> UnitMoved:
    return UnitMoved(unit.unit, previous, unit.order, state, "port:1")


def ended(unit: UnitReserved, previous: int, state: str = "confirmed", quota: tuple[str, ...] = ()) -> UnitEnded:
    return UnitEnded(unit.unit, previous, unit.order, state, "port:1", quota=quota)


async def test_a_unit_is_a_chain_and_its_end_is_an_end(place: Place) -> None:
    journal = await place.create()
    unit = reserved(1)
    (first,) = await journal.append(unit)
    assert journal.head.open_units == {"O-1/1": first.seq}
    assert journal.head.tallies["order:O-1"] == 1
    (second,) = await journal.append(keyed(unit, first.seq))
    (third,) = await journal.append(moved(unit, second.seq))
    await journal.append(ended(unit, third.seq))
    assert journal.head.open_units == {}
    assert journal.head.tallies == {"order:O-1": 1, state_tally("O-1", "issued"): 1, state_tally("O-1", "confirmed"): 1}
    with pytest.raises(Conflict, match="not open"):
        await journal.append(moved(unit, third.seq))
    await journal.close()
    assert verify(place.path).clean


async def test_of_two_who_move_a_unit_at_once_one_wins(place: Place) -> None:
    journal = await place.create()
    unit = reserved(1)
    (first,) = await journal.append(unit)
    await journal.append(moved(unit, first.seq, "quarantine"))
    with pytest.raises(Conflict, match="has moved on"):
        await journal.append(moved(unit, first.seq, "written"))
    await journal.close()


async def test_a_step_within_a_group_follows_the_one_before_it(place: Place) -> None:
    journal = await place.create()
    unit, size = reserved(1), journal.head.size
    await journal.append(unit, keyed(unit, size), ended(unit, size + 1))
    assert not journal.head.open_units
    with pytest.raises(Conflict):
        await journal.append(reserved(2), moved(reserved(2), 0))
    assert "O-1/2" not in journal.head.open_units
    assert await journal.claimed(unit_claim("O-1/2")) == {}
    await journal.close()


@pytest.mark.parametrize(
    "again",
    [
        reserved(2, serial="SN-1"),
        reserved(2, chip="chip-1"),
        reserved(1, serial="SN-2", chip="chip-2"),
    ],
    ids=["serial number", "chip", "unit"],
)
async def test_what_is_claimed_is_claimed_once_also_after_a_restart(place: Place, again: UnitReserved) -> None:
    journal = await place.create()
    unit = reserved(1)
    (first,) = await journal.append(unit)
    with pytest.raises(Conflict):
        await journal.append(again)
    await journal.append(ended(unit, first.seq))
    with pytest.raises(Conflict):
        await journal.append(again)
    await journal.close()
    journal = await place.open()
    with pytest.raises(Conflict):
        await journal.append(again)
    assert journal.head.tallies["order:O-1"] == 1
    await journal.append(replace(again, unit="O-1/3", attempt=2, chip_attempt=2))
    await journal.close()


async def test_a_key_is_claimed_once_over_all_orders_and_takes_nobody_else_down(place: Place) -> None:
    journal = await place.create()
    one, two = reserved(1), reserved(2, order="O-2", quota=("order:O-2",))
    first, second = await journal.append(one, two)
    await journal.append(keyed(one, first.seq))
    with pytest.raises(Conflict):
        await journal.append(keyed(two, second.seq))
    assert journal.head.open_units["O-1/2"] == second.seq
    await journal.append(keyed(two, second.seq, b"another"))
    assert await journal.claimed(key_claim(b"k".ljust(32, b"\0")), key_claim(bytes(32))) == {
        key_claim(b"k".ljust(32, b"\0")): 4
    }
    await journal.close()


async def test_open_units_survive_restart_backup_and_credit_comes_back_with_a_release(place: Place, tmp_path: Path) -> None:
    journal = await place.create()
    units = [reserved(number) for number in range(300)]
    places = {unit.unit: (await journal.append(unit))[0].seq for unit in units}
    for unit in units[::2]:
        await journal.append(ended(unit, places[unit.unit], "released", QUOTA))
    expected = {unit.unit: places[unit.unit] for unit in units[1::2]}
    assert journal.head.tallies["order:O-1"] == 150
    target = tmp_path / "copy.db"
    await journal.backup(target)
    assert verify(target).clean
    with pytest.raises(AlreadyExists):
        await journal.backup(target)
    await journal.close()
    journal = await place.open()
    assert journal.head.open_units == expected
    await journal.close()
    assert verify(place.path).clean


async def test_an_order_of_one_version_is_accepted_once(place: Place) -> None:
    journal = await place.create()
    order = OrderAccepted("O-1", 1, b"signed", 10, "file")
    await journal.append(order)
    with pytest.raises(Conflict):
        await journal.append(replace(order, document=b"replayed"))
    await journal.append(replace(order, version=2))
    await journal.close()


TAMPERINGS = {
    "a claim is gone": ("DELETE FROM claim WHERE rowid IS NOT NULL", "claim"),
    "a claim is another's": ("UPDATE claim SET seq = seq + 1", "claim"),
    "an open unit is gone": ("DELETE FROM open_unit", "open units"),
    "an open unit is another": ("UPDATE open_unit SET seq = 0", "open units"),
    "a claim too many": ("INSERT INTO claim (name, seq) VALUES (x'00', 1)", "index of claims"),
}


@pytest.mark.parametrize("name", TAMPERINGS)
async def test_verify_finds_what_was_changed_beside_the_records(place: Place, name: str) -> None:
    journal = await place.create()
    await journal.append(reserved(1))
    await journal.close()
    statement, named = TAMPERINGS[name]
    connection = sqlite3.connect(place.path)
    connection.execute(statement.replace(" WHERE rowid IS NOT NULL", ""))
    connection.commit()
    connection.close()
    assert any(named in str(problem) for problem in verify(place.path).problems)


async def test_a_unit_without_its_beginning_in_the_list_of_open_ones_stops_the_start(place: Place) -> None:
    journal = await place.create()
    await journal.close()
    connection = sqlite3.connect(place.path)
    connection.execute("INSERT INTO open_unit (seq) VALUES (0)")
    connection.commit()
    connection.close()
    with pytest.raises(Exception, match="open unit"):
        await place.open()


def test_claims_of_different_kinds_never_meet() -> None:
    names = [*claims_of(reserved(1)), *claims_of(keyed(reserved(1), 0)), *claims_of(ended(reserved(1), 0))]
    assert len(set(names)) == len(names) == 5
    assert {len(name) for name in names} == {20}
    assert serial_claim("1", 11) != serial_claim("11", 1)
    assert claims_of(moved(reserved(1), 0)) == ()


async def test_the_store_counts_statements_of_a_unit(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = await place.create()
    seen: list[str] = []
    writes = Store.write

    def counted(store: Store, *parts: object) -> object:
        seen.append("write")
        return writes(store, *parts)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "write", counted)
    await journal.append(*[reserved(number) for number in range(100)])
    assert seen == ["write"]
    await journal.close()

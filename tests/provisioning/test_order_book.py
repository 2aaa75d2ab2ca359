"""Which orders count, how often, and what their account says."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.errors import Conflict, Forbidden, IntegrityError, MalformedRequest, NotFound, RequestError
from gateway.journal.records import OperatorAction
from provisioning.order_book import Balance
from provisioning.orders import sign_order
from tests.support.line import hall, order_of, signed
from tests.support.simulated_device import make_devices

OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))


async def test_an_order_is_taken_up_once_and_survives_a_restart(tmp_path: Path) -> None:
    async with hall(tmp_path, {}, orders=[order_of()]) as place:
        size = place.world.journal.head.size
        assert await place.orders.accept(signed(order_of()), "file") == order_of()
        assert place.world.journal.head.size == size
        root = place.world.root
    async with hall(tmp_path, {}, root=root) as place:
        assert place.orders.all == (order_of(),)
        assert place.units.balance("O-1").credit == 100


@pytest.mark.parametrize(
    ("document", "error", "reason"),
    [
        (sign_order(order_of(id="O-2"), "orders.test", OTHER_KEY), IntegrityError, "signature"),
        (signed(order_of(id="O-2"))[:-2] + b"9}", IntegrityError, "signature"),
        (signed(order_of(id="O-2", origin="another/gateway")), Forbidden, "is for gateway 'another/gateway'"),
        (signed(order_of(version=1, credit=50)), Forbidden, "older than version 2"),
        (signed(order_of(version=2, credit=99)), Conflict, "another content"),
        (signed(order_of(id="closed", version=7)), Forbidden, "is closed"),
        (b"edge-gateway/work-order/v1\n", IntegrityError, "not a signed statement"),
        (signed(order_of(id="O-2", subject=("O=Acme, Inc",))), MalformedRequest, "its templates make no name"),
    ],
    ids=["forged", "changed", "foreign", "replayed", "same version", "closed", "no statement", "no name"],
)
async def test_an_order_that_does_not_count_changes_nothing(
    tmp_path: Path, document: bytes, error: type[Exception], reason: str
) -> None:
    known = [order_of(), order_of(version=2, credit=60), order_of(id="closed")]
    async with hall(tmp_path, {}, orders=known) as place:
        await place.orders.close("closed", "ada", "finished")
        size = place.world.journal.head.size
        with pytest.raises(error, match=reason):
            await place.orders.accept(document, "file")
        assert place.world.journal.head.size == size
        assert place.orders.get("O-1").credit == 60


async def test_an_expired_order_begins_nothing(tmp_path: Path) -> None:
    devices = make_devices(1)
    async with hall(tmp_path, {"p": devices[0]}, orders=[order_of(expires=1)]) as place:
        await place.work(lambda it: "no work order" in it.line.ports[0].sentence)
        place.line.assign("p", "O-1")
        await place.work(lambda it: "has expired" in it.line.ports[0].sentence)
    assert not devices[0].received


async def test_a_higher_version_gives_more_credit_and_a_closed_order_none(tmp_path: Path) -> None:
    devices = make_devices(3)
    async with hall(tmp_path, {f"p{n}": device for n, device in enumerate(devices)}, orders=[order_of(credit=2)]) as place:
        await place.work(lambda it: it.units.balance("O-1").confirmed == 2)
        await place.orders.accept(signed(order_of(version=2, credit=3)), "file")
        await place.work(lambda it: it.all_done())
        await place.orders.close("O-1", "ada", "enough")
        with pytest.raises(Forbidden, match="is closed"):
            place.orders.in_force("O-1")
        with pytest.raises(NotFound):
            place.orders.in_force("O-9")
        assert not place.balance()


async def test_numbers_go_on_after_a_restart_and_over_those_that_somebody_took(tmp_path: Path) -> None:
    from provisioning.units import Place

    async with hall(tmp_path, {}, orders=[order_of()]) as place:
        taken = [(await place.units.reserve("O-1", Place("s"), chip=f"c{n}")).serial for n in range(3)]
        by_hand = await place.units.reserve("O-1", Place("s"), serial="SN-00004", chip="c3")
        root = place.world.root
    assert [*taken, by_hand.serial] == [f"SN-0000{n}" for n in (1, 2, 3, 4)]
    async with hall(tmp_path, {}, root=root) as place:
        assert (await place.units.reserve("O-1", Place("s"), chip="c4")).serial == "SN-00005"
        with pytest.raises(Forbidden, match="does not belong"):
            await place.units.reserve("O-1", Place("s"), serial="SN-99999", chip="c5")


async def test_what_is_in_the_journal_and_is_no_order_stops_the_start(tmp_path: Path) -> None:
    from gateway.journal.line_records import OrderAccepted

    async with hall(tmp_path, {}) as place:
        await place.world.journal.append(OrderAccepted("O-1", 1, b"nothing", 1, "file"), OperatorAction("x", "y"))
        root = place.world.root
    with pytest.raises(IntegrityError):
        async with hall(tmp_path, {}, root=root):
            pass


def test_an_account_that_does_not_add_up_says_where() -> None:
    right = Balance(10, 7, 5, 2, 1, 1, 3, 2, 1)
    assert right.faults() == []
    from dataclasses import replace

    assert "used credit" in replace(right, begun=8).faults()[0]
    assert "have certificates" in replace(right, confirmed=3).faults()[0]
    assert "under a credit of 6" in replace(right, credit=6).faults()[0]


async def test_central_s_document_brings_orders_and_each_bad_one_is_named(tmp_path: Path) -> None:
    from provisioning.finishing import FinisherOptions, Papers
    from provisioning.plant import Plant

    async with hall(tmp_path, {}) as place:
        papers = Papers(FinisherOptions(tmp_path / "line", "", "o"), place.units, place.world.authority.delegated)
        plant = Plant(place.orders, place.units, place.line, papers, place.world.authority)
        good, bad = signed(order_of()).decode(), signed(order_of(origin="x", id="O-2")).decode()
        with pytest.raises(RequestError, match="for gateway 'x'"):
            await plant.take_up([bad, good])
        assert [order.id for order in place.orders.all] == ["O-1"]
        await plant.take_up(None)
        with pytest.raises(MalformedRequest, match="list of signed work orders"):
            await plant.take_up("text")
        with pytest.raises(RequestError, match="is a text"):
            await plant.take_up([1])


async def test_a_station_that_the_order_does_not_name_cannot_stop_anybody_s_unit(tmp_path: Path) -> None:
    from provisioning.units import Place

    async with hall(tmp_path, {}, orders=[order_of(stations=("port:p1",))]) as place:
        unit = await place.units.reserve("O-1", Place("port:p1"), serial="SN-00001", chip="c1")
        with pytest.raises(Forbidden, match="not for station"):
            await place.units.reserve("O-1", Place("station:x"), serial="SN-00001", chip="c2")
        assert place.units.open[unit.id] == unit

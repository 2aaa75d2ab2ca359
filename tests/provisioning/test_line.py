"""The line with simulated devices: every device one identity, whatever happens at its port."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509

from gateway.errors import DeviceRefused, DeviceSilent
from gateway.journal.verify import verify
from provisioning.line import PortState
from provisioning.station import State
from tests.support.authority import TestCa
from tests.support.line import Hall, hall, order_of, states
from tests.support.simulated_device import SimulatedDevice, make_devices, seeded_keys


def ports_of(devices: list[SimulatedDevice]) -> dict[str, SimulatedDevice]:
    return {f"p{number}": device for number, device in enumerate(devices)}


async def test_eight_devices_get_one_identity_each(tmp_path: Path) -> None:
    devices = make_devices(8)
    async with hall(tmp_path, ports_of(devices), orders=[order_of(label="plate")]) as place:
        await place.work(Hall.all_done)
        assert sorted(place.finisher.concluded) == sorted(f"SN-{number:05d}" for number in range(1, 9))
        for device in devices:
            certificate = x509.load_der_x509_certificate(device.certificate)
            (serial,) = certificate.subject.get_attributes_for_oid(x509.NameOID.SERIAL_NUMBER)
            assert serial.value == device.serial
            assert device.received == [device.certificate]
            assert device.locked
            assert certificate.not_valid_after_utc.year == 9999
            (uri,) = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.get_values_for_type(
                x509.UniformResourceIdentifier
            )
            assert uri == f"https://acme.example/{device.serial}"
            unit = await place.units.get(f"O-1/{device.serial}/1")
            assert states(unit) == [
                State.RESERVED, State.KEYED, State.ISSUED, State.WRITTEN, State.VERIFIED, State.LOCKING, State.LOCKED,
                State.LABELLED, State.CONFIRMED,
            ]  # fmt: skip
        assert not place.balance()
        assert place.world.journal.head.tallies["order:O-1"] == 8
    assert verify(tmp_path / "journal.db", signatures=True).clean


async def test_a_finished_device_that_stays_or_comes_again_gets_nothing_more(tmp_path: Path) -> None:
    devices, root = make_devices(1), TestCa.make("Test Root")
    for _ in range(2):
        async with hall(tmp_path, ports_of(devices), orders=[order_of()], root=root) as place:
            await place.work(Hall.all_done)
            assert place.world.journal.head.tallies["order:O-1"] == 1
    assert len(devices[0].received) == 1


async def test_over_production_stops_at_the_credit(tmp_path: Path) -> None:
    devices = make_devices(64)
    async with hall(tmp_path, ports_of(devices), orders=[order_of(credit=40)]) as place:
        await place.work(
            lambda it: (
                all(view.state in (PortState.DONE, PortState.FAULT) for view in it.line.ports)
                and sum(view.state is PortState.DONE for view in it.line.ports) == 40
            )
        )
        assert sum(bool(device.received) for device in devices) == 40
        assert sum("credit of order O-1, 40, is used up" in view.sentence for view in place.line.ports) == 24
        assert place.world.journal.head.tallies["order:O-1"] == 40
        assert not place.balance()


@pytest.mark.parametrize("origin", ["device", "pool"])
async def test_a_power_cut_of_the_device_at_every_write_leaves_one_identity(tmp_path: Path, origin: str) -> None:
    from provisioning.device import KeyOrigin

    order = order_of(key_origin=KeyOrigin(origin))
    devices = make_devices(40)
    for number, device in enumerate(devices):
        device.cut_after = number
    async with hall(tmp_path, ports_of(devices), orders=[order]) as place:
        await place.work(Hall.all_done)
        assert {len(device.received) for device in devices} == {1}
        assert place.world.journal.head.tallies["order:O-1"] == 40
        assert not place.balance()
        assert not list((tmp_path / "pool").glob("taken-*"))


async def test_a_device_that_trusts_its_page_cache_is_found_by_the_reset(tmp_path: Path) -> None:
    (device,) = make_devices(1)
    async with hall(tmp_path, {"p": device}, orders=[order_of()], syncs=False) as place:
        await place.work(lambda it: it.line.ports[0].state is PortState.FAULT)
        (unit,) = place.units.open.values()
        assert unit.state is State.QUARANTINE
        assert unit.certificate
        assert "did not keep" in unit.detail or "no key" in unit.detail


async def test_a_cloned_key_is_quarantined_and_says_whose_it_is(tmp_path: Path) -> None:
    devices = [SimulatedDevice(f"chip-{number}", make_key=seeded_keys("golden image")) for number in range(2)]
    async with hall(tmp_path, ports_of(devices), orders=[order_of()]) as place:
        await place.work(lambda it: {view.state for view in it.line.ports} == {PortState.DONE, PortState.FAULT})
        (unit,) = place.units.open.values()
        assert unit.state is State.QUARANTINE
        assert "the device's key was seen before, with unit O-1/SN-" in unit.detail
        assert sum(len(device.received) for device in devices) == 1


async def test_a_repeated_serial_number_and_a_swapped_device_are_quarantined(tmp_path: Path) -> None:
    one, two = SimulatedDevice("chip-1", serial="SN-00007"), SimulatedDevice("chip-2", serial="SN-00007")
    one.faults["write"] = DeviceSilent("no answer")
    async with hall(tmp_path, {"p1": one, "p2": two}, orders=[order_of()]) as place:
        await place.work(lambda it: it.line.ports[1].state is PortState.FAULT and it.units.by_serial("SN-00007") is not None
                         and it.units.by_serial("SN-00007").state is State.QUARANTINE)  # type: ignore[union-attr]  # fmt: skip
        assert "belongs to device chip-" in place.units.open["O-1/SN-00007/1"].detail
        assert not two.received


async def test_a_serial_number_that_is_made_is_never_made_again(tmp_path: Path) -> None:
    one, two = SimulatedDevice("chip-1", serial="SN-00007"), SimulatedDevice("chip-2", serial="SN-00007")
    async with hall(tmp_path, {"p1": one}, orders=[order_of()]) as place:
        await place.work(Hall.all_done)
        root = place.world.root
    async with hall(tmp_path, {"p1": two}, root=root) as place:
        await place.work(lambda it: it.line.ports[0].state is PortState.FAULT)
        assert "was given to a device already" in place.line.ports[0].sentence
    assert not two.received


async def test_a_device_that_refuses_is_set_aside_and_the_others_go_on(tmp_path: Path) -> None:
    devices = make_devices(4)
    devices[0].faults["write"] = DeviceRefused("no room on the device")
    devices[1].faults["identify"] = DeviceSilent("nothing comes back")
    devices[2].faults["identify"] = DeviceRefused("not a device at all")
    async with hall(tmp_path, ports_of(devices), orders=[order_of()]) as place:
        await place.work(
            lambda it: (
                [view.state for view in it.line.ports] == [PortState.FAULT, PortState.FREE, PortState.FAULT, PortState.DONE]
            )
        )
        (unit,) = place.units.open.values()
        assert (unit.state, unit.detail) == (State.QUARANTINE, "no room on the device")


async def test_scrap_revokes_in_the_same_transaction_and_the_device_may_begin_anew(tmp_path: Path) -> None:
    (device,) = make_devices(1)
    device.faults["lock"] = DeviceRefused("the fuse does not blow")
    async with hall(tmp_path, {"p": device}, orders=[order_of()]) as place:
        await place.work(lambda it: it.line.ports[0].state is PortState.FAULT)
        (unit,) = place.units.open.values()
        size = place.world.journal.head.size
        ended = await place.units.give_up(unit, State.REWORKED, "operator:ada", "repaired")
        assert ended.state is State.REWORKED
        assert place.world.journal.head.size == size + 2
        assert place.world.authority.status.find(int(unit.certificate, 16), 1) is not None
        assert not place.balance()
        assert place.world.journal.head.tallies["order:O-1"] == 1
        root = place.world.root
    device.storage.clear()
    device.faults.clear()
    async with hall(tmp_path, {"p": device}, root=root) as place:
        await place.work(Hall.all_done)
        again = await place.units.latest_of(unit.serial)
        assert again is not None
        assert (again.attempt, again.state) == (2, State.CONFIRMED)
        assert place.world.journal.head.tallies["order:O-1"] == 2
        assert not place.balance()
    assert verify(tmp_path / "journal.db").clean


async def test_a_unit_without_certificate_is_released_and_its_credit_comes_back(tmp_path: Path) -> None:
    (device,) = make_devices(1)
    device.faults["read_csr"] = DeviceRefused("no key generator")
    async with hall(tmp_path, {"p": device}, orders=[order_of(credit=1)]) as place:
        await place.work(lambda it: it.line.ports[0].state is PortState.FAULT)
        (unit,) = place.units.open.values()
        await place.units.give_up(unit, State.SCRAPPED, "operator:ada", "broken")
        assert (await place.units.get(unit.id)).state is State.RELEASED
        device.faults.clear()
        await place.work(Hall.all_done)
        assert not place.balance()

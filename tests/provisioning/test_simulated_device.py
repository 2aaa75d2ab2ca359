"""The simulated device is as nasty as it says: power cuts lose what was not synced, and only that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from gateway.errors import DeviceFault, DeviceRefused, DeviceSilent
from provisioning.device import Address, Delivery, Lock
from tests.support.simulated_device import Kept, PowerCut, SimulatedDevice, SimulatedDevices, SimulatedDriver, make_devices

DELIVERY = Delivery(b"certificate" * 9, (b"issuer", b"root"), "SN-1", b"ticket")
#: Storage operations of a whole life: a key (3 + sync), four files (4 writes, sync, 4 renames, sync), a lock.
LIFE = 4 + 10 + 4


async def live(device: SimulatedDevice, *, syncs: bool = True) -> None:
    """Everything a line does, as often as the power goes."""
    driver = SimulatedDriver(device, syncs=syncs)

    async def repeated(action: Callable[[], Awaitable[None]]) -> None:
        for _ in range(3):
            try:
                return await action()
            except DeviceSilent:
                device.power_on()
        raise AssertionError("power fails once only")

    await repeated(lambda: driver.generate_key("p-256"))
    await repeated(lambda: driver.write(DELIVERY))

    async def lock() -> None:  # never blindly: a cut may have let it happen
        if await driver.lock_state() is Lock.OPEN:
            await driver.lock()

    await repeated(lock)


@pytest.mark.parametrize("kept", Kept)
@pytest.mark.parametrize("operation", range(LIFE + 1))
async def test_a_cut_at_any_operation_leaves_each_file_old_or_new(operation: int, kept: Kept) -> None:
    device = SimulatedDevice("c0", cut_after=operation, kept=kept)
    driver = SimulatedDriver(device)
    for action in (lambda: driver.generate_key("p-256"), lambda: driver.write(DELIVERY), driver.lock):
        try:
            await action()
        except PowerCut:
            break
    device.power_on()
    assert device.certificate in (b"", DELIVERY.certificate)
    assert device.read("chain") in (b"", b"issuerroot")
    assert device.read("locked") in (b"", b"1")
    assert (device.cut_after is None) == (operation < LIFE)
    if operation >= LIFE:
        assert device.locked
    assert device.keys_made <= 1


async def test_a_key_that_was_confirmed_survives_and_is_kept() -> None:
    device = SimulatedDevice("c0")
    driver = SimulatedDriver(device)
    await driver.generate_key("p-256")
    before = (await driver.read_csr("CN=a")).der
    device.power_off()
    with pytest.raises(DeviceSilent):
        await driver.read_csr("CN=a")
    device.power_on()
    await driver.generate_key("p-256")
    spki = [x509.load_der_x509_csr(der).public_key() for der in (before, (await driver.read_csr("CN=b")).der)]
    assert spki[0] == spki[1]
    assert device.keys_made == 1


@pytest.mark.parametrize("kept", [Kept.NOTHING, Kept.PART])
async def test_a_driver_that_does_not_sync_loses_what_it_confirmed(kept: Kept) -> None:
    device = SimulatedDevice("c0", kept=kept)
    driver = SimulatedDriver(device, syncs=False)
    await driver.write(DELIVERY)
    assert await driver.read_back() == DELIVERY.certificate, "the page cache looks right"
    await driver.reset()
    assert await driver.read_back() != DELIVERY.certificate


async def test_a_careful_driver_reads_the_same_after_a_reset() -> None:
    driver = SimulatedDriver(SimulatedDevice("c0"))
    await driver.write(DELIVERY)
    await driver.reset()
    assert await driver.read_back() == DELIVERY.certificate
    assert (await driver.identify()).serial == "SN-1"


async def test_repeating_a_write_touches_nothing() -> None:
    device = SimulatedDevice("c0")
    driver = SimulatedDriver(device)
    await driver.write(DELIVERY)
    operations = device.operations
    await driver.write(DELIVERY)
    assert device.operations == operations
    assert device.received == [DELIVERY.certificate]


async def test_a_locked_device_takes_nothing_but_what_it_has() -> None:
    driver = SimulatedDriver(SimulatedDevice("c0"))
    await driver.write(DELIVERY)
    await driver.lock()
    await driver.write(DELIVERY)
    with pytest.raises(DeviceRefused):
        await driver.write(Delivery(b"other", (), "SN-1"))
    with pytest.raises(DeviceRefused):
        await driver.lock()


async def test_its_signature_fits_its_request() -> None:
    driver = SimulatedDriver(SimulatedDevice("c0"))
    await driver.generate_key("p-256")
    request = x509.load_der_x509_csr((await driver.read_csr("CN=a,2.5.4.5=SN-1")).der)
    assert request.is_signature_valid
    key = request.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    key.verify(await driver.prove(b"nonce"), b"nonce", ec.ECDSA(SHA256()))


async def test_a_device_in_a_directory_survives_its_process(tmp_path: Path) -> None:
    (device,) = make_devices(1, directory=tmp_path)
    driver = SimulatedDriver(device)
    await driver.generate_key("p-256")
    await driver.write(DELIVERY)
    device.write_file("chain.new", b"unsynced")
    (again,) = make_devices(1, directory=tmp_path)
    assert again.storage == device.storage
    assert again.received == [DELIVERY.certificate]
    assert again.key is not None
    assert again.read("chain.new") == b""


async def test_keys_and_chips_follow_from_the_seed() -> None:
    first, again, other = make_devices(3), make_devices(3), make_devices(3, seed=1)
    assert [d.chip for d in first] == [d.chip for d in again]
    assert len({d.chip for d in first + other}) == 6
    for device in first + again + other:
        await SimulatedDriver(device).generate_key("p-256")
    assert [d.read("key") for d in first] == [d.read("key") for d in again]
    assert len({d.read("key") for d in first + other}) == 6


async def test_opening_a_port_gives_the_device_power_and_is_exclusive() -> None:
    device = SimulatedDevice("c0", cut_after=0)
    module, address = SimulatedDevices({"1": device}), Address.parse("simulated:1")
    async with module.open_device(address, {}) as driver:
        with pytest.raises(PowerCut):
            await driver.generate_key("p-256")
    async with module.open_device(address, {}) as driver:
        await driver.generate_key("p-256")
        with pytest.raises(AssertionError):
            await module.open_device(address, {}).__aenter__()


async def test_a_fault_is_raised_where_it_was_asked_for() -> None:
    device = SimulatedDevice("c0")
    device.faults["write"] = DeviceRefused("flash is worn out")
    driver = SimulatedDriver(device)
    assert (await driver.identify()).chip == "c0"
    with pytest.raises(DeviceFault, match="worn out"):
        await driver.write(DELIVERY)


async def test_whatever_one_cut_does_a_repeated_life_ends_complete() -> None:
    for operation in range(LIFE + 1):
        device = SimulatedDevice("c0", cut_after=operation, kept=list(Kept)[operation % 3])
        await live(device)
        assert device.certificate == DELIVERY.certificate
        assert device.locked
        assert device.keys_made <= 2, "one that was lost before it was confirmed, and its successor"

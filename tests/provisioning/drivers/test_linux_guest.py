"""A real Linux device behind a real console: it boots, asks for a login, restarts, and loses its current at the worst moment.

``EDGE_GATEWAY_GUEST_CUTS=50`` cuts that many guests at times of chance, instead of one.
"""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from gateway.errors import DeviceFault, DeviceRefused
from provisioning.device import Device, Lock, Setting
from provisioning.drivers.linux import LinuxDriver, open_device
from tests.support.device_ca import deliver, proves
from tests.support.guest import Guest, powered

CHALLENGE = bytes(range(32))
CUTS = int(os.environ.get("EDGE_GATEWAY_GUEST_CUTS", "1"))


async def written(driver: LinuxDriver) -> bytes:
    """Key and certificate; what the device reported as written."""
    await driver.generate_key("p-256")
    delivery = deliver((await driver.read_csr("CN=plc,O=Acme")).der)
    await driver.write(delivery)
    return delivery.certificate


async def shown(driver: LinuxDriver, certificate: bytes) -> bool:
    """Whether the device shows this certificate and its key."""
    if await driver.read_back() != certificate:
        return False
    return proves(certificate, CHALLENGE, await driver.prove(CHALLENGE))


async def test_a_guest_is_provisioned_and_its_certificate_read_after_a_restart(tmp_path: Path) -> None:
    async with powered(Guest(tmp_path, "6f1d2c3b-0000-4000-8000-00000000abcd")) as guest:
        async with open_device(guest.address, guest.settings) as driver:
            device = await driver.identify()
            assert device.chip == "6f1d2c3b-0000-4000-8000-00000000abcd"
            assert device.facts["kernel"].startswith("Linux 6.")
            certificate = await written(driver)
            await driver.reset()
            assert await shown(driver, certificate)
            assert await driver.lock_state() is Lock.ABSENT
        async with open_device(guest.address, guest.settings) as driver:  # it was left logged out
            assert isinstance(await driver.identify(), Device)
        (guest.folder / "password").write_text("wrong")
        with pytest.raises(DeviceRefused, match="does not accept"):
            async with open_device(guest.address, guest.settings):
                pass
        await guest.cut()
        with guest.files() as files:
            assert {path.name for path in (files / "idevid").iterdir()} == {"key.pem", "certificate.pem", "chain.pem"}


async def test_what_was_reported_as_written_survives_a_power_cut_and_nothing_else_does(tmp_path: Path) -> None:
    """The control is the same device without sync: it shows its certificate and signs with its key, and has neither."""

    async def provision_and_cut(name: str, settings: dict[str, Setting]) -> tuple[bool, set[str]]:
        async with powered(Guest(tmp_path / name)) as guest:
            async with open_device(guest.address, guest.settings | settings | {"reset_command": ""}) as driver:
                certificate = await written(driver)
                await driver.reset()
                was_shown = await shown(driver, certificate)
                await guest.cut()
            with guest.files() as files:
                return was_shown, {path.name for path in files.glob("idevid/*.pem")}

    durable, control = await asyncio.gather(
        provision_and_cut("synced", {}), provision_and_cut("not synced", {"sync_command": "true"})
    )
    assert durable == (True, {"key.pem", "certificate.pem", "chain.pem"})
    assert control == (True, set())


@pytest.mark.parametrize("seed", range(CUTS))
async def test_a_cut_at_any_time_leaves_whole_files_or_none(tmp_path: Path, seed: int) -> None:
    done = False
    async with powered(Guest(tmp_path)) as guest:

        async def provision() -> None:
            nonlocal done
            async with open_device(guest.address, guest.settings) as driver:
                began.set()
                await written(driver)
                done = True

        began = asyncio.Event()
        provisioning = asyncio.create_task(provision())
        await began.wait()
        await asyncio.sleep(random.Random(seed).uniform(0, 3))
        await guest.cut()
        await asyncio.gather(provisioning, return_exceptions=True)
        with guest.files() as files:
            key, certificate = files / "idevid/key.pem", files / "idevid/certificate.pem"
            present = (key.exists(), certificate.exists())
            if done:
                assert present == (True, True)
            assert present != (False, True)
            for path in (key, certificate):
                assert not path.exists() or path.read_text().rstrip().endswith("-----")
    assert isinstance(provisioning.exception(), DeviceFault | None)

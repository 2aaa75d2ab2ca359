"""The driver of U-Boot consoles against a real U-Boot in QEMU: flash that survives, return codes that are believed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.errors import ConfigError, DeviceFault, DeviceRefused
from provisioning import uboot_codec as codec
from provisioning.device import Address, Delivery, Lock, Setting
from provisioning.drivers import driver
from provisioning.drivers.uboot import open_device
from provisioning.framing import Answered
from tests.support.device_ca import deliver, proves
from tests.support.uboot import UBootDevice, powered

KEY = ec.generate_private_key(ec.SECP256R1())
PKCS8 = KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
BANK = 0x4000000


def delivery() -> Delivery:
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(KEY, SHA256())
    return deliver(request.public_bytes(Encoding.DER))


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[UBootDevice]:
    async with powered(UBootDevice(tmp_path)) as device:
        yield device


def in_flash(device: UBootDevice, place: str, size: int) -> bytes:
    """What the flash holds at this address, while nobody writes."""
    return device.flash.read_bytes()[int(place, 16) - BANK :][:size]


async def test_key_and_certificate_are_in_the_flash_after_a_reset_and_a_power_cut(device: UBootDevice) -> None:
    what = delivery()
    async with open_device(device.address, device.settings) as driver:
        identity = await driver.identify()
        assert identity.chip == "52:52:52:52:52:52"  # whatever address QEMU gives it
        assert identity.facts["u-boot"].startswith("U-Boot 20")
        assert await driver.read_back() == b""
        with pytest.raises(DeviceRefused, match="has no key"):
            await driver.read_csr("CN=x")
        await driver.load_key(PKCS8)
        request = x509.load_der_x509_csr((await driver.read_csr("CN=x,O=Acme")).der)
        assert request.public_key() == KEY.public_key()
        assert request.subject.rfc4514_string() == "CN=x,O=Acme"
        await driver.write(what)
        await driver.reset()
        assert await driver.read_back() == what.certificate
        assert proves(what.certificate, b"challenge", await driver.prove(b"challenge"))
        with pytest.raises(DeviceRefused, match="makes no p-256 key"):
            await driver.generate_key("p-256")
        with pytest.raises(DeviceRefused, match="no such subject"):
            await driver.read_csr("x")
    await device.cut()
    for place, content in (("4200000", PKCS8), ("4240000", what.certificate), ("4280000", b"".join(what.chain))):
        area = codec.area(content)
        assert in_flash(device, place, len(area)) == area
    await device.power_on()
    async with open_device(device.address, device.settings) as driver:
        assert await driver.read_back() == what.certificate


async def test_what_is_right_is_left_and_half_an_area_is_written_again(device: UBootDevice) -> None:
    what = delivery()
    async with open_device(device.address, device.settings) as driver:
        await driver.load_key(PKCS8)
        await driver.write(what)
        console = driver._port.console
        commands: list[str] = []
        run = console.run

        async def listen(command: str, what: str, here: str | None = None, **options: float) -> Answered:
            commands.append(command)
            return await run(command, what, here, **options)  # type: ignore[arg-type]

        console.run = listen  # type: ignore[method-assign,assignment]
        await driver.load_key(PKCS8)
        await driver.write(what)
        assert not [command for command in commands if command.startswith(("erase", "cp.b", "mw"))]
        # a power cut while it writes leaves this
        for command in ("protect off 4240000 427ffff", "mw.b 40200000 0 40", "cp.b 40200000 4240100 40"):
            await console.check(command, "try")
        assert await driver.read_back() == b""
        await driver.write(what)
        assert await driver.read_back() == what.certificate


async def test_a_key_is_wiped_from_memory(device: UBootDevice) -> None:
    async with open_device(device.address, device.settings) as driver:
        await driver.load_key(PKCS8)
        shown = await driver._port.console.check(f"md.b 40200000 {len(PKCS8) + codec.HEADER:x}", "look")
        assert codec.dumped(shown) == bytes(len(PKCS8) + codec.HEADER)


async def test_areas_that_share_a_sector_are_found_out(device: UBootDevice) -> None:
    """Every single write and comparison succeeds, and yet the first area is gone."""
    places = {"key": "", "certificate": "4240000", "chain": "4260000", "serial": ""}
    async with open_device(device.address, device.settings | places | {"area": 131072}) as driver:
        with pytest.raises(DeviceRefused, match="nothing whole lies at 4260000"):
            await driver.write(delivery())


async def test_a_failure_that_only_the_return_code_tells_is_a_refusal(device: UBootDevice) -> None:
    async with open_device(device.address, device.settings | {"lock": True}) as driver:
        assert await driver.lock_state() is Lock.OPEN
        with pytest.raises(DeviceRefused, match="no serial number to lock with"):
            await driver.lock()
        await driver.load_key(PKCS8)
        await driver.write(delivery())
        with pytest.raises(DeviceRefused, match="save the serial number"):
            await driver.lock()
        assert (await driver.identify()).serial == "PLC-0001"  # in memory
        assert await driver.lock_state() is Lock.OPEN  # and nowhere else
        assert (await driver.identify()).serial == ""


async def test_a_number_that_is_set_cannot_be_changed(device: UBootDevice) -> None:
    """U-Boot itself refuses; the driver believes it."""
    async with open_device(device.address, device.settings | {"lock": True}) as driver:
        await driver.load_key(PKCS8)
        await driver.write(delivery())
        await driver._port.console.check("setenv serial# OTHER", "try")
        with pytest.raises(DeviceRefused, match=r"set the serial number: .*Can't overwrite"):
            await driver.lock()


async def test_sectors_that_stay_protected_are_a_refusal(device: UBootDevice) -> None:
    async with open_device(
        device.address, device.settings | {"certificate": "4000000", "chain": "", "serial": "", "protect": False}
    ) as driver:
        with pytest.raises(DeviceRefused, match="the certificate"):
            await driver.write(delivery())
        assert await driver.read_back() == b""


async def test_what_does_not_fit_is_refused_before_anything_is_erased(device: UBootDevice) -> None:
    async with open_device(device.address, device.settings | {"area": 512, "chain": "4280000"}) as driver:
        with pytest.raises(DeviceRefused, match="does not fit into 512 octets"):
            await driver.write(delivery())
        with pytest.raises(DeviceFault, match="no private key"):
            await driver.load_key(b"none")


def test_it_is_found_by_its_name() -> None:
    assert driver("uboot").open_device is open_device


GOOD: dict[str, Setting] = {"ram": "40200000", "certificate": "4220000"}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        GOOD | {"ram": "0x40200000"},
        GOOD | {"key": "4220010"},
        GOOD | {"write": "mw.w"},
        GOOD | {"lock": True},
        GOOD | {"chip_pattern": "("},
        GOOD | {"chip_pattern": "none"},
        GOOD | {"certficate": "1"},
    ],
    ids=["nothing", "0x", "overlap", "width", "lock without serial", "no pattern", "no group", "misspelt"],
)
async def test_settings_that_say_nothing_sensible_are_refused(settings: dict[str, Setting]) -> None:
    with pytest.raises(ConfigError):
        async with open_device(Address.parse("exec:?argv=sh"), settings):
            pass

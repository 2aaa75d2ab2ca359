"""The driver of Linux consoles against busybox and openssl: a key that stays, files that are whole, faults that are said."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gateway.errors import ConfigError, DeviceFault, DeviceRefused, DeviceSilent, PortLost
from provisioning.device import Address, Driver, Lock, Setting
from provisioning.drivers import driver
from provisioning.drivers.linux import open_device
from tests.support.console_device import ConsoleDevice, console_device, install_busybox
from tests.support.device_ca import deliver, proves
from tests.support.dropbear import dropbear
from tests.support.uboot import UBootDevice, powered

SUBJECT = "serialNumber=PLC-0001,CN=plc\\, left/right+OU=Line 7,O=Acmé,C=DE"
CHALLENGE = bytes(range(32))


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[ConsoleDevice]:
    async with console_device(tmp_path) as device:
        yield device


async def provision(driver: Driver, key_type: str = "p-256") -> bytes:
    """The whole way; the certificate."""
    await driver.generate_key(key_type)
    csr = await driver.read_csr(SUBJECT)
    delivery = deliver(csr.der)
    await driver.write(delivery)
    await driver.reset()
    assert await driver.read_back() == delivery.certificate
    assert proves(delivery.certificate, CHALLENGE, await driver.prove(CHALLENGE))
    return delivery.certificate


@pytest.mark.parametrize("key_type", ["p-256", "p-384", "p-521", "brainpoolp256r1", "rsa-2048", "ed25519"])
async def test_a_device_is_provisioned(device: ConsoleDevice, key_type: str) -> None:
    async with open_device(device.address, device.settings) as driver:
        assert (await driver.identify()).chip == "CHIP-0001"
        assert await driver.read_back() == b""
        await provision(driver, key_type)
        assert await driver.lock_state() is Lock.ABSENT
    folder = device.folder / "identity"
    assert (folder / "key.pem").stat().st_mode & 0o777 == 0o600
    assert (folder / "certificate.pem").stat().st_mode & 0o777 == 0o644
    subprocess.run(
        ["openssl", "verify", "-CAfile", folder / "chain.pem", folder / "certificate.pem"], check=True, capture_output=True
    )
    assert sorted(path.name for path in folder.iterdir()) == ["certificate.pem", "chain.pem", "key.pem"]


def test_it_is_found_by_its_name() -> None:
    assert driver("linux").open_device is open_device


async def test_the_subject_is_what_was_asked_for(device: ConsoleDevice) -> None:
    async with open_device(device.address, device.settings) as driver:
        await driver.generate_key("p-256")
        subject = x509.load_der_x509_csr((await driver.read_csr(SUBJECT)).der).subject
        assert {attribute.value for attribute in subject} == {"PLC-0001", "plc, left/right", "Line 7", "Acmé", "DE"}
        assert next(attribute.value for attribute in subject) == "DE"
        assert not list(x509.load_der_x509_csr((await driver.read_csr("")).der).subject)
        with pytest.raises(DeviceRefused, match="no such subject"):
            await driver.read_csr("CN=a\nb")


async def test_a_key_that_is_there_is_kept(device: ConsoleDevice) -> None:
    async with open_device(device.address, device.settings) as driver:
        await driver.generate_key("p-256")
        first = (device.folder / "identity/key.pem").read_bytes()
        await driver.generate_key("rsa-2048")
    assert (device.folder / "identity/key.pem").read_bytes() == first


async def test_a_key_of_the_pool_is_loaded_once(device: ConsoleDevice) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    der = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    async with open_device(device.address, device.settings) as driver:
        await driver.load_key(der)
        path = device.folder / "identity/key.pem"
        first = path.stat()
        assert first.st_mode & 0o777 == 0o600
        await driver.load_key(der)
        assert path.stat().st_ino == first.st_ino
        request = x509.load_der_x509_csr((await driver.read_csr("CN=x")).der)
        assert request.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == spki
        with pytest.raises(DeviceRefused, match="no PKCS #8 key"):
            await driver.load_key(b"secret")


async def test_a_file_that_is_right_is_left_and_a_wrong_one_is_replaced(device: ConsoleDevice) -> None:
    async with open_device(device.address, device.settings | {"serial": "serial", "ticket": "ticket"}) as driver:
        await driver.generate_key("p-256")
        delivery = deliver((await driver.read_csr("CN=x")).der, ticket=b"\x00binary\xff" * 300)
        await driver.write(delivery)
        folder = device.folder / "identity"
        before = {path.name: path.stat().st_ino for path in folder.iterdir()}
        (folder / "chain.pem").write_text("half a cha")
        await driver.write(delivery)
        after = {path.name: path.stat().st_ino for path in folder.iterdir()}
        assert (folder / "ticket").read_bytes() == delivery.ticket
        assert (folder / "serial").read_text() == "PLC-0001\n"
    assert {name for name in before if before[name] != after[name]} == {"chain.pem"}


async def test_a_certificate_file_that_is_none_is_not_taken_for_one(device: ConsoleDevice) -> None:
    (device.folder / "identity/certificate.pem").write_text("-----BEGIN CERTIFICATE-----\nhalf")
    async with open_device(device.address, device.settings) as driver:
        assert (await driver.read_back()).startswith(b"-----BEGIN")


async def test_a_gateway_that_was_stopped_anywhere_goes_on(device: ConsoleDevice) -> None:
    """Cancelled after every so many turns of the loop; the last one comes through, with the first one's key."""
    keys: set[bytes] = set()
    for patience_s in (0.05, 0.1, 0.2, 0.3, 0.4, 0.6):
        try:
            async with asyncio.timeout(patience_s), open_device(device.address, device.settings) as driver:
                await provision(driver)
        except TimeoutError:
            pass
        if (path := device.folder / "identity/key.pem").exists():
            keys.add(path.read_bytes())
    async with open_device(device.address, device.settings) as driver:
        await provision(driver)
    assert len(keys | {(device.folder / "identity/key.pem").read_bytes()}) == 1


async def test_a_device_that_does_not_restart_is_refused(device: ConsoleDevice) -> None:
    async with open_device(device.address, device.settings | {"reset_command": "true", "boot_s": 3}) as driver:
        with pytest.raises(DeviceRefused, match="did not restart"):
            await driver.reset()
    async with open_device(device.address, device.settings | {"reset_command": "exit 3"}) as driver:
        with pytest.raises(DeviceRefused, match="does not restart: status 3"):
            await driver.reset()


async def test_a_device_that_does_not_come_back_is_silent(device: ConsoleDevice) -> None:
    settings = device.settings | {"reset_command": "stty -echo; sleep 1000", "boot_s": 2.5, "boot_quiet_s": 5}
    async with open_device(device.address, settings) as driver:
        with pytest.raises(DeviceSilent, match="did not come back"):
            await driver.reset()


async def test_what_is_locked_is_asked_first(device: ConsoleDevice) -> None:
    fuse = device.folder / "fuse"
    settings = device.settings | {"lock_command": f"touch {fuse}", "lock_state_command": f"test -e {fuse}"}
    async with open_device(device.address, settings) as driver:
        assert await driver.lock_state() is Lock.OPEN
        await driver.lock()
        assert await driver.lock_state() is Lock.LOCKED
    async with open_device(device.address, settings | {"lock_state_command": "exit 2", "lock_command": "exit 9"}) as driver:
        with pytest.raises(DeviceRefused, match="does not know whether it is locked"):
            await driver.lock_state()
        with pytest.raises(DeviceRefused, match="status 9"):
            await driver.lock()
    async with open_device(device.address, device.settings) as driver:
        with pytest.raises(DeviceRefused, match="nothing to lock"):
            await driver.lock()


@pytest.fixture
def small_disk(device: ConsoleDevice) -> Iterator[Path]:
    folder = device.folder / "identity"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


async def test_what_does_not_fit_is_never_reported_as_written(device: ConsoleDevice, small_disk: Path) -> None:
    async with open_device(device.address, device.settings) as driver:
        await driver.generate_key("p-256")
        delivery = deliver((await driver.read_csr("CN=x")).der, ticket=b"t" * 20_000)
        await driver.write(delivery)
        assert await driver.read_back() == delivery.certificate
    async with open_device(device.address, device.settings | {"ticket": "ticket", "certificate": "other.pem"}) as driver:
        with pytest.raises(DeviceRefused, match="No space left on device"):
            await driver.write(delivery)
        assert await driver.read_back() == b""


async def test_a_place_that_cannot_be_written_is_refused(device: ConsoleDevice) -> None:
    async with open_device(device.address, device.settings | {"directory": "/proc/idevid"}) as driver:
        with pytest.raises(DeviceRefused, match="make the key"):
            await driver.generate_key("p-256")


async def test_openssl_does_what_busybox_lacks(tmp_path: Path) -> None:
    tools = install_busybox(tmp_path)
    for tool in ("base64", "sha256sum"):
        (tools / tool).unlink()
    async with console_device(tmp_path, tools=tools) as device, open_device(device.address, device.settings) as driver:
        await provision(driver)


async def test_a_device_without_openssl_is_refused(tmp_path: Path) -> None:
    tools = install_busybox(tmp_path)
    (tools / "openssl").unlink()
    async with console_device(tmp_path, tools=tools) as device, open_device(device.address, device.settings) as driver:
        with pytest.raises(DeviceRefused, match="no openssl"):
            await driver.generate_key("p-256")


async def test_a_device_is_provisioned_over_ssh(tmp_path: Path) -> None:
    settings: dict[str, Setting] = {
        "directory": str(tmp_path / "identity"),
        "scratch": str(tmp_path),
        "chip_command": "echo SSH-1",
        "quiet_kernel": False,
    }
    async with dropbear(tmp_path, "ssh") as device:
        address = Address.parse(device.address("&host_key=first"))
        async with open_device(address, settings) as driver:
            assert (await driver.identify()).chip == "SSH-1"
            await driver.generate_key("p-256")
            delivery = deliver((await driver.read_csr("CN=x")).der)
            await driver.write(delivery)
        async with open_device(address, settings) as driver:  # another connection, another shell
            assert await driver.read_back() == delivery.certificate
            assert proves(delivery.certificate, CHALLENGE, await driver.prove(CHALLENGE))


async def test_a_device_that_stands_in_its_boot_loader_is_refused(tmp_path: Path) -> None:
    """U-Boot answers in frames as well, and is still the wrong device."""
    async with powered(UBootDevice(tmp_path)) as device:
        with pytest.raises(DeviceRefused, match=r"set the shell up: the device says .*Unknown command"):
            async with open_device(device.address, {}):
                pass


async def test_a_line_of_9600_baud_is_enough(device: ConsoleDevice) -> None:
    async with open_device(replace(device.address, options=(("pace", "960"),)), device.settings) as driver:
        await provision(driver)


async def test_a_small_terminal_is_enough(device: ConsoleDevice) -> None:
    async with open_device(device.address, device.settings | {"terminal_buffer": 256}) as driver:
        await provision(driver)


async def test_an_unplugged_cable_is_a_lost_port(device: ConsoleDevice) -> None:
    async with open_device(device.address, device.settings) as driver:
        provisioning = asyncio.create_task(driver.generate_key("rsa-4096"))
        await asyncio.sleep(0)
        await device.unplug()
        with pytest.raises(PortLost):
            await provisioning


async def test_a_fault_of_one_port_stays_there(tmp_path: Path) -> None:
    """Eight at once: one is unplugged, one talks for ever; the six others go through."""

    async def go(number: int) -> bytes | DeviceFault:
        async with console_device(tmp_path / str(number), f"CHIP-{number}", tools) as device:
            settings: dict[str, Setting] = {**device.settings}
            if number == 1:
                settings["boot_id_command"] = "yes"
            try:
                async with open_device(device.address, settings) as driver:
                    if number == 0:
                        await device.unplug()
                    assert (await driver.identify()).chip == f"CHIP-{number}"
                    return await provision(driver)
            except DeviceFault as fault:
                return fault

    tools = install_busybox(tmp_path)
    results = await asyncio.gather(*map(go, range(8)))
    assert isinstance(results[0], PortLost)
    assert isinstance(results[1], DeviceSilent)
    assert len({result for result in results[2:] if isinstance(result, bytes)}) == 6


@pytest.mark.parametrize(
    "settings",
    [
        {"usr": "root"},
        {"directory": "etc"},
        {"directory": "/etc/with space"},
        {"key": "$(reboot)"},
        {"mode": "rw"},
        {"lock_command": "true"},
        {"password": "file:/x"},
        {"user": "root", "password": "secret"},
        {"user": "root", "password": "file:/none"},
        {"terminal_buffer": 1},
        {"boot_s": "long"},
    ],
    ids=str,
)
async def test_settings_that_say_nothing_sensible_are_refused(settings: dict[str, Setting]) -> None:
    with pytest.raises(ConfigError) as refused:
        async with open_device(Address.parse("exec:?argv=sh"), settings):
            pass
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("files", "chip"),
    [
        ({"serial-number": "100000003d1d1c0c\0"}, "100000003d1d1c0c"),
        ({"product_uuid": "00000000-0000-0000-0000-000000000000", "board_serial": "B-77"}, "B-77"),
        ({"board_serial": "To be filled by O.E.M.", "machine-id": "0f3c"}, "0f3c"),
        ({"board_serial": "Default string"}, ""),
    ],
    ids=["device tree", "no uuid", "no board", "none"],
)
async def test_a_chip_is_what_its_maker_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], chip: str
) -> None:
    import provisioning.drivers.linux as module

    places = tuple(str(tmp_path / name) for name in ("serial-number", "product_uuid", "board_serial", "machine-id"))
    monkeypatch.setattr(module, "_CHIP_FILES", places)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    async with open_device(Address.parse("exec:?argv=sh"), {"quiet_kernel": False}) as driver:
        if chip:
            assert (await driver.identify()).chip == chip
        else:
            with pytest.raises(DeviceRefused, match="no number of its own"):
                await driver.identify()


def test_what_the_tests_need_is_installed() -> None:
    assert all(shutil.which(tool) for tool in ("socat", "busybox", "openssl"))

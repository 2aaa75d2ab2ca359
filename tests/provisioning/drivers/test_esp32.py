"""ESP32: the maker's unmodified esptool against a chip in download mode; four stations at once never mix identities."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_der_private_key
from cryptography.x509 import load_der_x509_csr

from gateway.errors import ConfigError, DeviceFault, DeviceRefused, DeviceSilent, PortLost, WrongDevice
from gateway.pki.algorithms import PublicKey, default_algorithm, signature_is_valid
from provisioning import esp_secure_cert
from provisioning.device import Address, Delivery, Lock, Setting
from provisioning.drivers import esp32
from provisioning.drivers.esp32 import Esp32Driver
from tests.support.board_credentials import delivery, private_key
from tests.support.esp_rom import Chip, PowerCut, chip_on_tcp
from tests.support.esp_tools import tool, vendor_parse

OFFSET, SIZE = 0xD000, 0x2000
MAC = bytes.fromhex("30aea4010203")


def public_of(key: bytes) -> PublicKey:
    return load_der_private_key(key, None, unsafe_skip_rsa_key_validation=True).public_key()  # type: ignore[return-value]


@asynccontextmanager
async def driver_for(chip: Chip, **settings: Setting) -> AsyncIterator[Esp32Driver]:
    table: dict[str, Setting] = {"offset": OFFSET, "esptool": str(tool("esptool")), "chip": "esp32c3"}
    table |= settings
    async with chip_on_tcp(chip) as port, esp32.open_device(Address.parse(f"tcp://127.0.0.1:{port}"), table) as driver:
        yield driver


def in_flash(chip: Chip) -> esp_secure_cert.Contents:
    return esp_secure_cert.read(bytes(chip.flash[OFFSET : OFFSET + SIZE]))


async def provision(driver: Esp32Driver, key: bytes, made: Delivery) -> None:
    await driver.identify()
    await driver.load_key(key)
    await driver.write(made)
    await driver.reset()
    assert await driver.read_back() == made.certificate


@pytest.mark.parametrize(("stub", "encoding", "key_type"), [(True, "pem", "p-256"), (False, "der", "rsa-2048")])
async def test_a_chip_gets_key_and_certificates(tmp_path: Path, stub: bool, encoding: str, key_type: str) -> None:
    chip, key = Chip(MAC), private_key(key_type)
    made = delivery(public_of(key))
    async with driver_for(chip, stub=stub, encoding=encoding) as driver:
        device = await driver.identify()
        assert (device.chip, device.model) == ("30:ae:a4:01:02:03", "ESP32-C3 (QFN32) (revision v0.0)")
        assert await driver.read_back() == b""
        await driver.load_key(key)
        csr = load_der_x509_csr((await driver.read_csr("CN=unit,serialNumber=1")).der)
        assert csr.is_signature_valid
        assert csr.public_key() == public_of(key)
        await driver.write(made)
        await driver.reset()
        assert await driver.read_back() == made.certificate
        signature = await driver.prove(b"challenge")
        assert signature_is_valid(public_of(key), default_algorithm(public_of(key)), signature, b"challenge")
        assert await driver.lock_state() is Lock.ABSENT
    parsed = vendor_parse(tmp_path, bytes(chip.flash[OFFSET : OFFSET + SIZE]))
    assert len([name for name in parsed if name.startswith("cacert")]) == len(made.chain)
    assert bytes(chip.flash[:OFFSET]) == b"\xff" * OFFSET
    assert bytes(chip.flash[OFFSET + SIZE :]).strip(b"\xff") == b""


async def test_what_is_there_is_kept_when_it_is_told_again() -> None:
    chip, key = Chip(MAC), private_key()
    made = delivery(public_of(key))
    async with driver_for(chip) as driver:
        await provision(driver, key, made)
    written = chip.blocks
    async with driver_for(chip) as driver:  # after a restart of the gateway
        await driver.load_key(key)
        await driver.write(made)
        assert await driver.read_back() == made.certificate
        assert load_der_x509_csr((await driver.read_csr("CN=unit")).der).public_key() == public_of(key)
    assert chip.blocks == written


async def test_another_key_is_loaded_over_the_old_one_and_its_certificate_goes() -> None:
    chip, old, new = Chip(MAC), private_key(), private_key()
    async with driver_for(chip) as driver:
        await provision(driver, old, delivery(public_of(old)))
        await driver.load_key(new)
        assert await driver.read_back() == b""
    assert esp_secure_cert.same_key(in_flash(chip).key, new)


async def test_a_certificate_for_another_key_is_not_written() -> None:
    chip, key = Chip(MAC), private_key()
    async with driver_for(chip) as driver:
        await driver.load_key(key)
        with pytest.raises(WrongDevice, match="another key"):
            await driver.write(delivery(public_of(private_key())))
    assert in_flash(chip).certificate == b""


@pytest.mark.parametrize("stub", [True, False], ids=["stub", "rom"])
async def test_a_power_cut_in_the_middle_is_seen_and_the_second_attempt_is_right(stub: bool) -> None:
    chip, key = Chip(MAC), private_key()
    made = delivery(public_of(key))
    loaded = 0

    def cut(written: int) -> None:
        if stub and written == loaded:  # one compressed block: what a cut leaves of it is put there by us
            part = esp_secure_cert.build(made.certificate, (), key)[:700]
            chip.flash[OFFSET : OFFSET + SIZE] = part.ljust(SIZE, b"\xff")
        if written == loaded + (0 if stub else 1):
            raise PowerCut

    async with driver_for(chip, stub=stub, call_s=30) as driver:
        await driver.load_key(key)
        loaded = chip.blocks
        chip.before_block = cut
        with pytest.raises(DeviceFault):
            await driver.write(made)
    with pytest.raises(esp_secure_cert.PartitionDamaged):
        in_flash(chip)
    chip.before_block, chip.powered = (lambda written: None), True
    async with driver_for(chip, stub=stub) as driver:
        assert await driver.read_back() == b""
        with pytest.raises(esp_secure_cert.PartitionDamaged):  # the key went with it: that is said, not guessed
            await driver.write(made)
        await provision(driver, key, made)


async def test_an_exchanged_chip_is_noticed_before_it_is_written() -> None:
    chip = Chip(MAC)
    async with driver_for(chip) as driver:
        await driver.identify()
        chip.mac = bytes.fromhex("30aea4ffffff")
        with pytest.raises(WrongDevice, match="30:ae:a4:ff:ff:ff is plugged in, not 30:ae:a4:01:02:03"):
            await driver.reset()


async def test_the_lock_waits_for_the_application_to_encrypt() -> None:
    chip = Chip(MAC)
    async with driver_for(chip, lock="flash-encryption", lock_wait_s=0) as driver:
        assert await driver.lock_state() is Lock.OPEN
        with pytest.raises(DeviceRefused, match="did not encrypt"):
            await driver.lock()
        chip.crypt_count = 1
        assert await driver.lock_state() is Lock.LOCKED
    async with driver_for(chip) as driver:
        with pytest.raises(DeviceRefused, match="locks nothing"):
            await driver.lock()


async def test_a_chip_that_makes_no_key_says_so_and_a_key_it_cannot_hold_is_refused() -> None:
    async with driver_for(Chip(MAC)) as driver:
        with pytest.raises(DeviceRefused, match="from the pool"):
            await driver.generate_key("p-256")
        with pytest.raises(DeviceRefused, match="RSA and elliptic-curve"):
            await driver.load_key(private_key("ed25519"))
        with pytest.raises(DeviceRefused, match="no key"):
            await driver.read_csr("CN=unit")


async def test_nothing_of_a_key_is_left_on_the_gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """esptool is replaced by a script that notes its arguments, its environment and what it found in its directory."""
    script = tmp_path / "esptool"
    script.write_text(
        f'#!/bin/sh\n{{ echo "$@"; env; pwd; ls -la; stat -c %a . ; }} >>{tmp_path}/seen\nexec {tool("esptool")} "$@"\n'
    )
    script.chmod(0o755)
    monkeypatch.setattr("provisioning.esptool._MEMORY", tmp_path)
    chip, key = Chip(MAC), private_key()
    async with driver_for(chip, esptool=str(script)) as driver:
        await provision(driver, key, delivery(public_of(key)))
    seen = (tmp_path / "seen").read_text()
    secret = f"{load_der_private_key(key, None).private_numbers().private_value:x}"  # type: ignore[union-attr]
    assert "PRIVATE" not in seen
    assert secret not in seen.lower().replace(":", "")
    assert seen.count(f"HOME={tmp_path}/edge-esptool-") == seen.count("read-flash") + seen.count("write-flash") + seen.count(
        "read-mac"
    )
    assert set(os.listdir(tmp_path)) == {"esptool", "seen"}
    assert "\n700\n" in seen
    assert "-rw-------" in seen


async def test_esptool_that_is_not_there_is_said_before_anything_is_done() -> None:
    with pytest.raises(ConfigError, match="esptool is not installed as '/opt/none/esptool'"):
        async with driver_for(Chip(MAC), esptool="/opt/none/esptool"):
            pass


async def test_a_port_where_nobody_is_and_a_chip_that_says_nothing_are_told_apart() -> None:
    table: dict[str, Setting] = {"offset": OFFSET, "esptool": str(tool("esptool")), "chip": "esp32c3", "call_s": 60}
    async with esp32.open_device(Address.parse("tcp://127.0.0.1:1"), table) as driver:
        with pytest.raises(PortLost, match=r"cannot use socket://127\.0\.0\.1:1"):
            await driver.identify()


@pytest.mark.parametrize("babble", [b"\xc0garbage\xc0", b"\x00" * 2000, b"A" * 70000], ids=["garbage", "zeros", "endless"])
async def test_a_chip_that_talks_nonsense_is_a_fault_in_bounded_time(babble: bytes) -> None:
    async with driver_for(Chip(MAC, babble=babble), call_s=4) as driver:
        with pytest.raises((DeviceSilent, DeviceRefused)):
            await driver.identify()


def script(tmp_path: Path, body: str) -> str:
    path = tmp_path / "esptool"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


HOSTILE = {
    "endless": ("exec yes", "no end"),
    "silent": ("exit 3", "said nothing"),
    "no chip": ("echo hello", "which chip"),
    "unverified": ("echo 'MAC:                30:ae:a4:01:02:03'", "read 0 of 8192|partition.bin"),
    "slow": ("sleep 600", "not done within 1 seconds"),
}


@pytest.mark.parametrize(("body", "reason"), HOSTILE.values(), ids=HOSTILE)
async def test_whatever_esptool_does_is_a_fault_with_a_sentence(tmp_path: Path, body: str, reason: str) -> None:
    async with driver_for(Chip(MAC), esptool=script(tmp_path, body), call_s=1) as driver:
        with pytest.raises(DeviceFault, match=reason):
            await driver.identify()


async def test_a_write_that_the_chip_did_not_verify_is_no_write(tmp_path: Path) -> None:
    body = f'case "$*" in *write-flash*) echo "MAC:                30:ae:a4:01:02:03";; *) exec {tool("esptool")} "$@";; esac'
    async with driver_for(Chip(MAC), esptool=script(tmp_path, body)) as driver:
        with pytest.raises(DeviceFault, match="without having the chip verify"):
            await driver.load_key(private_key())


BAD_SETTINGS: list[tuple[str, Mapping[str, Setting], str]] = [
    ("tcp://127.0.0.1:1", {}, "needs offset"),
    ("tcp://127.0.0.1:1", {"offset": 0xD001}, "multiples of 4096"),
    ("tcp://127.0.0.1:1", {"offset": "0xD000"}, "offset must be a whole number"),
    ("tcp://127.0.0.1:1", {"offset": OFFSET, "encoding": "xml"}, "encoding = 'xml'"),
    ("tcp://127.0.0.1:1", {"offset": OFFSET, "lock": "efuse"}, "lock = 'efuse'"),
    ("tcp://127.0.0.1:1", {"offset": OFFSET, "speed": 1}, "unknown key speed"),
    ("tcp://127.0.0.1:1", {"offset": OFFSET, "stub": "no"}, "stub must be true or false"),
    ("ssh://root@device", {"offset": OFFSET}, "takes serial:"),
    ("serial:/dev/serial/by-path/x?baud=fast", {"offset": OFFSET}, "baud='fast'"),
    ("serial:/dev/serial/by-path/x?parity=N", {"offset": OFFSET}, "knows no parity"),
]


@pytest.mark.parametrize(("address", "settings", "reason"), BAD_SETTINGS, ids=[case[2] for case in BAD_SETTINGS])
async def test_a_recipe_that_is_wrong_is_refused(address: str, settings: Mapping[str, Setting], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        async with esp32.open_device(Address.parse(address), {"esptool": str(tool("esptool")), **settings}):
            pass


STATIONS, DEVICES = 4, 12


async def test_four_stations_at_once_never_mix_identities() -> None:
    chips = [Chip(MAC[:5] + bytes((number,))) for number in range(STATIONS)]
    keys = [private_key() for _ in chips]
    units = [delivery(public_of(key), f"SN-{number}") for number, key in enumerate(keys)]
    async with AsyncExitStack() as stack:
        drivers = [await stack.enter_async_context(driver_for(chip)) for chip in chips]
        await asyncio.gather(*(provision(*unit) for unit in zip(drivers, keys, units, strict=True)))
    for chip, key, unit in zip(chips, keys, units, strict=True):
        contents = in_flash(chip)
        assert (contents.certificate, contents.chain) == (unit.certificate, unit.chain)
        assert esp_secure_cert.same_key(contents.key, key)


async def test_control_the_makers_tool_in_one_directory_mixes_them(tmp_path: Path) -> None:
    """Why every call has a directory of its own: the maker's tool writes fixed names into the working directory."""
    units = []
    for number in range(DEVICES):
        key = private_key()
        made = delivery(public_of(key), f"SN-{number}")
        for name, content in (("device", made.certificate), ("ca", made.chain[0]), ("key", key)):
            (tmp_path / f"{name}-{number}.der").write_bytes(content)
        units.append(made)
    turn = asyncio.Semaphore(STATIONS)

    async def station(number: int) -> bytes:
        """What a station would flash: the fixed name, read when the tool said that it was done."""
        files = [f"{name}-{number}.der" for name in ("device", "ca", "key")]
        arguments = ["--target_chip", "esp32c3", "--skip_flash", "--secure_cert_type", "cust_flash_tlv"]
        arguments += ["--device-cert", files[0], "--ca-cert", files[1], "--private-key", files[2]]
        async with turn:
            process = await asyncio.create_subprocess_exec(
                str(tool("configure_esp_secure_cert.py")), *arguments, cwd=tmp_path, stdout=-3, stderr=-3
            )
            await process.wait()
            try:
                return (tmp_path / "esp_secure_cert_data" / "esp_secure_cert.bin").read_bytes()
            except FileNotFoundError:
                return b""

    images = await asyncio.gather(*map(station, range(DEVICES)))
    wrong = 0
    for image, made in zip(images, units, strict=True):
        try:
            wrong += esp_secure_cert.read(esp_secure_cert.padded(image)).certificate != made.certificate
        except esp_secure_cert.PartitionDamaged:
            wrong += 1
    assert wrong > 0

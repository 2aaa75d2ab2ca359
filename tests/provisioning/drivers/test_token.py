"""A PKCS #11 device token goes through a whole life; its PIN is tried once; its faults stay its own. SoftHSM2 is the token."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.errors import ConfigError, DeviceRefused, DeviceSilent, PortLost, WrongDevice
from gateway.pki.algorithms import default_algorithm, signature_is_valid
from provisioning.device import Address, DriverModule, KeyOrigin, Lock
from provisioning.drivers import driver
from provisioning.drivers import token as token_driver
from provisioning.drivers.token import TokenDriver
from tests.support.station_ca import StationCa
from tests.support.tokens import FaultyToken, Token, build_fault_module, softhsm_store, softhsm_token


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    environment = softhsm_store(tmp_path / "softhsm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


class Station:
    """Opens the driver as the line does, with the transport PIN in a file."""

    def __init__(self, directory: Path, pin: str) -> None:
        self.directory = directory
        self.pin_file = directory / "transport-pin"
        self.pin_file.write_text(pin + "\n")

    @asynccontextmanager
    async def port(self, token: Token, **settings: str | bool) -> AsyncIterator[TokenDriver]:
        address = Address.parse(f"pkcs11:token={token.label.replace(' ', '%20')}?module-path={token.module}")
        table = {"pin": f"file:{self.pin_file}", "pin_ledger": str(self.directory / "pins"), **settings}
        async with token_driver.open_device(address, table) as port:
            yield port


def objects(token: Token) -> list[bytes]:
    """The certificates with the IDevID's id on a token, read by OpenSC."""
    command = ["pkcs11-tool", "--module", str(token.module), "--token-label", token.label, "--read-object", "--type", "cert"]
    command += ["--id", "01", "-o", "/dev/stdout"]
    done = subprocess.run(command, env={**os.environ, **token.environment}, capture_output=True, check=False)
    return [done.stdout] if done.returncode == 0 else []


def certificate_count(token: Token) -> int:
    command = ["pkcs11-tool", "--module", str(token.module), "--token-label", token.label, "--list-objects", "--type", "cert"]
    done = subprocess.run(command, env={**os.environ, **token.environment}, capture_output=True, check=True, text=True)
    return done.stdout.count("Certificate Object")


def spki_of(csr_der: bytes) -> bytes:
    key = x509.load_der_x509_csr(csr_der).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("key_type", ["p-256", "p-384", "rsa-2048"])
async def test_a_token_makes_its_key_and_gets_its_certificate(tmp_path: Path, store: dict[str, str], key_type: str) -> None:
    token, ca = softhsm_token(store, "device 1"), StationCa()
    async with Station(tmp_path, token.pin).port(token) as port:
        device = await port.identify()
        assert (device.chip, device.facts["label"]) == (token.serial, "device 1")
        await port.generate_key(key_type)
        csr = await port.read_csr("CN=device,2.5.4.5=SN-0001")
        delivery = ca.delivery(csr.der)
        assert await port.read_back() == b""
        await port.write(delivery)
        await port.reset()
        assert await port.read_back() == delivery.certificate
        key = x509.load_der_x509_certificate(delivery.certificate).public_key()
        assert signature_is_valid(key, default_algorithm(key), await port.prove(b"challenge"), b"challenge")
        assert await port.lock_state() is Lock.ABSENT
        with pytest.raises(DeviceRefused):
            await port.lock()
    assert objects(token) == [delivery.certificate]


async def test_whatever_is_repeated_changes_nothing(tmp_path: Path, store: dict[str, str]) -> None:
    token, ca = softhsm_token(store, "device 1"), StationCa()
    station = Station(tmp_path, token.pin)
    async with station.port(token, chain=True) as port:
        await port.generate_key("p-256")
        csr = (await port.read_csr("CN=a")).der
        delivery = ca.delivery(csr)
        await port.write(delivery)
        await port.write(delivery)
    async with station.port(token, chain=True) as port:
        await port.generate_key("rsa-2048")
        again = await port.read_csr("CN=a")
        await port.write(delivery)
        assert await port.read_back() == delivery.certificate
    assert spki_of(again.der) == spki_of(csr)
    assert certificate_count(token) == 2, "its own and its issuer's"


async def test_another_certificate_takes_the_place_of_the_first(tmp_path: Path, store: dict[str, str]) -> None:
    token, ca = softhsm_token(store, "device 1"), StationCa()
    async with Station(tmp_path, token.pin).port(token) as port:
        await port.generate_key("p-256")
        csr = (await port.read_csr("CN=a")).der
        await port.write(ca.delivery(csr))
        second = ca.delivery(csr)
        await port.write(second)
        assert await port.read_back() == second.certificate
    assert certificate_count(token) == 1


async def test_two_tokens_side_by_side_keep_to_themselves(tmp_path: Path, store: dict[str, str]) -> None:
    tokens = [softhsm_token(store, f"device {number}") for number in range(2)]
    station = Station(tmp_path, tokens[0].pin)

    async def request(token: Token) -> tuple[str, bytes]:
        async with station.port(token) as port:
            await port.generate_key("p-256")
            return (await port.identify()).chip, (await port.read_csr("CN=a")).der

    answers = await asyncio.gather(*map(request, tokens))
    assert [chip for chip, _ in answers] == [token.serial for token in tokens]
    assert spki_of(answers[0][1]) != spki_of(answers[1][1])


@pytest.fixture(scope="module")
def fault_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_fault_module(tmp_path_factory.mktemp("fault"))


@pytest.fixture
def faulty(tmp_path: Path, store: dict[str, str], fault_module: Path) -> FaultyToken:
    return FaultyToken(fault_module, tmp_path / "faulty", softhsm_token(store, "device 1"))


async def test_a_wrong_pin_is_burned_once_and_never_again(tmp_path: Path, faulty: FaultyToken) -> None:
    station = Station(tmp_path, "0000")
    for _ in range(3):  # the station is restarted, the unit started again
        async with station.port(faulty.token) as port:
            assert (await port.identify()).chip == faulty.token.serial
            with pytest.raises(DeviceRefused, match="refused"):
                await port.generate_key("p-256")
            with pytest.raises(DeviceRefused, match="refused"):
                await port.read_back()
    assert faulty.count("C_Login") == 1
    station.pin_file.write_text(faulty.token.pin)
    async with station.port(faulty.token) as port:
        await port.generate_key("p-256")
    assert faulty.count("C_Login") == 2


async def test_an_unplugged_token_is_a_lost_port_and_goes_on_when_it_is_back(tmp_path: Path, faulty: FaultyToken) -> None:
    station, ca = Station(tmp_path, faulty.token.pin), StationCa()
    async with station.port(faulty.token) as port:
        chip = (await port.identify()).chip
        await port.generate_key("p-256")
        csr = (await port.read_csr("CN=a")).der
        faulty.unplug()
        with pytest.raises(PortLost):
            await port.write(ca.delivery(csr))
        with pytest.raises(PortLost):
            await port.identify()
        faulty.replug()
        assert (await port.identify()).chip == chip
        assert spki_of((await port.read_csr("CN=a")).der) == spki_of(csr)


@pytest.mark.parametrize("cut", ["create-abort", "create-torn"])
async def test_a_cut_in_mid_write_is_mended_by_writing_again(tmp_path: Path, faulty: FaultyToken, cut: str) -> None:
    station, ca = Station(tmp_path, faulty.token.pin), StationCa()
    async with station.port(faulty.token) as port:
        await port.generate_key("p-256")
        delivery = ca.delivery((await port.read_csr("CN=a")).der)
        faulty.order(cut)
        with pytest.raises(PortLost):
            await port.write(delivery)
        faulty.order()
        assert await port.read_back() != delivery.certificate
        await port.write(delivery)
        await port.reset()
        assert await port.read_back() == delivery.certificate
    assert certificate_count(faulty.token) == 1


async def test_a_reader_that_was_empty_is_a_lost_port(tmp_path: Path, faulty: FaultyToken) -> None:
    faulty.unplug()
    async with Station(tmp_path, faulty.token.pin).port(faulty.token) as port:
        with pytest.raises(PortLost, match="not plugged in"):
            await port.identify()


async def test_a_hung_module_costs_its_own_port_only(
    tmp_path: Path, store: dict[str, str], faulty: FaultyToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_driver, "_SIGN_S", 1.0)
    station, other = Station(tmp_path, faulty.token.pin), softhsm_token(store, "device 2")
    async with station.port(faulty.token) as port, station.port(other) as healthy:
        await port.generate_key("p-256")
        await healthy.generate_key("p-256")
        faulty.order("hang")
        with pytest.raises(DeviceSilent):
            await port.read_csr("CN=a")
        assert await healthy.read_csr("CN=a")


async def test_a_token_exchanged_during_its_unit_is_the_wrong_device(tmp_path: Path, store: dict[str, str]) -> None:
    first = softhsm_token(store, "device 1")
    async with Station(tmp_path, first.pin).port(first) as port:
        await port.identify()
        subprocess.run(["softhsm2-util", "--delete-token", "--token", "device 1"], check=True, capture_output=True)
        softhsm_token(store, "device 1")
        with pytest.raises(WrongDevice, match="exchanged"):
            await port.reset()


async def test_a_token_without_a_key_says_so(tmp_path: Path, store: dict[str, str]) -> None:
    token = softhsm_token(store, "device 1")
    async with Station(tmp_path, token.pin).port(token) as port:
        with pytest.raises(DeviceRefused, match="no key yet"):
            await port.read_csr("CN=a")
        with pytest.raises(DeviceRefused, match="makes its key itself"):
            await port.load_key(b"")
        with pytest.raises(DeviceRefused, match="no brainpoolp256r1"):
            await port.generate_key("brainpoolp256r1")


def test_the_module_is_a_driver_module() -> None:
    module: DriverModule = driver("pkcs11")
    assert module is token_driver
    assert KeyOrigin.DEVICE in module.KEYS
    assert KeyOrigin.POOL not in module.KEYS


@pytest.mark.parametrize(
    ("address", "settings", "words"),
    [
        ("pkcs11:?module-path=/dev/null", {}, "names its reader"),
        ("pkcs11:slot-id=x?module-path=/dev/null", {}, "decimal"),
        ("pkcs11:slot-id=1?module-path=/nowhere.so", {}, "no PKCS #11 module"),
        ("pkcs11:slot-id=1;object=a?module-path=/etc/hostname", {}, "the token only"),
        ("pkcs11:slot-id=1?module-path=/etc/hostname&pin-source=file:/x", {}, "the token only"),
        ("pkcs11:slot-id=1?module-path=/etc/hostname&pin-value=1234", {}, "pin-value"),
        ("pkcs11:slot-id=1?module-path=/etc/hostname", {"colour": "red"}, "knows no setting 'colour'"),
        ("pkcs11:slot-id=1?module-path=/etc/hostname", {"pin": "1234"}, "credential:NAME or file:/PATH"),
        ("pkcs11:slot-id=1?module-path=/etc/hostname", {"pin": 1234}, "is a text"),
        ("pkcs11:slot-id=1?module-path=/etc/hostname", {"chain": "yes"}, "true or false"),
        ("pkcs11:slot-id=1?module-path=/etc/hostname", {"id": "0x01"}, "hexadecimal"),
        ("pkcs11:slot-id=1?module-path=/etc/hostname", {"label": ""}, "needs a label"),
        ("pkcs11:slot-id=1?module-path=/etc/hostname", {"pin_ledger": "pins"}, "absolute"),
        ("pkcs11:slot-id=1?module-path=/etc/hostname", {"pin_ledger": ""}, "which PIN a token refused"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_is_configured_wrongly_is_refused_with_the_reason(
    address: str, settings: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    with pytest.raises(ConfigError, match=words):
        async with token_driver.open_device(Address.parse(address), {"pin_ledger": "/nowhere", **settings}):
            pass


async def test_the_service_has_a_place_for_the_ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}:/other")
    assert token_driver.TokenSettings.read({}).ledger_directory() == tmp_path / "device-pins"

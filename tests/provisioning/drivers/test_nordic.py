"""Nordic boards: the maker's unmodified tool works against the stand-ins, and our driver works against the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import load_der_x509_certificate

from gateway.errors import ConfigError, DeviceFault, DeviceRefused, DeviceSilent, WrongDevice
from gateway.pki.csr import CertificationRequest, read_csr
from gateway.pki.leniency import CSR_NULL_PARAMETERS
from provisioning.codec import nordic as codec
from provisioning.codec.nordic import AtRefused
from provisioning.device import Address, Csr, Driver, Lock, Setting
from provisioning.drivers import nordic
from provisioning.nordic import ZephyrShell
from provisioning.transports.registry import open_stream
from tests.support.board_credentials import delivery, private_key
from tests.support.nrf_modem import IMEI, Application, Modem, Terminal, vendor
from tests.support.zephyr import Board

TAG = 52
AT: dict[str, Setting] = {"sec_tag": TAG, "timeout_s": 5}
SHELL: dict[str, Setting] = {"sec_tag": TAG, "protocol": "cred-shell", "chip_command": ["hwinfo", "devid"], "timeout_s": 5}


@asynccontextmanager
async def driver_for(terminal: Terminal, settings: dict[str, Setting] = AT) -> AsyncIterator[Driver]:
    async with nordic.open_device(Address.parse(terminal.address), settings) as driver:
        yield driver


def request_in(csr: Csr) -> CertificationRequest:
    return read_csr(csr.der, leniency=frozenset({CSR_NULL_PARAMETERS}))


def uuid_of(modem: Modem) -> str:
    return codec.identity_attestation(*codec.split_token(modem.answer("AT%ATTESTTOKEN"))).device


async def provision(driver: Driver) -> tuple[Csr, bytes]:
    await driver.identify()
    await driver.generate_key("p-256")
    csr = await driver.read_csr("CN=unit 1,O=Maker")
    made = delivery(request_in(csr).public_key)
    await driver.write(made)
    await driver.reset()
    assert await driver.read_back() == made.certificate
    return csr, made.certificate


@pytest.mark.parametrize("protocol", ["at", "at-shell"])
async def test_a_modem_makes_its_key_and_gets_its_certificate(protocol: str) -> None:
    modem = Modem()
    async with (
        Terminal(modem, at_shell=protocol == "at-shell") as terminal,
        driver_for(terminal, {**AT, "protocol": protocol}) as driver,
    ):
        device = await driver.identify()
        assert (device.chip, device.model) == (uuid_of(modem), "nRF9151-LACA")
        assert device.facts == {"imei": IMEI, "firmware": "mfw_nrf91x1_2.0.2"}
        assert await driver.read_back() == b""
        csr, certificate = await provision(driver)
        request = request_in(csr)
        assert request.leniencies == (CSR_NULL_PARAMETERS,)
        assert request.public_key == modem.keys[TAG].public_key()
        assert (csr.evidence_format, codec.csr_attestation(csr.evidence).security_tag) == ("cose-sign1", TAG)
        assert await driver.prove(b"challenge") == b""
        assert await driver.lock_state() is Lock.ABSENT
        with pytest.raises(DeviceRefused, match="nothing to lock"):
            await driver.lock()
    stored = modem.credentials[TAG, 1]
    assert stored == load_der_x509_certificate(certificate).public_bytes(Encoding.PEM).decode().rstrip()
    assert modem.credentials[TAG, 0].count("BEGIN CERTIFICATE") == 2


async def test_the_makers_tool_works_against_the_modem_and_sees_what_the_driver_wrote(tmp_path: Path) -> None:
    modem = Modem()
    async with Terminal(modem) as terminal:
        async with driver_for(terminal) as driver:
            await provision(driver)
        common = (terminal.device, "--cmd-type", "at", "--rtscts-off")
        assert IMEI in await vendor(*common, "imei")
        listed = await vendor(*common, "list", "--tag", str(TAG))
        for name, kind in (("ROOT_CA_CERT", 0), ("CLIENT_CERT", 1), ("CLIENT_KEY", 2)):
            assert any(name in line and modem.digest((TAG, kind)) in line for line in listed.splitlines())
        csr = tmp_path / "csr.der"
        await vendor(*common, "generate", "77", str(csr), "--attributes", "CN=vendor")
        assert request_in(Csr(csr.read_bytes())).public_key == modem.keys[77].public_key()
        pem = tmp_path / "ca.pem"
        pem.write_text(modem.credentials[TAG, 0])
        await vendor(*common, "write", "77", "ROOT_CA_CERT", str(pem))
        assert modem.credentials[77, 0] == modem.credentials[TAG, 0]
        assert "Attestation token: 2dn3" in await vendor(*common, "attoken")


async def test_the_makers_tool_finds_the_modem_behind_zephyrs_shell() -> None:
    async with Terminal(Modem(), at_shell=True) as terminal:
        assert IMEI in await vendor(terminal.device, "--cmd-type", "shell", "--rtscts-off", "imei")


async def test_the_makers_class_for_the_shell_works_against_the_application(tmp_path: Path) -> None:
    application = Application()
    pem = tmp_path / "certificate.pem"
    pem.write_bytes(load_der_x509_certificate(delivery(ec.generate_private_key(ec.SECP256R1()).public_key()).certificate)
                    .public_bytes(Encoding.PEM))  # fmt: skip
    async with Terminal(application) as terminal:
        assert await vendor(terminal.device, str(pem), api=True) == "True True\n"


async def test_the_same_request_comes_again_after_a_restart_and_what_is_written_is_left() -> None:
    modem = Modem()
    async with Terminal(modem) as terminal:
        async with driver_for(terminal) as driver:
            first, certificate = await provision(driver)
        modem.heard.clear()
        async with driver_for(terminal) as driver:
            await driver.generate_key("p-256")
            assert await driver.read_csr("CN=another") == first
            await driver.write(delivery(request_in(first).public_key))
        assert modem.generated == 1
        async with driver_for(terminal) as driver:
            assert await driver.read_back() != certificate  # a fresh one was written, and only that
        assert [line[:13] for line in modem.heard if line.startswith("AT%CMNG=0,")] == [f"AT%CMNG=0,{TAG},"]


async def test_a_key_whose_request_nobody_saw_is_made_anew_and_one_that_was_told_never_is() -> None:
    modem = Modem()
    async with Terminal(modem) as terminal:
        terminal.babble = lambda line: b"" if line.startswith(f"AT%CMNG=0,{TAG + 1}") else None  # the cut after the key
        async with driver_for(terminal, {**AT, "timeout_s": 0.5}) as driver:
            with pytest.raises(DeviceSilent):
                await driver.read_csr("CN=unit")
        assert modem.generated == 1
        terminal.babble = lambda line: None
        async with driver_for(terminal) as driver:
            csr = await driver.read_csr("CN=unit")
            assert modem.generated == 2
            assert request_in(csr).public_key == modem.keys[TAG].public_key()
            assert await driver.read_csr("CN=unit") == csr
        assert modem.generated == 2


async def test_a_modem_that_keeps_its_certificate_to_itself_is_compared_by_digest() -> None:
    modem = Modem(readable=False)
    async with Terminal(modem) as terminal:
        async with driver_for(terminal) as driver:
            _, certificate = await provision(driver)
            assert await driver.read_back() == certificate
            modem.credentials[TAG, 1] += " "
            assert await driver.read_back() == b""
        async with driver_for(terminal) as driver:
            assert await driver.read_back() == b""  # nothing to compare with: the line writes again


async def test_an_exchanged_modem_is_told_by_its_attestation() -> None:
    modem = Modem()
    async with Terminal(modem) as terminal, driver_for(terminal) as driver:
        await driver.identify()
        modem.uuid = bytes(16)
        with pytest.raises(WrongDevice, match="is of device 00000000-0000"):
            await driver.read_csr("CN=unit")


async def test_an_older_modem_is_known_by_its_imei() -> None:
    async with Terminal(Modem()) as terminal, driver_for(terminal, {**AT, "chip": "imei"}) as driver:
        assert (await driver.identify()).chip == f"imei:{IMEI}"
        await driver.read_csr("CN=unit")


async def test_what_this_board_cannot_do_it_says() -> None:
    for settings, board in ((AT, Modem()), (SHELL, Application())):
        async with Terminal(board) as terminal, driver_for(terminal, settings) as driver:
            with pytest.raises(DeviceRefused, match="p-256 keys, no rsa-2048"):
                await driver.generate_key("rsa-2048")
            with pytest.raises(DeviceRefused, match="given none"):
                await driver.load_key(private_key())


async def test_a_board_with_the_credential_shell_gets_its_certificate() -> None:
    application = Application()
    async with Terminal(application) as terminal, driver_for(terminal, SHELL) as driver:
        device = await driver.identify()
        assert (device.chip, device.facts) == ("0x0123456789abcdef", {"firmware": "Zephyr version 4.4.0"})
        assert await driver.read_back() == b""
        csr, certificate = await provision(driver)
        assert application.key is not None
        assert request_in(csr).public_key == application.key.public_key()
        assert application.reboots == 1
        assert (
            load_der_x509_certificate(certificate).public_bytes(Encoding.PEM).rstrip() + b"\0"
            == application.credentials["52", "SERV"]
        )
        assert application.credentials["52", "CA"].count(b"BEGIN CERTIFICATE") == 2
        await driver.generate_key("p-256")
        assert request_in(await driver.read_csr("CN=unit")).public_key == application.key.public_key()
        await driver.write(delivery(application.key.public_key(), "SN-2"))
        assert await driver.read_back() != certificate
        assert await driver.prove(b"challenge") == b""
        assert await driver.lock_state() is Lock.ABSENT
        with pytest.raises(DeviceRefused, match="nothing to lock"):
            await driver.lock()


async def test_a_board_that_does_not_reset_is_caught_by_its_uptime() -> None:
    async with Terminal(Application(ignores_reboot=True)) as terminal, driver_for(terminal, {**SHELL, "boot_s": 1}) as driver:
        with pytest.raises(DeviceSilent, match="did not come back"):
            await driver.reset()


async def test_a_buffer_that_is_too_small_is_said_with_the_option_that_makes_it_larger() -> None:
    application = Application(buffer_size=512)
    async with Terminal(application) as terminal, driver_for(terminal, SHELL) as driver:
        await driver.generate_key("p-256")
        with pytest.raises(DeviceRefused, match="CONFIG_TLS_CREDENTIALS_SHELL_CRED_BUF_SIZE"):
            await driver.write(delivery(request_in(await driver.read_csr("CN=unit")).public_key))


async def test_zephyrs_real_shell_is_framed_and_comes_back_from_a_reset(tmp_path: Path) -> None:
    async with Board(tmp_path / "board", "shell") as board:
        async with open_stream(Address.parse(board.address)) as stream:
            shell = ZephyrShell(stream, 5)
            assert await shell.run(["kernel", "version"]) == "Zephyr version 4.4.0"
            with pytest.raises(DeviceRefused, match="has no command 'cred'"):
                await shell.run(["cred", "list"])
            await stream.send(b"kernel upt")  # what a killed session left half typed
            assert await shell.run(["kernel", "version"]) == "Zephyr version 4.4.0"
        settings: dict[str, Setting] = {"sec_tag": TAG, "protocol": "cred-shell", "timeout_s": 5}
        async with nordic.open_device(Address.parse(board.address), settings) as driver:
            assert (await driver.identify()).chip == f"port:{board.port}"
            await driver.reset()
            assert (await driver.identify()).facts == {"firmware": "Zephyr version 4.4.0"}
        assert board.starts == 2


def always(said: bytes) -> Callable[[str], bytes]:
    return lambda line: said


def token(said: bytes) -> Callable[[str], bytes | None]:
    return lambda line: b"%ATTESTTOKEN: " + said + b"\r\nOK\r\n" if "ATTEST" in line else None


NOISY = {
    "nothing": (always(b""), DeviceSilent, "does not answer"),
    "garbage": (always(b"\x00\xff\xfe login: \r\n"), DeviceSilent, "does not answer"),
    "endless": (always(b"x" * 4000), DeviceSilent, "does not answer|no end"),
    "refusing": (always(b"ERROR\r\n"), AtRefused, "without a number"),
    "another modem": (lambda line: b"\r\nOK\r\n", DeviceFault, "no such line"),
    "a token that is none": (token(b'"AAAA.AAAA"'), DeviceFault, "too many"),
    "half a token": (token(b'"2dn3'), DeviceFault, "has no %ATTESTTOKEN"),
}  # fmt: skip


@pytest.mark.parametrize(("babble", "kind", "reason"), NOISY.values(), ids=NOISY)
async def test_a_modem_that_talks_nonsense_is_a_fault_with_a_sentence(
    babble: Callable[[str], bytes | None], kind: type[DeviceFault], reason: str
) -> None:
    async with Terminal(Modem()) as terminal:
        terminal.babble = babble
        async with driver_for(terminal, {**AT, "timeout_s": 1}) as driver:
            with pytest.raises(kind, match=reason):
                await driver.identify()


SHELL_NONSENSE = {
    "no key": ("nrf_cloud_cred keygen", "made no key"),
    "no request": ("nrf_cloud_cred csr", "gave no request"),
    "no list": ("cred list", "does not list"),
}


@pytest.mark.parametrize(("command", "reason"), SHELL_NONSENSE.values(), ids=SHELL_NONSENSE)
async def test_a_shell_that_answers_something_else_is_a_fault_with_a_sentence(command: str, reason: str) -> None:
    async with Terminal(Application()) as terminal, driver_for(terminal, SHELL) as driver:
        terminal.babble = lambda line: b"what?\r\n" if line.startswith(command) else None
        with pytest.raises(DeviceFault, match=reason):
            await provision(driver)


async def test_a_modem_that_stores_something_else_is_caught() -> None:
    modem = Modem()
    async with Terminal(modem) as terminal, driver_for(terminal) as driver:
        csr = await driver.read_csr("CN=unit")
        terminal.babble = lambda line: b"OK\r\n" if line.startswith("AT%CMNG=0,") else None
        with pytest.raises(DeviceFault, match="something else than it was sent"):
            await driver.write(delivery(request_in(csr).public_key))


@pytest.mark.parametrize(
    ("subject", "asked"),
    [("CN=unit-1,O=Maker", ',"CN=unit-1"'), ("O=Maker", ""), ('CN=a\\"b', ""), ("CN=unit*1", ""), ("CN=ü", "")],
    ids=["common name", "none", "quote", "star", "umlaut"],
)
async def test_the_subject_is_asked_for_where_the_modem_can_take_it(subject: str, asked: str) -> None:
    modem = Modem()
    async with Terminal(modem) as terminal, driver_for(terminal) as driver:
        await driver.read_csr(subject)
    assert f"AT%KEYGEN={TAG},2,0{asked}" in modem.heard


BAD_SETTINGS: list[tuple[dict[str, Setting], str]] = [
    ({}, "needs sec_tag"),
    ({"sec_tag": -1}, "sec_tag must lie between"),
    ({"sec_tag": 5, "request_tag": 5}, "another one than sec_tag"),
    ({"sec_tag": 5, "protocol": "usb"}, "protocol = 'usb' must be at, at-shell, cred-shell"),
    ({"sec_tag": 5, "chip": "mac"}, "chip = 'mac'"),
    ({"sec_tag": 5, "ca": True}, "unknown key ca"),
]


@pytest.mark.parametrize(("settings", "reason"), BAD_SETTINGS, ids=[str(settings) for settings, _ in BAD_SETTINGS])
async def test_a_recipe_that_is_wrong_is_refused(settings: dict[str, Setting], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        async with nordic.open_device(Address.parse("tcp://127.0.0.1:1"), settings):
            pass


async def test_thirty_two_modems_at_once_each_get_their_own() -> None:
    async def one() -> bytes:
        modem = Modem()
        async with Terminal(modem) as terminal, driver_for(terminal, {**AT, "timeout_s": 30}) as driver:
            csr, certificate = await provision(driver)
            assert request_in(csr).public_key == modem.keys[TAG].public_key()
            return certificate

    assert len(set(await asyncio.gather(*(one() for _ in range(32))))) == 32

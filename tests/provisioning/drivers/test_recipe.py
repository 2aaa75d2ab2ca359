"""A recipe drives a device as a driver in Python does: the Linux recipe, busybox and openssl on a pty."""

from __future__ import annotations

import asyncio
import hashlib
import tomllib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.errors import ConfigError, DeviceRefused, DeviceSilent, WrongDevice
from gateway.pki.algorithms import default_algorithm, signature_is_valid
from gateway.pki.names import name_from_text
from provisioning.device import Address, DriverModule, KeyOrigin, Lock, Setting
from provisioning.drivers import driver
from provisioning.drivers import recipe as recipe_driver
from provisioning.drivers.recipe import RecipeDriver
from tests.support.console_device import ConsoleDevice, console_device
from tests.support.station_ca import StationCa

RECIPES = Path(recipe_driver.__file__).parents[1] / "recipes"


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[ConsoleDevice]:
    async with console_device(tmp_path / "device") as made:
        async with asyncio.timeout(60):
            while not (made.folder / "boot_id").exists():  # a Ctrl-C before that would end what starts its shells
                await asyncio.sleep(0.005)
        yield made


@asynccontextmanager
async def opened(device: ConsoleDevice, recipe: Path = RECIPES / "linux-shell.toml") -> AsyncIterator[RecipeDriver]:
    settings, folder = device.settings, device.folder
    values = {"directory": str(settings["directory"]), "scratch": str(folder), "chip_command": f"cat {folder}/chip"}
    values |= {"boot_command": f"cat {folder}/boot_id", "reset_command": "kill -9 $$", "boot_sign": "BusyBox"}
    async with recipe_driver.open_device(device.address, {"file": str(recipe), "values": values}) as port:
        yield port


def spki_of(csr_der: bytes) -> bytes:
    key = x509.load_der_x509_csr(csr_der).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("key_type", ["p-256", "rsa-2048"])
async def test_the_linux_recipe_provisions_a_real_shell(device: ConsoleDevice, key_type: str) -> None:
    ca = StationCa()
    async with opened(device) as port:
        identity = await port.identify()
        assert identity.chip == "CHIP-0001"
        assert identity.facts["kernel"].startswith("Linux")
        await port.generate_key(key_type)
        subject = "2.5.4.5=SN-0001,CN=plc/7\\, hall \\+2,O=Acme = Sons"
        csr = await port.read_csr(subject)
        assert x509.load_der_x509_csr(csr.der).subject == name_from_text(subject)
        delivery = ca.delivery(csr.der)
        assert await port.read_back() == b""
        await port.write(delivery)
        await port.reset()
        assert await port.read_back() == delivery.certificate
        key = x509.load_der_x509_certificate(delivery.certificate).public_key()
        assert signature_is_valid(key, default_algorithm(key), await port.prove(b"\x00challenge"), b"\x00challenge")
        assert await port.lock_state() is Lock.ABSENT


async def test_whatever_is_repeated_changes_nothing(device: ConsoleDevice) -> None:
    async with opened(device) as port:
        await port.generate_key("p-256")
        first = await port.read_csr("CN=a")
        delivery = StationCa().delivery(first.der)
        await port.write(delivery)
    async with opened(device) as port:
        await port.generate_key("rsa-2048")
        assert spki_of((await port.read_csr("CN=a")).der) == spki_of(first.der)
        await port.write(delivery)
        assert await port.read_back() == delivery.certificate


async def test_it_leaves_the_files_that_the_driver_in_python_leaves(tmp_path: Path) -> None:
    """The same device, once by each: the other takes over what the one has begun."""
    linux = driver("linux")
    async with console_device(tmp_path / "device") as device:
        async with linux.open_device(device.address, device.settings) as port:
            await port.generate_key("p-256")
            first = await port.read_csr("CN=a")
        async with opened(device) as other:
            await other.generate_key("p-256")
            assert spki_of((await other.read_csr("CN=a")).der) == spki_of(first.der)
            delivery = StationCa().delivery(first.der)
            await other.write(delivery)
        async with linux.open_device(device.address, device.settings) as port:
            assert await port.read_back() == delivery.certificate
            written = files(device)
            await port.write(delivery)
        assert files(device) == written


def files(device: ConsoleDevice) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (device.folder / "identity").iterdir()}


async def test_damage_on_the_way_is_noticed(device: ConsoleDevice, tmp_path: Path) -> None:
    recipe = tmp_path / "damage.toml"
    text = (RECIPES / "linux-shell.toml").read_text()
    recipe.write_text(text.replace("echo '{chunk}' >>{directory}/certificate", "echo 'A{chunk}' >>{directory}/certificate"))
    async with opened(device, recipe) as port:
        await port.generate_key("p-256")
        delivery = StationCa().delivery((await port.read_csr("CN=a")).der)
        with pytest.raises(DeviceRefused):
            await port.write(delivery)
        assert await port.read_back() == b""


async def test_a_device_that_does_not_restart_is_found_out(device: ConsoleDevice, tmp_path: Path) -> None:
    recipe = tmp_path / "lazy.toml"
    text = (RECIPES / "linux-shell.toml").read_text()
    recipe.write_text(text.replace('send = "{reset_command}"', 'send = "echo {boot_sign}"') + "\n[line]\nrestart_s = 1\n")
    async with opened(device, recipe) as port:
        with pytest.raises(DeviceSilent, match="did not restart"):
            await port.reset()


# A device that says what a test wants, on a Unix socket.

HEAD = """
format = 1
name = "made-up"
[key_types]
"p-256" = "1"
[line]
within_s = 5
[frame]
send = "{command}"
end = '^OK {token}$|^OK$'
refused = '^ERROR'
"""
REST = """
[[generate_key]]
run = "key"
[[read_csr]]
run = "csr"
into = "said"
[[read_csr]]
capture = "csr"
from = "{said}"
decode = "hex"
[[write]]
upload = "certificate"
as = "hex"
framed = true
[[reset]]
run = "reset"
[[read_back]]
run = "cert"
into = "said"
[[read_back]]
capture = "certificate"
from = "{said}"
pattern = '^cert (?P<value>[0-9a-f]+)$'
decode = "hex"
optional = true
[[load_key]]
upload = "private_key"
as = "hex"
framed = true
"""
IDENTIFY = '[[identify]]\nrun = "id"\ninto = "chip"\n'


@dataclass
class Station:
    folder: Path
    heard: list[str]

    @asynccontextmanager
    async def port(self, text: str, **settings: Setting) -> AsyncIterator[RecipeDriver]:
        recipe = self.folder / "recipe.toml"
        recipe.write_text(text)
        address = Address.parse(f"unix:{self.folder / 'port'}")
        async with recipe_driver.open_device(address, {"file": str(recipe), **settings}) as port:
            yield port


@asynccontextmanager
async def scripted(folder: Path, answers: dict[str, str], banner: str = "") -> AsyncIterator[Station]:
    """A device that answers each line with what ``answers`` has for it; a line that it does not know with ERROR."""
    heard: list[str] = []
    serving: list[asyncio.Task[None] | None] = []
    accepted = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        accepted.set()
        writer.write(banner.encode())
        with suppress(ConnectionError):
            while line := (await reader.readline()).decode().rstrip("\n"):
                heard.append(line)
                writer.write(answers.get(line, answers.get("*", "ERROR\r\n")).encode("latin-1"))
                await writer.drain()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()

    server = await asyncio.start_unix_server(serve, folder / "port")
    try:
        yield Station(folder, heard)
    finally:
        await accepted.wait()
        server.close()
        await asyncio.gather(*(task for task in serving if task is not None))


async def test_a_command_that_is_refused_is_told_in_the_devices_words(tmp_path: Path) -> None:
    async with (
        scripted(tmp_path, {"id": "ERROR 17 flash worn out\r\n"}) as station,
        station.port(HEAD + IDENTIFY + REST) as port,
    ):
        with pytest.raises(DeviceRefused, match=r"identify\[1\]: the device says ERROR 17 flash worn out"):
            await port.identify()


async def test_a_device_without_an_answer_is_silent_after_the_deadline(tmp_path: Path) -> None:
    head = HEAD.replace("within_s = 5", "within_s = 0.2")
    async with scripted(tmp_path, {"id": "still thinking\r\n"}) as station, station.port(head + IDENTIFY + REST) as port:
        with pytest.raises(DeviceSilent, match=r"no answer within 0\.2 seconds"):
            await port.identify()


async def test_a_device_that_never_stops_talking_is_stopped(tmp_path: Path) -> None:
    async with scripted(tmp_path, {"id": "noise " * 40_000}) as station, station.port(HEAD + IDENTIFY + REST) as port:
        with pytest.raises(DeviceSilent, match="does not stop talking"):
            await port.identify()


async def test_a_line_is_cut_where_it_is_too_long(tmp_path: Path) -> None:
    head = HEAD.replace("within_s = 5", "longest = 32")
    async with scripted(tmp_path, {"id": "x" * 99 + "\r\nOK\r\n"}) as station, station.port(head + IDENTIFY + REST) as port:
        assert (await port.identify()).chip == "x" * 32


async def test_octets_that_are_no_text_do_not_stop_it(tmp_path: Path) -> None:
    text, answers = HEAD + IDENTIFY + REST, {"id": "\x1b[31mA1\x1b[0m\r\nOK\r\n"}
    async with scripted(tmp_path, answers, "\xff\xfe\x00\r\n") as station, station.port(text) as port:
        with pytest.raises(DeviceRefused, match="1 to 128 printable"):  # the banner's line came before the answer
            await port.identify()
        assert (await port.identify()).chip == "A1"


LOGIN = """
[secrets]
password = "file:{file}"
[[open]]
expect = '^welcome$'
answers = {{ 'login: $' = "root", 'word: $' = "{{secret.password}}" }}
refused = '^Login incorrect'
within_s = 5
"""


async def test_questions_are_answered_and_the_secret_is_shown_to_nobody(tmp_path: Path) -> None:
    (tmp_path / "pw").write_text("swordfish\n")
    text = HEAD + IDENTIFY + REST + LOGIN.format(file=tmp_path / "pw")
    answers = {"root": "Password: ", "swordfish": "welcome\r\n", "id": "ERROR swordfish is no command\r\n"}
    async with scripted(tmp_path, answers, "login: ") as station, station.port(text) as port:
        assert station.heard == ["root", "swordfish"]
        with pytest.raises(DeviceRefused) as refusal:
            await port.identify()
    assert "swordfish" not in str(refusal.value)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"root": "Password: ", "swordfish": "Login incorrect\r\n"}, "the device says Login incorrect"),
        ({"root": "login: ", "swordfish": ""}, "asks the same again and again"),
    ],
    ids=["refused", "again"],
)
async def test_a_login_that_does_not_succeed_is_a_refusal(tmp_path: Path, answers: dict[str, str], words: str) -> None:
    (tmp_path / "pw").write_text("swordfish\n")
    async with scripted(tmp_path, answers, "login: ") as station:
        with pytest.raises(DeviceRefused, match=words):
            async with station.port(HEAD + IDENTIFY + REST + LOGIN.format(file=tmp_path / "pw")):
                pass


async def test_nothing_of_a_private_key_is_quoted(tmp_path: Path) -> None:
    answers = {"c0ffee": "ERROR what is c0ffee\r\n"}
    async with scripted(tmp_path, answers) as station, station.port(HEAD + IDENTIFY + REST) as port:
        with pytest.raises(DeviceRefused) as refusal:
            await port.load_key(bytes.fromhex("c0ffee"))
    assert "c0ffee" not in str(refusal.value)


async def test_steps_depend_on_what_was_found(tmp_path: Path) -> None:
    identify = """
[[identify]]
run = "state"
into = "state"
[[identify]]
choose = "{state}"
cases = { "0" = "", "1" = "yes" }
into = "has_key"
[[identify]]
run = "with"
into = "chip"
if = "has_key"
[[identify]]
run = "without"
into = "chip"
unless = "has_key"
"""
    answers = {"state": "1\r\nOK\r\n", "with": "A\r\nOK\r\n", "without": "B\r\nOK\r\n"}
    async with scripted(tmp_path, answers) as station, station.port(HEAD + identify + REST) as port:
        assert (await port.identify()).chip == "A"
        answers["state"] = "0\r\nOK\r\n"
        assert (await port.identify()).chip == "B"
        answers["state"] = "7\r\nOK\r\n"
        with pytest.raises(DeviceRefused, match="'7' is none of 0, 1"):
            await port.identify()
    assert station.heard == ["state", "with", "state", "without", "state"]


async def test_the_wrong_device_is_one_where_the_recipe_says_so(tmp_path: Path) -> None:
    check = '[[identify]]\ncheck = "{chip}"\nmatches = "^A"\nwrong_device = true\nsays = "this is no gauge"\n'
    async with scripted(tmp_path, {"id": "B1\r\nOK\r\n"}) as station, station.port(HEAD + IDENTIFY + check + REST) as port:
        with pytest.raises(WrongDevice, match="this is no gauge"):
            await port.identify()


@pytest.mark.parametrize("subject", ["CN=a'; reboot; '", 'CN=a\\"b', "CN=$(reboot)", "CN=`reboot`", "CN=ä"])
async def test_a_subject_that_could_end_a_quoted_text_is_refused(tmp_path: Path, subject: str) -> None:
    async with scripted(tmp_path, {"*": "OK\r\n"}) as station, station.port(HEAD + IDENTIFY + REST) as port:
        with pytest.raises(DeviceRefused):
            await port.read_csr(subject)
    assert station.heard == []


async def test_what_is_captured_is_decoded_or_refused(tmp_path: Path) -> None:
    answers = {"csr": "c0 ff\r\nee\r\nOK\r\n", "cert": "none\r\nOK\r\n"}
    async with scripted(tmp_path, answers) as station, station.port(HEAD + IDENTIFY + REST) as port:
        assert (await port.read_csr("CN=a")).der == bytes.fromhex("c0ffee")
        assert await port.read_back() == b""
        answers["cert"] = "cert 00ff\r\nOK\r\n"
        assert await port.read_back() == b"\x00\xff"
        answers["csr"] = "no hex\r\nOK\r\n"
        with pytest.raises(DeviceRefused, match="no hex"):
            await port.read_csr("CN=a")
        answers["csr"] = "OK\r\n"
        with pytest.raises(DeviceRefused, match="there is no csr"):
            await port.read_csr("CN=a")


async def test_what_a_recipe_does_not_say_the_device_cannot(tmp_path: Path) -> None:
    async with scripted(tmp_path, {}) as station, station.port(HEAD + IDENTIFY + REST) as port:
        assert await port.prove(b"challenge") == b""
        assert await port.lock_state() is Lock.ABSENT
        with pytest.raises(DeviceRefused, match="nothing to lock"):
            await port.lock()
        with pytest.raises(DeviceRefused, match="makes p-256, not rsa-2048"):
            await port.generate_key("rsa-2048")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, 'needs file = "/path'),
        ({"file": "here.toml"}, 'needs file = "/path'),
        ({"file": "/nowhere.toml"}, "cannot be read"),
        ({"colour": 1}, "knows no setting 'colour'"),
        ({"sha256": "00" * 32}, "it was changed"),
        ({"values": 1}, "values is a table"),
        ({"values": {"nothing": "x"}}, "has no value 'nothing'; it has directory"),
        ({"values": {"directory": 1}}, "is a printable text"),
        ({"values": {"directory": "a\nb"}}, "is a printable text"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_what_is_set_wrongly_is_refused_with_the_reason(settings: dict[str, Setting], words: str) -> None:
    complete = settings if not settings or "file" in settings else {"file": str(RECIPES / "linux-shell.toml"), **settings}
    with pytest.raises(ConfigError, match=words):
        async with recipe_driver.open_device(Address.parse("unix:/nowhere"), complete):
            pass


async def test_a_recipe_that_is_pinned_is_this_very_one(tmp_path: Path) -> None:
    text = HEAD + IDENTIFY + REST
    digest = hashlib.sha256(text.encode()).hexdigest()
    async with scripted(tmp_path, {"id": "A1\r\nOK\r\n"}) as station, station.port(text, sha256=digest) as port:
        assert (await port.identify()).chip == "A1"


async def test_the_ports_recipe_may_be_the_file_itself(tmp_path: Path) -> None:
    table = tomllib.loads(HEAD + IDENTIFY + REST)
    address = Address.parse(f"unix:{tmp_path / 'port'}")
    async with scripted(tmp_path, {"id": "A1\r\nOK\r\n"}), recipe_driver.open_device(address, table) as port:
        assert (await port.identify()).chip == "A1"
    with pytest.raises(ConfigError, match=r"name is a text in quotes"):
        async with recipe_driver.open_device(address, {**table, "name": 1}):
            pass


def test_the_module_is_a_driver_module() -> None:
    module: DriverModule = driver("recipe")
    assert module is recipe_driver
    assert frozenset(list(KeyOrigin)) == module.KEYS

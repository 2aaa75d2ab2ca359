"""SMP against Zephyr's own servers: files, hashes, resets, power cuts; and against devices that do everything wrong."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_der_private_key
from cryptography.x509 import load_der_x509_certificate, load_der_x509_csr, load_pem_x509_certificates

from gateway.errors import ConfigError, DeviceFault, DeviceRefused, DeviceSilent, PortLost, WrongDevice
from gateway.pki.algorithms import PublicKey, default_algorithm, signature_is_valid
from provisioning.codec.smp import Group, Message, Op, to_lines
from provisioning.device import Address, Lock, Setting
from provisioning.drivers import smp
from provisioning.drivers.loaded import private_key_of, request_of
from provisioning.drivers.smp import SmpDriver
from provisioning.smp import Carrier, LineCarrier, SmpClient
from provisioning.transports.registry import open_stream
from tests.support.board_credentials import delivery, private_key
from tests.support.smp_stand_in import Body, answering
from tests.support.zephyr import Board

FILES: dict[str, Setting] = {
    "key": "/lfs1/device.key",
    "certificate": "/lfs1/device.crt",
    "serial": "/lfs1/serial",
    "bundle": True,
}
CERTIFICATE_ALONE = {name: value for name, value in FILES.items() if name != "key"}


def public_of(key: bytes) -> PublicKey:
    return load_der_private_key(key, None).public_key()  # type: ignore[return-value]


async def provision(driver: SmpDriver, key: bytes, serial: str = "SN-1") -> bytes:
    """All of it; the certificate that the board holds after its reset."""
    made = delivery(public_of(key), serial)
    await driver.load_key(key)
    assert load_der_x509_csr((await driver.read_csr("CN=unit")).der).public_key() == public_of(key)
    await driver.write(made)
    await driver.reset()
    assert await driver.read_back() == made.certificate
    signature = await driver.prove(b"challenge")
    assert signature_is_valid(public_of(key), default_algorithm(public_of(key)), signature, b"challenge")
    return made.certificate


async def in_files(board: Board, name: str) -> bytes:
    async with open_stream(Address.parse(board.address)) as stream:
        return await SmpClient(LineCarrier(stream), timeout_s=5).download(name)


@pytest.mark.parametrize("encoding", ["pem", "der"])
async def test_a_zephyr_board_gets_key_and_certificates(tmp_path: Path, encoding: str) -> None:
    key = private_key()
    async with Board(tmp_path / "board") as board:
        settings = {**FILES, "encoding": encoding, "bundle": encoding == "pem", "chip_info": "n"}
        async with smp.open_device(Address.parse(board.address), settings) as driver:
            device = await driver.identify()
            assert (device.chip, device.model, device.facts["firmware"]) == ("unknown", "native_sim/native", "4.4.0")
            assert await driver.read_back() == b""
            assert await driver.lock_state() is Lock.ABSENT
            await provision(driver, key)
            with pytest.raises(DeviceRefused, match="nothing to lock"):
                await driver.lock()
        assert board.starts == 2
        assert await in_files(board, "/lfs1/serial") == b"SN-1"
        stored = await in_files(board, "/lfs1/device.crt")
        if encoding == "pem":
            subjects = [one.subject.rfc4514_string() for one in load_pem_x509_certificates(stored)]
            assert subjects[1:] == ["CN=Plant CA,O=Maker", "CN=Root"]
        else:
            load_der_x509_certificate(stored)


async def test_a_file_that_is_right_is_left_and_another_key_replaces_the_first(tmp_path: Path) -> None:
    old, new = private_key(), private_key()
    async with Board(tmp_path / "board") as board:
        async with smp.open_device(Address.parse(board.address), FILES) as driver:
            await provision(driver, old)
        flash = (tmp_path / "board" / "flash.bin").read_bytes()
        async with smp.open_device(Address.parse(board.address), FILES) as driver:
            await driver.load_key(old)
        assert (tmp_path / "board" / "flash.bin").read_bytes() == flash
        async with smp.open_device(Address.parse(board.address), FILES) as driver:
            await driver.load_key(new)
            with pytest.raises(WrongDevice, match="another key"):
                await driver.write(delivery(public_of(old)))
            await provision(driver, new)


class Cutting:
    """A carrier that takes the board's power away instead of sending its message number ``last``."""

    def __init__(self, carrier: Carrier, last: int, cut: Callable[[], Awaitable[None]]) -> None:
        self._carrier, self._left, self._cut = carrier, last, cut

    async def send(self, message: bytes) -> None:
        self._left -= 1
        if self._left == 0:
            await self._cut()
        await self._carrier.send(message)

    async def receive(self) -> bytes:
        return await self._carrier.receive()


async def test_an_upload_that_a_power_cut_ends_is_seen_and_right_at_the_second_attempt(tmp_path: Path) -> None:
    """A board for every fourth message of an upload: before any of the file, in the middle, before it is hashed."""
    public = public_of(private_key())
    settings = {**CERTIFICATE_ALONE, "timeout_s": 1}

    async def cut(last: int) -> bytes:
        made = delivery(public, f"SN-{last}")
        async with Board(tmp_path / f"board-{last}") as board:
            async with smp.open_device(Address.parse(board.address), settings) as driver:
                client = await driver.open()
                client._carrier = Cutting(client._carrier, last, board.cut)
                with pytest.raises(PortLost):
                    await driver.write(made)
            await board.start()
            left = await in_files(board, "/lfs1/device.crt")
            async with smp.open_device(Address.parse(board.address), settings) as driver:
                if not left:
                    assert await driver.read_back() == b""
                await driver.write(made)
                await driver.reset()
                assert await driver.read_back() == made.certificate
            return b"" if left == await in_files(board, "/lfs1/device.crt") else left or b"nothing"

    left = await asyncio.gather(*(cut(last) for last in range(4, 24, 4)))
    assert any(left)  # uploading is not atomic: some boards held nothing, or a part


async def test_thirty_two_boards_at_once_each_get_their_own(tmp_path: Path) -> None:
    async def one(number: int) -> bytes:
        key = private_key()
        async with (
            Board(tmp_path / f"board-{number}") as board,
            smp.open_device(Address.parse(board.address), {**FILES, "timeout_s": 30}) as driver,
        ):
            certificate = await provision(driver, key, f"SN-{number}")
            assert await in_serial(driver) == f"SN-{number}".encode()
            return certificate

    assert len(set(await asyncio.gather(*map(one, range(32))))) == 32


async def in_serial(driver: SmpDriver) -> bytes:
    return await (await driver.open()).download("/lfs1/serial")


async def test_a_board_that_loses_what_it_confirmed_is_caught_by_the_reset(tmp_path: Path) -> None:
    """The flash goes back to what it was before the certificate, while the board restarts."""
    flash = tmp_path / "board" / "flash.bin"
    async with (
        Board(tmp_path / "board") as board,
        smp.open_device(Address.parse(board.address), FILES) as driver,
    ):
        key = private_key()
        await driver.load_key(key)
        kept = flash.read_bytes()
        await driver.write(delivery(public_of(key)))
        board.before_start = lambda: flash.write_bytes(kept)
        with pytest.raises(DeviceFault, match="lost /lfs1"):
            await driver.reset()


async def test_a_real_shell_group_runs_commands_and_their_failure_is_told(tmp_path: Path) -> None:
    async with Board(tmp_path / "board", "serial") as board:
        settings = {**FILES, "chip_command": ["kernel", "version"]}
        async with smp.open_device(Address.parse(board.address), settings) as driver:
            assert "Zephyr version 4.4.0" in (await driver.identify()).chip
        settings = {**FILES, "chip_command": ["no-such-command"]}
        async with smp.open_device(Address.parse(board.address), settings) as driver:
            with pytest.raises(DeviceFault):
                await driver.identify()


async def test_a_board_without_files_is_refused_with_its_own_words(tmp_path: Path) -> None:
    async with (
        Board(tmp_path / "board", "serial_noparams") as board,
        smp.open_device(Address.parse(board.address), FILES) as driver,
    ):
        with pytest.raises(DeviceRefused, match="no such command"):
            await driver.load_key(private_key())


@asynccontextmanager
async def device(server: Callable[[Message], Body | bytes | None], settings: Mapping[str, Setting]) -> AsyncIterator[SmpDriver]:
    async with answering(server) as address, smp.open_device(Address.parse(address), settings) as driver:
        yield driver


def echoing(request: Message) -> Body | None:
    return {"r": request.body["d"]} if (request.group, request.command) == (Group.OS, 0) else None


NOISY = {
    "nothing": None,
    "garbage": b"\x00\xff login: \r\n$ \x06\x09????\r\n",
    "a wrong check sum": b"\x06\x09ABAKAAAGAABCAKFhZGJoaZsL\n",
    "a line without an end": b"\x06\x09" + b"A" * 70000,
    "an answer to another request": to_lines(Message(Op.WRITE_ANSWER, Group.OS, 0, 0, {}).encode()) * 9,
}


@pytest.mark.parametrize("said", NOISY.values(), ids=NOISY)
async def test_a_device_that_does_not_answer_is_silent_whatever_it_says(said: bytes | None) -> None:
    async with device(lambda request: said, {**FILES, "timeout_s": 0.1}) as driver:
        with pytest.raises(DeviceSilent):
            await driver.identify()


async def test_a_device_without_an_end_to_what_it_says_is_left_alone_after_a_megabyte() -> None:
    flood = to_lines(Message(Op.READ_ANSWER, 999, 0, 0, {"data": bytes(20000)}).encode()) * 60
    async with device(lambda request: flood, {**FILES, "timeout_s": 60}) as driver:
        with pytest.raises(DeviceSilent, match="no end"):
            await driver.identify()


def cut_short(request: Message) -> Body | bytes | None:
    reply = bytearray(Message(Op.WRITE_ANSWER, request.group, request.command, request.sequence, {"r": "token"}).encode()[:-2])
    reply[2:4] = (len(reply) - 8).to_bytes(2, "big")
    return to_lines(bytes(reply))


def telling(body: Body, *, group: int = Group.FS) -> Callable[[Message], Body | None]:
    """A server that echoes, and answers everything of ``group`` with ``body``."""
    return lambda request: body if request.group == group else echoing(request) or {"rc": 8}


LIES: list[tuple[str, Callable[[Message], Body | bytes | None], str]] = [
    ("cut CBOR", cut_short, "cut off"),
    ("another echo", lambda request: {"r": "somebody else's"}, "echoes something else"),
    ("a digest that is none", telling({"output": b"short"}), "digest of /lfs1/device.key is none"),
    ("an octet that is not taken", telling({"output": bytes(32), "off": 0}), "did not take octet 0"),
    ("an octet that was not sent", telling({"output": bytes(32), "off": 99999}), "did not take octet 0"),
    ("an offset that is a text", telling({"output": bytes(32), "off": "9"}), "did not take octet 0"),
    ("its memory is full", telling({"rc": 2}), "out of memory"),
]


@pytest.mark.parametrize(("server", "reason"), [case[1:] for case in LIES], ids=[case[0] for case in LIES])
async def test_a_device_that_lies_is_refused_with_a_sentence(
    server: Callable[[Message], Body | bytes | None], reason: str
) -> None:
    async with answering(server) as address, smp.open_device(Address.parse(address), {**FILES, "timeout_s": 1}) as driver:
        with pytest.raises(DeviceFault, match=reason):  # noqa: PT012  # where it comes out is not what is asked
            await driver.identify()
            await driver.load_key(private_key())


DOWNLOADS: list[tuple[str, Body, str]] = [
    ("endless", {"off": 0, "len": 10, "data": bytes(20)}, "do not fit"),
    ("huge", {"off": 0, "len": 1 << 40, "data": bytes(20)}, "do not fit"),
    ("from elsewhere", {"off": 5, "len": 10, "data": bytes(5)}, "do not fit"),
    ("empty pieces", {"off": 0, "len": 10, "data": b""}, "no more of /lfs1/device.crt than 0 of 10"),
    ("no data", {"off": 0, "len": 10}, "do not fit"),
]


@pytest.mark.parametrize(("body", "reason"), [case[1:] for case in DOWNLOADS], ids=[case[0] for case in DOWNLOADS])
async def test_a_file_that_does_not_come_as_announced_is_a_fault(body: Body, reason: str) -> None:
    async with device(telling(body), {**FILES, "timeout_s": 1}) as driver:
        with pytest.raises(DeviceFault, match=reason):
            await driver.read_back()


async def test_a_file_with_other_content_than_was_sent_is_not_confirmed() -> None:
    def server(request: Message) -> Body | None:
        if request.group == Group.FS and request.command == 0 and request.op is Op.WRITE:
            data = request.body["data"]
            assert isinstance(data, bytes)
            offset = request.body["off"]
            assert isinstance(offset, int)
            return {"off": offset + len(data)}
        return telling({"output": bytes(32)})(request)

    async with answering(server) as address, smp.open_device(Address.parse(address), {**FILES, "timeout_s": 1}) as driver:
        with pytest.raises(DeviceFault, match=r"stored something else as /lfs1/device\.key"):
            await driver.load_key(private_key())


async def test_a_device_that_only_says_that_it_resets_is_caught() -> None:
    async with device(lambda request: echoing(request) or {}, {**FILES, "down_s": 0.5}) as driver:
        with pytest.raises(DeviceRefused, match="did not reset"):
            await driver.reset()


async def test_a_file_that_holds_half_a_certificate_is_none() -> None:
    pem = b"-----BEGIN CERTIFICATE-----\nMIIB"
    async with device(telling({"off": 0, "len": len(pem), "data": pem}), FILES) as driver:
        assert await driver.read_back() == b""
        with pytest.raises(DeviceFault, match="no private key"):
            await driver.read_csr("CN=unit")


async def test_firmware_with_key_commands_keeps_its_key_and_files_are_renamed_into_place() -> None:
    """The commands are some firmware's own: a shell group that makes a key, prints a request and moves files."""
    keys: dict[str, bytes] = {}
    files: dict[str, bytes] = {}

    def shell(*words: str) -> Body:
        match words:
            case ("id", "show"):
                return {"o": "board 0042\r\n", "ret": 0}
            case ("id", "keygen", key_type):
                keys.setdefault("key", private_key(key_type))
                return {"o": "Generated device key\r\n", "ret": 0}
            case ("id", "csr", subject):
                der = request_of(private_key_of(keys["key"]), subject).der
                return {"o": f"CSR: {base64.b64encode(der).decode()}\r\nCSR generation complete\r\n", "ret": 0}
            case ("fs", "mv", old, new):
                files[new] = files.pop(old)
                return {"o": "", "ret": 0}
        return {"o": "wrong", "ret": -22}

    def server(request: Message) -> Body | None:
        name = request.body.get("name")
        match request.group, request.command, request.op:
            case (Group.SHELL, _, _):
                return shell(*request.body["argv"])  # type: ignore[misc,arg-type]
            case (Group.FS, 2, _):
                return {"output": hashlib.sha256(files[name]).digest()} if name in files else {"err": {"group": 8, "rc": 3}}  # type: ignore[index]
            case (Group.FS, 0, Op.WRITE):
                offset, data = request.body["off"], request.body["data"]
                files[name] = (files[name] if offset else b"") + data  # type: ignore[index,operator]
                return {"off": len(files[name])}  # type: ignore[index]
        return echoing(request) or {"rc": 8}

    settings: dict[str, Setting] = {
        "certificate": "/c",
        "chip_command": ["id", "show"],
        "keygen_command": ["id", "keygen", "{type}"],
        "csr_command": ["id", "csr", "{subject}"],
        "rename_command": ["fs", "mv", "{from}", "{to}"],
    }
    async with answering(server) as address, smp.open_device(Address.parse(address), settings) as driver:
        assert (await driver.identify()).chip == "board 0042"
        await driver.generate_key("p-256")
        await driver.generate_key("p-256")
        csr = load_der_x509_csr((await driver.read_csr("CN=unit 42")).der)
        assert csr.is_signature_valid
        assert csr.public_key() == public_of(keys["key"])
        await driver.write(delivery(public_of(keys["key"])))
        assert list(files) == ["/c"]
        with pytest.raises(ConfigError, match="needs key, a file"):
            await driver.load_key(private_key())


BAD_SETTINGS: list[tuple[dict[str, Setting], str]] = [
    ({}, "needs certificate"),
    ({"certificate": "device.crt"}, "absolute path"),
    ({"certificate": "/" + "x" * 64}, "at most 64 characters"),
    ({"certificate": "/c", "encoding": "xml"}, "encoding = 'xml'"),
    ({"certificate": "/c", "bundle": True, "encoding": "der"}, "bundle is for certificates in PEM"),
    ({"certificate": "/c", "chip_info": "all"}, "one letter"),
    ({"certificate": "/c", "chip_command": "id show"}, "chip_command must be a list"),
    ({"certificate": "/c", "timeout_s": 0}, "timeout_s must lie between 0.1 and 600"),
    ({"certificate": "/c", "baud": 9600}, "unknown key baud"),
]


@pytest.mark.parametrize(("settings", "reason"), BAD_SETTINGS, ids=[reason for _, reason in BAD_SETTINGS])
async def test_a_recipe_that_is_wrong_is_refused(settings: dict[str, Setting], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        async with smp.open_device(Address.parse("tcp://127.0.0.1:1"), settings):
            pass


async def test_a_port_where_nobody_is_is_lost() -> None:
    with pytest.raises(PortLost):
        async with smp.open_device(Address.parse("tcp://127.0.0.1:1"), FILES):
            pass


async def test_a_board_that_has_no_word_for_itself_is_its_port_and_one_with_a_bad_word_is_refused() -> None:
    async with device(telling({"output": ""}, group=Group.OS), {**FILES, "chip_info": "n"}) as driver:
        with pytest.raises(DeviceFault):
            await driver.identify()
    async with answering(lambda request: echoing(request) or {"rc": 8}) as address:
        async with smp.open_device(Address.parse(address), FILES) as driver:
            assert (await driver.identify()).chip == f"port:{address.removeprefix('tcp://')}"
        async with smp.open_device(Address.parse(address), {**FILES, "chip_info": "n"}) as driver:
            with pytest.raises(DeviceRefused, match="does not say which one it is"):
                await driver.identify()
            with pytest.raises(DeviceRefused, match="from the pool"):
                await driver.generate_key("p-256")


def test_a_zephyr_board_is_provisioned_over_udp(tmp_path: Path) -> None:
    program = ["unshare", "--net", sys.executable, "-m", "tests.support.smp_over_udp", str(tmp_path / "board")]
    result = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert result.stdout == "native_sim/native starts 2 certificate same\n", result.stderr

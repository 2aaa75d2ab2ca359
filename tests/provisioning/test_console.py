"""A shell on a console is found whatever state it is in, and only what it answers to us counts."""

from __future__ import annotations

import asyncio
import os
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.errors import DeviceRefused, DeviceSilent, PortLost
from provisioning.console import Console, Login
from provisioning.device import Address
from provisioning.transports import open_stream
from tests.support.console_device import ConsoleDevice, console_device

NONCE = bytes.fromhex("5f3a91c2d4")
OTHER = bytes.fromhex("0011223344")


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[ConsoleDevice]:
    async with console_device(tmp_path) as device:
        yield device


@asynccontextmanager
async def attached(device: ConsoleDevice, nonce: bytes = NONCE, options: str = "") -> AsyncIterator[Console]:
    async with open_stream(Address.parse(f"serial:{device.port}{options}")) as stream:
        console = Console(stream, nonce)
        await console.attach(timeout_s=30)
        yield console


async def test_commands_have_output_and_status(device: ConsoleDevice) -> None:
    async with attached(device) as console:
        assert await console.check("echo one; echo two", "try") == "one\ntwo\n"
        assert (await console.run("exit_with() { return 7; }; exit_with", "try")).status == 7
        assert await console.check("cat", "try", "first\n  $HOME `id` 'last'\n") == "first\n  $HOME `id` 'last'\n"
        with pytest.raises(DeviceRefused, match=r"look: the device says .*No such file.*status 1"):
            await console.check("cat /none", "look")


async def test_it_works_with_echo_and_without(device: ConsoleDevice) -> None:
    async with attached(device) as console:
        for setting in ("-echo", "echo", "-echo"):
            await console.check(f"stty {setting}", "set the terminal")
            assert await console.check("echo hello", "try") == "hello\n"


@pytest.mark.parametrize(
    "left",
    [
        "stty -echo;PS1=;PS2=\n",
        "stty -echo;PS1=;PS2=;cat >/dev/null <<':'\nhalf a",
        "cat >/dev/null <<'OTHER'\nhalf a text",
        "echo 'an open quote",
        "rm -rf /none/of/this",
        "sleep 1000\n",
        "cat\n",
        "for i in 1 2 3; do echo @B:0011223344-$i:; sleep 0.1; echo left-$i; echo @E:0011223344-$i:0:; done\n",
    ],
    ids=["silent", "own text", "foreign text", "quote", "half line", "busy", "reader", "late answers"],
)
async def test_a_killed_session_leaves_nothing_that_stops_the_next(device: ConsoleDevice, left: str) -> None:
    async with attached(device, OTHER) as console:
        await console.stream.send(left.encode())
    async with attached(device) as console:
        for n in range(20):
            assert await console.check(f"echo {n}", "count") == f"{n}\n"


async def test_a_half_line_of_a_killed_session_is_never_run(device: ConsoleDevice) -> None:
    async with attached(device, OTHER) as console:
        await console.stream.send(f"touch {device.folder}/ran".encode())
    async with attached(device) as console:
        await console.check("true", "try")
    assert not (device.folder / "ran").exists()


async def test_endless_output_is_a_fault_and_the_console_is_usable_again(device: ConsoleDevice) -> None:
    async with attached(device) as console:
        with pytest.raises(DeviceSilent, match="does not stop talking"):
            await console.run("yes", "talk")
        await console.attach(timeout_s=30)
        assert await console.check("echo back", "try") == "back\n"


async def test_a_command_without_an_end_is_a_fault_and_the_next_one_works(device: ConsoleDevice) -> None:
    async with attached(device) as console:
        with pytest.raises(DeviceSilent, match=r"wait: no answer on .* within 0.2 seconds"):
            await console.run("sleep 1000", "wait", timeout_s=0.2)
        await console.interrupt()
        assert await console.check("echo back", "try") == "back\n"


async def test_an_unplugged_cable_is_a_lost_port(device: ConsoleDevice) -> None:
    async with attached(device) as console:
        running = asyncio.create_task(console.run("sleep 1000", "wait", timeout_s=30))
        await asyncio.sleep(0)
        await device.unplug()
        with pytest.raises(PortLost):
            await running


async def test_a_program_without_a_terminal_is_a_console_too() -> None:
    async with open_stream(Address.parse("exec:?argv=sh")) as stream:
        console = Console(stream, NONCE)
        await console.attach(timeout_s=30)
        assert await console.check("cat", "try", "text") == "text\n"


@pytest.fixture
def bare_pty() -> Iterator[tuple[int, Address]]:
    """A cable whose other end the test itself is."""
    master, slave = os.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)
    yield master, Address.parse(f"serial:{os.ttyname(slave)}")
    os.close(master)
    os.close(slave)


async def test_silence_is_a_fault(bare_pty: tuple[int, Address]) -> None:
    async with open_stream(bare_pty[1]) as stream:
        with pytest.raises(DeviceSilent, match="no shell answers"):
            await Console(stream, NONCE).attach(timeout_s=0.5)


@pytest.mark.parametrize("seed", range(3))
async def test_garbage_is_a_fault(bare_pty: tuple[int, Address], seed: int) -> None:
    """As a wrong baud rate looks."""
    garbage = bytes((octet * 73 + seed * 29) % 256 for octet in range(4096))
    loop = asyncio.get_running_loop()
    loop.add_writer(bare_pty[0], lambda: os.write(bare_pty[0], garbage))
    try:
        async with open_stream(bare_pty[1]) as stream:
            with pytest.raises(DeviceSilent):
                await Console(stream, NONCE).attach(timeout_s=20)
    finally:
        loop.remove_writer(bare_pty[0])


@asynccontextmanager
async def login_prompt(master: int, user: bytes, password: bytes) -> AsyncIterator[list[bytes]]:
    """getty, login, and a shell that answers to frames only, played by the test; what was typed, line by line."""
    typed: list[bytes] = []
    lines: asyncio.Queue[bytes] = asyncio.Queue()
    pending = bytearray()

    def read() -> None:
        pending.extend(os.read(master, 4096))
        while (end := pending.find(b"\n")) >= 0:
            lines.put_nowait(bytes(pending[:end]).rpartition(b"\x15")[2].rpartition(b"\x03")[2])
            del pending[: end + 1]

    async def line() -> bytes:
        typed.append(await lines.get())
        return typed[-1]

    async def play() -> None:
        while True:
            while not (name := await line()):
                os.write(master, b"\r\nplc login: ")
            os.write(master, name + b"\r\nPassword: ")
            secret = await line()
            if (name, secret) == (user, password):
                break
            os.write(master, b"\r\nLogin incorrect\r\nplc login: ")
        os.write(master, b"\r\nLast login: Tue Mar  3 on ttyS0\r\n# ")
        shell = await asyncio.create_subprocess_exec("sh", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE)
        assert shell.stdin
        assert shell.stdout
        while (command := await line()) != b"quit":
            shell.stdin.write(command + b"\n")
            if command.startswith(b"echo @B"):
                os.write(master, await shell.stdout.readline() + await shell.stdout.readline())
        shell.stdin.close()
        await shell.wait()

    asyncio.get_running_loop().add_reader(master, read)
    playing = asyncio.create_task(play())
    try:
        yield typed
    finally:
        lines.put_nowait(b"quit")
        if typed and typed[-1].startswith(b"echo @B"):
            await playing
        playing.cancel()
        await asyncio.gather(playing, return_exceptions=True)
        asyncio.get_running_loop().remove_reader(master)


async def test_it_logs_in_where_a_getty_sits(bare_pty: tuple[int, Address]) -> None:
    master, address = bare_pty
    async with login_prompt(master, b"root", b"s3cret") as typed, open_stream(address) as stream:
        console = Console(stream, NONCE)
        await console.attach(Login("root", "s3cret"), timeout_s=30)
        assert console.logged_in
        assert typed[:3] == [b"", b"root", b"s3cret"]


async def test_a_wrong_password_is_tried_once_and_never_shown(bare_pty: tuple[int, Address]) -> None:
    master, address = bare_pty
    login = Login("root", "wr0ng")
    async with login_prompt(master, b"root", b"s3cret") as typed, open_stream(address) as stream:
        with pytest.raises(DeviceRefused, match="does not accept the recipe's user and password") as refused:
            await Console(stream, NONCE).attach(login, timeout_s=30)
        assert typed.count(b"wr0ng") == 1
    assert "wr0ng" not in repr(refused.value) + repr(login)


async def test_a_login_without_a_user_in_the_recipe_is_refused(bare_pty: tuple[int, Address]) -> None:
    master, address = bare_pty
    async with login_prompt(master, b"root", b"s3cret"), open_stream(address) as stream:
        with pytest.raises(DeviceRefused, match="asks for a user, and the recipe names none"):
            await Console(stream, NONCE).attach(timeout_s=30)


async def test_nothing_is_typed_while_a_device_boots(bare_pty: tuple[int, Address]) -> None:
    """A key pressed there stops a boot loader."""
    master, address = bare_pty
    async with open_stream(address) as stream:
        attaching = asyncio.create_task(Console(stream, NONCE).attach(Login("root"), timeout_s=30, boot_quiet_s=20))
        for second in range(5):
            os.write(master, b"\rHit any key to stop autoboot: %d" % second)
            for _ in range(20):
                await asyncio.sleep(0)
            with pytest.raises(BlockingIOError):
                os.read(master, 100)
        os.write(master, b"\r\nplc login: ")
        async with asyncio.timeout(20):
            while True:
                try:
                    assert os.read(master, 100) == b"root\n"
                    break
                except BlockingIOError:
                    await asyncio.sleep(0)
        attaching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await attaching

"""Every way to a device: it carries octets both ways, says PortLost when it ends, and is bounded."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import sys
import termios
import threading
import tty
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import pytest
import serial

from gateway.errors import ConfigError, DeviceSilent, PortLost
from provisioning.device import Address
from provisioning.transports import Stream, open_stream
from provisioning.transports.serial import present_ports
from provisioning.transports.stream import BUFFER
from provisioning.transports.udp import WAITING, open_datagrams


@pytest.fixture
def pty() -> Iterator[tuple[int, str]]:
    """The device's end of a cable, and the name of ours."""
    master, slave = os.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)
    yield master, os.ttyname(slave)
    for fd in (master, slave):
        with suppress(OSError):
            os.close(fd)


async def take(stream: Stream, octets: int) -> bytes:
    received = b""
    async with asyncio.timeout(20):
        while len(received) < octets:
            received += await stream.receive()
    return received


async def send_for_ever(stream: Stream) -> None:
    while True:
        await stream.send(b"x" * 1000)
        await asyncio.sleep(0)


async def test_a_serial_port_carries_octets_both_ways(pty: tuple[int, str]) -> None:
    device, port = pty
    every = bytes(range(256))
    async with open_stream(Address.parse(f"serial:{port}?baud=9600")) as stream:
        await stream.send(every)
        assert os.read(device, 300) == every
        os.write(device, every)
        assert await take(stream, 256) == every


async def test_a_serial_port_has_one_user(pty: tuple[int, str]) -> None:
    address = Address.parse(f"serial:{pty[1]}")
    async with open_stream(address):
        with pytest.raises(PortLost, match="another program uses it"):
            async with open_stream(address):
                pass
    async with open_stream(address):  # and the next one as soon as it is free
        pass


async def test_a_serial_port_that_nobody_waits_for_any_more_is_free_again(
    pty: tuple[int, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A driver that waits for its hardware opens the port after we were stopped."""
    address = Address.parse(f"serial:{pty[1]}")
    started, go_on, opened = threading.Event(), threading.Event(), threading.Event()
    real = serial.Serial.open
    ports = []  # so that it is not the garbage collector who closes it

    def slow(port: serial.Serial) -> None:
        ports.append(port)
        started.set()
        assert go_on.wait(20)
        real(port)
        opened.set()

    monkeypatch.setattr(serial.Serial, "open", slow)
    opening = asyncio.create_task(open_stream(address).__aenter__())
    assert await asyncio.to_thread(started.wait, 20)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    go_on.set()
    assert await asyncio.to_thread(opened.wait, 20)
    monkeypatch.undo()
    async with asyncio.timeout(20):
        while True:
            try:
                async with open_stream(address):
                    break
            except PortLost:
                await asyncio.sleep(0)


async def test_a_serial_port_is_set_as_the_address_says(pty: tuple[int, str]) -> None:
    device, port = pty
    async with open_stream(Address.parse(f"serial:{port}?baud=9600&xonxoff=1&stop=2")):
        incoming, _, control, local, speed, *_ = termios.tcgetattr(device)
    assert speed == termios.B9600
    assert incoming & termios.IXON
    assert control & termios.CSTOPB
    assert not local & termios.ECHO


async def test_a_port_that_is_unplugged_is_lost(pty: tuple[int, str]) -> None:
    device, port = pty
    async with open_stream(Address.parse(f"serial:{port}")) as stream:
        os.close(device)
        with pytest.raises(PortLost):
            await take(stream, 1)
        with pytest.raises(PortLost):
            await asyncio.wait_for(send_for_ever(stream), 20)


async def test_a_port_that_is_not_there_is_lost() -> None:
    with pytest.raises(PortLost, match="No such file"):
        async with open_stream(Address.parse("serial:/dev/serial/by-path/none")):
            pass


async def test_a_name_that_changes_with_the_order_of_plugging_in_is_refused() -> None:
    with pytest.raises(ConfigError, match="by its place"):
        async with open_stream(Address.parse("serial:/dev/ttyUSB0")):
            pass


def test_ports_are_listed_by_their_place(tmp_path: Path) -> None:
    (tmp_path / "b").touch()
    (tmp_path / "a").touch()
    assert present_ports(tmp_path) == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert present_ports(tmp_path / "none") == []


@pytest.mark.parametrize(
    "text",
    [
        "serial:/dev/pts/0?speed=9600",
        "serial:/dev/pts/0?baud=fast",
        "serial:/dev/pts/0?parity=X",
        "serial:/dev/pts/0?stop=3",
        "serial:/dev/pts/0?dtr=maybe",
        "serial:ttyS0",
        "tcp://host",
        "tcp://:5",
        "unix:",
        "unix:/a?baud=1",
        "exec:",
        "exec:?arg=x",
        "ssh://host?host_key=first",
        "ssh://root@host?key=file:/k",
        "ssh://root@host?key=file:/k&host_key=first&known_hosts=/x",
        "ssh://root@host?key=secret&host_key=first",
        "ssh://root@host?key=credential:../x&host_key=first",
        "ssh://root@host?key=file:/k&host_key=first&password=x",
        "usb:/1",
        "tcp://host:5?pace=-1",
    ],
)
async def test_an_address_that_says_nothing_sensible_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        async with open_stream(Address.parse(text)):
            pass


@asynccontextmanager
async def echoing_tcp(endless: bytes = b"") -> AsyncIterator[tuple[int, asyncio.Event]]:
    """A server that gives back what it gets, or says ``endless`` for ever; its port, and an event that makes it hang up."""
    hang_up = asyncio.Event()

    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        closing = asyncio.create_task(hang_up.wait())
        try:
            while not hang_up.is_set():
                if endless:
                    writer.write(endless)
                    await writer.drain()
                    continue
                reading = asyncio.create_task(reader.read(1000))
                await asyncio.wait([reading, closing], return_when=asyncio.FIRST_COMPLETED)
                if not reading.done() or not reading.result():
                    reading.cancel()
                    return
                writer.write(reading.result())
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            closing.cancel()
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], hang_up
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)


async def test_tcp_carries_octets_and_notices_a_hang_up() -> None:
    async with echoing_tcp() as (port, hang_up), open_stream(Address.parse(f"tcp://127.0.0.1:{port}")) as stream:
        await stream.send(bytes(range(256)))
        assert await take(stream, 256) == bytes(range(256))
        connection = stream.writer.get_extra_info("socket")  # type: ignore[attr-defined]  # a StreamWriter
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 20_000
        hang_up.set()
        with pytest.raises(PortLost, match="gone"):
            await take(stream, 1)


async def test_a_tcp_port_where_nobody_listens_is_lost() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(PortLost, match="refused"):
        async with open_stream(Address.parse(f"tcp://127.0.0.1:{port}")):
            pass


async def test_a_unix_socket_carries_octets(tmp_path: Path) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(3))
        writer.close()

    path = tmp_path / "guest socket"
    async with await asyncio.start_unix_server(serve, path), open_stream(Address.parse(f"unix:{quote(str(path))}")) as stream:
        await stream.send(b"abc")
        assert await take(stream, 3) == b"abc"
        with pytest.raises(PortLost):
            await take(stream, 1)
    with pytest.raises(PortLost):
        async with open_stream(Address.parse(f"unix:{tmp_path}/none")):
            pass


async def test_endless_output_costs_bounded_memory() -> None:
    async with echoing_tcp(b"x" * 50_000) as (port, _), open_stream(Address.parse(f"tcp://127.0.0.1:{port}")) as stream:
        for _ in range(1000):
            assert await stream.receive()
        for _ in range(200):  # nobody reads now, and the loop runs
            await asyncio.sleep(0)
        assert (
            len(stream.reader._buffer) <= 2 * BUFFER + 262_144
        )  # asyncio takes a quarter MiB at once;  type: ignore[attr-defined]  # what is kept
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 1_000_000  # kilobytes: nothing near what came


async def test_another_program_carries_octets_and_ends_with_its_children() -> None:
    script = "import subprocess,sys; p=subprocess.Popen(['sleep','600']); print(p.pid,flush=True); print(sys.stdin.readline())"
    argv = "&".join(f"argv={quote(part)}" for part in (sys.executable, "-c", script))
    async with open_stream(Address.parse(f"exec:?{argv}")) as stream:
        assert not stream.terminal
        child = int((await stream.receive()).split()[0])
        os.kill(child, 0)
        await stream.send(b"abc\n")
        assert await take(stream, 4) == b"abc\n\n"
    async with asyncio.timeout(20):
        while Path(f"/proc/{child}").exists():  # until somebody has taken its exit status
            await asyncio.sleep(0.01)


async def test_the_last_words_of_a_program_are_in_the_fault() -> None:
    with pytest.raises(PortLost, match="no such modem"):
        async with open_stream(Address.parse("exec:?argv=sh&argv=-c&argv=echo%20no%20such%20modem%20%3E%262")) as stream:
            await take(stream, 1)


async def test_a_program_that_is_not_there_is_a_lost_port() -> None:
    with pytest.raises(PortLost, match="cannot be started"):
        async with open_stream(Address.parse("exec:?argv=/none")):
            pass


async def test_a_program_sees_none_of_our_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/secret")
    async with open_stream(Address.parse("exec:?argv=env")) as stream:
        said = await stream.reader.read()
    assert b"PATH=" in said
    assert b"secret" not in said


async def test_a_paced_stream_is_as_slow_as_its_line() -> None:
    """By the count of pieces, not by a clock: at 960 octets a second a piece has 4 octets."""
    async with echoing_tcp() as (port, hang_up), open_stream(Address.parse(f"tcp://127.0.0.1:{port}?pace=960")) as stream:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await stream.send(b"y" * 96)
        assert await take(stream, 96) == b"y" * 96
        assert loop.time() - began >= 0.1  # it cannot have been faster
        hang_up.set()
        with pytest.raises(PortLost):
            await take(stream, 1)


async def test_datagrams_come_whole_or_not_at_all() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        device.bind(("127.0.0.1", 0))
        device.setblocking(False)
        async with open_datagrams(Address.parse(f"udp://127.0.0.1:{device.getsockname()[1]}")) as datagrams:
            datagrams.send(b"hello")
            data, us = device.recvfrom(100)
            assert data == b"hello"
            for n in range(WAITING + 10):
                device.sendto(b"%d" % n, us)
            for _ in range(10 * WAITING):  # the loop takes one in a turn
                await asyncio.sleep(0)
            for n in range(WAITING):
                assert await datagrams.receive(5) == b"%d" % n
            with pytest.raises(DeviceSilent):  # ten were dropped
                await datagrams.receive(0.01)
        with pytest.raises(PortLost):
            datagrams.send(b"late")


async def test_a_host_that_does_not_listen_to_datagrams_is_a_lost_port() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with open_datagrams(Address.parse(f"udp://127.0.0.1:{port}")) as datagrams:
        datagrams.send(b"hello")
        with pytest.raises(PortLost):
            await datagrams.receive(5)
    with pytest.raises(ConfigError):
        async with open_datagrams(Address.parse("udp://127.0.0.1")):
            pass

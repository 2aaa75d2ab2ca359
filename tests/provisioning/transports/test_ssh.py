"""SSH to a dropbear: host keys are checked, many connections at once get through, wrong keys say so."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway.errors import DeviceRefused, PortLost, WrongDevice
from provisioning.console import Console
from provisioning.device import Address
from provisioning.transports import Known, open_stream
from tests.support.dropbear import SshDevice, dropbear, make_key

NONCE = bytes.fromhex("5f3a91c2d4")


@pytest.fixture
async def device(tmp_path: Path) -> AsyncIterator[SshDevice]:
    async with dropbear(tmp_path) as device:
        yield device


async def ask(address: str, command: str, known: Known | None = None) -> str:
    async with open_stream(Address.parse(address), known) as stream:
        console = Console(stream, NONCE)
        await console.attach(timeout_s=30)
        return await console.check(command, "ask")


async def test_a_console_works_over_ssh(device: SshDevice) -> None:
    address = device.address(f"&known_hosts={device.host_keys}")
    public = device.key.with_suffix(".pub").read_text()
    assert await ask(address, "cat ~/.ssh/authorized_keys") == public  # in the home that the test gave it


async def test_a_host_key_that_is_not_known_is_refused(device: SshDevice, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(WrongDevice, match="another SSH host key"):
        await ask(device.address(f"&known_hosts={tmp_path}/empty"), "true")


async def test_the_first_host_key_of_a_device_counts_until_its_end(device: SshDevice, tmp_path: Path) -> None:
    known = Known()
    address = device.address("&host_key=first")
    assert await ask(address, "echo first", known) == "first\n"
    assert await ask(address, "echo again", known) == "again\n"
    async with dropbear(tmp_path, "other") as other:
        shown = known.host_keys.replace(str(device.port).encode(), str(other.port).encode())
        swapped = Address.parse(other.address("&host_key=first"))
        with pytest.raises(WrongDevice):
            async with open_stream(swapped, Known(shown)):
                pass
        async with open_stream(swapped, Known()):  # the next device of this port
            pass


async def test_a_key_that_the_device_does_not_know_is_refused(device: SshDevice, tmp_path: Path) -> None:
    make_key(tmp_path / "stranger")
    address = f"ssh://{device.user}@127.0.0.1:{device.port}?key=file:{tmp_path}/stranger&known_hosts={device.host_keys}"
    with pytest.raises(DeviceRefused, match=r"does not let us in: .*Permission denied"):
        await ask(address, "true")


async def test_the_key_may_be_a_credential(device: SshDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    shutil.copy(device.key, credentials / "line-key")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    address = f"ssh://{device.user}@127.0.0.1:{device.port}?key=credential:line-key&known_hosts={device.host_keys}"
    assert await ask(address, "echo in") == "in\n"


async def test_sixteen_connections_at_once_get_through(device: SshDevice) -> None:
    """dropbear resets the sixth from one address that is not authenticated yet."""
    address = device.address(f"&known_hosts={device.host_keys}")
    answers = await asyncio.gather(*(ask(address, f"echo {n}") for n in range(16)))
    assert answers == [f"{n}\n" for n in range(16)]


async def test_the_same_connections_without_a_limit_are_reset(device: SshDevice) -> None:
    """The control: it is the limit that gets them through."""
    closed = 0
    pairs = [await asyncio.open_connection("127.0.0.1", device.port) for _ in range(16)]
    for reader, _ in pairs:  # all of them stay open meanwhile, or dropbear finds room for the next
        try:
            async with asyncio.timeout(10):
                closed += not await reader.read(1)
        except ConnectionResetError:
            closed += 1
    for _, writer in pairs:
        writer.transport.abort()
    assert closed


async def test_a_host_that_does_not_listen_is_a_lost_port(device: SshDevice, tmp_path: Path) -> None:
    address = device.address(f"&known_hosts={device.host_keys}").replace(f":{device.port}?", ":1?")
    with pytest.raises(PortLost, match="refused"):
        await ask(address, "true")

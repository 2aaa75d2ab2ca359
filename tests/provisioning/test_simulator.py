"""Simulated devices go through as real ones do, are the same after a restart, and have the faults that were asked for."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.errors import DeviceFault, DeviceSilent
from gateway.pki.algorithms import default_algorithm, signature_is_valid
from provisioning import simulator
from provisioning.device import Address, Lock
from provisioning.drivers import recipe as recipe_driver
from provisioning.drivers.recipe import RecipeDriver
from provisioning.simulator import FAULTS, Plan, plan, simulate
from tests.support.station_ca import StationCa

RECIPES = Path(simulator.__file__).parent / "recipes"


@pytest.fixture
def folder() -> Iterator[Path]:
    """With a short name, for the sockets in it."""
    with tempfile.TemporaryDirectory(prefix="sim") as made:
        yield Path(made)


@asynccontextmanager
async def simulated(folder: Path, count: int, kind: str = "modem", faults: Sequence[str] = ()) -> AsyncIterator[list[Plan]]:
    devices, until = plan(count, kind, folder, faults), asyncio.Event()
    running = asyncio.create_task(simulate(devices, folder, until))
    try:
        async with asyncio.timeout(60):
            while not all(device.port.exists() for device in devices):
                if running.done():
                    await running
                await asyncio.sleep(0.01)
        yield devices
    finally:
        until.set()
        await running


@asynccontextmanager
async def opened(device: Plan, folder: Path) -> AsyncIterator[RecipeDriver]:
    recipe = folder / f"{device.kind}-{device.number}.toml"
    text = (RECIPES / ("linux-shell.toml" if device.kind == "shell" else "at-modem.toml")).read_text()
    patience = 2 if device.fault in {"garbage", "endless", "silent"} else 20
    recipe.write_text(text.replace("within_s = 20", f"within_s = {patience}"))
    values = {}
    if device.kind == "shell":
        place = device.folder
        values = {"directory": f"{place}/identity", "scratch": str(place), "chip_command": f"cat {place}/chip"}
        values |= {"boot_command": f"cat {place}/boot_id", "reset_command": "kill -9 $$", "boot_sign": "BusyBox"}
    address = Address.parse(f"unix:{device.port}")
    async with recipe_driver.open_device(address, {"file": str(recipe), "values": values}) as port:
        yield port


async def provisioned(device: Plan, folder: Path, ca: StationCa) -> tuple[str, bytes]:
    """A whole life but for the lock; the chip, and the certificate that was read back."""
    async with opened(device, folder) as port:
        chip = (await port.identify()).chip
        await port.generate_key("p-256")
        delivery = ca.delivery((await port.read_csr(f"CN=device {device.number}")).der)
        await port.write(delivery)
        await port.reset()
        key = x509.load_der_x509_certificate(delivery.certificate).public_key()
        assert signature_is_valid(key, default_algorithm(key), await port.prove(b"challenge"), b"challenge")
        return chip, await port.read_back()


async def spki_of(port: RecipeDriver) -> bytes:
    key = x509.load_der_x509_csr((await port.read_csr("CN=a")).der).public_key()
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(("kind", "count"), [("modem", 8), ("shell", 2)])
async def test_devices_go_through_and_are_the_same_after_a_restart(folder: Path, kind: str, count: int) -> None:
    ca = StationCa()
    async with simulated(folder, count, kind) as devices:
        done = await asyncio.gather(*(provisioned(device, folder, ca) for device in devices))
    assert len({chip for chip, _ in done}) == count
    assert len({certificate for _, certificate in done}) == count
    async with simulated(folder, count, kind) as devices:
        for device, (chip, certificate) in zip(devices, done, strict=True):
            async with opened(device, folder) as port:
                assert (await port.identify()).chip == chip
                assert await port.read_back() == certificate
                before = await spki_of(port)
                await port.generate_key("p-256")
                assert await spki_of(port) == before


async def test_a_modem_locks_and_takes_nothing_afterwards(folder: Path) -> None:
    async with simulated(folder, 1) as (device,), opened(device, folder) as port:
        await port.generate_key("p-256")
        delivery = StationCa().delivery((await port.read_csr("CN=a")).der)
        assert await port.lock_state() is Lock.OPEN
        await port.write(delivery)
        assert (await port.identify()).serial == delivery.serial
        await port.lock()
        assert await port.lock_state() is Lock.LOCKED
        await port.write(delivery)
        with pytest.raises(DeviceFault, match="CME ERROR: 14"):
            await port.write(StationCa().delivery((await port.read_csr("CN=a")).der))


async def test_a_port_is_for_one_at_a_time(folder: Path) -> None:
    async with simulated(folder, 1) as (device,), opened(device, folder):
        with pytest.raises(DeviceFault):
            async with opened(device, folder):
                pass


@pytest.mark.parametrize("kind", ["modem", "shell"])
@pytest.mark.parametrize("fault", ["garbage", "endless", "silent"])
async def test_a_broken_device_is_a_fault_and_the_next_one_goes_through(folder: Path, fault: str, kind: str) -> None:
    async with simulated(folder, 2, kind, [fault]) as (good, broken):
        if kind == "modem" or fault == "garbage":  # the shell's recipe looks for a shell longer, and the port is the same
            with pytest.raises(DeviceFault):
                await provisioned(broken, folder, StationCa())
        assert (await provisioned(good, folder, StationCa()))[1]


@pytest.mark.parametrize("kind", ["modem", "shell"])
async def test_a_cut_in_mid_write_is_mended_by_writing_again(folder: Path, kind: str) -> None:
    async with simulated(folder, 1, kind, ["cut"]) as (device,):
        async with opened(device, folder) as port:
            await port.generate_key("p-256")
            before = await spki_of(port)
            delivery = StationCa().delivery((await port.read_csr("CN=a")).der)
            with pytest.raises(DeviceSilent):
                async with asyncio.timeout(60):
                    await port.write(delivery)
        async with opened(device, folder) as port:
            assert await port.read_back() != delivery.certificate
            assert await spki_of(port) == before
            await port.write(delivery)
            assert await port.read_back() == delivery.certificate


@pytest.mark.parametrize("kind", ["modem", "shell"])
async def test_cloned_keys_are_the_same_on_different_chips(folder: Path, kind: str) -> None:
    async with simulated(folder, 2, kind, ["cloned-key", "cloned-key"]) as devices:
        seen = []
        for device in devices:
            async with opened(device, folder) as port:
                await port.generate_key("p-256")
                seen.append(((await port.identify()).chip, await spki_of(port)))
    assert seen[0][0] != seen[1][0]
    assert seen[0][1] == seen[1][1]


async def test_a_repeated_serial_number_is_said_by_different_chips(folder: Path) -> None:
    async with simulated(folder, 2, "modem", ["repeated-serial", "repeated-serial"]) as devices:
        seen = []
        for device in devices:
            async with opened(device, folder) as port:
                seen.append(await port.identify())
    assert seen[0].chip != seen[1].chip
    assert seen[0].serial == seen[1].serial == "SIM-REPEATED"


@pytest.mark.parametrize("kind", ["modem", "shell"])
async def test_a_wrong_chip_is_another_one_after_a_restart(folder: Path, kind: str) -> None:
    async with simulated(folder, 1, kind, ["wrong-chip"]) as (device,), opened(device, folder) as port:
        before = await port.identify()
        await port.reset()
        assert (await port.identify()).chip != before.chip


async def test_making_a_key_takes_as_long_as_it_was_asked_to(folder: Path) -> None:
    (device,) = plan(1, "shell", folder, slow_key_s=0.5)
    tools = simulator.install_tools(folder, device.slow_key_s)
    assert "sleep 0.5" in (tools / "openssl").read_text()
    done = subprocess.run([tools / "openssl", "version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("OpenSSL")


def test_chips_follow_from_the_seed(folder: Path) -> None:
    def chips(name: str, seed: int) -> list[str]:
        devices = plan(3, "modem", folder / name, seed=seed)
        for device in devices:
            simulator.prepare(device)
        return [(device.folder / "chip").read_text() for device in devices]

    assert chips("a", 1) == chips("b", 1)
    assert not set(chips("a", 1)) & set(chips("c", 2))


def test_the_command_runs_until_it_is_interrupted(folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "gateway",
        "simulate",
        "--count",
        "2",
        "--fault",
        "silent",
        "--directory",
        str(folder / "d"),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    try:
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line.startswith("# READY"):
                break
        ports = tomllib.loads("".join(lines))["line"]["port"]
        assert [port["address"] for port in ports.values()] == [f"unix:{folder}/d/device-{n}/port" for n in (1, 2)]
        assert [port["driver"] for port in ports.values()] == ["recipe", "recipe"]
        assert lines[2].endswith(f"# silent: {FAULTS['silent']}\n")
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.stdout.close()
        process.wait()
    assert (folder / "d/device-1/chip").exists()
    assert not (folder / "d/device-1/port").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--count", "0", "--directory", "/tmp/x"], "--count is 1 to 256"),
        (["--count", "1", "--fault", "cut", "--fault", "cut", "--directory", "/tmp/x"], "at most as many faults"),
        (["--fault", "rust", "--directory", "/tmp/x"], "invalid choice: 'rust'"),
        (["--directory", "/tmp/" + "x" * 100], "too long for Unix sockets"),
        ([], "--directory"),
    ],
    ids=["count", "faults", "fault", "path", "directory"],
)
def test_what_makes_no_sense_is_refused(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        simulator.main(options)
    assert end.value.code == 2
    assert words in capsys.readouterr().err

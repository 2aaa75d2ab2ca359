"""``python -m tests.load.boards_bench``: what a unit costs per driver for boards, alone and beside others.

Each driver provisions devices as the line does: identify, key, request, write, reset, read back, prove. Wall time is for all of
them; processor time is this process's own, without the simulated devices where they are processes (Zephyr) and without esptool,
whose own time is given beside it. The simulated modems and chips run in this process and are in its time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_der_private_key

from gateway.pki.csr import read_csr
from gateway.pki.leniency import CSR_NULL_PARAMETERS
from provisioning.device import Address, Driver, KeyOrigin, Setting
from provisioning.drivers import esp32, nordic, smp
from tests.support.board_credentials import delivery, private_key
from tests.support.esp_rom import Chip, chip_on_tcp
from tests.support.esp_tools import tool
from tests.support.nrf_modem import Modem, Terminal
from tests.support.zephyr import Board

Opened = AsyncIterator[tuple[Driver, KeyOrigin]]


@asynccontextmanager
async def zephyr(place: Path) -> Opened:
    """Reset included: its fixed half second is the server's, which answers before it goes down."""
    settings: dict[str, Setting] = {
        "key": "/lfs1/k", "certificate": "/lfs1/c", "serial": "/lfs1/s", "bundle": True, "timeout_s": 30
    }  # fmt: skip
    async with Board(place) as board, smp.open_device(Address.parse(board.address), settings) as driver:
        yield driver, KeyOrigin.POOL


@asynccontextmanager
async def esp(place: Path) -> Opened:
    chip = Chip(bytes.fromhex("30aea4") + place.name.encode()[-3:].rjust(3, b"0"))
    settings: dict[str, Setting] = {"offset": 0xD000, "esptool": str(tool("esptool")), "chip": "esp32c3", "call_s": 600}
    async with chip_on_tcp(chip) as port, esp32.open_device(Address.parse(f"tcp://127.0.0.1:{port}"), settings) as driver:
        yield driver, KeyOrigin.POOL


@asynccontextmanager
async def modem(place: Path) -> Opened:
    del place
    async with Terminal(Modem()) as terminal:
        settings: dict[str, Setting] = {"sec_tag": 52}
        async with nordic.open_device(Address.parse(terminal.address), settings) as driver:
            yield driver, KeyOrigin.DEVICE


async def provision(driver: Driver, origin: KeyOrigin) -> float:
    """Seconds for one unit."""
    began = time.perf_counter()
    await driver.identify()
    if origin is KeyOrigin.POOL:
        key = private_key()
        await driver.load_key(key)
        public = load_der_private_key(key, None).public_key()
    else:
        await driver.generate_key("p-256")
        csr = await driver.read_csr("CN=unit")
        public = read_csr(csr.der, leniency=frozenset({CSR_NULL_PARAMETERS})).public_key
    made = delivery(public)  # type: ignore[arg-type]
    await driver.write(made)
    await driver.reset()
    if await driver.read_back() != made.certificate:
        raise AssertionError("another certificate came back")
    await driver.prove(bytes(32))
    return time.perf_counter() - began


async def measure(kind: Callable[[Path], object], count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as name:
        async with AsyncExitStack() as stack:
            drivers = [await stack.enter_async_context(kind(Path(name) / f"board-{n:03}")) for n in range(count)]  # type: ignore[arg-type]
            children = resource.getrusage(resource.RUSAGE_CHILDREN)
            wall, cpu = time.perf_counter(), time.process_time()
            each: list[float] = await asyncio.gather(*(provision(*driver) for driver in drivers))
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    return {
        "devices": count,
        "wall_s": round(wall, 3),
        "p50_s": round(sorted(each)[count // 2], 3),
        "gateway_cpu_ms_per_device": round(cpu / count * 1000, 2),
        "children_cpu_ms_per_device": round(spent / count * 1000, 1),
    }


async def main(counts: list[int]) -> None:
    kinds: dict[str, Callable[[Path], object]] = {"smp": zephyr, "nrf91": modem, "esp32": esp}
    for name, kind in kinds.items():
        await measure(kind, 1)  # imports, unpacking
        for count in counts:
            print(json.dumps({"driver": name, **await measure(kind, count)}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8, 32])
    asyncio.run(main(parser.parse_args().devices))

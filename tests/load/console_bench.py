"""What a Linux device on a console costs the gateway: ``python -m tests.load.console_bench [PORTS...]`` prints a line each.

Every device is busybox and openssl behind a pty pair, on the same cores; the processor time is this process's alone, without
what it takes to start and to end the devices. A pty has no baud rate, so the time on a wire is calculated from the octets.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path

from provisioning.device import Driver
from provisioning.drivers.linux import open_device
from provisioning.transports.stream import Stream
from tests.support.console_device import ConsoleDevice, console_device, install_busybox
from tests.support.device_ca import deliver, proves

octets = {"sent": 0, "received": 0}


def count_octets() -> None:
    send, receive = Stream.send, Stream.receive

    async def counted_send(self: Stream, data: bytes) -> None:
        octets["sent"] += len(data)
        await send(self, data)

    async def counted_receive(self: Stream) -> bytes:
        data = await receive(self)
        octets["received"] += len(data)
        return data

    Stream.send, Stream.receive = counted_send, counted_receive  # type: ignore[method-assign]


async def provision(device: ConsoleDevice) -> float:
    began = time.perf_counter()
    driver: Driver
    async with open_device(device.address, device.settings) as driver:
        await driver.identify()
        await driver.generate_key("p-256")
        delivery = deliver((await driver.read_csr("CN=plc,serialNumber=PLC-0001")).der)
        await driver.write(delivery)
        await driver.reset()
        assert await driver.read_back() == delivery.certificate
        assert proves(delivery.certificate, bytes(32), await driver.prove(bytes(32)))
        await driver.lock_state()
    return time.perf_counter() - began


async def measure(ports: int, folder: Path) -> str:
    tools = install_busybox(folder)
    async with AsyncExitStack() as stack:
        devices = [
            await stack.enter_async_context(console_device(folder / f"{ports}-{number}", f"CHIP-{number}", tools))
            for number in range(ports)
        ]
        await provision(devices[0])  # what is only paid once
        for path in (devices[0].folder / "identity").iterdir():
            path.unlink()
        octets.update(sent=0, received=0)
        wall, cpu = time.perf_counter(), time.process_time()
        each = sorted(await asyncio.gather(*map(provision, devices)))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    sent, received = octets["sent"] // ports, octets["received"] // ports
    return (
        f"{ports} ports: wall {wall:.2f} s, p50 {each[len(each) // 2]:.2f} s, CPU {1000 * cpu / ports:.1f} ms a device, "
        f"{sent} + {received} octets, {(sent + received) * 10 / 115200:.2f} s at 115,200 baud"
    )


async def main() -> None:
    count_octets()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory(prefix="cb-") as folder:
        for ports in [int(argument) for argument in sys.argv[1:]] or [1, 8, 32, 64]:
            print(await measure(ports, Path(folder)), flush=True)


if __name__ == "__main__":
    asyncio.run(main())

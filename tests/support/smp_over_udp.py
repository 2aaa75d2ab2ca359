"""``unshare --net`` runs this: Zephyr's SMP server over UDP, which listens on every address, and our driver.

Arguments: the board's directory. Prints what the board held at the end.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_der_private_key

from provisioning.device import Address
from provisioning.drivers import smp
from tests.support.board_credentials import delivery, private_key
from tests.support.zephyr import Board


async def main(directory: Path) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    settings = {"key": "/lfs1/k", "certificate": "/lfs1/c", "serial": "/lfs1/s", "chip_info": "n"}
    key = private_key()
    made = delivery(load_der_private_key(key, None).public_key())  # type: ignore[arg-type]
    async with Board(directory, "udp") as board, smp.open_device(Address.parse("udp://127.0.0.1:1337"), settings) as driver:
        device = await driver.identify()
        await driver.load_key(key)
        await driver.write(made)
        await driver.reset()
        same = await driver.read_back() == made.certificate
        print(device.model, "starts", board.starts, "certificate", "same" if same else "another")


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))

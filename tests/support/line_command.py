"""``scripts/line``: a gateway with a production line to play with. Everything is NOT FOR PRODUCTION: all keys lie in files.

scripts/line                 8 simulated devices (busybox and openssl) go through; prints what to try, runs until Ctrl-C
scripts/line --check         the same in a new directory, with a gateway that is killed in the middle, and what was seen
scripts/line --guest         a real Linux guest in QEMU on a serial port: provisioned, power cut, verified after its reboot
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from cryptography import x509

from gateway import demo
from gateway.errors import GatewayError
from gateway.pki.algorithms import PublicKey, default_algorithm, signature_is_valid
from gateway.pki.names import name_to_text
from gateway.web.unix_client import connected

_STATE = Path(".line")
_DEADLINE_S = 300
#: How long a device takes for its key where the gateway is to be killed meanwhile.
_SLOW_KEY_S = 5
_LABEL = """\
[label]
name = "type plate"
width_mm = 60.0
height_mm = 30

[[text]]
value = "{product}"
x_mm = 31.0
y_mm = 2.0
height_mm = 3.5
bold = true

[[text]]
value = "S/N {serial}"
x_mm = 31.0
y_mm = 7.0
height_mm = 3.0

[[text]]
value = "{reprint}"
x_mm = 31.0
y_mm = 25.0
height_mm = 2.5

[[qr]]
value = "{uri}"
x_mm = 3.0
y_mm = 3.0
module_mm = 0.6
"""
_ORDER = """\
id = "DEMO-1"
product = "PLC 7"
profile = "idevid"
credit = 1000
numbers = { prefix = "SN-", first = 1, last = 1000, digits = 6 }
subject = ["O=Demo maker (NOT FOR PRODUCTION)", "CN={product} {serial}"]
hardware_type = "1.3.6.1.4.1.32473.1"
uri = "https://demo.example/{serial}"
lock = false
label = "plate"
driver = "linux"
"""


class LineError(Exception):
    """Something is not as it should be."""


@dataclass
class Demo:
    """One demo gateway with a line, as processes of their own."""

    directory: Path
    say: Callable[[str], None]
    _daemon: asyncio.subprocess.Process | None = None
    _seen: dict[str, str] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        return self.directory / "gateway"

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "gateway", "--state", str(self.state), *words]

    async def ask(self, *words: str) -> Any:
        """A command's JSON answer. Raises LineError."""
        process = await asyncio.create_subprocess_exec(
            *self.command("--json", *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        said, complaint = await process.communicate()
        if process.returncode != 0:
            raise LineError(f"{shlex.join(words)}: {complaint.decode().strip()}")
        return json.loads(said)

    def configure(self, ports: str) -> None:
        """The demo's configuration with a line; made at the first start."""
        path = demo.write_configuration(self.state)
        key, labels = self.directory / "orders.pem", self.state / "labels"
        if not key.exists():
            subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True, capture_output=True)
            key.chmod(0o600)
        labels.mkdir(exist_ok=True)
        (labels / "plate.toml").write_text(_LABEL)
        (self.directory / "order.toml").write_text(_ORDER)
        own = path.read_text().split("\n[line]\n")[0]
        line = f'order_keys = ["{self._vkey()}"]\nmanufacturer = "Demo maker"\nlabels = "labels"\n'
        path.write_text(f"{own}\n[line]\n{line}poll_seconds = 0.2\nretry_seconds = 0.5\n{ports}")

    def _vkey(self) -> str:
        """For the configuration, as the command that signs prints it; the origin is not known before the first start."""
        order, key, scrap = self.directory / "order.toml", self.directory / "orders.pem", self.directory / "unused.order"
        words = ("--json", "order", "sign", "--key", str(key), "--origin", "unused", str(order), str(scrap))
        told = subprocess.run(self.command(*words), check=True, capture_output=True, text=True).stdout
        scrap.unlink()
        return str(json.loads(told)["order_key"])

    async def start(self) -> None:
        (self.state / "endpoints.json").unlink(missing_ok=True)
        with (self.directory / "gateway.log").open("ab") as log:
            self._daemon = await asyncio.create_subprocess_exec(*self.command("demo"), stdout=log, stderr=log)
        async with asyncio.timeout(_DEADLINE_S):
            while not (self.state / "endpoints.json").exists():
                if self._daemon.returncode is not None:
                    raise LineError(f"the gateway did not start: see {self.directory / 'gateway.log'}")
                await asyncio.sleep(0.1)

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self._daemon is not None:
            with suppress(ProcessLookupError):
                self._daemon.send_signal(number)
            await self._daemon.wait()

    async def order(self) -> None:
        """Sign the order for this very gateway and import it; a second time changes nothing."""
        origin = json.loads((self.state / "endpoints.json").read_text())["journal"]["origin"]
        order, key, signed = (str(self.directory / name) for name in ("order.toml", "orders.pem", "demo.order"))
        await self.ask("order", "sign", "--key", key, "--origin", origin, order, signed)
        await self.ask("order", "import", signed)

    async def until(self, condition: Callable[[list[dict[str, Any]]], bool], what: str) -> None:
        """Tell what happens at the ports until ``condition`` holds."""
        try:
            async with asyncio.timeout(_DEADLINE_S), connected(self.state / "control.sock") as gateway:
                while True:
                    ports = cast("list[dict[str, Any]]", (await gateway.get("/line/ports"))["ports"])
                    for each in ports:
                        text = f"{each['sentence']} {each['step']} {each['hint']}".rstrip()
                        if self._seen.get(each["port"]) != text:
                            self._seen[each["port"]] = text
                            self.say(f"{each['port']:10} {text}")
                    if condition(ports):
                        return
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise LineError(f"{what} did not come to pass: {self._seen}") from None

    async def verdict(self, count: int) -> None:
        """The account, and every device's certificate with OpenSSL. Raises LineError."""
        (order,) = (await self.ask("order", "list"))["orders"]
        if order["faults"] or (order["begun"], order["confirmed"], order["open"]) != (count, count, 0):
            raise LineError(f"the order's account is not what it should be: {order}")
        self.say(f"order {order['id']}: {order['confirmed']} confirmed, {order['begun']} of {order['credit']} begun, adds up")


@asynccontextmanager
async def simulated(directory: Path, count: int, slow_key_s: int = 0) -> AsyncIterator[str]:
    """Devices as a process of their own; what the configuration says of their ports."""
    words = ["--slow-key", str(slow_key_s)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway", "simulate", "--count", str(count), "--kind", "shell", "--directory", str(directory)),
        *words, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        lines = []
        while (line := (await process.stdout.readline()).decode()) and "READY" not in line:
            lines.append(line)
        if not line:
            raise LineError("the simulated devices did not start")
        yield "".join(lines)
    finally:
        with suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


def _is_done(ports: list[dict[str, Any]]) -> bool:
    return all(each["state"] == "done" for each in ports)


async def play(directory: Path, count: int, say: Callable[[str], None], stop: asyncio.Event | None) -> None:
    """Simulated devices; with ``stop`` the line goes on until that is set, without it the gateway is killed on the way."""
    directory.mkdir(exist_ok=True)
    async with AsyncExitStack() as closing:
        ports = await closing.enter_async_context(simulated(directory / "devices", count, _SLOW_KEY_S if stop is None else 0))
        here = Demo(directory, say)
        here.configure(ports)
        say("starting a demo gateway (NOT FOR PRODUCTION) ...")
        await here.start()
        closing.push_async_callback(here.stop)
        await here.order()
        if stop is None:
            await here.until(lambda ports: any(each["unit"] for each in ports), "a unit")
            await here.stop(signal.SIGKILL)
            say("the gateway was killed (SIGKILL) with units in its hands; starting it again")
            await here.start()
        await here.until(_is_done, "the end of all devices")
        await here.verdict(count)
        compare(directory, say)
        if stop is not None:
            say(welcome(here))
            await stop.wait()
            say("stopping ...")
    if stop is None:
        await verified(directory, say)


def compare(directory: Path, say: Callable[[str], None]) -> None:
    """What the devices hold: each its own certificate, for its own key, below the demo's root. Raises LineError."""
    anchors, serials = directory / "gateway" / "trust-anchors.pem", set()
    for device in sorted((directory / "devices").glob("device-*")):
        identity = device / "identity"
        leaf, chain, key = (identity / name for name in ("certificate.pem", "chain.pem", "key.pem"))
        run = ["openssl", "verify", "-CAfile", str(anchors), "-untrusted", str(chain), str(leaf)]
        told = subprocess.run(run, capture_output=True, text=True, check=False)
        if told.returncode != 0:
            raise LineError(f"{device.name}: {told.stderr.strip()}")
        public = [
            subprocess.run(["openssl", *words], capture_output=True, check=True).stdout
            for words in (("x509", "-in", leaf, "-noout", "-pubkey"), ("pkey", "-in", key, "-pubout"))
        ]
        if public[0] != public[1]:
            raise LineError(f"{device.name} holds a certificate for another key")
        words = ["openssl", "x509", "-in", str(leaf), "-noout", "-subject", "-nameopt", "RFC2253"]
        serials.add(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    say(f"{len(serials)} devices hold {len(serials)} different certificates, each for its own key; openssl verify: OK")


async def verified(directory: Path, say: Callable[[str], None]) -> None:
    command = Demo(directory, say).command("verify")
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    said, _ = await process.communicate()
    if process.returncode != 0:
        raise LineError(f"the journal does not verify: {said.decode()}")
    say("edge-gateway verify: the whole journal is right")


def welcome(here: Demo) -> str:
    gateway = f".venv/bin/edge-gateway --state {shlex.quote(str(here.state))}"
    lines = [
        "",
        "NOT FOR PRODUCTION. Ctrl-C ends it; the next start goes on where it was. In another terminal:",
        "",
        f"  {gateway} line ports",
        f"  {gateway} order list",
        f"  {gateway} unit show SN-000001",
        f"  {gateway} unit papers SN-000001 | head -c 300",
        f"  {gateway} doctor",
        f"  openssl x509 -in {here.directory}/devices/device-1/identity/certificate.pem -noout -text",
        f"  # labels: {here.state}/line/DEMO-1/*.png",
        f"  # a device begins anew as another one: rm -r {here.directory}/devices/device-1, and start again",
        "",
    ]
    return "\n".join(lines)


async def guest(directory: Path, say: Callable[[str], None]) -> None:
    """A real Linux guest: provisioned over its serial console, its power cut, its identity proved after the reboot."""
    from provisioning.drivers.linux import open_device
    from tests.support.guest import Guest, powered

    machine = Guest(directory / "guest")
    settings = ", ".join(f"{name} = {json.dumps(value)}" for name, value in machine.settings.items())
    port = f'[line.port.guest]\naddress = "unix:{machine.console}"\ndriver = "linux"\nsettings = {{ {settings} }}\n'
    async with AsyncExitStack() as closing:
        say("booting a Linux guest in QEMU (without KVM: some seconds) ...")
        await closing.enter_async_context(powered(machine))
        here = Demo(directory, say)
        here.configure(port)
        await here.start()
        closing.push_async_callback(here.stop)
        await here.order()
        await here.until(_is_done, "the end of the guest's unit")
        await here.verdict(1)
        await here.stop()  # its port is the guest's console
        say("cutting the guest's power, and booting it again ...")
        await machine.cut()
        await machine.power_on()
        async with open_device(machine.address, machine.settings) as driver:
            held = await driver.read_back()
            challenge = os.urandom(32)
            signature = await driver.prove(challenge)
    certificate = x509.load_der_x509_certificate(held)
    key = certificate.public_key()
    if not isinstance(key, PublicKey) or not signature_is_valid(key, default_algorithm(key), signature, challenge):
        raise LineError("after the reboot the guest does not prove its key")
    say(f"after the reboot it holds {name_to_text(certificate.subject)} and has signed a fresh challenge with its key")
    await verified(directory, say)


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/line", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--state", type=Path, metavar="DIR", help=f"where everything lies (default: {_STATE})")
    parser.add_argument("--devices", type=int, default=8, help="how many simulated devices (default: 8)")
    parser.add_argument("--check", action="store_true", help="the whole story in a new directory, removed at the end")
    parser.add_argument("--guest", action="store_true", help="a Linux guest in QEMU instead of simulated devices")
    arguments = parser.parse_args(argv)
    begin = time.monotonic()

    def say(text: str) -> None:
        print(text if text.startswith("\n") else f"{time.monotonic() - begin:6.1f} s  {text}", flush=True)

    try:
        if arguments.check or arguments.guest:
            with tempfile.TemporaryDirectory(prefix="line-") as folder:
                story = guest(Path(folder), say) if arguments.guest else play(Path(folder), arguments.devices, say, None)
                asyncio.run(story)
            say("all is as it should be")
        else:
            os.umask(0o077)
            directory = (arguments.state or _STATE).absolute()
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            asyncio.run(_until_stopped(directory, arguments.devices, say))
    except (LineError, GatewayError, OSError) as error:
        print(f"scripts/line: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


async def _until_stopped(directory: Path, count: int, say: Callable[[str], None]) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await play(directory, count, say, stop)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Simulated devices for line integrators without hardware: ``edge-gateway simulate``.

Each device has a Unix socket as its port and a directory as its storage, so it is the same device after a restart. A ``shell``
is busybox's real shell with the system's real openssl on a pseudo terminal; a ``modem`` is made up (:mod:`.simulated_modem`).
A fault makes a device behave as broken, forged or mistaken ones do. Nothing here needs a gateway.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import os
import pty
import random
import shlex
import shutil
import signal
import subprocess
import sys
import termios
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from provisioning.simulated_modem import Cut, Modem

FAULTS = {
    "garbage": "says octets that mean nothing between its answers",
    "endless": "begins to talk after the first command and never stops",
    "silent": "never answers",
    "cut": "loses its power in the middle of a write, once, and starts again",
    "cloned-key": "comes with a key that the others with this fault have, too",
    "repeated-serial": "says the serial number that the others with this fault say",
    "wrong-chip": "is another chip after every restart",
}
#: Seconds that a device takes to start, and the longest path of a Unix socket (sun_path of unix(7), without its NUL).
BOOT_S = 0.2
_SOCKET_PATH = 107
_CHUNK = 4096
#: How much a shell is told before a fault that needs the middle of something: the certificate's first lines.
_CUT_AFTER = b"certificate.pem.new"
#: A modem's fourth write is its certificate's: key, chain and serial number come before.
_CUT_AT = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """One simulated device."""

    number: int
    kind: str
    folder: Path
    fault: str
    seed: int
    slow_key_s: float

    @property
    def port(self) -> Path:
        return self.folder / "port"

    def digest(self, purpose: str, *, shared: bool = False) -> bytes:
        """Octets that follow from the seed, this device (unless shared) and the purpose."""
        return hashlib.sha256(f"{self.seed}/{'' if shared else self.number}/{purpose}".encode()).digest()


def plan(
    count: int, kind: str, directory: Path, faults: Sequence[str] = (), *, seed: int = 0, slow_key_s: float = 0.0
) -> list[Plan]:
    """``count`` devices; the last of them have the faults."""
    without = [""] * (count - len(faults))
    return [
        Plan(number, kind, directory / f"device-{number}", fault, seed, slow_key_s)
        for number, fault in enumerate([*without, *faults], 1)
    ]


def prepare(device: Plan) -> None:
    """Make the device's storage, unless it is there."""
    identity = device.folder / "identity"
    identity.mkdir(parents=True, exist_ok=True)
    chip = device.folder / "chip"
    if not chip.exists():
        chip.write_text(f"SIM-{device.digest('chip').hex()[:12].upper()}")
    if device.fault == "repeated-serial":
        (device.folder / "serial").write_text("SIM-REPEATED")
    if device.fault == "cloned-key":
        encoding, name = (Encoding.PEM, "identity/key.pem") if device.kind == "shell" else (Encoding.DER, "key")
        scalar = int.from_bytes(device.digest("key", shared=True), "big") % 2**255 + 1  # below the order of P-256
        key = ec.derive_private_key(scalar, ec.SECP256R1())
        (device.folder / name).write_bytes(key.private_bytes(encoding, PrivateFormat.PKCS8, NoEncryption()))


def rechip(device: Plan, boot: int) -> None:
    """The fault of a device that is another one after each start."""
    if device.fault == "wrong-chip":
        (device.folder / "chip").write_text(f"SIM-{device.digest(f'chip/{boot}').hex()[:12].upper()}")


class Port:
    """A device's Unix socket. One client at a time, as on a serial port; what is said to nobody is lost."""

    def __init__(self, device: Plan) -> None:
        self.device = device
        self.random = random.Random(device.digest("noise"))  # noqa: S311  # noise, the same in every run
        self._writer: asyncio.StreamWriter | None = None
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        self.device.port.unlink(missing_ok=True)
        self._server = await asyncio.start_unix_server(self._accept, self.device.port)
        await self.start()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._writer is not None:
            self._writer.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.stop()
        self.device.port.unlink(missing_ok=True)

    async def start(self) -> None:
        """Give the device power."""

    async def stop(self) -> None:
        """Take its power."""

    async def hear(self, data: bytes) -> None:
        """What the client sends."""
        raise NotImplementedError

    def say(self, data: bytes) -> None:
        """To the client, with what the fault adds."""
        if self.device.fault == "silent" or self._writer is None:
            return
        if self.device.fault == "garbage":
            self._writer.write(self.random.randbytes(self.random.randrange(40)).replace(b"@", b"") + b"\r\n")
        self._writer.write(data)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._writer is not None:
            writer.close()
            return
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
        self._writer = writer
        try:
            while data := await reader.read(_CHUNK):
                if self.device.fault == "endless":
                    await self._talk(writer)
                if self.device.fault != "silent":
                    await self.hear(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            self._writer = None
            writer.close()
            if task is not None:
                self._tasks.discard(task)

    @staticmethod
    async def _talk(writer: asyncio.StreamWriter) -> None:
        while not writer.is_closing():
            writer.write(b"still alive\r\n" * 64)
            await writer.drain()
            await asyncio.sleep(0.001)


class ModemPort(Port):
    def __init__(self, device: Plan) -> None:
        super().__init__(device)
        self._modem = Modem(device.folder, slow_key_s=device.slow_key_s, cut_at=_CUT_AT if device.fault == "cut" else 0)
        self._line = bytearray()
        self._boots = 0

    async def start(self) -> None:
        self._boots += 1
        rechip(self.device, self._boots)
        self._modem.boot()

    async def hear(self, data: bytes) -> None:
        self._line += data.replace(b"\n", b"")
        while b"\r" in self._line:
            line, _, self._line = self._line.partition(b"\r")
            try:
                answer = await self._modem.answer(line.decode("ascii", "replace"))
            except Cut:
                await self._restart()
                return
            self.say("".join(f"\r\n{text}\r\n" for text in answer).encode())
            if self._modem.resets:
                await self._restart()

    async def _restart(self) -> None:
        self._line.clear()
        await asyncio.sleep(BOOT_S)
        await self.start()
        self.say(b"\r\nRDY\r\n")


class ShellPort(Port):
    """A real shell on a pseudo terminal; when it ends, the device starts again."""

    def __init__(self, device: Plan, tools: Path) -> None:
        super().__init__(device)
        self._tools = tools
        self._process: asyncio.subprocess.Process | None = None
        self._terminal = -1
        self._boots = 0
        self._cut = device.fault == "cut"
        self._living: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._living = asyncio.create_task(self._live(), name=f"device {self.device.number}")

    async def stop(self) -> None:
        if self._living is not None:
            self._living.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._living

    async def hear(self, data: bytes) -> None:
        if self._terminal < 0:
            return  # it has no power
        with contextlib.suppress(OSError):
            os.write(self._terminal, data)
        if self._cut and _CUT_AFTER in data and self._process is not None:
            self._cut = False
            _kill(self._process)

    async def _live(self) -> None:
        while True:
            self._boots += 1
            rechip(self.device, self._boots)
            (self.device.folder / "boot_id").write_text(f"{self._boots}-{self.device.digest(str(self._boots)).hex()[:16]}\n")
            await self._boot()
            await asyncio.sleep(BOOT_S)

    async def _boot(self) -> None:
        """From power on to the end of the shell."""
        master, slave = pty.openpty()
        loop = asyncio.get_running_loop()
        os.set_blocking(master, False)
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(str(self._tools / "sh"), "-i", "+m"),
                stdin=slave,
                stdout=slave,
                stderr=slave,
                cwd=self.device.folder,
                env={"PATH": str(self._tools), "HOME": str(self.device.folder), "PS1": "device:~# ", "TERM": "dumb"},
                start_new_session=True,
                preexec_fn=_take_terminal,  # one system call; the terminal's Ctrl-C must reach the shell
            )
            os.close(slave)
            slave = -1
            loop.add_reader(master, self._relay, master)
            self._terminal = master
            await self._process.wait()
        finally:
            self._terminal = -1
            loop.remove_reader(master)
            os.close(master)
            if slave >= 0:
                os.close(slave)
            if self._process is not None and self._process.returncode is None:
                _kill(self._process)
                await self._process.wait()

    def _relay(self, master: int) -> None:
        try:
            self.say(os.read(master, _CHUNK))
        except OSError:
            asyncio.get_running_loop().remove_reader(master)  # the shell has ended


def _kill(process: asyncio.subprocess.Process) -> None:
    """The shell and what it started, if it has not ended by itself just now."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _take_terminal() -> None:
    """The new session's terminal is its standard input (tty(4), TIOCSCTTY)."""
    import fcntl

    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def install_tools(directory: Path, slow_key_s: float) -> Path:
    """A directory with busybox's tools and openssl; with a slow key, an openssl that takes its time to make one."""
    busybox, openssl = shutil.which("busybox"), shutil.which("openssl")
    if busybox is None or openssl is None:
        raise FileNotFoundError("a simulated shell needs busybox and openssl: apt-get install busybox-static openssl")
    tools = directory / "tools"
    shutil.rmtree(tools, ignore_errors=True)
    tools.mkdir(parents=True)
    for applet in subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split():  # noqa: S603
        (tools / applet).symlink_to(busybox)
    if slow_key_s:
        slow = f'#!{tools}/sh\ncase "$1" in genpkey) sleep {slow_key_s};; esac\nexec {shlex.quote(openssl)} "$@"\n'
        (tools / "openssl").write_text(slow)
        (tools / "openssl").chmod(0o755)
    else:
        (tools / "openssl").symlink_to(openssl)
    return tools


def settings_of(device: Plan) -> str:
    """Driver and settings for this device, as they stand in the line's configuration."""
    recipes = Path(__file__).parent / "recipes"
    if device.kind == "modem":
        return f'driver = "recipe", settings = {{ file = "{recipes / "at-modem.toml"}" }}'
    folder = device.folder
    settings = f'directory = "{folder}/identity", scratch = "{folder}", chip_command = "cat {folder}/chip", '
    if device.fault == "repeated-serial":
        settings += f'serial_command = "cat {folder}/serial", '
    settings += (
        f'boot_id_command = "cat {folder}/boot_id", reset_command = "kill -9 $$", boot_quiet_s = 0.3, quiet_kernel = false'
    )
    return f'driver = "linux", settings = {{ {settings} }}'


async def simulate(devices: Sequence[Plan], directory: Path, until: asyncio.Event) -> None:
    """Run the devices until the event is set. When all are there, what the line's configuration needs is printed, as TOML."""
    tools = install_tools(directory, devices[0].slow_key_s) if devices[0].kind == "shell" else directory
    ports: list[Port] = []
    try:
        print("[line.port]")
        for device in devices:
            prepare(device)
            port: Port = ShellPort(device, tools) if device.kind == "shell" else ModemPort(device)
            ports.append(port)
            await port.open()
        for device in devices:
            fault = f" # {device.fault}: {FAULTS[device.fault]}" if device.fault else ""
            print(f'device-{device.number} = {{ address = "unix:{device.port}", {settings_of(device)} }}{fault}')
        print(f"# READY: {len(devices)} devices; Ctrl-C ends them, their storage stays in {directory}", flush=True)
        await until.wait()
    finally:
        for port in ports:
            await port.close()


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="edge-gateway simulate", description="Simulated devices for a line.")
    parser.add_argument("--count", type=int, default=8, help="how many devices (1 to 256)")
    parser.add_argument("--kind", choices=("shell", "modem"), default="modem", help="busybox and openssl, or a made-up modem")
    parser.add_argument("--directory", type=Path, required=True, help="where they keep what they keep")
    parser.add_argument("--seed", type=int, default=0, help="other numbers give other chips")
    parser.add_argument("--slow-key", type=float, default=0.0, metavar="SECONDS", help="how long making a key takes")
    faults = "; ".join(f"{name}: {what}" for name, what in FAULTS.items())
    parser.add_argument(
        "--fault", action="append", default=[], choices=FAULTS, help=f"one device has it; may be repeated. {faults}"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    parser = build_parser()
    arguments = parser.parse_args(argv)
    directory: Path = arguments.directory.absolute()
    if not 1 <= arguments.count <= 256 or len(arguments.fault) > arguments.count:
        parser.error("--count is 1 to 256, and there are at most as many faults")
    if len(str(directory)) > _SOCKET_PATH - len("/device-256/port"):
        parser.error(f"--directory is too long for Unix sockets in it: {directory}")
    devices = plan(
        arguments.count, arguments.kind, directory, arguments.fault, seed=arguments.seed, slow_key_s=arguments.slow_key
    )
    try:
        asyncio.run(_until_interrupted(devices, directory))
    except OSError as error:
        print(f"edge-gateway simulate: {error}", file=sys.stderr)
        return 1
    return 0


async def _until_interrupted(devices: Sequence[Plan], directory: Path) -> None:
    until = asyncio.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(sign, until.set)
    await simulate(devices, directory, until)


if __name__ == "__main__":
    sys.exit(main())

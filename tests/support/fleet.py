"""A central and its gateways as real processes on this machine, with a cable between them that can be unplugged.

``scripts/fleet`` (:mod:`tests.support.fleet_command`) starts it for people to play with; :mod:`tests.support.fleet_story` is
what it must live through. Everything lies in one directory and is found there again at the next start.
"""

from __future__ import annotations

import asyncio
import base64
import json
import random
import signal
import socket
import sys
import time
import tomllib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from gateway.journal.canonical import JsonValue
from gateway.web.unix_client import ControlClient, connected
from tests.load.client import Figures, Load, Plan
from tests.support.fault_proxy import FaultProxy

JsonObject = dict[str, JsonValue]
PROFILE = "ldevid"
#: Far longer than anything here takes; it only ends what would otherwise hang.
DEADLINE_S = 120.0
_CONNECTIONS = 8
#: Below net.ipv4.ip_local_port_range, which begins with 32768.
_PORTS = (20_000, 32_000)
_NAMES = 'names = ["localhost", "127.0.0.1"]'


class FleetError(Exception):
    """A process did not do what it should; the text says which and where its log is."""


class Daemon:
    """One process of the fleet: ``module`` is run with its state in ``state``."""

    def __init__(self, module: str, state: Path) -> None:
        self.name, self.state, self.log = state.name, state, state / "daemon.log"
        self._line = [sys.executable, "-m", module, "--state", str(state)]
        self._process: asyncio.subprocess.Process | None = None

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Until ``endpoints.json`` says that it serves."""
        ready = self.state / "endpoints.json"
        ready.unlink(missing_ok=True)
        with self.log.open("ab") as log:
            # A group of its own, so that Ctrl-C reaches us alone and everything is stopped once, in order.
            self._process = await asyncio.create_subprocess_exec(*self._line, "run", stdout=log, stderr=log, process_group=0)
        deadline = time.monotonic() + DEADLINE_S
        while not ready.exists():
            if not self.runs or time.monotonic() > deadline:
                raise FleetError(f"{self.name} did not start; {self.log} says why:\n{_tail(self.log)}")
            await asyncio.sleep(0.02)  # the file appears in one step; another process learns of it by looking

    async def stop(self) -> None:
        """In order. Raises FleetError for one that ends with an error."""
        if self._process is None:
            return
        if self.runs:
            self._process.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(self._process.wait(), DEADLINE_S)
        self._process = None
        if code != 0:
            raise FleetError(f"{self.name} ended with {code}; {self.log} says why:\n{_tail(self.log)}")

    async def kill(self) -> None:
        """SIGKILL, in the midst of whatever it does."""
        assert self._process is not None
        self._process.kill()
        await self._process.wait()
        self._process = None

    async def command(self, *arguments: str, stdin: str = "") -> JsonObject:
        """What ``--json ARGUMENTS`` answers. Raises FleetError with what it says on standard error."""
        process = await asyncio.create_subprocess_exec(
            *self._line, "--json", *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        answer, complaint = await process.communicate(stdin.encode())
        if process.returncode != 0:
            raise FleetError(f"{self.name}: {' '.join(arguments)}: {complaint.decode()}")
        content: JsonObject = json.loads(answer)
        return content

    @asynccontextmanager
    async def control(self) -> AsyncIterator[ControlClient]:
        """Its control socket, for what is asked often."""
        async with connected(self.state / "control.sock") as client:
            yield client

    async def ask(self, path: str, body: JsonObject | None = None) -> JsonObject:
        async with self.control() as client:
            return await (client.get(path) if body is None else client.post(path, body))

    @property
    def endpoints(self) -> JsonObject:
        content: JsonObject = json.loads((self.state / "endpoints.json").read_text(encoding="utf-8"))
        return content

    def port(self, listener: str) -> int:
        """From the configuration, because a daemon that was killed keeps its port."""
        found = tomllib.loads(next(self.state.glob("c*.toml")).read_text(encoding="utf-8"))
        return int(found["listen"][listener]["port"])


class Gateway(Daemon):
    def __init__(self, state: Path) -> None:
        super().__init__("gateway", state)
        self.origin = ""
        self._token = ("", "")

    async def prepare(self) -> None:
        """Configuration, keys and journal, where there are none yet."""
        if (self.state / "config.toml").exists():
            return
        self.state.mkdir(mode=0o700, parents=True)
        https, http = free_ports(2)
        (self.state / "config.toml").write_text(
            f'# NOT FOR PRODUCTION: the CA key lies in a file.\n[gateway]\nname = "{self.name}"\n'
            f'base_url = "http://localhost:{http}"\n[listen.https]\nhost = "127.0.0.1"\nport = {https}\n'
            f'[listen.http]\nhost = "127.0.0.1"\nport = {http}\n[tls]\n{_NAMES}\n[est]\nprofile = "{PROFILE}"\n',
            encoding="utf-8",
        )
        await self.command("init")

    async def join(self, central: Daemon, url: str) -> None:
        """With a new one-time code, unless it belongs to central already; then make a token for devices."""
        self.origin = str(_object(self.endpoints["journal"])["origin"])
        if not (await self.ask("/central"))["joined"]:
            code = str((await central.command("code"))["code"])
            await self.command("join", "--code", "fd:0", url, stdin=code + "\n")
        await self.new_token()

    async def new_token(self) -> None:
        """One that is good for a million certificates; kept for curl in ``netrc``."""
        body: JsonObject = {"profile": PROFILE, "uses": 1_000_000, "hours": 8760, "subject": "", "station": False}
        token = await self.ask("/tokens", body)
        self._token = str(token["token_id"]), str(token["secret"])
        netrc = self.state / "netrc"
        netrc.touch(mode=0o600)
        netrc.write_text("machine localhost login {} password {}\n".format(*self._token), encoding="utf-8")

    def plan(self, count: int, prefix: str) -> Plan:
        login = base64.b64encode(":".join(self._token).encode()).decode()
        return Plan(
            "localhost", self.port("https"), anchors=str(self.state / "trust-anchors.pem"), authorization=f"Basic {login}",
            count=count, connections=min(count, _CONNECTIONS), prefix=prefix,
        )  # fmt: skip

    async def issue(self, count: int, prefix: str) -> Figures:
        """``count`` certificates over EST, each with a new key."""
        load = await asyncio.to_thread(Load, self.plan(count, prefix))
        figures = await asyncio.to_thread(load.run)
        if figures.ok != count:
            raise FleetError(f"{self.name} issued {figures.ok} of {count} certificates: {figures.statuses}")
        return figures


class Fleet:
    """``directory`` holds the states of all. Use it as ``async with Fleet.running(directory) as fleet``."""

    def __init__(self, directory: Path, gateways: int) -> None:
        self.directory = directory
        self.central = Daemon("sync.central.cli", directory / "central")
        self.gateways = [Gateway(directory / f"gateway-{number}") for number in range(1, gateways + 1)]
        self.cable = FaultProxy(lambda: ("127.0.0.1", self.central.port("https")))

    @classmethod
    @asynccontextmanager
    async def running(cls, directory: Path, gateways: int = 2) -> AsyncIterator[Fleet]:
        """Started and joined; stopped in order at the end."""
        fleet = cls(directory, gateways)
        try:
            await fleet.start()
            yield fleet
        finally:
            await fleet.stop()

    @property
    def daemons(self) -> list[Daemon]:
        return [self.central, *self.gateways]

    async def start(self) -> None:
        cable_port = await self._prepare_central()
        await self.cable.start(cable_port)
        await asyncio.gather(*(gateway.prepare() for gateway in self.gateways))
        await self.central.start()
        await asyncio.gather(*(gateway.start() for gateway in self.gateways))
        for gateway in self.gateways:
            await gateway.join(self.central, f"https://localhost:{cable_port}")

    async def stop(self) -> None:
        problems = await asyncio.gather(*(daemon.stop() for daemon in reversed(self.daemons)), return_exceptions=True)
        await self.cable.close()
        for problem in problems:
            if isinstance(problem, BaseException):
                raise problem

    async def _prepare_central(self) -> int:
        """Configuration, keys and root, where there are none yet; returns the port of the cable."""
        state = self.central.state
        path = state / "central.toml"
        if not path.exists():
            state.mkdir(mode=0o700, parents=True)
            https, http, cable = free_ports(3)
            path.write_text(
                f'# NOT FOR PRODUCTION: the root key lies in a file.\n[central]\nname = "central"\n'
                f'urls = ["https://localhost:{cable}"] # the cable, which can be unplugged\n'
                f'[listen.https]\nhost = "127.0.0.1"\nport = {https}\n[listen.http]\nhost = "127.0.0.1"\nport = {http}\n'
                f"[tls]\n{_NAMES}\n",
                encoding="utf-8",
            )
            await self.central.command("init")
        url: str = tomllib.loads(path.read_text(encoding="utf-8"))["central"]["urls"][0]
        return int(url.rsplit(":", 1)[1])

    async def plug(self) -> None:
        """The cable is in, and whoever did it lets the gateways try at once (``edge-gateway central --now``)."""
        self.cable.plug()
        for gateway in self.gateways:
            await gateway.ask("/central/now", {})

    async def issue(self, count: int, prefix: str) -> float:
        """``count`` certificates, spread over the gateways; returns the seconds it took."""
        shares = [count // len(self.gateways)] * len(self.gateways)
        shares[0] += count - sum(shares)
        begin = time.monotonic()
        await asyncio.gather(
            *(
                gateway.issue(share, f"{gateway.name}-{prefix}")
                for gateway, share in zip(self.gateways, shares, strict=True)
                if share
            )
        )
        return time.monotonic() - begin


async def until(
    condition: Callable[[], Awaitable[bool]], what: str, *, deadline_s: float = DEADLINE_S, every_s: float = 0.1
) -> float:
    """The seconds until ``condition`` holds. Raises FleetError when it never does."""
    begin = time.monotonic()
    while not await condition():
        if time.monotonic() - begin > deadline_s:
            raise FleetError(f"not within {deadline_s:.0f} s: {what}")
        await asyncio.sleep(every_s)
    return time.monotonic() - begin


def free_ports(count: int) -> list[int]:
    """Ports of loopback where nobody listens now, all different; below those that the system gives to outgoing connections,
    any of which could take one before its daemon listens there."""
    sockets: list[socket.socket] = []
    try:
        while len(sockets) < count:
            with suppress(OSError):  # somebody listens there
                sockets.append(socket.create_server(("127.0.0.1", random.randrange(*_PORTS))))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _object(value: JsonValue) -> JsonObject:
    assert isinstance(value, dict)
    return value


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]) if log.exists() else ""

"""The line under load: every port at once, real shells and openssl behind them, faulty devices beside good ones, a restart.

The devices run in a process of their own on the last core, the gateway on the first. A round is one device for each port, from
the moment they are all there to the last confirmation. What a unit's states cost in time is read from the journal afterwards.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from gateway.app import opened
from gateway.config import load_config
from gateway.journal.line_records import UnitReserved
from gateway.journal.records import Started
from provisioning.station import State, Unit

Row = dict[str, object]
Run = Callable[..., str]
_DEADLINE_S = 600
_FAULTS = ("garbage", "endless", "silent", "wrong-chip")
_ORDER = """\
id = "BENCH"
product = "PLC"
profile = "idevid"
credit = 100000
numbers = { prefix = "B-", first = 1, last = 100000, digits = 6 }
lock = false
driver = "linux"
"""


class Hall:
    """``ports`` simulated devices, always at the same addresses."""

    def __init__(self, directory: Path, ports: int) -> None:
        directory.mkdir()
        self.directory, self.ports = directory, ports
        self.order = directory / "bench.order"
        self._devices: subprocess.Popen[str] | None = None
        self._key, self._toml = directory / "orders.pem", directory / "order.toml"
        self._toml.write_text(_ORDER)
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", self._key], check=True, capture_output=True)

    def configuration(self) -> str:
        ports = self.begin(seed=0)
        self.end()
        command = [sys.executable, "-m", "gateway", "--json", "order", "sign", "--key", str(self._key), "--origin", "unused"]
        told = subprocess.run([*command, self._toml, self.order], check=True, capture_output=True, text=True).stdout
        line = f'order_keys = ["{json.loads(told)["order_key"]}"]\npoll_seconds = 0.05\nretry_seconds = 0.2\n'
        return f"[line]\n{line}{ports}"

    def sign_order(self, run: Run, state: Path) -> None:
        origin = json.loads(run("--json", "status"))["journal"]["origin"]
        run("order", "sign", "--key", str(self._key), "--origin", origin, str(self._toml), str(self.order))

    def begin(self, seed: int, faults: tuple[str, ...] = ()) -> str:
        """New devices at all ports; returns when they are there, with what the configuration says of them."""
        folder = self.directory / "devices"
        shutil.rmtree(folder, ignore_errors=True)
        command = [sys.executable, "-m", "gateway", "simulate", "--count", str(self.ports), "--kind", "shell",
                   "--directory", str(folder), "--seed", str(seed)]  # fmt: skip
        command += [part for fault in faults for part in ("--fault", fault)]
        if (os.cpu_count() or 1) > 1:
            command = ["taskset", "-c", str((os.cpu_count() or 2) - 1), *command]
        self._devices = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._devices.stdout is not None
        lines = []
        for line in self._devices.stdout:
            if "READY" in line:
                return "".join(lines)
            lines.append(line)
        raise RuntimeError("the simulated devices did not start")

    def end(self) -> None:
        if self._devices is not None:
            self._devices.send_signal(signal.SIGTERM)
            self._devices.wait()
            self._devices = None

    def _confirmed(self, run: Run) -> int:
        (order,) = json.loads(run("--json", "order", "list"))["orders"]
        return int(order["confirmed"])

    def rounds(self, run: Run, cpu_us: Callable[[], float], rounds: int) -> Row:
        """Rounds without faults, then as many with faulty devices among them."""
        seconds: dict[str, list[float]] = {"good": [], "faulty": []}
        spent: list[float] = []
        seed = 1
        for kind, faults in (("good", ()), ("faulty", _FAULTS)):
            for _ in range(rounds):
                used = cpu_us()
                seconds[kind].append(self._round(run, seed, faults))
                if not faults:
                    spent.append((cpu_us() - used) / self.ports)
                seed += 1
        median = statistics.median(seconds["good"])
        return {
            "ports": self.ports,
            "round_s": median,
            "round_with_4_faulty_s": statistics.median(seconds["faulty"]),
            "devices_per_h": self.ports * 3600 / median,
            "gateway_cpu_ms": statistics.median(spent) / 1000,
        }

    def _round(self, run: Run, seed: int, faults: tuple[str, ...]) -> float:
        """Seconds until all good devices are confirmed."""
        wanted = self._confirmed(run) + self.ports - len(faults)
        began = time.monotonic()
        self.begin(seed, faults)
        self._until(lambda: self._confirmed(run) >= wanted, "the round's end")
        seconds = time.monotonic() - began
        self.end()
        return seconds

    def until_begun(self, run: Run) -> None:
        """Return when half of the devices have an open unit."""
        self._until(lambda: len(json.loads(run("--json", "unit", "list"))["units"]) >= self.ports // 2, "open units")

    def until_done(self, run: Run) -> None:
        self._until(lambda: not json.loads(run("--json", "unit", "list"))["units"], "the end of all units")

    @staticmethod
    def _until(condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _DEADLINE_S
        while not condition():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} did not come")
            time.sleep(0.05)

    def from_journal(self, state: Path) -> Row:
        """What the records say of the time between states, and of the restart."""
        return asyncio.run(_from_journal(state))


async def _from_journal(state: Path) -> Row:
    async with opened(load_config(state / "config.toml").with_state(state)) as gateway:
        units: list[Unit] = []
        starts = [record.time async for record in gateway.journal.scan(Started)]
        async for record in gateway.journal.scan(UnitReserved):
            assert isinstance(record.payload, UnitReserved)
            units.append(await gateway.plant.units.get(record.payload.unit))
    restart = starts[-2]  # the last one is this reading
    resumed = [
        min(at for _, at in unit.times if at >= restart) - restart for unit in units if unit.began_ms < restart <= unit.moved_ms
    ]
    return {
        "units": len(units),
        "issue_p50_ms": _between(units, State.KEYED, State.ISSUED, 0.5),
        "issue_p99_ms": _between(units, State.KEYED, State.ISSUED, 0.99),
        "cycle_p50_ms": _between(units, State.RESERVED, State.CONFIRMED, 0.5),
        "cycle_p99_ms": _between(units, State.RESERVED, State.CONFIRMED, 0.99),
        "open_at_the_restart": len(resumed),
        "last_of_them_back_after_ms": max(resumed, default=0),
    }


def _between(units: list[Unit], first: State, second: State, share: float) -> float:
    spans = []
    for unit in units:
        times = dict(unit.times)
        if first in times and second in times:
            spans.append(times[second] - times[first])
    spans.sort()
    return float(spans[min(len(spans) - 1, int(len(spans) * share))]) if spans else 0.0

"""Kills a gateway at its line again and again, cuts its devices' power, and counts what became of every device.

    scripts/simulate-line --devices 10000              as ``docs/FAULTS.md`` reports
    scripts/simulate-line --devices 200 --naive        the control: issue, write, then record

At the end every device must hold exactly the one certificate that was ever sent to it, its unit must be confirmed, the order's
credit must be used once for each, and the journal must verify.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from gateway.journal.line_records import UnitEnded, UnitKeyed, UnitReserved
from gateway.journal.records import Intent, Issued
from gateway.journal.verify import verify
from provisioning.order_book import order_quota
from tests.sim.line_life import ORDER, Plan, device, live
from tests.support.authority import TestCa, authority_in


@dataclass
class Result:
    devices: int
    lives: int = 0
    kills: int = 0
    cuts: int = 0
    confirmed: int = 0
    doubled: list[int] = field(default_factory=list)  # devices that were sent two certificates
    lost: list[int] = field(default_factory=list)  # devices whose certificate is not the one of their unit
    quarantined: dict[int, str] = field(default_factory=dict)
    credit_used: int = 0
    certificates: int = 0
    voids: int = 0
    faults: list[str] = field(default_factory=list)  # of the account, of the journal
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        whole = self.confirmed == self.credit_used == self.certificates == self.devices
        return whole and not (self.doubled or self.lost or self.faults or self.quarantined)


def run(plan: Plan, *, kill_every: int, first_kill: int = 0, progress: bool = False) -> Result:
    """Live again and again until every device is finished, killed after 1 to ``kill_every`` ticks; with 0 the first life is
    killed, at tick ``first_kill``."""
    began, result, random = time.monotonic(), Result(len(plan.pending)), Random(plan.seed)
    pending = set(plan.pending)
    while pending:
        result.lives += 1
        kill_at = random.randint(1, kill_every) if kill_every else first_kill if result.lives == 1 else 0
        life = Plan(
            **{**asdict(plan), "pending": tuple(sorted(pending)), "kill_at": kill_at, "seed": random.randrange(1 << 30)}
        )
        told, status = live(life)
        _take(result, pending, told)
        if status == -9:
            result.kills += 1
        elif status != 0:
            raise RuntimeError(f"a life ended with {status}")
        if progress and result.lives % 20 == 0:
            sys.stderr.write(f"\r{result.devices - len(pending)} of {result.devices} devices, {result.kills} kills ")
    asyncio.run(_check(plan, result))
    result.seconds = round(time.monotonic() - began, 1)
    return result


def _take(result: Result, pending: set[int], told: list[dict[str, Any]]) -> None:
    for what in told:
        if "finished" in what:
            pending.discard(what["finished"])
        elif "quarantine" in what:
            result.quarantined[what["quarantine"]] = what["why"]
            pending.discard(what["quarantine"])
        elif "cut" in what:
            result.cuts += 1
        else:
            result.faults += what["faults"]


async def _check(plan: Plan, result: Result) -> None:
    """What the devices hold, beside what the journal says."""
    recorded: dict[str, bytes] = {}
    async with authority_in(plan.directory / "state", root=TestCa.make("Test Root")) as world:
        journal = world.journal.inner
        result.credit_used = journal.head.tallies[order_quota(ORDER)]
        units: dict[str, str] = {}
        async for record in journal.scan(UnitReserved, UnitEnded, UnitKeyed):
            match record.payload:
                case UnitReserved(unit=unit, chip=chip):
                    units[unit] = chip
                case UnitEnded(state="confirmed", unit=unit):
                    result.confirmed += 1
                    recorded[units[unit]] = b""
                case _:
                    pass
        intents: dict[int, Intent] = {}
        async for record in journal.scan(Intent, Issued):
            if isinstance(record.payload, Intent):
                intents[record.seq] = record.payload
            elif isinstance(record.payload, Issued) and intents[record.payload.intent].protocol == "line":
                result.certificates += 1
                chip = units[intents[record.payload.intent].requester.removeprefix("unit:")]
                recorded[chip] = record.payload.certificate_digest
        result.voids = len(intents) - result.certificates
    from hashlib import sha256

    for number in plan.pending:
        made = device(plan.directory / "devices", number)
        if len(made.received) > 1:
            result.doubled.append(number)
        if number not in result.quarantined and recorded.get(made.chip) != sha256(made.certificate).digest():
            result.lost.append(number)
    result.faults += [str(problem) for problem in verify(plan.directory / "state" / "journal.db").problems]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--ports", type=int, default=64)
    parser.add_argument("--kill-every", type=int, default=3000, help="longest life in ticks; 0: no kills (default: 3000)")
    parser.add_argument("--sweep", type=int, metavar="TICKS", help="one device, killed at each of the first ticks in turn")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--naive", action="store_true", help="the control: issue, write, then record")
    parser.add_argument("--pool", action="store_true", help="keys made by the gateway instead of on the device")
    parser.add_argument("--no-cuts", action="store_true", help="no device loses its power")
    chosen = parser.parse_args()
    variant, cuts = "naive" if chosen.naive else "product", not (chosen.no_cuts or chosen.sweep)
    if chosen.sweep:
        chosen.devices, chosen.ports, chosen.kill_every = 1, 1, 0
    results = []
    for first_kill in range(1, chosen.sweep + 1) if chosen.sweep else (0,):
        with TemporaryDirectory() as directory:
            numbers = tuple(range(chosen.devices))
            plan = Plan(Path(directory), numbers, len(numbers), 0, chosen.seed, chosen.ports, variant, cuts, chosen.pool)
            results.append(run(plan, kill_every=chosen.kill_every, first_kill=first_kill, progress=sys.stderr.isatty()))
    print(json.dumps([{**asdict(result), "clean": result.clean} for result in results], indent=1))
    return 0 if all(result.clean for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())

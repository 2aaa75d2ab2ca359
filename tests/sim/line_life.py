"""One life of a gateway with a line, in a forked child: devices on a conveyor at every port, SIGKILL at the n-th tick.

A tick is every moment at which a gateway may die: before and after each transaction of the journal, at each call of a driver
and each storage operation of a device. The devices live in directories and survive the gateway; some lose their power as well.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

from gateway.authority.authority import Authority
from gateway.authority.requests import EnrollmentRequest, Issued, Lane, Operation, Requester, RequesterKind
from gateway.journal.journal import Journal
from provisioning.device import Address, Csr, Device, KeyOrigin, Setting
from provisioning.idevid import named
from provisioning.line import Line, LineTimes, Port, PortState, PortView
from provisioning.order_book import OrderBook
from provisioning.station import State, Unit
from provisioning.units import PROTOCOL, Place, Units
from tests.support.authority import TestCa, authority_in
from tests.support.line import ORDER_VKEY, CountingFinisher, order_of, signed
from tests.support.simulated_device import Kept, PowerCut, SimulatedDevice, SimulatedDriver, seeded_keys

ORDER = "O-1"
TIMES = LineTimes(poll=0.0, retry=0.0)


@dataclass(frozen=True, slots=True)
class Plan:
    """``pending`` are the numbers of the devices that are not finished; ``kill_at`` the tick of the end, 0 for none."""

    directory: Path
    pending: tuple[int, ...]
    credit: int
    kill_at: int
    seed: int
    ports: int = 64
    variant: str = "product"  # or "naive": sign, write, then record
    cuts: bool = True
    pool: bool = False


class Ticks:
    """Counts the moments, and ends the process at one of them."""

    def __init__(self, kill_at: int) -> None:
        self.count, self._kill_at = 0, kill_at

    def __call__(self, _what: str = "") -> None:
        self.count += 1
        if self.count == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def device(directory: Path, number: int) -> SimulatedDevice:
    return SimulatedDevice(
        f"chip-{number:06d}", directory=directory / f"{number:06d}", make_key=seeded_keys(f"{directory}/{number}")
    )


class _Ticking(SimulatedDevice):
    ticks: Ticks
    tell: Callable[[object], None]

    def _operation(self) -> None:
        self.ticks("storage")
        super()._operation()

    def _cut_now(self) -> None:
        try:
            super()._cut_now()
        except PowerCut:
            self.tell({"cut": self.chip})
            raise


@dataclass
class Conveyor:
    """A port whose next device comes when the one before is finished."""

    plan: Plan
    ticks: Ticks
    waiting: list[int]  # shared by all ports
    random: Random
    tell: Callable[[object], None]
    number: int = -1
    here: SimulatedDevice | None = None

    def current(self) -> SimulatedDevice | None:
        if self.here is None and self.waiting:
            self.number = self.waiting.pop()
            made = device(self.plan.directory / "devices", self.number)
            made.__class__ = _Ticking
            made.ticks, made.tell = self.ticks, self.tell  # type: ignore[attr-defined]
            made.on_call = self.ticks
            if self.plan.cuts and self.random.random() < 0.5:
                made.cut_after, made.kept = self.random.randrange(16), self.random.choice(list(Kept))
            self.here = made
        return self.here

    def take_away(self) -> None:
        self.here = None

    @asynccontextmanager
    async def open(self, _address: Address, _settings: Mapping[str, Setting]) -> AsyncIterator[SimulatedDriver]:
        present = self.current()
        if present is None:
            await asyncio.Event().wait()
            raise AssertionError
        present.power_on()
        yield _Belt(self, present)


class _Belt(SimulatedDriver):
    """Whoever asks who is there gets the device that is there now."""

    def __init__(self, conveyor: Conveyor, present: SimulatedDevice) -> None:
        super().__init__(present)
        self._conveyor = conveyor

    async def identify(self) -> Device:
        present = self._conveyor.current()
        if present is None:
            await asyncio.Event().wait()
            raise AssertionError
        self.device = present
        return await super().identify()


class NaiveUnits(Units):
    """The mistake: issue, write to the device, and only then record that the unit has a certificate."""

    async def issue(self, unit: Unit, csr: Csr) -> Unit:
        order = self.orders.get(unit.order)
        request = EnrollmentRequest(
            csr=named(order, unit.serial, self.request_of(unit, csr)), profile=order.profile,
            requester=Requester(RequesterKind.ORDER, f"unit:{unit.id}"), operation=Operation.ENROLL, protocol=PROTOCOL,
            lane=Lane.LINE, transaction=os.urandom(8),
        )  # fmt: skip
        outcome = await self._authority.enroll(request)
        assert isinstance(outcome, Issued)
        return replace(unit, state=State.ISSUED, certificate=f"{outcome.serial:x}")

    async def move(self, unit: Unit, to: State, by: str, **changes: Any) -> Unit:
        if to is State.WRITTEN:
            return await self._record_move(unit, to, by, certificate=unit.certificate)
        return await super().move(unit, to, by, **changes)


async def _live(plan: Plan, tell: Callable[[object], None]) -> None:
    ticks, random = Ticks(plan.kill_at), Random(plan.seed)
    append = Journal.append

    async def ticking(self: Journal, *payloads: Any, urgent: bool = False) -> Any:
        ticks("before a transaction")
        records = await append(self, *payloads, urgent=urgent)
        ticks("after a transaction")
        return records

    root = TestCa.make("Test Root")
    (plan.directory / "state").mkdir(exist_ok=True)
    async with authority_in(plan.directory / "state", root=root) as world:
        authority: Authority = world.authority
        Journal.append = ticking  # type: ignore[method-assign]  # this process ends with this life
        book = await OrderBook.load(authority.journal, authority.ledger, lambda: (ORDER_VKEY,))
        origin = KeyOrigin.POOL if plan.pool else KeyOrigin.DEVICE
        await book.accept(signed(order_of(credit=plan.credit, key_origin=origin, label="plate", numbers=_numbers())), "file")
        units = await (NaiveUnits if plan.variant == "naive" else Units).load(authority, book)
        waiting = list(reversed(plan.pending))
        conveyors = [Conveyor(plan, ticks, waiting, random, tell) for _ in range(plan.ports)]
        ports = [
            Port(f"p{n}", Place(f"port:p{n}", f"p{n}", "simulated"), frozenset(KeyOrigin), _opened(each), ORDER)
            for n, each in enumerate(conveyors)
        ]
        line = Line(authority, units, CountingFinisher(on_call=ticks), ports, TIMES)
        left, done = set(plan.pending), asyncio.Event()

        def changed(view: PortView) -> None:
            conveyor = conveyors[int(view.port[1:])]
            if view.state is PortState.DONE and conveyor.here is not None:
                left.discard(conveyor.number)
                tell({"finished": conveyor.number})
                conveyor.take_away()
                if not left:
                    done.set()
            elif view.state is PortState.FAULT and units.open.get(view.unit, None) is not None:
                unit = units.open[view.unit]
                if unit.state is State.QUARANTINE:
                    tell({"quarantine": conveyor.number, "why": unit.detail})
                    left.discard(conveyor.number)
                    conveyor.here = None
                    if not left:
                        done.set()

        line.watch(changed)
        running = asyncio.create_task(line.run())
        await done.wait()
        running.cancel()
        await asyncio.wait([running])
        tell({"ticks": ticks.count, "faults": units.balance(ORDER).faults()})


def _opened(conveyor: Conveyor) -> Callable[[], Any]:
    return lambda: conveyor.open(Address("simulated"), {})


def _numbers() -> Any:
    from provisioning.orders import NumberRange

    return NumberRange("SN-", 1, 999_999, 6)


def live(plan: Plan) -> tuple[list[dict[str, Any]], int]:
    """Let a child live ``plan``: what it told, and its exit status (negative for a signal)."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reading)

            def tell(what: object) -> None:
                os.write(writing, json.dumps(what).encode() + b"\n")

            asyncio.run(_live(plan, tell))
            status = 0
        except BaseException as error:  # a child must end here, whatever happened
            sys.stderr.write(f"a life ended by {error!r}\n")
            raise
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = [json.loads(line) for line in pipe.read().splitlines()]
    _, status = os.waitpid(child, 0)
    return told, os.waitstatus_to_exitcode(status)

"""The line: one task for each port. It waits for a device, takes its unit through the states, and waits for the next one.

What goes wrong at a port stays there. A lost cable or a silent device leaves the unit where it is, and the work goes on when
the device answers again, also after a restart of the gateway: the device's chip number leads to its open unit, and the
unit's state says what to do. What a person must decide becomes a quarantine with a sentence.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TypeVar

from gateway.authority.authority import Authority
from gateway.errors import (
    Conflict,
    DeviceFault,
    DeviceRefused,
    DeviceSilent,
    Forbidden,
    GatewayError,
    NotFound,
    PortLost,
    RequestError,
    Unavailable,
    WrongDevice,
)
from provisioning.device import Device, Driver, KeyOrigin
from provisioning.station import State, Unit, next_step
from provisioning.steps import Finisher, Work
from provisioning.units import Place, Units

_log = logging.getLogger(__name__)
T = TypeVar("T")
PLUG_IN = "Plug in a device."
OVERDUE_INTERVAL_S = 60


@dataclass(frozen=True, slots=True)
class LineTimes:
    """Seconds. ``step`` is the longest that one step at a device may take: a slow chip makes an RSA key in minutes."""

    poll: float = 1.0  # between two looks at a port where nothing is to be done
    retry: float = 2.0  # after a fault of the port, or of our own
    step: float = 600.0


@dataclass(frozen=True, slots=True)
class Port:
    """One place where a device is plugged in. ``open`` reaches the device; ``order`` is empty where the line may choose."""

    name: str
    place: Place
    keys: frozenset[KeyOrigin]
    open: Callable[[], AbstractAsyncContextManager[Driver]]
    order: str = ""


class PortState(Enum):
    """For the wall of ports: what a technician sees."""

    FREE = "free"  # waits for a device
    BUSY = "busy"
    DONE = "done"  # the device may be taken away
    FAULT = "fault"  # says what to do
    WAITING = "waiting"  # for the gateway: HSM, approval, an order


@dataclass(frozen=True, slots=True)
class PortView:
    """``sentence`` tells the technician what is, ``hint`` what to do; ``step`` is what is being done. Times in ms UTC."""

    port: str
    state: PortState
    sentence: str
    hint: str = ""
    unit: str = ""
    serial: str = ""
    order: str = ""
    step: str = ""
    since_ms: int = 0
    made: int = 0  # units confirmed at this port since the start
    faults: int = 0


@dataclass(slots=True, eq=False)
class Worker:
    """A port at work. ``order`` was chosen by a person, in place of the port's."""

    port: Port
    view: PortView
    order: str = ""


class Line:
    """All ports. :meth:`run` works until it is cancelled."""

    def __init__(
        self, authority: Authority, units: Units, finisher: Finisher, ports: Sequence[Port], times: LineTimes | None = None
    ) -> None:
        self.authority, self.orders, self.units, self.finisher = authority, units.orders, units, finisher
        self.times = times or LineTimes()
        self._workers = {port.name: Worker(port, PortView(port.name, PortState.FREE, PLUG_IN)) for port in ports}
        self._watchers: list[Callable[[PortView], None]] = []

    @property
    def ports(self) -> tuple[PortView, ...]:
        return tuple(worker.view for worker in self._workers.values())

    def watch(self, watcher: Callable[[PortView], None]) -> None:
        """Call ``watcher`` whenever something about a port changes; it must be quick and must not raise."""
        self._watchers.append(watcher)

    def assign(self, port: str, order: str) -> None:
        """From the next device on, this port works under ``order``; empty: under the one that fits.

        Raises NotFound; Forbidden for an order that is closed.
        """
        if port not in self._workers:
            raise NotFound(f"there is no port {port[:80]!r}")
        if order:
            self.orders.in_force(order)
        self._workers[port].order = order

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for worker in self._workers.values():
                tasks.create_task(self._serve(worker), name=f"port-{worker.port.name}")
            tasks.create_task(self._watch_overdue(), name="line-overdue")

    async def _watch_overdue(self) -> None:
        while True:
            await self.units.end_overdue()
            await asyncio.sleep(OVERDUE_INTERVAL_S)

    async def _serve(self, worker: Worker) -> None:
        """One port, for ever; no fault ends it."""
        while True:
            pause = self.times.retry
            try:
                async with worker.port.open() as driver:
                    await _Session(self, worker, driver).run()
            except (PortLost, DeviceSilent) as fault:
                self._absent(worker, fault)
                pause = self.times.poll
            except Unavailable as error:
                self.show(worker, PortState.WAITING, str(error), hint=error.hint)
            except GatewayError as error:
                self.show(worker, PortState.FAULT, str(error), hint=error.hint)
            except Exception as error:  # whatever a driver or its library does, the other ports go on
                _log.exception("port %s", worker.port.name)
                self.show(worker, PortState.FAULT, f"Something unexpected: {type(error).__name__}.", hint=GatewayError.hint)
            await asyncio.sleep(pause)

    def _absent(self, worker: Worker, fault: DeviceFault) -> None:
        """No device is there, which is no fault unless it should be."""
        unit = self.units.open.get(worker.view.unit)
        if unit is not None and unit.state is not State.QUARANTINE:
            self.show(worker, PortState.FAULT, str(fault), hint=fault.hint)
        else:
            self.show(worker, PortState.FREE, PLUG_IN, unit="", serial="", order="", step="")

    def show(self, worker: Worker, state: PortState, sentence: str, *, hint: str = "", **changes: str) -> None:
        """What the technician sees of a port from here on."""
        view = worker.view
        faults = view.faults + (state is PortState.FAULT and view.state is not PortState.FAULT)
        shown = replace(view, state=state, sentence=sentence, hint=hint, faults=faults, **changes)  # type: ignore[arg-type]
        if shown != view:
            worker.view = replace(shown, since_ms=self.authority.clock.now_ms())
            for watcher in self._watchers:
                watcher(worker.view)

    def order_for(self, worker: Worker, device: Device) -> str:
        """The order of the next unit at this port. Raises Forbidden where a person must choose."""
        if chosen := worker.order or worker.port.order:
            return chosen
        place, fitting = worker.port.place, []
        for order in self.orders.all:
            try:
                self.orders.in_force(order.id).check_use(
                    station=place.station, driver=place.driver, recipe=place.recipe, now_ms=self.authority.clock.now_ms()
                )
            except RequestError:
                continue
            if not device.serial or order.allows(device.serial):
                fitting.append(order.id)
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            raise Forbidden(f"several orders fit this device ({', '.join(sorted(fitting)[:5])}); choose one for this port")
        raise Forbidden("there is no work order for this device; import one, or ask the PKI team")


@dataclass(slots=True)
class _Session:
    """One opening of a port: the devices that come while it stays open."""

    line: Line
    worker: Worker
    driver: Driver
    device: Device = field(default_factory=lambda: Device(""))
    finished: str = ""  # chip of the device that needs nothing more
    stopped: str = ""  # chip of the device that waits for a person; looked at again and again, as the person may be elsewhere

    async def run(self) -> None:
        times = self.line.times
        while True:
            self.device = await self._within(self.driver.identify(), "answer")
            if self.device.chip == self.finished:
                await asyncio.sleep(times.poll)
                continue
            self.finished = ""
            if await self._serve_device():
                self.finished, self.stopped = self.device.chip, ""
            else:
                self.stopped = self.device.chip
                await asyncio.sleep(times.retry)

    async def _serve_device(self) -> bool:
        """Take the device's unit to its end; False when it is left with a sentence for the technician."""
        line, worker = self.line, self.worker
        unit: Unit | None = None
        try:
            unit = await self._begin()
            if unit is not None:
                await self._go_on(unit)
            return True
        except (PortLost, DeviceSilent):
            raise  # the unit stays where it is
        except (DeviceRefused, WrongDevice, RequestError) as error:
            if unit is not None and isinstance(error, DeviceFault):
                await line.units.quarantine(unit, str(error), worker.port.place.station)
            line.show(worker, PortState.FAULT, str(error), hint=error.hint, step="")
            return False

    async def _begin(self) -> Unit | None:
        """The device's open unit, or a new one; None for a device that is finished."""
        line, worker, device = self.line, self.worker, self.device
        if device.chip != self.stopped:
            line.show(worker, PortState.BUSY, "A device answers.", unit="", serial="", order="", step="identify")
        unit = line.units.by_chip(device.chip)
        if unit is None:
            before = await line.units.latest_with(device.chip)
            if before is not None and before.state is State.CONFIRMED:
                self._show_finished(before)
                return None
            order = line.order_for(worker, device)
            unit = await line.units.reserve(order, worker.port.place, serial=device.serial, chip=device.chip)
        elif device.serial not in ("", unit.serial):
            raise WrongDevice(f"this device says it is {device.serial}, and began as {unit.serial}")
        if unit.state is State.QUARANTINE:
            line.show(worker, PortState.FAULT, worker.view.sentence, unit=unit.id, serial=unit.serial, order=unit.order)
            raise Conflict(unit.detail or "this unit is in quarantine; a person must decide")
        sentence = f"{unit.serial} is being made."
        line.show(worker, PortState.BUSY, sentence, unit=unit.id, serial=unit.serial, order=unit.order)
        return unit

    async def _go_on(self, unit: Unit) -> None:
        line, worker = self.line, self.worker
        order = line.orders.get(unit.order)
        work = Work(
            line.units, line.finisher, line.authority.pool, worker.port.keys, self.driver, self.device, order,
            worker.port.place.station,
        )  # fmt: skip
        while unit.is_open:
            step = next_step(unit, lock=order.lock, label=bool(order.label))
            line.show(worker, PortState.BUSY, worker.view.sentence, step=step.value)
            unit = await self._within(work.do(step, unit), step.value)
        worker.view = replace(worker.view, made=worker.view.made + 1)
        self._show_finished(unit)

    def _show_finished(self, unit: Unit) -> None:
        sentence = f"{unit.serial} is finished. Take the device away."
        self.line.show(self.worker, PortState.DONE, sentence, unit=unit.id, serial=unit.serial, order=unit.order, step="")

    async def _within(self, work: Awaitable[T], what: str) -> T:
        seconds = self.line.times.step
        try:
            async with asyncio.timeout(seconds):
                return await work
        except TimeoutError:
            raise DeviceSilent(f"the device did not {what} within {seconds:g} seconds") from None

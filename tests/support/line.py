"""A line in a temporary directory: the real authority and journal, simulated devices, a printer that only counts."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.authority.authority import Authority
from gateway.journal.checkpoint import verifier_key
from provisioning.device import Address, Device, KeyOrigin
from provisioning.line import Line, LineTimes, Port, PortState
from provisioning.order_book import OrderBook
from provisioning.orders import NumberRange, WorkOrder, sign_order
from provisioning.station import State, Unit
from provisioning.units import Place, Units
from tests.support.authority import TestCa, World, authority_in
from tests.support.simulated_device import SimulatedDevice, SimulatedDevices

ORDER_KEY = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"key of the tests' work orders").digest())
ORDER_VKEY = verifier_key("orders.test", ORDER_KEY.public_key())
ORIGIN = "gateway.test/1"
FAST = LineTimes(poll=0.001, retry=0.001)


def order_of(**changes: Any) -> WorkOrder:
    made = WorkOrder(
        id="O-1", version=1, origin=ORIGIN, product="PLC 7", profile="idevid", credit=100, expires=0,
        numbers=NumberRange("SN-", 1, 10_000, 5), hardware_type="1.3.6.1.4.1.32473.1", uri="https://acme.example/{serial}",
    )  # fmt: skip
    return replace(made, **changes)


def signed(order: WorkOrder, key: Ed25519PrivateKey = ORDER_KEY) -> bytes:
    return sign_order(order, "orders.test", key)


@dataclass
class CountingFinisher:
    """What stands in for printer and paper work; a record's digest follows from the unit alone."""

    labels: list[str] = field(default_factory=list)
    concluded: list[str] = field(default_factory=list)
    on_call: Callable[[str], None] = lambda _: None

    async def label(self, order: WorkOrder, unit: Unit) -> bytes:
        self.on_call("label")
        self.labels.append(unit.serial)
        return hashlib.sha256(unit.serial.encode()).digest()

    async def ticket(self, order: WorkOrder, unit: Unit) -> bytes:
        return b"ticket of " + unit.serial.encode()

    async def conclude(self, order: WorkOrder, unit: Unit, device: Device) -> bytes:
        self.on_call("conclude")
        self.concluded.append(unit.serial)
        return hashlib.sha256(unit.id.encode()).digest()


@dataclass
class Hall:
    """The line and everything around it."""

    world: World
    orders: OrderBook
    units: Units
    finisher: CountingFinisher
    devices: SimulatedDevices
    line: Line

    async def until(self, condition: Callable[[Hall], bool]) -> None:
        """Return once ``condition`` holds; it is looked at whenever a port or a unit changes."""
        changed = asyncio.Event()
        self.line.watch(lambda _: changed.set())
        self.units.watch(lambda _: changed.set())
        try:
            async with asyncio.timeout(120):
                while not condition(self):
                    await changed.wait()
                    changed.clear()
        except TimeoutError:
            raise AssertionError(f"the line came to rest elsewhere: {self.line.ports}") from None

    async def work(self, condition: Callable[[Hall], bool]) -> None:
        """Let the line run until ``condition`` holds."""
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(self.line.run())
            await self.until(condition)
            running.cancel()

    def all_done(self) -> bool:
        return all(view.state is PortState.DONE for view in self.line.ports)

    def balance(self, order: str = "O-1") -> list[str]:
        """What does not add up in the order's account."""
        return self.units.balance(order).faults()


async def units_of(authority: Authority, orders: Sequence[WorkOrder]) -> Units:
    """The units of this authority's line, after it took up ``orders``."""
    book = await OrderBook.load(authority.journal, authority.ledger, lambda: (ORDER_VKEY,))
    for order in orders:
        await book.accept(signed(order), "file")
    return await Units.load(authority, book)


@asynccontextmanager
async def hall(
    directory: Path,
    devices: Mapping[str, SimulatedDevice],
    *,
    orders: Sequence[WorkOrder] = (),
    root: TestCa | None = None,
    syncs: bool = True,
    times: LineTimes = FAST,
    **options: Any,
) -> AsyncIterator[Hall]:
    """A line whose ports are the keys of ``devices``."""
    async with AsyncExitStack() as closing:
        world = await closing.enter_async_context(authority_in(directory, root=root, **options))
        authority = cast(Authority, world.authority)
        units = await units_of(authority, orders)
        simulated = SimulatedDevices(dict(devices), syncs=syncs)

        def port(name: str) -> Port:
            place = Place(station=f"port:{name}", port=name, driver="simulated")
            address = Address("simulated", name)
            return Port(name, place, frozenset(KeyOrigin), lambda: simulated.open_device(address, {}))

        finisher = CountingFinisher()
        line = Line(authority, units, finisher, [port(name) for name in devices], times)
        yield Hall(world, units.orders, units, finisher, simulated, line)


def states(unit: Unit) -> list[State]:
    return [state for state, _ in unit.times]

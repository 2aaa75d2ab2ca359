"""The production line as a part of the gateway: built from its section of the configuration, asked by operators.

``app`` opens a :class:`Plant` and runs it; the control socket (:mod:`gateway.web.line`), the stations' REST interface and
central's desired document reach units and orders through it.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol, cast

from cryptography import x509
from cryptography.x509.oid import NameOID

from gateway.authority.authority import Authority
from gateway.authority.delegated import DelegatedSpec
from gateway.errors import ConfigError, Conflict, IntegrityError, MalformedRequest, RequestError
from gateway.journal.canonical import JsonValue
from gateway.keys import durable
from gateway.schema import Table, read_toml
from provisioning.device import Address, Setting
from provisioning.drivers import driver
from provisioning.dropline import UnitsLine
from provisioning.filedrop import FileDrop, Folders
from provisioning.finishing import PAPERS_IDENTITY, FinisherOptions, Papers
from provisioning.line import Line, LineTimes, Port
from provisioning.order_book import OrderBook
from provisioning.printing import PORT as PRINTER_PORT
from provisioning.printing import Printer
from provisioning.station import State, Unit
from provisioning.units import Place, Units
from provisioning.views import order_json, port_json, unit_json

_log = logging.getLogger(__name__)
_DROP_RETRY_S = 30
#: The profile of the certificate for the key that signs production records; nobody can ask for it.
PAPERS_PROFILE = "line-papers"
_ENDS = {"scrap": State.SCRAPPED, "rework": State.REWORKED, "release": State.RELEASED}


class PortSettings(Protocol):
    """``[line.port.NAME]``."""

    @property
    def address(self) -> str: ...
    @property
    def driver(self) -> str: ...
    @property
    def order(self) -> str: ...
    @property
    def recipe(self) -> Path | None: ...
    @property
    def settings(self) -> Table: ...


class DropSettings(Protocol):
    """``[line.drop.NAME]``."""

    @property
    def inbox(self) -> Path | None: ...
    @property
    def outbox(self) -> Path | None: ...


class LineSettings(Protocol):
    """``[line]``."""

    @property
    def order_keys(self) -> tuple[str, ...]: ...
    @property
    def manufacturer(self) -> str: ...
    @property
    def labels(self) -> Path | None: ...
    @property
    def printer(self) -> str: ...
    @property
    def scan_labels(self) -> bool: ...
    @property
    def poll_seconds(self) -> float: ...
    @property
    def retry_seconds(self) -> float: ...
    @property
    def step_seconds(self) -> float: ...
    @property
    def port(self) -> Mapping[str, PortSettings]: ...
    @property
    def drop(self) -> Mapping[str, DropSettings]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Plant:
    """Orders, units and ports; the methods are what operators ask for."""

    orders: OrderBook
    units: Units
    line: Line
    papers: Papers
    authority: Authority
    drops: tuple[FileDrop, ...] = ()

    @classmethod
    async def open(
        cls, settings: LineSettings, authority: Authority, directory: Path, central_key: Callable[[], Iterable[str]]
    ) -> Plant:
        """From the journal and the configuration. ``central_key`` are the vkeys of the central that is obeyed now.

        Raises ConfigError, IntegrityError.
        """
        journal = authority.journal
        ports = [_port(name, each) for name, each in settings.port.items()]
        orders = await OrderBook.load(journal, authority.ledger, lambda: (*settings.order_keys, *central_key()))
        units = await Units.load(authority, orders)
        options = FinisherOptions(
            directory / "line", settings.manufacturer, journal.genesis.origin, settings.labels, _printer(settings.printer),
            settings.scan_labels,
        )  # fmt: skip
        papers = Papers(options, units, authority.delegated)
        times = LineTimes(settings.poll_seconds, settings.retry_seconds, settings.step_seconds)
        drops = [_drop(name, each, papers, authority.clock.now_ms) for name, each in settings.drop.items()]
        return cls(orders, units, Line(authority, units, papers, ports, times), papers, authority, tuple(drops))

    def want_identity(self) -> None:
        """Ask for the key that signs production records, once there is a CA; a gateway that never saw an order needs none."""
        if self.authority.generations.all and (self.orders.all or self.line.ports):
            name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "production records")])
            self.authority.delegated.want([DelegatedSpec(PAPERS_IDENTITY, PAPERS_PROFILE, name)])

    async def run(self) -> None:
        """Work at all ports and drops, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.line.run(), name="line-ports")
            for drop in self.drops:
                tasks.create_task(_kept_running(drop), name="line-drop")

    async def take_up(self, documents: JsonValue) -> None:
        """The orders that came with central's document: signed statements, as texts. Raises RequestError naming those that were
        not accepted; the others are."""
        if documents is None:
            return
        if not isinstance(documents, list):
            raise MalformedRequest("orders must be a list of signed work orders")
        refused = []
        for document in documents:
            try:
                if not isinstance(document, str):
                    raise MalformedRequest("a work order is a text")
                await self.orders.accept(document.encode(), "central")
            except (RequestError, IntegrityError) as error:
                refused.append(str(error))
        self.want_identity()
        if refused:
            raise RequestError(f"not accepted: {'; '.join(refused)}")

    # For operators.

    async def import_order(self, document: str, operator: str) -> dict[str, JsonValue]:
        """``document`` in base64."""
        try:
            data = base64.b64decode(document, validate=True)
        except ValueError as error:
            raise MalformedRequest("the order is not base64") from error
        order = await self.orders.accept(data, "file", operator)
        self.want_identity()
        return order_json(order, self.orders, self.units)

    async def close_order(self, order: str, operator: str, reason: str) -> dict[str, JsonValue]:
        await self.orders.close(order, operator, reason)
        return order_json(self.orders.get(order), self.orders, self.units)

    def list_orders(self) -> list[JsonValue]:
        return [order_json(order, self.orders, self.units) for order in self.orders.all]

    def list_ports(self) -> list[JsonValue]:
        return [port_json(view) for view in self.line.ports]

    def assign(self, port: str, order: str) -> None:
        self.line.assign(port, order)

    def list_units(self) -> list[JsonValue]:
        """The open ones."""
        return [unit_json(unit) for unit in self.units.open.values()]

    async def find_unit(self, name: str) -> Unit:
        """By its name, or by the product's serial number. Raises NotFound."""
        return await self.units.latest_of(name) or await self.units.get(name)

    async def show_unit(self, name: str) -> dict[str, JsonValue]:
        return unit_json(await self.find_unit(name))

    async def end_unit(self, name: str, how: str, operator: str, reason: str) -> dict[str, JsonValue]:
        """``how``: scrap, rework or release. Raises NotFound, Conflict."""
        if how not in _ENDS:
            raise MalformedRequest(f"a unit ends by {', '.join(_ENDS)}")
        if not reason:
            raise MalformedRequest("say why: the reason goes into the records")
        unit = await self.find_unit(name)
        if not unit.is_open:
            raise Conflict(f"unit {unit.id} is over: {unit.state.value}")
        return unit_json(await self.units.give_up(unit, _ENDS[how], operator, reason))

    def scanned(self, code: str) -> dict[str, JsonValue]:
        return {"serial": self.papers.scanned(code)}

    async def unit_papers(self, name: str) -> str:
        """The file that accompanies a finished unit. Raises NotFound, Conflict."""
        unit = await self.find_unit(name)
        try:
            return await asyncio.to_thread(self.papers.path(unit).read_text)
        except FileNotFoundError:
            raise Conflict(f"unit {unit.id} is {unit.state.value}: it has no papers yet") from None

    def report(self) -> dict[str, JsonValue]:
        """For ``status`` and ``doctor``."""
        quarantined = [unit for unit in self.units.open.values() if unit.state is State.QUARANTINE]
        return {
            "ports": self.list_ports(),
            "orders": self.list_orders(),
            "open_units": len(self.units.open),
            "quarantined": [unit_json(unit) for unit in quarantined],
            "overdue": [unit_json(unit) for unit in self.units.unconfirmed_too_long()],
        }


def _port(name: str, settings: PortSettings) -> Port:
    """Raises ConfigError naming the port."""
    try:
        address, module = Address.parse(settings.address), driver(settings.driver)
        table, digest = settings.settings, ""
        if settings.recipe is not None:
            if table:
                raise ConfigError("give a recipe or settings, not both")
            table = read_toml(settings.recipe)
            digest = hashlib.sha256(settings.recipe.read_bytes()).hexdigest()
    except ConfigError as error:
        raise ConfigError(f"line.port.{name}: {error}") from error
    place = Place(f"port:{name}", name, settings.driver, digest)
    opened = partial(module.open_device, address, cast("Mapping[str, Setting]", table))
    return Port(name, place, module.KEYS, opened, settings.order)


def _drop(name: str, settings: DropSettings, papers: Papers, now_ms: Callable[[], int]) -> FileDrop:
    """Raises ConfigError naming the drop."""
    if settings.inbox is None or settings.outbox is None:
        raise ConfigError(f"line.drop.{name} needs an inbox and an outbox")
    kept = papers.options.directory / "drops" / name
    for folder in (kept.parent.parent, kept.parent, kept):
        durable.make_directory(folder)

    async def read(unit: Unit) -> bytes:
        return await asyncio.to_thread(papers.path(unit).read_bytes)

    folders = Folders(settings.inbox, settings.outbox, kept)
    return FileDrop(folders, UnitsLine(papers.units, papers, read), station=f"drop:{name}", now_ms=now_ms)


async def _kept_running(drop: FileDrop) -> None:
    """A drop whose folders are away is tried again; the others go on."""
    while True:
        try:
            await drop.run()
        except (ConfigError, OSError) as error:
            _log.error("a file drop waits: %s", error)
        await asyncio.sleep(_DROP_RETRY_S)


def _printer(text: str) -> Printer | None:
    """``HOST`` or ``HOST:PORT``. Raises ConfigError."""
    if not text:
        return None
    address = Address.parse(f"tcp://{text}")
    if not address.host:
        raise ConfigError(f"line.printer: {text!r} is no printer; write HOST or HOST:PORT")
    return Printer(address.host, address.port or PRINTER_PORT)

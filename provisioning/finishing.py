"""What is done for a unit beside its device: its label, its ticket, its signed production record, kept as one file.

``DIRECTORY/ORDER/SERIAL-ATTEMPT.json`` has everything that accompanies the device: the production record, the OPC 10000-21
ticket where the order has a ProductInstanceUri, its entry in the manifest, the BRSKI hand-over record where there is a MASA.
All are signed by a delegated key whose certificate the gateway's CA issued for signing documents. The file is written once,
durably; the journal keeps its digest, so whoever asks again after a crash gets the same one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway import __version__
from gateway.authority.delegated import DelegatedKeys
from gateway.errors import ConfigError, DeviceSilent, NotFound
from gateway.keys import durable
from provisioning import manifest, papers, rendering, ticket, zpl
from provisioning.device import Delivery, Device
from provisioning.idevid import product_uri
from provisioning.jws import Draft, Party, sign
from provisioning.labels import Label, Template, Values, fill, parse_template, scanned_back
from provisioning.orders import WorkOrder
from provisioning.papers import ProducedDevice
from provisioning.printing import Printer
from provisioning.station import State, Unit
from provisioning.units import Units

#: Name of the delegated key that signs papers.
PAPERS_IDENTITY = "line-papers"
_SCAN_DEADLINE_S = 600.0


@dataclass(frozen=True, slots=True)
class FinisherOptions:
    """``directory`` holds the files of the units, ``labels`` the templates (``NAME.toml``). ``manufacturer`` goes into papers.

    Without a printer a label is a picture beside the unit's file, to be printed by other means. With ``scan`` a label counts
    only when :meth:`Papers.scanned` was told its code.
    """

    directory: Path
    manufacturer: str
    origin: str
    labels: Path | None = None
    printer: Printer | None = None
    scan: bool = False


@dataclass(slots=True)
class Papers:
    """The line's :class:`provisioning.steps.Finisher`."""

    options: FinisherOptions
    units: Units
    delegated: DelegatedKeys
    printed: Callable[[Unit, Label], None] = lambda _unit, _label: None
    _scans: dict[str, tuple[Label, asyncio.Future[None]]] = field(default_factory=dict)

    async def label(self, order: WorkOrder, unit: Unit) -> bytes:
        """Print, and wait for the scan where one is wanted. Raises DeviceFault, ConfigError, MalformedRequest."""
        made = await self.make_label(order, unit, reprint=unit.prints)
        octets = zpl.render(made)
        if self.options.printer is not None:
            await self.options.printer.print(octets)
        else:
            picture = await asyncio.to_thread(rendering.png, made)
            await asyncio.to_thread(self._replace, self.path(unit).with_suffix(".png"), picture)
        self.printed(unit, made)
        if self.options.scan:
            await self._scan(unit, made)
        return hashlib.sha256(octets).digest()

    async def make_label(self, order: WorkOrder, unit: Unit, *, reprint: int = 0) -> Label:
        template = await asyncio.to_thread(self._template, order.label)
        date = time.strftime("%Y-%m-%d", time.gmtime(unit.began_ms / 1000))
        values = Values(unit.serial, order.product, order.id, product_uri(order, unit.serial), date)
        return fill(template, values, reprint=reprint)

    def _template(self, name: str) -> Template:
        if self.options.labels is None:
            raise ConfigError(f"the order wants the label {name!r}, and line.labels names no directory with templates")
        path = self.options.labels / f"{name}.toml"
        try:
            return parse_template(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"the label template {path} cannot be read: {error.strerror}") from error

    async def _scan(self, unit: Unit, made: Label) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._scans[unit.serial] = (made, done)
        try:
            async with asyncio.timeout(_SCAN_DEADLINE_S):
                await done
        except TimeoutError:
            raise DeviceSilent(f"nobody scanned the label of {unit.serial}") from None
        finally:
            del self._scans[unit.serial]

    def scanned(self, code: str) -> str:
        """A label was scanned at the line; the serial number it belongs to. Raises NotFound."""
        for serial, (made, done) in self._scans.items():
            if not scanned_back(code, made):
                if not done.done():
                    done.set_result(None)
                return serial
        raise NotFound("no unit waits for this label: print it again, or look for the unit that it belongs to")

    async def ticket(self, order: WorkOrder, unit: Unit) -> bytes:
        """Signed anew each time; the one in the unit's file is the one that counts. Empty without a ProductInstanceUri."""
        party, key = self._party()
        made = _ticket(order, unit, self.options.manufacturer, (await self.units.delivery(unit)).chain)
        return b"" if made is None else _sign(ticket.draft(made, party), party, key)

    async def conclude(self, order: WorkOrder, unit: Unit, device: Device) -> bytes:
        path = self.path(unit)
        try:
            content = await asyncio.to_thread(path.read_bytes)
        except FileNotFoundError:
            content = await self._content(order, unit, device)
            await asyncio.to_thread(self._replace, path, content)
        return hashlib.sha256(content).digest()

    async def _content(self, order: WorkOrder, unit: Unit, device: Device) -> bytes:
        party, key = self._party()
        delivery = await self.units.delivery(unit)
        produced = self._produced(order, unit, device, delivery)
        entity = manifest.Entity(self.options.manufacturer or self.options.origin)
        told: dict[str, object] = {
            "production_record": json.loads(_sign(papers.production_record(produced, party), party, key)),
            "manifest": json.loads(_sign(manifest.entry(produced, party, provisioner=entity, distributor=entity), party, key)),
        }
        opc = _ticket(order, unit, self.options.manufacturer, delivery.chain)
        if opc is not None:
            told["ticket"] = json.loads(_sign(ticket.draft(opc, party), party, key))
        if order.masa_url:
            told["brski_handover"] = json.loads(_sign(papers.handover_record(produced, party), party, key))
        return json.dumps(told, sort_keys=True, separators=(",", ":")).encode() + b"\n"

    def _produced(self, order: WorkOrder, unit: Unit, device: Device, delivery: Delivery) -> ProducedDevice:
        return ProducedDevice(
            order=order.id, product=order.product, serial=unit.serial, chip=unit.chip, gateway=self.options.origin,
            station=unit.station, port=unit.port, key_origin=unit.key_origin, certificate=delivery.certificate,
            chain=delivery.chain, steps=tuple(papers.Step(state.name, at_ms) for state, at_ms in unit.times),
            finished_ms=unit.moved_ms, software=f"edge-gateway {__version__}", uri=product_uri(order, unit.serial),
            manufacturer=self.options.manufacturer, model=device.model, driver=unit.driver,
            recipe_digest=bytes.fromhex(order.recipe), evidence_format=unit.evidence_format,
            evidence_digest=unit.evidence_digest, facts=_facts(device), masa_url=order.masa_url,
            prints=self._prints(unit), records=unit.records,
        )  # fmt: skip

    def _prints(self, unit: Unit) -> tuple[papers.LabelPrint, ...]:
        printer = self.options.printer.host if self.options.printer is not None else "picture"
        printed = [at_ms for state, at_ms in unit.times if state is State.LABELLED]
        return tuple(papers.LabelPrint(at_ms, number, printer) for number, at_ms in enumerate(printed))

    def _party(self) -> tuple[Party, object]:
        """Who signs. Raises NotReady."""
        identity = self.delegated.current(PAPERS_IDENTITY)
        return Party((identity.certificate, *identity.chain)), identity.private_key

    def path(self, unit: Unit) -> Path:
        """Serial numbers have no slash (:mod:`provisioning.orders`), and no name begins with a dot."""
        return self.options.directory / unit.order / f"{unit.serial}-{unit.attempt}.json"

    def _replace(self, path: Path, content: bytes) -> None:
        for directory in (self.options.directory, path.parent):
            durable.make_directory(directory)
        durable.replace(path, content)


def _sign(draft: Draft, party: Party, key: object) -> bytes:
    return draft.finish(sign(key, party.algorithm, draft.signing_input))  # type: ignore[arg-type]  # BadKey for any other


def _ticket(order: WorkOrder, unit: Unit, manufacturer: str, chain: tuple[bytes, ...]) -> ticket.DeviceTicket | None:
    if not order.uri:
        return None
    return ticket.DeviceTicket(
        manufacturer_name=manufacturer or order.product, model_name=order.product, serial_number=unit.serial,
        manufacture_date_ms=unit.began_ms, authorities=(ticket.Authority(chain[0], chain[1:]),),
        product_instance_uri=product_uri(order, unit.serial),
    )  # fmt: skip


def _facts(device: Device) -> Mapping[str, str]:
    return dict(device.facts)

"""The file drop's way into the line: what a station without a network asks for and tells, as moves of units.

The station does the work at the device; here its word counts for what it did, in the order of :mod:`provisioning.station`.
Whatever is told again is taken again: the same request gets the same certificate, also once the unit is done.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Final

from gateway.errors import Conflict, Forbidden, NotFound, WrongDevice
from provisioning.device import Csr, Device, KeyOrigin
from provisioning.dropanswer import IssuedUnit, UnitPapers
from provisioning.orders import READ_BACK
from provisioning.station import CERTIFIED, State, Step, Unit, next_step
from provisioning.steps import Finisher
from provisioning.units import Place, Units

#: What a report asks for: the step that must be next, and the state it leads to.
_REPORTS: Final = {
    "written": (Step.WRITE, State.WRITTEN),
    "verified": (Step.VERIFY, State.VERIFIED),
    "locked": (Step.BEGIN_LOCK, State.LOCKED),
    "labelled": (Step.LABEL, State.LABELLED),
    "confirmed": (Step.CONFIRM, State.CONFIRMED),
}
_SCRAPPED: Final = "scrapped"
#: The member of a unit's papers that is its entry in the manifest (:mod:`provisioning.finishing`).
_MANIFEST: Final = "manifest"


class UnitsLine:
    """A :class:`provisioning.dropanswer.DropLine`. ``papers`` reads the file that accompanies a finished unit."""

    def __init__(self, units: Units, finisher: Finisher, papers: Callable[[Unit], Awaitable[bytes]] | None = None) -> None:
        self._units, self._finisher, self._papers = units, finisher, papers

    async def issue(self, *, order: str, serial: str, csr_der: bytes, chip: str, station: str) -> IssuedUnit:
        """Raises what :class:`provisioning.units.Units` does."""
        csr = Csr(csr_der)
        unit = await self._made(order, serial, csr)
        if unit is None:
            unit = await self._units.reserve(order, Place(station), serial=serial, chip=chip)
            _check_order(unit, order)
            if unit.state is State.QUARANTINE:
                raise WrongDevice(f"{serial} is in quarantine: {unit.detail}")
            if unit.key_origin is not KeyOrigin.DEVICE:
                raise Forbidden(
                    f"order {order} wants keys from the gateway's pool; a station without a network cannot take one"
                )
            unit = await self._units.issue(await self._units.keyed(unit, csr), csr)
        delivery = await self._units.delivery(unit)
        return IssuedUnit((delivery.certificate, *delivery.chain))

    async def report(self, *, order: str, serial: str, event: str, detail: str, station: str) -> UnitPapers:
        """Raises NotFound, Conflict, and what :class:`provisioning.units.Units` does."""
        unit = self._units.by_serial(serial) or await self._units.latest_of(serial)
        if unit is None:
            raise NotFound(f"no unit was begun with the serial number {serial}")
        _check_order(unit, order)
        rules = self._units.orders.get(unit.order)
        if not rules.is_for(station):
            raise Forbidden(f"order {order} is not for station {station}")
        if unit.port:
            raise Conflict(f"{serial} is made at the gateway's port {unit.port}; only that says how far it is")
        if event == _SCRAPPED:
            if unit.state is not State.SCRAPPED:
                await self._units.give_up(unit, State.SCRAPPED, station, detail or "scrap, says the station")
            return UnitPapers()
        step, state = _REPORTS[event]
        if state in (reached for reached, _ in unit.times) and unit.state in (*CERTIFIED, State.CONFIRMED):
            return await self._papers_of(unit, state)  # told before
        wanted = next_step(unit, lock=rules.lock, label=bool(rules.label))
        if step is not wanted:
            raise Conflict(f"{serial} is {unit.state.value}; what comes next is {wanted.value}, not {event}")
        if state is State.VERIFIED and rules.proof != READ_BACK:
            raise Forbidden(
                f'order {order} wants a signed challenge; files can only bring what an order with proof = "read-back" wants'
            )
        await self._move(unit, state, station, detail)
        return await self._papers_of(unit, state)

    async def _papers_of(self, unit: Unit, state: State) -> UnitPapers:
        if state is not State.CONFIRMED or self._papers is None:
            return UnitPapers()
        content = await self._papers(unit)
        entry = json.dumps(json.loads(content)[_MANIFEST], ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return UnitPapers(content, entry.encode())

    async def _move(self, unit: Unit, state: State, station: str, detail: str) -> None:
        if state is State.VERIFIED:
            certificate = (await self._units.delivery(unit)).certificate
            await self._units.verified(unit, station, hashlib.sha256(certificate).digest(), detail)
        elif state is State.CONFIRMED:
            order = self._units.orders.get(unit.order)
            digest = await self._finisher.conclude(order, unit, Device(unit.chip, unit.serial))
            await self._units.confirm(unit, station, digest)
        else:
            await self._units.move(unit, state, station, detail=detail)

    async def _made(self, order: str, serial: str, csr: Csr) -> Unit | None:
        """The unit that is done already and has this very key."""
        unit = None if self._units.by_serial(serial) else await self._units.latest_of(serial)
        if unit is None or unit.state is not State.CONFIRMED or unit.order != order:
            return None
        same = hashlib.sha256(self._units.request_of(unit, csr).spki).digest() == unit.spki_digest
        return unit if same else None


def _check_order(unit: Unit, order: str) -> None:
    if unit.order != order:
        raise Conflict(f"{unit.serial} is being made under order {unit.order}, not {order}")

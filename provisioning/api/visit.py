"""What the answers are made with: the line, and the station that asks."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from gateway.authority.authority import Authority
from gateway.errors import Conflict, MalformedRequest, RequestError, WrongDevice
from gateway.journal.canonical import JsonValue
from gateway.web.routes import Call, Reply
from provisioning.api.challenges import Challenges
from provisioning.api.feed import Feed
from provisioning.api.stations import Station, Turns
from provisioning.line import Line
from provisioning.orders import WorkOrder
from provisioning.station import State, Unit, next_step
from provisioning.steps import Finisher
from provisioning.units import Units
from provisioning.views import JsonObject, unit_json

PREFIX: Final = "/api/v1/line"
_DIGEST = re.compile(r"[0-9a-f]{64}")
#: provisioning.device.Device says what a chip number looks like.
_CHIP = re.compile(r"[\x20-\x7e]{1,128}")
#: Nothing is done any more with a unit that came to one of these.
_GIVEN_UP: Final = frozenset({State.RELEASED, State.REWORKED, State.SCRAPPED})


class NotAcceptable(RequestError):
    http_status = 406
    hint = "Ask for a form that is given here, or leave the header field Accept out."


@dataclass(frozen=True, slots=True)
class Shop:
    """``line`` is None where the gateway has no ports of its own. ``on_order`` is called when an order was taken up."""

    authority: Authority
    units: Units
    line: Line | None
    finisher: Finisher
    challenges: Challenges
    feed: Feed
    turns: Turns
    on_order: Callable[[], None]


@dataclass(frozen=True, slots=True)
class Visit:
    """One station at the counter. It may see and move the units of every order that is for it, whoever began them."""

    shop: Shop
    station: Station

    def order(self, name: str) -> WorkOrder:
        """Raises NotFound, Forbidden."""
        order = self.shop.units.orders.get(name)
        self.station.check(order)
        return order

    def may_see(self, order: str) -> bool:
        try:
            return not self.station.objection(self.shop.units.orders.get(order))
        except RequestError:
            return False

    async def find(self, call: Call) -> Unit:
        """The unit in the address. Raises NotFound, Forbidden."""
        unit = await self.shop.units.get(call.path["unit"])
        self.order(unit.order)
        return unit

    @asynccontextmanager
    async def turn(self, call: Call) -> AsyncIterator[Unit]:
        """The unit in the address, and nobody else of the stations moves it meanwhile."""
        async with self.shop.turns.of(f"unit:{call.path['unit']}"):
            yield await self.find(call)

    def shown(self, unit: Unit) -> JsonObject:
        """With where it is found, and what its order wants next."""
        order = self.shop.units.orders.get(unit.order)
        step = next_step(unit, lock=order.lock, label=bool(order.label))
        return {**unit_json(unit), "next": step.value, "href": href(unit)}

    def reply(self, unit: Unit) -> Reply:
        return Reply(self.shown(unit))

    async def check_device(self, call: Call, unit: Unit) -> None:
        """Where the station says which device it has in hand it must be the unit's. Raises WrongDevice, the unit then being
        in quarantine."""
        chip = chip_in(call)
        if chip and chip != unit.chip:
            bound = unit.chip or "a device without a chip number"
            reason = f"the device was exchanged: this is {chip}, the unit is {bound}"
            await self.shop.units.quarantine(unit, reason, self.station.name)
            raise WrongDevice(reason)


def href(unit: Unit) -> str:
    return f"{PREFIX}/units/{quote(unit.id, safe='')}"


def check_going(unit: Unit) -> None:
    """Raise Conflict for a unit that a person must look at, or that was given up."""
    if unit.state is State.QUARANTINE:
        raise Conflict(f"unit {unit.id} is in quarantine: {unit.detail or 'a person must decide'}")
    if unit.state in _GIVEN_UP:
        raise Conflict(f"unit {unit.id} is over: {unit.state.value}{f' ({unit.detail})' if unit.detail else ''}")


def check_not_at_port(unit: Unit) -> None:
    """What the gateway does at its own port, no station does beside it. Raises Conflict."""
    if unit.port:
        raise Conflict(f"unit {unit.id} is being made at the gateway's own port {unit.port}")


def chip_in(call: Call) -> str:
    """Raises MalformedRequest."""
    chip = call.text("chip")
    if chip and not _CHIP.fullmatch(chip):
        raise MalformedRequest("chip must be 1 to 128 printable ASCII characters")
    return chip


def digest_in(call: Call, name: str = "digest") -> bytes:
    """A SHA-256; empty where there is none. Raises MalformedRequest."""
    text = call.text(name)
    if text and not _DIGEST.fullmatch(text):
        raise MalformedRequest(f"{name} must be a SHA-256 in lower-case hexadecimal")
    return bytes.fromhex(text)


def reason_in(call: Call) -> str:
    """Raises MalformedRequest."""
    reason = call.text("reason").strip()
    if not reason:
        raise MalformedRequest("say why: the reason goes into the records")
    return reason


def page(items: list[JsonValue], following: str) -> Reply:
    return Reply({"items": items, "next": following})

"""The work orders that count here: accepted from central or a file, journalled, with their credit as a quota."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from gateway.authority.quota import Ledger
from gateway.errors import Conflict, Forbidden, GatewayError, IntegrityError, NotFound
from gateway.journal.journal import Journal
from gateway.journal.line_records import OrderAccepted, OrderClosed, serial_claim, state_tally
from provisioning.idevid import names_of
from provisioning.orders import KIND, WorkOrder, open_order
from provisioning.station import State


def order_quota(order: str) -> str:
    return f"order:{order}"


@dataclass(frozen=True, slots=True)
class Balance:
    """Where the units of an order are. ``begun`` is credit used; of them ``issued`` have or had a certificate."""

    credit: int
    begun: int
    issued: int
    confirmed: int
    scrapped: int
    reworked: int
    released: int
    open_without: int  # open, no certificate yet
    open_with: int

    def faults(self) -> list[str]:
        """What does not add up; nothing ever should."""
        found = []
        if self.begun != self.issued + self.open_without:
            found.append(
                f"{self.begun} units used credit, but {self.issued} certificates and {self.open_without} open units do"
            )
        ended = self.confirmed + self.scrapped + self.reworked
        if self.issued != ended + self.open_with:
            found.append(f"{self.issued} have certificates, but {ended} are over and {self.open_with} open")
        if self.begun > self.credit:
            found.append(f"{self.begun} units under a credit of {self.credit}")
        return found


class OrderBook:
    """All orders by id. ``keys`` says whose signatures count now (vkeys): central's, and those of the configuration."""

    def __init__(self, journal: Journal, ledger: Ledger, keys: Callable[[], Iterable[str]]) -> None:
        self._journal, self._ledger, self._keys = journal, ledger, keys
        self._orders: dict[str, WorkOrder] = {}
        self._closed: set[str] = set()
        self._next: dict[str, int] = {}
        self._numbering = asyncio.Lock()

    @classmethod
    async def load(cls, journal: Journal, ledger: Ledger, keys: Callable[[], Iterable[str]]) -> OrderBook:
        """From the journal. Raises IntegrityError."""
        book = cls(journal, ledger, keys)
        async for record in journal.scan(OrderAccepted, OrderClosed):
            match record.payload:
                case OrderAccepted(document=document):
                    book._put(_accepted(document))
                case OrderClosed(order=order):
                    book._closed.add(order)
                case _:
                    pass
        return book

    @property
    def all(self) -> tuple[WorkOrder, ...]:
        return tuple(self._orders.values())

    def is_closed(self, order: str) -> bool:
        return order in self._closed

    def get(self, order: str) -> WorkOrder:
        """Raises NotFound."""
        try:
            return self._orders[order]
        except KeyError:
            raise NotFound(f"there is no order {order[:80]!r} here") from None

    def in_force(self, order: str) -> WorkOrder:
        """The order, if units may still be begun under it. Raises NotFound, Forbidden."""
        found = self.get(order)
        if order in self._closed:
            raise Forbidden(f"order {order} is closed")
        return found

    async def accept(self, document: bytes, source: str, operator: str = "") -> WorkOrder:
        """Take up a signed order. The same document again changes nothing.

        Raises IntegrityError (a signature that does not count), MalformedRequest, Forbidden (for another gateway, or older than
        what counts), Conflict (another document of the same version).
        """
        order = open_order(document, self._keys())
        if order.origin != self._journal.genesis.origin:
            raise Forbidden(f"this order is for gateway {order.origin[:100]!r}, not for {self._journal.genesis.origin}")
        names_of(order, "1")  # better now than at the first device
        known = self._orders.get(order.id)
        if known is not None and order.version <= known.version:
            if order == known:
                return known
            if order.version == known.version:
                raise Conflict(f"order {order.id} has another content in its version {order.version}, which counts already")
            raise Forbidden(f"version {order.version} of order {order.id} is older than version {known.version}, which counts")
        if order.id in self._closed:
            raise Forbidden(f"order {order.id} is closed; a new order needs a new id")
        await self._journal.append(OrderAccepted(order.id, order.version, document, order.credit, source, operator))
        self._put(order)
        return order

    async def close(self, order: str, operator: str, reason: str) -> None:
        """No unit is begun under it any more. Raises NotFound."""
        self.get(order)
        if order not in self._closed:
            await self._journal.append(OrderClosed(order, operator, reason))
            self._closed.add(order)

    def check_serial(self, order: WorkOrder, serial: str) -> str:
        """``serial`` if it belongs to the order. Raises Forbidden."""
        if not order.allows(serial):
            raise Forbidden(f"serial number {serial[:80]!r} does not belong to order {order.id}")
        return serial

    async def next_number(self, order: WorkOrder) -> str:
        """A serial number of the order's range that nobody has. Raises Forbidden where it has none, or gives none out."""
        if order.numbers is None:
            raise Forbidden(f"order {order.id} gives out no serial numbers: scan the device's own, or have the driver read it")
        async with self._numbering:  # or two would find the same first free number
            if order.id not in self._next:
                self._next[order.id] = await self._first_free(order)
            while True:
                serial = order.numbers.serial(self._next[order.id])
                self._next[order.id] += 1
                claim = serial_claim(serial, 1)
                if claim not in await self._journal.claimed(claim):
                    return serial

    async def _first_free(self, order: WorkOrder) -> int:
        """Numbers are given out in order, so the first free one is found by halving; one that is not the first does no harm."""
        numbers = order.numbers
        assert numbers is not None  # noqa: S101
        low, high = 0, numbers.last - numbers.first + 1
        while low < high:
            middle = (low + high) // 2
            claim = serial_claim(numbers.serial(middle), 1)
            if claim in await self._journal.claimed(claim):
                low = middle + 1
            else:
                high = middle
        return low

    def balance(self, order: str, open_without: int, open_with: int) -> Balance:
        """The order's account, from the journal's tallies. Raises NotFound."""
        credit, tallies = self.get(order).credit, self._journal.head.tallies

        def came_to(state: State) -> int:
            return tallies.get(state_tally(order, state.value), 0)

        return Balance(
            credit, tallies.get(order_quota(order), 0), came_to(State.ISSUED), came_to(State.CONFIRMED),
            came_to(State.SCRAPPED), came_to(State.REWORKED), came_to(State.RELEASED), open_without, open_with,
        )  # fmt: skip

    def _put(self, order: WorkOrder) -> None:
        self._orders[order.id] = order
        self._ledger.limit(order_quota(order.id), order.credit)


def _accepted(document: bytes) -> WorkOrder:
    """An order whose signature was checked when it was accepted: whose key it was may not count any more today."""
    heading, _, body = document.partition(b"\n\n")
    if not heading.startswith(b"edge-gateway/" + KIND.encode()):
        raise IntegrityError("an accepted order is no work order")
    try:
        return WorkOrder.from_bytes(body)
    except GatewayError as error:
        raise IntegrityError(f"an accepted order cannot be read: {error}") from error

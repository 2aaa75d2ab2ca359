"""A gateway with a production line, as central sees it: the records of units, each naming the one before it."""

from __future__ import annotations

import hashlib

from gateway.journal.line_records import OrderAccepted, OrderClosed, UnitEnded, UnitKeyed, UnitMoved, UnitReserved
from tests.support.edge import Edge

ORDER = "WO-17"


class LineEdge(Edge):
    """An :class:`Edge` whose units are named ``NAME/NUMBER``."""

    def accept(self, version: int, credit: int, order: str = ORDER) -> int:
        return self.add(OrderAccepted(order, version, b"statement", credit, "central"))

    def close(self, order: str = ORDER) -> int:
        return self.add(OrderClosed(order, "anna", "done"))

    def reserve(self, number: int, device: str = "", order: str = ORDER) -> int:
        unit = self.unit(number)
        return self.add(UnitReserved(unit, order, device or f"SN-{number}", "port:1", (f"order:{order}",), 1, "device"))

    def unit(self, number: int) -> str:
        return f"{self.name}/{number}"

    def prove(self, number: int, previous: int) -> int:
        digest = hashlib.sha256(f"key of {self.unit(number)}".encode()).digest()
        return self.add(UnitKeyed(self.unit(number), previous, digest, bytes(32)))

    def move(self, number: int, previous: int, state: str, *, serial: str = "", order: str = ORDER) -> int:
        return self.add(UnitMoved(self.unit(number), previous, order, state, "port:1", serial))

    def end(self, number: int, previous: int, state: str, *, back: bool = False, order: str = ORDER) -> int:
        quota = (f"order:{order}",) if back else ()
        return self.add(UnitEnded(self.unit(number), previous, order, state, "port:1", quota=quota))

    def make(self, number: int, device: str = "", *, end: str = "confirmed", order: str = ORDER) -> int:
        """One unit from its beginning to its end."""
        last = self.prove(number, self.reserve(number, device, order))
        last = self.move(number, last, "issued", serial=f"{self.serial(number):x}", order=order)
        return self.end(number, last, end, order=order) if end else last

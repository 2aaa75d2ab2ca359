"""What happens to units and ports, for those who watch: server-sent events (WHATWG HTML, section 9.2), and long polls.

An event of a unit is a record of the journal and has its sequence number as id. So whoever was cut off names the last one it
saw and misses nothing, also over a restart of the gateway; nothing is queued for a client that reads slowly, it is only
remembered how far it is. One that is too far behind is told so and has to read the units anew. Ports have no history: at the
beginning, and then whenever something about a port changed, its newest state is told.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

from gateway.errors import MalformedRequest
from gateway.journal.canonical import JsonValue
from gateway.journal.journal import Journal
from gateway.journal.line_records import UnitEnded, UnitKeyed, UnitMoved, UnitReserved
from gateway.journal.records import Record
from provisioning.line import Line, PortView
from provisioning.station import State, Unit
from provisioning.units import Units
from provisioning.views import port_json

KINDS: Final = (UnitReserved, UnitKeyed, UnitMoved, UnitEnded)
#: Newest events kept for everybody, so that many who watch cost one reading of the journal.
_RECENT: Final = 2_048
#: A comment every so often, so that a client that is gone is found and proxies keep the connection open.
_HEARTBEAT_S: Final = 15.0
_MOST_DIGITS: Final = 16


@dataclass(frozen=True, slots=True)
class Event:
    """A record of a unit."""

    seq: int
    order: str
    text: bytes


@dataclass(slots=True, eq=False)
class _Watcher:
    ports: dict[str, PortView]
    wake: asyncio.Event = field(default_factory=asyncio.Event)


class Feed:
    """``backlog`` is how many records of the journal a watcher may be behind."""

    def __init__(self, journal: Journal, units: Units, line: Line | None, backlog: int) -> None:
        self._journal, self._line, self._backlog = journal, line, backlog
        self._read_to = self._complete_from = journal.head.size
        self._recent: deque[Event] = deque()
        self._reading = asyncio.Lock()
        self._watchers: set[_Watcher] = set()
        self._parked: dict[str, set[asyncio.Future[None]]] = {}
        self._closed = False
        units.watch(self._moved)
        if line is not None:
            line.watch(self._changed)

    def close(self) -> None:
        """Let everybody go who watches or waits."""
        self._closed = True
        for watcher in self._watchers:
            watcher.wake.set()
        for waiting in self._parked.values():
            for future in waiting:
                if not future.done():
                    future.set_result(None)

    # One unit.

    async def moved(self, unit: str, seconds: float) -> None:
        """Return when ``unit`` moves, or after ``seconds``."""
        if self._closed:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiting = self._parked.setdefault(unit, set())
        waiting.add(future)
        try:
            async with asyncio.timeout(seconds):
                await future
        except TimeoutError:
            pass
        finally:
            waiting.discard(future)
            if not waiting:
                self._parked.pop(unit, None)

    def _moved(self, unit: Unit) -> None:
        for future in self._parked.get(unit.id, ()):
            if not future.done():
                future.set_result(None)
        for watcher in self._watchers:
            watcher.wake.set()

    def _changed(self, view: PortView) -> None:
        for watcher in self._watchers:
            watcher.ports[view.port] = view
            watcher.wake.set()

    # All of them.

    async def follow(self, may_see: Callable[[str], bool], last: int | None) -> AsyncIterator[bytes]:
        """Events as they go over the wire, for ever, from the record after ``last`` on; ``None``: from now on. ``may_see`` says
        of which orders. Ends after the event ``lost``, or when the feed is closed.
        """
        watcher = _Watcher({view.port: view for view in self._line.ports} if self._line is not None else {})
        self._watchers.add(watcher)
        try:
            position = self._journal.head.size if last is None else last + 1
            yield b"retry: 2000\n\n"
            while not self._closed:
                watcher.wake.clear()
                ports, watcher.ports = watcher.ports, {}
                for view in ports.values():
                    yield message("port", port_json(view))
                await self._read()
                if not 0 <= self._journal.head.size - position <= self._backlog:
                    yield message("lost", {"after": self._journal.head.size - 1})
                    return
                async for event in self._since(position):
                    if may_see(event.order):
                        yield event.text
                    position = event.seq + 1
                try:
                    async with asyncio.timeout(_HEARTBEAT_S):
                        await watcher.wake.wait()
                except TimeoutError:
                    yield b": \n\n"
        finally:
            self._watchers.discard(watcher)

    async def _since(self, position: int) -> AsyncIterator[Event]:
        """From the newest where they reach back far enough, else from the journal."""
        if position >= self._complete_from:
            for event in [event for event in self._recent if event.seq >= position]:
                yield event
        else:
            async for record in self._journal.scan(*KINDS, start=position):
                yield event_of(record)

    async def _read(self) -> None:
        """Take up what was recorded since the last time."""
        async with self._reading:
            async for record in self._journal.scan(*KINDS, start=self._read_to):
                self._recent.append(event_of(record))
                self._read_to = record.seq + 1
                if len(self._recent) > _RECENT:
                    self._complete_from = self._recent.popleft().seq + 1


def event_of(record: Record) -> Event:
    """``record`` is of one of :data:`KINDS`."""
    payload = record.payload
    assert isinstance(payload, KINDS)  # noqa: S101
    state, by, detail = State.KEYED.value, "", ""
    match payload:
        case UnitReserved():
            state, by = State.RESERVED.value, payload.station
        case UnitMoved():
            state, by, detail = payload.state, payload.by, payload.detail
        case UnitEnded():
            state, by, detail = payload.state, payload.by, payload.reason
        case UnitKeyed():
            pass
    order, serial, _ = payload.unit.split("/")  # neither has a slash: provisioning.orders
    told: dict[str, JsonValue] = {
        "unit": payload.unit, "order": order, "serial": serial, "state": state, "seq": record.seq, "at": record.time,
        "by": by, "detail": detail,
    }  # fmt: skip
    return Event(record.seq, order, message("unit", told, record.seq))


def message(kind: str, told: dict[str, JsonValue], seq: int | None = None) -> bytes:
    """One event of the stream. JSON has no line ends, so it is one line."""
    identifier = "" if seq is None else f"id: {seq}\n"
    return f"{identifier}event: {kind}\ndata: {json.dumps(told, ensure_ascii=False)}\n\n".encode()


def last_event(text: str) -> int | None:
    """The header field Last-Event-ID. Raises MalformedRequest."""
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS):
        raise MalformedRequest("Last-Event-ID must be the id of an event of this gateway")
    return int(text)

"""The end of the journal in memory, and what a batch of payloads does to it. Pure.

:class:`Tip` is everything that appending needs to know about what is already there: the Merkle frontier, the last time, the
intents that are still open, and the tallies of spent quota. :meth:`Tip.plan` works a batch out without changing anything;
:meth:`Tip.adopt` takes it over once the store has made it durable. Columns and effects are functions of the record alone, so
``verify`` computes the same ones from the bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import NamedTuple

from gateway.errors import Conflict, GatewayError, MalformedRequest
from gateway.journal.line_records import UnitEnded, UnitMoved, UnitReserved, UnitStep, claims_of, state_tally
from gateway.journal.merkle import Frontier
from gateway.journal.records import Intent, Issued, Payload, Record, Released, Revoked, Void, encode, leaf_hash

DAY_MS = 86_400_000
#: RFC 5280 section 4.1.2.2: a serial number has at most 20 octets.
SERIAL_OCTETS = 20


class Row(NamedTuple):
    """A record as the store keeps it. ``serial`` and ``idem`` are search columns, derived from the body."""

    seq: int
    kind: str
    time: int
    serial: bytes | None
    idem: bytes | None
    leaf: bytes
    body: bytes


def serial_column(serial: str) -> bytes:
    """A serial number as 20 octets, so that the index orders serials as numbers. Raises ValueError for any other text."""
    octets = bytes.fromhex(serial.rjust(2 * SERIAL_OCTETS, "0"))
    if len(octets) != SERIAL_OCTETS or f"{int.from_bytes(octets, 'big'):x}" != serial or not any(octets):
        raise ValueError("a serial number is positive lower-case hex without leading zeros, at most 20 octets")
    return octets


def idem_column(day: int, key: bytes) -> bytes:
    """An idempotency key under the day (since the epoch) it was used.

    The day in front keeps the growing end of the index in one place; without it every insert would touch a random page.
    """
    return day.to_bytes(4, "big") + sha256(key).digest()[:16]


def row_of(record: Record, body: bytes) -> Row:
    """The row of a record. Raises ValueError for a serial number that is none."""
    payload = record.payload
    serial = idem = None
    if isinstance(payload, Intent | Issued | Void | Revoked | Released):
        serial = serial_column(payload.serial)
        if isinstance(payload, Issued):
            idem = idem_column(record.time // DAY_MS, payload.idempotency_key)
    return Row(record.seq, payload.kind, record.time, serial, idem, leaf_hash(body), body)


@dataclass(frozen=True, slots=True)
class OpenIntent:
    """An intent that is neither issued nor void yet."""

    serial: str
    quota: tuple[str, ...]


@dataclass(slots=True)
class Batch:
    """What one transaction writes. ``groups[i]`` are the records of the i-th group asked for, or why it was turned down."""

    frontier: Frontier
    time: int
    rows: list[Row] = field(default_factory=list)
    groups: list[tuple[Record, ...] | GatewayError] = field(default_factory=list)
    opened: dict[int, OpenIntent] = field(default_factory=dict)
    closed: set[int] = field(default_factory=set)
    tallies: dict[str, int] = field(default_factory=dict)  # changes
    claims: list[tuple[bytes, int]] = field(default_factory=list)  # (name, seq of the record that makes the claim)
    units: dict[str, int] = field(default_factory=dict)  # unit -> seq of its last record; -1 when that ended it


@dataclass(slots=True)
class Tip:
    """The state after the last durable record."""

    frontier: Frontier = field(default_factory=Frontier)
    time: int = 0
    open_intents: dict[int, OpenIntent] = field(default_factory=dict)
    tallies: dict[str, int] = field(default_factory=dict)
    open_units: dict[str, int] = field(default_factory=dict)  # unit -> seq of its last record

    @property
    def size(self) -> int:
        return self.frontier.size

    def plan(self, groups: Sequence[Sequence[Payload]], now_ms: int) -> Batch:
        """The records that ``groups`` become. A group that cannot be recorded is turned down alone and leaves no trace."""
        batch = Batch(self.frontier.copy(), max(self.time, now_ms))
        for group in groups:
            try:
                batch.groups.append(self._plan_group(batch, group))
            except GatewayError as error:
                batch.groups.append(error)
        return batch

    def _plan_group(self, batch: Batch, group: Iterable[Payload]) -> tuple[Record, ...]:
        records: list[Record] = []
        rows: list[Row] = []
        opened: dict[int, OpenIntent] = {}
        closed: set[int] = set()
        units: dict[str, int] = {}
        seq = batch.frontier.size
        for payload in group:
            record = Record(seq, batch.time, payload)
            try:
                rows.append(row_of(record, encode(record)))
            except (TypeError, ValueError, AttributeError) as error:
                raise MalformedRequest(f"not a journal payload: {error}") from error
            records.append(record)
            if isinstance(payload, Intent):
                opened[seq] = OpenIntent(payload.serial, payload.quota)
            elif isinstance(payload, Issued | Void):
                self._check_closing(payload, batch, opened, closed)
                closed.add(payload.intent)
            elif isinstance(payload, UnitReserved | UnitStep):
                units[payload.unit] = self._unit_after(payload, seq, batch, units)
            seq += 1
        for row in rows:
            batch.frontier.append(row.leaf)
        batch.rows += rows
        batch.opened |= opened
        batch.closed |= closed
        batch.units |= units
        for record in records:
            batch.claims += ((name, record.seq) for name in claims_of(record.payload))
            for name, change in tally_changes(record.payload):
                batch.tallies[name] = batch.tallies.get(name, 0) + change
        return tuple(records)

    def _check_closing(self, payload: Issued | Void, batch: Batch, opened: Mapping[int, OpenIntent], closed: set[int]) -> None:
        number = payload.intent
        intent = opened.get(number) or batch.opened.get(number) or self.open_intents.get(number)
        if intent is None or number in closed or number in batch.closed:
            raise Conflict(f"record {number} is not an open intent")
        if intent.serial != payload.serial:
            raise Conflict(f"intent {number} has another serial number")
        if isinstance(payload, Void) and payload.quota != intent.quota:
            raise Conflict(f"intent {number} spent another quota")

    def _unit_after(self, payload: UnitReserved | UnitStep, seq: int, batch: Batch, units: Mapping[str, int]) -> int:
        """Where the unit's chain ends with ``payload`` at ``seq``; -1 when it is over. Raises Conflict."""
        unit = payload.unit
        last = units.get(unit, batch.units.get(unit, self.open_units.get(unit, -1)))
        if isinstance(payload, UnitReserved):
            if last >= 0:
                raise Conflict(f"unit {unit} has begun already")
        elif last < 0:
            raise Conflict(f"unit {unit} is not open")
        elif payload.previous != last:
            raise Conflict(f"unit {unit} has moved on: its last record is {last}, not {payload.previous}")
        return -1 if isinstance(payload, UnitEnded) else seq

    def adopt(self, batch: Batch) -> None:
        """Take over a batch that is durable."""
        self.frontier, self.time = batch.frontier, batch.time
        self.open_intents = self.open_after(batch)
        for name, change in batch.tallies.items():
            self.tallies[name] = self.tallies.get(name, 0) + change
        for unit, seq in batch.units.items():
            if seq < 0:
                self.open_units.pop(unit, None)
            else:
                self.open_units[unit] = seq

    def units_changed(self, batch: Batch) -> tuple[list[int], list[int]]:
        """What ``batch`` does to the list of open units' last records: those that are none any more, those that are new."""
        gone = [self.open_units[unit] for unit in batch.units if unit in self.open_units]
        return gone, [seq for seq in batch.units.values() if seq >= 0]

    def open_after(self, batch: Batch) -> dict[int, OpenIntent]:
        """The open intents once ``batch`` is durable."""
        remaining = self.open_intents | batch.opened
        for seq in batch.closed:
            remaining.pop(seq, None)
        return remaining


def tally_changes(payload: Payload) -> Iterable[tuple[str, int]]:
    """What a record does to the tallies: an intent or a unit spends one of each quota it names, its void or its end gives it
    back; and how many units of an order came to each state."""
    if isinstance(payload, Intent):
        return ((name, 1) for name in payload.quota)
    if isinstance(payload, Void):
        return ((name, -1) for name in payload.quota)
    if isinstance(payload, UnitReserved):
        return ((name, 1) for name in payload.quota)
    if isinstance(payload, UnitMoved):
        return ((state_tally(payload.order, payload.state), 1),)
    if isinstance(payload, UnitEnded):
        return ((state_tally(payload.order, payload.state), 1), *((name, -1) for name in payload.quota))
    return ()

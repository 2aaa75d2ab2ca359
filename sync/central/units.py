"""What the records of a production line come to mean: each unit as one row that follows its chain of records. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final

from gateway.errors import IntegrityError
from gateway.journal.line_records import UnitEnded, UnitKeyed, UnitMoved, UnitReserved
from gateway.journal.records import Record
from gateway.journal.tip import serial_column
from sync.central.line_rows import Unit

#: States that central gives a unit itself; the others are the records' own words.
RESERVED: Final = "reserved"
KEYED: Final = "keyed"
#: The end of a unit whose device may be used.
CONFIRMED: Final = "confirmed"
_MOST_TEXT: Final = 255


def needed_units(records: Iterable[Record]) -> set[str]:
    """Units that these records go on with and that begin before them."""
    begun: set[str] = set()
    needed: set[str] = set()
    for record in records:
        match record.payload:
            case UnitReserved(unit=unit):
                begun.add(unit)
            case UnitKeyed(unit=unit) | UnitMoved(unit=unit) | UnitEnded(unit=unit):
                if unit not in begun:
                    needed.add(unit)
    return needed


def unit_after(record: Record, before: Unit | None, origin: str) -> Unit:
    """The unit's row after its next record. Raises IntegrityError for a record that is not the next one of its chain."""
    payload = record.payload
    if isinstance(payload, UnitReserved):
        if before is not None:
            raise IntegrityError(f"unit {payload.unit[:80]} has begun already")
        texts = (payload.unit, payload.order, payload.serial, payload.station, payload.chip)
        if any(len(text) > _MOST_TEXT for text in texts):
            raise IntegrityError(f"a text of the unit has more than {_MOST_TEXT} characters")
        return Unit(
            origin, payload.unit, payload.order, payload.serial, RESERVED, payload.station, payload.chip, payload.attempt,
            b"", b"", record.time, record.time, record.seq,
        )  # fmt: skip
    if not isinstance(payload, UnitKeyed | UnitMoved | UnitEnded):
        raise TypeError(f"a record {payload.kind} is none of a unit")
    if before is None:
        raise IntegrityError(f"nothing is known of the beginning of unit {payload.unit[:80]}")
    if payload.previous != before.seq or before.over:
        raise IntegrityError(f"unit {payload.unit[:80]} ends with record {before.seq}, not with {payload.previous}")
    moved = replace(before, changed=record.time, seq=record.seq)
    match payload:
        case UnitKeyed():
            return replace(moved, state=KEYED, spki=payload.spki_digest)
        case UnitMoved():
            serial = serial_column(payload.serial) if payload.serial else before.serial
            return replace(moved, state=payload.state[:_MOST_TEXT], serial=serial)
        case UnitEnded():
            return replace(moved, state=payload.state[:_MOST_TEXT], over=record.time)


def is_made(unit: Unit) -> bool:
    """Whether a device has, or will have, the identity of this unit: a certificate exists, and it came to no bad end."""
    return bool(unit.serial) and (not unit.over or unit.state == CONFIRMED)

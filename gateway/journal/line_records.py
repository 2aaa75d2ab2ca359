"""What the journal remembers of the production line: work orders, and every unit that is made under one. Pure.

A *unit* is one attempt to give one device its identity. Its records form a chain: each names the one before it, and the
journal takes it only if that is still the unit's last one. So two stations that move the same unit at once can never both
win, and whoever moved it last knows its state. :mod:`provisioning.station` says which states there are; the journal only
knows whether a unit is open.

*Claims* are names that a journal gives away once: the number of a product, the chip of a device, a public key. Where a second
record makes the same claim, the store turns it down (:class:`gateway.errors.Conflict`).
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import ClassVar, TypeAlias


@dataclass(frozen=True, slots=True)
class OrderAccepted:
    """A signed work order counts from here on, in place of an earlier version of it."""

    kind: ClassVar[str] = "order-accepted"
    order: str
    version: int
    document: bytes  # the signed statement, whole
    credit: int  # units that may be begun under it, all in all
    source: str  # "central" or "file"
    operator: str = ""


@dataclass(frozen=True, slots=True)
class OrderClosed:
    """No unit is begun under this order any more; those that are open may be finished."""

    kind: ClassVar[str] = "order-closed"
    order: str
    operator: str
    reason: str


@dataclass(frozen=True, slots=True)
class UnitReserved:
    """A unit begins: credit is taken, the serial number belongs to this device. ``quota`` are the tallies it spends one of."""

    kind: ClassVar[str] = "unit-reserved"
    unit: str  # unique text
    order: str
    serial: str  # the product's serial number
    station: str  # who began it
    quota: tuple[str, ...]
    attempt: int  # of this serial number: 1, and one more after each unit of it that came to no good end
    key_origin: str  # "device" or "pool"
    chip: str = ""  # empty where a station cannot tell
    chip_attempt: int = 0
    port: str = ""
    driver: str = ""


@dataclass(frozen=True, slots=True)
class UnitKeyed:
    """The unit's key is known and was proven by a CSR."""

    kind: ClassVar[str] = "unit-keyed"
    unit: str
    previous: int  # seq of the unit's record before this one
    spki_digest: bytes  # SHA-256 of the SubjectPublicKeyInfo
    csr_digest: bytes
    evidence_digest: bytes = b""
    evidence_format: str = ""


@dataclass(frozen=True, slots=True)
class UnitMoved:
    """The unit is in ``state`` from here on."""

    kind: ClassVar[str] = "unit-moved"
    unit: str
    previous: int
    order: str
    state: str
    by: str
    serial: str = ""  # of its certificate, lower-case hex, with the move to "issued"
    detail: str = ""
    digest: bytes = b""  # SHA-256 of what ``state`` is about: what was read back, what was printed


@dataclass(frozen=True, slots=True)
class UnitEnded:
    """The unit is over. ``quota`` is what it gives back: nothing once a certificate was made for it."""

    kind: ClassVar[str] = "unit-ended"
    unit: str
    previous: int
    order: str
    state: str
    by: str
    reason: str = ""
    quota: tuple[str, ...] = ()
    digest: bytes = b""  # SHA-256 of the signed production record


@dataclass(frozen=True, slots=True)
class KeyErased:
    """The private key that the gateway made for this unit was destroyed here."""

    kind: ClassVar[str] = "key-erased"
    unit: str
    spki_digest: bytes
    reason: str


UnitStep: TypeAlias = UnitKeyed | UnitMoved | UnitEnded
LinePayload: TypeAlias = OrderAccepted | OrderClosed | UnitReserved | UnitKeyed | UnitMoved | UnitEnded | KeyErased

#: The kinds of records that claim anything; they are never pruned.
CLAIMING = frozenset(cls.kind for cls in (OrderAccepted, UnitReserved, UnitKeyed, UnitEnded))
_CLAIM_OCTETS = 20


def serial_claim(serial: str, attempt: int) -> bytes:
    return _claim("serial", f"{attempt}/{serial}".encode())


def chip_claim(chip: str, attempt: int) -> bytes:
    return _claim("chip", f"{attempt}/{chip}".encode())


def key_claim(spki_digest: bytes) -> bytes:
    return _claim("key", spki_digest)


def unit_claim(unit: str) -> bytes:
    """Made by the unit's first record."""
    return _claim("unit", unit.encode())


def end_claim(unit: str) -> bytes:
    """Made by the unit's last record."""
    return _claim("end", unit.encode())


def order_claim(order: str, version: int) -> bytes:
    return _claim("order", f"{version}/{order}".encode())


def claims_of(payload: object) -> tuple[bytes, ...]:
    """What a record claims: 20 octets each."""
    match payload:
        case UnitReserved():
            chip = (chip_claim(payload.chip, payload.chip_attempt),) if payload.chip else ()
            return unit_claim(payload.unit), serial_claim(payload.serial, payload.attempt), *chip
        case UnitKeyed():
            return (key_claim(payload.spki_digest),)
        case UnitEnded():
            return (end_claim(payload.unit),)
        case OrderAccepted():
            return (order_claim(payload.order, payload.version),)
        case _:
            return ()


def state_tally(order: str, state: str) -> str:
    """The tally that counts the units of an order that ever came to ``state``."""
    return f"order:{order}/{state}"


def _claim(kind: str, name: bytes) -> bytes:
    return sha256(kind.encode() + b"\0" + name).digest()[:_CLAIM_OCTETS]

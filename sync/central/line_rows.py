"""The tables of production lines, as row types like those of :mod:`sync.central.rows`."""

from __future__ import annotations

from dataclasses import dataclass

from sync.central.row import Row


@dataclass(frozen=True, slots=True)
class WorkOrder(Row):
    """What a production line is to make, as an operator defined it (:mod:`sync.central.work_orders`)."""

    id: str
    scope: str  # group:NAME or gateway:ORIGIN
    body: str  # canonical JSON as it was given
    quantity: int
    step: int
    after_receipt: int  # 1 for yes
    revision: int
    by: str
    made: int
    changed: int
    closed: str = ""  # why no gateway is to begin anything more


@dataclass(frozen=True, slots=True)
class Grant(Row):
    """One gateway's copy of a work order, signed, and what became of it there."""

    order: str
    origin: str
    version: int
    credit: int
    content: bytes  # the signed statement; empty where only the gateway's records tell of it
    made: int
    accepted: int = 0  # version that counts there
    over: int = 0  # time of the record that closed it there


@dataclass(frozen=True, slots=True)
class Unit(Row):
    """One attempt of a production line to give a device its identity, from the gateway's records."""

    origin: str
    unit: str
    order: str
    device: str  # the product's serial number
    state: str
    station: str
    chip: str
    attempt: int
    spki: bytes  # SHA-256
    serial: bytes  # of its certificate; empty without one
    begun: int
    changed: int
    seq: int  # of its last record
    over: int = 0  # time of the record that ended it

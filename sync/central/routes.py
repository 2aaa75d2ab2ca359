"""What the answers of central's REST interface are made with; how it is described stands in :mod:`gateway.web.routes`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from gateway.clock import Clock
from gateway.web import routes
from gateway.web.routes import (
    ANYTHING,
    JSON_TYPE,
    NUMBER,
    OCTETS_TYPE,
    TEXT,
    TRUTH,
    Call,
    Field,
    Reply,
    is_text,
)
from sync.central.bundles import Bundles
from sync.central.desired_state import DesiredStates
from sync.central.registry import Registry
from sync.central.revocations import Revocations
from sync.central.store import CentralStore
from sync.central.work_orders import WorkOrders

__all__ = [
    "ANYTHING", "JSON_TYPE", "NUMBER", "OCTETS_TYPE", "TEXT", "TRUTH", "Call", "Field", "Parts", "Reply", "Route", "is_text",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Parts:
    """What the answers are made with."""

    store: CentralStore
    clock: Clock
    desired: DesiredStates
    registry: Registry
    revocations: Revocations
    bundles: Bundles
    orders: WorkOrders


Route: TypeAlias = routes.Route[Parts]

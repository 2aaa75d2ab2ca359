"""Simulated devices as a driver module, for lines that are built from a configuration: ``simulated:NAME``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager

from provisioning.device import Address, Driver, KeyOrigin, Setting
from tests.support.simulated_device import SimulatedDevice, SimulatedDevices

KEYS = frozenset(KeyOrigin)
PORTS: dict[str, SimulatedDevice] = {}


def open_device(address: Address, settings: Mapping[str, Setting]) -> AbstractAsyncContextManager[Driver]:
    return SimulatedDevices(PORTS).open_device(address, settings)

"""One module for each kind of device, of the shape :class:`provisioning.device.DriverModule`. They do not know each other."""

from __future__ import annotations

from importlib import import_module
from typing import Final, cast

from gateway.errors import ConfigError
from provisioning.device import DriverModule

#: By the name that a recipe gives; imported when one is used, because some bring a vendor's library along.
DRIVERS: Final[dict[str, str]] = {
    "esp32": "provisioning.drivers.esp32",
    "linux": "provisioning.drivers.linux",
    "nrf91": "provisioning.drivers.nordic",
    "pkcs11": "provisioning.drivers.token",
    "recipe": "provisioning.drivers.recipe",
    "smp": "provisioning.drivers.smp",
    "tpm2": "provisioning.drivers.tpm",
    "uboot": "provisioning.drivers.uboot",
}


def driver(name: str) -> DriverModule:
    """Raises ConfigError for an unknown name."""
    if name not in DRIVERS:
        raise ConfigError(f"there is no driver {name!r}; there are: {', '.join(sorted(DRIVERS))}")
    return cast(DriverModule, import_module(DRIVERS[name]))

"""The OpenAPI document of the stations' interface; ``docs/line-openapi.json`` is what it gives.

``python -m provisioning.api.openapi`` prints it.
"""

from __future__ import annotations

import sys
from typing import Final

from gateway.web import openapi
from gateway.web.openapi import Interface, JsonObject
from provisioning.api.table import ROUTES
from provisioning.api.visit import PREFIX

_INTERFACE: Final = Interface(
    title="edge-gateway line",
    description="For stations that give devices their identity. Times are UTC ms. A unit's name is one segment of a path, "
    "percent-encoded, as its href gives it. Every POST needs an Idempotency-Key.",
    server=PREFIX,
    schemes={"certificate": {"type": "mutualTLS"}, "token": {"type": "http", "scheme": "basic"}},
)


def document() -> JsonObject:
    """OpenAPI 3.1."""
    return openapi.document(_INTERFACE, ROUTES)


def text() -> str:
    return openapi.text(_INTERFACE, ROUTES)


if __name__ == "__main__":
    sys.stdout.write(text())

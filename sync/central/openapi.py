"""The OpenAPI document of central's REST interface; ``docs/central-openapi.json`` is what it gives.

``python -m sync.central.openapi`` prints it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from gateway.web import openapi
from gateway.web.openapi import Interface, JsonObject
from sync.central.routes import Route

_INTERFACE: Final = Interface(
    title="edge-central",
    description="Gateways, certificates, settings and alerts of a central. Times are UTC ms, serial numbers hex. "
    "Lists are given page by page: send `next` as `after`. Every change needs an Idempotency-Key.",
    server="/api/v1",
    schemes={"bearer": {"type": "http", "scheme": "bearer"}, "certificate": {"type": "mutualTLS"}},
)


def document(routes: Sequence[Route]) -> JsonObject:
    """OpenAPI 3.1."""
    return openapi.document(_INTERFACE, routes)


def text(routes: Sequence[Route]) -> str:
    return openapi.text(_INTERFACE, routes)


if __name__ == "__main__":
    from sync.central.rest_answers import ROUTES

    sys.stdout.write(text(ROUTES))

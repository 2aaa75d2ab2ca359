"""Work orders written by people: from a TOML file to a signed statement, for sites without central. Pure.

::

    id = "O-2026-17"
    product = "PLC 7"
    profile = "idevid"
    credit = 500
    expires = 2026-12-31T23:59:59Z
    numbers = { prefix = "SN-", first = 1, last = 500, digits = 6 }

Every field of :class:`provisioning.orders.WorkOrder` is a key; what is not said has that class's default.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from gateway.errors import ConfigError, MalformedRequest
from gateway.journal.canonical import JsonValue
from gateway.journal.checkpoint import verifier_key
from gateway.journal.statements import to_json
from provisioning.device import KeyOrigin
from provisioning.idevid import names_of
from provisioning.orders import FORMAT, WorkOrder, sign_order


def order_from_toml(text: str, origin: str) -> WorkOrder:
    """The order for the gateway ``origin``. Raises ConfigError naming the key."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"the order is not valid TOML: {error}") from error
    table.setdefault("version", 1)
    table.setdefault("expires", 0)
    table["origin"] = origin
    body: dict[str, JsonValue] = {"format": FORMAT}
    for item in fields(WorkOrder):
        if item.name not in table and item.default is MISSING:
            raise ConfigError(f"the order says no {item.name}")
        body[item.name] = _json(table.pop(item.name, item.default))
    if table:
        raise ConfigError(f"the order has unknown keys: {', '.join(sorted(table))[:200]}")
    try:
        order = WorkOrder.from_bytes(to_json(body))
        names_of(order, "1")
    except MalformedRequest as error:
        raise ConfigError(f"the order cannot be used: {error}") from error
    return order


def sign_file(order: WorkOrder, key_pem: bytes, key_name: str) -> tuple[bytes, str]:
    """(the signed order, the vkey that ``line.order_keys`` must list). ``key_pem`` is an Ed25519 key (PKCS #8, not encrypted).

    Raises ConfigError.
    """
    try:
        key = load_pem_private_key(key_pem, None)
    except (ValueError, TypeError) as error:
        raise ConfigError("the key is no PEM file with a private key that is not encrypted") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError("work orders are signed with an Ed25519 key: openssl genpkey -algorithm ed25519")
    return sign_order(order, key_name, key), verifier_key(key_name, key.public_key())


def _json(value: object) -> JsonValue:
    if isinstance(value, KeyOrigin):
        return value.value
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ConfigError("expires needs a time zone: 2026-12-31T23:59:59Z")
        return int(value.timestamp() * 1000)
    if isinstance(value, list | tuple):
        return [_json(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): _json(each) for key, each in value.items()}
    if value is None or isinstance(value, str | int | bool):
        return value
    raise ConfigError(f"{value!r} is nothing that an order can hold")

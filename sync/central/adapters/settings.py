"""Adapters as the configuration names them: ``[adapters.NAME]`` with ``type`` and the keys of that type."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.clock import Clock
from gateway.errors import ConfigError
from gateway.schema import Table, read_section
from sync.central.adapters.feed import Adapter
from sync.central.adapters.files import EjbcaFiles, Tiles
from sync.central.adapters.http import JsonApi, Webhook

_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")


@dataclass(frozen=True, slots=True)
class WebhookSection:
    type: str = "webhook"
    url: str = ""
    secret: str = ""  # credential:NAME or file:PATH; the key of the HMAC
    kinds: tuple[str, ...] = ()  # of records; empty: all
    ca: Path | None = None  # PEM; instead of the system's trust anchors


@dataclass(frozen=True, slots=True)
class JsonApiSection:
    type: str = "jsonapi"
    url: str = ""  # of the collection, e.g. https://tma.example/api/v2.0/certificates
    secret: str = ""  # credential:NAME or file:PATH; sent as a bearer token; empty: none
    ca: Path | None = None


@dataclass(frozen=True, slots=True)
class DirectorySection:
    type: str = ""
    directory: Path | None = None


_SCHEMAS: Mapping[str, type[WebhookSection | JsonApiSection | DirectorySection]] = {
    "webhook": WebhookSection,
    "jsonapi": JsonApiSection,
    "ejbca": DirectorySection,
    "tiles": DirectorySection,
}


def build_adapters(tables: Mapping[str, Table], folder: Path, clock: Clock) -> tuple[Adapter, ...]:
    """Relative paths count from ``folder``. Raises ConfigError naming the key."""
    return tuple(_build(name, table, folder, clock) for name, table in tables.items())


def _build(name: str, table: Table, folder: Path, clock: Clock) -> Adapter:
    where = f"adapters.{name}"
    kind = table.get("type") if isinstance(table, Mapping) else None
    if not _NAME.fullmatch(name):
        raise ConfigError(f"{where}: an adapter's name has lower-case letters, digits and dashes")
    if not isinstance(kind, str) or kind not in _SCHEMAS:
        raise ConfigError(f"{where}.type must be one of {', '.join(_SCHEMAS)}")
    try:
        section = read_section(_SCHEMAS[kind], table, folder)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    match section:
        case WebhookSection():
            secret = _secret(section.secret, folder, where)
            if not secret:
                raise ConfigError(f"{where}.secret is missing: without it the receiver cannot know who sends")
            url, kinds = _url(section.url, where), frozenset(section.kinds)
            return Webhook(name, url, secret, clock, kinds=kinds, ca=_ca(section.ca, where))
        case JsonApiSection():
            return JsonApi(name, _url(section.url, where), _secret(section.secret, folder, where), _ca(section.ca, where))
        case DirectorySection(directory=None):
            raise ConfigError(f"{where}.directory is missing")
        case DirectorySection(type="tiles", directory=Path() as directory):
            return Tiles(name, directory)
        case DirectorySection(directory=Path() as directory):
            return EjbcaFiles(name, directory)
    raise AssertionError(section)  # pragma: no cover


def _url(url: str, where: str) -> str:
    if not url.startswith(("https://", "http://")):
        raise ConfigError(f"{where}.url must begin with https:// or http://")
    return url


def _ca(path: Path | None, where: str) -> str:
    try:
        return path.read_text(encoding="ascii") if path is not None else ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}.ca: {path} cannot be read") from error


def _secret(reference: str, folder: Path, where: str) -> bytes:
    if not reference:
        return b""
    kind, _, name = reference.partition(":")
    if kind not in ("credential", "file") or not name:
        raise ConfigError(f"{where}.secret must be credential:NAME or file:PATH; no secret belongs in the file")
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if kind == "credential" and (not directory or "/" in name):
        raise ConfigError(f"{where}.secret: only a systemd service has credentials, named without a path")
    path = Path(directory, name) if kind == "credential" else folder / name
    try:
        return path.read_bytes().strip()
    except OSError as error:
        raise ConfigError(f"{where}.secret: {path} cannot be read") from error

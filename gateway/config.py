"""The configuration: one TOML file, read once, typed, every key with a safe default.

The dataclasses below are the schema: a field is a key, its type is checked, its ``least`` and ``most`` bound it, and a key that
no field names is refused with its path and the nearest known name, because a misspelt key that is silently ignored is a
safety switch left off. ``config.example.toml`` explains each key and is compared with this module by a test. No secret
belongs here: PINs come from a credential, a file descriptor or a prompt. Relative paths count from the file's own folder.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import TypeAlias, TypeVar

from gateway.errors import ConfigError

Table: TypeAlias = Mapping[str, object]
Section = TypeVar("Section")

DEFAULT_STATE = Path("/var/lib/edge-gateway")


def _bounded(default: float, least: float, most: float) -> typing.Any:  # the type that dataclasses.field() itself has
    return field(default=default, metadata={"least": least, "most": most})


@dataclass(frozen=True, slots=True)
class GatewaySection:
    name: str = "edge-gateway"  # in the journal's origin and in the demo's certificate names
    state: Path = DEFAULT_STATE
    base_url: str = ""  # goes into certificates as CRL, OCSP and issuer address; empty: http://NAME:PORT of the HTTP listener
    log_level: str = "info"


@dataclass(frozen=True, slots=True)
class CaSection:
    key: str = "software:ca"  # software:NAME, or an RFC 7512 pkcs11: URI whose pin-source says where the PIN comes from


@dataclass(frozen=True, slots=True)
class Listener:
    host: str = "0.0.0.0"  # noqa: S104 - a gateway serves the factory network; narrow it in the file
    port: int = _bounded(0, 0, 65535)  # 0 takes any free port
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class ListenSection:
    https: Listener = field(default_factory=lambda: Listener(port=8443))
    http: Listener = field(default_factory=lambda: Listener(port=8080))


@dataclass(frozen=True, slots=True)
class TlsSection:
    names: tuple[str, ...] = ()  # DNS names and IP addresses in the server certificate; empty: host name, localhost, 127.0.0.1
    validity_hours: int = _bounded(168, 1, 8760)
    max_connections: int = _bounded(4096, 1, 100_000)
    max_connections_per_peer: int = _bounded(512, 1, 100_000)


@dataclass(frozen=True, slots=True)
class EstSection:
    profile: str = "ldevid"  # where the path has no label
    labels: Mapping[str, str] = field(default_factory=dict)  # label -> profile
    makers: tuple[Path, ...] = ()  # PEM files with the roots of makers whose IDevIDs may enrol


@dataclass(frozen=True, slots=True)
class PolicySection:
    version: int = _bounded(1, 1, 2**53)
    clock_doubt: str = "mark"  # what to do while the clock stands behind the journal; words of authority.policy.ClockDoubt
    clock_tolerance_seconds: int = _bounded(300, 0, 86_400)


@dataclass(frozen=True, slots=True)
class JournalSection:
    anchor: Path | None = None  # None: STATE/anchor, which a copied disk takes along
    disk_warn: float = _bounded(0.80, 0.01, 1.0)
    disk_refuse: float = _bounded(0.95, 0.01, 1.0)
    # SQLite's log grows to 1000 pages of 4 KiB, then the database by as much: with less, revoking soon ends on a full disk.
    reserve_bytes: int = _bounded(8 << 20, 8 << 20, 1 << 30)


@dataclass(frozen=True, slots=True)
class CrlSection:
    validity_hours: int = _bounded(168, 1, 5 * 8784)
    interval_hours: int = _bounded(24, 1, 8784)
    delta: bool = False
    shards: int = _bounded(1, 1, 64)
    shard_entries: int = _bounded(10_000, 100, 10_000_000)
    parents: tuple[Path, ...] = ()  # lists signed elsewhere, e.g. the offline root's, served as they are


@dataclass(frozen=True, slots=True)
class OcspSection:
    validity_hours: int = _bounded(24, 1, 744)
    responder_hours: int = _bounded(168, 2, 8784)


@dataclass(frozen=True, slots=True)
class TokensSection:
    validity_hours: int = _bounded(24, 1, 8784)
    uses: int = _bounded(1, 1, 1_000_000)


@dataclass(frozen=True, slots=True)
class LimitsSection:
    """How many requests of each lane may wait; one more is told to come back later."""

    line: int = _bounded(256, 1, 65_536)
    renewal: int = _bounded(512, 1, 65_536)
    bulk: int = _bounded(256, 1, 65_536)


@dataclass(frozen=True, slots=True)
class PoolSection:
    """RSA keys generated ahead for server-side key generation: how many of each size are kept ready."""

    rsa_2048: int = _bounded(8, 0, 10_000)
    rsa_3072: int = _bounded(0, 0, 10_000)
    rsa_4096: int = _bounded(0, 0, 10_000)


@dataclass(frozen=True, slots=True)
class Config:
    gateway: GatewaySection = field(default_factory=GatewaySection)
    ca: CaSection = field(default_factory=CaSection)
    listen: ListenSection = field(default_factory=ListenSection)
    tls: TlsSection = field(default_factory=TlsSection)
    est: EstSection = field(default_factory=EstSection)
    policy: PolicySection = field(default_factory=PolicySection)
    profile: Mapping[str, Table] = field(default_factory=dict)  # checked by gateway.authority.policy
    journal: JournalSection = field(default_factory=JournalSection)
    crl: CrlSection = field(default_factory=CrlSection)
    ocsp: OcspSection = field(default_factory=OcspSection)
    tokens: TokensSection = field(default_factory=TokensSection)
    limits: LimitsSection = field(default_factory=LimitsSection)
    pool: PoolSection = field(default_factory=PoolSection)
    #: Not a key: where the file lies, for relative names inside the profiles' tables.
    folder: Path = field(default=Path(), compare=False, metadata={"is_key": False})

    def with_state(self, state: Path) -> Config:
        """The same configuration with another state directory (``--state``)."""
        return dataclasses.replace(self, gateway=dataclasses.replace(self.gateway, state=state))


def load_config(path: Path) -> Config:
    """Read a configuration file. Raises ConfigError naming the file, the key and what is wrong with it."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    try:
        return config_from_table(table, path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def config_from_table(table: Table, folder: Path) -> Config:
    """Check a parsed file; relative paths count from ``folder``. Raises ConfigError."""
    config = _section(Config, table, "", folder)
    _check_relations(config)
    return dataclasses.replace(config, folder=folder)


def _check_relations(config: Config) -> None:
    """What no single key can say."""
    if config.journal.disk_warn >= config.journal.disk_refuse:
        raise ConfigError("journal.disk_warn must be below journal.disk_refuse")
    if config.crl.interval_hours >= config.crl.validity_hours:
        raise ConfigError("crl.interval_hours must be below crl.validity_hours, or every list would end before the next one")
    if not (config.listen.https.enabled or config.listen.http.enabled):
        raise ConfigError("listen: both listeners are switched off")
    if config.gateway.log_level not in {"debug", "info", "warning", "error"}:
        raise ConfigError("gateway.log_level must be debug, info, warning or error")
    if "pin-value" in config.ca.key:
        raise ConfigError("ca.key holds a PIN (pin-value); no secret belongs in the file. Use pin-source")
    base_url = config.gateway.base_url
    if base_url and not base_url.startswith(("http://", "https://")):
        raise ConfigError("gateway.base_url must begin with http:// or https://")


def _section(schema: type[Section], table: Table, path: str, folder: Path) -> Section:
    hints = typing.get_type_hints(schema)
    every = dataclasses.fields(schema)  # type: ignore[arg-type]  # every schema is a dataclass
    known = {each.name: each for each in every if each.metadata.get("is_key", True)}
    for key in table:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean {path}{near[0]}?" if near else f"; known here: {', '.join(known)}"
            raise ConfigError(f"unknown key {path}{key}{hint}")
    values: dict[str, object] = {}
    for key, raw in table.items():
        default = known[key].default_factory
        inherited = default() if default is not MISSING else None
        value = _value(hints[key], raw, f"{path}{key}", folder, inherited)
        _check_bounds(known[key].metadata, value, f"{path}{key}")
        values[key] = value
    return schema(**values)


def _check_bounds(bounds: Mapping[str, float], value: object, path: str) -> None:
    if "least" in bounds and isinstance(value, int | float) and not bounds["least"] <= value <= bounds["most"]:
        raise ConfigError(f"{path} must lie between {bounds['least']:g} and {bounds['most']:g}")


def _value(hint: object, raw: object, path: str, folder: Path, inherited: object) -> object:
    """``raw`` as the type that a field's ``hint`` asks for."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _merged(hint, _table(raw, path), path, folder, inherited)
    if isinstance(hint, types.UnionType):  # Path | None
        hint = Path
    origin = typing.get_origin(hint)
    if origin is tuple:
        (inner, _) = typing.get_args(hint)
        if not isinstance(raw, list):
            raise ConfigError(f'{path} must be a list, e.g. {path} = ["..."]')
        return tuple(_value(inner, each, f"{path}[{index}]", folder, None) for index, each in enumerate(raw))
    if origin is Mapping:
        inner = typing.get_args(hint)[1]
        table = _table(raw, path)
        if inner is str:
            return {key: _value(str, each, f"{path}.{key}", folder, None) for key, each in table.items()}
        return {key: _table(each, f"{path}.{key}") for key, each in table.items()}
    return _scalar(hint, raw, path, folder)


def _merged(hint: type[Section], table: Table, path: str, folder: Path, inherited: object) -> Section:
    """A sub-table changes only what it names: ``[listen.http]`` with a host keeps the default port of that listener."""
    section = _section(hint, table, f"{path}.", folder)
    if not isinstance(inherited, hint):
        return section
    named = {key: getattr(section, key) for key in table}
    return dataclasses.replace(inherited, **named)  # type: ignore[type-var]  # every schema is a dataclass


def _table(raw: object, path: str) -> Table:
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must be a table: [{path}]")
    return raw


def _scalar(hint: object, raw: object, path: str, folder: Path) -> object:
    names = {str: "a text in quotes", int: "a whole number", float: "a number", bool: "true or false", Path: "a path in quotes"}
    if hint is Path and isinstance(raw, str) and raw:
        return folder / Path(raw).expanduser()
    if hint is float and isinstance(raw, int) and not isinstance(raw, bool):
        return float(raw)
    if isinstance(hint, type) and type(raw) is hint:
        return raw
    raise ConfigError(f"{path} must be {names.get(typing.cast(type, hint), 'of another type')}")

"""Central's configuration: one TOML file, read as the gateway's is (:mod:`gateway.schema`).

``docs/central.example.toml`` explains every key and is compared with this module by a test. No secret belongs here: the
database's password and the root's PIN come from a credential or a file of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from gateway.errors import ConfigError
from gateway.schema import Table, bounded, read_section, read_toml

DEFAULT_STATE = Path("/var/lib/edge-central")
SQLITE = "sqlite"


@dataclass(frozen=True, slots=True)
class CentralSection:
    name: str = "central"  # in receipts, documents and the root's subject; never changed later
    state: Path = DEFAULT_STATE
    urls: tuple[str, ...] = ()  # told to gateways when they join; empty: https://NAME:PORT of the HTTPS listener
    base_url: str = ""  # in certificates, as address of lists and OCSP; empty: http://NAME:PORT of the HTTP listener
    log_level: str = "info"


@dataclass(frozen=True, slots=True)
class Listener:
    host: str = "0.0.0.0"  # noqa: S104 - gateways come from elsewhere; narrow it in the file
    port: int = bounded(0, 0, 65535)  # 0 takes any free port
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class ListenSection:
    https: Listener = field(default_factory=lambda: Listener(port=9443))
    http: Listener = field(default_factory=lambda: Listener(port=9080))


@dataclass(frozen=True, slots=True)
class TlsSection:
    names: tuple[str, ...] = ()  # DNS names and IP addresses in the server certificate; empty: host name, localhost, 127.0.0.1
    validity_hours: int = bounded(720, 1, 8760)


@dataclass(frozen=True, slots=True)
class RootSection:
    key: str = "software:root"  # software:NAME, or an RFC 7512 pkcs11: URI whose pin-source says where the PIN comes from
    subject: str = ""  # RFC 4514; empty: CN=NAME Root CA
    validity_days: int = bounded(3650, 30, 36_500)
    crl_validity_hours: int = bounded(720, 2, 5 * 8784)


@dataclass(frozen=True, slots=True)
class GatewaysSection:
    """The sub-CAs of gateways, and what gateways are given."""

    ca_validity_days: int = bounded(90, 1, 3650)
    automatic_renewal: bool = True  # certify the next CA key of a registered gateway without a person
    code_hours: int = bounded(48, 1, 8784)
    document_days: int = bounded(90, 0, 3650)  # how long a desired document is good; 0: without end


@dataclass(frozen=True, slots=True)
class DatabaseSection:
    url: str = SQLITE  # "sqlite", or postgresql://USER@HOST/NAME without a password
    password: str = ""  # credential:NAME or file:PATH


@dataclass(frozen=True, slots=True)
class StatusSection:
    ocsp_validity_hours: int = bounded(24, 1, 744)
    crl_validity_hours: int = bounded(48, 2, 744)


@dataclass(frozen=True, slots=True)
class LimitsSection:
    connections: int = bounded(8192, 1, 100_000)
    connections_per_peer: int = bounded(1024, 1, 100_000)
    records_per_second: int = bounded(20_000, 10, 10_000_000)  # of one gateway
    batches: int = bounded(64, 1, 4096)  # of all gateways at once


@dataclass(frozen=True, slots=True)
class AlertsSection:
    silence_hours: int = bounded(24, 1, 8784)  # without contact to a gateway


@dataclass(frozen=True, slots=True)
class Config:
    central: CentralSection = field(default_factory=CentralSection)
    listen: ListenSection = field(default_factory=ListenSection)
    tls: TlsSection = field(default_factory=TlsSection)
    root: RootSection = field(default_factory=RootSection)
    gateways: GatewaysSection = field(default_factory=GatewaysSection)
    database: DatabaseSection = field(default_factory=DatabaseSection)
    status: StatusSection = field(default_factory=StatusSection)
    limits: LimitsSection = field(default_factory=LimitsSection)
    alerts: AlertsSection = field(default_factory=AlertsSection)
    operators: Path | None = None  # who may use the REST interface, hashes only; None: STATE/operators.json
    adapters: Mapping[str, Table] = field(default_factory=dict)  # checked by sync.central.adapters
    #: Not a key: where the file lies.
    folder: Path = field(default=Path(), compare=False, metadata={"is_key": False})

    def with_state(self, state: Path) -> Config:
        """The same configuration with another state directory (``--state``)."""
        return dataclasses.replace(self, central=dataclasses.replace(self.central, state=state))


def load_config(path: Path) -> Config:
    """Read a configuration file. Raises ConfigError naming the file, the key and what is wrong with it."""
    table = read_toml(path)
    try:
        return config_from_table(table, path.parent)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def config_from_table(table: Table, folder: Path) -> Config:
    """Check a parsed file; relative paths count from ``folder``. Raises ConfigError."""
    config = read_section(Config, table, folder)
    _check_relations(config)
    return dataclasses.replace(config, folder=folder)


def _check_relations(config: Config) -> None:
    """What no single key can say."""
    central = config.central
    if not central.name or any(sign.isspace() or sign == "+" for sign in central.name):
        raise ConfigError("central.name must have no space and no '+': it is the name of a key")
    if central.log_level not in {"debug", "info", "warning", "error"}:
        raise ConfigError("central.log_level must be debug, info, warning or error")
    if "pin-value" in config.root.key:
        raise ConfigError("root.key holds a PIN (pin-value); no secret belongs in the file. Use pin-source")
    for url in central.urls:
        if not url.startswith("https://"):
            raise ConfigError("central.urls must begin with https://")
    if central.base_url and not central.base_url.startswith(("http://", "https://")):
        raise ConfigError("central.base_url must begin with http:// or https://")
    if not (config.listen.https.enabled or config.listen.http.enabled):
        raise ConfigError("listen: both listeners are switched off")
    _check_database(config.database)


def _check_database(database: DatabaseSection) -> None:
    if database.url == SQLITE:
        return
    parts = urlsplit(database.url)
    if parts.scheme not in ("postgresql", "postgres"):
        raise ConfigError('database.url must be "sqlite" or begin with postgresql://')
    if parts.password is not None or "password" in parts.query:
        raise ConfigError("database.url holds a password; no secret belongs in the file. Use database.password")
    if database.password and database.password.partition(":")[0] not in ("credential", "file"):
        raise ConfigError("database.password must be credential:NAME or file:PATH")

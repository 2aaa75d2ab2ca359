"""The configuration: one TOML file, read once, typed, every key with a safe default.

The dataclasses below are the schema: a field is a key, its type is checked, its ``least`` and ``most`` bound it, and a key that
no field names is refused with its path and the nearest known name, because a misspelt key that is silently ignored is a
safety switch left off. ``config.example.toml`` explains each key and is compared with this module by a test. No secret
belongs here: PINs come from a credential, a file descriptor or a prompt. Relative paths count from the file's own folder.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.errors import ConfigError
from gateway.schema import Table, bounded, read_section, read_toml

__all__ = ["Config", "Listener", "Table", "config_from_table", "load_config"]

DEFAULT_STATE = Path("/var/lib/edge-gateway")


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
    port: int = bounded(0, 0, 65535)  # 0 takes any free port
    enabled: bool = True


@dataclass(frozen=True, slots=True)
class ListenSection:
    https: Listener = field(default_factory=lambda: Listener(port=8443))
    http: Listener = field(default_factory=lambda: Listener(port=8080))


@dataclass(frozen=True, slots=True)
class TlsSection:
    names: tuple[str, ...] = ()  # DNS names and IP addresses in the server certificate; empty: host name, localhost, 127.0.0.1
    validity_hours: int = bounded(168, 1, 8760)
    max_connections: int = bounded(4096, 1, 100_000)
    max_connections_per_peer: int = bounded(512, 1, 100_000)


@dataclass(frozen=True, slots=True)
class EstSection:
    profile: str = "ldevid"  # where the path has no label
    labels: Mapping[str, str] = field(default_factory=dict)  # label -> profile
    makers: tuple[Path, ...] = ()  # PEM files with the roots of makers whose IDevIDs may enrol; [maker.NAME] says more of one


@dataclass(frozen=True, slots=True)
class MakerSection:
    certificates: tuple[Path, ...] = ()  # PEM files with the maker's CA certificates
    crls: tuple[Path, ...] = ()  # revocation lists of these CAs, DER or PEM
    require_crl: bool = False
    accept_expired: bool = False


@dataclass(frozen=True, slots=True)
class PolicySection:
    version: int = bounded(1, 1, 2**53)
    clock_doubt: str = "mark"  # what to do while the clock stands behind the journal; words of authority.policy.ClockDoubt
    clock_tolerance_seconds: int = bounded(300, 0, 86_400)
    blocked_keys: Path | None = None  # a file with SHA-256 of SubjectPublicKeyInfos in hexadecimal, one a line


@dataclass(frozen=True, slots=True)
class JournalSection:
    anchor: Path | str | None = None  # a file, or a token's pkcs11: URI; None: STATE/anchor, which a copied disk takes along
    anchor_interval: float = bounded(0, 0, 86_400)  # seconds between two writings at least; 0: by the kind of anchor
    disk_warn: float = bounded(0.80, 0.01, 1.0)
    disk_refuse: float = bounded(0.95, 0.01, 1.0)
    # SQLite's log grows to 1000 pages of 4 KiB, then the database by as much: with less, revoking soon ends on a full disk.
    reserve_bytes: int = bounded(8 << 20, 8 << 20, 1 << 30)


@dataclass(frozen=True, slots=True)
class CrlSection:
    validity_hours: int = bounded(168, 1, 5 * 8784)
    interval_hours: int = bounded(24, 1, 8784)
    delta: bool = False
    shards: int = bounded(1, 1, 64)
    shard_entries: int = bounded(10_000, 100, 10_000_000)
    parents: tuple[Path, ...] = ()  # lists signed elsewhere, e.g. the offline root's, served as they are


@dataclass(frozen=True, slots=True)
class OcspSection:
    validity_hours: int = bounded(24, 1, 744)
    responder_hours: int = bounded(168, 2, 8784)


@dataclass(frozen=True, slots=True)
class TokensSection:
    validity_hours: int = bounded(24, 1, 8784)
    uses: int = bounded(1, 1, 1_000_000)


@dataclass(frozen=True, slots=True)
class LimitsSection:
    """How many requests of each lane may wait; one more is told to come back later."""

    line: int = bounded(256, 1, 65_536)
    renewal: int = bounded(512, 1, 65_536)
    bulk: int = bounded(256, 1, 65_536)


@dataclass(frozen=True, slots=True)
class PoolSection:
    """RSA keys generated ahead for server-side key generation: how many of each size are kept ready."""

    rsa_2048: int = bounded(8, 0, 10_000)
    rsa_3072: int = bounded(0, 0, 10_000)
    rsa_4096: int = bounded(0, 0, 10_000)


@dataclass(frozen=True, slots=True)
class CentralSection:
    urls: tuple[str, ...] = ()  # instead of the addresses that central gave when this gateway joined it
    retention_days: int = bounded(90, 0, 36_500)  # how long records stay whole that central has confirmed; 0: for ever


@dataclass(frozen=True, slots=True)
class PortSection:
    """A place on the line where devices are plugged in."""

    address: str = ""  # serial:/dev/serial/by-path/..., tcp://host:port, ssh://user@host, ...
    driver: str = ""
    order: str = ""  # empty: the one that fits, or that a person chooses
    recipe: Path | None = None  # a TOML file with the driver's settings, in place of settings
    settings: Table = field(default_factory=dict)  # checked by the driver


@dataclass(frozen=True, slots=True)
class DropSection:
    """A folder through which a station without a network asks."""

    inbox: Path | None = None
    outbox: Path | None = None


@dataclass(frozen=True, slots=True)
class LineSection:
    """The production line: provisioning.plant says what it does with this."""

    order_keys: tuple[str, ...] = ()  # whose signed work orders count beside central's: C2SP verifier keys
    manufacturer: str = ""
    labels: Path | None = None  # a folder with templates, NAME.toml
    printer: str = ""  # HOST or HOST:PORT of a ZPL printer; empty: labels are pictures
    scan_labels: bool = False
    poll_seconds: float = bounded(1.0, 0.05, 60)
    retry_seconds: float = bounded(2.0, 0.05, 600)
    step_seconds: float = bounded(600.0, 1, 7200)
    port: Mapping[str, PortSection] = field(default_factory=dict)
    drop: Mapping[str, DropSection] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Config:
    gateway: GatewaySection = field(default_factory=GatewaySection)
    ca: CaSection = field(default_factory=CaSection)
    listen: ListenSection = field(default_factory=ListenSection)
    tls: TlsSection = field(default_factory=TlsSection)
    est: EstSection = field(default_factory=EstSection)
    maker: Mapping[str, MakerSection] = field(default_factory=dict)
    policy: PolicySection = field(default_factory=PolicySection)
    profile: Mapping[str, Table] = field(default_factory=dict)  # checked by gateway.authority.policy
    journal: JournalSection = field(default_factory=JournalSection)
    crl: CrlSection = field(default_factory=CrlSection)
    ocsp: OcspSection = field(default_factory=OcspSection)
    tokens: TokensSection = field(default_factory=TokensSection)
    limits: LimitsSection = field(default_factory=LimitsSection)
    pool: PoolSection = field(default_factory=PoolSection)
    central: CentralSection = field(default_factory=CentralSection)
    line: LineSection = field(default_factory=LineSection)
    #: Not a key: where the file lies, for relative names inside the profiles' tables.
    folder: Path = field(default=Path(), compare=False, metadata={"is_key": False})

    def with_state(self, state: Path) -> Config:
        """The same configuration with another state directory (``--state``)."""
        return dataclasses.replace(self, gateway=dataclasses.replace(self.gateway, state=state))


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
    if config.journal.disk_warn >= config.journal.disk_refuse:
        raise ConfigError("journal.disk_warn must be below journal.disk_refuse")
    if config.crl.interval_hours >= config.crl.validity_hours:
        raise ConfigError("crl.interval_hours must be below crl.validity_hours, or every list would end before the next one")
    if not (config.listen.https.enabled or config.listen.http.enabled):
        raise ConfigError("listen: both listeners are switched off")
    if config.gateway.log_level not in {"debug", "info", "warning", "error"}:
        raise ConfigError("gateway.log_level must be debug, info, warning or error")
    for name, uri in (("ca.key", config.ca.key), ("journal.anchor", config.journal.anchor)):
        if isinstance(uri, str) and "pin-value" in uri:
            raise ConfigError(f"{name} holds a PIN (pin-value); no secret belongs in the file. Use pin-source")
    base_url = config.gateway.base_url
    if base_url and not base_url.startswith(("http://", "https://")):
        raise ConfigError("gateway.base_url must begin with http:// or https://")

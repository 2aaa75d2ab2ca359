"""Which revocation lists a generation has, how they are called, and how they are configured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from gateway.authority.status import PARTITIONS
from gateway.errors import ConfigError
from gateway.journal.records import CrlPublished


@dataclass(frozen=True, slots=True)
class CrlOptions:
    """``directory`` is the cache. ``urls`` are prefixes under which the lists are found, e.g. ``http://pki.plant/crl/``."""

    directory: Path
    urls: tuple[str, ...] = ()
    ocsp_urls: tuple[str, ...] = ()
    issuer_urls: tuple[str, ...] = ()
    validity_s: int = 7 * 86_400
    interval_s: int = 86_400
    #: How long revocations are gathered before a list is signed for them.
    coalesce_s: float = 1.0
    #: ... and for this many times the seconds building it takes: 20 keeps large lists within 5 % of a core.
    build_share: float = 20.0
    #: thisUpdate lies this far in the past, as a certificate's notBefore does, for devices whose clock is slow.
    backdate_s: int = 300
    delta: bool = False
    #: Shards to begin with; more are made when each would hold more than ``shard_entries``.
    shards: int = 1
    shard_entries: int = 10_000
    #: Lists signed elsewhere (an offline root's), DER or PEM, served under their file name.
    parents: tuple[Path, ...] = ()

    def check(self) -> None:
        """Raise ConfigError for values that contradict each other."""
        if self.shards < 1 or PARTITIONS % self.shards:
            raise ConfigError(f"crl: shards must be 1, 2, 4, ... {PARTITIONS}")
        if not 0 < self.interval_s < self.validity_s:
            raise ConfigError("crl: a list must be published more often than it expires")
        if self.shards > 1 and not self.urls:
            raise ConfigError("crl: shards need a URL, which each list and each certificate names")


@dataclass(frozen=True, slots=True)
class CrlHealth:
    """One list as the status page shows it; times in UTC milliseconds, 0 while there is none."""

    name: str
    number: int
    next_update_ms: int
    entries: int
    #: Why the last attempt to publish it failed, empty when it did not.
    failure: str
    #: Whether it must be looked at: failing, missing or expired.
    degraded: bool


@dataclass(frozen=True, slots=True)
class Scope:
    """What one list covers."""

    generation: int
    index: int = 0
    count: int = 1
    delta: bool = False

    @property
    def label(self) -> str:
        """As ``scope`` of the crl-published record."""
        if self.delta:
            return "delta"
        return "full" if self.count == 1 else f"{self.index}of{self.count}"

    @property
    def name(self) -> str:
        return f"{self.generation}.crl" if self.label == "full" else f"{self.generation}-{self.label}.crl"


def scope_of(record: CrlPublished) -> Scope:
    """What the list of a crl-published record covers."""
    index, of, count = record.scope.partition("of")
    if of:
        return Scope(record.generation, int(index), int(count))
    return Scope(record.generation, delta=record.scope == "delta")

"""From the configuration to the options of each part: who builds the gateway reads here what the parts are told.

Nothing here opens or starts anything; files that the configuration names are read.
"""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import json
import re
import socket
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from gateway.authority.authority import TLS_IDENTITY, AuthorityOptions
from gateway.authority.crl import CrlOptions
from gateway.authority.delegated import DelegatedSpec
from gateway.authority.makers import Maker
from gateway.authority.ocsp import OcspOptions
from gateway.authority.policy import ClockDoubt, Policy
from gateway.authority.policy_tables import allow_files, policy_from_tables
from gateway.authority.requests import Lane
from gateway.config import Config, Table
from gateway.errors import ConfigError, NotFound
from gateway.journal.journal import ANCHOR_INTERVAL_S, JournalOptions
from gateway.keys.signer import KeySpec
from gateway.keys.uri import KeyUri
from gateway.protocols.est.codec import PREFIX, EstOperation, parse_path
from gateway.protocols.est.endpoint import EstOptions
from gateway.protocols.server import Limits

#: The gateway's own TLS certificate: a profile that nobody can ask for (the gateway itself needs no permission).
TLS_PROFILE = "gateway-tls"
CHECKPOINT_KEY = "checkpoint"
#: Seconds between two writings of an anchor on a token: its memory stands 100,000 to 500,000 of them.
TOKEN_ANCHOR_INTERVAL_S = 60.0
#: RFC 5280 appendix A.1: a commonName has at most 64 characters.
_COMMON_NAME = 64
#: RFC 1123 section 2.1, and an underscore, which Windows host names have; RFC 1035 section 2.3.4: 255 octets on the wire.
_DNS_LENGTH = 253
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")


def journal_options(config: Config) -> JournalOptions:
    """``anchor`` is None where it lies on a token: :func:`anchor_uri`."""
    state, section = config.gateway.state, config.journal
    by_kind = TOKEN_ANCHOR_INTERVAL_S if isinstance(section.anchor, str) else ANCHOR_INTERVAL_S
    return JournalOptions(
        path=state / "journal.db",
        anchor=None if isinstance(section.anchor, str) else section.anchor or state / "anchor",
        anchor_interval_s=section.anchor_interval or by_kind,
        disk_warn=section.disk_warn,
        disk_refuse=section.disk_refuse,
        reserve_bytes=section.reserve_bytes,
    )


def anchor_uri(config: Config) -> KeyUri | None:
    """The token that holds the journal's anchor; None where the anchor is a file. Raises ConfigError."""
    text = config.journal.anchor
    if not isinstance(text, str):
        return None
    try:
        uri = KeyUri.parse(text)
    except ConfigError as error:
        raise ConfigError(f"journal.anchor: {error}") from error
    if not (uri.token or uri.serial):
        raise ConfigError("journal.anchor names no token: token=LABEL or serial=NUMBER is missing")
    return uri


def policy(config: Config) -> Policy:
    """The policy of the ``[profile.*]`` tables. Raises ConfigError."""
    files = {name: _read_text(config.folder / name) for name in allow_files(config.profile)}
    try:
        doubt = ClockDoubt(config.policy.clock_doubt)
    except ValueError:
        raise ConfigError("policy.clock_doubt must be 'mark' or 'stop'") from None
    content = {
        "profiles": config.profile,
        "files": files,
        "clock": [doubt.value, config.policy.clock_tolerance_seconds],
        "makers": sorted(
            [
                each.name,
                each.require_crl,
                each.accept_expired,
                sorted(hashlib.sha256(der).hexdigest() for der in each.certificates),
            ]
            for each in makers(config)
        ),
        "labels": {"": config.est.profile, **config.est.labels},
    }
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).digest()
    return policy_from_tables(
        {**own_profiles(config), **config.profile},
        digest,
        config.policy.version,
        files=files,
        clock_doubt=doubt,
        clock_tolerance_ms=config.policy.clock_tolerance_seconds * 1000,
    )


def own_profiles(config: Config) -> Mapping[str, Table]:
    """The profiles of the gateway's own certificates, which nobody else can ask for. Raises ConfigError."""
    own = {
        TLS_PROFILE: {"base": "tls-server", "validity": f"{config.tls.validity_hours}h", "requesters": []},
        # As long as central may have to answer for a gateway that is out of reach.
        "central-ocsp": {"base": "ocsp-responder", "validity": "90d", "requesters": []},
        "central-client": {"base": "tls-client", "validity": "90d", "requesters": []},
        # Signs production records (RFC 9336: id-kp-documentSigning).
        "line-papers": {
            "base": "tls-client",
            "extended_key_usage": ["1.3.6.1.5.5.7.3.36"],
            "validity": "365d",
            "requesters": [],
        },
        "ocsp-responder": {"validity": f"{config.ocsp.responder_hours}h", "requesters": []},
    }
    for name in config.profile:
        if name in own and name != "ocsp-responder":
            raise ConfigError(f"profile.{name} is for the gateway's own certificates; choose another name, or see [tls]")
    return own


def crl_options(config: Config, base_url: str) -> CrlOptions:
    """``base_url`` is empty where no device can be told an address."""
    section = config.crl
    return CrlOptions(
        directory=config.gateway.state / "crl",
        urls=(f"{base_url}/crl/",) if base_url else (),
        ocsp_urls=(f"{base_url}/ocsp",) if base_url else (),
        issuer_urls=(f"{base_url}/ca/{{key}}.cer",) if base_url else (),
        validity_s=section.validity_hours * 3600,
        interval_s=section.interval_hours * 3600,
        delta=section.delta,
        shards=section.shards,
        shard_entries=section.shard_entries,
        parents=section.parents,
    )


def authority_options(config: Config, base_url: str) -> AuthorityOptions:
    """Raises ConfigError for makers' files that cannot be read."""
    limits = config.limits
    return AuthorityOptions(
        delegated=config.gateway.state / "delegated",
        crl=crl_options(config, base_url),
        ocsp=OcspOptions(validity_s=config.ocsp.validity_hours * 3600),
        lanes={Lane.LINE: limits.line, Lane.RENEWAL: limits.renewal, Lane.BULK: limits.bulk},
        makers=makers(config),
        blocked_keys=config.policy.blocked_keys,
    )


def est_options(config: Config, policy: Policy) -> EstOptions:
    """Raises ConfigError for a label or default that names no profile."""
    for key, name in {
        "profile": config.est.profile,
        **{f"labels.{each}": to for each, to in config.est.labels.items()},
    }.items():
        if name not in policy.rules:
            near = difflib.get_close_matches(name, policy.rules, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(policy.rules)}"
            raise ConfigError(f"est.{key}: there is no profile {name!r}; {hint}")
    for label in config.est.labels:
        try:
            parse_path(f"{PREFIX}/{label}/{EstOperation.CACERTS.value}")
        except NotFound as error:
            raise ConfigError(f"est.labels.{label}: no address can name it ({error})") from error
    return EstOptions(config.est.profile, config.est.labels)


def pool_sizes(config: Config) -> dict[KeySpec, int]:
    pool = config.pool
    return {KeySpec.RSA_2048: pool.rsa_2048, KeySpec.RSA_3072: pool.rsa_3072, KeySpec.RSA_4096: pool.rsa_4096}


def listener_limits(config: Config) -> Limits:
    return Limits(connections=config.tls.max_connections, connections_per_peer=config.tls.max_connections_per_peer)


def tls_names(config: Config) -> tuple[str, ...]:
    """The names in the TLS certificate; the first one stands in URLs."""
    return config.tls.names or tuple(dict.fromkeys((socket.gethostname(), "localhost", "127.0.0.1")))


def _check_dns_name(name: str) -> str:
    if not _DNS_NAME.fullmatch(name) or len(name) > _DNS_LENGTH:
        raise ConfigError(f"tls.names: {name!r} is neither an IP address nor a DNS name (international ones as xn--...)")
    return name


def base_url(config: Config, http_port: int = 0) -> str:
    """Where devices find revocation lists and OCSP, without a final slash; empty when there is no such address.

    ``http_port`` is the port the listener really has, where it was free to choose.
    """
    if config.gateway.base_url:
        return config.gateway.base_url.rstrip("/")
    port = http_port or config.listen.http.port
    return url("http", config, port) if config.listen.http.enabled and port else ""


def url(scheme: str, config: Config, port: int) -> str:
    """``scheme://NAME:PORT`` with the first of the TLS names."""
    name = tls_names(config)[0]
    return f"{scheme}://[{name}]:{port}" if ":" in name else f"{scheme}://{name}:{port}"


def tls_spec(config: Config) -> DelegatedSpec:
    """The certificate that the HTTPS listener presents."""
    names = tls_names(config)
    san = tuple(map(_general_name, names))
    return DelegatedSpec(TLS_IDENTITY, TLS_PROFILE, _common_name(names[0]), san)


def makers(config: Config) -> tuple[Maker, ...]:
    """The makers whose IDevIDs are taken. Raises ConfigError for files that cannot be read and rules that cannot be met."""
    found = []
    for name, section in config.maker.items():
        if not section.certificates:
            raise ConfigError(f"maker.{name}.certificates names no file")
        if section.require_crl and not section.crls:
            raise ConfigError(f"maker.{name}.require_crl: without maker.{name}.crls no device of this maker would be taken")
        certificates = tuple(der for path in section.certificates for der in _certificates(path, f"maker.{name}"))
        found.append(Maker(name, certificates, section.crls, section.require_crl, section.accept_expired))
    if config.est.makers:  # after the tables: what is said of a CA there counts
        found.append(Maker("", tuple(der for path in config.est.makers for der in _certificates(path, "est.makers"))))
    return tuple(found)


def _certificates(path: Path, key: str) -> tuple[bytes, ...]:
    try:
        certificates = x509.load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{key}: {path} cannot be read as PEM certificates") from error
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in certificates)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the allow-list {path} cannot be read") from error


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:_COMMON_NAME])])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(_check_dns_name(name))

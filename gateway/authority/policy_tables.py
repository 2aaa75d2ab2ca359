"""From parsed TOML to a :class:`~gateway.authority.policy.Policy`. Pure: files named by the tables come in as texts.

Each ``[profile.NAME]`` table holds what goes into the certificate (the fields of :class:`gateway.pki.profiles.Profile`) and who
gets it (the keys of :data:`RULE_KEYS`) side by side, because whoever writes it thinks of both at once::

    [profile.plc]
    base = "ldevid"
    requesters = ["idevid", "own-certificate"]
    quota = 5000
    leniency = ["renew-after-expiry"]
    [profile.plc.allow]
    serialNumber = ["SN-2026-*"]
    files = { serialNumber = "shipment-17.txt" }

A builtin profile without a table keeps its builtin rule (:data:`BUILTIN_RULES`). A misspelt key is refused, never ignored: it
may be a safety switch left off.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Mapping
from dataclasses import fields
from enum import Enum
from typing import TypeVar

from gateway.authority.policy import (
    ALLOW_KINDS,
    LENIENCY_SWITCHES,
    AllowList,
    ClockDoubt,
    LintLevel,
    Policy,
    ProfileRule,
    allow_list,
)
from gateway.authority.requests import RequesterKind
from gateway.errors import ConfigError
from gateway.pki.profiles import BUILTIN_PROFILES, Profile, parse_duration, profile_from_table

Table = Mapping[str, object]
Choice = TypeVar("Choice", bound=Enum)

_DEVICES = frozenset({RequesterKind.OWN, RequesterKind.TOKEN, RequesterKind.STATION, RequesterKind.OPERATOR})
#: Who may ask where the configuration does not say. An IDevID comes from the line; a responder is the gateway's own.
BUILTIN_RULES: dict[str, frozenset[RequesterKind]] = {
    "idevid": frozenset({RequesterKind.ORDER, RequesterKind.STATION, RequesterKind.OPERATOR}),
    "ldevid": _DEVICES | {RequesterKind.IDEVID},
    "station": frozenset({RequesterKind.OWN, RequesterKind.TOKEN, RequesterKind.OPERATOR}),
    "ocsp-responder": frozenset({RequesterKind.GATEWAY}),
}
_STATION_PROFILES = frozenset({"station"})
_GRANTABLE = {kind.value: kind for kind in RequesterKind if kind is not RequesterKind.GATEWAY}
RULE_KEYS = frozenset(
    {
        "requesters", "allow", "quota", "approval", "lint", "leniency", "retry_window", "renew_grace", "allow_key_reuse",
        "allow_name_change", "bind_serial", "from_profiles", "station", "approval_retry",
    }
)  # fmt: skip
_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")
_PROFILE_KEYS = frozenset(item.name for item in fields(Profile) if item.init and item.name != "name") | {"base"}


def policy_from_tables(
    tables: Mapping[str, Table],
    digest: bytes,
    version: int,
    *,
    files: Mapping[str, str] | None = None,
    expires_ms: int = 0,
    clock_doubt: ClockDoubt = ClockDoubt.MARK,
    clock_tolerance_ms: int = 300_000,
    blocked_keys: frozenset[bytes] = frozenset(),
) -> Policy:
    """The policy of the ``[profile.*]`` tables. ``files`` holds the text of each file that :func:`allow_files` names.

    Raises ConfigError naming the path of the key.
    """
    rules = {name: _rule(name, {}, {}) for name in BUILTIN_PROFILES}
    for name, table in tables.items():
        rules[name] = _rule(name, table, files or {})
    for name, rule in rules.items():
        for other in rule.from_profiles:
            if other not in rules:
                raise ConfigError(f"profile.{name}.from_profiles: {_unknown(other, rules, 'profile')}")
    return Policy(version, rules, digest, expires_ms, clock_doubt, clock_tolerance_ms, blocked_keys)


def allow_files(tables: Mapping[str, Table]) -> tuple[str, ...]:
    """The files whose text :func:`policy_from_tables` will ask for, as the tables spell them. Raises ConfigError."""
    found: dict[str, None] = {}
    for name, table in tables.items():
        allow = _table(table.get("allow", {}), f"profile.{name}.allow")
        listed = _table(allow.get("files", {}), f"profile.{name}.allow.files")
        for kind, file in listed.items():
            found[_text(file, f"profile.{name}.allow.files.{kind}")] = None
    return tuple(found)


def entries_of(text: str) -> tuple[str, ...]:
    """The entries of an allow-list file: one a line, blank lines and lines that begin with ``#`` left out."""
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def blocked_keys_of(text: str) -> frozenset[bytes]:
    """The keys of a list: SHA-256 of a SubjectPublicKeyInfo in hexadecimal, one a line, as :func:`entries_of` reads lines.

    Raises ConfigError naming the entry that is none.
    """
    keys = set()
    for entry in entries_of(text):
        if not _SHA256.fullmatch(entry):
            raise ConfigError(f"{entry[:80]!r} is not the SHA-256 of a public key in 64 hexadecimal digits")
        keys.add(bytes.fromhex(entry))
    return frozenset(keys)


def _rule(name: str, table: Table, files: Mapping[str, str]) -> ProfileRule:
    path = f"profile.{name}"
    _check_keys(table, _PROFILE_KEYS | RULE_KEYS, path)
    base = table.get("base", name)
    profile = profile_from_table(name, {key: value for key, value in table.items() if key in _PROFILE_KEYS})

    default = ProfileRule(profile, BUILTIN_RULES.get(str(base), _DEVICES))
    return ProfileRule(
        profile=profile,
        requesters=_requesters(table["requesters"], f"{path}.requesters") if "requesters" in table else default.requesters,
        allow=_allow(table["allow"], f"{path}.allow", files) if "allow" in table else default.allow,
        quota=_units(table["quota"], f"{path}.quota") if "quota" in table else None,
        approval=_flag(table, "approval", path, False),
        lint=_choice(LintLevel, table["lint"], f"{path}.lint") if "lint" in table else default.lint,
        leniency=_leniency(table.get("leniency", []), f"{path}.leniency"),
        retry_window_s=_seconds(table, "retry_window", path, default.retry_window_s),
        renew_grace_s=_seconds(table, "renew_grace", path, default.renew_grace_s),
        allow_key_reuse=_flag(table, "allow_key_reuse", path, True),
        bind_serial=_flag(table, "bind_serial", path, True),
        allow_name_change=_flag(table, "allow_name_change", path, False),
        from_profiles=frozenset(_texts(table.get("from_profiles", []), f"{path}.from_profiles")),
        station=_flag(table, "station", path, base in _STATION_PROFILES),
        approval_retry_s=_seconds(table, "approval_retry", path, default.approval_retry_s),
    )


def _allow(raw: object, path: str, files: Mapping[str, str]) -> AllowList:
    table = _table(raw, path)
    _check_keys(table, (*ALLOW_KINDS, "files"), path)
    entries = {kind: _texts(texts, f"{path}.{kind}") for kind, texts in table.items() if kind != "files"}
    listed = _table(table.get("files", {}), f"{path}.files")
    _check_keys(listed, ALLOW_KINDS, f"{path}.files")
    for kind, file in listed.items():
        file_path = _text(file, f"{path}.files.{kind}")
        if file_path not in files:
            raise ConfigError(f"{path}.files.{kind}: {file_path} was not read")
        entries[kind] = entries.get(kind, ()) + entries_of(files[file_path])
    return allow_list(entries)


def _requesters(raw: object, path: str) -> frozenset[RequesterKind]:
    names = _texts(raw, path)
    for name in names:
        if name not in _GRANTABLE:
            raise ConfigError(f"{path}: {_unknown(name, _GRANTABLE, 'requester')}")
    return frozenset(_GRANTABLE[name] for name in names)


def _leniency(raw: object, path: str) -> frozenset[str]:
    names = _texts(raw, path)
    for name in names:
        if name not in LENIENCY_SWITCHES:
            raise ConfigError(f"{path}: {_unknown(name, LENIENCY_SWITCHES, 'switch')}")
    return frozenset(names)


def _choice(choices: type[Choice], raw: object, path: str) -> Choice:
    known = {str(choice.value): choice for choice in choices}
    name = _text(raw, path)
    if name not in known:
        raise ConfigError(f"{path}: {_unknown(name, known, 'choice')}")
    return known[name]


def _check_keys(table: Table, known: Collection[str], path: str) -> None:
    for key in table:
        if key not in known:
            raise ConfigError(f"{path}: {_unknown(key, known, 'key')}")


def _unknown(name: str, known: Collection[str], what: str) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
    return f"unknown {what} {name!r}; {hint}"


def _table(raw: object, path: str) -> Table:
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{path} must be a table")
    return raw


def _text(raw: object, path: str) -> str:
    if not isinstance(raw, str) or not raw:
        raise ConfigError(f"{path} must be a text in quotes")
    return raw


def _texts(raw: object, path: str) -> tuple[str, ...]:
    if not isinstance(raw, list | tuple):
        raise ConfigError(f"{path} must be a list of texts")
    return tuple(_text(item, path) for item in raw)


def _units(raw: object, path: str) -> int:
    if type(raw) is not int or raw < 0:
        raise ConfigError(f"{path} must be a whole number from 0 on")
    return raw


def _flag(table: Table, key: str, path: str, default: bool) -> bool:
    raw = table.get(key, default)
    if not isinstance(raw, bool):
        raise ConfigError(f"{path}.{key} must be true or false")
    return raw


def _seconds(table: Table, key: str, path: str, default: int) -> int:
    raw = table.get(key, default)
    if isinstance(raw, str):
        try:
            return parse_duration(raw)
        except ConfigError as error:
            raise ConfigError(f"{path}.{key}: {error}") from error
    return _units(raw, f"{path}.{key}")

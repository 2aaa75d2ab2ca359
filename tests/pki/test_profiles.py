"""Profiles: the builtin ones are sound, and a table that cannot mean anything is refused with the key's name."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.errors import ConfigError
from gateway.pki.profiles import BUILTIN_PROFILES, Profile, parse_duration, profile_from_table


@pytest.mark.parametrize("profile", BUILTIN_PROFILES.values(), ids=BUILTIN_PROFILES.keys())
def test_builtin_profile_is_sound(profile: Profile) -> None:
    profile.check()
    assert profile.description


def test_table_overrides_the_builtin_profile_of_its_name() -> None:
    profile = profile_from_table("tls-server", {"validity": "30d", "san_wildcards": True})
    assert profile == replace(BUILTIN_PROFILES["tls-server"], validity=30 * 86_400, san_wildcards=True)
    assert hash(profile) != hash(BUILTIN_PROFILES["tls-server"])


def test_table_builds_on_the_base_it_names() -> None:
    table: dict[str, object] = {
        "base": "idevid",
        "san_template": ["HMN:1.3.6.1.4.1.32473.1:{serialNumber.hex}"],
        "subject_template": ["O=Acme", "serialNumber={serialNumber}"],
        "key_types": ["p-256", "rsa>=3072", "rsa-2560"],
        "validity": "no-well-defined-expiry",
        "backdate": 0,
    }
    profile = profile_from_table("line-7", table)
    assert profile.name == "line-7"
    assert profile.validity is None
    assert profile.key_types == frozenset({"p-256", "rsa>=3072", "rsa-2560"})
    assert profile.rules == "idevid"


def test_table_of_its_own_starts_from_the_defaults() -> None:
    assert profile_from_table("own", {"validity": 3600}) == Profile(name="own", validity=3600)


@pytest.mark.parametrize(
    "table",
    [
        {"base": "nothing"},
        {"base": 5},
        {"unknown": 1},
        {"name": "other"},
        {"_hash": 1},
        {"validity": "soon"},
        {"validity": 0},
        {"validity": True},
        {"validity": 1.5},
        {"backdate": "30d"},
        {"backdate": -1},
        {"backdate": "no-well-defined-expiry"},
        {"subject_allowed": "CN"},
        {"subject_allowed": [1]},
        {"subject_allowed": ["CX"]},
        {"subject_required": ["CX"]},
        {"subject_template": ["O"]},
        {"subject_template": ["XX=a"]},
        {"subject_template": ["O={nothing}"]},
        {"subject_template": ["O={CN"]},
        {"subject_template": ["O={CN.upper}"]},
        {"san_allowed": ["dns"]},
        {"san_required_any": ["X"]},
        {"san_template": ["plc-7"]},
        {"san_default": ["X:a"]},
        {"san_wildcards": "yes"},
        {"key_types": []},
        {"key_types": ["p-192"]},
        {"key_types": ["rsa-1024"]},
        {"key_types": ["rsa>=1024"]},
        {"key_types": ["rsa>=8193"]},
        {"key_types": ["rsa>=many"]},
        {"key_usage": ["keyCertSign"]},
        {"key_usage": ["keyAgreement"]},
        {"key_usage_rsa": ["keyAgreement"]},
        {"key_usage_ec": ["keyEncipherment"]},
        {"extended_key_usage": ["everything"]},
        {"policies": ["1.2.x"]},
        {"copy_extensions": ["1"]},
        {"copy_extensions": ["2.5.29.19"]},
        {"rules": "none"},
    ],
    ids=repr,
)
def test_table_that_cannot_mean_anything_is_refused(table: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"own|duration"):
        profile_from_table("own", table)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("15m", 900), ("12h", 43_200), ("2d", 172_800), ("1w", 604_800)])
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


def test_a_year_has_365_and_a_quarter_days() -> None:
    assert parse_duration("4y") == 1461 * 86_400

"""The configuration: what is not understood is refused with its path, and the example file is the schema in words."""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from gateway.config import Config, config_from_table, load_config
from gateway.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]
EXAMPLE = ROOT / "config.example.toml"
#: Keys whose default is "not there": the example names them in a comment.
WITHOUT_DEFAULT = {"journal.anchor", "policy.blocked_keys", "line.labels"}


def keys_of(schema: type[object], prefix: str = "") -> Iterator[str]:
    """Dotted names of every key that the dataclasses know."""
    not_keys = {each.name for each in dataclasses.fields(schema) if not each.metadata.get("is_key", True)}  # type: ignore[arg-type]
    for name, hint in typing.get_type_hints(schema).items():
        if name in not_keys:
            continue
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from keys_of(hint, f"{prefix}{name}.")
        elif typing.get_origin(hint) is not Mapping:
            yield f"{prefix}{name}"


def keys_in(table: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from keys_in(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def test_the_example_names_every_key_and_no_other() -> None:
    named = set(keys_in(tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))))
    assert named | WITHOUT_DEFAULT == set(keys_of(Config))


def test_the_example_explains_every_key_in_a_comment_above_it() -> None:
    lines = EXAMPLE.read_text(encoding="utf-8").splitlines()
    bare = []
    for number, line in enumerate(lines):
        if "=" in line and not line.startswith("#"):
            above = number - 1
            while above >= 0 and lines[above] and not lines[above].startswith("#"):
                above -= 1  # keys that belong together share one explanation, a section's stands above its name
            if above < 0 or (not lines[above].startswith("#") and not lines[above - 1].startswith("#")):
                bare.append(line)
    assert bare == []


def test_the_example_is_the_defaults() -> None:
    assert load_config(EXAMPLE) == Config()


def test_an_optional_key_of_the_example_is_still_mentioned() -> None:
    text = EXAMPLE.read_text(encoding="utf-8")
    assert all(f"# {key.rsplit('.', 1)[1]} = " in text for key in WITHOUT_DEFAULT)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"gatway": {}}, "unknown key gatway; did you mean gateway?"),
        ({"listen": {"htp": {}}}, "unknown key listen.htp; did you mean listen.http?"),
        ({"listen": {"http": {"prot": 1}}}, "unknown key listen.http.prot; did you mean listen.http.port?"),
        ({"crl": {"zzz": 1}}, "unknown key crl.zzz; known here: validity_hours"),
        ({"gateway": 1}, "gateway must be a table"),
        ({"tls": {"names": "x"}}, "tls.names must be a list"),
        ({"tls": {"names": [1]}}, "tls.names[0] must be a text in quotes"),
        ({"tokens": {"uses": "1"}}, "tokens.uses must be a whole number"),
        ({"tokens": {"uses": True}}, "tokens.uses must be a whole number"),
        ({"listen": {"http": {"enabled": 1}}}, "listen.http.enabled must be true or false"),
        ({"listen": {"http": {"port": 65536}}}, "listen.http.port must lie between 0 and 65535"),
        ({"journal": {"disk_warn": 1.5}}, "journal.disk_warn must lie between 0.01 and 1"),
        ({"journal": {"anchor": ""}}, "journal.anchor must be a path"),
        ({"journal": {"anchor": "pkcs11:token=t?pin-value=471100"}}, "journal.anchor holds a PIN"),
        ({"journal": {"anchor_interval": -1}}, "journal.anchor_interval must lie between 0 and 86400"),
        ({"est": {"labels": {"web": 1}}}, "est.labels.web must be a text"),
        ({"profile": {"ldevid": 1}}, "profile.ldevid must be a table"),
        ({"journal": {"disk_warn": 0.96}}, "journal.disk_warn must be below journal.disk_refuse"),
        ({"crl": {"validity_hours": 10, "interval_hours": 10}}, "crl.interval_hours must be below"),
        ({"listen": {"http": {"enabled": False}, "https": {"enabled": False}}}, "both listeners are switched off"),
        ({"gateway": {"log_level": "loud"}}, "gateway.log_level must be"),
        ({"gateway": {"base_url": "pki.plant"}}, "gateway.base_url must begin with http"),
    ],
)
def test_a_wrong_table_is_refused_with_its_path(table: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_table(table, Path("/somewhere"))
    assert said in str(caught.value)


def test_a_pin_in_the_file_is_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError) as caught:
        config_from_table({"ca": {"key": "pkcs11:token=t;object=ca?pin-value=471100"}}, Path("/somewhere"))
    assert "no secret belongs in the file" in str(caught.value)
    assert "471100" not in str(caught.value)


def test_a_sub_table_keeps_the_defaults_it_does_not_name() -> None:
    config = config_from_table({"listen": {"http": {"host": "192.0.2.1"}}}, Path("/somewhere"))
    assert (config.listen.http.host, config.listen.http.port) == ("192.0.2.1", 8080)


def test_relative_paths_count_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('[est]\nmakers = ["maker.pem", "/etc/other.pem"]\n[journal]\nanchor = "a"\n', encoding="utf-8")
    config = load_config(file)
    assert config.est.makers == (tmp_path / "maker.pem", Path("/etc/other.pem"))
    assert config.journal.anchor == tmp_path / "a"


def test_an_anchor_on_a_token_is_no_path() -> None:
    config = config_from_table({"journal": {"anchor": "pkcs11:token=plant7"}}, Path("/somewhere"))
    assert config.journal.anchor == "pkcs11:token=plant7"


def test_profiles_and_labels_pass_through() -> None:
    config = config_from_table({"profile": {"plc": {"base": "ldevid"}}, "est": {"labels": {"plc": "plc"}}}, Path("/somewhere"))
    assert config.profile == {"plc": {"base": "ldevid"}}
    assert config.est.labels == {"plc": "plc"}


@pytest.mark.parametrize("content", [b"[gateway", b"\xff\xfe"])
def test_a_file_that_is_not_toml_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "c.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"c\.toml: not valid TOML"):
        load_config(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read: No such file"):
        load_config(tmp_path / "none.toml")


def test_the_state_option_wins(tmp_path: Path) -> None:
    assert Config().with_state(tmp_path).gateway.state == tmp_path

"""Central's configuration: the example is the schema in words, and what is not understood is refused with its path."""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from gateway.errors import ConfigError
from sync.central.config import Config, config_from_table, load_config

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "central.example.toml"
#: Keys whose default is "not there": the example names them in a comment.
WITHOUT_DEFAULT = {"operators"}


def keys_of(schema: type[object], prefix: str = "") -> Iterator[str]:
    not_keys = {each.name for each in dataclasses.fields(schema) if not each.metadata.get("is_key", True)}  # type: ignore[arg-type]
    for name, hint in typing.get_type_hints(schema).items():
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            yield from keys_of(hint, f"{prefix}{name}.")
        elif name not in not_keys and typing.get_origin(hint) is not Mapping:
            yield prefix + name


def flat(table: Mapping[str, object], prefix: str = "") -> Iterator[str]:
    for name, value in table.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def test_the_example_names_every_key_with_its_default() -> None:
    table = tomllib.loads(EXAMPLE.read_text())
    assert set(flat(table)) == set(keys_of(Config)) - WITHOUT_DEFAULT
    assert load_config(EXAMPLE) == Config()
    for name in WITHOUT_DEFAULT:
        assert f"# {name} = " in EXAMPLE.read_text()


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ({"central": {"nam": "x"}}, "central.name"),
        ({"central": {"name": "two words"}}, "central.name"),
        ({"central": {"name": ""}}, "central.name"),
        ({"central": {"log_level": "loud"}}, "central.log_level"),
        ({"central": {"urls": ["http://central"]}}, "central.urls"),
        ({"central": {"base_url": "ftp://central"}}, "central.base_url"),
        ({"root": {"key": "pkcs11:object=root?pin-value=1234"}}, "root.key"),
        ({"listen": {"http": {"enabled": False}, "https": {"enabled": False}}}, "listen"),
        ({"listen": {"http": {"port": 70000}}}, "listen.http.port"),
        ({"gateways": {"ca_validity_days": 0}}, "gateways.ca_validity_days"),
        ({"database": {"url": "mysql://db"}}, "database.url"),
        ({"database": {"url": "postgresql://central:geheim@db/central"}}, "database.url"),
        ({"database": {"url": "postgresql://db/central?password=geheim"}}, "database.url"),
        ({"database": {"url": "postgresql://db/central", "password": "geheim"}}, "database.password"),
        ({"adapters": []}, "adapters"),
    ],
)
def test_what_makes_no_sense_is_refused(table: Mapping[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named) as caught:
        config_from_table(table, Path())
    assert "geheim" not in str(caught.value)
    assert "1234" not in str(caught.value)


def test_paths_count_from_the_file(tmp_path: Path) -> None:
    file = tmp_path / "central.toml"
    file.write_text('operators = "operators.json"\n[central]\nstate = "state"\n[adapters.hook]\nurl = "x"\n')
    config = load_config(file)
    assert (config.operators, config.central.state) == (tmp_path / "operators.json", tmp_path / "state")
    assert config.adapters == {"hook": {"url": "x"}}
    assert config.with_state(tmp_path).central.state == tmp_path
    file.write_text("x = 1")
    with pytest.raises(ConfigError, match=r"central\.toml: unknown key x"):
        load_config(file)


def test_a_database_password_is_named_by_its_place() -> None:
    table = {"database": {"url": "postgresql://central@db/central", "password": "credential:db"}}
    assert config_from_table(table, Path()).database.password == "credential:db"

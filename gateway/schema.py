"""From a TOML file to frozen dataclasses: the fields are the keys, whatever the configuration is of.

A field's type is checked, its ``least`` and ``most`` (:func:`bounded`) bound it, and a key that no field names is refused with
its path and the nearest known name, because a misspelt key that is silently ignored is a safety switch left off.
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, field
from pathlib import Path
from typing import TypeAlias, TypeVar

from gateway.errors import ConfigError

Table: TypeAlias = Mapping[str, object]
Section = TypeVar("Section")

_TOKEN_SCHEME = "pkcs11:"  # noqa: S105 - of RFC 7512


def bounded(default: float, least: float, most: float) -> typing.Any:  # the type that dataclasses.field() itself has
    """A field for a number between ``least`` and ``most``."""
    return field(default=default, metadata={"least": least, "most": most})


def read_toml(path: Path) -> Table:
    """The tables of a TOML file. Raises ConfigError naming the file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error


def read_section(schema: type[Section], table: Table, folder: Path) -> Section:
    """``table`` as the dataclass ``schema``; relative paths count from ``folder``. Raises ConfigError naming the key.

    A field whose metadata says ``is_key`` false is no key.
    """
    return _section(schema, table, "", folder)


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
    if isinstance(hint, types.UnionType):  # Path | None, Path | str | None
        if str in typing.get_args(hint) and isinstance(raw, str) and raw.startswith(_TOKEN_SCHEME):
            return raw
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
        if inner is object:  # a table that somebody else checks
            return table
        if inner is str:
            return {key: _value(str, each, f"{path}.{key}", folder, None) for key, each in table.items()}
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            return {key: _value(inner, each, f"{path}.{key}", folder, None) for key, each in table.items()}
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

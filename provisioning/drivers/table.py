"""A recipe's table for one driver, read with its types: what is unknown or of the wrong kind is a ConfigError that names it."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.errors import ConfigError
from provisioning.device import Setting


class Table:
    """The settings of ``driver``; ``known`` are the names it has."""

    def __init__(self, driver: str, settings: Mapping[str, Setting], known: tuple[str, ...]) -> None:
        self._driver, self._settings = driver, settings
        for name in settings:
            if name not in known:
                raise ConfigError(f"the {driver} driver knows no setting {name!r}; it knows {', '.join(known)}")

    def text(self, name: str, default: str = "") -> str:
        value = self._settings.get(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, "a text")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        value = self._settings.get(name, default)
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def number(self, name: str, default: float, least: float, most: float) -> float:
        value = self._settings.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise self.wrong(name, f"a number from {least:g} to {most:g}")
        return value

    def whole(self, name: str, default: int | None, least: int, most: int) -> int:
        """A whole number, in TOML also hexadecimal; ``default`` None where the recipe must say it."""
        value = self._settings.get(name, default)
        if value is None or isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise self.wrong(name, f"a whole number from {least} to {most}")
        return value

    def choice(self, name: str, default: str, *choices: str) -> str:
        value = self.text(name, default)
        if value not in choices:
            raise self.wrong(name, "one of " + ", ".join(choices))
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; empty where the recipe has none."""
        value = self._settings.get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(name, "a list of texts")
        return tuple(item for item in value if isinstance(item, str))

    def wrong(self, name: str, what: str) -> ConfigError:
        return ConfigError(f"the {self._driver} driver's {name} is {what}")

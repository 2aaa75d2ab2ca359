"""The documents of the line name every setting, method, step and fault that the code has, and none besides."""

from __future__ import annotations

import re
from pathlib import Path

from provisioning.drivers.linux import LinuxSettings
from provisioning.drivers.token import TokenSettings
from provisioning.drivers.tpm_settings import TpmSettings
from provisioning.drivers.uboot import UBootSettings
from provisioning.recipe import _ACTIONS, _KEYS_OF_ACTION, _KEYS_OF_STEP
from provisioning.recipe_model import METHODS
from provisioning.simulator import FAULTS
from provisioning.transports.registry import OPENERS

DOCS = Path(__file__).resolve().parents[2] / "docs" / "line"


def section(document: str, title: str) -> str:
    """What stands below a heading, up to the next one."""
    text = (DOCS / document).read_text(encoding="utf-8")
    found = re.search(rf"^##+ {re.escape(title)}.*?\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def first_cells(text: str) -> set[str]:
    """The names in code in the first cells of a section's tables."""
    return {name for row in re.findall(r"^\| (`[^|]*) \|", text, re.MULTILINE) for name in re.findall(r"`([^`]+)`", row)}


def test_the_settings_of_the_tpm_driver() -> None:
    assert first_cells(section("chips.md", "`tpm2`")) == set(TpmSettings.__dataclass_fields__)


def test_the_settings_of_the_token_driver() -> None:
    assert first_cells(section("chips.md", "`pkcs11`")) == set(TokenSettings.__dataclass_fields__)


def test_the_settings_of_the_console_drivers() -> None:
    assert first_cells(section("console.md", "`linux`")) == set(LinuxSettings.__dataclass_fields__)
    assert first_cells(section("console.md", "`uboot`")) == set(UBootSettings.__dataclass_fields__)


def test_every_way_to_a_device() -> None:
    schemes = {cell.partition(":")[0] for cell in first_cells(section("console.md", "Addresses"))}
    assert schemes == {*OPENERS, "udp"}


def test_the_faults_of_simulated_devices() -> None:
    assert first_cells(section("chips.md", "Simulated devices")) - {"--fault"} == set(FAULTS)
    for name, what in FAULTS.items():
        assert f"| `{name}` | {what} |" in section("chips.md", "Simulated devices")


def test_the_methods_of_a_recipe() -> None:
    names = {name for name in first_cells(section("recipes.md", "The file")) if re.fullmatch("[a-z_]+", name)}
    assert names - {"name", "about"} == set(METHODS)
    text = section("recipes.md", "The file")
    for method in METHODS.values():
        for name in (*method.given, *method.needed, *method.optional):
            assert f"`{name}`" in text


def test_the_steps_of_a_recipe_and_their_keys() -> None:
    text = section("recipes.md", "Steps")
    assert {cell.split(" ")[0] for cell in first_cells(text) if " = " in cell} == set(_ACTIONS)
    for key in (*_KEYS_OF_STEP, *(key for keys in _KEYS_OF_ACTION.values() for key in keys)):
        assert re.search(rf"`{key}[` ]", text), key

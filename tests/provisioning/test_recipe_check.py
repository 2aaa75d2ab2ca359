"""The dry run of a recipe says what is wrong, where, and what is left out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from provisioning import recipe_check
from provisioning.recipe_check import main

RECIPES = Path(recipe_check.__file__).parent / "recipes"


@pytest.mark.parametrize("name", ["linux-shell", "at-modem"])
def test_a_recipe_that_can_be_used(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(RECIPES / f"{name}.toml")]) == 0
    said = capsys.readouterr().out
    assert f"the recipe {name} can be used" in said
    assert ("the device is not locked" in said) is (name == "linux-shell")
    assert "PRIVATE" not in said


def test_every_mistake_has_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = tmp_path / "broken.toml"
    broken.write_text(
        (RECIPES / "at-modem.toml").read_text().replace('name = "at-modem"', "name = 3").replace("into", "onto", 1)
    )
    assert main([str(broken)]) == 2
    said = capsys.readouterr().out
    assert f"{broken}:4: name is a text in quotes" in said
    assert "did you mean into?" in said
    assert "things to correct" in said


def test_secrets_that_are_not_there_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "secret.toml"
    secret = f'\n[secrets]\npin = "file:{tmp_path}/pin"\npassword = "credential:device"\n'
    recipe.write_text((RECIPES / "at-modem.toml").read_text() + secret)
    assert main([str(recipe)]) == 0
    said = capsys.readouterr().out
    assert f"the secret pin is not there: file:{tmp_path}/pin" in said
    assert "the secret password (credential:device)" in said
    (tmp_path / "pin").write_text("1234")
    main([str(recipe)])
    assert "the secret pin" not in capsys.readouterr().out


def test_a_file_that_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none.toml")]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_the_command_line_has_it() -> None:
    command = [sys.executable, "-m", "gateway", "recipe", str(RECIPES / "at-modem.toml")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "can be used" in done.stdout

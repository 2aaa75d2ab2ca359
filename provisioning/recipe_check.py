"""``edge-gateway recipe FILE``: what is wrong with a recipe, what it leaves out, and what that means. Needs no device."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path

from gateway.errors import ConfigError
from provisioning.recipe import check_recipe
from provisioning.recipe_model import METHODS, Recipe
from provisioning.transports.stream import secret_file

_WITHOUT = {
    "open": "nothing is done when a port is opened: what somebody left on it may get into the first answer",
    "generate_key": "the device makes no key: it is given one of the pool",
    "load_key": "",
    "after_reset": "nothing is checked after a reset: a device that did not restart is not found out",
    "prove": "the device signs no challenge: its request counts as the proof of its key",
    "lock_state": "",
    "lock": "the device is not locked: what was written can be changed",
    "close": "",
}


def findings(recipe: Recipe) -> list[str]:
    """What a whole recipe leaves out, and which secrets are not there."""
    found = [
        f"no [[{name}]]: {_WITHOUT[name]}"
        for name, method in METHODS.items()
        if not method.required and name not in recipe.methods and _WITHOUT[name]
    ]
    for name, place in recipe.secrets.items():
        try:
            if not secret_file(place, f"secrets.{name}").is_file():
                found.append(f"the secret {name} is not there: {place}")
        except ConfigError as error:
            found.append(f"the secret {name} ({place}): {error}")
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """0: it can be used; 2: it cannot, and why; 1: it cannot be read."""
    parser = argparse.ArgumentParser(prog="edge-gateway recipe", description="Check a recipe without a device.")
    parser.add_argument("file", type=Path, help="the recipe (TOML)")
    path: Path = parser.parse_args(argv).file
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        print(f"{path}: cannot be read: {error}", file=sys.stderr)
        return 1
    recipe, problems = check_recipe(text)
    for problem in problems:
        print(f"{path}:{problem}")
    if recipe is None or problems:
        print(f"{path}: {len(problems)} things to correct")
        return 2
    steps = sum(map(len, recipe.methods.values()))
    print(f"{path}: the recipe {recipe.name} can be used: {steps} steps; keys {', '.join(recipe.key_types) or 'of the pool'}")
    print(f"  sha256 = {hashlib.sha256(text.encode()).hexdigest()!r}")
    for name, value in recipe.values.items():
        print(f"  value {name} = {value!r}")
    for finding in findings(recipe):
        print(f"  note: {finding}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

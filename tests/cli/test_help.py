"""The help texts: complete, understandable, and the same as the README's."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.cli.context import ExitCode
from gateway.cli.parser import EPILOG, build_parser

README = Path(__file__).resolve().parents[2] / "README.md"


def commands(parser: argparse.ArgumentParser, prefix: str = "") -> Iterator[tuple[str, str, argparse.ArgumentParser]]:
    """(full name, one line, parser) of every command below ``parser``."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            lines = {choice.dest: choice.help or "" for choice in action._choices_actions}
            for name, child in action.choices.items():
                yield f"{prefix}{name}", lines[name], child
                yield from commands(child, f"{prefix}{name} ")


ALL = list(commands(build_parser()))


def test_the_readme_lists_every_command_in_the_words_of_the_help() -> None:
    rows = dict(re.findall(r"^\| `([a-z ]+)` \| (.+) \|$", README.read_text(encoding="utf-8"), re.MULTILINE))
    top_level = {name: line for name, line, _ in ALL if " " not in name}
    assert rows == top_level


def test_every_command_that_the_design_names_is_there() -> None:
    names = {name for name, _, _ in ALL}
    assert names >= {"run", "demo", "init", "ca", "issue", "revoke", "status", "verify", "prove", "backup", "restore", "doctor"}
    assert names >= {"ca keygen", "ca csr", "ca import", "ca status", "ca renew"}


@pytest.mark.parametrize(("name", "line", "parser"), ALL, ids=[name for name, _, _ in ALL])
def test_a_command_explains_itself(name: str, line: str, parser: argparse.ArgumentParser) -> None:
    text = parser.format_help()
    assert line
    assert line.rstrip(".")[1:] in " ".join(text.split())
    for action in parser._actions:
        assert action.help or isinstance(action, argparse._SubParsersAction), f"{name}: {action.dest} has no help"
    if parser.get_default("handler") is not None:
        assert f"edge-gateway {name.split(' ', maxsplit=1)[0]}" in text or name in text.split("example:")[-1]


def test_the_exit_codes_are_documented() -> None:
    documented = {int(code) for code in re.findall(r"^  (\d)  ", EPILOG, re.MULTILINE)}
    assert documented == set(ExitCode)


def test_no_option_takes_a_secret() -> None:
    for _, _, parser in ALL:
        for action in parser._actions:
            if any(word in action.dest for word in ("pin", "password", "secret", "passphrase")):
                assert action.metavar == "SOURCE"

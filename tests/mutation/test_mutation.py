"""The controls of the mutation testing: it must see a test that is weak, a module without tests, and a test that bites."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation.mutants import mutants_of

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = """
from dataclasses import dataclass, field
from functools import cache

LIMIT = 3

@dataclass(frozen=True, slots=True)
class Counter:
    step: int = 1

    @property
    def double(self) -> int:
        return self.step * 2

@cache
def half(number: int) -> int:
    return number // 2

async def allowed(number: int) -> bool:
    return number < LIMIT
"""
STRONG = """
from gateway.demo.{module} import Counter, allowed, half

def test_anything_else_that_fills_the_cache():
    half(7)

def test_the_half():
    assert half(7) == 3

async def test_the_limit():
    assert [await allowed(number) for number in (2, 3)] == [True, False]

def test_the_counter():
    assert Counter().double == 2
    assert Counter(3).double == 6
"""
WEAK = """
from gateway.demo.{module} import Counter, allowed, half

async def test_everything_is_called_and_nothing_looked_at():
    half(7)
    await allowed(3)
    Counter().double
"""


#: As gateway/keys has it: one module starts a child process, and another is imported by that child alone.
CHILD = """
import sys

def looked_at() -> int:
    return 3

def looked_past() -> int:
    return 4

if __name__ == "__main__":
    looked_past()
    print(looked_at())
"""
SPAWNS = """
import subprocess
import sys

def answer() -> str:
    return subprocess.run([sys.executable, "-m", "gateway.keys.child"], capture_output=True, text=True, check=False).stdout
"""
SPAWNING = """
from gateway.keys.process import answer

def test_what_the_child_says():
    assert answer() == "3\\n"
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """The status of every mutant of three equal modules, by module."""
    root = tmp_path_factory.mktemp("project")
    (root / "gateway" / "demo").mkdir(parents=True)
    (root / "tests" / "demo").mkdir(parents=True)
    (root / "gateway" / "__init__.py").touch()
    (root / "gateway" / "demo" / "__init__.py").touch()
    (root / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    for module, test in (("strong", STRONG), ("weak", WEAK), ("untested", None)):
        (root / "gateway" / "demo" / f"{module}.py").write_text(PRODUCT)
        if test:
            (root / "tests" / "demo" / f"test_{module}.py").write_text(test.format(module=module))
    for name, text in (("gateway/keys/__init__", ""), ("gateway/keys/child", CHILD), ("gateway/keys/process", SPAWNS)):
        (root / name).parent.mkdir(exist_ok=True)
        (root / f"{name}.py").write_text(text)
    for name, text in (("tests/keys/test_process", SPAWNING), ("tests/faults/test_token_faults", "")):
        (root / name).parent.mkdir()
        (root / f"{name}.py").write_text(text)
    command = [sys.executable, "-m", "tests.mutation.run", "--root", root, "demo", "keys/child"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    logs = (root / "build" / "mutation").glob("*.jsonl")
    entries = {log.name.split(".")[1]: [json.loads(line) for line in log.read_text().splitlines()] for log in logs}
    assert [log.read_text() for log in (root / "gateway" / "demo").glob("[suw]*.py")] == [PRODUCT] * 3
    return {module: {entry["key"]: entry["status"] for entry in found} for module, found in entries.items()}


def test_a_test_that_bites_kills_every_mutant(outcomes: dict[str, dict[str, str]]) -> None:
    assert set(outcomes["strong"]) == set(mutants_of(PRODUCT))
    assert set(outcomes["strong"].values()) == {"killed"}


def test_a_test_that_looks_at_nothing_kills_no_wrong_value(outcomes: dict[str, dict[str, str]]) -> None:
    assert set(outcomes["weak"].values()) == {"survived"}


def test_without_a_test_nothing_is_killed(outcomes: dict[str, dict[str, str]]) -> None:
    assert len(outcomes["untested"]) == len(outcomes["strong"])
    assert set(outcomes["untested"].values()) == {"no test reaches it"}


def test_a_module_that_only_a_child_process_imports_is_judged_by_what_the_child_does(
    outcomes: dict[str, dict[str, str]],
) -> None:
    found = outcomes["child"]
    assert {key: status for key, status in found.items() if key.startswith("looked_at")} == {
        "looked_at: 3 -> 4": "killed",
        "looked_at: return 3 -> return None": "killed",
    }
    assert {status for key, status in found.items() if key.startswith("looked_past")} == {"survived"}


@pytest.mark.parametrize(
    ("source", "changes"),
    [
        ("x = a < 1", {"a < 1 -> a <= 1", "1 -> 2"}),
        ("x = a and not b", {"a and (not b) -> a or not b", "not b -> b"}),
        ("x = a + True", {"a + True -> a - True", "True -> False"}),
        ("def f():\n    return a", {"return a -> return None"}),
        ("def f():\n    return False", {"False -> True"}),
        ("g(a)", {"g(a) -> nothing"}),
        ("if a.b():\n    pass", {"if a.b() -> if not a.b()"}),
        ("x = 'held'", {"'held' -> 'held~'"}),
        ("x = 'a sentence'", set()),
        ("raise E(f'in words {a}', 400)", {"raise E(f'in words {a}', 400) -> nothing", "400 -> 401"}),
        ("class P(Protocol):\n    def f(self, a: bool = False) -> None: ...", set()),
        ("task = create_task(run(), name='keeper')", set()),
        ("def f(a: int = 1) -> 'T':\n    'words'\n    _log.info('words', 1)", {"1 -> 2"}),
    ],
)
def test_the_operators(source: str, changes: set[str]) -> None:
    assert {mutant.change for mutant in mutants_of(source).values()} == changes


def test_a_key_names_the_change_and_not_the_line() -> None:
    source = "def f():\n    return 1 + 1\n"
    assert list(mutants_of(source)) == list(mutants_of("import this\n\n" + source))
    assert len(mutants_of(source)) == 4

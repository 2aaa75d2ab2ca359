"""Runs the tests against mutants: ``python -m tests.mutation.run [options] MODULE...`` (see ``scripts/mutate --help``).

Everything happens in a copy of the repository. A *baseline* run in a forked process learns which test reaches which line;
a mutant then meets exactly the tests that reach its lines, the module's own test file first, fastest first, until one
fails. A mutant inside a function is put into the already imported function objects of a forked process; one that acts at
import time (a table, a default) is written to the copy and imported afresh. The file on disk is changed in both cases, so
child processes run the mutant too. A mutant that makes the tests hang or the process die is killed as well.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import gc
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import CodeType, FunctionType
from typing import TypeAlias

import coverage
import hypothesis
import pytest

from tests.mutation.forks import Alarm, Chosen, Listener, Loop, children_covered, forked, run_items, run_pytest
from tests.mutation.mutants import Mutant, mutants_of

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path("build/mutation")
SURVIVED, KILLED, UNREACHED = "survived", "killed", "no test reaches it"
UNSURE = "the test that noticed it also fails without it"
UNRUN = "no test could be run with it"
#: Modules that (also) run in the signer child process. Of a child that was killed nobody knows what it reached: a mutant there
#: that no test seems to reach meets all tests that start a child.
IN_CHILD = frozenset(
    f"gateway/keys/{name}.py" for name in ("child", "confine", "filler", "frames", "generation", "pin", "pkcs11")
)
#: Whose tests a mutant of a package meets, where that is more than those of the package's own directory.
TESTS = {"keys": ("tests/keys", "tests/faults/test_token_faults.py")}
#: Left out, as a test that fails by itself would count as a kill: the TPM simulator does not always start, and the event loop
#: of a busy machine stalls.
SHAKY = ("[tpm", "::test_the_event_loop_is_never_blocked")
SPAWNS = "gateway/keys/process.py"
_WARM = ("cryptography.x509", "cryptography.hazmat.primitives.asymmetric.mldsa", "aiohttp.web", "aiosqlite", "argon2",
         "pkcs11", "tenacity", "hypothesis.stateful", "pytest_asyncio.plugin", "sqlite3", "ssl")  # fmt: skip
Place: TypeAlias = tuple[str, int]  # qualified name and first line of a function
_CONTROL_TESTS = 80
#: A mutant meets no more tests than take so long together, the slowest left out: it may survive for that, never be killed.
_MOST_TEST_SECONDS = 15


@dataclass(frozen=True, slots=True)
class Outcome:
    key: str
    line: int
    status: str
    tests: int  # how many it met
    seconds: float
    how: str = ""
    by: str = ""  # the test that failed


@dataclass(frozen=True, slots=True)
class Baseline:
    seconds: dict[str, float]  # of each passing test, by node id
    reached: dict[str, dict[int, set[str]]]  # file -> line -> node ids; "" is import time


def _is_shaky(name: str) -> bool:
    return any(part in name for part in SHAKY)


def _baseline(tests: list[str], into: Path) -> Baseline:
    """Runs all of ``tests`` once, from a process that has imported nothing of ours."""

    def work() -> int:
        cover = coverage.Coverage(data_file=None, include=[f"{Path.cwd()}/gateway/*"], config_file=False)
        listener = Listener(cover)
        with children_covered(Path("children").absolute()) as children:
            cover.start()
            run_pytest(tests, listener)
            cover.stop()
            here = f"{Path.cwd()}/"
            reached: dict[str, dict[int, list[str]]] = {}
            for data in (cover.get_data(), *children()):
                for file in data.measured_files():
                    lines = reached.setdefault(file.removeprefix(here), {})
                    for line, names in data.contexts_by_lineno(file).items():
                        lines[line] = sorted({*lines.get(line, ()), *names})
        seconds = {
            name: spent for name, spent in listener.seconds.items() if name not in listener.failed and not _is_shaky(name)
        }
        into.write_text(json.dumps({"seconds": seconds, "reached": reached, "failed": sorted(listener.failed)}))
        return 0

    if not into.exists() and forked(work, 3600, aloud=True) != 0:
        raise SystemExit("the tests do not run even without a mutant")
    found = json.loads(into.read_text())
    for name in found["failed"]:
        print(f"left out, it fails without a mutant: {name}")
    reached = {file: {int(line): set(names) for line, names in lines.items()} for file, lines in found["reached"].items()}
    return Baseline(found["seconds"], reached)


@dataclass(frozen=True, slots=True)
class _Trial:
    key: str
    mutant: Mutant
    tests: list[str]
    at_import: bool

    def limit_s(self, seconds: dict[str, float]) -> float:
        return 20 + 5 * sum(seconds[name] for name in self.tests)


class Module:
    """One module of the product and its mutants."""

    def __init__(self, file: str, baseline: Baseline, most_test_s: float) -> None:
        self.file, self.path, self._baseline, self._most_test_s = file, Path(file), baseline, most_test_s
        self.source = self.path.read_text()
        self.tree = ast.parse(self.source)
        self.mutants = mutants_of(self.source)
        self._cached = set(_cached_lines(self.tree))
        self._spans = dict(_spans(self.tree))
        # The path from gateway/a/b.py to tests/a/test_b*.py
        self._own = f"{self.path.parent}/test_{self.path.stem}".replace("gateway", "tests", 1)

    def trial(self, key: str) -> _Trial:
        mutant, reached = self.mutants[key], self._baseline.reached.get(self.file, {})
        names: set[str] = set()
        for line in range(mutant.lines[0], mutant.lines[1] + 1):
            names |= reached.get(line, set())
        cached = mutant.function is not None and mutant.function[1] in self._cached
        at_import = "" in names or mutant.function is None or cached or not self._fits(mutant)
        if at_import:  # whoever uses the module, and its own tests, which may look at nothing but its tables
            names = set[str]().union(*reached.values(), (name for name in self._baseline.seconds if name.startswith(self._own)))
        if not names and mutant.function is not None:  # coverage loses sight of a coroutine into which a timeout was thrown
            for line in self._spans[mutant.function[1]]:
                names |= reached.get(line, set())
        if self.file in IN_CHILD and not names - {""}:
            names = names.union(*self._baseline.reached.get(SPAWNS, {}).values())
        seconds = self._baseline.seconds
        tests = sorted(
            (name for name in names if name in seconds), key=lambda name: (not name.startswith(self._own), seconds[name])
        )
        while len(tests) > 1 and sum(seconds[name] for name in tests) > self._most_test_s:
            tests.pop()
        return _Trial(key, mutant, tests, at_import)

    def _fits(self, mutant: Mutant) -> bool:
        """Whether the changed function closes over as many variables as before, so that it can take the old one's place."""
        assert mutant.function is not None
        old, new = (_code_at(tree, self.file, mutant.function) for tree in (self.tree, mutant.applied(self.tree)))
        return old.co_freevars == new.co_freevars

    @contextlib.contextmanager
    def on_disk(self, mutant: Mutant) -> Iterator[ast.Module]:
        """The mutant's text in the file, for child processes and for a fresh import."""
        tree = mutant.applied(self.tree)
        self.path.write_text(ast.unparse(tree))
        try:
            yield tree
        finally:
            self.path.write_text(self.source)

    def functions(self) -> dict[Place, list[FunctionType]]:
        """The module's living function objects by qualified name and first line."""
        file, found = str(self.path.resolve()), dict[Place, list[FunctionType]]()
        for thing in gc.get_objects():
            if type(thing) is FunctionType and thing.__code__.co_filename == file:
                found.setdefault((thing.__code__.co_qualname, thing.__code__.co_firstlineno), []).append(thing)
        return found


def _spans(tree: ast.Module) -> Iterator[tuple[int, range]]:
    """The lines of each function, by its first line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            yield first, range(first, (node.end_lineno or first) + 1)


def _cached_lines(tree: ast.Module) -> Iterator[int]:
    """The first lines of functions that remember their answers: only the first test that asks reaches what is inside."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and any("cache" in ast.unparse(decorator) for decorator in node.decorator_list):
            yield min(decorator.lineno for decorator in node.decorator_list)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _code_at(tree: ast.Module, file: str, place: Place) -> CodeType:
    whole = compile(tree, str(Path(file).resolve()), "exec", dont_inherit=True)
    return next(code for code in _codes(whole) if (code.co_qualname, code.co_firstlineno) == place)


class Run:
    """The mutants of one package against the tests of that package."""

    def __init__(self, modules: list[Module], baseline: Baseline, report: Callable[[str, Outcome], None]) -> None:
        self._modules, self._baseline, self._report = {module.file: module for module in modules}, baseline, report
        self._note = Path("began-last").absolute()  # which test a mutant met last

    def all(self, chosen: dict[str, list[str]], tests: list[str]) -> None:
        """``chosen`` are the keys for each file. What acts inside functions runs in a fork of its own, as it imports all."""
        trials = [(file, self._modules[file].trial(key)) for file, keys in chosen.items() for key in keys]
        for file, trial in trials:
            if not trial.tests:
                self._report(file, Outcome(trial.key, trial.mutant.line, UNREACHED, 0, 0.0))
        inside = [(file, trial) for file, trial in trials if trial.tests and not trial.at_import]
        child = os.fork()
        if child == 0:
            try:
                run_pytest(tests, Loop(lambda session: self._inside(session, inside)), self._alarm())
            finally:
                sys.stdout.flush()
                os._exit(0)
        os.waitpid(child, 0)
        for file, trial in trials:
            if trial.tests and trial.at_import:
                self._judge(file, trial, functools.partial(self._afresh, trial.tests))

    def _afresh(self, tests: list[str]) -> int:
        files = sorted({name.split("::")[0] for name in tests})
        return run_pytest(["-x", *files], Chosen(tests), self._alarm())

    def _alarm(self) -> Alarm:
        return Alarm(self._baseline.seconds, self._note)

    def _inside(self, session: pytest.Session, trials: list[tuple[str, _Trial]]) -> None:
        functions = {file: self._modules[file].functions() for file in {file for file, _ in trials}}
        for file, trial in trials:
            imported = file.removesuffix(".py").replace("/", ".") in sys.modules
            if imported and trial.mutant.function not in functions[file]:
                self._report(file, Outcome(trial.key, trial.mutant.line, UNRUN, 0, 0.0))
                continue
            self._judge(file, trial, functools.partial(self._put_in, session, file, trial, functions[file]))

    def _put_in(self, session: pytest.Session, file: str, trial: _Trial, living: dict[Place, list[FunctionType]]) -> int:
        assert trial.mutant.function is not None
        code = _code_at(trial.mutant.applied(self._modules[file].tree), file, trial.mutant.function)
        # None where only child processes import the module: they read the mutant from the file.
        for function in living.get(trial.mutant.function, ()):
            function.__code__ = code
        return run_items(session, trial.tests)

    def _judge(self, file: str, trial: _Trial, work: Callable[[], int]) -> None:
        began, status = time.monotonic(), None
        with self._modules[file].on_disk(trial.mutant):
            for patience in (1.0, 1.5):  # slow is not hung
                self._note.unlink(missing_ok=True)
                Alarm.patience = patience
                status = forked(work, patience * trial.limit_s(self._baseline.seconds))
                if status not in (None, -signal.SIGALRM):
                    break
        Alarm.patience = 1.0
        how = "hung" if status in (None, -signal.SIGALRM) else f"signal {-status}" if status is not None and status < 0 else ""
        by = self._note.read_text() if status != 0 and self._note.exists() else ""
        if status == 0:
            said = SURVIVED
        elif by or (trial.at_import and status != 1):  # a module that cannot be imported ends the run before any test
            said = KILLED
        else:
            said = UNRUN
        seconds = round(time.monotonic() - began, 2)
        self._report(file, Outcome(trial.key, trial.mutant.line, said, len(trial.tests), seconds, how, by))

    def failing_anyway(self, killers: set[str]) -> set[str]:
        """Those of ``killers`` that fail in one more run without a mutant."""
        said = Path("failed-again.json").absolute()

        def again() -> int:
            listener = Listener()
            run_pytest(sorted({name.split("::")[0] for name in killers}), Chosen(sorted(killers)), listener)
            said.write_text(json.dumps(sorted(listener.failed)))
            return 0

        if not killers:
            return set()
        if forked(again, 3600, aloud=True) != 0:
            raise SystemExit("the tests that noticed mutants do not run once more without one")
        return set(json.loads(said.read_text()))

    def control(self, tests: list[str]) -> None:
        """Without a change nothing may fail, in neither way of running: otherwise the kills would mean nothing."""
        judged: list[int | None] = []

        def collected() -> int:
            run_pytest(
                sorted({name.split("::")[0] for name in tests}),
                Loop(lambda session: judged.append(run_items(session, tests))),
            )
            return 0 if judged == [0] else 1

        afresh, inside = forked(lambda: self._afresh(tests), 1800), forked(collected, 1800)
        if afresh != 0 or inside != 0:
            raise SystemExit(f"the tests fail without a mutant: {afresh} when imported afresh, {inside} when collected before")


def _killed_before(log: Path, module: Module) -> set[str]:
    """Keys that an earlier run of the same source killed."""
    return {outcome.key for outcome in _outcomes(log, module, set(module.mutants)) if outcome.status == KILLED}


def _outcomes(log: Path, module: Module, keys: set[str]) -> list[Outcome]:
    """The last outcomes of ``keys``."""
    digest = hashlib.sha256(module.source.encode()).hexdigest()
    entries = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    last = {entry["key"]: entry for entry in entries if entry["source"] == digest and entry["key"] in keys}
    names = [item.name for item in fields(Outcome)]
    return [Outcome(**{name: entry[name] for name in names if name in entry}) for entry in last.values()]


def _in_copy(root: Path) -> Path:
    """A copy of what the tests need, to work in; the original is never touched."""
    copy = Path(tempfile.mkdtemp(prefix="mutation-"))
    for name in ("gateway", "tests", "docs", "scripts"):
        if (root / name).is_dir():
            shutil.copytree(root / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "config.example.toml", "README.md"):
        if (root / name).exists():
            shutil.copy(root / name, copy / name)
    if (root / "build").is_dir():
        (copy / "build").symlink_to(root / "build")
    return copy


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/mutate", description="Changes the product in small wrong ways; the tests must notice."
    )
    parser.add_argument(
        "modules", nargs="+", metavar="MODULE", help="journal, journal/merkle, ...: a package or a module of gateway/"
    )
    parser.add_argument(
        "--sample", type=int, default=100, metavar="PERCENT", help="only a random part of each module's mutants"
    )
    parser.add_argument("--seed", type=int, default=1, help="which part")
    parser.add_argument("--resume", action="store_true", help="leave out what an earlier run of the same source killed")
    parser.add_argument(
        "--seconds",
        type=float,
        default=_MOST_TEST_SECONDS,
        help="how long the tests may take together that a mutant meets, by what they took without one",
    )
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    options = parser.parse_args()
    results = options.root / RESULTS
    results.mkdir(parents=True, exist_ok=True)
    copy = _in_copy(options.root)
    try:
        os.chdir(copy)
        sys.path.insert(0, str(copy))
        os.environ.update(PYTHONPATH=str(copy), PYTHONDONTWRITEBYTECODE="1")
        sys.dont_write_bytecode = True
        hypothesis.settings.register_profile(
            "mutation",
            derandomize=True,
            deadline=None,
            database=None,
            phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
        )
        hypothesis.settings.load_profile("mutation")
        for name in _WARM:
            importlib.import_module(name)
        packages: dict[str, dict[str, int]] = {}  # package -> file -> percent
        for argument in options.modules:
            module, _, percent = argument.partition("=")
            base = Path("gateway", module)
            paths = sorted(base.glob("*.py")) if base.is_dir() else [base.with_suffix(".py")]
            part = int(percent) if percent else options.sample
            named = {str(file): part for file in paths if file.stem != "__init__"}
            packages.setdefault(module.split("/")[0], {}).update(named)
        for package, files in packages.items():
            _run_package(package, files, options, results)
    finally:
        shutil.rmtree(copy)


def _digest_of_copy(package: str, tests: list[str]) -> str:
    """Of what decides which of ``tests`` reach which line of the package."""
    digest = hashlib.sha256()
    folders = {
        Path("gateway", package),
        Path("tests/support"),
        *(Path(name) if Path(name).is_dir() else Path(name).parent for name in tests),
    }
    for file in sorted({*Path("tests").glob("*.py"), *(file for folder in folders for file in folder.rglob("*.py"))}):
        digest.update(f"{file}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def _run_package(package: str, files: dict[str, int], options: argparse.Namespace, results: Path) -> None:
    tests = list(TESTS.get(package, (f"tests/{package}",)))
    into = results / f"baseline-{package}-{_digest_of_copy(package, tests)[:16]}.json"  # the same for the same source and tests
    baseline = _baseline(tests, into)
    modules = {file: Module(file, baseline, options.seconds) for file in files}
    chosen: dict[str, list[str]] = {}
    for file, module in modules.items():
        keys = sorted(module.mutants)
        random.Random(f"{options.seed} {file}").shuffle(keys)
        part = keys[: -(-len(keys) * files[file] // 100)]  # of a larger part of the same seed a smaller one is the beginning
        before = _killed_before(_log_of(results, file), module) if options.resume else set()
        chosen[file] = [key for key in part if key not in before]
        print(
            f"{file}: {len(keys)} mutants, {len(part)} of them in this run, {len(part) - len(chosen[file])} killed before",
            flush=True,
        )
        if not options.resume:
            _log_of(results, file).unlink(missing_ok=True)

    def report(file: str, outcome: Outcome) -> None:
        digest = hashlib.sha256(modules[file].source.encode()).hexdigest()
        with _log_of(results, file).open("a") as log:
            log.write(json.dumps({"source": digest, "total": len(modules[file].mutants), **asdict(outcome)}) + "\n")
        if outcome.status != KILLED:
            print(f"{file}:{outcome.line}: {outcome.status} ({outcome.tests} tests): {outcome.key}", flush=True)

    run = Run(list(modules.values()), baseline, report)
    passed = into.with_suffix(".passed")
    if not passed.exists():
        run.control(sorted(baseline.seconds, key=lambda name: baseline.seconds[name])[:_CONTROL_TESTS])
        passed.touch()
    run.all(chosen, tests)
    kills = [
        (file, outcome)
        for file, module in modules.items()
        for outcome in _outcomes(_log_of(results, file), module, set(module.mutants))  # also those of a run cut short
        if outcome.status == KILLED
    ]
    failing = run.failing_anyway({outcome.by for _, outcome in kills} & baseline.seconds.keys())
    for file, outcome in kills:
        if outcome.by in failing:
            report(file, replace(outcome, status=UNSURE))


def _log_of(results: Path, file: str) -> Path:
    return results / (file.removeprefix("gateway/").removesuffix(".py").replace("/", ".") + ".jsonl")


if __name__ == "__main__":
    main()

"""Runs the tests against mutants: ``python -m tests.mutation.run [options] MODULE...`` (see ``scripts/mutate --help``).

Everything happens in a copy of the repository. A *baseline* run in a forked process learns which test reaches which line;
a mutant then meets exactly the tests that reach its lines, the module's own test file first, fastest first, until one fails. A mutant
inside a function is put into the already imported function objects of a forked process; one that acts at import time (a
table, a default) is written to the copy and imported afresh. The file on disk is changed in both cases, so child processes run the
mutant too. A mutant that makes the tests hang or the process die is killed as well.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import gc
import hashlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType, FunctionType

import coverage
import hypothesis
import pytest

from tests.mutation.mutants import Mutant, mutants_of

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path("build/mutation")
SURVIVED, KILLED, UNREACHED = "survived", "killed", "no test reaches it"
#: Modules that (also) run in the signer child process, where the baseline's coverage does not look: their mutants meet the
#: tests that start a child, too.
IN_CHILD = frozenset(f"gateway/keys/{name}.py" for name in ("child", "frames", "login", "pkcs11", "software", "wrapping", "uri"))
SPAWNS = "gateway/keys/process.py"
_WARM = ("cryptography.x509", "cryptography.hazmat.primitives.asymmetric.mldsa", "aiohttp.web", "aiosqlite", "argon2",
         "pkcs11", "tenacity", "hypothesis.stateful", "pytest_asyncio.plugin", "sqlite3", "ssl")  # fmt: skip
_MEMORY_BYTES, _FILE_BYTES = 4 << 30, 256 << 20


@dataclass(frozen=True, slots=True)
class Outcome:
    key: str
    line: int
    status: str
    tests: int  # how many it met
    seconds: float
    how: str = ""


@dataclass(frozen=True, slots=True)
class Baseline:
    seconds: dict[str, float]  # of each passing test, by node id
    reached: dict[str, dict[int, set[str]]]  # file -> line -> node ids; "" is import time


class _Listener:
    """Hears how long each test takes and tells coverage which one runs."""

    def __init__(self, cover: coverage.Coverage) -> None:
        self._cover, self.seconds, self.failed = cover, dict[str, float](), set[str]()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._cover.switch_context(item.nodeid)
        yield
        self._cover.switch_context("")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            self.failed.add(report.nodeid)


class _Chosen:
    """Keeps only the chosen tests, in their order."""

    def __init__(self, nodeids: list[str]) -> None:
        self._order = {nodeid: at for at, nodeid in enumerate(nodeids)}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((item for item in items if item.nodeid in self._order), key=lambda item: self._order[item.nodeid])


class _Loop:
    """Takes the place of pytest's loop: everything is imported and collected, and each mutant runs in a fork of that."""

    def __init__(self, work: Callable[[pytest.Session], None]) -> None:
        self._work = work

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._work(session)
        return True


def _pytest(arguments: list[str], *plugins: object) -> int:
    common = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={tempfile.gettempdir()}/mutation-{os.getpid()}"]
    return int(pytest.main([*common, *arguments], plugins=list(plugins)))


def _forked(work: Callable[[], int], limit_s: float) -> int | None:
    """The exit status of ``work`` in a process group of its own, ``None`` when it took too long. A signal is status 128 + n."""
    child = os.fork()
    if child == 0:
        status = 1  # an exception that reaches us is a failed test
        with contextlib.suppress(BaseException):  # whatever the mutant does, this process ends here
            os.setsid()
            silent = os.open(os.devnull, os.O_RDWR)
            for descriptor in range(3):
                os.dup2(silent, descriptor)
            resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
            resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_BYTES, _FILE_BYTES))
            status = work()
        os._exit(status)
    deadline = time.monotonic() + limit_s
    status = None
    while time.monotonic() < deadline:
        if os.waitpid(child, os.WNOHANG | os.WNOWAIT if False else os.WNOHANG) != (0, 0):
            status = 0
            break
        time.sleep(0.005)
    return status

"""Where gateways are broken: drives the fork server of :mod:`tests.faults.issuing_workload`, sweeps a fault over its calls."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import IntEnum, IntFlag
from errno import EIO, ENOSPC
from pathlib import Path

from tests.support.crash import Told

_FAULTS = Path(__file__).resolve().parents[1] / "faults"
#: Far beyond the number of calls in any life.
NEVER_ENDS = 1 << 40


class Calls(IntFlag):
    """Classes of calls, as in ``diskfault.c``."""

    WRITE = 1  # write, pwrite64, ftruncate, fallocate, and the pipe to the clients
    SYNC = 2  # fsync, fdatasync
    NAME = 4  # rename, link, unlink
    ALL = 7


class Deed(IntEnum):
    NOTHING = 0
    KILL = 1
    TORN = 2  # half of a write, then SIGKILL
    FAIL = 3
    FAIL_THOUGH_DONE = 4  # the error is reported, yet the call was carried out


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at the calls ``first`` to ``last`` of these classes, counted over all threads from 1."""

    deed: Deed
    classes: Calls = Calls.ALL
    error: int = 0
    first: int = 1
    last: int = 1

    @classmethod
    def kill(cls) -> Fault:
        return cls(Deed.KILL)

    @classmethod
    def io_error(cls, classes: Calls, *, though_done: bool = False) -> Fault:
        return cls(Deed.FAIL_THOUGH_DONE if though_done else Deed.FAIL, classes, EIO)

    @classmethod
    def disk_full(cls, classes: Calls) -> Fault:
        return cls(Deed.FAIL, classes, ENOSPC)

    def at(self, call: int) -> Fault:
        return replace(self, first=call, last=call)

    def from_on(self, call: int) -> Fault:
        return replace(self, first=call, last=NEVER_ENDS)


def build_fault_library(directory: Path) -> Path:
    """Compile ``diskfault.c``."""
    target = directory / "diskfault.so"
    command = ["gcc", "-Wall", "-Werror", "-O1", "-shared", "-fPIC", "-o", target, _FAULTS / "diskfault.c", "-ldl"]
    subprocess.run(command, check=True)
    return target


class Stage:
    """One fork server. ``prefix`` runs it under another program, for instance strace."""

    def __init__(self, library: Path, prefix: tuple[str, ...] = ()) -> None:
        preload = ("env", f"LD_PRELOAD={library}")
        self._server = subprocess.Popen(
            [*prefix, *preload, sys.executable, "-B", _FAULTS / "issuing_workload.py"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip

    def close(self) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(60)
        self._server.stdout.close()

    def begin(self, do: str, state: Path, **order: object) -> int:
        """Start a child; its process id. What it tells comes from :meth:`line` and must be read to its end."""
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps({"do": do, "state": str(state), **order}) + "\n")
        self._server.stdin.flush()
        return int(json.loads(self.line())["pid"])

    def line(self) -> str:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        if not line:
            raise RuntimeError("the workload's server ended")
        return line

    def hear(self, told: Told | None = None) -> Told:
        """Everything the child still tells."""
        told = told or Told()
        while not told.hear(self.line()):
            pass
        return told

    def prepare(self, state: Path, *, new: bool = False) -> Told:
        """Make a gateway: a fresh one, or one with a past and an open intent. What its clients were told."""
        state.mkdir()
        self.begin("prepare", state, new=new)
        told = self.hear()
        if told.status != 0:
            raise RuntimeError(f"the gateway could not be prepared: {told.errors}")
        return told

    def born(self, state: Path, fault: Fault) -> Told:
        """The first start of a gateway in an empty directory."""
        state.mkdir()
        self.begin("prepare", state, new=True, fault=asdict(fault))
        return self.hear()

    def live(self, state: Path, fault: Fault | None = None, **order: object) -> Told:
        faults = {} if fault is None else {"fault": asdict(fault)}
        self.begin("live", state, turn=2, **faults, **order)
        return self.hear()

    def broken(self, state: Path, told: Told, **order: object) -> list[str]:
        """The promises that do not hold in ``state``, asked in a new process."""
        self.begin("check", state, told=told.to_json(), **order)
        broken = ["the check came to no end"]
        while "exit" not in (answer := json.loads(self.line())):
            broken = answer.get("broken", broken)
        return broken if answer["exit"] == 0 else [*broken, f"the check ended with {answer['exit']}"]


def copy_of(state: Path, target: Path) -> Path:
    """The same gateway again, as a disk's image would be; what was left of its control socket is no file."""
    shutil.copytree(state, target, ignore=shutil.ignore_patterns("control.sock"))
    return target


@contextmanager
def stage(library: Path, prefix: tuple[str, ...] = ()) -> Iterator[Stage]:
    made = Stage(library, prefix)
    try:
        yield made
    finally:
        made.close()


@dataclass(frozen=True, slots=True)
class Run:
    """One life with a fault at ``call``, and the promises that were broken after it."""

    call: int
    told: Told
    broken: tuple[str, ...]

    @property
    def unhurt(self) -> bool:
        """The life ended before the fault came."""
        return not self.told.hit and self.told.status >= 0


#: Kinds of faults beyond what every run must sweep call by call; FAULT_STEP=1 in the environment sweeps these, too.
EXTRA_STEP = int(os.environ.get("FAULT_STEP", "4"))
#: So many lives in a row must end unhurt before a sweep ends.
_ENOUGH = 4
Act = Callable[[Stage, Path, int], tuple[Told, list[str]]]


def sweep(library: Path, directory: Path, act: Act, *, step: int = 1) -> list[Run]:
    """``act`` with the fault at call 1, 2, 3, ... on two cores until it no longer happens. ``step`` 1 leaves none out.

    Threads and group commit make one life a few calls longer than the next: several in a row must have ended unhurt.
    """

    def half(begin: int) -> list[Run]:
        runs: list[Run] = []
        with stage(library) as place:
            for call in range(begin, 100_000, 2 * step):
                state = directory / str(call)
                told, broken = act(place, state, call)
                runs.append(Run(call, told, tuple(broken)))
                shutil.rmtree(state)
                if len(runs) >= _ENOUGH and all(run.unhurt for run in runs[-_ENOUGH:]):
                    return runs
        raise AssertionError("the sweep came to no end")

    with ThreadPoolExecutor(2) as pool:
        halves = pool.submit(half, 1), pool.submit(half, 1 + step)
        return sorted((run for each in halves for run in each.result()), key=lambda run: run.call)


@dataclass(frozen=True, slots=True)
class Past:
    """A gateway that several lives begin from, and what its clients were told so far."""

    state: Path
    told: Told


def lives(past: Past, fault: Fault, variant: str = "product") -> Act:
    """Start, issue, revoke, publish, stop: from the same past, with ``fault`` at one call."""

    def act(place: Stage, state: Path, call: int) -> tuple[Told, list[str]]:
        copy_of(past.state, state)
        told = place.live(state, fault.at(call), variant=variant)
        return told, place.broken(state, together(past.told, told))

    return act


def together(before: Told, after: Told) -> Told:
    """What the clients of two lives of one gateway know."""
    return Told(
        asked=before.asked + after.asked,
        held=before.held | after.held,
        revoked=before.revoked | after.revoked,
        lists=before.lists + after.lists,
        tokens=before.tokens | after.tokens,
    )


def broken(runs: list[Run]) -> list[str]:
    return [f"call {run.call}: {text}" for run in runs for text in run.broken]

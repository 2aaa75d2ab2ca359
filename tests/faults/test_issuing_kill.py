"""SIGKILL at every call by which a gateway changes its disk or hands out a certificate: no promise is broken.

Sweeps, not samples: the fault happens at call 1, 2, 3, ... of all threads together, until a life ends before it comes.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.crash import Told
from tests.support.crash_stage import Act, Calls, Deed, Fault, Run, Stage, copy_of, stage, sweep

#: What ``diskfault.c`` intercepts, as strace names it.
_CALLS = {
    "write": "write,pwrite64,writev,pwritev,pwritev2,ftruncate,fallocate",
    "sync": "fsync,fdatasync,sync_file_range,syncfs,msync",
    "name": "rename,renameat,renameat2,link,linkat,unlink,unlinkat",
}


@pytest.fixture(scope="module")
def past(diskfault: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Told]:
    """A gateway whose last life was cut short, and what its clients hold since then."""
    state = tmp_path_factory.mktemp("past") / "state"
    with stage(diskfault) as place:
        return state, place.prepare(state)


def lives(past: tuple[Path, Told], fault: Fault, variant: str = "product") -> Act:
    """Start, issue, revoke, publish, stop: from the same past, with ``fault`` at one call."""

    def act(place: Stage, state: Path, call: int) -> tuple[Told, list[str]]:
        copy_of(past[0], state)
        told = place.live(state, fault.at(call), variant=variant)
        return told, place.broken(state, together(past[1], told))

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


def births(place: Stage, state: Path, call: int) -> tuple[Told, list[str]]:
    """The first start: keys, journal, ceremony."""
    told = place.born(state, Fault.kill().at(call))
    return told, place.broken(state, Told(), new=True)


def broken(runs: list[Run]) -> list[str]:
    return [f"call {run.call}: {text}" for run in runs for text in run.broken]


def test_sigkill_at_every_call_of_a_life_breaks_no_promise(diskfault: Path, past: tuple[Path, Told], tmp_path: Path) -> None:
    runs = sweep(diskfault, tmp_path, lives(past, Fault.kill()))
    assert not broken(runs)
    *killed, last, unhurt = runs
    assert all(run.told.status == -signal.SIGKILL for run in killed)
    assert (last.told.status, unhurt.told.status) in {(0, 0), (-signal.SIGKILL, 0)}
    assert len(killed) > sum(unhurt.told.calls.values()), "the sweep ended before the life's last call"
    assert {len(run.told.held) for run in runs} == set(range(len(unhurt.told.held) + 1)), "no kill between two certificates"


def test_sigkill_at_every_call_of_the_first_start_breaks_no_promise(diskfault: Path, tmp_path: Path) -> None:
    runs = sweep(diskfault, tmp_path, births)
    assert not broken(runs)
    assert len(runs) > 100


def test_a_write_that_was_torn_by_the_kill_breaks_no_promise(diskfault: Path, past: tuple[Path, Told], tmp_path: Path) -> None:
    assert not broken(sweep(diskfault, tmp_path, lives(past, Fault(Deed.TORN, Calls.WRITE))))


def test_the_control_that_hands_out_before_it_records_is_caught(
    diskfault: Path, past: tuple[Path, Told], tmp_path: Path
) -> None:
    runs = sweep(diskfault, tmp_path, lives(past, Fault.kill(), "hand-out-before-record"), step=2)
    assert any("holds a certificate without a record" in text for text in broken(runs))


def test_every_call_that_strace_sees_is_one_that_is_swept(diskfault: Path, past: tuple[Path, Told], tmp_path: Path) -> None:
    state, trace = copy_of(past[0], tmp_path / "state"), tmp_path / "trace"
    with stage(diskfault, ("strace", "-f", "-y", "-o", str(trace), "-e", f"trace={','.join(_CALLS.values())}")) as place:
        told = place.live(state, Fault(Deed.NOTHING))
    seen = [line.partition(" ")[2].lstrip() for line in trace.read_text().splitlines() if str(state) in line]
    counted = {
        name: sum(line.partition("(")[0] in calls.split(",") for line in seen if not line.startswith("<..."))
        for name, calls in _CALLS.items()
    }
    assert told.calls == counted

"""SIGKILL at every call by which a gateway changes its disk or hands out a certificate: no promise is broken.

Sweeps, not samples: the fault happens at call 1, 2, 3, ... of all threads together, until a life ends before it comes.
"""

from __future__ import annotations

import signal
from pathlib import Path

from tests.support.crash import Told
from tests.support.crash_stage import EXTRA_STEP, Calls, Deed, Fault, Past, Run, Stage, broken, copy_of, lives, stage, sweep

#: What ``diskfault.c`` intercepts, as strace names it.
_CALLS = {
    "write": "write,pwrite64,writev,pwritev,pwritev2,ftruncate,fallocate",
    "sync": "fsync,fdatasync,sync_file_range,syncfs,msync",
    "name": "rename,renameat,renameat2,link,linkat,unlink,unlinkat",
}


def assert_swept(runs: list[Run]) -> None:
    """Each call up to the end of the shortest life was the last one of some life, and nothing else ended any."""
    killed = {run.call for run in runs if run.told.status == -signal.SIGKILL}
    assert all(run.told.status == 0 for run in runs if run.call not in killed)
    shortest = min(sum(run.told.calls.values()) for run in runs if run.call not in killed)
    assert shortest > 60
    assert killed >= set(range(1, shortest + 1))


def births(place: Stage, state: Path, call: int) -> tuple[Told, list[str]]:
    """The first start: keys, journal, ceremony."""
    told = place.born(state, Fault.kill().at(call))
    return told, place.broken(state, Told(), new=True)


def test_sigkill_at_every_call_of_a_life_breaks_no_promise(diskfault: Path, past: Past, tmp_path: Path) -> None:
    runs = sweep(diskfault, tmp_path, lives(past, Fault.kill()))
    assert not broken(runs)
    assert_swept(runs)
    assert {len(run.told.held) for run in runs} == set(range(9)), "no kill between two certificates"


def test_sigkill_at_every_call_of_the_first_start_breaks_no_promise(diskfault: Path, tmp_path: Path) -> None:
    runs = sweep(diskfault, tmp_path, births)
    assert not broken(runs)
    assert_swept(runs)


def test_a_write_that_was_torn_by_the_kill_breaks_no_promise(diskfault: Path, past: Past, tmp_path: Path) -> None:
    runs = sweep(diskfault, tmp_path, lives(past, Fault(Deed.TORN, Calls.WRITE)), step=EXTRA_STEP)
    assert not broken(runs)


def test_the_control_that_hands_out_before_it_records_is_caught(diskfault: Path, past: Past, tmp_path: Path) -> None:
    runs = sweep(diskfault, tmp_path, lives(past, Fault.kill(), "hand-out-before-record"), step=4)
    assert any("holds a certificate without a record" in text for text in broken(runs))


def test_every_call_that_strace_sees_is_one_that_is_swept(diskfault: Path, past: Past, tmp_path: Path) -> None:
    state, trace = copy_of(past.state, tmp_path / "state"), tmp_path / "trace"
    with stage(diskfault, ("strace", "-f", "-y", "-o", str(trace), "-e", f"trace={','.join(_CALLS.values())}")) as place:
        told = place.live(state, Fault(Deed.NOTHING))
    seen = [line.partition(" ")[2].lstrip() for line in trace.read_text().splitlines() if str(state) in line]
    counted = {
        name: sum(line.partition("(")[0] in calls.split(",") for line in seen if not line.startswith("<..."))
        for name, calls in _CALLS.items()
    }
    assert told.calls == counted

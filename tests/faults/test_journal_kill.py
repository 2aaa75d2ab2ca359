"""SIGKILL at every call by which the journal changes the disk: nothing acknowledged is lost, and the next start is clean.

A sweep, not samples: K runs from the first call to beyond the last one of a whole life (create, issue one by one and together,
revoke, leave an intent open, close, start again, issue, close).
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support.journal import Place
from tests.support.journal_faults import CALLS, Outcome, Workload, broken_promises

DATABASE = (
    "journal.db",
    "journal.db-wal",
    "journal.db-journal",
    "journal.db.new",
    "journal.db.new-wal",
    "journal.db.new-journal",
)
BESIDE = ("", "anchor", "anchor.new", "journal.reserve", "journal.failed")


def _sweep(
    directory: Path, names: tuple[str, ...], inject: Callable[[int], str], variant: str = "product"
) -> list[tuple[int, Outcome, list[str]]]:
    """Runs with K = 1, 2, ... until the injection no longer hits; each with what it broke."""
    results: list[tuple[int, Outcome, list[str]]] = []
    with Workload() as workload:
        for k in range(1, 2000):
            state = directory / f"{k}"
            state.mkdir(parents=True)
            outcome = workload.under_strace(state, inject(k), [state / name for name in names], variant=variant)
            results.append((k, outcome, asyncio.run(broken_promises(Place(state), outcome))))
            if outcome.status == 0 and not outcome.errors:
                return results
    raise AssertionError("the sweep did not come to an end")


def _kill(k: int) -> str:
    return f"{CALLS}:signal=SIGKILL:when={k}"


def _broken(results: list[tuple[int, Outcome, list[str]]]) -> list[str]:
    return [f"killed at call {k}: {text}" for k, _, broken in results for text in broken]


def test_sigkill_at_every_write_and_sync_breaks_no_promise(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        database = pool.submit(_sweep, tmp_path / "database", DATABASE, _kill)
        beside = pool.submit(_sweep, tmp_path / "beside", BESIDE, _kill)
        for results, least in ((database.result(), 60), (beside.result(), 6)):
            assert not _broken(results)
            assert len(results) > least, "the sweep saw fewer calls than the journal makes"
            assert all(outcome.status == -signal.SIGKILL for _, outcome, _ in results[:-1])


def test_the_control_that_signs_before_it_records_is_caught(tmp_path: Path) -> None:
    broken = _broken(_sweep(tmp_path, DATABASE, _kill, "sign-before-record"))
    assert any("held without a record" in text for text in broken)


def _error(name: str, calls: str) -> Callable[[int], str]:
    return lambda k: f"{calls}:error={name}:when={k}"


WRITES = "write,pwrite64,pwritev,ftruncate,fallocate"
SYNCS = "fsync,fdatasync"


def _promised_after_error(results: list[tuple[int, Outcome, list[str]]]) -> list[int]:
    return [k for k, outcome, _ in results if outcome.promised_after_io_error]


def test_an_io_error_at_every_write_and_sync_latches_and_loses_nothing(tmp_path: Path) -> None:
    """Also a full disk at every write; a full disk reported by fsync is an I/O error like any other."""
    cases = [("EIO", WRITES), ("EIO", SYNCS), ("ENOSPC", WRITES), ("ENOSPC", SYNCS)]
    with ThreadPoolExecutor(2) as pool:
        sweeps = [pool.submit(_sweep, tmp_path / f"{name}-{calls[:5]}", DATABASE, _error(name, calls)) for name, calls in cases]
        for (name, calls), sweep in zip(cases, sweeps, strict=True):
            results = sweep.result()
            assert not _broken(results), f"{name} at {calls}"
            assert not _promised_after_error(results), f"{name} at {calls}"
            assert any("JournalFull" in outcome.errors or "JournalFailed" in outcome.errors for _, outcome, _ in results)


def test_the_control_that_retries_after_an_io_error_is_caught(tmp_path: Path) -> None:
    assert _promised_after_error(_sweep(tmp_path, DATABASE, _error("EIO", SYNCS), "retry-after-error"))


def test_one_sync_makes_a_batch_durable(tmp_path: Path) -> None:
    """Nine batches one by one or together, a creation, two starts and ends: the number of syncs is small and known."""
    with Workload() as workload:
        state = tmp_path / "state"
        state.mkdir()
        calls = workload.count_calls(state, SYNCS, [state / "journal.db-wal"])
    assert 10 <= calls <= 24, calls

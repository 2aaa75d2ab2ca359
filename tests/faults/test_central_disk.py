"""Errors of the disk below central's SQLite file: the first one is final wherever it happens, and nothing confirmed is lost."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sync.central.audit import root_problems
from sync.central.rows import Journal
from sync.central.store_sqlite import _LOG_PAGES, SqliteStore
from tests.support.central_ingest import register
from tests.support.edge import Edge

#: Takes batches until the database says no; one sync of the file named fails once.
LIFE = """
import asyncio, ctypes, sys
from pathlib import Path
from sync.central import store_sqlite
from sync.central.store import StoreFailed
from tests.support.central_ingest import ingest_on, register
from tests.support.edge import Edge

SYNC, FAIL, EIO = 2, 3, 5

async def life(folder, name):
    store_sqlite._LOG_PAGES = 60
    store, edge = await store_sqlite.SqliteStore.open(Path(folder) / "central.db"), Edge()
    await register(store, edge)
    for number in range(40):
        edge.issue(number)
    ctypes.CDLL(None).diskfault_arm(str(Path(folder) / name).encode(), SYNC, FAIL, EIO, ctypes.c_long(1), ctypes.c_long(1), -1)
    ingest, confirmed = ingest_on(store), 0
    try:
        for start in range(0, edge.size, 2):
            await ingest.carried(edge.origin, edge.batch(start, min(start + 2, edge.size)))
            confirmed = min(start + 2, edge.size)
    except StoreFailed:
        pass
    print(confirmed, edge.size, ctypes.CDLL(None).diskfault_hit(), store.failure.done(), flush=True)
    await store.close()

asyncio.run(life(sys.argv[1], sys.argv[2]))
"""


@pytest.mark.parametrize("name", ["central.db-wal", "central.db"])
async def test_the_first_io_error_ends_it_and_nothing_confirmed_is_lost(diskfault: Path, tmp_path: Path, name: str) -> None:
    """Of the log, which every commit syncs, and of the file itself, which copying the log back syncs."""
    done = subprocess.run(
        [sys.executable, "-c", LIFE, str(tmp_path), name],
        env={**os.environ, "LD_PRELOAD": str(diskfault)}, cwd=Path(__file__).resolve().parents[2],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    confirmed, size, hit, failed = done.stdout.split()
    assert (hit, failed) == ("1", "True")
    assert int(confirmed) < int(size)
    assert (tmp_path / "central.db.failed").exists()
    store = await SqliteStore.open(tmp_path / "central.db")
    try:
        async with store.transaction() as t:
            (journal,) = await t.select(Journal)
        assert journal.size >= int(confirmed)
        assert await root_problems(store) == []
    finally:
        await store.close()


@pytest.mark.parametrize("batch", [10, 400])
async def test_the_log_is_copied_back_near_the_chosen_size(tmp_path: Path, batch: int) -> None:
    """What the store thinks of the log is an estimate; the file shows how good it is."""
    store, edge = await SqliteStore.open(tmp_path / "central.db"), Edge()
    await register(store, edge)
    edge.issue(1)
    edge.records += edge.records[-1:] * 4_000
    async with store.transaction() as t:
        journal = await t.lock(edge.origin)
    assert journal is not None
    for start in range(0, 4_000, batch):
        async with store.transaction() as t:
            await t.append(journal, start, [bytes(32)] * batch, edge.records[start : start + batch], 1)
            await t.put(journal)
    pages = (tmp_path / "central.db-wal").stat().st_size // 4096
    await store.close()
    assert _LOG_PAGES / 4 < pages < 2 * _LOG_PAGES

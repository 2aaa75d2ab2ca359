"""Copying the log back is part of the journal's disk work: an error there is as final as any other."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.journal.records import OperatorAction
from gateway.journal.store import _LOG_PAGES
from tests.support.journal import Place

#: Appends until the journal says no; the first sync of ``journal.db`` itself, which only copying back does, fails once.
LIFE = """
import asyncio, ctypes, sys
from pathlib import Path
from gateway.errors import JournalFailed
from gateway.journal import store
from gateway.journal.records import OperatorAction
from tests.support.journal import Place

SYNC, FAIL, EIO = 2, 3, 5

async def life(folder, control):
    store._LOG_PAGES = 10**9 if control else 24
    if control:
        pragma = store.Store._pragma
        async def by_itself(self, text):
            return await pragma(self, text.replace("wal_autocheckpoint = 0", "wal_autocheckpoint = 24"))
        store.Store._pragma = by_itself
    place = Place(Path(folder))
    journal = await place.create()
    ctypes.CDLL(None).diskfault_arm(str(place.path).encode(), SYNC, FAIL, EIO, ctypes.c_long(1), ctypes.c_long(1), -1)
    acknowledged = 0
    try:
        for number in range(60):
            await journal.append(OperatorAction("x" * 3000, str(number)))
            acknowledged += 1
    except JournalFailed:
        pass
    hit = ctypes.CDLL(None).diskfault_hit()
    print(acknowledged, hit, journal.failure.done(), flush=True)
    await journal.close()

asyncio.run(life(sys.argv[1], sys.argv[2] == "control"))
"""


def lived(diskfault: Path, folder: Path, variant: str) -> tuple[int, bool, bool]:
    """How many records were acknowledged, whether the error happened, whether the journal failed for it."""
    done = subprocess.run(
        [sys.executable, "-c", LIFE, str(folder), variant],
        env={**os.environ, "LD_PRELOAD": str(diskfault)}, cwd=Path(__file__).resolve().parents[2],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    acknowledged, hit, failed = done.stdout.split()
    return int(acknowledged), hit == "1", failed == "True"


def test_an_io_error_while_the_log_is_copied_back_is_final(diskfault: Path, tmp_path: Path) -> None:
    acknowledged, hit, failed = lived(diskfault, tmp_path, "product")
    assert hit
    assert failed
    assert 0 < acknowledged < 60


def test_the_control_that_lets_sqlite_copy_back_by_itself_goes_on_as_if_nothing_had_been(
    diskfault: Path, tmp_path: Path
) -> None:
    assert lived(diskfault, tmp_path, "control") == (60, True, False)


@pytest.mark.parametrize("octets", [300, 3000, 40_000])
async def test_the_log_is_copied_back_near_the_chosen_size(tmp_path: Path, octets: int) -> None:
    """What the store thinks of the log is an estimate; the file shows how good it is."""
    place = Place(tmp_path)
    journal = await place.create()
    for number in range(400):
        await journal.append(*(OperatorAction("x" * octets, f"{number} {each}") for each in range(4)))
    pages = (tmp_path / "journal.db-wal").stat().st_size // 4096
    await journal.close()
    assert _LOG_PAGES / 4 < pages < 2 * _LOG_PAGES

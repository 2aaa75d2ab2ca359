"""Why a power cut stops the process first: ``python tests/faults/sync_across_cut.py 100``, as root; no test.

A thread appends pages to a file as SQLite does to its log and syncs them, over and over. Another shuts the file system down
while such a sync is under way. Afterwards every sync that reported success is compared with what is in the file. Success of a
sync that returned before the shutdown began must be true. One that was under way may report success with its data gone: the
process outlived the current, which no process does when it really fails.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.support.power_cut import Disk, run

_PAGE = 4096


def _one(disk: Disk, seed: int) -> list[str]:
    """One cut; of each sync when it was, and what became of it."""
    chance = random.Random(seed)
    number, pause, pages = chance.randint(3, 12), chance.choice([0.0, 0.0003, 0.001, 0.003]), chance.choice([8, 32])
    syncs: list[tuple[float, float, bool]] = []
    entered = [threading.Event() for _ in range(number + 3)]
    with disk.plugged() as mount:
        file = os.open(mount / str(seed), os.O_CREAT | os.O_RDWR)
        run("sync", "-f", mount)

        def write() -> None:
            for turn, event in enumerate(entered):
                try:
                    for _ in range(pages):
                        os.write(file, bytes([turn + 1]) * _PAGE)
                except OSError:
                    return
                event.set()
                begin = time.monotonic()
                try:
                    os.fdatasync(file)
                except OSError:
                    syncs.append((begin, time.monotonic(), False))
                    return
                syncs.append((begin, time.monotonic(), True))

        writer = threading.Thread(target=write)
        writer.start()
        entered[number].wait()
        time.sleep(pause)
        cut = time.monotonic()
        disk.shut_down()
        cut_done = time.monotonic()
        writer.join()
        os.close(file)
    with disk.plugged() as mount:
        there = (mount / str(seed)).read_bytes()
        (mount / str(seed)).unlink()
    size = pages * _PAGE
    seen = []
    for turn, (begin, end, success) in enumerate(syncs):
        kept = there[turn * size : (turn + 1) * size] == bytes([turn + 1]) * size
        when = "ended before the cut" if end < cut else "under way" if begin < cut_done else "begun after the cut"
        seen.append(f"{when}: {'error' if not success else 'success, and true' if kept else 'SUCCESS, DATA GONE'}")
    return seen


def main() -> None:
    cuts = int(sys.argv[1])
    with tempfile.TemporaryDirectory() as directory:
        disk = Disk(Path(directory))
        seen = Counter(what for seed in range(cuts) for what in _one(disk, seed))
    for what, times in sorted(seen.items()):
        print(f"{times:6} {what}")


if __name__ == "__main__":
    main()

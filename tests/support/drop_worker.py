"""``python -m tests.support.drop_worker FOLDER VARIANT``: a file drop at work, to be killed. It prints a line after each look.

The variant ``unsynced`` syncs names, but leaves it to the system when what is in a file reaches the disk: the control.
"""

from __future__ import annotations

import asyncio
import os
import stat
import sys
from pathlib import Path

from provisioning import dropfiles
from provisioning.filedrop import FileDrop, Folders
from tests.support.drops import NOW_MS, MemoryLine


async def main(root: Path, variant: str) -> None:
    if variant == "unsynced":
        sync = os.fsync
        os.fsync = lambda descriptor: sync(descriptor) if stat.S_ISDIR(os.fstat(descriptor).st_mode) else None  # type: ignore[assignment]
    folders = Folders(root / "in", root / "out", root / "kept")
    for folder in (folders.outbox, folders.kept):
        dropfiles.tidy(folder)
    watcher = FileDrop(folders, MemoryLine(), station="bench-4", now_ms=lambda: NOW_MS)
    while any(folders.inbox.iterdir()):
        await watcher.look()
        print("looked", flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))

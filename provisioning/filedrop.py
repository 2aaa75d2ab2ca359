"""Stations without a network: they put lists and certification requests into a folder, and take an answer out of another.

A drop is ``NAME.zip``, or a directory ``NAME.ready``; what is still being written has another name (``NAME.zip.part``,
``NAME.part``) and is renamed when it is whole. For whoever cannot rename, a drop is taken only when two looks in a row saw it
the same. The folder is looked at again and again, because network shares tell nobody that something came.

For each drop, in this order: it is read once, its answer is made durable under its digest, the answer is handed out, the drop
is removed. After a crash it begins anew; the line gives the same certificate for the same order, serial number and request, so
nothing is made twice. The same drop again gets the same answer, octet for octet, as long as answers are kept; only where lines
were refused they are tried again, because somebody may have mended what was wrong, and the answer is a new one if that changed
anything. While the line cannot issue (no HSM, full disk) the drop stays where it is and is tried again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.errors import ConfigError, MalformedRequest, TooLarge, Unavailable
from provisioning.dropanswer import DropLine, Worker, is_complete, replace_unless_same
from provisioning.dropfiles import Drop, fingerprint, publish, remove, take, tidy, writing
from provisioning.droplist import safe_name

_log = logging.getLogger(__name__)
_RETRY_FIRST_S: Final = 5.0
_RETRY_LIMIT_S: Final = 300.0
_DAY_S: Final = 86_400
#: What is read as a drop; and what one that cannot be read is called from then on.
_ZIP, _FOLDER, _REFUSED = ".zip", ".ready", ".refused"


@dataclass(frozen=True, slots=True)
class Folders:
    """``inbox`` and ``outbox`` are shared with the stations; ``kept`` is the gateway's own."""

    inbox: Path
    outbox: Path
    kept: Path


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A drop that could not be answered, and when to try again (monotonic seconds)."""

    at: float
    pause: float


class FileDrop:
    """Watches one inbox. Its units are made by ``station``; ``now_ms`` is the gateway's clock."""

    def __init__(
        self,
        folders: Folders,
        line: DropLine,
        *,
        station: str,
        now_ms: Callable[[], int],
        interval_s: float = 2.0,
        keep_days: int = 90,
    ) -> None:
        self._folders = folders
        self._worker = Worker(line, station, now_ms)
        self._now_ms = now_ms
        self._interval_s = interval_s
        self._keep_s = keep_days * _DAY_S
        self._seen: dict[str, object] = {}
        self._waiting: dict[str, _Waiting] = {}

    async def run(self) -> None:
        """For ever. Raises ConfigError where a folder is missing at the start."""
        for folder in (self._folders.inbox, self._folders.outbox, self._folders.kept):
            if not await asyncio.to_thread(folder.is_dir):
                raise ConfigError(f"the file drop needs the folder {folder}")
        for folder in (self._folders.outbox, self._folders.kept):
            await asyncio.to_thread(tidy, folder)
        while True:
            await self.look()
            await asyncio.sleep(self._interval_s)

    async def look(self) -> int:
        """Look once and answer what is ready; how many that were. Nothing that is wrong with a drop or a folder is raised."""
        answered = 0
        try:
            ready = await asyncio.to_thread(self._ready)
        except OSError as error:
            _log.warning("the file drop's folder cannot be read: %s", error.strerror)
            return 0
        for path in ready:
            try:
                await self._answer(path)
                answered += 1
            except Unavailable as error:
                self._wait(path, error.retry_after, str(error))
            except OSError as error:
                self._wait(path, 0, f"it cannot be read or answered: {error.strerror}")
            except Exception:  # a drop that upsets us must not keep the others from being answered
                _log.exception("drop %s cannot be worked on", path.name)
                self._wait(path, 0, "an error in the gateway")
        return answered

    def _wait(self, path: Path, least_s: float, reason: str) -> None:
        known = self._waiting.get(path.name)
        pause = max(least_s, min(2 * known.pause, _RETRY_LIMIT_S) if known else _RETRY_FIRST_S)
        self._waiting[path.name] = _Waiting(time.monotonic() + pause, pause)
        _log.warning("drop %s waits: %s", path.name, reason)

    def _ready(self) -> list[Path]:
        """Drops that looked the same twice and need not wait, by name."""
        self._forget_answers()
        before, self._seen = self._seen, {}
        ready = []
        for path in sorted(self._folders.inbox.iterdir()):
            if path.name.startswith(".") or path.suffix not in {_ZIP, _FOLDER}:
                continue
            self._seen[path.name] = found = fingerprint(path)
            waiting = self._waiting.get(path.name)
            if found is not None and before.get(path.name) == found and (waiting is None or waiting.at <= time.monotonic()):
                ready.append(path)
        self._waiting = {name: each for name, each in self._waiting.items() if name in self._seen}
        return ready

    def _forget_answers(self) -> None:
        """Those that are older than what is kept: the same drop would be worked through again, and nothing be made twice."""
        oldest = time.time() - self._keep_s
        for path in self._folders.kept.iterdir():
            if path.stat().st_mtime < oldest:
                path.unlink()

    async def _answer(self, path: Path) -> None:
        try:
            drop = await asyncio.to_thread(take, path)
        except (MalformedRequest, TooLarge) as error:
            await self._refuse(path, str(error))
            return
        kept = self._folders.kept / f"{drop.digest}.zip"
        if not await asyncio.to_thread(is_complete, kept):
            await self._work(path.stem, drop, kept)
        await asyncio.to_thread(publish, kept, self._target(path, drop.digest))
        await asyncio.to_thread(remove, path)
        self._waiting.pop(path.name, None)
        _log.info("drop %s (SHA-256 %s) is answered", path.name, drop.digest)

    async def _work(self, name: str, drop: Drop, kept: Path) -> None:
        fresh = kept.with_suffix(".fresh")
        with writing(fresh) as writer:
            await self._worker.answer(name, drop, writer)
        await asyncio.to_thread(replace_unless_same, kept, fresh)

    async def _refuse(self, path: Path, text: str) -> None:
        """A drop that cannot even be read gets an answer, and another name."""
        digest = hashlib.sha256(f"{path.name}\0{fingerprint(path)}".encode()).hexdigest()
        with writing(self._target(path, digest)) as writer:
            await self._worker.refuse(path.stem, digest, writer, text)
        await asyncio.to_thread(path.rename, path.with_name(f"{path.name}.{digest[:8]}{_REFUSED}"))
        _log.warning("drop %s is refused: %s", path.name, text)

    def _target(self, path: Path, digest: str) -> Path:
        return self._folders.outbox / f"{safe_name(path.stem)}.{digest[:12]}.answer.zip"

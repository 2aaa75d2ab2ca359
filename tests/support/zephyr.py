"""Zephyr's own MCUmgr servers, built for Linux (``native_sim``), from the source archive of the PyPI package ``smpclient``.

Each board has a directory of its own, because it keeps its flash in ``./flash.bin``, and a stable name for its serial port
below /dev/shm, because the simulator takes another pseudo-terminal after every start. A reset ends the simulator: the board
starts it again, with the same flash, as a processor does. Its file system has four blocks: two files are all that it holds.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import shutil
import signal
import tarfile
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from tempfile import mkdtemp

from tests.support.environments import BUILD, once, source_archive

_PREFIX = "tests/fixtures/smp-server/"
_TERMINAL = re.compile(rb"connected to pseudotty: (\S+)")
_READY = {"udp": re.compile(rb"smp_udp: Started")}
_BOOTED = re.compile(rb"smp_sample: build time")


@lru_cache
def server(config: str) -> Path:
    """The program of one configuration, as ``serial_fs`` or ``udp_fs``; its check sum is that of the archive's own list."""
    archive = next(source_archive("zephyr", "boards").glob("*.tar.gz"))
    place = BUILD / "zephyr-servers"

    def unpack() -> None:
        place.mkdir(exist_ok=True)
        with tarfile.open(archive) as source:
            for member in source:
                name = member.name.partition("/")[2]
                if name.startswith(_PREFIX) and name.endswith((".exe", "SHA256SUMS")):
                    content = source.extractfile(member)
                    assert content is not None
                    (place / Path(name).name).write_bytes(content.read())
        sums = dict(reversed(line.split(maxsplit=1)) for line in (place / "SHA256SUMS").read_text().splitlines())
        for program in place.glob("*.exe"):
            assert hashlib.sha256(program.read_bytes()).hexdigest() == sums[program.name], program.name
            program.chmod(0o755)

    once(place, archive.name.encode(), unpack)
    return next(place.glob(f"*_native_sim_{config}.exe"))


class Board:
    """A board with a Zephyr server. ``cut`` takes its power away; ``start`` gives it back."""

    def __init__(self, directory: Path, config: str = "serial_fs") -> None:
        self._directory, self._config = directory, config
        self._links = Path(mkdtemp(prefix="zephyr-", dir="/dev/shm"))
        self.port = self._links / "port"
        self.starts = 0
        self.before_start: Callable[[], object] = lambda: None
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._powered = False

    @property
    def address(self) -> str:
        return f"serial:{self.port}"

    async def __aenter__(self) -> Board:
        self._directory.mkdir(exist_ok=True)
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()
        shutil.rmtree(self._links)

    async def start(self) -> None:
        self._powered = True
        self._ready.clear()
        self._watching = asyncio.create_task(self._run())
        async with asyncio.timeout(30):
            await self._ready.wait()

    async def cut(self) -> None:
        """SIGKILL: what is in flash.bin then is what a power cut leaves."""
        self._powered = False
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
        if self._watching is not None:
            await self._watching

    async def _run(self) -> None:
        while self._powered:
            self.starts += 1
            self.before_start()
            self._process = await asyncio.create_subprocess_exec(
                str(server(self._config)), cwd=self._directory, stdin=-3, stdout=asyncio.subprocess.PIPE, stderr=-2
            )
            if not self._powered:
                self._process.kill()
            held = None
            output = self._process.stdout
            assert output is not None
            while line := await output.readline():
                if terminal := _TERMINAL.search(line):
                    # Held open: else another board may get the number of this terminal while its name still points to it.
                    held = os.open(terminal[1].decode(), os.O_RDWR | os.O_NOCTTY)
                    fresh = self._links / "fresh"
                    os.symlink(terminal[1].decode(), fresh)
                    os.replace(fresh, self.port)
                if _READY.get(self._config, _BOOTED).search(line):
                    self._ready.set()
            await self._process.wait()
            with suppress(FileNotFoundError):
                self.port.unlink()
            if held is not None:
                os.close(held)

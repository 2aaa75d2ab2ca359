"""Central as a process of its own, started from its command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

#: Far longer than a start takes; it only ends a test that would otherwise hang.
_DEADLINE_S = 90.0
CONFIG = """
[central]
name = "central.test"
[listen.https]
host = "127.0.0.1"
port = 0
[listen.http]
host = "127.0.0.1"
port = 0
[tls]
names = ["localhost", "127.0.0.1"]
"""


@dataclass(frozen=True, slots=True)
class CentralCommand:
    """``edge-central`` on one state directory, whether a daemon runs there or not."""

    state: Path

    def configure(self, more: str = "") -> CentralCommand:
        self.state.mkdir(parents=True, exist_ok=True)
        (self.state / "central.toml").write_text(CONFIG + more)
        return self

    def line(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "sync.central.cli", "--state", str(self.state), *arguments]

    def run(self, *arguments: str | Path, code: int = 0, stdin: bytes = b"") -> dict[str, object]:
        """With ``--json``: its answer, or what it says on standard error where ``code`` is not 0."""
        line = self.line("--json", *map(str, arguments))
        done = subprocess.run(line, input=stdin, capture_output=True, timeout=_DEADLINE_S, check=False)
        assert done.returncode == code, (done.stdout + done.stderr).decode()
        content: dict[str, object] = json.loads(done.stderr if code else done.stdout)
        return content

    def words(self, *arguments: str) -> str:
        """What it says to a person."""
        done = subprocess.run(self.line(*arguments), capture_output=True, text=True, timeout=_DEADLINE_S, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @property
    def endpoints(self) -> dict[str, object]:
        content: dict[str, object] = json.loads((self.state / "endpoints.json").read_text(encoding="utf-8"))
        return content

    @contextmanager
    def serving(self) -> Iterator[subprocess.Popen[bytes]]:
        """``edge-central run`` until the end of the block; it has said READY."""
        log = self.state / "central.log"
        with log.open("ab") as output:
            process = subprocess.Popen(self.line("run"), stdout=output, stderr=output, env=os.environ)
        try:
            deadline = time.monotonic() + _DEADLINE_S
            while not (self.state / "endpoints.json").exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"central did not start:\n{log.read_text(encoding='utf-8')}")
                time.sleep(0.02)  # the file appears in one step; a poll is how another process learns of it
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
                process.wait(_DEADLINE_S)

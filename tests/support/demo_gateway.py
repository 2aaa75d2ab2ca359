"""A demo gateway as a process of its own, started the way a newcomer does, with its state in a directory of the test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.demo import write_configuration

#: Far longer than a start takes; it only ends a test that would otherwise hang.
_DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class DemoGateway:
    state: Path
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def endpoints(self) -> dict[str, object]:
        content: dict[str, object] = json.loads((self.state / "endpoints.json").read_text(encoding="utf-8"))
        return content

    def command(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run ``edge-gateway --state ... arguments``."""
        return command(self.state, *arguments, stdin=stdin)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(_DEADLINE_S)


def command(state: Path, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run the command line on a state directory; output as bytes, never a shell."""
    line = [sys.executable, "-m", "gateway", "--state", str(state), *arguments]
    return subprocess.run(line, input=stdin, capture_output=True, timeout=_DEADLINE_S, check=False)


@contextmanager
def running_demo(state: Path, environment: Mapping[str, str] | None = None) -> Iterator[DemoGateway]:
    """Start ``edge-gateway demo`` and wait until ``endpoints.json`` says that it serves; stop it at the end."""
    state.mkdir(parents=True, exist_ok=True)
    write_configuration(state, https_port=0, http_port=0)  # tests beside each other must not race for the usual ports
    with running(state, "demo", environment=environment) as gateway:
        yield gateway


@contextmanager
def running(state: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[DemoGateway]:
    """The same for any command that serves."""
    (state / "endpoints.json").unlink(missing_ok=True)
    log = state / "demo.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway", "--state", str(state), *arguments],
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
        )
    try:
        deadline = time.monotonic() + _DEADLINE_S
        while not (state / "endpoints.json").exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"the demo did not start:\n{log.read_text(encoding='utf-8')}")
            # The file appears in one step; a poll is how another process learns of it.
            time.sleep(0.02)
        yield DemoGateway(state, process, log)
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(_DEADLINE_S)

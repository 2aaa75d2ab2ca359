"""Runs the journal's workload under strace and judges what is left of its promises."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from gateway.errors import GatewayError
from gateway.journal.journal import JournalState
from gateway.journal.records import Issued, decode
from gateway.journal.verify import verify
from tests.support.journal import Place

WORKLOAD = Path(__file__).resolve().parents[1] / "faults" / "journal_workload.py"
#: Every call by which the journal changes what is on the disk.
CALLS = "write,pwrite64,pwritev,fsync,fdatasync,rename,renameat,renameat2,ftruncate,unlink,unlinkat,fallocate"


@dataclass(slots=True)
class Outcome:
    """What one run promised, and how it ended: ``status`` is negative for a signal."""

    status: int = 0
    records: dict[int, str] = field(default_factory=dict)
    certificates: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)
    promised_after_io_error: bool = False
    turns: int = 0

    def hear(self, line: str) -> bool:
        """Take in one line; whether it was the last one of the run."""
        what = json.loads(line)
        if "record" in what:
            seq, digest = what["record"]
            self.records[seq] = digest
            self.promised_after_io_error |= bool({"io", "JournalFailed"} & set(self.errors))
        elif "certificate" in what:
            self.certificates.add(what["certificate"])
        elif "error" in what:
            self.errors.append(what["error"])
        elif "turn" in what:
            self.turns += 1
        elif "exit" in what:
            self.status = what["exit"]
        return "exit" in what


class Workload:
    """The fork server of :mod:`tests.faults.journal_workload`."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-B", WORKLOAD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            bufsize=1,
        )

    def __enter__(self) -> Workload:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(30)
        self._server.stdout.close()

    def begin(self, directory: Path, *, variant: str = "product", rounds: int = 2) -> int:
        """Fork a child that waits for :meth:`go`; its process id."""
        (directory / "go").unlink(missing_ok=True)
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps({"directory": str(directory), "variant": variant, "rounds": rounds}) + "\n")
        self._server.stdin.flush()
        return int(json.loads(self.line())["pid"])

    @staticmethod
    def go(directory: Path) -> None:
        (directory / "go").touch()

    def line(self) -> str:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        if not line:
            raise RuntimeError("the workload's server ended")
        return line

    def finish(self) -> Outcome:
        outcome = Outcome()
        while not outcome.hear(self.line()):
            pass
        return outcome

    def under_strace(self, directory: Path, inject: str, paths: list[Path], *, variant: str = "product") -> Outcome:
        """One run with an strace injection on the calls that touch ``paths``."""
        calls = inject.partition(":")[0]
        return self._traced(directory, ["-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={inject}"], paths, variant)

    def count_calls(self, directory: Path, calls: str, paths: list[Path]) -> int:
        """How often an undisturbed run makes these calls on ``paths``."""
        log = directory / "strace.log"
        outcome = self._traced(directory, ["-o", str(log), "-e", f"trace={calls}"], paths, "product")
        assert outcome.status == 0
        names = tuple(f"{call}(" for call in calls.split(","))
        return sum(name in line for line in log.read_text().splitlines() for name in names if "resumed" not in line)

    def _traced(self, directory: Path, options: list[str], paths: list[Path], variant: str) -> Outcome:
        pid = self.begin(directory, variant=variant)
        watched = [argument for path in paths for argument in ("-P", str(path))]
        strace = subprocess.Popen(["strace", "-f", *options, *watched, "-p", str(pid)], stderr=subprocess.PIPE, text=True)
        assert strace.stderr is not None
        said = ""
        for line in strace.stderr:
            said += line
            if "attached" in line:
                break
        else:
            raise RuntimeError(f"strace cannot attach (run the tests as root): {said}")
        self.go(directory)
        outcome = self.finish()
        strace.stderr.read()
        strace.wait(30)
        strace.stderr.close()
        return outcome


async def broken_promises(place: Place, outcome: Outcome) -> list[str]:
    """Open what is left, as the daemon would, and list every promise that does not hold."""
    if not place.path.exists():
        if outcome.records or outcome.certificates:
            return ["there is no journal, yet records were acknowledged"]
        journal = await place.create()  # a creation that was cut short can be done again
        await journal.close()
    place.hands.now += 10_000_000
    try:
        journal = await place.open()
    except GatewayError as error:
        return [f"the journal does not open: {error}"]
    broken: list[str] = []
    if journal.state is not JournalState.OK:
        broken.append(f"state {journal.state}: {journal.state_detail}")
    if journal.head.open_intents:
        broken.append("an intent stayed open")
    bodies = await journal.read(0, 100_000)
    await journal.close()
    for seq, digest in outcome.records.items():
        if seq >= len(bodies):
            broken.append(f"the acknowledged record {seq} is lost")
        elif hashlib.sha256(bodies[seq]).hexdigest() != digest:
            broken.append(f"the acknowledged record {seq} has changed")
    recorded = [payload for payload in (decode(body).payload for body in bodies) if isinstance(payload, Issued)]
    held = outcome.certificates - {payload.certificate_digest.hex() for payload in recorded}
    broken += [f"certificate {digest} is held without a record" for digest in held]
    if len({payload.serial for payload in recorded}) != len(recorded):
        broken.append("a serial number was issued twice")
    report = verify(place.path, anchor=place.anchor.read_bytes() if place.anchor.exists() else None)
    broken += [str(problem) for problem in report.problems]
    return broken

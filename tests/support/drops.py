"""Drops of stations, right and wrong, and a line that answers them from memory."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.errors import Conflict, GatewayError
from provisioning.dropanswer import IssuedUnit, UnitPapers
from provisioning.filedrop import FileDrop, Folders
from tests.support.csrs import make_csr
from tests.support.parties import issuers

NOW_MS = 1_790_000_000_000
CSR = make_csr()
HEAD = "order,serial,chip,csr\n"


def request(number: int) -> bytes:
    """A request that no other unit has; the line in memory looks at its octets alone."""
    return CSR[:-4] + number.to_bytes(4)


def zipped(files: Mapping[str, bytes | str], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 1, 0, 0, 0)), content, method)
    return buffer.getvalue()


def units(numbers: Iterable[int], order: str = "A-1") -> dict[str, bytes | str]:
    """The files of a drop that asks for certificates."""
    numbers = list(numbers)
    lines = "".join(f"{order},S-{number},chip-{number},{number}.csr\n" for number in numbers)
    return {"units.csv": HEAD + lines, **{f"{number}.csr": request(number) for number in numbers}}


@dataclass
class MemoryLine:
    """Gives each order and serial number one certificate, the same again for the same request, and none for another."""

    requests: dict[tuple[str, str], bytes] = field(default_factory=dict)
    events: list[tuple[str, str]] = field(default_factory=list)  # (serial, event)
    refusals: dict[str, GatewayError] = field(default_factory=dict)  # by serial number
    calls: int = 0
    papers: UnitPapers = field(default_factory=UnitPapers)

    async def issue(self, *, order: str, serial: str, csr_der: bytes, chip: str, station: str) -> IssuedUnit:
        self.calls += 1
        if serial in self.refusals:
            raise self.refusals[serial]
        if self.requests.setdefault((order, serial), csr_der) != csr_der:
            raise Conflict(f"{serial} has a certificate for another key")
        certificate = b"certificate of " + serial.encode() + hashlib.sha256(csr_der).digest()
        return IssuedUnit((certificate, *issuers()))

    async def report(self, *, order: str, serial: str, event: str, detail: str, station: str) -> UnitPapers:
        if serial in self.refusals:
            raise self.refusals[serial]
        self.events.append((serial, event))
        return self.papers if event == "confirmed" else UnitPapers()


@dataclass
class Place:
    """The folders of one drop."""

    folders: Folders
    line: MemoryLine

    @classmethod
    def make(cls, root: Path) -> Place:
        folders = Folders(root / "in", root / "out", root / "kept")
        for folder in (folders.inbox, folders.outbox, folders.kept):
            folder.mkdir()
        return cls(folders, MemoryLine())

    def drop(self, name: str, content: bytes | Mapping[str, bytes | str]) -> Path:
        """Put down as a station should: under another name, then renamed."""
        target = self.folders.inbox / name
        if isinstance(content, bytes):
            part = target.with_name(f"{name}.part")
            part.write_bytes(content)
        else:
            part = target.with_suffix(".part")
            part.mkdir()
            for file, octets in content.items():
                (part / file).write_bytes(octets.encode() if isinstance(octets, str) else octets)
        part.rename(target)
        return target

    def watcher(self, **options: int) -> FileDrop:
        return FileDrop(self.folders, self.line, station="bench-4", now_ms=lambda: NOW_MS, **options)

    async def settle(self, watcher: FileDrop | None = None) -> int:
        """Two looks: the first sees, the second answers."""
        watcher = watcher or self.watcher()
        return await watcher.look() + await watcher.look()

    def answers(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.folders.outbox.iterdir())}

    def answer(self) -> Answer:
        (content,) = self.answers().values()
        return Answer(content)


class Answer:
    def __init__(self, content: bytes) -> None:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            assert archive.testzip() is None
            self.files = {name: archive.read(name) for name in archive.namelist()}

    @property
    def facts(self) -> dict[str, object]:
        return json.loads(self.files["answer.json"])  # type: ignore[no-any-return]

    @property
    def rows(self) -> list[list[str]]:
        return list(csv.reader(self.files["result.csv"].decode().splitlines()))[1:]

    @property
    def errors(self) -> str:
        return self.files.get("errors.txt", b"").decode()

"""One drop worked through: what became of earlier units, certificates for new ones, and all of it written into the answer.

The line works on :data:`_WINDOW` units at a time; the answer grows in a file as they are done, so a drop of 100,000 lines costs
the memory of its list. A line that is refused is refused with a sentence and its number, and stops no other.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, TypeVar, cast

from gateway.errors import GatewayError, MalformedRequest, TooLarge, Unavailable
from provisioning import droplist
from provisioning.dropfiles import AnswerWriter, Drop, read_entry, rename
from provisioning.droplist import Refusal, ReportLine, UnitLine, csv_line, safe_name
from provisioning.exports import pem
from provisioning.papers import moment

#: Units that the line works on at the same time.
_WINDOW: Final = 64
_FACTS: Final = "answer.json"
_RESULT: Final = "result.csv"
_COLUMNS: Final = ("list", "line", "order", "serial", "result", "text", "file")
_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class IssuedUnit:
    """The certificate and its issuers up to the root (DER)."""

    chain: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class UnitPapers:
    """What accompanies a finished unit: a JSON file, and its line of the manifest. Both empty while it is not finished."""

    content: bytes = b""
    manifest: bytes = b""


class DropLine(Protocol):
    """What is needed of the line. Both raise Unavailable and its kinds for "the same later", any other GatewayError for no.

    Both may be told the same again, also after a crash in the middle, and then give the same answer.
    """

    async def issue(self, *, order: str, serial: str, csr_der: bytes, chip: str, station: str) -> IssuedUnit: ...

    async def report(self, *, order: str, serial: str, event: str, detail: str, station: str) -> UnitPapers:
        """``event`` is one of :data:`provisioning.droplist.EVENTS`."""


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of ``result.csv``. ``result`` is issued, taken or refused."""

    list: str
    line: int
    order: str
    serial: str
    result: str
    text: str = ""
    file: str = ""


@dataclass(slots=True)
class _Answer:
    writer: AnswerWriter
    rows: list[_Row] = field(default_factory=list)
    manifest: list[bytes] = field(default_factory=list)

    def refuse(self, name: str, refusals: Iterable[Refusal]) -> None:
        self.rows += [_Row(name, each.line, each.order, each.serial, "refused", each.text) for each in refusals]

    def add(self, unit: UnitLine, issued: IssuedUnit) -> None:
        file = f"chains/{unit.line:06}-{safe_name(unit.serial)}.pem"
        self.writer.add(file, "".join(map(pem, issued.chain)).encode())
        self.rows.append(_Row(droplist.UNITS, unit.line, unit.order, unit.serial, "issued", file=file))

    def take(self, each: ReportLine, told: UnitPapers | str) -> None:
        """``told`` is the reason where it was refused."""
        result, text, file = ("refused", told, "") if isinstance(told, str) else ("taken", "", "")
        if isinstance(told, UnitPapers) and told.content:
            file = f"papers/{each.line:06}-{safe_name(each.serial)}.json"
            self.writer.add(file, told.content)
        if isinstance(told, UnitPapers) and told.manifest:
            self.manifest.append(told.manifest.rstrip(b"\n") + b"\n")
        self.rows.append(_Row(droplist.REPORTS, each.line, each.order, each.serial, result, text, file))


@dataclass(frozen=True, slots=True)
class Worker:
    """Works through drops for one ``station``; ``now_ms`` is the gateway's clock."""

    line: DropLine
    station: str
    now_ms: Callable[[], int]

    async def answer(self, name: str, drop: Drop, writer: AnswerWriter) -> None:
        """The whole answer, finished. Raises Unavailable where the line cannot go on now: then there is no answer yet."""
        answer = _Answer(writer)
        try:
            reports, units = await asyncio.to_thread(_lists, drop)
        except (MalformedRequest, TooLarge) as error:
            await self.refuse(name, drop.digest, writer, str(error))
            return
        answer.refuse(droplist.REPORTS, reports[1])
        answer.refuse(droplist.UNITS, units[1])
        for window in _windows(list(_by_unit(reports[0])), _WINDOW):
            told = await _all(self._report(lines) for lines in window)
            await asyncio.to_thread(_take, answer, [pair for unit in told for pair in unit])
        for units_now in _windows(units[0], _WINDOW):
            done = await _all(self._issue(drop, unit) for unit in units_now)
            await asyncio.to_thread(_add, answer, list(zip(units_now, done, strict=True)))
        await asyncio.to_thread(self._finish, name, drop.digest, answer, "")

    async def refuse(self, name: str, digest: str, writer: AnswerWriter, text: str) -> None:
        """An answer that only says why nothing was done."""
        await asyncio.to_thread(self._finish, name, digest, _Answer(writer), text)

    async def _issue(self, drop: Drop, unit: UnitLine) -> IssuedUnit | str:
        """Why not, as a sentence. Raises Unavailable."""
        try:
            content = await asyncio.to_thread(drop.read, unit.csr, droplist.MOST_CSR_OCTETS)
            if content is None:
                return f"the file {unit.csr!r} is not in the drop"
            csr = droplist.csr_der(content)
            return await self.line.issue(
                order=unit.order, serial=unit.serial, csr_der=csr, chip=unit.chip, station=self.station
            )  # fmt: skip
        except Unavailable:
            raise
        except GatewayError as error:
            return f"{error}. {error.hint}"

    async def _report(self, lines: Sequence[ReportLine]) -> list[tuple[ReportLine, UnitPapers | str]]:
        """What is told of one unit, in the order in which it happened; after a no the rest is not told any more."""
        told: list[tuple[ReportLine, UnitPapers | str]] = []
        for index, each in enumerate(lines):
            answer = await self._tell(each)
            told.append((each, answer))
            if isinstance(answer, str):
                rest = f"not looked at, because line {each.line} was refused"
                return told + [(later, rest) for later in lines[index + 1 :]]
        return told

    async def _tell(self, each: ReportLine) -> UnitPapers | str:
        """Why not, as a sentence, if it was not taken. Raises Unavailable."""
        try:
            return await self.line.report(
                order=each.order, serial=each.serial, event=each.event, detail=each.detail, station=self.station
            )
        except Unavailable:
            raise
        except GatewayError as error:
            return f"{error}. {error.hint}"

    def _finish(self, name: str, digest: str, answer: _Answer, whole: str) -> None:
        rows = sorted(answer.rows, key=lambda row: (row.list, row.line))
        counts = Counter(row.result for row in rows)
        facts = {
            "drop": name,
            "sha256": digest,
            "answered": moment(self.now_ms()),
            "station": self.station,
            "issued": counts["issued"],
            "taken": counts["taken"],
            "refused": counts["refused"],
            "error": whole,
        }
        answer.writer.add(_FACTS, json.dumps(facts, ensure_ascii=False, indent=1).encode() + b"\n")
        lines = [csv_line(_COLUMNS), *(csv_line(_cells(row)) for row in rows)]
        answer.writer.add(_RESULT, "".join(lines).encode())
        if answer.manifest:
            answer.writer.add("manifest.jsonl", b"".join(answer.manifest))
        said = [f"The whole drop was refused and nothing was done: {whole}."] if whole else []
        said += [
            f"{row.list} line {row.line} ({row.order} {row.serial}): {row.text}" for row in rows if row.result == "refused"
        ]
        if said:
            answer.writer.add("errors.txt", ("\n".join(said) + "\n").encode())
        answer.writer.finish()


def _lists(drop: Drop) -> tuple[tuple[list[ReportLine], list[Refusal]], tuple[list[UnitLine], list[Refusal]]]:
    reports = drop.read(droplist.REPORTS, droplist.MOST_LIST_OCTETS)
    units = drop.read(droplist.UNITS, droplist.MOST_LIST_OCTETS)
    if reports is None and units is None:
        raise MalformedRequest(f"the drop has neither {droplist.UNITS} nor {droplist.REPORTS} in it")
    told: tuple[list[ReportLine], list[Refusal]] = ([], [])
    asked: tuple[list[UnitLine], list[Refusal]] = ([], [])
    if reports is not None:
        told = _named(droplist.REPORTS, droplist.read_reports, reports)
    if units is not None:
        asked = _named(droplist.UNITS, droplist.read_units, units)
    return told, asked


def _named(name: str, reader: Callable[[bytes], _T], data: bytes) -> _T:
    try:
        return reader(data)
    except (MalformedRequest, TooLarge) as error:
        raise type(error)(f"{name}: {error}") from error


def _by_unit(lines: Iterable[ReportLine]) -> Iterable[list[ReportLine]]:
    units: dict[tuple[str, str], list[ReportLine]] = {}
    for each in lines:
        units.setdefault((each.order, each.serial), []).append(each)
    return units.values()


async def _all(work: Iterable[Awaitable[_T]]) -> list[_T]:
    """Each of them is over when this returns or raises: what is given up is given up between two windows."""
    done = await asyncio.gather(*work, return_exceptions=True)
    for each in done:
        if isinstance(each, BaseException):
            raise each
    return cast("list[_T]", done)


def _windows(items: Sequence[_T], size: int) -> Iterator[Sequence[_T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _add(answer: _Answer, done: Iterable[tuple[UnitLine, IssuedUnit | str]]) -> None:
    for unit, issued in done:
        if isinstance(issued, str):
            answer.refuse(droplist.UNITS, [Refusal(unit.line, unit.order, unit.serial, issued)])
        else:
            answer.add(unit, issued)


def _take(answer: _Answer, told: Iterable[tuple[ReportLine, UnitPapers | str]]) -> None:
    for each, said in told:
        answer.take(each, said)


def _cells(row: _Row) -> tuple[str, ...]:
    return row.list, str(row.line), row.order, row.serial, row.result, row.text, row.file


def is_complete(answer: Path) -> bool:
    """Whether there is this answer, and nothing in it was refused. Raises OSError."""
    try:
        facts = json.loads(read_entry(answer, _FACTS))
    except (FileNotFoundError, MalformedRequest):
        return False
    return facts["refused"] == 0 and not facts["error"]


def replace_unless_same(kept: Path, fresh: Path) -> None:
    """Keep the new answer, unless it says the same as the one that was given before. Raises OSError."""
    try:
        same = all(
            _without_time(read_entry(kept, name)) == _without_time(read_entry(fresh, name)) for name in (_FACTS, _RESULT)
        )
    except (FileNotFoundError, MalformedRequest):
        same = False
    if same:
        fresh.unlink()
    else:
        rename(fresh, kept)


def _without_time(content: bytes) -> bytes:
    return b"\n".join(line for line in content.split(b"\n") if not line.startswith(b' "answered"'))

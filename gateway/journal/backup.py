"""Online backup and restore.

A journal only grows, so a backup needs no snapshot of the file: the head is remembered first, then the rows below it are
copied in pages that the writer reads between its transactions. Issuing goes on meanwhile. The copy is a journal itself; its
manifest names size, root and checkpoint and the file's digest. Whoever restores an old copy finds the anchor ahead of it.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from hashlib import file_digest
from pathlib import Path

from gateway.errors import AlreadyExists, IntegrityError, NotFound, OperatorError
from gateway.journal.anchor import sync_directory, write_durably
from gateway.journal.line_records import CLAIMING, claims_of
from gateway.journal.merkle import Frontier
from gateway.journal.records import decode
from gateway.journal.store import HeadRow, Store, StoreError, UnitRows
from gateway.journal.tip import Row
from gateway.journal.verify import verify

#: Rows in one page: the writer serves everybody else between two pages.
_PAGE = 512


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a backup holds. ``root`` and ``sha256`` (of the file) in lower-case hex."""

    size: int
    root: str
    note: str
    sha256: str

    def to_json(self) -> str:
        return json.dumps({"type": "edge-gateway-backup-v1", **asdict(self)}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Manifest:
        """Raises IntegrityError for anything that :meth:`to_json` does not write."""
        try:
            body = json.loads(text)
            manifest = cls(body["size"], body["root"], body["note"], body["sha256"])
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError("the backup's manifest is not readable") from error
        if manifest.to_json() != text:
            raise IntegrityError("the backup's manifest is not as it was written")
        return manifest


def manifest_path(backup: Path) -> Path:
    return backup.with_name(backup.name + ".manifest.json")


async def copy_journal(
    rows: Callable[[int, int], Awaitable[list[Row]]],
    target: Path,
    *,
    frontier: Frontier,
    open_intents: tuple[int, ...],
    tallies: Mapping[str, int],
    open_units: tuple[int, ...],
    note: str,
) -> None:
    """Write the journal up to ``frontier`` to ``target``. Raises AlreadyExists, OperatorError."""
    beside = _clear_place(target)
    try:
        store = await Store.open(beside, create=True)
        try:
            for start in range(0, frontier.size, _PAGE):
                page = await rows(start, min(start + _PAGE, frontier.size))
                await store.write(page, (), None, UnitRows(claims_in(page)))
            head = HeadRow(frontier.size, frontier.to_bytes(), open_intents, note)
            await store.write((), list(tallies.items()), head, UnitRows(new=open_units))
        finally:
            await store.close()
        digest = await asyncio.to_thread(_digest, beside)
        beside.rename(target)
        sync_directory(target.parent)
        manifest = Manifest(frontier.size, frontier.root().hex(), note, digest)
        await asyncio.to_thread(write_durably, manifest_path(target), manifest.to_json().encode())
    except (OSError, StoreError) as error:
        beside.unlink(missing_ok=True)
        raise OperatorError(f"the backup could not be written: {error}") from error


def claims_in(rows: Iterable[Row]) -> list[tuple[bytes, int]]:
    """(name, seq) of every claim that these rows make."""
    return [(name, row.seq) for row in rows if row.kind in CLAIMING for name in claims_of(decode(row.body).payload)]


def check_room(journal: Path, target: Path, refuse: float) -> None:
    """Whether a copy of ``journal`` fits beside ``target`` and leaves the gateway able to issue. Blocks.

    ``refuse`` is the fraction of the journal's own file system above which nothing is issued. Raises OperatorError, saying how
    much is needed.
    """
    files = (journal, journal.with_name(journal.name + "-wal"))
    needed = sum(file.stat().st_size for file in files if file.exists())
    directory = target.parent
    try:
        status, same = os.statvfs(directory), directory.stat().st_dev == journal.parent.stat().st_dev
    except OSError as error:
        raise OperatorError(f"{directory} cannot be written to: {error.strerror}") from error
    room = status.f_bavail * status.f_frsize
    if same:
        used = (status.f_blocks - status.f_bfree) * status.f_frsize
        room = min(room, int(refuse * (used + room)) - used)
    if needed > room:
        limit = ", and the gateway would stop issuing (journal.disk_refuse)" if same else ""
        raise OperatorError(
            f"a copy of the journal needs {_mib(needed)} MiB in {directory}, where {_mib(max(0, room))} MiB may be used{limit}"
        )


def _mib(octets: int) -> int:
    return -(-octets >> 20)


def _clear_place(target: Path) -> Path:
    """The name to write to before ``target`` gets its own, free of leftovers of a copy that was cut short."""
    if target.exists() or manifest_path(target).exists():
        raise AlreadyExists(f"{target} exists")
    beside = target.with_name(target.name + ".new")
    for leftover in (beside, beside.with_name(beside.name + "-journal")):
        leftover.unlink(missing_ok=True)
    return beside


def restore(backup: Path, target: Path, vkey: str | None = None) -> Manifest:
    """Put a backup in place of a lost journal after verifying all of it. Blocks.

    Raises NotFound, AlreadyExists when there is a journal at ``target``, IntegrityError when the backup is not what its
    manifest says or does not verify (under ``vkey``, else under the key its first record names).
    """
    if not backup.exists():
        raise NotFound(f"there is no backup at {backup}")
    if target.exists() or target.with_name(target.name + "-wal").exists():
        raise AlreadyExists(f"{target} exists")
    try:
        manifest = Manifest.from_json(manifest_path(backup).read_text())
    except FileNotFoundError as error:
        raise NotFound(f"the backup's manifest {manifest_path(backup)} is missing") from error
    beside = target.with_name(target.name + ".new")
    beside.unlink(missing_ok=True)
    beside.touch(mode=0o600)  # before there is anything in it
    shutil.copyfile(backup, beside)
    try:
        if _digest(beside) != manifest.sha256:
            raise IntegrityError("the backup is not the file its manifest describes")
        report = verify(beside, vkey=vkey)
        if report.problems:
            raise IntegrityError(f"the backup does not verify: {report.problems[0]}")
        if report.checkpoint is None or (report.checkpoint.size, report.checkpoint.root.hex()) != (
            manifest.size,
            manifest.root,
        ):
            raise IntegrityError("the backup is not the journal its manifest describes")
        _sync(beside)
        beside.rename(target)
    finally:
        for leftover in ("", "-wal", "-shm"):
            beside.with_name(beside.name + leftover).unlink(missing_ok=True)
    sync_directory(target.parent)
    return manifest


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

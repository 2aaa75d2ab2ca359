"""The anchor: the journal's last checkpoint in a place that a restored disk does not bring back.

A gateway restored from a backup looks healthy to itself, and what central never saw is missing without a trace. So after the
commits the signed checkpoint and the Merkle frontier also go to the anchor: a file on a second medium here, or a data object on
a token (:mod:`gateway.keys.token_anchor`), each by the methods of :class:`Anchor`. At start-up the journal must contain the
anchored tree as its beginning. The anchor is written after the commit, never before, so it is never ahead of an honest journal.
When it is written and compared while the gateway works stands in :mod:`gateway.journal.anchoring`.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gateway.errors import IntegrityError, Unavailable
from gateway.journal.checkpoint import Checkpoint, open_note
from gateway.journal.merkle import Frontier


class Anchor(Protocol):
    """A small durable place for one value, on a medium that may be pulled out.

    Both methods raise Unavailable or PinError while the medium is out of reach, and OSError when it is there and fails.
    """

    @property
    def name(self) -> str:
        """What people call it: a path or a PKCS #11 URI, without any secret."""

    def returned(self) -> bool:
        """Whether the medium is known to be in reach and :meth:`load` has not read it since it came. No I/O."""

    async def load(self) -> bytes | None:
        """The stored value; None when nothing was ever stored."""

    async def store(self, value: bytes) -> None:
        """Replace the value; durable and never half written when this returns.

        Writes nothing and raises Unavailable unless the medium is the one that :meth:`load` read last: an anchor that was
        not looked at may be the only witness of what this journal has lost.
        """


class FileAnchor:
    """An anchor in a file: written beside, synced, renamed, directory synced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._medium: tuple[int, int] | None = None  # device and directory that were read last

    @property
    def name(self) -> str:
        return str(self._path)

    def returned(self) -> bool:
        return False  # a look costs I/O: the next attempt to write finds out

    async def load(self) -> bytes | None:
        return await asyncio.to_thread(self._load)

    async def store(self, value: bytes) -> None:
        await asyncio.to_thread(self._store, value)

    def _load(self) -> bytes | None:
        self._medium = None
        try:
            self._medium = self._present_medium()
            return self._path.read_bytes()
        except FileNotFoundError:
            return None

    def _store(self, value: bytes) -> None:
        if self._present_medium() != self._medium:  # e.g. a stick mounted over the empty directory that was read before
            raise Unavailable("another medium is there than the one that was compared")
        write_durably(self._path, value)

    def _present_medium(self) -> tuple[int, int]:
        status = self._path.parent.stat()
        return status.st_dev, status.st_ino


class LostAnchor:
    """An anchor that cannot be opened at all, such as a token whose PKCS #11 module is not installed."""

    def __init__(self, name: str, reason: str) -> None:
        self.name = name
        self._reason = reason

    def returned(self) -> bool:
        return False

    async def load(self) -> bytes | None:
        raise Unavailable(self._reason)

    async def store(self, value: bytes) -> None:
        raise Unavailable(self._reason)


def write_durably(path: Path, value: bytes) -> None:
    """Replace a file's content so that a crash leaves the old or the new one."""
    beside = path.with_name(path.name + ".new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(value)
        os.fsync(descriptor)  # the content must be there before the name is
    finally:
        os.close(descriptor)
    beside.replace(path)
    sync_directory(path.parent)  # the new name itself


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class AnchoredHead:
    """What the anchor holds: a signed checkpoint, and the frontier that lets its tree be extended."""

    note: str
    frontier: bytes

    def to_bytes(self) -> bytes:
        return json.dumps({"frontier": self.frontier.hex(), "note": self.note}, ensure_ascii=False).encode()

    @classmethod
    def from_bytes(cls, value: bytes) -> AnchoredHead:
        """Raises IntegrityError for anything that :meth:`to_bytes` does not write."""
        try:
            body = json.loads(value)
            head = cls(body["note"], bytes.fromhex(body["frontier"]))
            if head.to_bytes() != value:
                raise ValueError("not canonical")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise IntegrityError("the anchor is not readable") from error
        return head

    def opened(self, vkey: str, origin: str) -> tuple[Checkpoint, Frontier]:
        """The verified checkpoint and its frontier. Raises IntegrityError unless this journal's key signed it."""
        try:
            checkpoint = open_note(self.note, vkey)
        except IntegrityError as error:
            raise IntegrityError(f"the anchor belongs to another journal: {error}") from error
        frontier = Frontier.from_bytes(self.frontier)
        if checkpoint.origin != origin or (frontier.size, frontier.root()) != (checkpoint.size, checkpoint.root):
            raise IntegrityError("the anchor contradicts itself")
        return checkpoint, frontier

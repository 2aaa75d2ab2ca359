"""Drops as files: a ZIP archive or a directory read within limits; answers that a power cut leaves whole or not at all.

What comes in may be hostile: an archive that unpacks to terabytes, paths that lead elsewhere, links, a million entries. A drop
is read into memory once, within :data:`MOST_OCTETS`, and its digest is over what was read, so nobody can change it between two
looks. Nothing is ever unpacked to a disk. Everything here blocks: callers on the event loop use a thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import secrets
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final, Protocol

from gateway.errors import MalformedRequest, TooLarge
from gateway.keys.durable import sync_directory
from provisioning.droplist import MOST_LINES

MOST_OCTETS: Final = 64 << 20
#: A certification request for each line, and the lists.
_MOST_ENTRIES: Final = MOST_LINES + 100
_CENTRAL_ENTRY: Final = b"PK\x01\x02"
#: What zipfile raises for octets that are no archive, or one with features that we do not read.
_DAMAGE: Final = (zipfile.BadZipFile, NotImplementedError, EOFError, RuntimeError, ValueError, struct.error, zlib.error)
_PACKINGS: Final = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
#: The answer of the same drop has the same octets.
_DATE: Final = (1980, 1, 1, 0, 0, 0)
#: The name of something that is still being written; see :func:`tidy`.
_TEMPORARY: Final = re.compile(r"\..+\.(zip|fresh)\.[0-9a-f]{16}\.part")
#: Whoever shares the folder may read an answer.
_MODE: Final = 0o644


class Drop(Protocol):
    """What a station put down. ``digest`` is the SHA-256 of all of it, in hex."""

    digest: str

    def read(self, name: str, most: int) -> bytes | None:
        """The content of one file; None if there is none of this name. Raises TooLarge beyond ``most``, MalformedRequest."""


class _Archive:
    def __init__(self, content: bytes) -> None:
        self.digest = hashlib.sha256(content).hexdigest()
        self._content = content
        self._zip: zipfile.ZipFile | None = None
        self._entries: Mapping[str, zipfile.ZipInfo] = {}

    def _opened(self) -> zipfile.ZipFile:
        if self._zip is None:
            # Each entry of the directory at an archive's end begins so: more of them cost memory before anything is read.
            if self._content.count(_CENTRAL_ENTRY) > _MOST_ENTRIES:
                raise TooLarge(f"the archive has more than {_MOST_ENTRIES} files; make several drops of it")
            try:
                self._zip = zipfile.ZipFile(io.BytesIO(self._content))
                self._entries = _by_name(self._zip.infolist())
            except _DAMAGE as error:
                raise MalformedRequest("the archive cannot be read: it is no ZIP file, was cut short or changed") from error
        return self._zip

    def read(self, name: str, most: int) -> bytes | None:
        archive = self._opened()
        entry = self._entries.get(name)
        if entry is None:
            return None
        if entry.flag_bits & 1 or entry.compress_type not in _PACKINGS:
            raise MalformedRequest(f"{name} is encrypted, or packed in a way that is not read here; make a plain ZIP file")
        try:
            with archive.open(entry) as file:
                content = file.read(most + 1)  # one octet more is enough to know: a bomb is never unpacked whole
        except _DAMAGE as error:
            raise MalformedRequest(f"{name} in the archive is damaged") from error
        if len(content) > most:
            raise TooLarge(f"{name} has more than {most} octets")
        return content


class _Folder:
    def __init__(self, files: Mapping[str, bytes]) -> None:
        digest = hashlib.sha256()
        for name, content in sorted(files.items()):
            digest.update(hashlib.sha256(name.encode()).digest() + hashlib.sha256(content).digest())
        self.digest = digest.hexdigest()
        self._files = files

    def read(self, name: str, most: int) -> bytes | None:
        content = self._files.get(name)
        if content is not None and len(content) > most:
            raise TooLarge(f"{name} has more than {most} octets")
        return content


def take(path: Path) -> Drop:
    """Read a drop: ``NAME.zip``, or a directory. Links are not followed. Raises OSError, TooLarge, MalformedRequest."""
    if stat.S_ISDIR(path.lstat().st_mode):
        return _Folder(_files_of(path))
    return _Archive(_content(path, MOST_OCTETS))


def remove(path: Path) -> None:
    """Durably, and without following links. A directory of a drop has no directories in it."""
    if stat.S_ISDIR(path.lstat().st_mode):
        for each in list(path.iterdir()):
            each.unlink()
        path.rmdir()
    else:
        path.unlink()
    sync_directory(path.parent)


def fingerprint(path: Path) -> tuple[tuple[str, int, int], ...] | None:
    """What changes while somebody still writes to a drop; None for what is none (a link, a device)."""
    try:
        whole = path.lstat()
        if stat.S_ISREG(whole.st_mode):
            return (("", whole.st_size, whole.st_mtime_ns),)
        if not stat.S_ISDIR(whole.st_mode):
            return None
        with os.scandir(path) as entries:
            listed = sorted((entry.name, *_size_and_time(entry)) for entry in entries)
        return (("", 0, whole.st_mtime_ns), *listed)
    except OSError:
        return None  # it went away while we looked


class AnswerWriter:
    """A ZIP archive on its way to ``path``. It is under a temporary name until :meth:`finish`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.part")
        descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _MODE)
        self._file = os.fdopen(descriptor, "wb")
        self._zip = zipfile.ZipFile(self._file, "w")

    def add(self, name: str, content: bytes) -> None:
        entry = zipfile.ZipInfo(name, _DATE)
        entry.external_attr = _MODE << 16
        self._zip.writestr(entry, content, zipfile.ZIP_DEFLATED)

    def finish(self) -> None:
        """The archive is durable under its name when this returns."""
        self._zip.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        rename(self._temporary, self._path)

    def discard(self) -> None:
        """Leave nothing behind. No error after :meth:`finish`."""
        with contextlib.suppress(ValueError):
            self._zip.close()
        self._file.close()
        self._temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[AnswerWriter]:
    """An answer that is discarded unless it was finished."""
    writer = AnswerWriter(path)
    try:
        yield writer
    finally:
        writer.discard()


def tidy(folder: Path) -> None:
    """Remove what a power cut left half written."""
    for path in folder.glob(".*.part"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink()


def read_entry(archive: Path, name: str) -> bytes:
    """An entry of an answer that was finished. Raises OSError, MalformedRequest."""
    try:
        with zipfile.ZipFile(archive) as file:
            return file.read(name)
    except (*_DAMAGE, KeyError) as error:
        raise MalformedRequest(f"{archive.name} is no answer") from error


def publish(answer: Path, target: Path) -> None:
    """A durable copy of ``answer`` under ``target``'s name, whole or not at all."""
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.part")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, _MODE)
        with os.fdopen(descriptor, "wb") as file:
            file.write(answer.read_bytes())
            file.flush()
            os.fsync(file.fileno())
        rename(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def rename(source: Path, target: Path) -> None:
    """Durably; what ``target`` was is gone."""
    source.replace(target)
    sync_directory(target.parent)


def _by_name(entries: list[zipfile.ZipInfo]) -> dict[str, zipfile.ZipInfo]:
    """Without the folder that all of them lie in, if there is one: people pack a folder. Raises MalformedRequest."""
    files = [entry for entry in entries if not entry.is_dir()]
    for entry in files:
        path = PurePosixPath(entry.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in entry.filename or ":" in entry.filename:
            raise MalformedRequest(f"the archive has a file whose path leads out of it: {entry.filename[:100]!r}")
    tops = {PurePosixPath(entry.filename).parts[0] for entry in files if "/" in entry.filename}
    folder = f"{tops.pop()}/" if len(tops) == 1 and all("/" in entry.filename for entry in files) else ""
    named = {entry.filename.removeprefix(folder): entry for entry in files}
    if len(named) != len(files):
        raise MalformedRequest("the archive has two files of one name")
    return named


def _files_of(path: Path) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    left = MOST_OCTETS
    with os.scandir(path) as entries:
        for entry in entries:
            if not entry.is_file(follow_symlinks=False):
                raise MalformedRequest(f"{entry.name[:100]!r} in the drop is no file")
            if len(files) >= _MOST_ENTRIES:
                raise TooLarge(f"the drop has more than {_MOST_ENTRIES} files; make several of it")
            files[entry.name] = _content(Path(entry.path), left)
            left -= len(files[entry.name])
    return files


def _content(path: Path, most: int) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise MalformedRequest(f"{path.name[:100]!r} is no file")
        content = file.read(most + 1)
    if len(content) > most:
        raise TooLarge(f"a drop has at most {MOST_OCTETS >> 20} MiB")
    return content


def _size_and_time(entry: os.DirEntry[str]) -> tuple[int, int]:
    found = entry.stat(follow_symlinks=False)
    return found.st_size, found.st_mtime_ns

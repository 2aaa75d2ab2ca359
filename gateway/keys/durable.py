"""Small secret files that survive a power cut whole or not at all.

Every file is 0600, written under a temporary name in the same directory, synced, and only then given its name; the
directory is synced last, because a name that is not durable is a key that was never stored. Blocking: callers on the
event loop use a thread.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from gateway.errors import AlreadyExists


def make_directory(path: Path) -> None:
    """Create ``path`` for this user alone, durably; an existing directory is left as it is."""
    if path.is_dir():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the names inside ``path`` durable: created, renamed and removed ones."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_new(path: Path, content: bytes) -> None:
    """Store ``content`` under a name that must not exist yet. Raises AlreadyExists and leaves the present file alone."""
    temporary = _write_temporary(path, content)
    try:
        # link() fails if the name exists, rename() would overwrite: the check and the naming are one step.
        path.hardlink_to(temporary)
    except FileExistsError:
        raise AlreadyExists(f"{path.name} already exists") from None
    finally:
        temporary.unlink()
    sync_directory(path.parent)


def replace(path: Path, content: bytes) -> None:
    """Store ``content`` in place of what ``path`` holds now; after a power cut it is either the old or the new."""
    temporary = _write_temporary(path, content)
    temporary.replace(path)
    sync_directory(path.parent)


def erase(path: Path) -> None:
    """Overwrite and remove a secret; no error when it is gone already.

    Flash storage may keep old blocks: the content is wrapped, so this is the second barrier and not the first.
    """
    try:
        with path.open("r+b") as file:
            file.write(bytes(os.fstat(file.fileno()).st_size))
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
    except FileNotFoundError:
        return
    sync_directory(path.parent)


def _write_temporary(path: Path, content: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink()
        raise
    return temporary

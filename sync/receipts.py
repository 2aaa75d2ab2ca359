"""Central's newest receipt: what certainly lies there. Kept in a file that is a cache; central says it again at every hello."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from gateway.errors import IntegrityError
from gateway.journal.anchor import write_durably
from gateway.journal.cosignature import Receipt, open_receipt

_log = logging.getLogger(__name__)
#: Written down at most this often while a backlog is sent.
_INTERVAL_S = 5.0


class Receipts:
    """``gateway_key`` and ``central_key`` are the vkeys that must both have signed."""

    def __init__(self, path: Path, gateway_key: str, central_key: str) -> None:
        self._path = path
        self._keys = (gateway_key, central_key)
        self._note = ""
        self._unwritten = False
        self._written_at = float("-inf")
        self.newest: Receipt | None = None
        try:
            self.take(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, IntegrityError):
            return  # as good as none
        self._unwritten = False

    @property
    def note(self) -> str:
        """The newest one as central signed it; empty when there is none."""
        return self._note

    @property
    def size(self) -> int:
        return self.newest.checkpoint.size if self.newest else 0

    def take(self, note: str) -> Receipt:
        """Check a receipt and keep it if it is the newest. Raises IntegrityError."""
        receipt = open_receipt(note, *self._keys)
        if self.newest is None or (receipt.checkpoint.size, receipt.time_s) >= (self.size, self.newest.time_s):
            self.newest, self._note, self._unwritten = receipt, note, True
        return receipt

    def forget_above(self, size: int) -> None:
        """Central was restored and has only this much now."""
        if self.size > size:
            self.newest, self._note, self._unwritten = None, "", False
            self._path.unlink(missing_ok=True)

    def write(self, *, now: bool = False) -> None:
        """Write the newest one down, unless that was done a moment ago. Never raises: the file is a cache."""
        at = asyncio.get_running_loop().time()
        if not self._unwritten or (not now and at - self._written_at < _INTERVAL_S):
            return
        try:
            write_durably(self._path, self._note.encode())
            self._unwritten, self._written_at = False, at
        except OSError as error:
            _log.warning("central's receipt cannot be kept on disk: %s", error.strerror)

"""Revocation lists that another CA signed: an offline root's, carried here by hand and served beside our own.

Several clients (OPC UA stacks, ``-crl_check_all``) want a list for every CA of the chain, and an offline root has nobody else
in the plant to serve it. Only lists of CAs above our own are served; :mod:`gateway.authority.crl_files` says what else is
checked.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.authority.crl_files import CrlFile
from gateway.errors import ConfigError

#: What an address of gateway.protocols.publication can say.
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class PublishedCrl:
    """A list as it is served. ``digest`` is its SHA-256 (an ETag); ``number`` 0 for a list without a CRL number."""

    name: str
    der: bytes
    number: int
    this_update_ms: int
    next_update_ms: int
    digest: bytes


class ParentCrls:
    """The files named in the configuration, by the name they are served under: the file's stem with ``.crl``.

    ``parents`` are the certificates (DER) of the CAs above ours.
    """

    def __init__(self, paths: tuple[Path, ...], parents: Callable[[], Sequence[bytes]]) -> None:
        self._parents = parents
        self._files: dict[str, CrlFile] = {}
        self._published: dict[str, PublishedCrl] = {}
        for path in paths:
            self.add(path)

    def add(self, path: Path) -> None:
        """Serve one more file from the next :meth:`refresh` on. Raises ConfigError for a name that is taken or cannot be."""
        name = f"{path.stem}.crl"
        if (name in self._files and self._files[name].path != path) or name[0].isdigit():
            raise ConfigError(f"crl: {path.name} would be served as {name}, which is taken")
        if not _NAME.fullmatch(path.stem):
            raise ConfigError(f"crl: {path.name} cannot be served under its name: letters, digits, '.', '_' and '-' can")
        self._files.setdefault(name, CrlFile(path, "the parent's list"))

    async def refresh(self) -> None:
        """Read the files that changed."""
        for name, file in self._files.items():
            await file.refresh(self._parents)
            read = file.crl
            if read is not None and (name not in self._published or self._published[name].der is not read.der):
                digest = hashlib.sha256(read.der).digest()
                self._published[name] = PublishedCrl(
                    name, read.der, read.number, read.this_update_ms, read.next_update_ms, digest
                )

    def get(self, name: str) -> PublishedCrl | None:
        return self._published.get(name)

    def names(self) -> tuple[str, ...]:
        return tuple(self._files)

    def health(self, now_ms: int) -> list[tuple[str, int, int, int, str, bool]]:
        """For each file: name, number, next update, entries, failure, and whether somebody must bring a new one."""
        report = []
        for name, file in self._files.items():
            number, next_update_ms, entries = 0, 0, 0
            if file.crl is not None:
                number, next_update_ms, entries = file.crl.number, file.crl.next_update_ms, len(file.crl.serials)
            degraded = bool(file.failure) or next_update_ms <= now_ms
            report.append((name, number, next_update_ms, entries, file.failure, degraded))
        return report

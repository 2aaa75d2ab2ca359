"""Revocation lists that another CA signed: an offline root's, carried here by hand and served beside our own.

Several clients (OPC UA stacks, ``-crl_check_all``) want a list for every CA of the chain, and an offline root has nobody else
in the plant to serve it. The files are read again when they change; a bad new file leaves the old list in service.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.errors import ConfigError

_log = logging.getLogger(__name__)
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


@dataclass(slots=True)
class _File:
    path: Path
    published: PublishedCrl | None = None
    entries: int = 0
    stamp: tuple[int, int] = (0, 0)
    failure: str = "not read yet"


class ParentCrls:
    """The files named in the configuration, by the name they are served under: the file's stem with ``.crl``."""

    def __init__(self, paths: tuple[Path, ...]) -> None:
        self._files: dict[str, _File] = {}
        for path in paths:
            name = f"{path.stem}.crl"
            if name in self._files or name[0].isdigit():
                raise ConfigError(f"crl: {path.name} would be served as {name}, which is taken")
            if not _NAME.fullmatch(path.stem):
                raise ConfigError(f"crl: {path.name} cannot be served under its name: letters, digits, '.', '_' and '-' can")
            self._files[name] = _File(path)

    async def refresh(self) -> None:
        """Read the files that changed."""
        for name, file in self._files.items():
            try:
                await asyncio.to_thread(_refresh, name, file)
            except (OSError, ValueError, x509.DuplicateExtension) as error:
                file.stamp = (0, 0)  # the same file may come back: a medium that was away
                failure = f"cannot be read: {error}"
                if failure != file.failure:
                    _log.warning("the parent's list %s %s", file.path.name, failure)
                file.failure = failure

    def get(self, name: str) -> PublishedCrl | None:
        file = self._files.get(name)
        return file.published if file else None

    def names(self) -> tuple[str, ...]:
        return tuple(self._files)

    def health(self, now_ms: int) -> list[tuple[str, int, int, int, str, bool]]:
        """For each file: name, number, next update, entries, failure, and whether somebody must bring a new one."""
        report = []
        for name, file in self._files.items():
            number, next_update_ms = 0, 0
            if file.published is not None:
                number, next_update_ms = file.published.number, file.published.next_update_ms
            degraded = bool(file.failure) or next_update_ms <= now_ms
            report.append((name, number, next_update_ms, file.entries, file.failure, degraded))
        return report


def _refresh(name: str, file: _File) -> None:
    facts = file.path.stat()
    stamp = (facts.st_mtime_ns, facts.st_size)
    if stamp == file.stamp:
        return
    content = file.path.read_bytes()
    pem = content.lstrip().startswith(b"-----BEGIN")
    crl = x509.load_pem_x509_crl(content) if pem else x509.load_der_x509_crl(content)
    if crl.next_update_utc is None:
        raise ValueError("it has no nextUpdate, which RFC 5280 section 5.1.2.5 requires")
    try:
        number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        number = 0
    this_update_ms = int(crl.last_update_utc.timestamp()) * 1000
    before = file.published
    if before is not None and (this_update_ms < before.this_update_ms or 0 < number < before.number):
        raise ValueError("it is older than the one in service")
    der = crl.public_bytes(Encoding.DER)
    file.published = PublishedCrl(
        name,
        der,
        number,
        this_update_ms,
        int(crl.next_update_utc.timestamp()) * 1000,
        hashlib.sha256(der).digest(),
    )
    file.entries = len(crl)
    file.stamp = stamp
    file.failure = ""

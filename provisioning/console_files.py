"""Files over a console: written in pieces that a terminal's buffer holds, hashed by the device, synced, moved into place.

A file is either the old one or the new one, never a part: it grows under a name of its own (``.new``), and only what has the
right SHA-256 and is on the storage is moved. A full disk or a damaged line shows in a status or in the hash.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from gateway.errors import DeviceSilent
from provisioning.console import Console
from provisioning.framing import END_OF_TEXT

#: Paths that need no quoting in any shell.
PATH: Final = re.compile(r"/[A-Za-z0-9._/-]+")
#: How often octets are sent or asked for again that the line damaged.
ATTEMPTS = 3
#: Columns of base64: what every decoder takes.
_COLUMNS = 64
#: The longest line of a text that is sent as it is; a longer one may not fit a terminal's line.
_LINE = 200
_MOST = 262_144


@dataclass(frozen=True, slots=True)
class Tools:
    """The device's commands: standard input to standard output, and files to lines of ``HEX  NAME``."""

    encode: str = "base64"
    decode: str = "base64 -d"
    digest: str = "sha256sum"
    sync: str = "sync"

    @classmethod
    def of(cls, present: frozenset[str], sync: str = "sync") -> Tools:
        """What there is; openssl does what is missing."""
        own = "base64" in present
        return cls(
            "base64" if own else "openssl base64",
            "base64 -d" if own else "openssl base64 -d",
            "sha256sum" if "sha256sum" in present else "openssl dgst -sha256 -r",
            sync,
        )


class ConsoleFiles:
    """``buffer`` is what the device's terminal takes at once, in octets. Paths are of :data:`PATH`'s characters."""

    def __init__(self, console: Console, tools: Tools, buffer: int) -> None:
        self._console = console
        self._tools = tools
        self._buffer = buffer

    async def put(self, files: Mapping[str, bytes], mode: str) -> None:
        """Write all of ``files``, none of them empty, the last one last; what is right already is left. ``mode`` is chmod's.

        Returns once they are on the device's storage. Raises DeviceRefused (no room, read-only), DeviceSilent.
        """
        folders = " ".join(sorted({path.rpartition("/")[0] or "/" for path in files}))
        new = {f"{path}.new": files[path] for path in await self._differing(files, f"mkdir -p {folders}&&")}
        damaged, sync = list(new), self._tools.sync
        for _ in range(ATTEMPTS):
            for path in damaged:
                await self._send(path, new[path])
            damaged = await self._differing(new, f"{sync} {' '.join(new)}&&{sync}&&")
            if not damaged:
                break
        else:
            raise DeviceSilent(f"{', '.join(damaged)}: arrived damaged {ATTEMPTS} times")
        # Also where nothing was to be done: who put it there may have been stopped before the sync.
        moves = "".join(f"chmod {mode} {path}&&mv -f {path} {path.removesuffix('.new')}&&" for path in new)
        await self._console.check(f"{moves}{sync}", "put what was written in its place")

    async def get(self, path: str) -> bytes:
        """The file, or nothing where there is none. Raises DeviceSilent where what comes is damaged again and again."""
        digest = self._tools.digest
        for attempt in range(ATTEMPTS):
            encode = "" if attempt == 0 else self._tools.encode  # most files are text, and shorter as they are
            said = await self._console.check(
                f"[ ! -e {path} ]||{{ {encode or 'cat'} <{path}&&echo {END_OF_TEXT}&&{digest} <{path};}}", f"read {path}"
            )
            if not said:
                return b""
            text, _, digests = said.rpartition(f"{END_OF_TEXT}\n")
            try:
                data = base64.b64decode("".join(text.split()), validate=True) if encode else text.encode()
            except (binascii.Error, ValueError):
                continue
            if digests[:64] == hashlib.sha256(data).hexdigest():
                return data
        raise DeviceSilent(f"{path}: came damaged {ATTEMPTS} times")

    async def _differing(self, files: Mapping[str, bytes], first: str) -> list[str]:
        """Which of ``files`` the device does not have as they are here, after it was told ``first``."""
        if not files:
            return []
        command = f"{first}{{ {self._tools.digest} {' '.join(files)} 2>/dev/null||:;}}"
        said = (await self._console.check(command, "compare what the device has")).split()
        have = {name.lstrip("*"): digest for digest, name in zip(said[::2], said[1::2], strict=False)}
        return [path for path, data in files.items() if have.get(path) != hashlib.sha256(data).hexdigest()]

    async def _send(self, path: str, data: bytes) -> None:
        text = _plain(data)
        if text is not None:
            await self._append(text, path)
            return
        encoded = base64.b64encode(data).decode()
        lines = "".join(f"{encoded[begin : begin + _COLUMNS]}\n" for begin in range(0, len(encoded), _COLUMNS))
        await self._append(lines, f"{path}.b64")
        command = f"{self._tools.decode} <{path}.b64 >{path};s=$?;rm -f {path}.b64;(exit $s)"
        await self._console.check(command, f"write {path}")

    async def _append(self, text: str, path: str) -> None:
        redirect = ">"
        for piece in _cut(text, self._buffer):
            await self._console.check(f"cat {redirect}{path}", f"write {path}", piece)
            redirect = ">>"


def _plain(data: bytes) -> str | None:
    """``data`` as a text that a terminal passes on as it is; None for anything else."""
    try:
        text = data.decode("ascii")
    except UnicodeDecodeError:
        return None
    lines = text.split("\n")
    if lines.pop() != "" or len(data) > _MOST:
        return None
    fits = all(len(line) <= _LINE and (line == "" or line.isprintable()) and line != END_OF_TEXT for line in lines)
    return text if fits else None


def _cut(text: str, size: int) -> Iterator[str]:
    """Whole lines, as many as fit into ``size`` octets together."""
    piece = ""
    for line in text.splitlines(keepends=True):
        if piece and len(piece) + len(line) > size:
            yield piece
            piece = ""
        piece += line
    if piece:
        yield piece

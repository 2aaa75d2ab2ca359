"""A kind of key store that outlives the gateway's restarts, for the suite that all of them share."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from gateway.keys.keeper import TokenTimes
from gateway.keys.provider import KeyRing
from gateway.keys.wrapping import WrappingKey
from tests.support.tokens import Token

WRAPPING = bytes(range(32))
#: Deadlines generous for a loaded machine, polling quick.
TIMES = TokenTimes(poll=0.2, attach=60.0, grace=20.0, sign=60.0)


@dataclass(frozen=True)
class Place:
    """A kind of key store; every ``ring`` is a new start of the gateway with the same state directory."""

    directory: Path
    uri: Callable[[str], str]
    between: Callable[[], None]  # what a restart needs beside

    @asynccontextmanager
    async def ring(self) -> AsyncIterator[KeyRing]:
        ring = KeyRing(self.directory, WrappingKey(WRAPPING), times=TIMES)
        try:
            yield ring
        finally:
            await ring.close()
            self.between()


def nothing() -> None:
    """No tidying up between restarts."""


def token_place(token: Token, directory: Path, between: Callable[[], None] = nothing, *, pin: str = "") -> Place:
    """``token`` with its PIN, or another ``pin``, in a file."""
    file = directory / "pin"
    file.write_text(f"{pin or token.pin}\n")
    return Place(directory / "keys", lambda name: token.uri(name, pin_source=f"file:{file}"), between)

"""A place on the token for the journal's anchor: a restored or cloned disk cannot bring the token's memory back with it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import TypeVar

from gateway.errors import OperatorError, SignerUnavailable
from gateway.keys.keeper import RemoteToken

_T = TypeVar("_T")
_LABEL = "edge-gateway journal anchor"


class TokenAnchor:
    """A private data object (CKO_DATA) on the token. Made in the event loop, called from other threads: both methods block.

    Tokens write slowly and wear out: store at intervals and at shutdown, not with every record.
    """

    def __init__(self, token: RemoteToken, *, label: str = _LABEL) -> None:
        self._token = token
        self._label = label
        self._loop = asyncio.get_running_loop()

    def load(self) -> bytes | None:
        """What was stored last, or ``None``. Raises OSError when the token cannot be asked."""
        return self._wait(self._token.load_object(self._label)) or None

    def store(self, value: bytes) -> None:
        """Keep ``value``; it is on the token when this returns. Raises OSError when the token cannot be asked."""
        self._wait(self._token.store_object(self._label, value))

    def _wait(self, work: Coroutine[None, None, _T]) -> _T:
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result()
        except (SignerUnavailable, OperatorError) as error:  # the anchor's contract is that of a file
            raise OSError(f"the anchor's token: {error}") from error

"""A place on the token for the journal's anchor: a restored or cloned disk cannot bring the token's memory back with it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import replace
from typing import Final, TypeVar

from gateway.errors import SignerUnavailable
from gateway.keys.keeper import RETRY_SOON, RemoteToken
from gateway.keys.process import ChildProcess
from gateway.keys.signer import KeyState
from gateway.keys.uri import KeyUri

_T = TypeVar("_T")
#: CKA_LABEL of the data object where the URI names none.
LABEL: Final = "edge-gateway journal anchor"
#: After so many faults in a row a token that seems to be back is left alone for so many seconds: one that hangs on its data
#: objects has to be opened anew each time, and meanwhile no key on it signs.
_FAULTS: Final = 2
_REST_S: Final = 60.0


class TokenAnchor:
    """A private data object (CKO_DATA) on the token that ``uri`` names; ``object=`` in it is the object's label.

    It has the methods of the journal's anchor. Tokens write slowly and wear out: store at intervals and at shutdown, not with
    every record.
    """

    def __init__(self, token: RemoteToken, uri: KeyUri) -> None:
        self._token = token
        self._uri = uri
        self._label = uri.object or LABEL
        self._read_from: ChildProcess | None = None  # every return of the token begins with a new one
        self._faults = 0  # since the last writing
        self._rest_until = 0.0

    @property
    def name(self) -> str:
        """The URI without where its PIN and module are."""
        return replace(self._uri, module_path="", module_name="", pin_source="").format()

    def returned(self) -> bool:
        """Whether the token is up and :meth:`load` has not read it since it came."""
        resting = self._faults >= _FAULTS and asyncio.get_running_loop().time() < self._rest_until
        return not resting and self._token.state is KeyState.UP and self._token.child is not self._read_from

    async def load(self) -> bytes | None:
        """What was stored last, or ``None``. At start it waits until the token was looked for, otherwise for nothing.

        Raises SignerUnavailable, saying what to do, while the token is out of reach.
        """
        await self._token.looked_for()
        self._read_from = self._present()
        return await self._asked(self._token.load_object(self._label)) or None

    async def store(self, value: bytes) -> None:
        """Keep ``value``; it is on the token when this returns. Raises as :meth:`load`, and writes nothing, when the token was
        away since it was read."""
        if self._present() is not self._read_from:
            raise SignerUnavailable("the token was away and has to be compared first", retry_after=RETRY_SOON)
        await self._asked(self._token.store_object(self._label, value))
        self._faults = 0

    def _present(self) -> ChildProcess:
        token = self._token
        if token.state is KeyState.UP and token.child is not None:
            return token.child
        if token.state in (KeyState.PIN_NEEDED, KeyState.PIN_BLOCKED):
            what_to_do = f"enter it with edge-gateway ca unlock --key '{self._uri}'"
        else:
            what_to_do = "plug in the token that journal.anchor names"
        raise SignerUnavailable(f"{token.detail or token.state.value}; {what_to_do}", retry_after=RETRY_SOON)

    async def _asked(self, work: Coroutine[None, None, _T]) -> _T:
        try:
            return await work
        except SignerUnavailable as error:
            self._faults += 1
            self._rest_until = asyncio.get_running_loop().time() + _REST_S
            if self._read_from is not None:
                self._read_from.kill(str(error))  # as after a failed signature: opening the token anew finds out how it is
            raise SignerUnavailable(f"{error}; it is tried again", retry_after=RETRY_SOON) from error

"""Logging in to one token: which PIN is tried, when, and how often (once)."""

from __future__ import annotations

import asyncio

from gateway.errors import PinError, SignerUnavailable
from gateway.keys.frames import Code, Kind, PinQuery, TokenInfo, to_json
from gateway.keys.pin import FilePin, PinLedger, PinSource
from gateway.keys.process import ChildFailure, ChildProcess
from gateway.keys.signer import KeyState

_NEEDED = (KeyState.PIN_NEEDED, "the token waits for its PIN")
_LOCKED = "the token has locked its PIN: unblock it with the vendor's tool and the SO PIN"


class Login:
    """The PIN of one token: a person's comes before the configured source.

    No PIN is kept. With a credential or file the child reads it again after a replug or a crash, so signing resumes by itself;
    a PIN that a person entered has to be entered again.
    """

    def __init__(self, source: PinSource, ledger: PinLedger, deadline_s: float) -> None:
        self._source = source
        self._ledger = ledger
        self._deadline_s = deadline_s
        self._declined = b""  # digest of what the ledger or the token turned down last: not asked about again
        self._refusal = ""  # ... and why
        self._offered: tuple[str, asyncio.Future[None]] | None = None
        self.problem: tuple[KeyState, str] = _NEEDED

    def offer(self, pin: str) -> asyncio.Future[None]:
        """A PIN that a person entered; the future says what became of it. Raises SignerUnavailable when one is being tried."""
        if self._offered is not None:
            raise SignerUnavailable("another PIN is being tried", retry_after=1)
        outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._offered = (pin, outcome)
        return outcome

    def interrupted(self) -> None:
        """The child is gone: whoever waits for a PIN's outcome is told."""
        self._conclude(SignerUnavailable("the token went away before the PIN's outcome was known", retry_after=5))

    async def attempt(self, child: ChildProcess, info: TokenInfo) -> bool:
        """Log in if it is needed and there is a PIN to try; otherwise ``problem`` says why not.

        Raises ChildFailure or ChildGone when the attempt's outcome is unknown, ConfigError and IntegrityError when the
        source or the ledger cannot be read.
        """
        if not info.login_required:
            self._conclude(None)
            return True
        if info.pin_locked:
            self._turn_down(_LOCKED)
            return False
        salt = (await asyncio.to_thread(self._ledger.salt)).hex()
        by_person = self._offered is not None
        digest = await child.call(Kind.PIN, to_json(await self._query(salt)), deadline_s=self._deadline_s)
        if not digest or (digest == self._declined and not by_person):
            self.problem = (KeyState.PIN_BLOCKED, self._refusal) if self._refusal else _NEEDED
            return False
        serial = info.serial or info.label
        try:
            await asyncio.to_thread(self._ledger.begin, serial, digest, by_person=by_person, last_try=info.pin_final_try)
            await self._try(child, serial, digest)
        except PinError as refusal:
            self._declined, self._refusal = digest, str(refusal)
            self._turn_down(self._refusal)
            return False
        self._declined, self._refusal = b"", ""
        self._conclude(None)
        return True

    async def _query(self, salt: str) -> PinQuery:
        """Where the child finds the PIN, or the PIN itself, which nothing here refers to afterwards."""
        if self._offered is not None:
            pin, outcome = self._offered
            self._offered = ("", outcome)
            return PinQuery(salt, pin=pin)
        if isinstance(self._source, FilePin):
            return PinQuery(salt, path=str(self._source.path))
        return PinQuery(salt, pin=await self._source.take() or "")

    async def _try(self, child: ChildProcess, serial: str, digest: bytes) -> None:
        try:
            await child.call(Kind.LOGIN, deadline_s=self._deadline_s)
        except ChildFailure as failure:
            if failure.code not in (Code.PIN_INCORRECT, Code.PIN_LOCKED):
                raise
            await asyncio.to_thread(self._ledger.settle, serial, digest, accepted=False)
            if failure.code is Code.PIN_LOCKED:
                raise PinError(_LOCKED) from failure
            raise PinError("the token refused the PIN; it will not be tried again") from failure
        await asyncio.to_thread(self._ledger.settle, serial, digest, accepted=True)

    def _turn_down(self, text: str) -> None:
        self.problem = (KeyState.PIN_BLOCKED, text)
        self._conclude(PinError(text))

    def _conclude(self, error: Exception | None) -> None:
        if self._offered is None:
            return
        outcome, self._offered = self._offered[1], None
        if outcome.done():
            return  # the person did not wait
        if error is None:
            outcome.set_result(None)
        else:
            outcome.set_exception(error)

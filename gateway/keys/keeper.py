"""One token behind its signer child, as the daemon sees it: kept open and watched.

A keeper task owns the child's life: spawn, wait for the token, check that it is the right one, log in at most once per PIN,
find the keys, watch. Whatever goes wrong it ends the child and starts again, so recovery and start-up are the same path.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.errors import GatewayError, NotFound, PinError, SignerUnavailable
from gateway.keys.figures import Figures
from gateway.keys.frames import (
    Code,
    KeyQuery,
    Kind,
    StoreQuery,
    TokenInfo,
    TokenQuery,
    read_found_key,
    to_json,
    token_info,
)
from gateway.keys.generation import public_from_der, public_to_der
from gateway.keys.login import Login
from gateway.keys.pin import PinLedger, PinSource, check_pin
from gateway.keys.process import ChildFailure, ChildGone, ChildProcess
from gateway.keys.signer import KeyState
from gateway.keys.turnstile import Turnstile
from gateway.keys.uri import KeyUri
from gateway.pki.algorithms import PublicKey

_log = logging.getLogger(__name__)
_CLOSED, _OPENING = "the token was closed", "the token is being opened"

CHILD_MODULE = "gateway.keys.child"
#: One signature in the token and the next one already in the socket: the token never waits for the event loop.
_IN_FLIGHT = 2
_QUEUE_LIMIT = 512
#: Some modules list their slots only once: after so many fruitless looks a fresh child looks.
_LOOKS_PER_CHILD = 10
RETRY_SOON = 5
_RETRY_AFTER_A_PERSON = 60


@dataclass(frozen=True, slots=True)
class TokenTimes:
    """Seconds. ``sign``, ``login``, ``open`` and ``generate`` are deadlines after which a child counts as hung."""

    sign: float = 10.0
    login: float = 30.0
    open: float = 30.0
    generate: float = 300.0  # an RSA-4096 key takes a smart card two minutes
    poll: float = 1.0
    grace: float = 3.0  # callers wait so long for a token that has just gone before they get Retry-After
    attach: float = 15.0  # how long opening an unknown key waits for its token
    respawn: float = 0.1
    respawn_most: float = 2.0


class TokenKey:
    """One key on the token. ``index`` is its number in the present child, -1 while it has none."""

    __slots__ = ("expected", "index", "problem", "query", "since")

    def __init__(self, uri: KeyUri, expected: PublicKey | None) -> None:
        self.query = to_json(KeyQuery(uri.object, uri.id.hex()))
        self.expected = expected
        self.index = -1
        self.problem = ""
        self.since = asyncio.get_running_loop().time()

    def differs(self, public_key: bytes) -> bool:
        """Whether the token shows a public half and it is not the expected one."""
        return bool(public_key) and self.expected is not None and public_to_der(self.expected) != public_key


class _LookAgain(Exception):
    """A fresh child shall look for the token; nothing else changed."""


class RemoteToken:
    """One token and the keys on it. Made inside the event loop; the child starts with the first key."""

    def __init__(self, uri: KeyUri, module: str, source: PinSource, ledger: PinLedger, times: TokenTimes) -> None:
        self.uri = uri
        self.module = module
        self.times = times
        self.turnstile = Turnstile(width=_IN_FLIGHT, limit=_QUEUE_LIMIT)
        self.figures = Figures()
        self.state = KeyState.DOWN
        self.detail = _OPENING
        self.info: TokenInfo | None = None
        self.child: ChildProcess | None = None
        self._query = to_json(TokenQuery(module, uri.token, uri.manufacturer, uri.serial, uri.model, uri.slot_id))
        self._login = Login(source, ledger, times.login)
        self._keys: list[TokenKey] = []
        self._changed = asyncio.Event()
        self._wake = asyncio.Event()
        self._down_since = asyncio.get_running_loop().time()
        self._keeper: asyncio.Task[None] | None = None

    def narrow(self, serial: str) -> None:
        """From now on look for the token with this serial number alone; empty changes nothing."""
        if serial and not self.uri.serial:
            self.uri = uri = replace(self.uri, serial=serial)
            self._query = to_json(TokenQuery(self.module, uri.token, uri.manufacturer, uri.serial, uri.model, uri.slot_id))

    async def attach(self, uri: KeyUri, expected: PublicKey | None) -> TokenKey:
        """Look for the key ``uri`` names from now on.

        Without ``expected`` this waits until the token has shown the key, so that ``expected`` is set in the result; it
        raises SignerUnavailable, PinError or NotFound otherwise.
        """
        key = TokenKey(uri, expected)
        self._keys.append(key)
        self._start()
        self._wake.set()
        if expected is None:
            try:
                await self._until_usable(lambda: key.expected is not None or bool(key.problem))
                if key.expected is None:
                    raise NotFound(f"{uri}: {key.problem}")
            except BaseException:
                self._keys.remove(key)
                raise
        return key

    async def looked_for(self) -> None:
        """Return when the token is up, or when it is known why not: it is away, waits for its PIN, does not answer."""
        self._start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.times.attach):
                while self.state is KeyState.DOWN and self.detail == _OPENING:
                    await self._changed.wait()

    async def load_object(self, label: str) -> bytes:
        """The content of the private data object ``label``; empty when there is none. Raises SignerUnavailable."""
        return await self.ask(Kind.LOAD, label.encode(), deadline_s=self.times.sign)

    async def store_object(self, label: str, content: bytes) -> None:
        """Keep ``content`` on the token under ``label``. Raises SignerUnavailable."""
        await self.ask(Kind.STORE, to_json(StoreQuery(label, content.hex())), deadline_s=self.times.sign)

    async def ask(self, kind: Kind, payload: bytes, *, deadline_s: float) -> bytes:
        """Any other request, once the token is up. Raises SignerUnavailable, PinError, ChildFailure."""
        self._start()
        await self._until_usable(lambda: self.state is KeyState.UP)
        if self.child is None:
            raise SignerUnavailable(self.detail, retry_after=RETRY_SOON)
        return await self.child.call(kind, payload, deadline_s=deadline_s)

    async def unlock(self, pin: str) -> None:
        """One login attempt with a PIN that a person entered. Raises PinError, or SignerUnavailable without any attempt."""
        check_pin(pin)
        self._start()
        waiting = (KeyState.PIN_NEEDED, KeyState.PIN_BLOCKED)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.times.attach):
                while self.state is not KeyState.UP and self.state not in waiting:
                    await self._changed.wait()
        if self.state is KeyState.UP:
            return
        if self.state not in waiting:
            raise SignerUnavailable(f"no PIN was tried: {self.detail}", retry_after=RETRY_SOON)
        outcome = self._login.offer(pin)
        self._wake.set()
        await outcome
        with contextlib.suppress(TimeoutError):  # the PIN was right; the keys are being looked for before the state says so
            async with asyncio.timeout(self.times.attach):
                while self.state in waiting:
                    await self._changed.wait()

    async def ready(self, key: TokenKey) -> ChildProcess:
        """The child, when it can sign with ``key``. Raises SignerUnavailable, at once but for the grace after a fault."""
        while True:
            if self.state is KeyState.UP and key.index >= 0 and self.child is not None:
                return self.child
            if self.state not in (KeyState.UP, KeyState.DOWN) or key.problem:
                raise SignerUnavailable(key.problem or self.detail, retry_after=_RETRY_AFTER_A_PERSON)
            rest = max(self._down_since, key.since) + self.times.grace - asyncio.get_running_loop().time()
            if rest <= 0:
                raise SignerUnavailable(self.detail or "the key is being looked for", retry_after=RETRY_SOON)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(rest):
                    await self._changed.wait()

    def detach(self, key: TokenKey) -> None:
        """Look for the key no more; harmless when that was said before."""
        if key in self._keys:
            self._keys.remove(key)

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._keeper
        self._set(KeyState.DOWN, _CLOSED)

    def _start(self) -> None:
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep(), name=f"token-keeper {self.uri}")

    async def _until_usable(self, done: Callable[[], bool]) -> None:
        """Wait until ``done``; raises what a person has to know when the token needs one, or time is up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.times.attach):
                while not done():
                    if self.state in (KeyState.PIN_NEEDED, KeyState.PIN_BLOCKED):
                        raise PinError(self.detail)
                    await self._changed.wait()
        if not done():
            raise SignerUnavailable(self.detail, retry_after=RETRY_SOON)

    def _set(self, state: KeyState, detail: str = "") -> None:
        if state is not self.state or detail != self.detail:
            level = logging.INFO if state is KeyState.UP or detail == _CLOSED else logging.WARNING
            _log.log(level, "token %s is %s%s", self.uri.token or self.uri.serial, state.value, detail and f": {detail}")
        if state is KeyState.DOWN and self.state is not KeyState.DOWN:
            self._down_since = asyncio.get_running_loop().time()
        self.state, self.detail = state, detail
        self._changed.set()
        self._changed = asyncio.Event()

    async def _keep(self) -> None:
        delay = self.times.respawn
        while True:
            before = self.figures.operations
            child = None
            try:
                child = await ChildProcess.spawn(CHILD_MODULE)
                await self._serve(child)
            except _LookAgain:
                pass
            except asyncio.CancelledError:
                if child is not None:
                    await child.close()
                raise
            except (
                Exception
            ) as fault:  # a full disk under the ledger, no free descriptor, a mad child: the next try may do better
                if not isinstance(fault, GatewayError | OSError):
                    _log.exception("token %s", self.uri.token or self.uri.serial)
                self._set(KeyState.DOWN, str(fault))
            finally:
                self.child = None
                for key in self._keys:
                    key.index, key.problem = -1, ""
                self._login.interrupted()
                if child is not None:
                    await child.end("the token is being opened anew")
            # A token that signed deserves a quick second chance; one that fails over and over must not burn the CPU.
            delay = self.times.respawn if self.figures.operations > before else min(2 * delay, self.times.respawn_most)
            await asyncio.sleep(delay)

    async def _serve(self, child: ChildProcess) -> None:
        """The life of one child; returns only by an exception."""
        self.info = await self._find_token(child)
        while not await self._login.attempt(child, self.info):
            self._set(*self._login.problem)
            await self._pause(child)
            self.info = token_info(await child.call(Kind.PROBE, deadline_s=self.times.open))
        self.child = child
        await self._find_keys(child)
        self._set(KeyState.UP)
        answers = child.answers
        while True:
            await self._pause(child)
            if child.answers == answers and not child.busy:
                self.info = token_info(await child.call(Kind.PROBE, deadline_s=self.times.open))
            if await self._find_keys(child):
                self._set(KeyState.UP)
            answers = child.answers

    async def _find_token(self, child: ChildProcess) -> TokenInfo:
        """Look until the token is there, and is the right one as far as can be seen without its PIN."""
        for _ in range(_LOOKS_PER_CHILD):
            try:
                info = token_info(await child.call(Kind.OPEN, self._query, deadline_s=self.times.open))
            except ChildFailure as failure:
                if failure.code not in (Code.ABSENT, Code.OTHER_TOKEN):
                    raise
                self._set(KeyState.DOWN if failure.code is Code.ABSENT else KeyState.WRONG_TOKEN, str(failure))
            else:
                if not await self._is_stranger(child):
                    return info
                text = f"the token {info.label!r} (serial {info.serial}) holds another key; its PIN was not tried"
                self._set(KeyState.WRONG_TOKEN, text)
            await self._pause(child)
        raise _LookAgain

    async def _is_stranger(self, child: ChildProcess) -> bool:
        """Whether public keys show that this is another stick: some differ from the expected ones and none agrees."""
        verdicts = []
        for key in self._keys:
            with contextlib.suppress(ChildFailure):  # no public half to be seen: the PIN is needed to tell
                public_key = read_found_key(await child.call(Kind.FIND, key.query, deadline_s=self.times.open))[1]
                verdicts.append(key.differs(public_key))
        return bool(verdicts) and all(verdicts)

    async def _find_keys(self, child: ChildProcess) -> bool:
        """Look for the keys that have no number yet; whether anything is new."""
        news = False
        for key in [key for key in self._keys if key.index < 0]:
            problem, index = "", -1
            try:
                index, public_key = read_found_key(await child.call(Kind.FIND, key.query, deadline_s=self.times.open))
            except ChildFailure as failure:
                if failure.code is not Code.NO_KEY:
                    raise
                problem = str(failure)
            else:
                if index < 0:
                    problem = "only the public half of the key is on the token"
                elif key.differs(public_key):
                    problem, index = "the key on the token is another one than the certificate's", -1
                elif key.expected is None and not public_key:
                    problem, index = "the token keeps no public half of the key", -1
                elif key.expected is None:
                    key.expected = public_from_der(public_key)
            news = news or problem != key.problem or index >= 0
            key.problem, key.index = problem, index
        return news

    async def _pause(self, child: ChildProcess) -> None:
        """Until the next look, or until somebody brings a PIN or a key. Raises ChildGone when the child ended."""
        gone = asyncio.shield(child.gone)
        gone.add_done_callback(lambda _: self._wake.set())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.times.poll):
                await self._wake.wait()
        self._wake.clear()
        if child.gone.done():
            raise ChildGone(child.gone.result())

"""The Signer over a key on a token.

It never repeats a signature: a caller whose operation was interrupted is told that its outcome is unknown, and what is asked
for next is that caller's decision.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from cryptography.hazmat.primitives import hashes

from gateway.errors import AlreadyExists, BadKey, SignerUnavailable
from gateway.keys.frames import Code, KeyQuery, Kind, TokenInfo, read_signed, sign_request, to_json
from gateway.keys.generation import public_from_der
from gateway.keys.keeper import RETRY_SOON, RemoteToken, TokenKey
from gateway.keys.process import ChildFailure, ChildGone
from gateway.keys.signer import KeySpec, KeyState, Priority, SignerHealth
from gateway.keys.software import INLINE_BYTES
from gateway.keys.uri import KeyUri
from gateway.pki.algorithms import PublicKey, SignatureAlgorithm, default_algorithm, signature_is_valid


class Pkcs11Signer:
    """A Signer over one key on a token."""

    def __init__(self, token: RemoteToken, uri: KeyUri, key: TokenKey, public_key: PublicKey) -> None:
        self._token = token
        self._uri = uri.format()
        self._key = key
        self._public_key = public_key
        self._algorithm = default_algorithm(public_key)

    @classmethod
    async def open(cls, token: RemoteToken, uri: KeyUri, expected: PublicKey | None) -> Pkcs11Signer:
        """See ``KeyRing.open``."""
        key = await token.attach(uri, expected)
        assert key.expected is not None  # noqa: S101  # attach has waited for it
        return cls(token, uri, key, key.expected)

    @classmethod
    async def generate(cls, token: RemoteToken, uri: KeyUri, spec: KeySpec) -> Pkcs11Signer:
        """Make the key ``uri`` names; see ``KeyRing.generate``."""
        query = to_json(KeyQuery(uri.object, uri.id.hex(), spec.value))
        try:
            answer = await token.ask(Kind.GENERATE, query, deadline_s=token.times.generate)
        except ChildFailure as failure:
            if failure.code is Code.EXISTS:
                raise AlreadyExists(str(failure)) from failure
            if failure.code is Code.UNSUPPORTED:
                raise BadKey(str(failure)) from failure
            raise
        serial = token.info.serial if token.info else ""
        return await cls.open(token, replace(uri, serial=serial or uri.serial), public_from_der(answer))

    @property
    def uri(self) -> str:
        return self._uri

    @property
    def public_key(self) -> PublicKey:
        return self._public_key

    @property
    def algorithm(self) -> SignatureAlgorithm:
        return self._algorithm

    async def ready(self) -> None:
        """See :class:`~gateway.keys.signer.Signer`."""
        await self._token.ready(self._key)

    async def sign(self, message: bytes, *, priority: Priority = Priority.BULK) -> bytes:
        """See :class:`~gateway.keys.signer.Signer`. An interrupted operation is never repeated here."""
        token = self._token
        inline = len(message) <= INLINE_BYTES
        digested = self._digest(message) if inline else await asyncio.to_thread(self._digest, message)
        async with token.turnstile.turn(priority):
            child = await token.ready(self._key)
            request = sign_request(self._key.index, self._algorithm, digested)
            try:
                answer = await child.call(Kind.SIGN, request, deadline_s=token.times.sign)
            except ChildFailure as failure:
                if failure.code is not Code.UNSUPPORTED:
                    child.kill(str(failure))  # whatever the token's state is now, opening it anew finds out
                raise SignerUnavailable(f"{failure}; outcome unknown", retry_after=RETRY_SOON) from failure
            except ChildGone as gone:
                raise SignerUnavailable(f"{gone}; outcome unknown", retry_after=RETRY_SOON) from gone
        duration_ms, signature = read_signed(answer)
        if not (self._is_valid(signature, message) if inline else await asyncio.to_thread(self._is_valid, signature, message)):
            child.kill("the token returned a wrong signature")
            raise SignerUnavailable("the token returned a wrong signature; it was not used", retry_after=RETRY_SOON)
        token.figures.add(duration_ms)
        return signature

    def _digest(self, message: bytes) -> bytes:
        if self._algorithm.hash is None:
            return message
        digest = hashes.Hash(self._algorithm.hash)
        digest.update(message)
        return digest.finalize()

    def _is_valid(self, signature: bytes, message: bytes) -> bool:
        return signature_is_valid(self._public_key, self._algorithm, signature, message)

    def health(self) -> SignerHealth:
        token, state, detail = self._token, self._token.state, self._token.detail
        if state is KeyState.UP and self._key.problem:
            state, detail = KeyState.WRONG_TOKEN, self._key.problem
        return SignerHealth(
            uri=self._uri,
            state=state,
            detail=detail or _pin_warning(token.info),
            token_serial=token.info.serial if token.info else "",
            waiting=token.turnstile.waiting,
            operations=token.figures.operations,
            p50_ms=token.figures.quantile(0.50),
            p95_ms=token.figures.quantile(0.95),
        )

    async def unlock(self, pin: str) -> None:
        await self._token.unlock(pin)

    async def close(self) -> None:
        """Give the key up; the token stays open for its other keys until the ring is closed."""
        self._token.detach(self._key)


def _pin_warning(info: TokenInfo | None) -> str:
    if info is None or not (info.pin_count_low or info.pin_final_try):
        return ""
    return "one PIN attempt is left on the token" if info.pin_final_try else "a wrong PIN was entered on the token"

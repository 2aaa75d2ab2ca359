"""One-time tokens: a secret that a person reads from a sheet and types into a device, good for a few certificates.

A token is a user name and a password for HTTP Basic (RFC 7617, RFC 7030 section 3.2.3). The secret has 136 random bits, so the
journal may keep its plain SHA-256 and no slow hash is needed; it is shown once and stored nowhere. Uses are counted by the
ledger under ``token:ID``, whose truth is the journal's intents. A token that is used up still authenticates, marked *spent*:
only so can a device whose answer was lost ask for the very same certificate again.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.authority.inforce import PolicyInForce
from gateway.authority.quota import Ledger, token_quota
from gateway.authority.requests import TokenGrant
from gateway.clock import Clock
from gateway.errors import MalformedRequest, NotFound, OperatorError
from gateway.journal.records import Payload, Record, TokenCreated, TokenRevoked
from gateway.pki.names import name_from_text

#: 17 bytes are 28 characters of base32 (RFC 4648 section 6: no 0, 1, 8, 9 to mistake for letters): 136 bits in 7 groups of 4.
_SECRET_BYTES, _GROUP = 17, 4
#: A secret that is good for ever or for everything is a mistyped one. A leap year.
MOST_USES, LONGEST_S = 1_000_000, 366 * 86_400
_ID_BYTES = 5  # 8 characters
#: How long an expired token stays on the list. Milliseconds.
_KEEP_EXPIRED_MS = 7 * 86_400_000
_NO_VERIFIER = bytes(32)


class TokenJournal(Protocol):
    """What is needed of the journal."""

    async def append(self, *payloads: Payload, urgent: bool = False) -> tuple[Record, ...]: ...

    def scan(self, *kinds: type[Payload]) -> AsyncIterator[Record]: ...


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token at the only moment its secret is known. ``repr`` hides the secret."""

    token_id: str
    secret: str
    not_after_ms: int

    def __repr__(self) -> str:
        return f"NewToken(token_id={self.token_id!r})"


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """A token as the list shows it. ``remaining`` uses do not count those in the making."""

    token_id: str
    profile: str
    subject: str
    station: bool
    uses: int
    remaining: int
    not_after_ms: int
    created_ms: int
    operator: str
    revoked: bool


class Tokens:
    """All tokens, in memory; every change is durable before it takes effect."""

    def __init__(
        self,
        journal: TokenJournal,
        ledger: Ledger,
        policy: PolicyInForce,
        clock: Clock,
        *,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._journal, self._ledger, self._policy, self._clock, self._random = journal, ledger, policy, clock, random
        self._created: dict[str, tuple[TokenCreated, int]] = {}
        self._revoked: set[str] = set()

    @classmethod
    async def load(cls, journal: TokenJournal, ledger: Ledger, policy: PolicyInForce, clock: Clock) -> Tokens:
        """Rebuild the list from the journal's records."""
        tokens = cls(journal, ledger, policy, clock)
        forgotten_ms = clock.now_ms() - _KEEP_EXPIRED_MS
        async for record in journal.scan(TokenCreated, TokenRevoked):
            if isinstance(record.payload, TokenCreated) and record.payload.not_after > forgotten_ms:
                tokens._take(record.payload, record.time)
            elif isinstance(record.payload, TokenRevoked):
                tokens._revoked.add(record.payload.token_id)
        return tokens

    async def create(
        self, profile: str, *, operator: str, validity_s: int, uses: int = 1, subject: str = "", station: bool = False
    ) -> NewToken:
        """Make a token for ``uses`` certificates of ``profile``. The secret is in the answer and nowhere else.

        ``subject`` binds it to one RFC 4514 name or to a shell pattern for the subject's serialNumber; ``station`` lets its
        user ask on behalf of devices. Raises NotFound for an unknown profile, OperatorError for what makes no sense.
        """
        self._policy.current.rule(profile)
        if not (1 <= uses <= MOST_USES and 1 <= validity_s <= LONGEST_S):
            raise OperatorError(f"a token is good for 1 to {MOST_USES} uses and for 1 second to {LONGEST_S // 86_400} days")
        if "=" in subject:
            try:
                name_from_text(subject)
            except MalformedRequest as error:
                raise OperatorError(f"the subject {subject!r} is not an RFC 4514 name: {error}") from error
        token_id = _base32(self._random(_ID_BYTES)).lower()
        if token_id in self._created:
            raise OperatorError("the new token's name is taken; try again")
        plain = _base32(self._random(_SECRET_BYTES))
        not_after_ms = self._clock.now_ms() + validity_s * 1000
        payload = TokenCreated(
            token_id, _verifier(plain), profile, uses, not_after_ms, operator, subject=subject, station=station
        )
        (record,) = await self._journal.append(payload)
        self._take(payload, record.time)
        groups = (plain[start : start + _GROUP] for start in range(0, len(plain), _GROUP))
        return NewToken(token_id, "-".join(groups), not_after_ms)

    async def revoke(self, token_id: str, operator: str) -> None:
        """Make a token worthless at once; doing so again changes nothing. Raises NotFound."""
        if token_id not in self._created:
            raise NotFound(f"there is no token {token_id[:80]!r}")
        if token_id not in self._revoked:
            await self._journal.append(TokenRevoked(token_id, operator), urgent=True)
            self._revoked.add(token_id)

    def list(self) -> tuple[TokenInfo, ...]:
        """All tokens that are not long expired, oldest first."""
        return tuple(
            TokenInfo(
                token_id=token.token_id,
                profile=token.profile,
                subject=token.subject,
                station=token.station,
                uses=token.uses,
                remaining=max(0, token.uses - self._ledger.spent(token_quota(token.token_id))),
                not_after_ms=token.not_after,
                created_ms=created_ms,
                operator=token.operator,
                revoked=token.token_id in self._revoked,
            )
            for token, created_ms in self._created.values()
        )

    def check(self, token_id: str, secret: str) -> tuple[TokenGrant, bool] | None:
        """The grant of a token and whether it is a station's; ``None`` without saying why for anything that does not fit.

        The secret may be typed in either case, with or without its hyphens. Takes the same time for unknown names.
        """
        token_id = token_id.strip().lower()
        known = self._created.get(token_id)
        token = known[0] if known else None
        fits = hmac.compare_digest(_verifier(secret), token.verifier if token else _NO_VERIFIER)
        if token is None or not fits or token_id in self._revoked or self._clock.now_ms() >= token.not_after:
            return None
        spent = self._ledger.remaining(token_quota(token_id)) == 0
        return TokenGrant(token_id, token.profile, token.subject, spent), token.station

    def _take(self, token: TokenCreated, created_ms: int) -> None:
        self._created[token.token_id] = (token, created_ms)
        self._ledger.limit(token_quota(token.token_id), token.uses)


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode().rstrip("=")


def _verifier(secret: str) -> bytes:
    plain = secret.replace("-", "").replace(" ", "").upper()
    return hashlib.sha256(plain.encode("utf-8", "surrogatepass")).digest()

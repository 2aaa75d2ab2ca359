"""Requests that wait for a person.

The life of one: *waiting* (recorded when a device first asks) -> *approved* or *denied* (recorded with the operator's name) ->
a device that asks again gets its certificate or its refusal. An approval is good for one certificate: what was issued after
it uses it up, and that stands in the journal, not in a flag that could be lost.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

from gateway.authority.requests import EnrollmentRequest, Pending
from gateway.clock import Clock
from gateway.errors import Busy, Conflict, Forbidden, NotFound
from gateway.journal.records import Decided, Payload, Record, Waiting
from gateway.pki.names import name_to_text

#: A request nobody asked about or decided on for so long is forgotten; the device's next try makes a new one. Milliseconds.
KEEP_MS = 30 * 86_400_000
#: Undecided requests, in all and of one requester: a person must be able to read the list.
MOST_WAITING, MOST_WAITING_OF_ONE = 1_000, 16
_ID_LENGTH = 16
_FULL_RETRY_S = 600


class ApprovalJournal(Protocol):
    """What is needed of the journal."""

    async def append(self, *payloads: Payload, urgent: bool = False) -> tuple[Record, ...]: ...

    async def find_issued(self, idempotency_key: bytes, not_before_ms: int) -> tuple[Record, Record] | None: ...

    def scan(self, *kinds: type[Payload]) -> AsyncIterator[Record]: ...


class ApprovalState(Enum):
    WAITING = "waiting"
    APPROVED = "approved"
    DENIED = "denied"


@dataclass(frozen=True, slots=True)
class WaitingRequest:
    """One line of the list. Times are UTC milliseconds; ``subject`` is an RFC 4514 text."""

    request_id: str
    profile: str
    protocol: str
    requester: str
    subject: str
    csr_digest: bytes
    since_ms: int
    state: ApprovalState = ApprovalState.WAITING
    changed_ms: int = 0
    operator: str = ""
    reason: str = ""


def request_id_of(idempotency_key: bytes) -> str:
    """16 hex digits that a person can compare; the same for every retry of a request."""
    return idempotency_key.hex()[:_ID_LENGTH]


class Approvals:
    """The list, in memory, rebuilt from the journal at every start."""

    def __init__(self, journal: ApprovalJournal, clock: Clock) -> None:
        self._journal, self._clock = journal, clock
        self._requests: dict[str, WaitingRequest] = {}

    @classmethod
    async def load(cls, journal: ApprovalJournal, clock: Clock) -> Approvals:
        approvals = cls(journal, clock)
        async for record in journal.scan(Waiting, Decided):
            approvals._apply(record)
        approvals._forget()
        return approvals

    def list(self) -> tuple[WaitingRequest, ...]:
        """All requests with their state, oldest first."""
        return tuple(self._requests.values())

    async def decide(self, request_id: str, *, approved: bool, operator: str, reason: str = "") -> WaitingRequest:
        """Record a person's answer. An answer may be changed until the certificate is issued; the same again records nothing.

        Raises NotFound for an unknown id.
        """
        found = self._requests.get(request_id)
        if found is None:
            raise NotFound(f"no request {request_id[:80]!r} is waiting")
        wanted = ApprovalState.APPROVED if approved else ApprovalState.DENIED
        if found.state is not wanted:
            (record,) = await self._journal.append(Decided(request_id, approved, operator, reason))
            self._apply(record)
        return self._requests[request_id]

    async def consult(self, request: EnrollmentRequest, idempotency_key: bytes, retry_after: int) -> Pending | None:
        """``None`` when a person has approved this very request, Pending while nobody has decided.

        Raises Forbidden when it was denied, Busy when too many wait already.
        """
        request_id = request_id_of(idempotency_key)
        known = self._requests.get(request_id)
        if known is not None and known.state is ApprovalState.DENIED:
            raise Forbidden(f"request {request_id} was denied" + (f": {known.reason}" if known.reason else ""))
        if known is not None and known.state is ApprovalState.APPROVED:
            self._refuse_collision(known, request)
            if await self._journal.find_issued(idempotency_key, known.changed_ms) is None:
                if self._requests.get(request_id) is known:
                    return None
                return await self.consult(request, idempotency_key, retry_after)  # the answer was changed while we looked
            known = None  # used up: a person must look again
        if known is None:
            self._forget()
            self._refuse_flood(request.requester.identity)
            payload = Waiting(
                request_id=request_id,
                profile=request.profile,
                protocol=request.protocol,
                requester=request.requester.identity,
                subject=name_to_text(request.csr.subject),
                csr_digest=request.csr_digest,
                idempotency_key=idempotency_key,
            )
            (record,) = await self._journal.append(payload)
            self._apply(record)
        return Pending(request_id, retry_after)

    def _refuse_collision(self, known: WaitingRequest, request: EnrollmentRequest) -> None:
        # 64 bits of a hash name the request; what a person approved is nevertheless compared in words.
        if (known.profile, known.requester, known.subject) != (
            request.profile,
            request.requester.identity,
            name_to_text(request.csr.subject),
        ):
            raise Conflict(f"request {known.request_id} was approved for something else")

    def _refuse_flood(self, identity: str) -> None:
        waiting = [each for each in self._requests.values() if each.state is ApprovalState.WAITING]
        if len(waiting) >= MOST_WAITING or sum(each.requester == identity for each in waiting) >= MOST_WAITING_OF_ONE:
            raise Busy("too many requests wait for approval", retry_after=_FULL_RETRY_S)

    def _apply(self, record: Record) -> None:
        payload = record.payload
        if isinstance(payload, Waiting):
            self._requests.pop(payload.request_id, None)  # asked for once more after its approval was used up
            self._requests[payload.request_id] = WaitingRequest(
                payload.request_id,
                payload.profile,
                payload.protocol,
                payload.requester,
                payload.subject,
                payload.csr_digest,
                since_ms=record.time,
                changed_ms=record.time,
            )
        elif isinstance(payload, Decided) and payload.request_id in self._requests:
            state = ApprovalState.APPROVED if payload.approved else ApprovalState.DENIED
            self._requests[payload.request_id] = replace(
                self._requests[payload.request_id],
                state=state,
                changed_ms=record.time,
                operator=payload.operator,
                reason=payload.reason,
            )

    def _forget(self) -> None:
        limit = self._clock.now_ms() - KEEP_MS
        for request_id in [key for key, each in self._requests.items() if each.changed_ms < limit]:
            del self._requests[request_id]

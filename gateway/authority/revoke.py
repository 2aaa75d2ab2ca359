"""Revoking, holding and releasing certificates: from a decision to a durable record.

What may follow what (RFC 5280 section 5.3.1; docs: the conflict table of the synchronisation has the same rules)::

    good ---- any reason -------> revoked ---- keyCompromise ----> revoked for keyCompromise
      |                             ^ any other reason, hold: stays as it is
      +------ certificateHold --> on hold ---- any reason -------> revoked, dated back to the hold
                                    +--------- release ----------> good

An earlier date is recorded whatever stands. A hold that central asks for where somebody else's stands is recorded, too: from
then on only central lifts it. Asking again for what is already so is answered like the first time and records nothing: the
answer may have been lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary

from gateway.authority.status import Revocation, RevocationStatus
from gateway.clock import Clock
from gateway.errors import Conflict, Forbidden, NotFound, RequestError
from gateway.journal.records import Intent, Issued, Payload, Record, Released, Revoked, Void
from gateway.pki.crl import Reason

Result = TypeVar("Result")
#: Who decided, where central did.
CENTRAL = "central"


class RevocationJournal(Protocol):
    """What is needed of the journal."""

    async def append(self, *payloads: Payload, urgent: bool = False) -> tuple[Record, ...]: ...

    async def by_serial(self, serial: int) -> tuple[Record, ...]: ...


def resulting_reason(current: Reason | None, asked: Reason) -> Reason | None:
    """The reason to record, or ``None`` when nothing changes. ``current`` is ``None`` for a good certificate."""
    if current is None or (current is Reason.CERTIFICATE_HOLD and asked is not current):
        return asked
    if asked is Reason.KEY_COMPROMISE and current is not asked:
        return asked
    return None


def _held_by_central(records: Sequence[Record]) -> bool:
    """Whether one of the holds that stand is central's, whoever recorded something after it."""
    for record in reversed(records):
        match record.payload:
            case Released():
                return False
            case Revoked(by=by) if by == CENTRAL:
                return True
    return False


class Revoker:
    """Changes the status of certificates. Every method returns only when the change is durable."""

    def __init__(self, journal: RevocationJournal, status: RevocationStatus, clock: Clock) -> None:
        self._journal = journal
        self._status = status
        self._clock = clock
        self._locks: WeakValueDictionary[int, asyncio.Lock] = WeakValueDictionary()
        self._running: set[asyncio.Task[object]] = set()

    async def revoke(
        self, serial: int, reason: Reason, by: str, *, revoked_at_ms: int | None = None, because: Sequence[Payload] = ()
    ) -> Revocation:
        """Revoke ``serial`` and return what is now recorded, which may be an earlier revocation.

        ``by`` names who decided, for the journal. ``revoked_at_ms`` (default: now) is since when it is known to be bad.
        ``because`` is recorded in the same transaction, also when nothing changes. Raises NotFound for a serial this gateway
        did not issue, RequestError for a time in the future or removeFromCRL.
        """
        now_ms = self._clock.now_ms()
        if revoked_at_ms is not None and not 0 <= revoked_at_ms <= now_ms:
            raise RequestError("a certificate cannot be revoked with a date in the future")
        if reason is Reason.REMOVE_FROM_CRL:
            raise RequestError("removeFromCRL is not a reason to revoke: release the certificate instead")
        since_ms = now_ms if revoked_at_ms is None else revoked_at_ms
        return await self._finish(self._revoke(serial, reason, by, since_ms, tuple(because)))

    async def hold(self, serial: int, by: str) -> Revocation:
        """Suspend ``serial`` until it is released or revoked. Raises NotFound."""
        return await self.revoke(serial, Reason.CERTIFICATE_HOLD, by)

    async def release(self, serial: int, by: str, *, because: Sequence[Payload] = ()) -> None:
        """Lift a hold. ``because`` is recorded in the same transaction, also when nothing changes.

        Raises NotFound, Forbidden for a hold that :data:`CENTRAL` set and another wants to lift, and Conflict when the
        certificate is not on hold and was not released before.
        """
        await self._finish(self._release(serial, by, tuple(because)))

    async def _finish(self, work: Coroutine[Any, Any, Result]) -> Result:
        # A requester who hangs up cancels the await: the record may be durable by then, and must still reach the status.
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)  # which also takes a failure nobody waits for as seen

    async def _revoke(self, serial: int, reason: Reason, by: str, since_ms: int, because: tuple[Payload, ...]) -> Revocation:
        async with self._lock(serial):
            generation, records = await self._known(serial)
            current = self._status.find(serial, generation)
            result = resulting_reason(current.reason if current else None, reason)
            if result is None and current is not None:
                joins = reason is current.reason is Reason.CERTIFICATE_HOLD and by == CENTRAL
                if since_ms < current.revoked_ms or (joins and not _held_by_central(records)):
                    result = current.reason
            if result is not None:
                revoked_ms = min(since_ms, current.revoked_ms) if current else since_ms
                payload = Revoked(f"{serial:x}", generation, result.value, revoked_ms, by)
                record, *_ = await self._journal.append(payload, *because, urgent=True)
                self._status.apply(record)
                current = Revocation(serial, generation, revoked_ms, result)
            elif because:
                await self._journal.append(*because, urgent=True)
            assert current is not None  # noqa: S101 - a good certificate always gets a reason
            return current

    async def _release(self, serial: int, by: str, because: tuple[Payload, ...]) -> None:
        async with self._lock(serial):
            generation, records = await self._known(serial)
            current = self._status.find(serial, generation)
            if current is None and isinstance(records[-1].payload, Released):
                if because:
                    await self._journal.append(*because, urgent=True)
                return
            if current is None or current.reason is not Reason.CERTIFICATE_HOLD:
                state = f"revoked for {current.reason.value}" if current else "not revoked"
                raise Conflict(f"certificate {serial:x} is not on hold but {state}")
            if by != CENTRAL and _held_by_central(records):
                raise Forbidden("central put this certificate on hold, so central must release it")
            record, *_ = await self._journal.append(Released(f"{serial:x}", generation, by), *because, urgent=True)
            self._status.apply(record)

    def _lock(self, serial: int) -> asyncio.Lock:
        lock = self._locks.get(serial)
        if lock is None:
            lock = self._locks[serial] = asyncio.Lock()
        return lock

    async def _known(self, serial: int) -> tuple[int, tuple[Record, ...]]:
        records = await self._journal.by_serial(serial)
        generation = next((r.payload.generation for r in records if isinstance(r.payload, Intent)), None)
        if generation is None or not any(isinstance(r.payload, Issued | Void) for r in records):
            raise NotFound(f"this gateway issued no certificate with serial {serial:x}")
        return generation, records

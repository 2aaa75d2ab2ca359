"""Revoking anywhere: central's own word about a certificate, and the command to the gateway that issued it.

Central's word counts at once for what central publishes (:mod:`sync.central.status`); the command stands in the gateway's
document until its journal says ``command-done``. Both are one transaction. What may follow what is :mod:`sync.conflicts`'
matter.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Protocol

from gateway.clock import Clock
from gateway.errors import Conflict, NotFound, RequestError
from gateway.journal.tip import serial_column
from gateway.pki.crl import Reason
from sync.central.findings import condemn_successors
from sync.central.rows import CENTRAL, GATEWAY, OPEN, Certificate, Order, Revocation
from sync.central.store import CentralStore, Transaction
from sync.conflicts import SILENT, Word, join, merged, next_number
from sync.conflicts import Revocation as Merged

_ID_OCTETS = 8


class Refresher(Protocol):
    """What is needed of :class:`sync.central.desired_state.DesiredStates`."""

    async def refresh(self, origin: str) -> bool: ...


class Revocations:
    """Decisions of central's operators about certificates of any gateway."""

    def __init__(
        self,
        store: CentralStore,
        desired: Refresher,
        clock: Clock,
        *,
        touched: Callable[[bytes], None] = lambda _key_id: None,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """``touched`` is told the key identifier of the CA of every certificate whose status changes."""
        self._store, self._desired, self._clock, self._touched, self._random = store, desired, clock, touched, random

    async def revoke(
        self, serial: int, reason: Reason, by: str, *, issuer: bytes = b"", revoked_at_ms: int | None = None
    ) -> tuple[Certificate, Merged]:
        """Revoke ``serial`` or put it on hold. ``issuer`` is the CA's key identifier, needed only where two have that serial.

        Returns the certificate and what relying parties are told from now on, which may be an earlier revocation. Raises
        NotFound, Conflict, and RequestError for a time in the future or removeFromCRL.
        """
        now_ms = self._clock.now_ms()
        since_ms = now_ms if revoked_at_ms is None else revoked_at_ms
        if not 0 <= since_ms <= now_ms:
            raise RequestError("a certificate cannot be revoked with a date in the future")
        if reason is Reason.REMOVE_FROM_CRL:
            raise RequestError("removeFromCRL is not a reason to revoke: release the certificate instead")
        found, status = await self._say(serial, issuer, Word(0, reason, since_ms), by)
        assert status is not None  # noqa: S101 - a word with a reason never makes a certificate good
        return found, status

    async def release(self, serial: int, by: str, *, issuer: bytes = b"") -> tuple[Certificate, Merged | None]:
        """Lift a hold of either side. Raises NotFound, Conflict when the certificate is not on hold."""
        return await self._say(serial, issuer, SILENT, by)

    async def _say(self, serial: int, issuer: bytes, word: Word, by: str) -> tuple[Certificate, Merged | None]:
        async with self._store.transaction() as t:
            found = await find_certificate(t, serial, issuer)
        async with self._store.transaction() as t:
            await t.lock(found.origin)
            edge, central = await words(t, found)
            before = merged(edge, central)
            if word.reason is None and (before is None or before.reason is not Reason.CERTIFICATE_HOLD):
                state = f"revoked for {before.reason.value}" if before else "not revoked"
                raise Conflict(f"certificate {serial:x} is not on hold but {state}")
            since_ms = min(word.revoked_ms, before.revoked_ms) if before else word.revoked_ms  # as the gateway dates it back
            said = join(central, Word(next_number(edge, central), word.reason, since_ms if word.reason else 0))
            after = merged(edge, said)
            if after != before or central.reason != said.reason:
                await t.put(_revocation(found, said, by))
                if said.reason is not None:
                    await condemn_successors(t, found.origin, found.serial, said.reason, self._clock.now_ms())
            # The gateway's operators may lift their own hold, so it must know that central's stands beside it.
            joins = said.reason is edge.reason is Reason.CERTIFICATE_HOLD and central.reason is not said.reason
            if after != merged(edge, SILENT) or word.reason is None or joins:
                await self._order(t, found, said, by)
        await self._desired.refresh(found.origin)
        self._touched(found.issuer)
        return found, after

    async def _order(self, t: Transaction, found: Certificate, said: Word, by: str) -> None:
        """The command, unless the same one is on its way."""
        do, reason = ("release", "") if said.reason is None else ("revoke", said.reason.value)
        for each in await t.select(Order, serial=found.serial):
            if (each.issuer, each.state, each.do, each.reason, each.revoked_at) == (
                found.issuer, OPEN, do, reason, said.revoked_ms,
            ):  # fmt: skip
                return
        await t.put(
            Order(
                id=self._random(_ID_OCTETS).hex(), origin=found.origin, do=do, serial=found.serial, issuer=found.issuer,
                generation=found.generation, reason=reason, revoked_at=said.revoked_ms, by=by, made=self._clock.now_ms(),
            )
        )  # fmt: skip


async def find_certificate(t: Transaction, serial: int, issuer: bytes = b"") -> Certificate:
    """The journalled certificate. Raises NotFound; Conflict where several CAs have this serial and none is named."""
    try:
        column = serial_column(f"{serial:x}")
    except ValueError as error:
        raise NotFound("a serial number is positive and has at most 20 octets") from error
    found = [each for each in await t.select(Certificate, serial=column) if issuer in (b"", each.issuer)]
    if not found:
        raise NotFound(f"no gateway has journalled a certificate with serial {serial:x}")
    if len(found) > 1:
        raise Conflict(f"several CAs have issued serial {serial:x}; say which one")
    return found[0]


async def words(t: Transaction, certificate: Certificate) -> tuple[Word, Word]:
    """What the gateway and what central say of a certificate."""
    rows = await t.select(Revocation, serial=certificate.serial, issuer=certificate.issuer)
    said = {row.side: row.word for row in rows}
    return said.get(GATEWAY, SILENT), said.get(CENTRAL, SILENT)


def _revocation(found: Certificate, word: Word, by: str) -> Revocation:
    return Revocation(
        serial=found.serial, issuer=found.issuer, side=CENTRAL, origin=found.origin, generation=found.generation,
        reason=word.reason.value if word.reason else "", revoked_at=word.revoked_ms, by=by, number=word.number,
    )  # fmt: skip

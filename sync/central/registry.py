"""Who belongs to this central: one-time codes, joining, groups, and how a gateway's part here ends.

The life of a join, each line durable before the next: the code is bound to the request's digest; the root signs the sub-CA; the
gateway is registered, its first document made and the answer kept with the code. A repeated request thus gets the same
answer, whatever was lost in between, and a code never joins two gateways.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final

from gateway.clock import Clock
from gateway.errors import Conflict, MalformedRequest, NotFound, OperatorError, RequestError, Unavailable
from gateway.pki.crl import Reason
from gateway.pki.csr import read_csr
from gateway.pki.tbs import ca_info
from sync.central.alarms import FENCED, FENCED_THERE, close_alert, open_alert
from sync.central.authority import SUB_CA, CentralAuthority
from sync.central.bundle_identity import bundle_certificate
from sync.central.desired_state import DesiredStates
from sync.central.listing import every
from sync.central.rows import Alert, Ca, Code, Event, Journal, RootIssuance
from sync.central.running import repeated
from sync.central.store import CentralStore, Transaction
from sync.joining import (
    SECRET_OCTETS,
    CodeUnknown,
    CodeUsed,
    JoinAnswer,
    JoinCode,
    JoinRequest,
    make_code,
    open_request,
    request_code,
)

_log = logging.getLogger(__name__)
#: Of a journal that asks for a certificate for its next CA key (gateway.journal.records.CaRequested).
CA_REQUESTED: Final = "ca-requested"
#: The alert when such a request waits for a person, or cannot be granted.
CA_WAITS: Final = "ca-request"
#: Alerts that are over when another journal takes this one's place.
_ENDED_BY_REJOINING = (FENCED, FENCED_THERE, CA_WAITS)
_LOOK_S = 2.0
_HOUR_MS = 3_600_000
#: Certificates for one CA key whose ends lie closer than this were made for the same request.
_TWIN_MS = 600_000
_MOST_NAME = 64


@dataclass(frozen=True, slots=True)
class RegistryOptions:
    """``urls`` are where gateways find central."""

    urls: tuple[str, ...]
    automatic_renewal: bool = True


class Registry:
    """The gateways of this central."""

    def __init__(
        self,
        store: CentralStore,
        authority: CentralAuthority,
        desired: DesiredStates,
        clock: Clock,
        options: RegistryOptions,
        *,
        prepare: Callable[[], Awaitable[None]] | None = None,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """``prepare`` is awaited before a join is answered, so that the answer and its document are complete."""
        self._prepare = prepare
        self._store, self._authority, self._desired, self._clock = store, authority, desired, clock
        self._options, self._random = options, random
        self._joining = asyncio.Lock()

    # Codes.

    async def make_code(self, *, group: str = "", hours: int = 48) -> JoinCode:
        """A one-time code for one gateway, which becomes a member of ``group``. Its secret is shown once, here."""
        _check_group(group)
        code = make_code(self._random(SECRET_OCTETS), self._authority.identity.certificate)
        now_ms = self._clock.now_ms()
        async with self._store.transaction() as t:
            await t.put(Code(code.name, code.secret, group, now_ms, now_ms + hours * _HOUR_MS))
        return code

    async def withdraw_code(self, name: str) -> None:
        """Make a code useless. Raises NotFound, Conflict when a gateway has joined with it."""
        async with self._store.transaction() as t:
            code = await t.find(Code, name)
            if code is None:
                raise NotFound(f"there is no code {name[:40]!r}")
            if code.used:
                raise Conflict(f"{code.origin} has joined with this code; retire the gateway instead")
            await t.remove(Code, name=name)

    # Joining.

    async def join(self, data: bytes) -> bytes:
        """The signed answer to a join request, the same one whenever it is repeated.

        Raises CodeUnknown, CodeUsed, Conflict, MalformedRequest and its kind, SignerUnavailable while the root is away.
        """
        async with self._joining:
            async with self._store.transaction() as t:
                code, request = await self._bind(t, data)
            if code.answer:
                return code.answer
            if self._prepare is not None:
                await self._prepare()
            try:
                certificate = await self._authority.issue_sub_ca(
                    request.certification_request(), request.origin, replaces=request.predecessor
                )
            except (RequestError, OperatorError):  # nothing was signed: the code is good for a request that is right
                async with self._store.transaction() as t:
                    await t.put(replace(code, used=0, origin="", request=b""))
                raise
            async with self._store.transaction() as t:
                bound = await _locked_code(t, code.name)
                if bound is not None and bound.answer:  # another worker was faster
                    return bound.answer
                answer = await self._register(t, code, request, data, certificate)
            _log.info("gateway %s has joined", request.origin)
            return answer

    async def _bind(self, t: Transaction, data: bytes) -> tuple[Code, JoinRequest]:
        """The request is the one that this code is good for, from now on."""
        code = await _locked_code(t, request_code(data))
        if code is None:
            raise CodeUnknown("central knows no such code, or it was withdrawn")
        request = open_request(data, code.secret)
        digest = hashlib.sha256(data).digest()
        if code.used and code.request != digest:
            raise CodeUsed(f"this code was used for another request, of {code.origin}")
        if code.answer:
            return code, request
        now_ms = self._clock.now_ms()
        if not code.used and now_ms >= code.expires:
            raise CodeUnknown("the code has expired")
        await self._check_new(t, request)
        code = replace(code, used=code.used or now_ms, origin=request.origin, request=digest)
        await t.put(code)
        return code, request

    async def _check_new(self, t: Transaction, request: JoinRequest) -> None:
        if await t.find(Journal, request.origin) is not None:
            raise Conflict(f"{request.origin} has joined already; a gateway that starts afresh has a new journal")
        if any(each.origin != request.predecessor for each in await t.select(Journal, client_key=request.client_key)):
            raise Conflict("another gateway has this TLS client key; keys are made anew, never copied")
        if not request.predecessor:
            return
        before = await t.find(Journal, request.predecessor)
        if before is None:
            raise NotFound(f"there is no gateway {request.predecessor} that this one could replace")
        if not before.closed and not before.fenced:
            raise Conflict(f"{request.predecessor} is still in use: close it there, or retire it at central, then join again")

    async def _register(self, t: Transaction, code: Code, request: JoinRequest, data: bytes, certificate: bytes) -> bytes:
        now_ms = self._clock.now_ms()
        identity = self._authority.identity
        journal = Journal(
            origin=request.origin, number=await t.next_number(), name=request.name, vkey=request.vkey,
            client_key=request.client_key, joined=now_ms, group=code.group, predecessor=request.predecessor, seen=now_ms,
            offset=request.time_ms - now_ms,
        )  # fmt: skip
        await t.add(journal)
        known = await t.find(Journal, request.origin)
        if known is None or known.number != journal.number:
            raise Conflict(f"{request.origin} has joined just now, with another code")
        await t.put(_ca(certificate, self._authority.chain, request.origin, now_ms))
        if request.predecessor:
            await t.change(Journal, request.predecessor, closed=f"replaced by {request.origin}", client_key=b"")
            for kind in _ENDED_BY_REJOINING:
                await close_alert(t, kind, request.predecessor, now_ms)
        document = await self._desired.compose(t, journal)
        answer = self._authority.sign_answer(
            JoinAnswer(
                request=hashlib.sha256(data).digest(), origin=request.origin, central=identity.name, vkey=identity.vkey,
                endorsement=identity.endorsement, root=identity.certificate, urls=self._options.urls,
                certificate=certificate, chain=self._authority.chain, desired=document.content,
                bundle_certificate=await bundle_certificate(t),
            )
        )  # fmt: skip
        await t.put(replace(code, answer=answer))
        return answer

    # The next CA of a gateway that has joined.

    async def run(self) -> None:
        """Certify the CA keys that gateways ask for, for ever."""
        await repeated(self.certify_requests, _LOOK_S, "CA keys are certified")

    async def certify_requests(self) -> None:
        """Certify what may be certified without a person; the rest becomes an alert."""
        async with self._store.transaction() as t:
            waiting = [event async for event in every(t, Event, kind=CA_REQUESTED, done=0)]
            journals = {each: await t.find(Journal, each) for each in {event.origin for event in waiting}}
        for event in waiting:
            journal = journals[event.origin]
            if journal is not None and (journal.closed or journal.fenced):
                await self._leave(event)
            elif self._options.automatic_renewal:
                await self._try(event)
            else:
                await self._alert(event.origin, "a CA key waits for your approval: edge-central gateways approve")

    async def _leave(self, event: Event) -> None:
        """Nobody waits for this certificate any more."""
        now_ms = self._clock.now_ms()
        async with self._store.transaction() as t:
            await t.change(Event, CA_REQUESTED, event.origin, event.seq, done=now_ms)
            await close_alert(t, CA_WAITS, event.origin, now_ms)

    async def _try(self, event: Event) -> None:
        try:
            await self.approve(event.origin)
        except Unavailable as error:
            await self._alert(event.origin, f"its next CA key is not certified yet: {error}")
        except (RequestError, OperatorError) as error:
            await self._alert(event.origin, f"its next CA key is not certified: {error}")
            async with self._store.transaction() as t:
                await t.change(Event, CA_REQUESTED, event.origin, event.seq, done=self._clock.now_ms())

    async def approve(self, origin: str) -> bytes:
        """Certify the CA key that a gateway asked for last. Raises NotFound, Conflict, SignerUnavailable."""
        async with self._store.transaction() as t:
            journal = await t.find(Journal, origin)
            if journal is None:
                raise NotFound(f"there is no gateway {origin[:80]!r}")
            events = [event async for event in every(t, Event, kind=CA_REQUESTED, origin=origin) if not event.done]
        if journal.closed or journal.fenced:
            raise Conflict(f"{origin} gets no CA any more: {journal.closed or journal.fenced}")
        if not events:
            raise NotFound(f"{origin} asks for no CA certificate")
        certificate = await self._authority.issue_sub_ca(
            read_csr(events[-1].content), origin, replaces=journal.predecessor
        )  # fmt: skip
        now_ms = self._clock.now_ms()
        row = _ca(certificate, self._authority.chain, origin, now_ms)
        async with self._store.transaction() as t:
            await t.lock(origin)
            twins = [each for each in await t.select(Ca, key_id=row.key_id) if each.signed and each.not_after > now_ms]
            newest = max((each.not_after for each in twins), default=0)
            if newest < row.not_after - _TWIN_MS:  # else another worker had it certified at the same moment
                await t.put(row)
            for event in events:
                await t.change(Event, CA_REQUESTED, origin, event.seq, done=now_ms)
            await close_alert(t, CA_WAITS, origin, now_ms)
        await self._desired.refresh(origin)
        return certificate

    async def _alert(self, origin: str, text: str) -> None:
        async with self._store.transaction() as t:
            await open_alert(t, Alert(CA_WAITS, origin, "", text, self._clock.now_ms()))

    # Members.

    async def gateways(self) -> list[Journal]:
        """Every gateway that ever joined, by origin."""
        async with self._store.transaction() as t:
            return [journal async for journal in every(t, Journal)]

    async def set_group(self, origin: str, group: str) -> None:
        """Raises NotFound, MalformedRequest."""
        _check_group(group)
        await self._change(origin, lambda journal: replace(journal, group=group))
        await self._desired.refresh(origin)

    async def retire(self, origin: str, reason: str, *, revoke: Reason | None = None) -> None:
        """Expect nothing more from a gateway. Its certificates stay as they are; with ``revoke`` its CAs are revoked, and with
        them everything they issued. Raises NotFound, SignerUnavailable."""
        await self._change(origin, lambda journal: replace(journal, closed=journal.closed or reason or "retired"))
        if revoke is not None:
            await self.revoke_cas(origin, revoke)

    async def fence(self, origin: str, reason: str) -> None:
        """Take nothing from a journal any more, and let the gateway stop issuing when it calls. Final: it must join again."""
        await self._change(
            origin, lambda journal: replace(journal, fenced=journal.fenced or reason or "fenced", session="", nonce="")
        )  # fmt: skip

    async def revoke_cas(self, origin: str, reason: Reason) -> int:
        """Revoke every CA certificate that the root gave a gateway; how many there were. Raises SignerUnavailable."""
        async with self._store.transaction() as t:
            rows = [row async for row in every(t, RootIssuance, origin=origin) if row.profile == SUB_CA and not row.revoked]
        for row in rows:
            await self._authority.revoke(int.from_bytes(row.serial, "big"), reason)
        return len(rows)

    async def _change(self, origin: str, change: Callable[[Journal], Journal]) -> None:
        async with self._store.transaction() as t:
            journal = await t.lock(origin)
            if journal is None:
                raise NotFound(f"there is no gateway {origin[:80]!r}")
            await t.put(change(journal))


async def _locked_code(t: Transaction, name: str) -> Code | None:
    """The code, which no other worker reads so or changes until the transaction ends."""
    code = await t.find(Code, name)
    if code is None or not await t.change(Code, name, secret=code.secret):
        return None
    return await t.find(Code, name)


def _ca(certificate: bytes, chain: tuple[bytes, ...], origin: str, now_ms: int) -> Ca:
    info = ca_info(certificate)
    return Ca(
        hashlib.sha256(certificate).digest(), info.key_identifier, origin, certificate, b"".join(chain), info.not_after_ms,
        signed=now_ms,
    )  # fmt: skip


def _check_group(group: str) -> None:
    if len(group) > _MOST_NAME or not (group.isprintable()):
        raise MalformedRequest(f"a group's name has up to {_MOST_NAME} printable characters")

"""Central's ear: what gateways send, judged by :mod:`sync.ingest`, made durable, and only then answered.

Every message takes the same way: find the journal, take its lock, judge, write all that follows in the same transaction. What
the records mean is no matter here (:mod:`sync.central.projector`), so none is ever a reason to refuse. The receipt is cosigned
inside the transaction and leaves after it.

:mod:`sync.central.rest` tells the service which gateway speaks, by the key of its TLS client certificate, and turns the errors
below into answers.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import ClassVar, Final

from gateway.clock import Clock, elapsed_ms
from gateway.errors import Busy, IntegrityError, MalformedRequest, RequestError
from gateway.journal.statements import open_statement
from sync.bundle import unpack
from sync.central import alarms
from sync.central.alarms import close_alert, open_alert
from sync.central.limits import Allowance, Limits
from sync.central.projector import hear_early
from sync.central.rows import Alert, Document, Evidence, Journal, Retired
from sync.central.store import RECORDS, CentralStore, Transaction, desired_topic
from sync.ingest import (
    Appended,
    Convict,
    Greet,
    IsFenced,
    Refuse,
    Resume,
    Welcomed,
    challenge,
    judge_batch,
    judge_hello,
)
from sync.wire import HELLO, MOST_OCTETS, MOST_RECORDS, URGENT, Accepted, Batch, Hello, Urgent, Welcome

_log = logging.getLogger(__name__)
#: Of nonces and session names.
_RANDOM_OCTETS = 16
_INCARNATION = re.compile(r"[0-9a-f]{8,64}")
_MOST_SOFTWARE = 64
#: How far a gateway's clock may be off before somebody should look.
_CLOCK_MS: Final = 300_000
#: How long after the last records more of them are expected.
_BUSY_MS: Final = 200
#: How long a request for the desired document may wait.
MOST_WAIT_S: Final = 60


class SyncRefusal(RequestError):
    """An answer of the protocol that is not success. ``problem`` is its name in docs/SYNC.md."""

    problem: ClassVar[str]


class HelloNeeded(SyncRefusal):
    http_status = 409
    problem = "hello"
    hint = "The gateway begins a new session by itself."


class ResumeAt(SyncRefusal):
    """``size`` and ``root`` are where central's records of this journal end."""

    http_status = 409
    problem = "resume"
    hint = "The gateway goes on from there by itself."

    def __init__(self, message: str, size: int, root: bytes) -> None:
        super().__init__(message)
        self.size, self.root = size, root


class NotBelieved(SyncRefusal):
    http_status = 422
    problem = "refused"
    hint = "Nothing was taken. The PKI team must look at central's alerts for this gateway."


class JournalFenced(SyncRefusal):
    http_status = 403
    problem = "fenced"
    hint = "Nothing more is taken from this journal. The PKI team must let the gateway join again."


class UnknownGateway(SyncRefusal):
    http_status = 403
    problem = "unknown"
    hint = "Let the gateway join this central; its TLS client certificate is not registered here."


class Ingest:
    """Takes what gateways send. ``cosign`` makes a receipt of a signed note."""

    def __init__(
        self,
        store: CentralStore,
        *,
        cosign: Callable[[str], str],
        clock: Clock,
        limits: Limits | None = None,
        random: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        self._store, self._cosign, self._clock, self._random = store, cosign, clock, random
        self._limits = limits or Limits()
        self._allowances: dict[str, Allowance] = {}
        self._total = self._limits.total(elapsed_ms())
        self._under_way: set[str] = set()
        self._last_ms = 0

    @property
    def busy(self) -> bool:
        """Whether records are arriving, so that work which can wait had better wait."""
        return bool(self._under_way) or elapsed_ms() - self._last_ms < _BUSY_MS

    async def gateway(self, client_key: bytes) -> Journal:
        """Whose TLS client certificate has the key with this SHA-256. Raises UnknownGateway."""
        async with self._store.transaction() as t:
            found = await t.select(Journal, client_key=client_key)
        if not found:
            raise UnknownGateway("central knows no gateway with this TLS client key")
        # A gateway that joined again may have kept its key: then it speaks for its new journal.
        return max(found, key=lambda journal: (not journal.closed, journal.joined))

    # A session.

    async def challenge(self, origin: str) -> str:
        """A nonce for the next hello; one given out before is good no more. Raises UnknownGateway."""
        nonce = self._random(_RANDOM_OCTETS).hex()
        async with self._store.transaction() as t:
            journal = await _locked(t, origin)
            await t.change(Journal, origin, nonce=challenge(journal.standing(), nonce).nonce)
        return nonce

    async def hello(self, origin: str, statement: bytes) -> Welcome:
        """Begin a session. Raises HelloNeeded, NotBelieved, JournalFenced, UnknownGateway."""
        now_ms = self._clock.now_ms()
        async with self._store.transaction() as t:
            journal = await _locked(t, origin)
            hello = _read_hello(journal, statement)
            known = await t.find(Retired, origin, hello.incarnation)
            retired = frozenset({known.incarnation}) if known else frozenset()
            verdict = judge_hello(journal.standing(retired), hello, self._random(_RANDOM_OCTETS).hex())
            match verdict:
                case Welcomed(standing=after):
                    await t.add(*(Retired(origin, each, now_ms) for each in after.retired - retired))
                    journal = replace(
                        journal, nonce=after.nonce, session=after.session, incarnation=after.incarnation, seen=now_ms,
                        offset=hello.time_ms - now_ms, head=_size_of(hello.checkpoint), applied=hello.applied,
                        software=_printable(hello.software),
                    )  # fmt: skip
                    await t.put(journal)
                    await self._look_at_clock(t, journal)
                    await close_alert(t, alarms.REFUSED, origin, now_ms)
                    document = await t.find(Document, origin)
                    return Welcome(
                        after.session, journal.size, after.root, journal.receipt, document.version if document else 0
                    )  # fmt: skip
                case Convict():
                    await self._convict(t, journal, verdict, statement)
                case Refuse(reason=reason):
                    await open_alert(t, Alert(alarms.REFUSED, origin, "", reason, now_ms))
        raise self._refusal(journal, verdict)

    # Records.

    async def records(self, origin: str, packed: bytes) -> Accepted:
        """A batch as it came over the network (zstd). What :meth:`take` raises, and Busy, MalformedRequest."""
        async with self._admitted(origin):
            batch = await asyncio.to_thread(_read_batch, packed)
            self._spend(origin, batch, len(packed))
            if not batch.session:
                raise HelloNeeded("a batch over the network belongs to a session")
            return await self.take(origin, batch)

    async def carried(self, origin: str, batch: Batch) -> Accepted:
        """A batch from a bundle, which belongs to no session. What :meth:`take` raises, and Busy."""
        async with self._admitted(origin):
            return await self.take(origin, replace(batch, session=""))

    async def take(self, origin: str, batch: Batch) -> Accepted:
        """Judge a batch and keep what is new of it. When this returns, everything up to the receipt's size is durable.

        Raises HelloNeeded, ResumeAt, NotBelieved, JournalFenced, UnknownGateway, and the errors of the store.
        """
        now_ms = self._clock.now_ms()
        async with self._store.transaction() as t:
            journal = await _locked(t, origin)
            known = await t.leaves(journal, batch.start, batch.stop) if batch.start < journal.size else ()
            verdict = judge_batch(journal.standing(), batch, known)
            match verdict:
                case Appended(standing=after):
                    receipt = self._cosign(verdict.note) if verdict.note else after.receipt
                    if verdict.records:
                        await t.append(journal, journal.size, verdict.leaves, verdict.records, now_ms)
                        t.announce(RECORDS)
                    applied = batch.applied if batch.session else max(journal.applied, batch.applied)  # a stick may be old
                    journal = replace(
                        journal, size=after.size, frontier=after.frontier, receipt=receipt, nonce=after.nonce, seen=now_ms,
                        head=max(journal.head, batch.stop), applied=applied,
                    )  # fmt: skip
                    await t.put(journal)
                    document = await t.find(Document, origin)
                    return Accepted(receipt, document.version if document else 0)
                case Convict():
                    await self._convict(t, journal, verdict, batch.to_bytes())
                case Refuse(reason=reason):
                    await open_alert(t, Alert(alarms.REFUSED, origin, "", reason, now_ms))
        raise self._refusal(journal, verdict)

    async def urgent(self, origin: str, statement: bytes) -> None:
        """Revocations that overtake the backlog; they come again in their place. Raises NotBelieved, JournalFenced."""
        async with self._store.transaction() as t:
            journal = await t.find(Journal, origin)
            if journal is None:
                raise UnknownGateway(f"central knows no gateway {origin[:100]!r}")
            if journal.fenced:
                raise JournalFenced(journal.fenced)
            try:
                message = Urgent.from_bytes(open_statement(URGENT, statement, journal.vkey))
            except (IntegrityError, MalformedRequest) as error:
                raise NotBelieved(str(error)) from error
            if message.origin != origin or len(message.records) > MOST_RECORDS:
                raise NotBelieved(f"these are no urgent records of {origin}, or too many")
            await hear_early(t, journal, message.records, self._clock.now_ms())

    # The way down.

    async def desired(self, origin: str, have: int, wait_s: int) -> bytes | None:
        """The signed document as soon as its version is above ``have``; ``None`` when it was not for ``wait_s`` seconds.

        Raises JournalFenced, UnknownGateway.
        """
        end_ms = elapsed_ms() + 1000 * min(wait_s, MOST_WAIT_S)
        with self._store.listening(desired_topic(origin)) as news:
            while True:
                news.clear()
                async with self._store.transaction() as t:
                    journal, document = await t.find(Journal, origin), await t.find(Document, origin)
                if journal is None:
                    raise UnknownGateway(f"central knows no gateway {origin[:100]!r}")
                if journal.fenced:
                    raise JournalFenced(journal.fenced)
                if document is not None and document.version > have:
                    return document.content
                try:
                    await asyncio.wait_for(news.wait(), max(0, end_ms - elapsed_ms()) / 1000)
                except TimeoutError:
                    return None

    # Limits.

    @asynccontextmanager
    async def _admitted(self, origin: str) -> AsyncIterator[None]:
        """One batch of a journal at a time, and so many in all."""
        now_ms = elapsed_ms()
        if origin in self._under_way:
            raise Busy("another batch of this journal is under way", retry_after=1)
        if len(self._under_way) >= self._limits.batches:
            raise Busy("central takes as many batches as it can", retry_after=1)
        allowance = self._allowances.get(origin)
        pause_s = max(self._total.wait_s(now_ms), allowance.wait_s(now_ms) if allowance else 0)
        if pause_s:
            raise Busy("more records arrive than central is set up to take", retry_after=pause_s)
        self._under_way.add(origin)
        try:
            yield
        finally:
            self._under_way.discard(origin)

    def _spend(self, origin: str, batch: Batch, octets: int) -> None:
        now_ms = elapsed_ms()
        if origin not in self._allowances:
            self._allowances = {key: each for key, each in self._allowances.items() if not each.is_whole(now_ms)}
            self._allowances[origin] = self._limits.one(now_ms)
        if batch.records:
            self._last_ms = now_ms
        for each in (self._allowances[origin], self._total):
            each.spend(len(batch.records), octets, now_ms)

    # What is not success.

    async def _convict(self, t: Transaction, journal: Journal, verdict: Convict, message: bytes) -> None:
        """Fence the journal for good, and keep what proves that it had to be."""
        now_ms = self._clock.now_ms()
        digest = hashlib.sha256(verdict.evidence.encode() + message).digest()
        await t.put(replace(journal, fenced=verdict.reason, session="", nonce=""))
        await t.add(Evidence(digest, journal.origin, verdict.reason, verdict.evidence, message, now_ms))
        await open_alert(t, Alert(alarms.FENCED, journal.origin, "", verdict.reason, now_ms))
        _log.error("%s is fenced: %s", journal.origin, verdict.reason)

    async def _look_at_clock(self, t: Transaction, journal: Journal) -> None:
        """Sequence orders and time only informs, but a person should set the clock."""
        if abs(journal.offset) <= _CLOCK_MS:
            await close_alert(t, alarms.CLOCK, journal.origin, journal.seen)
            return
        text = f"its clock is {abs(journal.offset) // 1000} s {'ahead' if journal.offset > 0 else 'behind'}"
        await open_alert(t, Alert(alarms.CLOCK, journal.origin, "", text, journal.seen))

    def _refusal(self, journal: Journal, verdict: object) -> SyncRefusal:
        match verdict:
            case Greet(reason):
                return HelloNeeded(reason)
            case Resume(reason):
                return ResumeAt(reason, journal.size, journal.standing().root)
            case Convict(reason=reason) | IsFenced(reason):
                return JournalFenced(reason)
            case Refuse(reason):
                _log.warning("a message of %s is refused: %s", journal.origin, reason)
                return NotBelieved(reason)
        raise AssertionError(verdict)  # pragma: no cover


async def _locked(t: Transaction, origin: str) -> Journal:
    journal = await t.lock(origin)
    if journal is None:
        raise UnknownGateway(f"central knows no gateway {origin[:100]!r}")
    return journal


def _read_batch(packed: bytes) -> Batch:
    if len(packed) > MOST_OCTETS:
        raise MalformedRequest(f"a batch has at most {MOST_OCTETS} octets")
    return Batch.from_bytes(unpack(packed))


def _read_hello(journal: Journal, statement: bytes) -> Hello:
    try:
        hello = Hello.from_bytes(open_statement(HELLO, statement, journal.vkey))
    except (IntegrityError, MalformedRequest) as error:
        raise NotBelieved(str(error)) from error
    if not _INCARNATION.fullmatch(hello.incarnation):
        raise NotBelieved("an incarnation is lower-case hex")
    return hello


def _size_of(note: str) -> int:
    """Of a checkpoint that was judged."""
    return int(note.split("\n", 2)[1])


def _printable(text: str) -> str:
    return "".join(each for each in text[:_MOST_SOFTWARE] if each.isprintable())

"""The life of a certificate, from top to bottom. The only place where one is signed.

1. A request that is identical to one in the making waits for that one's answer.
2. A request that was answered within the rule's retry window gets the same certificate again, made from the records.
3. Policy decides; where it says so, a person decides.
4. Quota and token uses are reserved, so that nobody else can take the last one.
5. The TBSCertificate is built, once, and linted.
6. INTENT is durable: these very bytes, who asked, by which policy, which quota.
7. The signer signs those bytes and verifies its signature.
8. ISSUED is durable.
9. The certificate leaves.

Whoever asks may go away at any point: the work is a task of its own and ends as if somebody waited. If it cannot reach 8
after 6, the intent becomes VOID before the error leaves: its serial goes on the CRL, its quota is given back.
``docs/ISSUANCE.md`` has the table of what a crash between any two steps leaves behind.

What the requester did wrong is an outcome, ``Refused``, and journalled. What is our fault or state (a busy lane, an absent
token, a full disk, a doubtful clock) is raised as :class:`~gateway.errors.Unavailable`: the same request may succeed later.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from cryptography import x509

from gateway.authority.approvals import Approvals
from gateway.authority.generations import CaGeneration, Generations
from gateway.authority.inforce import PolicyInForce
from gateway.authority.lanes import Lanes
from gateway.authority.policy import ClockDoubt, Deny, LintLevel, NeedsApproval, Policy, ProfileRule, check_standing, decide
from gateway.authority.quota import Ledger, is_token_exhausted, profile_quota, token_quota
from gateway.authority.refusals import RefusalFilter
from gateway.authority.requests import EnrollmentRequest, Issued, Lane, Outcome, Refused, RequesterKind
from gateway.authority.status import RevocationStatus
from gateway.clock import Clock
from gateway.errors import (
    Fenced,
    Forbidden,
    IntegrityError,
    JournalFull,
    NotReady,
    RequestError,
    Unauthenticated,
    Unavailable,
)
from gateway.journal import records
from gateway.journal.certificates import certificate_of
from gateway.journal.records import Intent, Payload, Record, Void
from gateway.keys.signer import Priority
from gateway.pki.crl import Reason
from gateway.pki.keycheck import key_digest
from gateway.pki.lint import Level, lint_tbs
from gateway.pki.tbs import Publication, assemble, build_tbs, new_serial

_log = logging.getLogger(__name__)
_SERIAL_RANDOM_BYTES = 12
_REASON_LENGTH = 300
_CLOCK_RETRY_S = 60
#: A certificate revoked for one of these was replaced in order, so its key may ask again.
_HARMLESS = frozenset({Reason.SUPERSEDED, Reason.CESSATION_OF_OPERATION, Reason.AFFILIATION_CHANGED})


class IssuanceJournal(Protocol):
    """What is needed of the journal."""

    async def append(self, *payloads: Payload, urgent: bool = False) -> tuple[Record, ...]: ...

    async def find_issued(self, idempotency_key: bytes, not_before_ms: int) -> tuple[Record, Record] | None: ...


class RandomReserve:
    """Random bytes taken from the kernel many at a time: to ask for each serial number costs as much as to encode its plan."""

    def __init__(self, source: Callable[[int], bytes] = secrets.token_bytes, size: int = 64 * _SERIAL_RANDOM_BYTES) -> None:
        self._source, self._size = source, size
        self._left = b""

    def take(self, count: int) -> bytes:
        """``count`` bytes, each given once; at most the size of the reserve."""
        if len(self._left) < count:
            self._left = self._source(self._size)
        taken, self._left = self._left[:count], self._left[count:]
        return taken


@dataclass(slots=True, eq=False)
class _Making:
    """A certificate in the making: the place it takes, who waits for it."""

    lane: Lane | None  # None for the gateway's own
    waiting: list[asyncio.Future[Outcome]] = field(default_factory=list)
    task: asyncio.Task[None] | None = None


class Issuer:
    """Issues certificates. ``publication`` says where the status of a serial of a generation will be published."""

    def __init__(
        self,
        *,
        journal: IssuanceJournal,
        generations: Generations,
        status: RevocationStatus,
        policy: PolicyInForce,
        ledger: Ledger,
        approvals: Approvals,
        lanes: Lanes,
        clock: Clock,
        publication: Callable[[int, int], Publication],
        random: Callable[[int], bytes] | None = None,
    ) -> None:
        self._journal, self._generations, self._status = journal, generations, status
        self._policy, self._ledger, self._approvals = policy, ledger, approvals
        self._lanes, self._clock, self._publication, self._random = lanes, clock, publication, random or RandomReserve().take
        self._running: dict[bytes, _Making] = {}
        self._refusals = RefusalFilter()

    async def enroll(self, request: EnrollmentRequest, *, generation: int | None = None) -> Outcome:
        """One certificate for one request, also when it is asked several times, at once or one after the other.

        ``generation`` chooses a CA other than the active one and is for the gateway's own certificates. Raises Unavailable
        and its kind, and IntegrityError when the records of an earlier certificate contradict each other.
        """
        key = request.idempotency_key
        making = self._running.get(key)
        joins = making is not None
        if making is None:
            making = self._running[key] = _Making(self._enter(request))
            making.task = asyncio.create_task(self._make(making, request, key, generation))
        # A future for each caller: cheaper than shielding the task, and one that goes away cancels nobody else's.
        done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        making.waiting.append(done)
        outcome = await done
        return replace(outcome, repeated=True) if joins and isinstance(outcome, Issued) else outcome

    async def screen(self, request: EnrollmentRequest) -> Refused | None:
        """What speaks against ``request`` whatever key it will be for; asked before one is made. Raises Unavailable."""
        decision = decide(self._policy.current, request, now_ms=self._clock.now_ms(), key_follows=True)
        if isinstance(decision, Deny):
            return await self._refuse(request, _as_authentication(decision.error))
        await self._generation(None).signer.ready()
        return None

    @property
    def in_the_making(self) -> int:
        return len(self._running)

    async def finish(self) -> None:
        """Wait until everything begun has ended; for an orderly stop, after the listeners have closed."""
        while tasks := [making.task for making in self._running.values() if making.task and not making.task.done()]:
            await asyncio.wait(tasks)

    def _enter(self, request: EnrollmentRequest) -> Lane | None:
        if request.requester.kind is RequesterKind.GATEWAY:
            return None  # without its own certificates the gateway serves no lane at all
        self._lanes.enter(request.lane)
        return request.lane

    async def _make(self, making: _Making, request: EnrollmentRequest, key: bytes, generation: int | None) -> None:
        """The task: make the certificate, give the place back, tell whoever still waits."""
        outcome: Outcome | None = None
        failure: Exception | None = None
        try:
            outcome = await self._certificate(request, key, generation)
        except Exception as error:  # whatever it was, it belongs to those who wait; perhaps nobody does any more
            failure = error
            _log.warning("no certificate: %s: %s", type(error).__name__, error)
        finally:  # also when cancelled, at the end of the process
            del self._running[key]
            if making.lane is not None:
                self._lanes.leave(making.lane)
            for done in making.waiting:
                if done.done():
                    pass  # its caller has gone
                elif outcome is not None:
                    done.set_result(outcome)
                elif failure is not None:
                    done.set_exception(failure)
                else:
                    done.cancel()

    async def _certificate(self, request: EnrollmentRequest, key: bytes, generation: int | None) -> Outcome:
        policy = self._policy.current
        try:
            rule = policy.rule(request.profile)
            check_standing(policy, request.requester, request.csr.spki)
            return await self._issued_before(rule, request, key) or await self._issue(policy, request, key, generation)
        except RequestError as error:
            return await self._refuse(request, _as_authentication(error))

    async def _issued_before(self, rule: ProfileRule, request: EnrollmentRequest, key: bytes) -> Issued | None:
        """The certificate this very request was given, if that is recent and still good.

        Raises Forbidden where it was revoked for a reason that speaks against its holder.
        """
        now_ms = self._clock.now_ms()
        not_before_ms = now_ms - rule.retry_window_s * 1000
        found = await self._journal.find_issued(key, min(not_before_ms, request.since_ms or not_before_ms))
        if found is None:
            return None
        intent, issued = found[0].payload, found[1].payload
        if not isinstance(intent, Intent) or not isinstance(issued, records.Issued):
            raise IntegrityError(f"records {found[0].seq} and {found[1].seq} are no intent and its certificate")
        certificate = certificate_of(intent, issued)
        serial = int(issued.serial, 16)
        revocation = self._status.find(serial, intent.generation)
        if revocation is not None:
            if revocation.reason in _HARMLESS and not request.unit:
                return None
            raise Forbidden(f"the certificate given for this request, {issued.serial}, was revoked")
        if x509.load_der_x509_certificate(certificate).not_valid_after_utc.timestamp() * 1000 <= now_ms:
            return None
        chain = _chain(self._generations.get(intent.generation))
        return Issued(certificate, serial, chain, found[1].seq, repeated=True)

    async def _issue(self, policy: Policy, request: EnrollmentRequest, key: bytes, generation: int | None) -> Outcome:
        decision = decide(policy, request, now_ms=self._clock.now_ms())
        if isinstance(decision, Deny):
            raise decision.error
        if isinstance(decision, NeedsApproval):
            pending = await self._approvals.consult(request, key, decision.rule.approval_retry_s)
            if pending is not None:
                return pending
        time_uncertain = self._is_time_uncertain(policy, request)
        ca = self._generation(generation)
        # A plan that cannot be signed would end as a void serial on the CRL, one for each time the device asks again.
        await ca.signer.ready()
        quota = _quota_names(request)
        self._ledger.reserve(quota)
        try:
            tbs, serial = self._build(decision.rule, ca, request)
            requester = request.requester
            intent = Intent(
                serial=f"{serial:x}",
                tbs=tbs,
                algorithm=ca.ca.algorithm.name,
                generation=ca.number,
                profile=request.profile,
                protocol=request.protocol,
                operation=request.operation.value,
                requester=requester.identity,
                csr_digest=request.csr_digest,
                spki_digest=key_digest(request.csr.spki),
                policy_version=policy.version,
                idempotency_key=key,
                quota=quota,
                leniencies=decision.leniencies,
                time_uncertain=time_uncertain,
                station=requester.identity if requester.kind is RequesterKind.STATION else "",
                predecessor=_predecessor(request),
            )
            (planned,) = await self._journal.append(intent)
        except BaseException:  # also when cancelled: what was not spent is given back
            self._ledger.release(quota)
            raise
        self._ledger.commit(quota)
        if intent.leniencies:
            _log.info("serial %s for %s: lenient about %s", intent.serial, intent.requester, ", ".join(intent.leniencies))
        signature = await self._sign(ca, planned, intent, _priority(request))
        return await self._conclude(ca, planned, intent, signature)

    def _build(self, rule: ProfileRule, ca: CaGeneration, request: EnrollmentRequest) -> tuple[bytes, int]:
        """The exact bytes to be signed, and their serial number. Raises RequestError where they would break a rule."""
        now_ms = self._clock.now_ms()
        serial = new_serial(now_ms, self._random(_SERIAL_RANDOM_BYTES))
        publication = self._publication(serial, ca.number)
        tbs = build_tbs(
            profile=rule.profile, ca=ca.ca, request=request.csr, serial=serial, now_ms=now_ms, publication=publication
        )
        if rule.lint is not LintLevel.OFF:
            findings = [
                f"{finding.rule}: {finding.text}"
                for finding in lint_tbs(tbs, rule.profile, ca=ca.ca)
                if finding.level is Level.ERROR or rule.lint is LintLevel.WARNING
            ]
            if findings:
                raise Forbidden(f"the certificate would break a rule: {'; '.join(findings)}")
        return tbs, serial

    async def _sign(self, ca: CaGeneration, planned: Record, intent: Intent, priority: Priority) -> bytes:
        try:
            return await ca.signer.sign(intent.tbs, priority=priority)
        except Exception as error:  # whatever it was, the intent must not stay open behind it
            await self._void(planned, intent, error)
            raise

    async def _conclude(self, ca: CaGeneration, planned: Record, intent: Intent, signature: bytes) -> Issued:
        """Only a durable ISSUED lets the certificate leave. Urgent: what was begun may use the reserve of a full disk."""
        certificate = assemble(intent.tbs, ca.ca.algorithm, signature)
        issued = records.Issued(
            intent=planned.seq,
            serial=intent.serial,
            signature=signature,
            certificate_digest=hashlib.sha256(certificate).digest(),
            idempotency_key=intent.idempotency_key,
        )
        try:
            (record,) = await self._journal.append(issued, urgent=True)
        except (JournalFull, Fenced) as error:  # surely not written. After JournalFailed nobody knows: the next start finds out
            await self._void(planned, intent, error)
            raise
        return Issued(certificate, int(intent.serial, 16), _chain(ca), record.seq)

    async def _void(self, planned: Record, intent: Intent, cause: Exception) -> None:
        reason = f"{type(cause).__name__}: {cause}"[:_REASON_LENGTH]
        try:
            void = Void(intent=planned.seq, serial=intent.serial, reason=reason, quota=intent.quota)
            (record,) = await self._journal.append(void, urgent=True)
        except Unavailable as error:
            # The intent stays open and its quota spent, both on the safe side; the next start makes it void.
            _log.error("intent %d could not be voided: %s", planned.seq, error)
            return
        self._status.apply(record, intent.generation)
        self._ledger.refund(intent.quota)

    async def _refuse(self, request: EnrollmentRequest, error: RequestError) -> Refused:
        refused = records.Refused(
            profile=request.profile[:80],
            protocol=request.protocol,
            requester=request.requester.identity,
            csr_digest=request.csr_digest,
            error=type(error).__name__,
            reason=str(error)[:_REASON_LENGTH],
        )
        if self._refusals.is_worth_recording(refused, self._clock.now_ms()):
            try:
                await self._journal.append(refused)
            except JournalFull as full:  # a no stays a no
                _log.warning("a refusal of %s was not recorded: %s", refused.requester, full)
        return Refused(error)

    def _is_time_uncertain(self, policy: Policy, request: EnrollmentRequest) -> bool:
        behind_ms = self._clock.behind_ms()
        if behind_ms <= policy.clock_tolerance_ms:
            return False
        if policy.clock_doubt is ClockDoubt.STOP and request.requester.kind is not RequesterKind.GATEWAY:
            raise NotReady(
                f"the gateway's clock is {behind_ms // 1000} s behind its own journal; set it right", retry_after=_CLOCK_RETRY_S
            )
        return True

    def _generation(self, number: int | None) -> CaGeneration:
        generation = self._generations.active if number is None else self._generations.get(number)
        if generation is None:
            raise NotReady(f"there is no CA generation {number}")
        return generation


def _as_authentication(error: RequestError) -> RequestError:
    """A token without uses left is a credential that is no longer valid, not a quota that central could raise."""
    if is_token_exhausted(error):
        return Unauthenticated("the token was used up")
    return error


def _quota_names(request: EnrollmentRequest) -> tuple[str, ...]:
    if request.requester.kind is RequesterKind.GATEWAY:
        return ()
    token = request.requester.token
    return (profile_quota(request.profile), *((token_quota(token.token_id),) if token else ()))


def _priority(request: EnrollmentRequest) -> Priority:
    return Priority.STATUS if request.requester.kind is RequesterKind.GATEWAY else Priority(request.lane)


def _chain(generation: CaGeneration | None) -> tuple[bytes, ...]:
    return (generation.certificate, *generation.chain) if generation else ()


def _predecessor(request: EnrollmentRequest) -> str:
    """The certificate of ours that its holder asked with for himself: where its key was stolen, so was this certificate."""
    requester = request.requester
    holder = requester.holder
    if holder is None or not holder.profile:
        return ""
    renews = requester.kind is RequesterKind.STATION and holder.profile == request.profile
    return f"{holder.serial:x}" if renews or requester.kind is RequesterKind.OWN else ""

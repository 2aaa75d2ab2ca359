"""The life of a certificate: nothing leaves before its record, one request gives one certificate, failures are undone."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509

from gateway.authority import issue
from gateway.authority.policy import ClockDoubt
from gateway.authority.quota import profile_quota, token_quota
from gateway.authority.requests import Holder, Issued, Lane, Outcome, Pending, Refused, Requester, RequesterKind
from gateway.errors import (
    Busy,
    Fenced,
    Forbidden,
    GatewayError,
    IntegrityError,
    JournalFailed,
    JournalFull,
    MalformedRequest,
    NotFound,
    NotReady,
    QuotaExhausted,
    SignerUnavailable,
    Unauthenticated,
    Unavailable,
)
from gateway.journal import records
from gateway.journal.certificates import certificate_of
from gateway.journal.records import Intent, Payload, Record, Void
from gateway.keys.signer import Priority
from gateway.pki.crl import Reason
from gateway.pki.lint import Finding, Level
from gateway.pki.tbs import tbs_of
from tests.support.authority import (
    DAY_MS,
    GATEWAY,
    SteppedClock,
    TestCa,
    activation,
    authority_in,
    device_csr,
    enrollment,
    policy_of,
)


def issued(outcome: Outcome) -> Issued:
    assert isinstance(outcome, Issued), outcome
    return outcome


def refusal(outcome: Outcome) -> GatewayError:
    assert isinstance(outcome, Refused), outcome
    return outcome.error


async def test_a_certificate_is_what_its_intent_planned(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        outcome = issued(await world.authority.enroll(enrollment()))
        (intent,) = await world.recorded(Intent)
        (record,) = await world.recorded(records.Issued)
        assert isinstance(intent, Intent)
        assert isinstance(record, records.Issued)
        assert tbs_of(outcome.certificate) == intent.tbs
        assert certificate_of(intent, record) == outcome.certificate
        assert f"{outcome.serial:x}" == intent.serial == record.serial
        assert not outcome.repeated
        x509.load_der_x509_certificate(outcome.certificate).verify_directly_issued_by(
            x509.load_der_x509_certificate(outcome.chain[0])
        )
        assert outcome.chain[-1] == world.root.der


async def test_the_intent_says_who_asked_for_what_by_which_policy(tmp_path: Path) -> None:
    async with authority_in(tmp_path, policy=policy_of(version=7)) as world:
        csr = device_csr()
        request = enrollment(csr, lane=Lane.LINE)
        await world.authority.enroll(request)
        (intent,) = world.of_kind(Intent)
        assert isinstance(intent, Intent)
        assert (intent.profile, intent.protocol, intent.operation) == ("ldevid", "est", "enroll")
        assert (intent.requester, intent.policy_version, intent.generation) == ("operator:test", 7, 1)
        assert intent.idempotency_key == request.idempotency_key
        assert intent.csr_digest == request.csr_digest
        assert intent.quota == ("profile:ldevid",)
        assert not intent.time_uncertain
        assert world.signer.priorities == [Priority.LINE]
        assert csr.leniencies == intent.leniencies == ()


async def test_exactly_one_signer_operation_per_certificate(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        for index in range(5):
            issued(await world.authority.enroll(enrollment(device_csr(key=index))))
        await world.authority.enroll(enrollment(device_csr(key=0)))
        assert world.signer.signatures == 5


async def test_64_identical_requests_at_once_get_identical_bytes_and_one_signature(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        outcomes = await asyncio.gather(*(world.authority.enroll(enrollment(device_csr())) for _ in range(64)))
        assert len({issued(outcome).certificate for outcome in outcomes}) == 1
        assert [issued(outcome).repeated for outcome in outcomes].count(False) == 1
        assert world.signer.signatures == 1
        assert len(await world.recorded(Intent)) == 1


async def test_64_different_requests_at_once_get_64_certificates(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        outcomes = await asyncio.gather(*(world.authority.enroll(enrollment(device_csr(key=index))) for index in range(64)))
        assert len({issued(outcome).serial for outcome in outcomes}) == 64
        assert world.authority.issuer.in_the_making == 0


async def test_a_retry_gets_the_same_certificate(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        first = issued(await world.authority.enroll(enrollment(device_csr())))
        again = issued(await world.authority.enroll(enrollment(device_csr())))
        assert replace(first, repeated=True) == again


async def test_a_retry_after_a_restart_gets_the_same_certificate(tmp_path: Path) -> None:
    root, clock = TestCa.make("Root"), SteppedClock()
    async with authority_in(tmp_path, root=root, clock=clock) as world:
        first = issued(await world.authority.enroll(enrollment()))
    async with authority_in(tmp_path, root=root, clock=clock) as world:
        again = issued(await world.authority.enroll(enrollment()))
        assert (again.certificate, again.repeated) == (first.certificate, True)
        assert world.signer.signatures == 0


async def test_a_request_after_the_retry_window_gets_a_new_certificate(tmp_path: Path) -> None:
    async with authority_in(tmp_path, tables={"ldevid": {"retry_window": "1h"}}) as world:
        first = issued(await world.authority.enroll(enrollment()))
        world.clock.advance(3_600_001)
        assert issued(await world.authority.enroll(enrollment())).serial != first.serial


async def test_an_expired_certificate_is_not_given_again(tmp_path: Path) -> None:
    async with authority_in(tmp_path, tables={"ldevid": {"validity": "1h"}}) as world:
        first = issued(await world.authority.enroll(enrollment()))
        world.clock.advance(3_600_000)
        assert issued(await world.authority.enroll(enrollment())).serial != first.serial


@pytest.mark.parametrize(("reason", "gets_another"), [(Reason.SUPERSEDED, True), (Reason.KEY_COMPROMISE, False)])
async def test_a_retry_never_gets_a_revoked_certificate(tmp_path: Path, reason: Reason, gets_another: bool) -> None:
    async with authority_in(tmp_path) as world:
        first = issued(await world.authority.enroll(enrollment()))
        await world.authority.revoker.revoke(first.serial, reason, "test")
        outcome = await world.authority.enroll(enrollment())
        if gets_another:
            assert issued(outcome).serial != first.serial
        else:
            assert isinstance(refusal(outcome), Forbidden)


async def test_another_name_for_the_same_key_is_another_request(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        first = issued(await world.authority.enroll(enrollment(device_csr("CN=a,serialNumber=1"))))
        second = issued(await world.authority.enroll(enrollment(device_csr("CN=b,serialNumber=1"))))
        assert first.serial != second.serial


# Nothing without a record.


@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("persisted", [False, True], ids=["lost", "persisted"])
async def test_no_certificate_leaves_when_an_append_fails(tmp_path: Path, nth: int, persisted: bool) -> None:
    """The n-th append of an issue fails for good: 1 is INTENT, 2 is ISSUED."""
    root, clock = TestCa.make("Root"), SteppedClock()
    async with authority_in(tmp_path, root=root, clock=clock) as world:
        world.journal.fail_append(nth, JournalFailed("injected"), persisted=persisted, once=False)
        with pytest.raises(JournalFailed):
            await world.authority.enroll(enrollment())
        assert world.signer.signatures == (0 if nth == 1 else 1)
    async with authority_in(tmp_path, root=root, clock=clock) as world:
        assert world.journal.head.open_intents == ()
        outcome = issued(await world.authority.enroll(enrollment()))
        survived = nth == 2 and persisted
        assert outcome.repeated is survived
        assert len(await world.recorded(records.Issued)) == 1
        voids = await world.recorded(Void)
        assert len(voids) == (0 if survived or (nth, persisted) == (1, False) else 1)
        assert world.authority.ledger.spent(profile_quota("ldevid")) == 1


async def test_the_signer_is_asked_only_after_the_intent_is_durable(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        world.signer.gate = asyncio.Event()
        task = asyncio.create_task(world.authority.enroll(enrollment()))
        await world.signer.reached.wait()
        assert len(world.journal.head.open_intents) == 1
        world.signer.gate.set()
        issued(await task)
        assert world.journal.head.open_intents == ()


@pytest.mark.parametrize(
    "failure",
    [SignerUnavailable("unplugged"), Busy("too many"), RuntimeError("a bug"), TimeoutError()],
    ids=lambda failure: type(failure).__name__,
)
async def test_a_signer_failure_voids_the_intent_and_gives_everything_back(tmp_path: Path, failure: Exception) -> None:
    async with authority_in(tmp_path, tables={"ldevid": {"quota": 1}}) as world:
        world.signer.failure = failure
        with pytest.raises(type(failure)):
            await world.authority.enroll(enrollment())
        (void,) = await world.recorded(Void)
        assert isinstance(void, Void)
        assert world.journal.head.open_intents == ()
        assert world.authority.status.find(int(void.serial, 16), 1) is not None
        assert world.authority.ledger.remaining(profile_quota("ldevid")) == 1
        world.signer.failure = None
        assert f"{issued(await world.authority.enroll(enrollment())).serial:x}" != void.serial
        assert await world.recorded(Void) == [void]


async def test_nothing_is_planned_while_the_signer_is_away(tmp_path: Path) -> None:
    async with authority_in(tmp_path, tables={"ldevid": {"quota": 1}}) as world:
        world.signer.absence = SignerUnavailable("unplugged")
        size = world.journal.head.size
        for _ in range(3):
            with pytest.raises(SignerUnavailable):
                await world.authority.enroll(enrollment())
        assert world.journal.head.size == size
        world.signer.absence = None
        issued(await world.authority.enroll(enrollment()))


@pytest.mark.parametrize("error", [JournalFull("full"), Fenced("stop")], ids=["full", "fenced"])
async def test_an_issued_that_was_not_accepted_becomes_void(tmp_path: Path, error: Unavailable) -> None:
    async with authority_in(tmp_path) as world:
        world.journal.fail_append(2, error)
        with pytest.raises(type(error)):
            await world.authority.enroll(enrollment())
        assert len(await world.recorded(Void)) == 1
        assert await world.recorded(records.Issued) == []
        assert world.authority.ledger.spent(profile_quota("ldevid")) == 0


async def test_an_intent_that_cannot_even_be_voided_keeps_its_quota(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        world.signer.failure = SignerUnavailable("unplugged")
        world.journal.fail_append(2, JournalFull("full"))
        with pytest.raises(SignerUnavailable):
            await world.authority.enroll(enrollment())
        assert len(world.journal.head.open_intents) == 1
        assert world.authority.ledger.spent(profile_quota("ldevid")) == 1


async def test_a_full_disk_stops_issuing_before_the_signer(tmp_path: Path) -> None:
    async with authority_in(tmp_path, tables={"ldevid": {"quota": 1}}) as world:
        world.journal.fail_append(1, JournalFull("full"))
        with pytest.raises(JournalFull):
            await world.authority.enroll(enrollment())
        assert world.signer.signatures == 0
        issued(await world.authority.enroll(enrollment()))


async def test_what_was_begun_may_use_the_reserve_of_a_full_disk(tmp_path: Path) -> None:
    """A plan is refused there; the certificate of a plan, and the void of one, are not."""
    async with authority_in(tmp_path) as world:
        append, urgencies = world.journal.append, list[tuple[type[Payload], bool]]()

        async def watched(*payloads: Payload, urgent: bool = False) -> tuple[Record, ...]:
            urgencies.extend((type(payload), urgent) for payload in payloads)
            return await append(*payloads, urgent=urgent)

        world.journal.append = watched  # type: ignore[method-assign]
        issued(await world.authority.enroll(enrollment()))
        world.signer.failure = SignerUnavailable("unplugged")
        with pytest.raises(SignerUnavailable):
            await world.authority.enroll(enrollment(device_csr(key=1)))
        assert urgencies == [(Intent, False), (records.Issued, True), (Intent, False), (Void, True)]


async def test_an_orderly_stop_waits_for_what_was_begun(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        world.signer.gate = asyncio.Event()
        tasks = [asyncio.create_task(world.authority.enroll(enrollment(device_csr(key=key)))) for key in range(2)]
        await world.signer.reached.wait()
        stopping = asyncio.create_task(world.authority.issuer.finish())
        await asyncio.sleep(0)
        assert (stopping.done(), world.authority.issuer.in_the_making) == (False, 2)
        world.signer.gate.set()
        await stopping
        assert world.authority.issuer.in_the_making == 0
        for task in tasks:
            issued(await task)


# Who goes away does not matter.


async def test_a_client_that_goes_away_does_not_stop_the_certificate(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        world.signer.gate = asyncio.Event()
        task = asyncio.create_task(world.authority.enroll(enrollment()))
        await world.signer.reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        world.signer.gate.set()
        await world.authority.issuer.finish()
        assert issued(await world.authority.enroll(enrollment())).repeated
        assert world.signer.signatures == 1
        assert await world.recorded(Void) == []


async def test_one_clients_disconnect_never_cancels_the_others_certificate(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        world.signer.gate = asyncio.Event()
        first = asyncio.create_task(world.authority.enroll(enrollment()))
        await world.signer.reached.wait()
        second = asyncio.create_task(world.authority.enroll(enrollment()))
        await asyncio.sleep(0)
        first.cancel()
        world.signer.gate.set()
        assert issued(await second).repeated
        assert first.cancelled()


async def test_a_failure_that_nobody_waits_for_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with authority_in(tmp_path) as world:
        world.signer.gate, world.signer.failure = asyncio.Event(), SignerUnavailable("unplugged")
        task = asyncio.create_task(world.authority.enroll(enrollment()))
        await world.signer.reached.wait()
        task.cancel()
        world.signer.gate.set()
        await world.authority.issuer.finish()
    assert "unplugged" in caplog.text


# Quota and tokens.


async def test_quota_is_never_exceeded_by_64_at_once(tmp_path: Path) -> None:
    async with authority_in(tmp_path, tables={"ldevid": {"quota": 10}}) as world:
        outcomes = await asyncio.gather(*(world.authority.enroll(enrollment(device_csr(key=index))) for index in range(64)))
        assert sum(isinstance(outcome, Issued) for outcome in outcomes) == 10
        assert all(isinstance(outcome.error, QuotaExhausted) for outcome in outcomes if isinstance(outcome, Refused))
        assert len(await world.recorded(Intent)) == 10


async def test_quota_outlives_a_restart(tmp_path: Path) -> None:
    root, clock, tables = TestCa.make("Root"), SteppedClock(), {"ldevid": {"quota": 2}}
    async with authority_in(tmp_path, root=root, clock=clock, tables=tables) as world:
        issued(await world.authority.enroll(enrollment(device_csr(key=0))))
        issued(await world.authority.enroll(enrollment(device_csr(key=1))))
    async with authority_in(tmp_path, root=root, clock=clock, tables=tables) as world:
        assert isinstance(refusal(await world.authority.enroll(enrollment(device_csr(key=2)))), QuotaExhausted)


async def test_a_spent_token_gets_its_certificate_again_and_no_other(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        made = await world.authority.tokens.create("ldevid", operator="test", validity_s=60)
        fresh = await world.authority.authenticator.password(made.token_id, made.secret)
        first = issued(await world.authority.enroll(enrollment(requester=fresh)))
        spent = await world.authority.authenticator.password(made.token_id, made.secret)
        assert spent.token is not None
        assert spent.token.spent
        assert issued(await world.authority.enroll(enrollment(requester=spent))).certificate == first.certificate
        other = refusal(await world.authority.enroll(enrollment(device_csr(key=1), requester=spent)))
        assert isinstance(other, Unauthenticated)


async def test_two_keys_racing_for_the_last_use_of_a_token_get_one_certificate(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        requester = await world.token()
        outcomes = await asyncio.gather(
            *(world.authority.enroll(enrollment(device_csr(key=index), requester=requester)) for index in range(8))
        )
        assert sum(isinstance(outcome, Issued) for outcome in outcomes) == 1
        assert all(isinstance(outcome.error, Unauthenticated) for outcome in outcomes if isinstance(outcome, Refused))


async def test_a_signer_failure_gives_the_tokens_use_back(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        requester = await world.token()
        world.signer.failure = SignerUnavailable("unplugged")
        with pytest.raises(SignerUnavailable):
            await world.authority.enroll(enrollment(requester=requester))
        world.signer.failure = None
        issued(await world.authority.enroll(enrollment(requester=requester)))
        assert requester.token is not None
        assert world.authority.ledger.remaining(token_quota(requester.token.token_id)) == 0


async def test_the_gateways_own_certificates_spend_no_quota_and_go_first(tmp_path: Path) -> None:
    async with authority_in(tmp_path, tables={"tls-server": {"quota": 0}}) as world:
        csr = device_csr("CN=gateway", ["DNS:gateway.test"])
        issued(await world.authority.enroll(enrollment(csr, profile="tls-server", requester=GATEWAY)))
        assert world.signer.priorities == [Priority.STATUS]
        (intent,) = world.of_kind(Intent)
        assert isinstance(intent, Intent)
        assert intent.quota == ()


# Refusals.


async def test_a_refusal_is_journalled_once(tmp_path: Path) -> None:
    async with authority_in(tmp_path, tables={"ldevid": {"requesters": ["idevid"]}}) as world:
        requester = await world.token()
        request = enrollment(requester=requester)
        for _ in range(20):
            assert isinstance(refusal(await world.authority.enroll(request)), Forbidden)
        (refused,) = await world.recorded(records.Refused)
        assert isinstance(refused, records.Refused)
        assert (refused.error, refused.requester) == ("Forbidden", requester.identity)
        world.clock.advance(3_600_000)
        await world.authority.enroll(request)
        assert len(await world.recorded(records.Refused)) == 2


async def test_a_requester_with_ever_new_keys_cannot_fill_the_disk_with_refusals(tmp_path: Path) -> None:
    async with authority_in(tmp_path, tables={"ldevid": {"requesters": ["idevid"]}}) as world:
        requester = await world.token()
        for index in range(40):
            await world.authority.enroll(enrollment(device_csr(key=index), requester=requester))
        assert len(await world.recorded(records.Refused)) == 32


async def test_a_refusal_stays_a_refusal_on_a_full_disk(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        world.journal.fail_append(1, JournalFull("full"))
        assert isinstance(refusal(await world.authority.enroll(enrollment(profile="no-such"))), NotFound)


async def test_a_request_that_the_profile_cannot_serve_is_refused_and_costs_nothing(tmp_path: Path) -> None:
    async with authority_in(tmp_path, tables={"tls-server": {"quota": 1}}) as world:
        outcome = await world.authority.enroll(enrollment(device_csr("CN=x", ["email:a@b.example"]), profile="tls-server"))
        assert isinstance(refusal(outcome), MalformedRequest | Forbidden)
        assert world.authority.ledger.remaining(profile_quota("tls-server")) == 1
        assert world.signer.signatures == 0


# Our own state.


async def test_without_a_ca_the_answer_is_to_come_back(tmp_path: Path) -> None:
    async with authority_in(tmp_path, activate=False) as world:
        with pytest.raises(NotReady):
            await world.authority.enroll(enrollment())
        await world.journal.append(activation(world.root, world.keys))
        await world.authority.refresh_generations()
        issued(await world.authority.enroll(enrollment()))


async def test_an_older_generation_signs_only_when_asked_for_by_number(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        await world.journal.append(activation(world.root, world.keys, 2))
        await world.authority.refresh_generations()
        newest = issued(await world.authority.enroll(enrollment()))
        older = issued(await world.authority.issuer.enroll(enrollment(device_csr(key=1), requester=GATEWAY), generation=1))
        assert newest.chain[0] == world.authority.generations.active.certificate
        assert older.chain[0] != newest.chain[0]
        with pytest.raises(NotReady):
            await world.authority.issuer.enroll(enrollment(device_csr(key=2), requester=GATEWAY), generation=9)


async def test_a_doubtful_clock_is_recorded(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        world.clock.now_ms()
        world.clock.advance(-400_000)
        issued(await world.authority.enroll(enrollment()))
        (intent,) = world.of_kind(Intent)
        assert isinstance(intent, Intent)
        assert intent.time_uncertain


async def test_a_doubtful_clock_stops_issuing_where_policy_says_so(tmp_path: Path) -> None:
    async with authority_in(tmp_path, policy=policy_of(clock_doubt=ClockDoubt.STOP)) as world:
        world.clock.now_ms()
        world.clock.advance(-400_000)
        with pytest.raises(NotReady, match="clock"):
            await world.authority.enroll(enrollment())
        issued(await world.authority.enroll(enrollment(requester=GATEWAY)))


async def test_a_small_step_back_of_the_clock_is_normal(tmp_path: Path) -> None:
    async with authority_in(tmp_path, policy=policy_of(clock_doubt=ClockDoubt.STOP)) as world:
        world.clock.now_ms()
        world.clock.advance(-300_000)
        issued(await world.authority.enroll(enrollment()))


async def test_a_full_lane_is_busy_and_the_line_goes_on(tmp_path: Path) -> None:
    def narrow(options):  # type: ignore[no-untyped-def]
        return replace(options, lanes={Lane.LINE: 1, Lane.RENEWAL: 1, Lane.BULK: 1})

    async with authority_in(tmp_path, adjust=narrow) as world:
        world.signer.gate = asyncio.Event()
        bulk = asyncio.create_task(world.authority.enroll(enrollment()))
        await world.signer.reached.wait()
        with pytest.raises(Busy):
            await world.authority.enroll(enrollment(device_csr(key=1)))
        joined = asyncio.create_task(world.authority.enroll(enrollment()))
        line = asyncio.create_task(world.authority.enroll(enrollment(device_csr(key=2), lane=Lane.LINE)))
        world.signer.gate.set()
        for task in (bulk, joined, line):
            issued(await task)
        issued(await world.authority.enroll(enrollment(device_csr(key=1))))


# Approval.


async def test_a_request_that_needs_approval_waits_and_then_passes(tmp_path: Path) -> None:
    async with authority_in(tmp_path, tables={"ldevid": {"approval": True, "approval_retry": "5s"}}) as world:
        requester = await world.token(uses=5)
        request = enrollment(requester=requester)
        pending = await world.authority.enroll(request)
        assert pending == Pending(request.idempotency_key.hex()[:16], 5)
        assert await world.authority.enroll(request) == pending
        assert len(await world.recorded(records.Waiting)) == 1
        await world.authority.approvals.decide(pending.request_id, approved=True, operator="anna")
        first = issued(await world.authority.enroll(request))
        assert issued(await world.authority.enroll(request)).serial == first.serial
        world.clock.advance(DAY_MS + 1)
        # The approval was for one certificate; the token has expired, but its grant in hand still speaks for it here.
        assert isinstance(await world.authority.enroll(request), Pending)


async def test_a_denied_request_is_refused_with_the_reason(tmp_path: Path) -> None:
    async with authority_in(tmp_path, tables={"ldevid": {"approval": True}}) as world:
        request = enrollment(requester=await world.token())
        pending = await world.authority.enroll(request)
        assert isinstance(pending, Pending)
        await world.authority.approvals.decide(pending.request_id, approved=False, operator="anna", reason="unknown device")
        assert "unknown device" in str(refusal(await world.authority.enroll(request)))


# The records.


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: replace(record, signature=record.signature[:-1] + bytes([record.signature[-1] ^ 1])),
        lambda record: replace(record, certificate_digest=bytes(32)),
    ],
    ids=["signature", "digest"],
)
async def test_records_that_do_not_fit_each_other_make_no_certificate(
    tmp_path: Path, spoil: Callable[[records.Issued], records.Issued]
) -> None:
    async with authority_in(tmp_path) as world:
        await world.authority.enroll(enrollment())
        (intent,) = world.of_kind(Intent)
        (record,) = world.of_kind(records.Issued)
        assert isinstance(intent, Intent)
        assert isinstance(record, records.Issued)
        with pytest.raises(IntegrityError):
            certificate_of(intent, spoil(record))
        with pytest.raises(IntegrityError):
            certificate_of(replace(intent, algorithm="ROT13"), record)


@pytest.mark.parametrize("order", [(0, 0), (1, 1), (1, 0)])
async def test_what_is_found_for_a_retry_is_an_intent_and_its_certificate(tmp_path: Path, order: tuple[int, int]) -> None:
    async with authority_in(tmp_path) as world:
        issued(await world.authority.enroll(enrollment()))
        find_issued = world.journal.inner.find_issued

        async def mixed_up(key: bytes, not_before_ms: int) -> tuple[Record, Record] | None:
            found = await find_issued(key, not_before_ms)
            assert found is not None
            return found[order[0]], found[order[1]]

        world.journal.find_issued = mixed_up  # type: ignore[attr-defined]
        with pytest.raises(IntegrityError, match="are no intent and its certificate"):
            await world.authority.enroll(enrollment())


async def test_a_retry_is_no_way_around_a_blocked_key_or_a_maker_that_objects(tmp_path: Path) -> None:
    """The certificate that was given once is not given again, whatever the records say."""
    async with authority_in(tmp_path) as world:
        request = enrollment()
        issued(await world.authority.enroll(request))
        objected = replace(request, requester=replace(request.requester, objection="revoked by its maker"))
        assert "revoked by its maker" in str(refusal(await world.authority.enroll(objected)))
        world.authority.policy.block(frozenset({hashlib.sha256(request.csr.spki).digest()}))
        assert "blocked" in str(refusal(await world.authority.enroll(request)))


async def test_who_waits_for_a_certificate_is_told_when_the_process_ends(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        world.signer.gate = asyncio.Event()
        waiting = asyncio.create_task(world.authority.enroll(enrollment()))
        await world.signer.reached.wait()
        (making,) = world.authority.issuer._running.values()
        assert making.task is not None
        making.task.cancel()
        async with asyncio.timeout(60):
            await asyncio.wait([waiting])
        assert waiting.cancelled()


async def test_a_leniency_that_acted_stands_in_the_intent_and_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with authority_in(tmp_path) as world:
        issued(await world.authority.enroll(enrollment(replace(device_csr(), leniencies=("csr-ber",)))))
        (intent,) = world.of_kind(Intent)
        assert isinstance(intent, Intent)
        assert intent.leniencies == ("csr-ber",)
    assert "lenient about csr-ber" in caplog.text


async def test_a_certificate_that_would_break_a_rule_is_not_planned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    findings = (Finding(Level.ERROR, "injected", "a fault in the builder"), Finding(Level.WARNING, "odd", "unusual"))
    monkeypatch.setattr(issue, "lint_tbs", lambda *_, **__: findings)
    tables = {"tls-client": {"lint": "off"}, "ldevid": {"lint": "warning"}}
    async with authority_in(tmp_path, tables=tables) as world:
        assert "injected" in str(refusal(await world.authority.enroll(enrollment())))
        assert await world.recorded(Intent) == []
        assert world.authority.ledger.spent(profile_quota("ldevid")) == 0
        issued(await world.authority.enroll(enrollment(device_csr("CN=a"), profile="tls-client")))


@pytest.mark.parametrize(("lint", "good"), [("error", True), ("warning", False)])
async def test_warnings_stop_a_certificate_only_where_the_rule_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lint: str, good: bool
) -> None:
    monkeypatch.setattr(issue, "lint_tbs", lambda *_, **__: (Finding(Level.WARNING, "odd", "unusual"),))
    async with authority_in(tmp_path, tables={"ldevid": {"lint": lint}}) as world:
        assert isinstance(await world.authority.enroll(enrollment()), Issued if good else Refused)


async def test_what_is_screened_out_is_recorded_and_makes_nothing(tmp_path: Path) -> None:
    async with authority_in(tmp_path, tables={"ldevid": {"requesters": ["token"]}}) as world:
        refused = await world.authority.screen(enrollment())
        assert refused is not None
        assert isinstance(refused.error, Forbidden)
        assert [type(payload).__name__ for payload in world.journal.appended][-1] == "Refused"
        assert await world.authority.screen(enrollment(requester=await world.token())) is None
        world.signer.absence = SignerUnavailable("away")
        with pytest.raises(SignerUnavailable):
            await world.authority.screen(enrollment(requester=await world.token()))


def test_reserved_random_bytes_are_those_of_the_kernel_each_given_once() -> None:
    asked: list[bytes] = []

    def kernel(count: int) -> bytes:
        asked.append(bytes([len(asked)]) * (count - 1) + b"|")
        return asked[-1]

    reserve = issue.RandomReserve(kernel, 36)
    taken = [reserve.take(12) for _ in range(6)]
    assert b"".join(taken) == b"".join(asked)
    assert [len(each) for each in asked] == [36, 36]


async def test_every_serial_number_has_random_bytes_of_its_own(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        outcomes = await asyncio.gather(
            *(world.authority.enroll(enrollment(device_csr(f"CN=plc,serialNumber=SN-{number}"))) for number in range(100))
        )
        random = {issued(outcome).serial & (1 << 96) - 1 for outcome in outcomes}
        assert len(random) == 100


@pytest.mark.parametrize(
    ("kind", "held", "predecessor"),
    [
        (RequesterKind.OWN, "ldevid", "ab12"),
        (RequesterKind.OWN, "tls-client", "ab12"),
        (RequesterKind.STATION, "ldevid", "ab12"),  # a station that renews its own certificate
        (RequesterKind.STATION, "station", ""),  # one that asks for a device
        (RequesterKind.IDEVID, "", ""),  # not a certificate of ours
        (RequesterKind.OPERATOR, None, ""),
    ],
)
def test_a_renewal_names_the_certificate_it_was_asked_with(kind: RequesterKind, held: str | None, predecessor: str) -> None:
    """Where that one turns out to have been in the wrong hands, so is what came of it."""
    holder = None if held is None else Holder(b"", frozenset(), None, b"", 0, 0xAB12, held)
    request = enrollment(profile="ldevid", requester=Requester(kind, "own:ab12", holder=holder))
    assert issue._predecessor(request) == predecessor

"""The parts work together: what one of them does, the others know."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509 import ocsp

from gateway.authority import authority as authority_module
from gateway.authority.authority import DEFAULT_LANES, Authority
from gateway.authority.inforce import PolicyInForce
from gateway.authority.quota import Ledger
from gateway.authority.requests import Issued, Lane
from gateway.errors import Fenced, JournalFull, NotFound, SignerUnavailable
from gateway.journal.journal import JournalState
from gateway.journal.records import Payload, Record, Void
from gateway.keys.pool import KeyPool
from gateway.keys.signer import KeySpec
from gateway.pki.crl import Reason
from tests.support.authority import DAY_MS, SteppedClock, TestCa, World, activation, authority_in, enrollment, policy_of


def status_of(world: World, answer: bytes) -> ocsp.OCSPCertStatus:
    response = ocsp.load_der_ocsp_response(answer)
    assert response.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
    return response.certificate_status


def question(world: World, serial: int) -> bytes:
    ca = x509.load_der_x509_certificate(world.authority.generations.active.certificate)
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.serialization import Encoding

    name, key = hashes.Hash(hashes.SHA1()), x509.SubjectKeyIdentifier.from_public_key(ca.public_key()).digest
    name.update(ca.subject.public_bytes())
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(name.finalize(), key, serial, hashes.SHA1())
    return builder.build().public_bytes(Encoding.DER)


async def test_what_was_issued_is_good_and_what_was_revoked_is_not(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        await world.authority.delegated.renew_due()
        outcome = await world.authority.enroll(enrollment())
        assert isinstance(outcome, Issued)
        answer = await world.authority.ocsp(question(world, outcome.serial))
        assert status_of(world, answer.der) is ocsp.OCSPCertStatus.GOOD
        await world.authority.revoker.revoke(outcome.serial, Reason.KEY_COMPROMISE, "test")
        answer = await world.authority.ocsp(question(world, outcome.serial))
        assert status_of(world, answer.der) is ocsp.OCSPCertStatus.REVOKED


async def test_a_voided_serial_goes_on_the_list(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        world.signer.failure = SignerUnavailable("unplugged")
        with pytest.raises(SignerUnavailable):
            await world.authority.enroll(enrollment())
        world.signer.failure = None
        await world.authority.publisher.publish_now()
        (void,) = await world.recorded(Void)
        assert isinstance(void, Void)
        crl = x509.load_der_x509_crl(world.authority.crl("1.crl").der)
        assert crl.get_revoked_certificate_by_serial_number(int(void.serial, 16)) is not None


async def test_the_ca_certificates_are_the_issuing_one_its_chain_and_older_ones_once_each(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        (first, root) = world.authority.ca_certificates()
        await world.journal.append(activation(world.root, world.keys, 2))
        await world.authority.refresh_generations()
        newest = world.authority.generations.active.certificate
        assert world.authority.ca_certificates() == (newest, root, first)


async def test_before_activation_there_is_no_certificate_to_show(tmp_path: Path) -> None:
    async with authority_in(tmp_path, activate=False) as world:
        assert world.authority.ca_certificates() == ()
        await world.authority.refresh_generations()
        assert world.authority.ca_certificates() == ()


async def test_rules_and_lists_that_do_not_exist_are_not_found(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        assert world.authority.rule("ldevid").profile.name == "ldevid"
        with pytest.raises(NotFound):
            world.authority.rule("no-such")
        with pytest.raises(NotFound):
            world.authority.crl("no-such.crl")


async def test_running_it_makes_lists_and_responders(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        ready = asyncio.Event()
        world.authority.delegated.watch(lambda identity: ready.set())
        running = asyncio.create_task(world.authority.run())
        async with asyncio.timeout(30):
            await ready.wait()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert world.authority.delegated.current("ocsp-1").certificate


async def _gone_back(directory: Path, root: TestCa) -> None:
    """A gateway whose disk is a copy from before its last records."""
    async with authority_in(directory, root=root) as world:
        await world.authority.delegated.renew_due()
        copy = directory / "copy"
        await world.journal.inner.backup(copy)
        await world.authority.enroll(enrollment())
    for name in ("journal.db", "journal.db-wal"):
        (directory / name).unlink(missing_ok=True)
    copy.rename(directory / "journal.db")


async def test_a_fenced_gateway_vouches_for_nothing(tmp_path: Path) -> None:
    """Revocations may be among the records that are missing: "good" would be a guess."""
    root = TestCa.make("Test Root")
    await _gone_back(tmp_path, root)
    async with authority_in(tmp_path, root=root) as world:
        assert world.journal.inner.state is JournalState.FENCED
        await world.authority.delegated.renew_due()
        identity = world.authority.delegated.current("ocsp-1")
        request = question(world, identity.serial)
        answer = ocsp.load_der_ocsp_response((await world.authority.ocsp(request)).der)
        assert answer.response_status is ocsp.OCSPResponseStatus.TRY_LATER
        assert world.authority.ocsp_at_hand(request) is None


async def test_a_fenced_gateway_opens_under_a_changed_policy_too(tmp_path: Path) -> None:
    """Its page must be able to say why it does not issue."""
    root = TestCa.make("Test Root")
    await _gone_back(tmp_path, root)
    async with authority_in(tmp_path, root=root, policy=policy_of({"ldevid": {"quota": 3}}, version=2)) as world:
        with pytest.raises(Fenced):
            await world.authority.enroll(enrollment())


async def test_a_changed_policy_is_recorded_on_a_full_disk(tmp_path: Path) -> None:
    """Else a restart would end revoking, which the reserve is for."""
    recorded: list[bool] = []

    class FullJournal:
        async def append(self, *payloads: Payload, urgent: bool = False) -> tuple[Record, ...]:
            recorded.append(urgent)
            if not urgent:
                raise JournalFull("full")
            return ()

        async def scan(self, *kinds: type[Payload]) -> AsyncIterator[Record]:
            return
            yield  # the signature of an asynchronous generator

    await PolicyInForce.load(policy_of(), "file", journal=FullJournal(), ledger=Ledger())
    assert recorded == [True]


async def test_a_key_that_cannot_be_erased_does_not_end_the_daemon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = asyncio.Event()

    async def erase_older_than(_pool: KeyPool, _age_ms: int) -> int:
        tried.set()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(KeyPool, "erase_older_than", erase_older_than)
    async with authority_in(tmp_path) as world:
        running = asyncio.create_task(world.authority.run())
        await tried.wait()
        await asyncio.wait([running], timeout=0.05)
        assert not running.done()
        assert "No space" in caplog.text
        running.cancel()
        await asyncio.wait([running])


async def test_a_server_side_key_waits_as_long_as_its_request_may_wait_for_a_person(tmp_path: Path) -> None:
    """The approval is for a certificate over this very key: another key would be another request."""
    async with authority_in(tmp_path, tables={"ldevid": {"approval": True}}) as world:
        await world.authority.pool.take(KeySpec.P256, b"owner")
        world.clock.advance(3 * DAY_MS)
        await world.authority.erase_delivered_keys()
        assert await world.authority.pool.recall(b"owner") is not None
        world.clock.advance(30 * DAY_MS)
        await world.authority.erase_delivered_keys()
        assert await world.authority.pool.recall(b"owner") is None


async def test_a_restart_without_the_token_serves_the_list_of_before(tmp_path: Path) -> None:
    root, clock = TestCa.make("Root"), SteppedClock()
    async with authority_in(tmp_path, root=root, clock=clock) as world:
        await world.authority.publisher.publish_now()
        served = world.authority.crl("1.crl").der
    async with authority_in(tmp_path, root=root, clock=clock) as world:
        world.signer.failure = SignerUnavailable("unplugged")
        assert world.authority.crl("1.crl").der == served


async def test_a_ca_activated_beside_the_running_gateway_gets_a_responder(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        await world.journal.append(activation(world.root, world.keys, 2))
        await world.authority.refresh_generations()
        await world.authority.delegated.renew_due()
        assert world.authority.delegated.current("ocsp-2").certificate


async def test_the_answer_at_hand_is_the_one_that_was_given(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        await world.authority.delegated.renew_due()
        outcome = await world.authority.enroll(enrollment())
        assert isinstance(outcome, Issued)
        request = question(world, outcome.serial)
        answer = await world.authority.ocsp(request)
        assert world.authority.ocsp_at_hand(request) == answer


async def test_running_it_publishes_the_lists(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        published = asyncio.Event()
        world.authority.publisher.watch(lambda crl: published.set())
        running = asyncio.create_task(world.authority.run())
        async with asyncio.timeout(30):
            await published.wait()
        running.cancel()
        await asyncio.wait([running])
        assert world.authority.crl("1.crl").der


async def test_a_server_side_key_is_kept_as_long_as_a_retry_may_ask_for_it(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        await world.authority.pool.take(KeySpec.P256, b"owner")
        world.clock.advance(max(rule.retry_window_s for rule in world.authority.policy.current.rules.values()) * 1000)
        await world.authority.erase_delivered_keys()
        assert await world.authority.pool.recall(b"owner") is not None
        world.clock.advance(1)
        await world.authority.erase_delivered_keys()
        assert await world.authority.pool.recall(b"owner") is None


def test_the_example_configuration_shows_the_places_there_are_by_default() -> None:
    example = tomllib.loads((Path(__file__).parents[2] / "config.example.toml").read_text())
    assert {Lane[name.upper()]: places for name, places in example["limits"].items()} == DEFAULT_LANES


async def test_running_it_reads_the_files_again_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority_module, "_REREAD_INTERVAL_S", 0)
    again = asyncio.Event()
    times: list[None] = []

    async def noted(_: Authority) -> None:
        times.append(None)
        if len(times) == 2:
            again.set()

    monkeypatch.setattr(Authority, "reread_files", noted)
    async with authority_in(tmp_path) as world:
        running = asyncio.create_task(world.authority.run())
        async with asyncio.timeout(30):
            await again.wait()
        running.cancel()
        await asyncio.wait([running])

"""Revocation lists: what is in them, when they are signed, and what happens when they cannot be."""

import asyncio
import tomllib
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.authority import crl
from gateway.authority.crl import CrlOptions, CrlPublisher, PublishedCrl
from gateway.errors import ConfigError, JournalFailed, JournalFull, NotFound, NotReady, SignerUnavailable
from gateway.journal.records import CrlPublished, Payload, Record, Revoked
from gateway.keys.signer import KeySpec, Priority
from gateway.pki.crl import Reason
from gateway.pki.der import tlv
from gateway.pki.names import name_from_text
from gateway.pki.tbs import new_serial
from tests.support.authority import DAY_MS, World, authority_in
from tests.support.ceremony_root import ROOT_NAME, root_key, sub_ca
from tests.support.monotonic import StoppedTime
from tests.support.status_stack import OPERATOR, SetClock, StatusStack, now, status_stack

URL = "http://pki.test/crl/"


def publisher(stack: StatusStack, **options: object) -> CrlPublisher:
    chosen = {"coalesce_s": 0.0, "build_share": 0.0, "backdate_s": 0, "urls": (URL,)} | options
    return CrlPublisher(
        generations=stack.generations,
        status=stack.status,
        journal=stack.journal,
        clock=stack.clock,
        options=CrlOptions(stack.directory / "crl", **chosen),  # type: ignore[arg-type]
    )


async def loaded(stack: StatusStack, **options: object) -> CrlPublisher:
    lists = publisher(stack, **options)
    await lists.load()
    await lists.publish_due()
    return lists


def read(published: PublishedCrl) -> x509.CertificateRevocationList:
    return x509.load_der_x509_crl(published.der)


async def recorded(stack: StatusStack) -> list[CrlPublished]:
    return [r.payload async for r in stack.journal.scan(CrlPublished) if isinstance(r.payload, CrlPublished)]


def openssl_verify(stack: StatusStack, certificate: x509.Certificate, lists: list[PublishedCrl], *options: str) -> str:
    stack.write_chain()
    (stack.directory / "leaf.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    crls = b"".join(read(published).public_bytes(Encoding.PEM) for published in lists)
    (stack.directory / "crls.pem").write_bytes(crls)
    arguments = ("-CAfile", "root.pem", "-untrusted", "ca.pem", "-CRLfile", "crls.pem", "-crl_check", *options)
    return stack.openssl("verify", *arguments, "leaf.pem")


async def test_a_new_generation_has_a_list_at_once_with_one_operation_of_the_token(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        lists = publisher(stack)
        await lists.load()
        with pytest.raises(NotReady):
            lists.get("1.crl")
        await lists.publish_due()
        published = lists.get("1.crl")
        assert stack.signer.operations == 1
        assert len(read(published)) == 0
        (record,) = await recorded(stack)
        assert (record.digest, record.number, record.scope) == (published.digest, published.number, "full")
        assert published.next_update_ms - published.this_update_ms == 7 * 86_400_000
        await lists.publish_due()
        assert stack.signer.operations == 1


@pytest.mark.parametrize("name", ["2.crl", "1-delta.crl", "1-0of8.crl", "../keys/ca-1.key", "", "root.crl"])
async def test_other_names_are_not_found(tmp_path: Path, name: str) -> None:
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack)
        with pytest.raises(NotFound):
            lists.get(name)


async def test_openssl_agrees_on_good_revoked_held_released_and_void(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        good, revoked, held, released = [await stack.issue(name) for name in ("good", "revoked", "held", "released")]
        await stack.revoker.revoke(revoked.serial_number, Reason.KEY_COMPROMISE, "test")
        for certificate in (held, released):
            await stack.revoker.hold(certificate.serial_number, "test")
        await stack.revoker.release(released.serial_number, "test")
        void = new_serial(stack.clock.now_ms(), bytes(12))
        await stack.void(void)
        lists = await loaded(stack)
        crl = lists.get("1.crl")
        for certificate, words in ((good, "OK"), (released, "OK"), (revoked, "revoked"), (held, "revoked")):
            assert words in openssl_verify(stack, certificate, [crl])
        (stack.directory / "list.crl").write_bytes(crl.der)
        text = stack.openssl("crl", "-inform", "DER", "-in", "list.crl", "-noout", "-text", "-verify", "-CAfile", "ca.pem")
        assert "verify OK" in text
        assert "Key Compromise" in text
        assert "Certificate Hold" in text
        entry = read(crl).get_revoked_certificate_by_serial_number(void)
        assert entry is not None
        assert len(entry.extensions) == 0


async def test_many_revocations_make_one_list(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack)
        certificates = [await stack.issue() for _ in range(20)]
        operations = stack.signer.operations
        for certificate in certificates:
            await stack.revoker.revoke(certificate.serial_number, Reason.SUPERSEDED, "test")
        await lists.publish_due()
        await lists.publish_due()
        assert stack.signer.operations == operations + 1
        assert len(read(lists.get("1.crl"))) == 20


async def test_revocations_are_gathered_for_the_configured_time(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack, coalesce_s=3600.0)
        await stack.revoker.revoke((await stack.issue()).serial_number, Reason.SUPERSEDED, "test")
        assert await lists.publish_due() == 60.0
        assert len(read(lists.get("1.crl"))) == 0


async def test_the_running_publisher_wakes_for_a_revocation(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack)
        served: asyncio.Queue[PublishedCrl] = asyncio.Queue()
        lists.watch(served.put_nowait)
        task = asyncio.create_task(lists.run())
        certificate = await stack.issue()
        await stack.revoker.revoke(certificate.serial_number, Reason.SUPERSEDED, "test")
        async with asyncio.timeout(20):
            published = await served.get()
        assert lists.get("1.crl") is published
        assert read(published).get_revoked_certificate_by_serial_number(certificate.serial_number) is not None
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_the_list_is_renewed_every_day_without_any_revocation(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack)
        first = lists.get("1.crl")
        stack.time.advance(hours=23)
        await lists.publish_due()
        assert lists.get("1.crl") is first
        stack.time.advance(hours=2)
        await lists.publish_due()
        assert lists.get("1.crl").this_update_ms - first.this_update_ms >= 25 * 3_600_000


async def test_this_update_lies_in_the_past_for_slow_clocks(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack, backdate_s=300)
        published = lists.get("1.crl")
        assert published.number - published.this_update_ms >= 299_000
        assert published.next_update_ms - published.this_update_ms == (7 * 86_400 + 300) * 1000


async def test_the_number_grows_also_when_the_clock_was_set_back(tmp_path: Path) -> None:
    time = SetClock()
    async with status_stack(tmp_path, time=time) as stack:
        lists = await loaded(stack)
        await lists.publish_now()
        await lists.publish_now()
    time.advance(days=-3)
    async with status_stack(tmp_path, time=time) as stack:
        lists = await loaded(stack)
        await lists.publish_now()
        numbers = [record.number for record in await recorded(stack)]
        assert numbers == sorted(set(numbers))
        assert len(numbers) == 4


async def test_a_restart_costs_no_operation_and_needs_no_token(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        certificate = await stack.issue()
        await stack.revoker.revoke(certificate.serial_number, Reason.SUPERSEDED, "test")
        before = (await loaded(stack)).get("1.crl")
    async with status_stack(tmp_path) as stack:
        stack.signer.unplugged = True
        lists = await loaded(stack)
        assert lists.get("1.crl") == before
        (health,) = lists.health()
        assert (health.degraded, health.entries, health.failure) == (False, 1, "")


async def test_a_changed_file_is_not_served_but_signed_anew(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        first = (await loaded(stack)).get("1.crl")
    path = tmp_path / "crl" / "1.crl"
    path.write_bytes(first.der[:-1] + bytes((first.der[-1] ^ 1,)))
    async with status_stack(tmp_path) as stack:
        lists = publisher(stack)
        await lists.load()
        with pytest.raises(NotReady):
            lists.get("1.crl")
        await lists.publish_due()
        assert lists.get("1.crl").number > first.number


async def test_an_unreadable_file_in_the_cache_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "crl" / "1.crl").mkdir(parents=True)
    async with status_stack(tmp_path) as stack:
        assert (await loaded(stack)).get("1.crl").number > 0


async def test_an_older_list_put_back_is_replaced_at_once(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack)
        old = lists.get("1.crl")
        await lists.publish_now()
    (tmp_path / "crl" / "1.crl").write_bytes(old.der)
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack)
        assert stack.signer.operations == 1
        assert lists.get("1.crl").number > old.number


async def test_without_the_token_the_old_list_is_served_and_health_says_so(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack)
        first = lists.get("1.crl")
        certificate = await stack.issue()
        stack.signer.unplugged = True
        await stack.revoker.revoke(certificate.serial_number, Reason.SUPERSEDED, "test")
        wait_s = await lists.publish_due()
        assert 4 < wait_s <= 60  # not in a tight circle: the signer said 5 s
        assert lists.get("1.crl") is first
        (health,) = lists.health()
        assert (health.degraded, health.next_update_ms) == (True, first.next_update_ms)
        assert "unplugged" in health.failure
        stack.signer.unplugged = False
        await lists.publish_now()
        assert len(read(lists.get("1.crl"))) == 1
        assert not lists.health()[0].degraded


async def test_what_could_not_be_published_is_tried_again(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack)
        stack.signer.unplugged = True
        await stack.revoker.revoke((await stack.issue()).serial_number, Reason.SUPERSEDED, "test")
        await lists.publish_due()
        stack.signer.unplugged = False
        lists._states["1.crl"].retry_at = 0.0  # the pause is over
        await lists.publish_due()
        assert len(read(lists.get("1.crl"))) == 1


async def test_the_number_grows_beyond_any_that_was_recorded(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        future = stack.clock.now_ms() + 10 * 86_400_000
        await stack.journal.append(CrlPublished(1, "full", future, 0, 1, bytes(32), 0))
        assert (await loaded(stack)).get("1.crl").number == future + 1


async def test_a_change_that_became_durable_while_the_base_was_made_is_on_the_delta(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack, delta=True)
        stamped_ms = lists.get("1.crl").number - 1000
        stack.status.apply(Record(99, stamped_ms, Revoked("abcdef", 1, "superseded", stamped_ms, "test")))
        await lists.publish_due()
        assert [entry.serial_number for entry in read(lists.get("1-delta.crl"))] == [0xABCDEF]


async def test_one_refusal_of_the_signer_is_enough_for_all_lists_of_its_generation(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        lists = publisher(stack, shards=64)
        await lists.load()
        stack.signer.unplugged = True
        assert await lists.publish_due() > 0
        assert stack.signer.refusals == 1
        await lists.publish_due()
        assert stack.signer.refusals == 1


async def test_an_expired_list_is_degraded(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack)
        stack.time.advance(days=8)
        assert lists.health()[0].degraded


class FailingJournal:
    def __init__(self, stack: StatusStack, error: Exception) -> None:
        self._stack = stack
        self._error = error
        self.scan = stack.journal.scan

    async def append(self, *_payloads: Payload, urgent: bool = False) -> tuple[Record, ...]:
        assert urgent  # also when the disk is full
        raise self._error


@pytest.mark.parametrize(("error", "raised"), [(JournalFull("full"), False), (JournalFailed("EIO"), True)])
async def test_a_list_is_not_served_before_its_record_is_durable(tmp_path: Path, error: Exception, raised: bool) -> None:
    async with status_stack(tmp_path) as stack:
        lists = CrlPublisher(
            generations=stack.generations,
            status=stack.status,
            journal=FailingJournal(stack, error),
            clock=stack.clock,
            options=CrlOptions(tmp_path / "crl"),
        )
        await lists.load()
        if raised:
            with pytest.raises(JournalFailed):
                await lists.publish_due()
        else:
            await lists.publish_due()
        with pytest.raises(NotReady):
            lists.get("1.crl")
        assert not (tmp_path / "crl").exists()


async def test_a_list_that_cannot_be_cached_is_served_all_the_same(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        lists = publisher(stack)
        await lists.load()
        (tmp_path / "crl" / "1.crl").mkdir(parents=True)
        await lists.publish_due()
        assert lists.get("1.crl").number > 0
        assert "cannot be kept on disk" in lists.health()[0].failure


async def test_a_certificate_names_its_shard_and_openssl_finds_it_there(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        lists = publisher(stack, shards=8)
        await lists.load()
        assert lists.publication_for(8).crl_urls == (URL + "1.crl",)  # no shard was published yet
        await lists.publish_due()
        assert stack.signer.operations == 9
        probe = await stack.issue()
        stack.publication = lists.publication_for(0)
        while (certificate := await stack.issue()).serial_number % 8:
            pass
        assert stack.publication.crl_urls == (URL + "1-0of8.crl",)
        shard = lists.get("1-0of8.crl")
        assert "OK" in openssl_verify(stack, certificate, [shard], "-extended_crl")
        operations = stack.signer.operations
        await stack.revoker.revoke(certificate.serial_number, Reason.SUPERSEDED, "test")
        await lists.publish_due()
        assert stack.signer.operations == operations + 2  # the shard and the full list, no other shard
        assert "revoked" in openssl_verify(stack, certificate, [lists.get("1-0of8.crl")], "-extended_crl")
        assert "revoked" in openssl_verify(stack, certificate, [lists.get("1.crl")])
        # A certificate that names no shard is not covered by one.
        assert "different CRL scope" in openssl_verify(stack, probe, [shard], "-extended_crl")


async def test_a_growing_list_gets_shards_and_old_certificates_keep_theirs(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack, shard_entries=10)
        assert lists.publication_for(5).crl_urls == (URL + "1.crl",)
        for _ in range(11):
            await stack.revoker.revoke((await stack.issue()).serial_number, Reason.SUPERSEDED, "test")
        await lists.publish_due()
        assert lists.publication_for(5).crl_urls == (URL + "1-5of8.crl",)
        assert len(read(lists.get("1.crl"))) == 11
        assert sum(len(read(lists.get(f"1-{shard}of8.crl"))) for shard in range(8)) == 11
    async with status_stack(tmp_path) as stack:
        stack.signer.unplugged = True
        lists = publisher(stack, shard_entries=10)
        await lists.load()
        assert lists.publication_for(5).crl_urls == (URL + "1-5of8.crl",)
        assert lists.publication_for(13, 1).crl_urls == (URL + "1-5of8.crl",)
        assert len(lists.names()) == 9


async def test_shards_come_into_use_only_when_all_are_signed(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        lists = publisher(stack, shards=2)
        await lists.load()
        stack.signer.unplugged = True
        await lists.publish_due()
        assert lists.publication_for(1).crl_urls == (URL + "1.crl",)


async def test_a_shard_of_ten_thousand_entries_is_one_operation(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        number = stack.generations.active.number
        table_serials = [new_serial(stack.clock.now_ms(), i.to_bytes(12, "big")) for i in range(10_000)]
        for serial in table_serials:
            stack.status._table(number, serial).put(serial, stack.clock.now_ms(), Reason.SUPERSEDED)
        lists = await loaded(stack, shard_entries=10_000)
        assert stack.signer.operations == 1
        crl = read(lists.get("1.crl"))
        assert len(crl) == 10_000
        assert crl.is_signature_valid(stack.generations.active.ca.certificate.public_key())  # type: ignore[arg-type]


async def test_openssl_applies_a_delta_to_the_list_of_the_day(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        lists = publisher(stack, delta=True)
        await lists.load()
        stack.publication = lists.publication_for(0)
        assert stack.publication.delta_crl_urls == (URL + "1-delta.crl",)
        released, revoked, good = [await stack.issue(name) for name in ("released", "revoked", "good")]
        await stack.revoker.hold(released.serial_number, "test")
        await lists.publish_due()
        base = lists.get("1.crl")
        assert "revoked" in openssl_verify(stack, released, [base, lists.get("1-delta.crl")], "-use_deltas")
        await stack.revoker.release(released.serial_number, "test")
        await stack.revoker.revoke(revoked.serial_number, Reason.KEY_COMPROMISE, "test")
        await lists.publish_due()
        delta = lists.get("1-delta.crl")
        indicator = read(delta).extensions.get_extension_for_class(x509.DeltaCRLIndicator)
        assert (indicator.critical, indicator.value.crl_number) == (True, base.number)
        assert "revoked" not in openssl_verify(stack, revoked, [base], "-use_deltas")
        assert "revoked" in openssl_verify(stack, revoked, [base, delta], "-use_deltas")
        assert "OK" in openssl_verify(stack, released, [base, delta], "-use_deltas")
        assert "OK" in openssl_verify(stack, good, [base, delta], "-use_deltas")
        entry = read(delta).get_revoked_certificate_by_serial_number(released.serial_number)
        assert entry is not None
        assert entry.extensions[0].value == x509.CRLReason(x509.ReasonFlags.remove_from_crl)
        full = read(lists.get("1.crl"))
        assert [entry.serial_number for entry in full] == [revoked.serial_number]
        freshest = full.extensions.get_extension_for_class(x509.FreshestCRL).value
        assert freshest[0].full_name == [x509.UniformResourceIdentifier(URL + "1-delta.crl")]


async def test_the_base_of_deltas_moves_on_once_a_day(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack, delta=True)
        first = lists.get("1.crl").number
        certificate = await stack.issue()
        await stack.revoker.revoke(certificate.serial_number, Reason.SUPERSEDED, "test")
        await lists.publish_due()
        assert base_of(lists) == first
        assert lists.get("1-delta.crl").number > lists.get("1.crl").number
        stack.time.advance(days=1, hours=1)
        await lists.publish_due()
        assert base_of(lists) == lists.get("1.crl").number
        assert len(read(lists.get("1-delta.crl"))) == 0


async def test_deltas_go_on_after_a_restart(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack, delta=True)
        first = lists.get("1.crl").number
        await stack.revoker.revoke((await stack.issue()).serial_number, Reason.SUPERSEDED, "test")
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack, delta=True)
        await lists.publish_now()
        assert base_of(lists) == first
        assert len(read(lists.get("1-delta.crl"))) == 1


async def test_when_the_changes_are_not_known_any_more_a_new_base_is_made(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack, delta=True)
        first = lists.get("1.crl").number
    time = SetClock()
    time.advance(hours=2)
    async with status_stack(tmp_path, time=time, changes_from_ms=time() - 3_600_000) as stack:
        lists = await loaded(stack, delta=True)
        assert base_of(lists) == lists.get("1.crl").number > first
        operations = stack.signer.operations
        await lists.publish_due()
        assert stack.signer.operations == operations


def base_of(lists: CrlPublisher) -> int:
    return read(lists.get("1-delta.crl")).extensions.get_extension_for_class(x509.DeltaCRLIndicator).value.crl_number


async def test_an_older_generation_goes_on_publishing_until_its_ca_expires(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        certificate = await stack.issue()
        await stack.ceremony.renew("software:ca-2", KeySpec.P256, OPERATOR)
        step = await stack.ceremony.csr(name_from_text("CN=Plant CA 2"), OPERATOR)
        await stack.ceremony.import_certificate(*_with_chain(step.der), OPERATOR)
        await stack.generations.refresh()
        lists = await loaded(stack)
        assert lists.publication_for(0).crl_urls == (URL + "2.crl",)
        await stack.revoker.revoke(certificate.serial_number, Reason.SUPERSEDED, "test")
        await lists.publish_due()
        assert len(read(lists.get("1.crl"))) == 1
        assert len(read(lists.get("2.crl"))) == 0
        stack.time.advance(days=366)  # the demo CA lives a year, the other one longer
        await lists.publish_due()
        assert [health.name for health in lists.health()] == ["2.crl"]
        assert lists.get("1.crl").next_update_ms < stack.clock.now_ms()


async def test_a_generation_activated_beside_the_running_gateway_gets_its_list(tmp_path: Path) -> None:
    async with status_stack(tmp_path, demo=False) as stack:
        lists = await loaded(stack)
        assert lists.names() == ()
        served: asyncio.Queue[PublishedCrl] = asyncio.Queue()
        lists.watch(served.put_nowait)
        task = asyncio.create_task(lists.run())
        await stack.activate_demo()
        async with asyncio.timeout(20):
            assert (await served.get()).name == "1.crl"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def _with_chain(csr: bytes) -> tuple[bytes, tuple[bytes, ...]]:
    certificate, root = sub_ca(csr)
    return certificate, (root,)


async def below_the_plant_root(stack: StatusStack) -> None:
    """Activate a CA whose parent is the root that signs :func:`parent_crl`."""
    await stack.ceremony.keygen("software:ca", KeySpec.P256, OPERATOR)
    step = await stack.ceremony.csr(name_from_text("CN=Plant CA"), OPERATOR)
    await stack.ceremony.import_certificate(*_with_chain(step.der), OPERATOR)
    await stack.generations.refresh()


def parent_crl(*, number: int | None = 7) -> bytes:
    builder = x509.CertificateRevocationListBuilder().issuer_name(ROOT_NAME)
    builder = builder.last_update(now()).next_update(now() + timedelta(days=365))
    if number is not None:
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
    return builder.sign(root_key(), hashes.SHA256()).public_bytes(Encoding.PEM)


async def test_a_list_of_the_offline_root_is_served_from_its_file(tmp_path: Path) -> None:
    path = tmp_path / "plant-root.pem"
    path.write_bytes(parent_crl())
    async with status_stack(tmp_path, demo=False) as stack:
        await below_the_plant_root(stack)
        lists = await loaded(stack, parents=(path,))
        served = lists.get("plant-root.crl")
        assert served.number == 7
        assert read(served).issuer == ROOT_NAME
        assert "plant-root.crl" in lists.names()
        assert not lists.health()[1].degraded
        path.write_bytes(parent_crl(number=8) + b"\n")
        await lists.publish_due()
        replaced = lists.get("plant-root.crl")
        assert replaced.number == 8
        path.write_bytes(b"not a list")
        await lists.publish_due()
        assert lists.get("plant-root.crl") is replaced
        assert "cannot be read" in lists.health()[1].failure


async def test_a_missing_file_of_the_root_stops_nothing(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack, parents=(tmp_path / "root.crl",))
        assert lists.get("1.crl")
        with pytest.raises(NotFound):
            lists.get("root.crl")
        assert [health.degraded for health in lists.health()] == [False, True]


@pytest.mark.parametrize(
    "options",
    [
        {"shards": 3, "urls": (URL,)},
        {"shards": 128, "urls": (URL,)},
        {"shards": 8, "urls": ()},
        {"shards": 2, "urls": ()},
        {"interval_s": 8 * 86_400},
        {"interval_s": 7 * 86_400},
        {"interval_s": 0},
        {"parents": (Path("a/root.pem"), Path("b/root.crl"))},
        {"parents": (Path("1.crl"),)},
        {"parents": (Path("Plant Root.crl"),)},
    ],
)
async def test_contradicting_options_are_refused(tmp_path: Path, options: dict[str, object]) -> None:
    async with status_stack(tmp_path, demo=False) as stack:
        with pytest.raises(ConfigError):
            publisher(stack, **options)


async def test_a_list_of_the_root_with_an_extension_twice_stops_nothing(tmp_path: Path) -> None:
    """The parser has an exception of its own for that, outside ValueError."""
    path = tmp_path / "root.crl"
    pem = parent_crl()
    crl = x509.load_pem_x509_crl(pem)
    outside = crl.public_bytes(Encoding.DER)
    number = bytes.fromhex("300a0603551d140403020107")
    extensions = tlv(0xA0, tlv(0x30, number))
    assert crl.tbs_certlist_bytes.endswith(extensions)
    header = 3 if crl.tbs_certlist_bytes[1] == 0x81 else 2
    content = crl.tbs_certlist_bytes[header : -len(extensions)]
    tbs = tlv(0x30, content, tlv(0xA0, tlv(0x30, number, number)))
    doubled = tlv(0x30, tbs, outside.partition(crl.tbs_certlist_bytes)[2])
    path.write_bytes(doubled)
    with pytest.raises(x509.DuplicateExtension):
        _ = x509.load_der_x509_crl(doubled).extensions
    async with status_stack(tmp_path, demo=False) as stack:
        await below_the_plant_root(stack)
        lists = await loaded(stack, parents=(path,))
        assert "cannot be read" in lists.health()[1].failure
        path.write_bytes(pem)
        await lists.publish_due()
        assert lists.get("root.crl").number == 7


async def test_a_list_of_the_root_that_was_away_is_well_again(tmp_path: Path) -> None:
    path, away = tmp_path / "root.crl", tmp_path / "away"
    path.write_bytes(parent_crl())
    async with status_stack(tmp_path, demo=False) as stack:
        await below_the_plant_root(stack)
        lists = await loaded(stack, parents=(path,))
        path.rename(away)
        await lists.publish_due()
        assert lists.health()[1].degraded
        away.rename(path)
        await lists.publish_due()
        assert not lists.health()[1].degraded


async def test_a_change_during_a_publication_that_fails_is_not_forgotten(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack)
        serial = (await stack.issue()).serial_number
        sign = stack.signer.sign

        async def failing(message: bytes, *, priority: Priority = Priority.BULK) -> bytes:
            await stack.revoker.revoke(serial, Reason.SUPERSEDED, "test")
            raise SignerUnavailable("unplugged")

        stack.signer.sign = failing  # type: ignore[method-assign]
        with pytest.raises(SignerUnavailable):
            await lists.publish_now()
        stack.signer.sign = sign  # type: ignore[method-assign]
        assert lists._states["1.crl"].dirty_since is not None


def lists_of(world: World, **options: object) -> CrlPublisher:
    """Lists of an authority whose clock stands still."""
    chosen = {"coalesce_s": 0.0, "urls": (URL,)} | options
    return CrlPublisher(
        generations=world.authority.generations,
        status=world.authority.status,
        journal=world.journal,
        clock=world.clock,
        options=CrlOptions(world.directory / "lists", **chosen),  # type: ignore[arg-type]
    )


async def test_a_list_is_due_when_its_interval_is_over_and_not_before(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        lists = lists_of(world)
        await lists.load()
        assert await lists.publish_due() == 60.0
        first = lists.get("1.crl")
        assert first.number - first.this_update_ms == 300_000
        world.clock.advance(DAY_MS - 500)
        assert await lists.publish_due() == 0.5
        assert lists.get("1.crl") is first
        world.clock.advance(500)
        await lists.publish_due()
        assert lists.get("1.crl").number > first.number


async def test_a_list_is_degraded_from_its_next_update_on(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        lists = lists_of(world)
        await lists.load()
        await lists.publish_due()
        world.clock.advance(lists.get("1.crl").next_update_ms - world.clock.now_ms() - 1)
        assert not lists.health()[0].degraded
        world.clock.advance(1)
        assert lists.health()[0].degraded


async def test_the_base_of_deltas_moves_on_when_an_interval_is_over_and_not_before(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        lists = lists_of(world, delta=True)
        await lists.load()
        await lists.publish_now()
        first = base_of(lists)
        world.clock.advance(DAY_MS - 1)
        await lists.publish_now()
        assert base_of(lists) == first
        world.clock.advance(1)
        await lists.publish_now()
        assert base_of(lists) == lists.get("1.crl").number


async def test_health_tells_of_a_list_that_was_never_signed(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        lists = publisher(stack)
        await lists.load()
        stack.signer.unplugged = True
        await lists.publish_due()
        (health,) = lists.health()
        assert (health.number, health.next_update_ms, health.entries, health.degraded) == (0, 0, 0, True)


@pytest.mark.parametrize(("asked_for", "first"), [(3, [3.0, 3.0, 4.0]), (1, [1.0, 2.0, 4.0])])
async def test_the_pauses_between_attempts_grow_to_a_limit_and_begin_anew_after_a_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, asked_for: int, first: list[float]
) -> None:
    time = StoppedTime()
    monkeypatch.setattr(crl, "time", time)
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack)
        sign = stack.signer.sign

        async def refuse(message: bytes, *, priority: Priority = Priority.BULK) -> bytes:
            raise SignerUnavailable("the token is unplugged", retry_after=asked_for)

        async def pauses(count: int) -> list[float]:
            waits = []
            for _ in range(count):
                waits.append(await lists.publish_due())
                time.now_s += waits[-1]
            return waits

        stack.signer.sign = refuse  # type: ignore[method-assign]
        await stack.revoker.revoke((await stack.issue()).serial_number, Reason.SUPERSEDED, "test")
        assert await pauses(6) == [*first, 8.0, 15.0, 15.0]
        assert caplog.text.count("cannot be signed") == 1
        stack.signer.sign = sign  # type: ignore[method-assign]
        assert await pauses(1) == [60.0]
        stack.signer.sign = refuse  # type: ignore[method-assign]
        await stack.revoker.revoke((await stack.issue()).serial_number, Reason.SUPERSEDED, "test")
        assert await pauses(3) == first
        assert caplog.text.count("cannot be signed") == 2


async def test_the_first_pause_of_a_list_that_was_never_signed_is_the_shortest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crl, "time", StoppedTime())
    async with status_stack(tmp_path) as stack:

        async def refuse(message: bytes, *, priority: Priority = Priority.BULK) -> bytes:
            raise SignerUnavailable("the token is unplugged", retry_after=1)

        stack.signer.sign = refuse  # type: ignore[method-assign]
        lists = publisher(stack)
        await lists.load()
        assert await lists.publish_due() == 1.0


async def test_a_revocation_waits_for_no_longer_than_building_the_list_costs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = StoppedTime()  # so building takes no time at all
    monkeypatch.setattr(crl, "time", time)
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack, build_share=20.0)
        await stack.revoker.revoke((await stack.issue()).serial_number, Reason.SUPERSEDED, "test")
        await lists.publish_due()
        assert len(read(lists.get("1.crl"))) == 1


async def test_the_token_away_at_the_first_start_stops_no_delta(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        lists = publisher(stack, delta=True)
        await lists.load()
        stack.signer.unplugged = True
        assert 0 < await lists.publish_due() <= 5
        stack.signer.unplugged = False
        await lists.publish_now()
        assert base_of(lists) == lists.get("1.crl").number


async def test_publishing_at_once_makes_a_new_base_where_the_changes_are_not_known(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack, delta=True)
        first = lists.get("1.crl").number
    time = SetClock()
    time.advance(hours=2)
    async with status_stack(tmp_path, time=time, changes_from_ms=time() - 3_600_000) as stack:
        lists = publisher(stack, delta=True)
        await lists.load()
        await lists.publish_now()
        assert base_of(lists) == lists.get("1.crl").number > first


async def test_changes_forgotten_while_the_full_list_is_made_cost_one_round(tmp_path: Path) -> None:
    """A delta that lacks a change would call a revoked certificate good."""
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack, delta=True)
        first = base_of(lists)
        sign = stack.signer.sign

        async def forgetting(message: bytes, *, priority: Priority = Priority.BULK) -> bytes:
            stack.status.forget_changes(stack.clock.now_ms() + 3_600_000)
            return await sign(message, priority=priority)

        await stack.revoker.revoke((await stack.issue()).serial_number, Reason.SUPERSEDED, "test")
        stack.signer.sign = forgetting  # type: ignore[method-assign]
        await lists.publish_due()
        assert base_of(lists) == first
        assert "new full list" in {health.name: health.failure for health in lists.health()}["1-delta.crl"]


async def test_a_delta_is_found_again_after_a_restart_without_the_token(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        served = (await loaded(stack, delta=True)).get("1-delta.crl")
    async with status_stack(tmp_path) as stack:
        stack.signer.unplugged = True
        lists = publisher(stack, delta=True)
        await lists.load()
        assert lists.get("1-delta.crl") == served


async def test_each_of_two_shards_says_that_it_is_one(tmp_path: Path) -> None:
    """Without issuingDistributionPoint a shard would pass for the full list (RFC 5280 section 5.2.5)."""
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack, shards=2)
        for index in range(2):
            name = f"1-{index}of2.crl"
            point = read(lists.get(name)).extensions.get_extension_for_class(x509.IssuingDistributionPoint)
            assert point.critical
            assert point.value.full_name == [x509.UniformResourceIdentifier(URL + name)]


async def test_the_number_of_shards_has_an_end(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        number = stack.generations.active.number
        for index in range(65):
            serial = new_serial(stack.clock.now_ms(), index.to_bytes(12, "big"))
            stack.status._table(number, serial).put(serial, stack.clock.now_ms(), Reason.SUPERSEDED)
        lists = await loaded(stack, shard_entries=1)
        assert lists.publication_for(63).crl_urls == (URL + "1-63of64.crl",)


async def test_a_certificate_says_where_its_issuer_is(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack, issuer_urls=("http://pki.test/{generation}-{key}.cer",))
        publication = lists.publication_for(5)
        key = stack.generations.active.ca.key_identifier.hex()
        assert publication.issuer_urls == (f"http://pki.test/1-{key}.cer",)
        assert publication.delta_crl_urls == ()


async def test_a_list_of_the_offline_root_is_served_before_anything_was_published(tmp_path: Path) -> None:
    path = tmp_path / "root.crl"
    path.write_bytes(parent_crl())
    async with status_stack(tmp_path, demo=False) as stack:
        await below_the_plant_root(stack)
        lists = publisher(stack, parents=(path,))
        await lists.load()
        assert lists.get("root.crl").number == 7


@pytest.mark.parametrize("options", [{"interval_s": 1}, {"interval_s": 7 * 86_400 - 1}, {"shards": 2}, {"shards": 64}])
async def test_options_at_their_limits_are_taken(tmp_path: Path, options: dict[str, object]) -> None:
    async with status_stack(tmp_path, demo=False) as stack:
        publisher(stack, **options)


def test_the_example_configuration_shows_what_lists_are_made_by_default() -> None:
    example = tomllib.loads((Path(__file__).parents[2] / "config.example.toml").read_text())["crl"]
    options = CrlOptions(Path("crl"))
    assert (example["validity_hours"] * 3600, example["interval_hours"] * 3600) == (options.validity_s, options.interval_s)
    assert (example["delta"], example["shards"], example["shard_entries"]) == (
        options.delta,
        options.shards,
        options.shard_entries,
    )


async def test_a_full_list_made_anew_within_its_period_costs_no_new_delta(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        delta = (await loaded(stack, delta=True)).get("1-delta.crl")
    (tmp_path / "crl" / "1.crl").unlink()  # the cache lost it; the base that the journal knows stays
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack, delta=True)
        assert stack.signer.operations == 1
        assert lists.get("1-delta.crl") == delta


async def test_changes_before_every_base_are_forgotten(tmp_path: Path) -> None:
    """They are on no delta any more, and memory has an end."""
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack, delta=True)
        await stack.revoker.revoke((await stack.issue()).serial_number, Reason.SUPERSEDED, "test")
        first = stack.status.changes_from_ms
        stack.time.advance(days=2)
        await lists.publish_due()
        assert stack.status.changes_from_ms > first
        assert stack.status.changed_entries(1, stack.status.changes_from_ms) == []


async def test_the_first_revocation_after_a_restart_does_not_wait_for_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = StoppedTime()
    monkeypatch.setattr(crl, "time", time)
    async with status_stack(tmp_path) as stack:
        await loaded(stack)
    async with status_stack(tmp_path) as stack:
        lists = await loaded(stack, coalesce_s=1.0, build_share=20.0)
        await stack.revoker.revoke((await stack.issue()).serial_number, Reason.SUPERSEDED, "test")
        assert await lists.publish_due() == 1.0


async def test_a_list_that_central_brought_is_served_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "plant-root.crl"
    path.write_bytes(parent_crl())
    async with status_stack(tmp_path, demo=False) as stack:
        await below_the_plant_root(stack)
        lists = await loaded(stack)
        task = asyncio.create_task(lists.run())
        await asyncio.sleep(0)
        lists.serve_also(path)
        async with asyncio.timeout(30):  # the loop would look by itself after a minute
            while "plant-root.crl" not in lists.names():
                await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])
        assert lists.get("plant-root.crl").number == 7


@pytest.mark.parametrize(("revoked", "shards"), [(2, 1), (3, 8), (16, 8), (17, 64)])
async def test_shards_are_added_when_each_would_hold_more_than_configured(tmp_path: Path, revoked: int, shards: int) -> None:
    async with status_stack(tmp_path) as stack:
        number = stack.generations.active.number
        for index in range(revoked):
            serial = new_serial(stack.clock.now_ms(), index.to_bytes(12, "big"))
            stack.status._table(number, serial).put(serial, stack.clock.now_ms(), Reason.SUPERSEDED)
        lists = await loaded(stack, shard_entries=2)
        assert lists.publication_for(0).crl_urls == (URL + ("1.crl" if shards == 1 else f"1-0of{shards}.crl"),)

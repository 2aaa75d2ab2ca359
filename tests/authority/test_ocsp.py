"""OCSP answers: what is true, signed by nobody's HSM, and quick when it was asked before."""

import asyncio
import base64
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from gateway.authority.delegated import DelegatedKeys, DelegatedSpec
from gateway.authority.ocsp import OcspAnswer, OcspOptions, OcspResponder
from gateway.authority.requests import Issued
from gateway.errors import IntegrityError, JournalFailed
from gateway.journal.records import Record
from gateway.keys.signer import KeySpec
from gateway.pki.crl import Reason
from gateway.pki.names import name_from_text
from gateway.pki.tbs import new_serial
from tests.support.authority import authority_in, enrollment
from tests.support.ceremony_root import root_certificate, sub_ca
from tests.support.status_stack import OPERATOR, StatusStack, status_stack

DAY_MS = 86_400_000


async def responder(stack: StatusStack, **options: int) -> OcspResponder:
    keys = DelegatedKeys(
        keys=stack.ring.software,
        directory=stack.directory / "delegated",
        journal=stack.journal,
        status=stack.status,
        clock=stack.clock,
        enroll=stack.enroll,
    )
    subject = name_from_text("CN=OCSP responder")
    keys.want(DelegatedSpec(f"ocsp-{g.number}", "ocsp-responder", subject, generation=g.number) for g in stack.generations.all)
    await keys.renew_due()
    return OcspResponder(
        generations=stack.generations,
        status=stack.status,
        journal=stack.journal,
        clock=stack.clock,
        responder=lambda number: keys.find(f"ocsp-{number}"),
        options=OcspOptions(**options),
    )


def request_for(
    stack: StatusStack,
    *serials: int,
    nonce: bytes | None = None,
    algorithm: hashes.HashAlgorithm | None = None,
    generation: int | None = None,
) -> bytes:
    chosen = stack.generations.active if generation is None else stack.generations.get(generation)
    assert chosen is not None
    return request_of(chosen.ca.certificate, *serials, nonce=nonce, algorithm=algorithm)


def request_of(
    issuer: x509.Certificate, serial: int, *, nonce: bytes | None = None, algorithm: hashes.HashAlgorithm | None = None
) -> bytes:
    chosen = algorithm or hashes.SHA1()  # what clients send
    name_hash = hashes.Hash(chosen)
    name_hash.update(issuer.subject.public_bytes())
    key_hash = hashes.Hash(chosen)
    key_hash.update(_key_bits(issuer))
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(name_hash.finalize(), key_hash.finalize(), serial, chosen)
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
    return builder.build().public_bytes(Encoding.DER)


def _key_bits(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import PublicFormat

    return certificate.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)


def read(answer: OcspAnswer) -> ocsp.OCSPResponse:
    return ocsp.load_der_ocsp_response(answer.der)


async def test_openssl_agrees_on_good_revoked_held_released_void_and_unknown(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        good, revoked, held, released = [await stack.issue(name) for name in ("good", "revoked", "held", "released")]
        await stack.revoker.revoke(revoked.serial_number, Reason.KEY_COMPROMISE, "test")
        for certificate in (held, released):
            await stack.revoker.hold(certificate.serial_number, "test")
        await stack.revoker.release(released.serial_number, "test")
        void = new_serial(stack.clock.now_ms(), bytes(12))
        await stack.void(void)
        service = await responder(stack)
        stack.write_chain()
        asked = {
            good.serial_number: "good",
            revoked.serial_number: "revoked",
            held.serial_number: "revoked",
            released.serial_number: "good",
            void: "revoked",
            4711: "unknown",
        }
        texts = {}
        checks = ("-respin", "answer.der", "-CAfile", "root.pem", "-verify_other", "ca.pem")
        for serial, state in asked.items():
            ids = ("-issuer", "ca.pem", "-serial", hex(serial))
            for nonce in ((), ("-no_nonce",)):
                stack.openssl("ocsp", *ids, *nonce, "-reqout", "request.der")
                answer = await service.answer((tmp_path / "request.der").read_bytes())
                (tmp_path / "answer.der").write_bytes(answer.der)
                verdict = stack.openssl("ocsp", "-reqin", "request.der", *checks)
                assert verdict.strip() == "Response verify OK"
            texts[serial] = stack.openssl("ocsp", *ids, "-no_nonce", *checks)
            assert f"{serial:#x}: {state}" in texts[serial].lower()
        assert "keyCompromise" in texts[revoked.serial_number]
        assert "certificateHold" in texts[held.serial_number]
        assert "Reason" not in texts[void]


async def test_no_answer_costs_an_operation_of_the_token(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        service = await responder(stack)
        certificates = [await stack.issue() for _ in range(5)]
        await stack.revoker.revoke(certificates[0].serial_number, Reason.SUPERSEDED, "test")
        stack.signer.unplugged = True
        before = stack.signer.operations
        for certificate in certificates:
            for nonce in (None, bytes(32)):
                answer = await service.answer(request_for(stack, certificate.serial_number, nonce=nonce))
                assert read(answer).response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
        assert stack.signer.operations == before


@pytest.mark.parametrize("algorithm", [hashes.SHA1(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
async def test_every_common_hash_names_the_issuer(tmp_path: Path, algorithm: hashes.HashAlgorithm) -> None:
    async with status_stack(tmp_path) as stack:
        service = await responder(stack)
        certificate = await stack.issue()
        answer = read(await service.answer(request_for(stack, certificate.serial_number, algorithm=algorithm)))
        assert answer.certificate_status is ocsp.OCSPCertStatus.GOOD


class CountingJournal:
    def __init__(self, stack: StatusStack) -> None:
        self._journal = stack.journal
        self.reads = 0

    async def by_serial(self, serial: int) -> tuple[Record, ...]:
        self.reads += 1
        return await self._journal.by_serial(serial)


async def counting(stack: StatusStack, **options: int) -> tuple[OcspResponder, CountingJournal]:
    service = await responder(stack, **options)
    journal = CountingJournal(stack)
    service._journal = journal
    return service, journal


async def test_the_same_request_is_answered_from_memory(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        service, journal = await counting(stack)
        request = request_for(stack, (await stack.issue()).serial_number)
        assert service.at_hand(request) is None
        first = await service.answer(request)
        assert service.at_hand(request) is first
        assert await service.answer(request) is first
        assert first.cacheable
        assert first.next_update_ms - first.this_update_ms == DAY_MS // 2
        assert journal.reads == 1


async def test_a_kept_answer_is_replaced_when_half_its_time_is_over(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        service, _ = await counting(stack)
        request = request_for(stack, (await stack.issue()).serial_number)
        first = await service.answer(request)
        stack.time.advance(hours=5)
        assert await service.answer(request) is first
        stack.time.advance(hours=2)
        assert (await service.answer(request)).this_update_ms > first.this_update_ms


async def test_a_revocation_forgets_the_kept_answers_of_its_serial_alone(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        service, _ = await counting(stack)
        one, two = await stack.issue(), await stack.issue()
        requests = [request_for(stack, certificate.serial_number) for certificate in (one, two)]
        sha256 = request_for(stack, one.serial_number, algorithm=hashes.SHA256())
        before = [await service.answer(request) for request in requests]
        await service.answer(sha256)
        await stack.revoker.hold(one.serial_number, "test")
        for request in (requests[0], sha256):
            assert read(await service.answer(request)).certificate_status is ocsp.OCSPCertStatus.REVOKED
        assert await service.answer(requests[1]) is before[1]
        await stack.revoker.release(one.serial_number, "test")
        assert read(await service.answer(requests[0])).certificate_status is ocsp.OCSPCertStatus.GOOD


async def test_an_answer_made_while_a_revocation_came_in_is_not_kept(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        service = await responder(stack)
        certificate = await stack.issue()
        looked, go = asyncio.Event(), asyncio.Event()

        class Journal:
            async def by_serial(self, serial: int) -> tuple[Record, ...]:
                looked.set()
                await go.wait()
                return await stack.journal.by_serial(serial)

        service._journal = Journal()
        request = request_for(stack, certificate.serial_number)
        task = asyncio.create_task(service.answer(request))
        await looked.wait()
        await stack.revoker.revoke(certificate.serial_number, Reason.SUPERSEDED, "test")
        go.set()
        assert read(await task).certificate_status is ocsp.OCSPCertStatus.REVOKED
        assert service._kept == {}


async def test_the_kept_answers_are_bounded_and_the_oldest_unused_goes_first(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        service, journal = await counting(stack, cache_size=3)
        requests = [request_for(stack, (await stack.issue()).serial_number) for _ in range(4)]
        for request in requests[:3]:
            await service.answer(request)
        await service.answer(requests[0])
        await service.answer(requests[3])
        assert journal.reads == 4
        await service.answer(requests[0])
        assert journal.reads == 4
        assert service.at_hand(requests[1]) is None
        assert service.at_hand(requests[2]) is not None
        await service.answer(requests[1])
        assert len(service._kept) == len(service._requests) == len(service._issued) == 3


async def test_made_up_serials_are_not_kept(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        service, _ = await counting(stack)
        for serial in range(1, 20):
            answer = await service.answer(request_for(stack, serial))
            assert read(answer).certificate_status is ocsp.OCSPCertStatus.UNKNOWN
            assert not answer.cacheable
        assert service._kept == {}


async def test_a_serial_is_unknown_until_its_certificate_is_recorded(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        service = await responder(stack)
        serial = new_serial(stack.clock.now_ms(), bytes(12))
        await stack.plan(serial)
        answer = await service.answer(request_for(stack, serial))
        assert read(answer).certificate_status is ocsp.OCSPCertStatus.UNKNOWN


async def test_a_nonce_comes_back_in_an_answer_of_its_own(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        service = await responder(stack)
        serial = (await stack.issue()).serial_number
        nonce = bytes(range(32))
        answer = await service.answer(request_for(stack, serial, nonce=nonce))
        assert read(answer).extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == nonce
        assert not answer.cacheable
        assert service._kept == {}


async def test_a_flood_of_nonces_asks_the_journal_once(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        service, journal = await counting(stack)
        serial = (await stack.issue()).serial_number
        for number in range(20):
            await service.answer(request_for(stack, serial, nonce=bytes((number,)) * 32))
        assert journal.reads == 1
        await stack.revoker.revoke(serial, Reason.SUPERSEDED, "test")
        answer = read(await service.answer(request_for(stack, serial, nonce=bytes(32))))
        assert answer.certificate_status is ocsp.OCSPCertStatus.REVOKED


async def test_other_issuers_are_not_ours_to_answer_for(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        service = await responder(stack)
        other = x509.load_der_x509_certificate(root_certificate())
        answer = read(await service.answer(request_of(other, 1)))
        assert answer.response_status is ocsp.OCSPResponseStatus.UNAUTHORIZED
        assert (await service.answer(request_of(other, 1))).next_update_ms == 0


@pytest.mark.parametrize("data", [b"", b"0", b"\x30\x00", base64.b64encode(b"\x30\x03\x02\x01\x05"), bytes(40_000)])
async def test_bad_bytes_get_malformed_request(tmp_path: Path, data: bytes) -> None:
    async with status_stack(tmp_path) as stack:
        service = await responder(stack)
        answer = read(await service.answer(data))
        assert answer.response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST


async def test_without_a_responder_certificate_clients_are_told_to_come_back(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        stack.signer.unplugged = True
        service = await responder(stack)
        answer = read(await service.answer(request_for(stack, 1)))
        assert answer.response_status is ocsp.OCSPResponseStatus.TRY_LATER


async def test_no_answer_outlives_the_responder_certificate(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        service = await responder(stack, validity_s=30 * 86_400)
        request = request_for(stack, (await stack.issue()).serial_number)
        answer = await service.answer(request)
        certificate = read(answer).certificates[0]
        assert answer.next_update_ms == int(certificate.not_valid_after_utc.timestamp()) * 1000
        stack.time.advance(days=8)
        assert read(await service.answer(request)).response_status is ocsp.OCSPResponseStatus.TRY_LATER


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (JournalFailed("EIO"), ocsp.OCSPResponseStatus.TRY_LATER),
        (IntegrityError("contradiction"), ocsp.OCSPResponseStatus.INTERNAL_ERROR),
    ],
)
async def test_trouble_of_ours_is_said_in_ocsp_words(tmp_path: Path, error: Exception, status: ocsp.OCSPResponseStatus) -> None:
    async with status_stack(tmp_path) as stack:
        service = await responder(stack)

        class Journal:
            async def by_serial(self, serial: int) -> tuple[Record, ...]:
                raise error

        service._journal = Journal()
        assert read(await service.answer(request_for(stack, 4711))).response_status is status


async def test_each_generation_answers_with_a_responder_of_its_own(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        old = await stack.issue()
        await stack.ceremony.renew("software:ca-2", KeySpec.P256, OPERATOR)
        step = await stack.ceremony.csr(name_from_text("CN=Plant CA 2"), OPERATOR)
        certificate, root = sub_ca(step.der)
        await stack.ceremony.import_certificate(certificate, (root,), OPERATOR)
        await stack.generations.refresh()
        new = await stack.issue()
        service = await responder(stack)
        for leaf, number in ((old, 1), (new, 2)):
            answer = read(await service.answer(request_for(stack, leaf.serial_number, generation=number)))
            assert answer.certificate_status is ocsp.OCSPCertStatus.GOOD
            issuer = stack.generations.get(number)
            assert issuer is not None
            answer.certificates[0].verify_directly_issued_by(issuer.ca.certificate)
            other = read(await service.answer(request_for(stack, leaf.serial_number, generation=3 - number)))
            assert other.certificate_status is ocsp.OCSPCertStatus.UNKNOWN


async def test_several_certificates_in_one_request_are_all_answered(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        service = await responder(stack)
        one, two = await stack.issue(), await stack.issue()
        await stack.revoker.revoke(two.serial_number, Reason.SUPERSEDED, "test")
        stack.write_chain()
        ids = ("-issuer", "ca.pem", "-serial", hex(one.serial_number), "-serial", hex(two.serial_number))
        stack.openssl("ocsp", *ids, "-serial", "77", "-no_nonce", "-reqout", "request.der")
        answer = await service.answer((tmp_path / "request.der").read_bytes())
        (tmp_path / "answer.der").write_bytes(answer.der)
        chain = ("-CAfile", "root.pem", "-verify_other", "ca.pem")
        text = stack.openssl("ocsp", *ids, "-serial", "77", "-no_nonce", "-respin", "answer.der", *chain).lower()
        assert f"{one.serial_number:#x}: good" in text
        assert f"{two.serial_number:#x}: revoked" in text
        assert "77: unknown" in text


async def test_serials_no_certificate_can_have_are_unknown_and_never_looked_up(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        service, journal = await counting(stack)
        answer = read(await service.answer(request_for(stack, 0)))
        assert answer.certificate_status is ocsp.OCSPCertStatus.UNKNOWN
        assert journal.reads == 0


async def test_what_was_asked_last_is_remembered_longest(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        service, journal = await counting(stack, cache_size=1)
        for serial in [(await stack.issue()).serial_number for _ in range(2)]:
            reads = journal.reads
            for number in range(3):  # a nonce each, so no kept answer helps
                await service.answer(request_for(stack, serial, nonce=bytes((number,)) * 32))
            assert journal.reads == reads + 1


async def test_a_kept_answer_is_good_until_half_its_time_is_over(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        await world.authority.delegated.renew_due()
        outcome = await world.authority.enroll(enrollment())
        assert isinstance(outcome, Issued)
        request = request_of(world.authority.generations.active.ca.certificate, outcome.serial)
        answer = await world.authority.ocsp(request)
        world.clock.advance((answer.next_update_ms - answer.this_update_ms) // 2 - 1)
        assert world.authority.ocsp_at_hand(request) == answer
        world.clock.advance(1)
        assert world.authority.ocsp_at_hand(request) is None


async def test_a_responder_certificate_signs_until_its_last_second(tmp_path: Path) -> None:
    """An answer may not outlive it, and one that is good for less than a second helps nobody."""
    async with authority_in(tmp_path) as world:
        await world.authority.delegated.renew_due()
        request = request_of(world.authority.generations.active.ca.certificate, 1)
        world.clock.advance(world.authority.delegated.current("ocsp-1").not_after_ms - world.clock.now_ms() - 1001)
        assert read(await world.authority.ocsp(request)).response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
        world.clock.advance(1)
        assert read(await world.authority.ocsp(request)).response_status is ocsp.OCSPResponseStatus.TRY_LATER


async def test_an_error_is_never_kept_by_anybody_on_the_way(tmp_path: Path) -> None:
    """A cache that kept "try later" would keep a factory from its status answers."""
    async with status_stack(tmp_path) as stack:
        service = await responder(stack)
        serial = (await stack.issue()).serial_number
        service._responder = lambda _generation: None
        elsewhere = request_of(x509.load_der_x509_certificate(root_certificate()), serial)
        for request in (b"nonsense", elsewhere, request_for(stack, serial)):
            answer = await service.answer(request)
            assert read(answer).response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL
            assert not answer.cacheable


async def test_an_answer_that_was_made_anew_is_remembered_as_the_newest(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        service, _ = await counting(stack, cache_size=2)
        requests = [request_for(stack, (await stack.issue()).serial_number) for _ in range(3)]
        await service.answer(requests[0])
        stack.time.advance(hours=5)
        await service.answer(requests[1])
        stack.time.advance(hours=2)
        await service.answer(requests[0])  # half the time of the first is over
        await service.answer(requests[2])
        assert [service.at_hand(request) is not None for request in requests] == [True, False, True]

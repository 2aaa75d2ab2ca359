"""The parts work together: what one of them does, the others know."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509 import ocsp

from gateway.authority.requests import Issued
from gateway.errors import NotFound, SignerUnavailable
from gateway.journal.records import Void
from gateway.pki.crl import Reason
from tests.support.authority import World, activation, authority_in, enrollment


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

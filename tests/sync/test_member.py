"""The gateway's side as operators and the clock see it: renewing the CA in time, bundles, closing the journal."""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.authority.lifecycle import Ceremony
from gateway.errors import AlreadyExists, Fenced, IntegrityError, NotFound
from gateway.journal.cosignature import cosign
from gateway.journal.records import CaKeyGenerated, CaRequested, Closed, FencedByCentral
from gateway.keys.provider import KeyRing
from gateway.keys.wrapping import WrappingKey
from sync.bundle import DESIRED, DOWN, RECEIPT, UP, BundleReader, BundleWriter, decrypt, is_sealed
from sync.desired import CaCertificate
from sync.joining import JoinAnswer, sign_answer
from sync.member import Member, MemberOptions, next_key, stopped_for_good
from sync.orders import remembered
from tests.support.authority import DAY_MS, START_MS, World, activation, authority_in, enrollment
from tests.sync.test_orders import JOINED, KEY, LOCAL, OWN, ROOT, VKEY, document

CHECKPOINT_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32, 64)))  # of tests.support.authority


@asynccontextmanager
async def membership(directory: Path, *, joined: bool = True, activate: bool = True) -> AsyncIterator[tuple[World, Member]]:
    async with authority_in(directory, root=ROOT, policy=LOCAL, activate=activate) as world:
        if joined and not [payload async for payload in _of(world, type(JOINED))]:
            await world.journal.append(JOINED)
        memory = await remembered(cast(Any, world.journal), directory)
        ring = KeyRing(directory / "keys", WrappingKey(bytes(range(32))))

        async def activated() -> None:
            await world.authority.refresh_generations()

        yield world, Member(
            MemberOptions("plant", "software:ca", directory), memory,
            journal=cast(Any, world.journal), authority=world.authority,
            ceremony=Ceremony(cast(Any, world.journal), ring, world.clock), keys=world.keys, key=CHECKPOINT_KEY,
            clock=world.clock, local=LOCAL, own=OWN, activated=activated,
        )  # fmt: skip
        await ring.close()


async def _of(world: World, kind: type[Any]) -> AsyncIterator[Any]:
    async for record in world.journal.inner.scan(kind):
        yield record.payload


async def test_the_next_ca_is_asked_for_once_in_time_and_takes_over_when_central_certified_it(tmp_path: Path) -> None:
    async with membership(tmp_path, activate=False) as (world, member):
        await world.journal.append(CaKeyGenerated(1, "software:ca", b"spki", "test"), activation(ROOT, world.keys))
        await world.authority.refresh_generations()
        first = world.authority.generations.active
        await member._renew_ca()
        assert [each async for each in _of(world, CaRequested)] == []  # far too early
        world.clock.advance(2500 * DAY_MS)
        await member._renew_ca()
        await member._renew_ca()
        (asked,) = [each async for each in _of(world, CaRequested)]
        assert asked.generation == 2
        csr = x509.load_der_x509_csr(asked.csr)
        assert csr.subject == first.ca.certificate.subject
        pem = x509.load_der_x509_certificate(ROOT.subordinate("Next", csr.public_key())).public_bytes(Encoding.PEM).decode()
        root = ROOT.certificate.public_bytes(Encoding.PEM).decode()
        await member._orders.take(document(1, expires=0, ca_certificates=(CaCertificate(pem, (root,)),)), JOINED)
        assert member.report()["trouble"] == ""
        assert world.authority.generations.active.number == 2
        assert len(world.authority.generations.all) == 2  # the old one still answers for what it issued


def test_a_generation_has_a_key_of_its_own() -> None:
    assert next_key("software:ca", 2) == "software:ca-2"
    assert "object=ca-3" in next_key("pkcs11:token=t;object=ca?module-path=/m.so", 3)


async def test_a_bundle_holds_what_central_has_not_confirmed(tmp_path: Path) -> None:
    async with membership(tmp_path) as (world, member):
        await world.authority.enroll(enrollment())
        made = await member.export_bundle(tmp_path / "one.bundle", since=None, operator="anna")
        reader = BundleReader((tmp_path / "one.bundle").read_bytes())
        manifest = reader.verified(UP, world.journal.genesis.verifier_key)
        records = [record for batch in reader.batches() for record in batch.records]
        assert records == await world.journal.read(0, manifest.stop)
        assert (made["start"], made["stop"], made["left"]) == (0, manifest.stop, 0)
        with pytest.raises(AlreadyExists):
            await member.export_bundle(tmp_path / "one.bundle", since=None, operator="anna")

        last = list(reader.batches())[-1]
        answer = BundleWriter()
        answer.add(RECEIPT, cosign(last.checkpoint, "central", KEY, START_MS // 1000).encode())
        answer.add(DESIRED, document(1, quotas={"ldevid": 5}))
        facts: dict[str, Any] = {"origin": "gateway.test/1", "start": 0, "stop": 0, "size": 0, "made": START_MS}
        (tmp_path / "answer").write_bytes(answer.finish(DOWN, facts, "central", KEY))
        for _ in range(2):  # repeated imports are harmless
            done = await member.import_bundle(tmp_path / "answer", operator="anna")
        assert done == {"confirmed": manifest.stop, "applied": 1}
        again = await member.export_bundle(tmp_path / "two.bundle", since=None, operator="anna")
        assert again["start"] == manifest.stop  # only what is new


async def test_an_answer_of_another_central_or_for_another_gateway_is_refused(tmp_path: Path) -> None:
    facts: dict[str, Any] = {"origin": "another/1", "start": 0, "stop": 0, "size": 0, "made": START_MS}
    async with membership(tmp_path) as (_, member):
        (tmp_path / "foreign").write_bytes(BundleWriter().finish(DOWN, facts, "central", KEY))
        with pytest.raises(NotFound, match="another/1"):
            await member.import_bundle(tmp_path / "foreign", operator="anna")
        thief = Ed25519PrivateKey.generate()
        (tmp_path / "forged").write_bytes(BundleWriter().finish(DOWN, facts, "central", thief))
        with pytest.raises(IntegrityError):
            await member.import_bundle(tmp_path / "forged", operator="anna")


async def test_a_gateway_on_its_own_has_nobody_to_carry_to(tmp_path: Path) -> None:
    async with membership(tmp_path, joined=False) as (_, member):
        assert member.report()["joined"] is False
        with pytest.raises(NotFound):
            await member.export_bundle(tmp_path / "x", since=None, operator="anna")
        with pytest.raises(NotFound):
            await member.import_bundle(tmp_path / "x", operator="anna")


class Answered:
    """The part of the answer to a join that is of interest here, as central signed it."""

    def __init__(self, pem: str) -> None:
        answer = JoinAnswer(bytes(32), "gateway.test/1", "central", VKEY, b"e", b"root", (), b"c", (), b"d", pem)
        self.statement = sign_answer(answer, "central", KEY)


def recipients() -> list[tuple[str, x509.Certificate, rsa.RSAPrivateKey]]:
    """Two readers of bundles: PEM, certificate, key."""
    found = []
    for serial in (5, 6):
        key = rsa.generate_private_key(65537, 2048)
        name = x509.Name.from_rfc4514_string("CN=central")
        now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        builder = x509.CertificateBuilder(name, name, key.public_key(), serial, now, now + datetime.timedelta(days=1))
        certificate = builder.sign(key, hashes.SHA256())
        found.append((certificate.public_bytes(Encoding.PEM).decode(), certificate, key))
    return found


async def test_a_bundle_is_for_the_reader_that_central_named_last(tmp_path: Path) -> None:
    (first, *first_key), (second, *second_key) = recipients()
    async with membership(tmp_path) as (world, member):

        async def carried(name: str, *, plain: bool = False) -> bytes:
            made = await member.export_bundle(tmp_path / name, since=0, plain=plain, operator="anna")
            content = (tmp_path / name).read_bytes()
            assert made["encrypted"] is is_sealed(content)
            return content

        def check(archive: bytes) -> None:
            BundleReader(archive).verified(UP, world.journal.genesis.verifier_key)

        check(await carried("unknown"))
        (tmp_path / "join-answer").write_bytes(Answered(first).statement)
        check(decrypt(await carried("joined"), *first_key))  # type: ignore[arg-type]
        await member._orders.take(document(1, bundle_certificate=second), JOINED)
        check(decrypt(await carried("document"), *second_key))  # type: ignore[arg-type]
        check(await carried("plain", plain=True))
        await member._orders.take(document(2), JOINED)  # central has no such key any more
        check(await carried("none"))


async def test_a_reader_that_central_did_not_sign_is_not_believed(tmp_path: Path) -> None:
    (pem, *_), _ = recipients()
    async with membership(tmp_path) as (_, member):
        statement = Answered(pem).statement
        (tmp_path / "join-answer").write_bytes(statement.replace(b"gateway.test/1", b"gateway.test/2"))
        made = await member.export_bundle(tmp_path / "bundle", since=0, operator="anna")
        assert made["encrypted"] is False


async def test_only_our_own_lists_are_handed_over(tmp_path: Path) -> None:
    crl = x509.CertificateRevocationListBuilder().issuer_name(ROOT.certificate.subject)
    crl = crl.last_update(datetime.datetime.fromtimestamp(START_MS / 1000, datetime.UTC))
    crl = crl.next_update(datetime.datetime.fromtimestamp(START_MS / 1000 + 86400, datetime.UTC))
    (tmp_path / "parent.crl").write_bytes(crl.sign(ROOT.key, hashes.SHA256()).public_bytes(Encoding.DER))
    async with membership(tmp_path) as (world, member):
        world.authority.publisher.serve_also(tmp_path / "parent.crl")
        await world.authority.publisher.publish_due()
        assert {"1.crl", "parent.crl"} <= set(world.authority.publisher.names())  # it is served ...
        assert set(member._lists()) == {"1.crl"}  # ... and central has it from elsewhere
        await member.export_bundle(tmp_path / "bundle", since=0, operator="anna")
        assert set(BundleReader((tmp_path / "bundle").read_bytes()).entries("crl/")) == {"1.crl"}


async def test_a_closed_journal_says_its_root_and_issues_nothing_any_more_also_after_a_restart(tmp_path: Path) -> None:
    async with membership(tmp_path) as (world, member):
        head = world.journal.head
        done = await member.close_journal("new hardware", "anna")
        (closed,) = [each async for each in _of(world, Closed)]
        assert closed == Closed(head.size, head.root, "new hardware", "anna")
        assert done["size"] == head.size + 1
        with pytest.raises(Fenced):
            await world.authority.enroll(enrollment())
        await member.export_bundle(tmp_path / "last.bundle", since=None, operator="anna")  # what it has can still leave
        assert "new hardware" in await stopped_for_good(cast(Any, world.journal))
        report = member.report()
        assert (report["closed"], report["fenced"]) == ("new hardware", "")


async def test_what_central_fenced_stays_fenced(tmp_path: Path) -> None:
    async with membership(tmp_path) as (world, _):
        assert await stopped_for_good(cast(Any, world.journal)) == ""
        await world.journal.append(FencedByCentral("two of it"))
        assert await stopped_for_good(cast(Any, world.journal)) == "two of it"


async def test_a_fenced_gateway_says_so_and_makes_no_keys(tmp_path: Path) -> None:
    async with membership(tmp_path, activate=False) as (world, member):
        await world.journal.append(CaKeyGenerated(1, "software:ca", b"spki", "test"), activation(ROOT, world.keys))
        await world.authority.refresh_generations()
        assert (member.report()["fenced"], member.report()["closed"]) == ("", "")
        world.journal.inner.fence("two of it")
        assert (member.report()["fenced"], member.report()["closed"]) == ("two of it", "")
        world.clock.advance(2500 * DAY_MS)
        before = set((tmp_path / "keys").iterdir())
        await member._renew_ca()
        assert set((tmp_path / "keys").iterdir()) == before

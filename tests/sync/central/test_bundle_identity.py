"""Central's key for bundles: certified by the root, renewed in time, and good for every bundle that was made for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.errors import MalformedRequest, SignerUnavailable, TooLarge
from gateway.keys.signer import KeySpec, Priority
from sync.bundle import MOST_SEALED_OCTETS, UP, BundleReader, BundleWriter, encrypt
from sync.central.bundle_identity import KEY, BundleIdentity, bundle_certificate
from sync.central.rows import Document
from sync.desired import Desired, open_desired
from sync.document import recipient
from tests.support.authority import DAY_MS
from tests.support.central import Central, NewGateway
from tests.support.desk import open_desk
from tests.support.edge import Edge
from tests.support.served_central import Served, joined, served


def sealed(edge: Edge, certificate: bytes | None) -> bytes:
    writer = BundleWriter()
    writer.add_batch(edge.batch(0))
    facts = {"origin": edge.origin, "start": 0, "stop": edge.size, "size": edge.size, "made": 5}
    return writer.finish(UP, facts, edge.origin, edge.key, certificate)  # type: ignore[arg-type]


async def current(one: Central) -> bytes:
    async with one.store.transaction() as t:
        return recipient(await bundle_certificate(t))


async def document(one: Central, origin: str) -> Desired:
    async with one.store.transaction() as t:
        found = await t.find(Document, origin)
    assert found is not None
    return open_desired(found.content, one.authority.identity.vkey)


async def size(one: Served) -> int:
    (journal,) = await one.central.registry.gateways()
    return journal.size


async def test_the_certificate_is_the_roots_and_for_nothing_but_encrypting(tmp_path: Path) -> None:
    async with served(tmp_path) as one:
        assert await one.bundle_identity.renew_due()
        assert not await one.bundle_identity.renew_due()
        certificate = x509.load_der_x509_certificate(await current(one.central))
        certificate.verify_directly_issued_by(x509.load_der_x509_certificate(one.root))
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        assert (usage.key_encipherment, usage.digital_signature, usage.key_cert_sign) == (True, False, False)
        assert list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
            ExtendedKeyUsageOID.EMAIL_PROTECTION
        ]
        key = certificate.public_key()
        assert isinstance(key, RSAPublicKey)
        assert key.key_size == 3072


async def test_it_reaches_a_gateway_with_the_answer_to_its_join_and_with_its_document(tmp_path: Path) -> None:
    async with served(tmp_path) as one:
        early = await one.central.join(NewGateway("early/1", "CN=Early"))
        assert (early.bundle_certificate, (await document(one.central, "early/1")).bundle_certificate) == ("", "")
        await one.bundle_identity.renew_due()
        answer = await one.central.join(NewGateway())
        assert recipient(answer.bundle_certificate) == await current(one.central)
        assert open_desired(answer.desired, answer.vkey).bundle_certificate == answer.bundle_certificate
        await one.central.desired.refresh_all()  # nobody has to say that there is one now
        assert (await document(one.central, "early/1")).bundle_certificate == answer.bundle_certificate


async def test_encrypted_and_plain_bundles_are_taken(tmp_path: Path) -> None:
    async with served(tmp_path) as one:
        edge = Edge("one")
        await joined(one, edge)
        await one.bundle_identity.renew_due()
        made = sealed(edge, await current(one.central))
        assert edge.origin.encode() not in made
        for _ in range(2):
            _, manifest, answer = await one.bundles.take(made)
            assert manifest.stop == edge.size == await size(one)
            assert BundleReader(answer).claimed_origin() == edge.origin  # what goes down is signed and not encrypted
        edge.issue(1)
        await one.bundles.take(sealed(edge, None))
        assert await size(one) == edge.size


async def test_an_operator_brings_encrypted_bundles_over_rest(tmp_path: Path) -> None:
    async with open_desk(tmp_path) as desk, served(tmp_path / "other") as other:
        edge = Edge("one")
        await joined(desk.served, edge)
        await desk.served.bundle_identity.renew_due()
        await other.bundle_identity.renew_due()
        wrong = await desk.post("/bundles", sealed(edge, await current(other.central)))
        assert (wrong.status, await size(desk.served)) == (400, 0)
        answer = await desk.post("/bundles", sealed(edge, await current(desk.served.central)))
        assert answer.status == 200
        assert answer.head["Edge-Records"] == f"0-{edge.size}/{edge.size}"
        assert await size(desk.served) == edge.size


async def test_a_bundle_for_another_central_is_refused_with_nothing_taken(tmp_path: Path) -> None:
    async with served(tmp_path / "one") as one, served(tmp_path / "two") as two:
        edge = Edge("one")
        await joined(one, edge)
        await one.bundle_identity.renew_due()
        await two.bundle_identity.renew_due()
        for wrong in (
            sealed(edge, await current(two.central)),
            sealed(edge, await current(one.central))[:-20],
            b"garbage",
            b"",
        ):
            with pytest.raises(MalformedRequest, match="--plain"):
                await one.bundles.take(wrong)
        assert await size(one) == 0


async def test_what_decrypts_to_something_else_is_no_bundle(tmp_path: Path) -> None:
    async with served(tmp_path) as one:
        await one.bundle_identity.renew_due()
        with pytest.raises(MalformedRequest):
            await one.bundles.take(encrypt(b"nothing of the kind", await current(one.central)))
        with pytest.raises(TooLarge):
            await one.bundles.take(bytes(MOST_SEALED_OCTETS + 1))


async def test_a_renewed_certificate_goes_out_and_bundles_for_the_old_one_are_still_opened(tmp_path: Path) -> None:
    async with served(tmp_path) as one:
        edge = Edge("one")
        await joined(one, edge)
        await one.bundle_identity.renew_due()
        await one.central.desired.refresh_all()
        old = await current(one.central)
        one.clock.advance(300 * DAY_MS)
        assert await one.bundle_identity.renew_due()
        new = await current(one.central)
        assert old != new
        await one.central.desired.refresh_all()
        assert recipient((await document(one.central, edge.origin)).bundle_certificate) == new
        one.clock.advance(400 * DAY_MS)  # the old one has ended long ago
        restarted = BundleIdentity(one.central.store, one.central.authority, one.central.ring.software, one.clock)
        for certificate in (old, new):
            assert BundleReader(await restarted.open(sealed(edge, certificate))).claimed_origin() == edge.origin


class Away:
    """The root's key while its token is away."""

    async def ready(self) -> None:
        raise SignerUnavailable("unplugged")

    async def sign(self, message: bytes, *, priority: Priority = Priority.BULK) -> bytes:
        raise SignerUnavailable("unplugged")


async def test_while_the_root_is_away_the_certificate_in_use_stays(tmp_path: Path) -> None:
    async with served(tmp_path) as one:
        await one.bundle_identity.renew_due()
        before = await current(one.central)
        one.clock.advance(300 * DAY_MS)
        one.central.authority._signer = Away()  # type: ignore[assignment]
        with pytest.raises(SignerUnavailable):
            await one.bundle_identity.renew_due()
        await one.bundle_identity.try_renew()
        assert await current(one.central) == before
        edge = Edge("one")
        assert BundleReader(await one.bundle_identity.open(sealed(edge, before))).claimed_origin() == edge.origin


async def test_a_lost_key_is_replaced_with_its_certificate(tmp_path: Path) -> None:
    async with served(tmp_path) as one:
        await one.bundle_identity.renew_due()
        before = x509.load_der_x509_certificate(await current(one.central))
        (tmp_path / "keys" / f"{KEY}.key").unlink()
        again = BundleIdentity(one.central.store, one.central.authority, one.central.ring.software, one.clock)
        assert await again.renew_due()
        after = x509.load_der_x509_certificate(await current(one.central))
        assert after.public_key() != before.public_key()
        key = one.central.ring.software.load_or_generate(KEY, KeySpec.RSA_3072)
        assert key.public_key() == after.public_key()
        with pytest.raises(MalformedRequest, match="encrypted to another central"):
            await again.open(sealed(Edge("one"), before.public_bytes(Encoding.DER)))

"""Central's root: what it signs is planned before and recorded before it leaves, and openssl believes it."""

from __future__ import annotations

import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.errors import AlreadyExists, ConfigError, Conflict, NotReady, OperatorError, SignerUnavailable
from gateway.keys.signer import KeySpec, Priority
from gateway.pki.algorithms import signature_is_valid
from gateway.pki.crl import Reason
from gateway.pki.csr import read_csr
from sync.central.authority import ROOT, ROOT_LIST, SUB_CA, AuthorityOptions, CentralAuthority, Identity
from sync.central.founding import Foundation
from sync.central.rows import Crl, RootIssuance
from sync.central.store_sqlite import SqliteStore
from sync.joining import endorsement_message
from tests.support.authority import DAY_MS, SteppedClock
from tests.support.central import BASE_URL, NAME, ROOT_SUBJECT, Central, NewGateway, central, keyring
from tests.support.ceremony_root import root_certificate, sub_ca
from tests.support.key_places import token_place
from tests.support.tokens import softhsm_store, softhsm_token


async def rows(one: Central) -> list[RootIssuance]:
    async with one.store.transaction() as t:
        return await t.select(RootIssuance)


async def certify(one: Central, gateway: NewGateway, **options: str) -> x509.Certificate:
    request = read_csr(gateway.csr().public_bytes(Encoding.DER))
    return x509.load_der_x509_certificate(await one.authority.issue_sub_ca(request, gateway.origin, **options))


def openssl(directory: Path, *arguments: str, code: int = 0) -> str:
    done = subprocess.run(["openssl", *arguments], cwd=directory, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def write_pem(path: Path, der: bytes) -> None:
    path.write_bytes(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM))


async def test_a_sub_ca_lies_below_the_root_and_can_make_no_further_cas(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        certificate = await certify(one, NewGateway())
        root = x509.load_der_x509_certificate(one.authority.identity.certificate)
        certificate.verify_directly_issued_by(root)
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        assert constraints.critical
        assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
        assert [name.value for name in points[0].full_name or ()] == [f"{BASE_URL}/crl/{ROOT_LIST}"]
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
        assert access[0].access_location.value == f"{BASE_URL}/ca/{one.authority.root.key_identifier.hex()}.cer"
        assert certificate.not_valid_after_utc - certificate.not_valid_before_utc == timedelta(days=90, minutes=5)
        write_pem(tmp_path / "root.pem", one.authority.identity.certificate)
        write_pem(tmp_path / "sub.pem", certificate.public_bytes(Encoding.DER))
        openssl(tmp_path, "verify", "-x509_strict", "-attime", "1790000001", "-CAfile", "root.pem", "sub.pem")


async def test_what_leaves_was_planned_and_is_recorded(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        certificate = await certify(one, NewGateway())
        found = await rows(one)
        assert {row.profile for row in found} == {ROOT, SUB_CA}
        (row,) = (row for row in found if row.profile == SUB_CA)
        assert row.certificate == certificate.public_bytes(Encoding.DER)
        assert row.tbs == certificate.tbs_certificate_bytes
        assert int.from_bytes(row.serial, "big") == certificate.serial_number
        assert (row.origin, row.subject) == (NewGateway().origin, "CN=Plant 7 Issuing CA")


class Watched:
    """The root's signer with an eye on what is in the database when it is asked."""

    def __init__(self, one: Central, *, fail: bool = False) -> None:
        self.one, self.fail, self.planned, self.inner = one, fail, 0, one.authority.signer()
        self.public_key, self.algorithm = self.inner.public_key, self.inner.algorithm

    async def ready(self) -> None: ...

    async def sign(self, message: bytes, *, priority: Priority = Priority.BULK) -> bytes:
        self.planned = sum(row.tbs == message and not row.certificate for row in await rows(self.one))
        if self.fail:
            raise SignerUnavailable("unplugged")
        return await self.inner.sign(message, priority=priority)


async def test_the_plan_is_durable_before_the_key_is_asked(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        one.authority._signer = watched = Watched(one)  # type: ignore[assignment]
        await certify(one, NewGateway())
        assert watched.planned == 1


async def test_a_plan_that_was_never_signed_goes_on_the_list(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        whole = one.authority._signer
        one.authority._signer = Watched(one, fail=True)  # type: ignore[assignment]
        with pytest.raises(SignerUnavailable):
            await certify(one, NewGateway())
        one.authority._signer = whole
        (row,) = (row for row in await rows(one) if not row.certificate)
        serial = int.from_bytes(row.serial, "big")
        first = x509.load_der_x509_crl((await one.authority.publish_list()).content)
        assert first.get_revoked_certificate_by_serial_number(serial) is None  # somebody may still be signing
        one.clock.advance(700_000)
        second = x509.load_der_x509_crl((await one.authority.publish_list(now=True)).content)
        assert second.get_revoked_certificate_by_serial_number(serial) is not None


async def test_the_same_key_gets_the_same_certificate(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        gateway = NewGateway()
        first = await certify(one, gateway)
        assert await certify(one, gateway) == first
        one.clock.advance(61 * DAY_MS)
        assert await certify(one, gateway) != first


async def test_neither_key_nor_name_of_another_gateways_ca_is_certified(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        first = NewGateway()
        await certify(one, first)
        with pytest.raises(Conflict, match="belongs to another gateway"):
            await certify(one, NewGateway(origin="plant-8/1", ca_key=first.ca_key))
        with pytest.raises(Conflict, match="name of another gateway"):
            await certify(one, NewGateway(origin="plant-8/1"))
        await certify(one, NewGateway(origin="plant-8/1"), replaces=first.origin)
        with pytest.raises(OperatorError, match="CA above"):
            await certify(one, NewGateway(origin="plant-9/1", subject="CN=Central Root CA,O=Test"))
        with pytest.raises(OperatorError, match="name"):
            await certify(one, NewGateway(origin="plant-9/1", subject=""))


async def test_a_revoked_sub_ca_is_on_the_roots_list(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        certificate = await certify(one, NewGateway())
        before = await one.authority.publish_list()
        await one.authority.revoke(certificate.serial_number, Reason.CA_COMPROMISE)
        await one.authority.revoke(certificate.serial_number, Reason.SUPERSEDED)  # stays as it was
        async with one.store.transaction() as t:
            after = await t.find(Crl, one.authority.root.key_identifier, ROOT_LIST)
        assert after is not None
        assert after.number > before.number
        write_pem(tmp_path / "root.pem", one.authority.identity.certificate)
        write_pem(tmp_path / "sub.pem", certificate.public_bytes(Encoding.DER))
        (tmp_path / "root.crl").write_bytes(x509.load_der_x509_crl(after.content).public_bytes(Encoding.PEM))
        said = openssl(
            tmp_path, "verify", "-crl_check", "-attime", "1790000001", "-CRLfile", "root.crl", "-CAfile", "root.pem",
            "sub.pem", code=2,
        )  # fmt: skip
        assert "certificate revoked" in said
        with pytest.raises(Conflict):
            await one.authority.revoke(1, Reason.SUPERSEDED)
        with pytest.raises(Conflict):
            await one.authority.revoke(one.authority.root.certificate.serial_number, Reason.SUPERSEDED)


async def test_the_list_is_made_again_when_half_its_time_is_over(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        first = await one.authority.publish_list()
        assert await one.authority.publish_list() == first
        one.clock.advance(16 * DAY_MS)
        assert (await one.authority.publish_list()).number > first.number


async def test_a_central_is_founded_once_and_opens_again(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        identity = one.authority.identity
        with pytest.raises(AlreadyExists):
            await Foundation(one.store, one.ring, one.clock).begin(NAME, "software:root", KeySpec.P256)
        assert signature_is_valid(
            one.authority.root.public_key,
            one.authority.root.algorithm,
            identity.endorsement,
            endorsement_message(identity.vkey),
        )
        with pytest.raises(ConfigError, match="cannot be changed"):
            await CentralAuthority.open(one.store, one.ring, one.clock, AuthorityOptions("other"))
    async with central(tmp_path, found=False) as again:
        assert again.authority.identity == identity
        root = again.authority.root.certificate
        assert root.subject == root.issuer == ROOT_SUBJECT
        assert root.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 1


async def test_an_interrupted_founding_goes_on(tmp_path: Path) -> None:
    clock = SteppedClock()
    for uri in ("software:root", "software:root"):
        store, ring = await SqliteStore.open(tmp_path / "central.db"), keyring(tmp_path)
        foundation = Foundation(store, ring, clock)
        with pytest.raises(NotReady):
            await CentralAuthority.open(store, ring, clock, AuthorityOptions(NAME))
        await foundation.begin(NAME, uri, KeySpec.P256)
        await ring.close()
        await store.close()
    async with central(tmp_path) as one:
        await certify(one, NewGateway())


async def test_a_root_below_a_companys_root(tmp_path: Path) -> None:
    clock, store, ring = SteppedClock(), await SqliteStore.open(tmp_path / "central.db"), keyring(tmp_path)
    foundation = Foundation(store, ring, clock)
    with pytest.raises(NotReady):
        await foundation.request(ROOT_SUBJECT)
    await foundation.begin(NAME, "software:root", KeySpec.P256)
    csr = await foundation.request(ROOT_SUBJECT)
    wanted = x509.load_der_x509_csr(csr).extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (wanted.ca, wanted.path_length) == (True, 1)
    clock.source_ms = int(x509.load_der_x509_certificate(root_certificate()).not_valid_before_utc.timestamp() * 1000) + DAY_MS
    stranger, _ = sub_ca(NewGateway().csr().public_bytes(Encoding.DER))
    with pytest.raises(OperatorError, match="another key"):
        await foundation.take(stranger, (root_certificate(),))
    too_short, above = sub_ca(csr, path_length=0)
    with pytest.raises(OperatorError, match="no CA below"):
        await foundation.take(too_short, (above,))
    certificate, above = sub_ca(csr, path_length=1)
    identity = await foundation.take(certificate, (above,))
    assert (identity.certificate, identity.chain) == (certificate, (above,))
    with pytest.raises(AlreadyExists):
        await foundation.take(certificate, (above,))
    await ring.close()
    await store.close()
    async with central(tmp_path, clock, found=False) as one:
        made = await certify(one, NewGateway())
        write_pem(tmp_path / "root.pem", above)
        write_pem(tmp_path / "central.pem", certificate)
        write_pem(tmp_path / "sub.pem", made.public_bytes(Encoding.DER))
        moment = str(clock.now_ms() // 1000)
        openssl(
            tmp_path, "verify", "-attime", moment, "-CAfile", "root.pem", "-untrusted", "central.pem", "sub.pem"
        )  # fmt: skip
        assert one.authority.chain == (certificate, above)


async def test_the_root_key_may_live_on_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = softhsm_store(tmp_path / "hsm")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    place = token_place(softhsm_token(environment, "root"), tmp_path)
    async with central(tmp_path, root_uri=place.uri("root")) as one:
        certificate = await certify(one, NewGateway())
        certificate.verify_directly_issued_by(one.authority.root.certificate)
        assert one.authority.identity.root_uri.startswith("pkcs11:")
    other = await SqliteStore.open(tmp_path / "other.db")
    async with place.ring() as ring:
        foundation = Foundation(other, ring, SteppedClock())
        with pytest.raises(AlreadyExists):  # whose key that is, nobody knows
            await foundation.begin(NAME, place.uri("root"), KeySpec.P256)
        await foundation.begin(NAME, place.uri("root"), KeySpec.P256, adopt=True)
    await other.close()


def test_the_identity_survives_its_text() -> None:
    identity = Identity("n", "v", "software:root", b"\1", b"\2", (b"\3", b"\4"), b"\5")
    assert Identity.from_text(identity.to_text()) == identity

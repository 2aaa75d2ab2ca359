"""Who asks: own certificates by the journal, makers' by their chain, and nobody else."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.authority import credentials
from gateway.authority.credentials import FailureLimit, holder_of
from gateway.authority.makers import Maker, Makers
from gateway.authority.requests import Issued, Operation, Refused, RequesterKind
from gateway.errors import Busy, Unauthenticated
from gateway.journal.records import Record
from gateway.pki.crl import Reason
from tests.support.authority import DAY_MS, START_MS, TestCa, World, authority_in, device_csr, device_key, enrollment

MAKER = TestCa.make("Maker Root")


async def issue(world: World, subject: str = "CN=plc-7,serialNumber=SN-7", profile: str = "ldevid", key: int = 0) -> Issued:
    outcome = await world.authority.enroll(enrollment(device_csr(subject, ["DNS:plc-7.example"], key=key), profile=profile))
    assert isinstance(outcome, Issued)
    return outcome


def with_maker(options):  # type: ignore[no-untyped-def]
    return replace(options, makers=(Maker("Test Maker", (MAKER.der,)),))


async def test_an_own_certificate_names_its_holder(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        issued = await issue(world)
        requester = await world.authority.authenticator.certificate([issued.certificate])
        assert (requester.kind, requester.identity) == (RequesterKind.OWN, f"own:{issued.serial:x}")
        assert requester.certificate == issued.certificate
        holder = requester.holder
        assert holder is not None
        assert (holder.profile, holder.device_serial, holder.serial) == ("ldevid", "SN-7", issued.serial)
        assert holder.names == {b"\x82\x0dplc-7.example"}
        assert holder.spki == device_csr().spki
        assert holder.subject_der == device_csr().subject_der


async def test_a_renewal_with_the_own_certificate_goes_through(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        issued = await issue(world)
        requester = await world.authority.authenticator.certificate([issued.certificate])
        csr = device_csr(san=["DNS:plc-7.example"], key=1)
        request = enrollment(csr, requester=requester, operation=Operation.REENROLL)
        assert isinstance(await world.authority.enroll(request), Issued)


async def test_a_certificate_of_a_station_profile_makes_a_station(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        issued = await issue(world, "CN=station-1", "station")
        requester = await world.authority.authenticator.certificate([issued.certificate])
        assert (requester.kind, requester.identity) == (RequesterKind.STATION, f"station:{issued.serial:x}")


@pytest.mark.parametrize(
    ("usages", "renews_only"),
    [
        ([], False),
        (["clientAuth"], False),
        (["serverAuth", "clientAuth"], False),
        (["2.5.29.37.0"], False),
        (["serverAuth"], True),
        (["1.3.6.1.4.1.32473.9"], True),
    ],
)
async def test_a_certificate_of_ours_for_something_else_renews_only_itself(
    tmp_path: Path, usages: list[str], renews_only: bool
) -> None:
    async with authority_in(tmp_path, tables={"ldevid": {"extended_key_usage": usages}}) as world:
        issued = await issue(world)
        requester = await world.authority.authenticator.certificate([issued.certificate])
        assert requester.holder is not None
        assert requester.holder.renews_only is renews_only
        csr = device_csr(san=["DNS:plc-7.example"], key=1)
        renewed = await world.authority.enroll(enrollment(csr, requester=requester, operation=Operation.REENROLL))
        assert isinstance(renewed, Issued)
        other = await world.authority.enroll(enrollment(device_csr("CN=x", key=2), requester=requester))
        assert isinstance(other, Refused)


async def test_a_makers_usages_are_the_chains_matter(tmp_path: Path) -> None:
    async with authority_in(tmp_path, adjust=with_maker) as world:
        der = MAKER.idevid("CN=d,serialNumber=SN-9", device_key(9).public_key())
        requester = await world.authority.authenticator.certificate([der])
        assert requester.holder is not None
        assert not requester.holder.renews_only


async def test_a_revoked_certificate_is_refused_at_once_although_it_was_remembered(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        issued = await issue(world)
        await world.authority.authenticator.certificate([issued.certificate])
        await world.authority.revoker.revoke(issued.serial, Reason.CERTIFICATE_HOLD, "test")
        with pytest.raises(Unauthenticated):
            await world.authority.authenticator.certificate([issued.certificate])
        await world.authority.revoker.release(issued.serial, "test")
        await world.authority.authenticator.certificate([issued.certificate])


async def test_an_expired_own_certificate_is_left_to_policy(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        issued = await issue(world)
        world.clock.advance(400 * DAY_MS)
        requester = await world.authority.authenticator.certificate([issued.certificate])
        assert requester.holder is not None
        assert requester.holder.not_after_ms < world.clock.now_ms()


async def test_a_remembered_certificate_costs_no_lookup(tmp_path: Path) -> None:
    async with authority_in(tmp_path, adjust=with_maker) as world:
        issued = await issue(world)
        idevid = MAKER.idevid("CN=d,serialNumber=SN-9", device_key(9).public_key())
        for der in (issued.certificate, idevid):
            first = await world.authority.authenticator.certificate([der])
            world.journal.by_serial = None  # type: ignore[attr-defined]  # calling it would fail
            assert await world.authority.authenticator.certificate([der]) == first
            del world.journal.by_serial  # type: ignore[attr-defined]


async def test_what_is_remembered_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "_MOST_KNOWN", 2)
    async with authority_in(tmp_path) as world:
        for key in range(4):
            issued = await issue(world, key=key)
            await world.authority.authenticator.certificate([issued.certificate])
        assert len(world.authority.authenticator._known) == 2


async def test_a_certificate_with_our_issuer_that_the_journal_does_not_know_is_refused(tmp_path: Path) -> None:
    """Whoever stole the CA key still gets no further than the records."""
    async with authority_in(tmp_path) as world:
        issued = await issue(world)
        own = x509.load_der_x509_certificate(issued.certificate)
        ca = x509.load_der_x509_certificate(issued.chain[0])
        for serial in (own.serial_number, own.serial_number + 1):
            forged = (
                x509.CertificateBuilder()
                .subject_name(own.subject)
                .issuer_name(ca.subject)
                .public_key(device_key(3).public_key())
                .serial_number(serial)
                .not_valid_before(own.not_valid_before_utc)
                .not_valid_after(own.not_valid_after_utc)
                .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.public_key()), critical=False)
                .sign(world.keys.load("ca"), hashes.SHA256())
            )
            with pytest.raises(Unauthenticated):
                await world.authority.authenticator.certificate([forged.public_bytes(Encoding.DER)])


async def test_an_idevid_of_a_listed_maker_names_its_device(tmp_path: Path) -> None:
    async with authority_in(tmp_path, adjust=with_maker) as world:
        der = MAKER.idevid("CN=d,serialNumber=SN-9", device_key(9).public_key())
        requester = await world.authority.authenticator.certificate([der])
        assert requester.kind is RequesterKind.IDEVID
        assert requester.identity.startswith("idevid:")
        assert requester.holder is not None
        assert (requester.holder.device_serial, requester.holder.profile) == ("SN-9", "")
        outcome = await world.authority.enroll(enrollment(device_csr("CN=x,serialNumber=SN-9"), requester=requester))
        assert isinstance(outcome, Issued)


async def test_a_makers_chain_is_verified_again_after_an_hour(tmp_path: Path) -> None:
    async with authority_in(tmp_path, adjust=with_maker) as world:
        der = MAKER.idevid("CN=d,serialNumber=SN-9", device_key(9).public_key(), days=31)
        await world.authority.authenticator.certificate([der])
        world.authority.authenticator._makers = Makers((Maker("Test Maker", (TestCa.make("Maker Root").der,)),))
        world.clock.advance(3_599_999)
        await world.authority.authenticator.certificate([der])
        world.clock.advance(1)
        with pytest.raises(Unauthenticated):
            await world.authority.authenticator.certificate([der])


@pytest.mark.parametrize("listed", [True, False])
async def test_strangers_are_refused_alike(tmp_path: Path, listed: bool) -> None:
    stranger = TestCa.make("Maker Root")  # the same name, another key
    strange = stranger.idevid("CN=d,serialNumber=SN-9", device_key(9).public_key())
    adjust = with_maker if listed else lambda options: options
    async with authority_in(tmp_path, adjust=adjust) as world:
        texts = set()
        for chain in ([strange], [strange, stranger.der], [stranger.der], [b""], [b"\x30\x00"], [strange[:-1]]):
            with pytest.raises(Unauthenticated) as caught:
                await world.authority.authenticator.certificate(chain)
            texts.add(str(caught.value))
        assert len(texts) == 1
        with pytest.raises(Unauthenticated, match="no client certificate"):
            await world.authority.authenticator.certificate([])


@pytest.mark.parametrize(
    ("subject", "serial"), [("CN=a", None), ("serialNumber=1", "1"), ("serialNumber=1,serialNumber=2", None)]
)
def test_a_device_serial_is_one_or_none(subject: str, serial: str | None) -> None:
    der = MAKER.idevid(subject, device_key(1).public_key())
    assert holder_of(x509.load_der_x509_certificate(der)).device_serial == serial


def test_a_certificate_whose_names_cannot_be_read_is_refused() -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.UTC)
    spoiled = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(x509.Name([]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), b"\x04\x00"), critical=False)
        .sign(key, hashes.SHA256())
    )
    with pytest.raises(Unauthenticated):
        holder_of(spoiled)


# Passwords.


async def test_an_address_that_fails_too_often_must_wait_also_while_the_clock_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock that was set back stands at the journal's last time, perhaps for a year; nobody is locked out that long."""
    elapsed = 0
    monkeypatch.setattr(credentials, "elapsed_ms", lambda: elapsed)
    async with authority_in(tmp_path) as world:
        made = await world.authority.tokens.create("ldevid", operator="t", validity_s=3600)
        authenticator = world.authority.authenticator
        for _ in range(10):
            with pytest.raises(Unauthenticated):
                await authenticator.password(made.token_id, "wrong", "192.0.2.1")
        with pytest.raises(Busy) as caught:
            await authenticator.password(made.token_id, made.secret, "192.0.2.1")
        await authenticator.password(made.token_id, made.secret, "192.0.2.2")
        elapsed = caught.value.retry_after * 1000
        await authenticator.password(made.token_id, made.secret, "192.0.2.1")


async def test_neither_name_nor_secret_of_a_failure_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with authority_in(tmp_path) as world:
        with pytest.raises(Unauthenticated):
            await world.authority.authenticator.password("secret-in-the-wrong-field", "topsecret", "192.0.2.1")
    assert "192.0.2.1" in caplog.text
    assert "secret" not in caplog.text


def test_failures_are_forgiven_one_by_one() -> None:
    limit = FailureLimit()
    for _ in range(10):
        limit.check("a", START_MS)
        limit.count("a", START_MS)
    with pytest.raises(Busy) as caught:
        limit.check("a", START_MS)
    assert caught.value.retry_after == 6
    limit.check("a", START_MS + 6_000)
    limit.count("a", START_MS + 6_000)
    with pytest.raises(Busy):
        limit.check("a", START_MS + 6_000)


def test_all_addresses_of_an_ipv6_host_are_one_source() -> None:
    limit = FailureLimit()
    for index in range(10):
        limit.count(f"2001:db8::{index:x}" if index % 2 else f"2001:db8::8000:0:0:{index:x}", START_MS)
    with pytest.raises(Busy):
        limit.check("2001:db8::ffff%eth0", START_MS)
    limit.check("2001:db8:0:1::1", START_MS)
    limit.check("not:an:address", START_MS)


def test_the_memory_of_failures_is_bounded() -> None:
    limit = FailureLimit()
    for index in range(5_000):
        limit.count(str(index), START_MS)
    assert len(limit._forgiven_ms) == 4_096


def test_who_failed_last_is_remembered_longest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "_MOST_SOURCES", 2)
    limit = FailureLimit()
    for source in ("192.0.2.1", "192.0.2.2", "192.0.2.3"):
        for _ in range(10):
            limit.count(source, 0)
    limit.check("192.0.2.1", 0)  # forgotten
    for source in ("192.0.2.2", "192.0.2.3"):
        with pytest.raises(Busy):
            limit.check(source, 0)


def test_an_address_may_try_again_to_the_millisecond() -> None:
    limit = FailureLimit()
    for _ in range(11):
        limit.count("192.0.2.1", START_MS)
    with pytest.raises(Busy) as caught:
        limit.check("192.0.2.1", START_MS + 11_999)
    assert caught.value.retry_after == 1
    limit.check("192.0.2.1", START_MS + 12_000)


def test_addresses_that_cannot_be_read_are_sources_of_their_own() -> None:
    limit = FailureLimit()
    for _ in range(11):
        limit.count("a:strange:one", START_MS)
    limit.check("another:strange:one", START_MS)
    with pytest.raises(Busy):
        limit.check("a:strange:one", START_MS)


def test_who_goes_on_failing_is_not_forgotten_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(credentials, "_MOST_SOURCES", 2)
    limit = FailureLimit()
    for source in ("a", "b", *["a"] * 10, "c"):
        limit.count(source, START_MS)
    with pytest.raises(Busy):
        limit.check("a", START_MS)


async def test_a_certificate_in_use_is_remembered_before_one_that_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "_MOST_KNOWN", 2)
    async with authority_in(tmp_path) as world:
        one, two, three = [(await issue(world, key=key)).certificate for key in range(3)]
        authenticator, by_serial, asked = world.authority.authenticator, world.journal.inner.by_serial, list[int]()

        async def counted(serial: int) -> tuple[Record, ...]:
            asked.append(serial)
            return await by_serial(serial)

        world.journal.by_serial = counted  # type: ignore[attr-defined]
        for certificate in (one, two, one, three):
            await authenticator.certificate([certificate])
        assert len(asked) == 3
        await authenticator.certificate([one])
        assert len(asked) == 3

"""Makers: an IDevID counts as long as its maker stands for it, and a maker's lists are what the maker signed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.authority.makers import Maker, Makers
from gateway.authority.requests import Issued, Outcome, Refused
from gateway.errors import Forbidden, Unauthenticated
from gateway.journal import records
from tests.support.authority import DAY_MS, START_MS, TestCa, World, authority_in, device_csr, device_key, enrollment

ROOT = TestCa.make("Maker Root")
SUB_KEY = ec.generate_private_key(ec.SECP256R1())
SUB = TestCa(SUB_KEY, x509.load_der_x509_certificate(ROOT.subordinate("Maker Devices", SUB_KEY.public_key())))
STRANGER = TestCa.make("Maker Root")  # the same name, another key


def idevid(ca: TestCa = ROOT, *, days: int = 3650) -> bytes:
    return ca.idevid("CN=d,serialNumber=SN-9", device_key(9).public_key(), days=days)


def serial(certificate: bytes) -> int:
    return x509.load_der_x509_certificate(certificate).serial_number


def crl(ca: TestCa = ROOT, *revoked: int, number: int = 1, days: int = 10, signer: TestCa | None = None) -> bytes:
    """A list made ``number`` hours after the tests' clock began, good for ``days``."""
    made = datetime.fromtimestamp(START_MS // 1000, UTC) + timedelta(hours=number)
    builder = x509.CertificateRevocationListBuilder().issuer_name(ca.certificate.subject).last_update(made)
    builder = builder.next_update(made + timedelta(days=days)).add_extension(x509.CRLNumber(number), critical=False)
    for each in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(each).revocation_date(made)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign((signer or ca).key, hashes.SHA256()).public_bytes(Encoding.DER)


@asynccontextmanager
async def world_with(directory: Path, *makers: Maker, **options: Any) -> AsyncIterator[World]:
    async with authority_in(directory, adjust=lambda each: replace(each, makers=makers, **options)) as world:
        yield world


async def enrol(world: World, *chain: bytes, key: int = 0) -> Outcome:
    requester = await world.authority.authenticator.certificate(chain)
    return await world.authority.enroll(enrollment(device_csr("CN=x,serialNumber=SN-9", key=key), requester=requester))


def refused(outcome: Outcome, text: str) -> None:
    assert isinstance(outcome, Refused), outcome
    assert type(outcome.error) is Forbidden
    assert text in str(outcome.error)


async def test_a_revoked_idevid_is_refused_with_the_reason_which_is_journalled(tmp_path: Path) -> None:
    """Also while its connection lives, also for the answer it was given before, and again not once the list is gone."""
    path, mine = tmp_path / "maker.crl", idevid()
    path.write_bytes(crl())
    async with world_with(tmp_path, Maker("acme", (ROOT.der,), (path,))) as world:
        assert isinstance(await enrol(world, mine), Issued)
        path.write_bytes(crl(ROOT, serial(mine), number=2))
        await world.authority.reread_files()
        refused(await enrol(world, mine), "was revoked by its issuer 'CN=Maker Root'")
        refused(await enrol(world, mine, key=1), f"certificate {serial(mine):x} was revoked")
        found = [record for record in world.of_kind(records.Refused) if isinstance(record, records.Refused)]
        assert {record.error for record in found} == {"Forbidden"}
        assert all("was revoked by its issuer" in record.reason for record in found)
        assert isinstance(await enrol(world, idevid(), key=1), Issued)
        path.unlink()
        await world.authority.reread_files()
        refused(await enrol(world, mine), "was revoked")


async def test_a_stale_list_still_revokes(tmp_path: Path) -> None:
    path, mine = tmp_path / "maker.crl", idevid()
    path.write_bytes(crl(ROOT, serial(mine), days=1))
    async with world_with(tmp_path, Maker("acme", (ROOT.der,), (path,))) as world:
        world.clock.advance(30 * DAY_MS)
        refused(await enrol(world, mine), "was revoked")
        assert isinstance(await enrol(world, idevid(), key=1), Issued)


@pytest.mark.parametrize("require", [True, False])
async def test_a_list_past_its_end_or_missing_is_what_require_crl_is_about(tmp_path: Path, require: bool) -> None:
    path, mine = tmp_path / "maker.crl", idevid()
    async with world_with(tmp_path, Maker("acme", (ROOT.der,), (path,), require_crl=require)) as world:
        for change in (lambda: None, lambda: path.write_bytes(crl(days=1)), lambda: path.write_bytes(crl(number=2, days=2))):
            change()
            await world.authority.reread_files()
            current = path.exists() and world.clock.now_ms() < START_MS + DAY_MS
            for key in (0, 1):
                outcome = await enrol(world, mine, key=key)
                if require and not current:
                    refused(outcome, "no current revocation list of 'CN=Maker Root' here, which maker acme needs")
                else:
                    assert isinstance(outcome, Issued)
            if path.exists():
                world.clock.advance(3 * DAY_MS)


async def test_every_certificate_of_the_chain_is_looked_up_in_its_issuers_list(tmp_path: Path) -> None:
    """The intermediate may be one that the device sends along, or one that the operator has."""
    path, mine = tmp_path / "root.crl", idevid(SUB)
    path.write_bytes(crl(ROOT, SUB.certificate.serial_number))
    chain = (mine, SUB.certificate.public_bytes(Encoding.DER))
    async with world_with(tmp_path, Maker("acme", (ROOT.der,), (path,))) as world:
        refused(await enrol(world, *chain), f"certificate {SUB.certificate.serial_number:x} was revoked")
    for revoked, good in (((), True), ((serial(mine),), False)):
        path = tmp_path / f"devices-{good}.crl"
        path.write_bytes(crl(SUB, *revoked))
        maker = Maker("acme", (ROOT.der, SUB.der), (path,), require_crl=True)
        (tmp_path / str(good)).mkdir()
        async with world_with(tmp_path / str(good), maker) as world:
            outcome = await enrol(world, *chain)
            if good:
                assert isinstance(outcome, Issued)
            else:
                refused(outcome, "was revoked by its issuer 'CN=Maker Devices'")


@pytest.mark.parametrize(
    "content", [crl(STRANGER), crl(signer=STRANGER), crl(SUB), b"junk"], ids=["ca", "key", "other", "junk"]
)
async def test_a_list_that_the_maker_did_not_sign_counts_for_nothing_and_is_reported(tmp_path: Path, content: bytes) -> None:
    path, mine = tmp_path / "maker.crl", idevid()
    path.write_bytes(content)
    async with world_with(tmp_path, Maker("acme", (ROOT.der,), (path,), require_crl=True)) as world:
        refused(await enrol(world, mine), "no current revocation list")
        ((maker, name, until_ms, failure, degraded),) = world.authority.makers.health(world.clock.now_ms())
        assert (maker, name, until_ms, degraded) == ("acme", "maker.crl", 0, True)
        assert failure
        path.write_bytes(crl())
        await world.authority.reread_files()
        assert isinstance(await enrol(world, mine), Issued)
        ((_, _, until_ms, failure, degraded),) = world.authority.makers.health(world.clock.now_ms())
        assert (failure, degraded) == ("", False)
        assert until_ms > START_MS


async def test_a_serial_number_counts_in_the_list_of_its_own_issuer_only(tmp_path: Path) -> None:
    path, mine = tmp_path / "devices.crl", idevid(ROOT)
    path.write_bytes(crl(SUB, serial(mine)))
    async with world_with(tmp_path, Maker("acme", (ROOT.der, SUB.der), (path,))) as world:
        assert isinstance(await enrol(world, mine), Issued)


async def test_one_makers_list_says_nothing_of_anothers_devices(tmp_path: Path) -> None:
    path, mine = tmp_path / "maker.crl", idevid(STRANGER)
    path.write_bytes(crl(ROOT, serial(mine)))
    makers = Maker("acme", (ROOT.der,), (path,)), Maker("other", (STRANGER.der,))
    async with world_with(tmp_path, *makers) as world:
        assert isinstance(await enrol(world, mine), Issued)


@pytest.mark.parametrize("accept", [True, False])
async def test_an_idevid_past_its_end_is_what_accept_expired_is_about(tmp_path: Path, accept: bool) -> None:
    mine = idevid(days=31)
    async with world_with(tmp_path, Maker("acme", (ROOT.der,), accept_expired=accept)) as world:
        assert isinstance(await enrol(world, mine), Issued)
        world.clock.advance(2 * DAY_MS)
        outcome = await enrol(world, mine, key=1)
        if accept:
            assert isinstance(outcome, Issued)
        else:
            refused(outcome, "has expired")
            assert len(world.of_kind(records.Refused)) == 1


def test_a_ca_in_two_makers_belongs_to_the_first() -> None:
    makers = Makers((Maker("first", (ROOT.der,), accept_expired=True), Maker("second", (ROOT.der, STRANGER.der))))
    assert makers.anchors == (ROOT.der, STRANGER.der)
    assert makers.verify([idevid()], START_MS).maker.name == "first"
    assert makers.verify([idevid(STRANGER)], START_MS).maker.name == "second"


def test_who_is_of_no_maker_is_not_known() -> None:
    with pytest.raises(Unauthenticated):
        Makers((Maker("acme", (STRANGER.der,)),)).verify([idevid()], START_MS)


# Blocked keys.


def listed(*keys: int) -> str:
    return "".join(f"{hashes_of(device_key(key))}\n" for key in keys)


def hashes_of(key: ec.EllipticCurvePrivateKey) -> str:
    digest = hashes.Hash(hashes.SHA256())
    digest.update(device_csr("CN=x", key=key).spki)
    return digest.finalize().hex()


async def test_the_file_of_blocked_keys_is_read_again(tmp_path: Path) -> None:
    """The key of a request, that of an IDevID, and what both were given before."""
    path, mine = tmp_path / "blocked.txt", idevid()  # its key is number 9
    path.write_text(listed(1), encoding="utf-8")
    async with world_with(tmp_path, Maker("acme", (ROOT.der,)), blocked_keys=path) as world:
        assert isinstance(await enrol(world, mine, key=0), Issued)
        blocked = await enrol(world, mine, key=1)
        assert isinstance(blocked, Refused)
        assert "list of blocked keys" in str(blocked.error)
        path.write_text("# all of batch 17\n" + listed(0, 1), encoding="utf-8")
        await world.authority.reread_files()
        assert isinstance(await enrol(world, mine, key=0), Refused)
        path.write_text(listed(9), encoding="utf-8")
        await world.authority.reread_files()
        refused(await enrol(world, mine, key=0), "key of the requester's certificate is blocked")
        reasons = [record.reason for record in world.of_kind(records.Refused) if isinstance(record, records.Refused)]
        assert len(reasons) == 3
        path.write_text("", encoding="utf-8")
        await world.authority.reread_files()
        assert isinstance(await enrol(world, mine, key=1), Issued)


async def test_a_bad_file_of_blocked_keys_unblocks_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, mine = tmp_path / "blocked.txt", idevid()
    path.write_text(listed(1), encoding="utf-8")
    async with world_with(tmp_path, Maker("acme", (ROOT.der,)), blocked_keys=path) as world:
        spoils = (lambda: path.write_text("no digest\n"), lambda: path.write_bytes(b"\xff"), path.unlink)
        for number, spoil in enumerate(spoils, 1):
            spoil()
            for _ in range(2):
                await world.authority.reread_files()
                assert caplog.text.count("the keys blocked before stay so") == number  # said at once, and once
            assert "blocked.txt" in world.authority.blocked.failure
            assert isinstance(await enrol(world, mine, key=1), Refused)
        path.write_text(listed(2), encoding="utf-8")
        await world.authority.reread_files()
        assert world.authority.blocked.failure == ""
        assert isinstance(await enrol(world, mine, key=1), Issued)


async def test_blocked_keys_stay_blocked_under_a_new_policy(tmp_path: Path) -> None:
    path = tmp_path / "blocked.txt"
    path.write_text(listed(1), encoding="utf-8")
    async with world_with(tmp_path, blocked_keys=path) as world:
        in_force = world.authority.policy
        own = frozenset({bytes(32)})
        newer = replace(in_force.current, version=2, blocked_keys=own)
        await in_force.replace(newer, "file", journal=world.journal.inner)
        assert in_force.current.blocked_keys == own | {bytes.fromhex(listed(1).strip())}
        in_force.block(frozenset())
        assert in_force.current is newer


async def test_changed_files_are_noticed_while_the_gateway_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.authority.authority._REREAD_INTERVAL_S", 0.01)
    path = tmp_path / "blocked.txt"
    path.write_text("", encoding="utf-8")
    async with world_with(tmp_path, blocked_keys=path) as world:
        noticed = asyncio.Event()
        block = world.authority.policy.block

        def noticing(keys: frozenset[bytes]) -> None:
            block(keys)
            noticed.set()

        world.authority.policy.block = noticing  # type: ignore[method-assign]
        task = asyncio.create_task(world.authority._reread_files())
        path.write_text(listed(1), encoding="utf-8")
        async with asyncio.timeout(20):
            await noticed.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert len(world.authority.policy.current.blocked_keys) == 1

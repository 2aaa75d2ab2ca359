"""Central's documents on a real authority: in force as a whole or not at all, also over crashes; commands once."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.authority.lifecycle import Ceremony
from gateway.authority.policy_tables import Table
from gateway.authority.quota import profile_quota
from gateway.authority.requests import Issued, Refused
from gateway.authority.revoke import CENTRAL
from gateway.errors import JournalFailed
from gateway.journal.checkpoint import verifier_key
from gateway.journal.records import CommandDone, DesiredApplied, DesiredRefused, Intent, Joined, PolicyApplied, Revoked
from gateway.pki.crl import Reason
from sync.desired import Desired, PolicyPart, ReleaseCommand, RevokeCommand, sign_desired
from sync.orders import OCSP_PROFILE, Orders, remembered
from tests.support.authority import START_MS, TestCa, World, authority_in, device_csr, enrollment, policy_of

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
VKEY = verifier_key("central", KEY.public_key())
JOINED = Joined("central", VKEY, b"root", ("https://central.test",), "anna")
ROOT = TestCa.make("Orders Root")
OWN: dict[str, Table] = {OCSP_PROFILE: {"base": "ocsp-responder", "validity": "90d", "requesters": []}}
LOCAL = policy_of(OWN)


def document(version: int, **parts: Any) -> bytes:
    expires = parts.pop("expires", START_MS + 86_400_000)
    return sign_desired(Desired("gateway.test/1", version, START_MS, expires, **parts), "central", KEY)


@asynccontextmanager
async def obeying(directory: Path) -> AsyncIterator[tuple[World, Orders]]:
    """A gateway that has joined; opening the directory again is a restart."""
    # The journal must be read before the authority opens, as the composition root does it.
    async with authority_in(directory, root=ROOT, policy=LOCAL) as world:
        if not await world.recorded(Joined):
            await world.journal.append(JOINED)
        memory = await remembered(cast(Any, world.journal), directory)
    policy, source = memory.policy(LOCAL, OWN)
    async with authority_in(
        directory, root=ROOT, policy=policy, adjust=lambda options: replace(options, policy_source=source)
    ) as world:

        async def activated() -> None:
            await world.authority.refresh_generations()

        ceremony = Ceremony(cast(Any, world.journal), cast(Any, world.keyring), world.clock)
        yield world, Orders(
            memory, directory, authority=world.authority, ceremony=ceremony, clock=world.clock, local=LOCAL, own=OWN,
            activated=activated,
        )  # fmt: skip


async def test_a_document_puts_policy_and_quota_in_force_and_a_restart_keeps_them(tmp_path: Path) -> None:
    part = PolicyPart(5, {"plc": {"base": "ldevid"}})
    async with obeying(tmp_path) as (world, orders):
        await orders.take(document(1, policy=part, quotas={"plc": 1}), JOINED)
        assert isinstance(await world.authority.enroll(enrollment(profile="plc")), Issued)
        refused = await world.authority.enroll(enrollment(device_csr("CN=other", key=1), profile="plc"))
        assert isinstance(refused, Refused)
        recorded = await world.recorded(DesiredApplied, PolicyApplied)
        assert isinstance(recorded[-2], DesiredApplied)  # one transaction
        assert isinstance(recorded[-1], PolicyApplied)
        assert (recorded[-1].source, recorded[-1].version) == ("central", 5)
    async with obeying(tmp_path) as (world, orders):
        assert orders.version == 1
        assert world.authority.policy.current.version == 5
        assert world.authority.ledger.remaining(profile_quota("plc")) == 0


async def test_the_same_document_again_records_nothing(tmp_path: Path) -> None:
    async with obeying(tmp_path) as (world, orders):
        for _ in range(2):
            await orders.take(document(1), JOINED)
        assert len(await world.recorded(DesiredApplied)) == 1


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (document(1), "older than version 2"),
        (document(2, quotas={"ldevid": 9}), "with another content"),
        (document(3, expires=1), "expired"),
        (document(3, quotas={"no-such": 1}), "no profile"),
        (sign_desired(Desired("another/1", 3, 0), "central", KEY), "is for"),
        (document(3)[:-1] + b"]", "wrong"),
        (b"garbage", "not a signed statement"),
    ],
)
async def test_a_stale_forged_or_unreadable_document_changes_nothing_and_is_recorded(
    tmp_path: Path, bad: bytes, reason: str
) -> None:
    async with obeying(tmp_path) as (world, orders):
        await orders.take(document(2, quotas={"ldevid": 3}), JOINED)
        for _ in range(3):  # central repeats itself, the journal does not
            await orders.take(bad, JOINED)
        (refused,) = await world.recorded(DesiredRefused)
        assert isinstance(refused, DesiredRefused)
        assert reason in refused.reason
        assert orders.version == 2
        assert orders.refused == refused
        assert world.authority.ledger.remaining(profile_quota("ldevid")) == 3
    async with obeying(tmp_path) as (_, orders):
        assert orders.refused == refused  # the technician still sees it after a restart
        await orders.take(document(4), JOINED)
        assert orders.refused is None


async def test_a_document_that_expired_grants_nothing(tmp_path: Path) -> None:
    async with obeying(tmp_path) as (world, orders):
        await orders.take(document(1, expires=START_MS + 1000), JOINED)
        world.clock.advance(2000)
        outcome = await world.authority.enroll(enrollment())
        assert isinstance(outcome, Refused)
        assert "expired" in str(outcome.error)


async def test_a_crash_before_the_record_leaves_the_document_before_in_force(tmp_path: Path) -> None:
    async with obeying(tmp_path) as (world, orders):
        await orders.take(document(1, quotas={"ldevid": 7}), JOINED)
        world.journal.fail_append(1, JournalFailed("injected"))
        with pytest.raises(JournalFailed):
            await orders.take(document(2, quotas={"ldevid": 9}), JOINED)
        assert world.authority.ledger.remaining(profile_quota("ldevid")) == 7
    async with obeying(tmp_path) as (world, orders):
        assert orders.version == 1
        assert world.authority.ledger.remaining(profile_quota("ldevid")) == 7


async def test_a_lost_or_changed_file_grants_nothing_until_central_sends_it_again(tmp_path: Path) -> None:
    text = document(1, quotas={"ldevid": 7})
    async with obeying(tmp_path) as (_, orders):
        await orders.take(text, JOINED)
    path = tmp_path / "documents" / hashlib.sha256(text).hexdigest()
    path.write_bytes(document(1, quotas={"ldevid": 7000}))
    async with obeying(tmp_path) as (world, orders):
        assert isinstance(await world.authority.enroll(enrollment()), Refused)
        assert orders.version == 0  # so that central sends it again
        await orders.take(text, JOINED)
        assert isinstance(await world.authority.enroll(enrollment()), Issued)
        assert world.authority.ledger.remaining(profile_quota("ldevid")) == 6


async def certificate(world: World, index: int = 0) -> int:
    outcome = await world.authority.enroll(enrollment(device_csr(f"CN=device-{index}", key=index)))
    assert isinstance(outcome, Issued)
    return outcome.serial


async def test_a_command_is_carried_out_once_and_recorded_with_its_effect(tmp_path: Path) -> None:
    async with obeying(tmp_path) as (world, orders):
        serial = await certificate(world)
        revoke = RevokeCommand("c-1", serial, 1, Reason.KEY_COMPROMISE, START_MS - 5000)
        await orders.take(document(1, commands=(revoke,)), JOINED)
        await orders.take(document(2, commands=(revoke,), quotas={"ldevid": 50}), JOINED)
        effect, done = await world.recorded(Revoked, CommandDone)
        assert effect == Revoked(f"{serial:x}", 1, "keyCompromise", START_MS - 5000, CENTRAL)
        assert done == CommandDone("c-1", "done")
    async with obeying(tmp_path) as (world, orders):
        await orders.carry_out()
        assert len(await world.recorded(CommandDone)) == 1


async def test_a_crash_between_document_and_command_is_made_up_for_at_the_next_start(tmp_path: Path) -> None:
    async with obeying(tmp_path) as (world, orders):
        serial = await certificate(world)
        revoke = RevokeCommand("c-1", serial, 1, Reason.SUPERSEDED, START_MS)
        world.journal.fail_append(2, JournalFailed("injected"))
        with pytest.raises(JournalFailed):
            await orders.take(document(1, commands=(revoke,)), JOINED)
        assert world.authority.status.find(serial) is None
    async with obeying(tmp_path) as (world, orders):
        await orders.carry_out()
        assert world.authority.status.find(serial) is not None


async def test_a_command_that_cannot_be_done_says_so_and_holds_up_no_other(tmp_path: Path) -> None:
    async with obeying(tmp_path) as (world, orders):
        serial = await certificate(world)
        commands = (
            RevokeCommand("unknown", 12345, 1, Reason.SUPERSEDED, START_MS),
            ReleaseCommand("not-held", serial, 1),
            RevokeCommand("good", serial, 1, Reason.CERTIFICATE_HOLD, START_MS),
        )
        await orders.take(document(1, commands=commands), JOINED)
        outcomes = {done.command: done.outcome for done in await world.recorded(CommandDone) if isinstance(done, CommandDone)}
        assert outcomes == {"unknown": "failed", "not-held": "failed", "good": "done"}
        await orders.take(document(2, commands=(ReleaseCommand("lift", serial, 1),)), JOINED)
        assert world.authority.status.find(serial) is None


async def test_a_blocked_key_is_refused(tmp_path: Path) -> None:
    async with obeying(tmp_path) as (world, orders):
        csr = device_csr()
        await orders.take(document(1, blocked_keys=frozenset({hashlib.sha256(csr.spki).digest()})), JOINED)
        assert isinstance(await world.authority.enroll(enrollment(csr)), Refused)


async def test_central_gets_a_certificate_for_its_ocsp_key_once(tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name.from_rfc4514_string("CN=central OCSP")
    csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hashes.SHA256())
    pem = csr.public_bytes(Encoding.PEM).decode()
    async with obeying(tmp_path) as (world, orders):
        await orders.take(document(1, ocsp_csr=pem), JOINED)
        await orders.carry_out()
        (intent,) = [each for each in await world.recorded(Intent) if isinstance(each, Intent)]
        assert intent.profile == OCSP_PROFILE
        assert not orders.trouble
        made = x509.load_pem_x509_certificate((tmp_path / "central-ocsp-1.pem").read_bytes())
        assert made.public_key() == key.public_key()
        usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        assert list(usage) == [ExtendedKeyUsageOID.OCSP_SIGNING]
        world.clock.advance(70 * 86_400_000)
        await orders.take(document(2, ocsp_csr=pem, expires=0), JOINED)
        assert len(await world.recorded(Intent)) == 2  # two thirds of its time were over

"""The gateway's own certificates: found again, renewed in time, replaced when they must not be used."""

import asyncio
from pathlib import Path

import pytest
from cryptography import x509

from gateway.authority import delegated as delegated_module
from gateway.authority.delegated import DelegatedIdentity, DelegatedKeys, DelegatedSpec, Enroll
from gateway.authority.requests import EnrollmentRequest, Outcome, Pending, Refused, RequesterKind
from gateway.errors import Forbidden, NotReady
from gateway.journal.records import Intent
from gateway.keys.signer import KeySpec
from gateway.pki.crl import Reason
from gateway.pki.names import name_from_text
from gateway.pki.sans import san_from_text
from tests.support.authority import authority_in
from tests.support.monotonic import StoppedTime
from tests.support.status_stack import StatusStack, status_stack

RESPONDER = DelegatedSpec("ocsp-1", "ocsp-responder", name_from_text("CN=OCSP responder"), generation=1)
TLS = DelegatedSpec("tls", "tls-server", name_from_text("CN=gw.plant"), (san_from_text("DNS:gw.plant"),))


def delegated(stack: StatusStack, *specs: DelegatedSpec, enroll: Enroll | None = None) -> DelegatedKeys:
    keys = DelegatedKeys(
        keys=stack.ring.software,
        directory=stack.directory / "delegated",
        journal=stack.journal,
        status=stack.status,
        clock=stack.clock,
        enroll=enroll or stack.enroll,
    )
    keys.want(specs or (RESPONDER,))
    return keys


def names(identity: DelegatedIdentity) -> list[str]:
    certificate = x509.load_der_x509_certificate(identity.certificate)
    san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return san.get_values_for_type(x509.DNSName)


async def test_a_wanted_certificate_is_issued_for_the_gateway_itself(tmp_path: Path) -> None:
    requests: list[EnrollmentRequest] = []
    async with status_stack(tmp_path) as stack:

        async def enroll(request: EnrollmentRequest, *, generation: int | None = None) -> Outcome:
            requests.append(request)
            assert generation is None
            return await stack.enroll(request, generation=generation)

        keys = delegated(stack, TLS, enroll=enroll)
        heard: list[DelegatedIdentity] = []
        keys.watch(heard.append)
        with pytest.raises(NotReady, match="not issued yet"):
            keys.current("tls")
        await keys.renew_due()
        assert heard == [keys.current("tls")]
        assert keys.find("tls") is heard[0]
        assert names(heard[0]) == ["gw.plant"]
        assert heard[0].chain[0] == stack.generations.active.certificate
        (request,) = requests
        assert (request.requester.kind, request.requester.identity) == (RequesterKind.GATEWAY, "gateway:tls")
        assert keys.failures() == {}


async def test_names_nobody_asked_for_are_not_ready(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        keys = delegated(stack)
        assert keys.find("tls") is None
        with pytest.raises(NotReady):
            keys.current("tls")


async def test_a_restart_finds_the_certificate_again_without_a_new_one(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        keys = delegated(stack, RESPONDER, TLS)
        await keys.renew_due()
        before = {name: keys.current(name).certificate for name in ("ocsp-1", "tls")}
    async with status_stack(tmp_path) as stack:
        stack.signer.unplugged = True
        keys = delegated(stack, RESPONDER, TLS)
        heard: list[DelegatedIdentity] = []
        keys.watch(heard.append)
        await keys.renew_due()
        assert {identity.name: identity.certificate for identity in heard} == before
        assert all(identity.chain for identity in heard)
        assert stack.enrolled == 0


async def test_it_is_renewed_when_two_thirds_of_its_time_are_over(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        keys = delegated(stack)
        wait_s = await keys.renew_due()
        assert wait_s == 60.0
        first = keys.current("ocsp-1")
        lifetime = first.not_after_ms - first.not_before_ms
        assert first.renew_at_ms == first.not_before_ms + lifetime * 2 // 3
        stack.time.advance(seconds=(first.renew_at_ms - stack.clock.now_ms()) / 1000 - 30)
        assert 0 < await keys.renew_due() <= 30
        assert keys.current("ocsp-1") is first
        stack.time.advance(seconds=31)
        await keys.renew_due()
        assert keys.current("ocsp-1").serial != first.serial
        assert keys.current("ocsp-1").key_bits == first.key_bits


async def test_while_the_token_is_away_the_old_one_stays_and_the_pauses_grow(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        keys = delegated(stack)
        await keys.renew_due()
        first = keys.current("ocsp-1")
        stack.time.advance(days=6)
        stack.signer.unplugged = True
        wait_s = await keys.renew_due()
        assert 4 < wait_s <= 5  # as the signer said
        assert keys.current("ocsp-1") is first
        assert "unplugged" in keys.failures()["ocsp-1"]
        operations = stack.journal.head.size
        await keys.renew_due()  # too early: not even an intent
        assert stack.journal.head.size == operations


@pytest.mark.parametrize(("in_use", "longest"), [(True, 60.0), (False, 15.0)])
async def test_without_any_certificate_it_is_asked_for_more_often(tmp_path: Path, in_use: bool, longest: float) -> None:
    async with status_stack(tmp_path) as stack:

        async def refuse(request: EnrollmentRequest, *, generation: int | None = None) -> Outcome:
            raise NotReady("later", retry_after=3600)

        keys = delegated(stack)
        if in_use:
            await keys.renew_due()
            stack.time.advance(days=6)
        keys._enroll = refuse
        assert longest - 1 < await keys.renew_due() <= longest


@pytest.mark.parametrize("outcome", [Refused(Forbidden("the profile is not allowed")), Pending("r1", 30)])
async def test_a_refusal_is_told_and_does_not_spin(tmp_path: Path, outcome: Outcome) -> None:
    asked = 0
    async with status_stack(tmp_path) as stack:

        async def enroll(request: EnrollmentRequest, *, generation: int | None = None) -> Outcome:
            nonlocal asked
            asked += 1
            return outcome

        keys = delegated(stack, enroll=enroll)
        assert await keys.renew_due() > 0
        await keys.renew_due()
        assert asked == 1
        with pytest.raises(NotReady, match=r"not allowed|approve"):
            keys.current("ocsp-1")


async def test_a_crash_before_the_file_is_written_does_not_double_the_certificate(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        keys = delegated(stack)
        await keys.renew_due()
        first = keys.current("ocsp-1").certificate
    (tmp_path / "delegated" / "ocsp-1.pem").unlink()
    async with status_stack(tmp_path) as stack:
        keys = delegated(stack)
        await keys.renew_due()
        assert keys.current("ocsp-1").certificate == first
        assert stack.enrolled == 0


@pytest.mark.parametrize("content", [b"", b"names xx\n", b"names 00\nno certificate", b"\xff\xfe"])
async def test_a_damaged_file_is_written_anew(tmp_path: Path, content: bytes) -> None:
    async with status_stack(tmp_path) as stack:
        await delegated(stack).renew_due()
        path = tmp_path / "delegated" / "ocsp-1.pem"
        whole = path.read_bytes()
        path.write_bytes(content)
        keys = delegated(stack)
        await keys.renew_due()
        assert path.read_bytes() == whole


async def test_a_certificate_the_journal_does_not_have_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with status_stack(tmp_path / "a") as other:
        await delegated(other).renew_due()
        foreign = (tmp_path / "a" / "delegated" / "ocsp-1.pem").read_bytes()
        key = (tmp_path / "a" / "keys" / "ocsp-1.key").read_bytes()
    async with status_stack(tmp_path / "b") as stack:
        (tmp_path / "b" / "delegated").mkdir()
        (tmp_path / "b" / "delegated" / "ocsp-1.pem").write_bytes(foreign)
        (tmp_path / "b" / "keys" / "ocsp-1.key").write_bytes(key)
        keys = delegated(stack)
        await keys.renew_due()
        assert stack.enrolled == 1
        issued = x509.load_der_x509_certificate(keys.current("ocsp-1").certificate)
        issued.verify_directly_issued_by(stack.generations.active.ca.certificate)


async def test_a_certificate_of_another_key_is_not_used(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        keys = delegated(stack)
        await keys.renew_due()
        first = keys.current("ocsp-1")
        stack.ring.software.erase("ocsp-1")
        stack.ring.software.generate("ocsp-1", KeySpec.P256)
        keys = delegated(stack)
        heard: list[DelegatedIdentity] = []
        keys.watch(heard.append)
        await keys.renew_due()
        assert [identity.serial != first.serial for identity in heard] == [True]


async def test_an_expired_certificate_is_not_taken_up(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        await delegated(stack).renew_due()
    async with status_stack(tmp_path) as stack:
        stack.time.advance(days=8)
        stack.signer.unplugged = True
        keys = delegated(stack)
        await keys.renew_due()
        assert keys.find("ocsp-1") is None


@pytest.mark.parametrize(("reason", "same_key"), [(Reason.SUPERSEDED, True), (Reason.KEY_COMPROMISE, False)])
async def test_a_revoked_certificate_is_replaced_and_a_compromised_key_too(
    tmp_path: Path, reason: Reason, same_key: bool
) -> None:
    async with status_stack(tmp_path) as stack:
        keys = delegated(stack)
        await keys.renew_due()
        first = keys.current("ocsp-1")
        await stack.revoker.revoke(first.serial, reason, "test")
        await keys.renew_due()
        second = keys.current("ocsp-1")
        assert second.serial != first.serial
        assert (second.key_bits == first.key_bits) is same_key
        await keys.renew_due()
        assert keys.current("ocsp-1") is second


async def test_a_revoked_certificate_is_replaced_after_a_restart(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        keys = delegated(stack)
        await keys.renew_due()
        first = keys.current("ocsp-1")
        await stack.revoker.revoke(first.serial, Reason.KEY_COMPROMISE, "test")
    async with status_stack(tmp_path) as stack:
        keys = delegated(stack)
        heard: list[DelegatedIdentity] = []
        keys.watch(heard.append)
        await keys.renew_due()
        (second,) = heard
        assert (second.serial == first.serial, second.key_bits == first.key_bits) == (False, False)


async def test_other_names_make_another_certificate(tmp_path: Path) -> None:
    more = DelegatedSpec("tls", "tls-server", TLS.subject, (*TLS.san, san_from_text("DNS:gw2.plant")))
    async with status_stack(tmp_path) as stack:
        keys = delegated(stack, TLS)
        await keys.renew_due()
        keys.want([more])
        await keys.renew_due()
        assert names(keys.current("tls")) == ["gw.plant", "gw2.plant"]
    async with status_stack(tmp_path) as stack:
        keys = delegated(stack, TLS)  # the configuration was changed back while it was off
        await keys.renew_due()
        assert names(keys.current("tls")) == ["gw.plant"]


async def test_a_certificate_that_cannot_be_kept_on_disk_is_used(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        keys = delegated(stack)
        (tmp_path / "delegated").write_bytes(b"a file where the directory should be")
        await keys.renew_due()
        assert keys.current("ocsp-1").serial


async def test_a_key_that_cannot_be_stored_stops_only_its_own_name(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        (tmp_path / "keys" / "ocsp-1.key").symlink_to(tmp_path / "nowhere" / "key")  # neither there nor free
        keys = delegated(stack, RESPONDER, TLS)
        await keys.renew_due()
        assert list(keys.failures()) == ["ocsp-1"]
        assert keys.current("tls").serial


async def test_a_damaged_key_is_told_and_not_replaced(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        await delegated(stack).renew_due()
        path = tmp_path / "keys" / "ocsp-1.key"
        path.write_bytes(b"{}")
        keys = delegated(stack)
        assert await keys.renew_due() > 0
        assert keys.failures()["ocsp-1"]
        assert path.read_bytes() == b"{}"


async def test_a_certificate_of_a_dying_ca_is_not_asked_for_in_a_circle(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        stack.time.advance(days=364, hours=23, minutes=59)
        keys = delegated(stack, DelegatedSpec("tls", "tls-server", TLS.subject, TLS.san, KeySpec.P256))
        await keys.renew_due()
        assert stack.enrolled == 1
        assert await keys.renew_due() > 0
        assert stack.enrolled == 1


async def test_the_running_task_wakes_when_more_is_wanted(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        keys = delegated(stack)
        heard: asyncio.Queue[DelegatedIdentity] = asyncio.Queue()
        keys.watch(heard.put_nowait)
        task = asyncio.create_task(keys.run())
        async with asyncio.timeout(20):
            assert (await heard.get()).name == "ocsp-1"
            keys.want([TLS])
            assert (await heard.get()).name == "tls"
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_an_identity_that_could_not_be_put_to_use_is_tried_again_without_a_new_certificate(tmp_path: Path) -> None:
    """A TLS context takes its key through a temporary file: a full disk must not cost the gateway its server certificate."""
    async with status_stack(tmp_path) as stack:
        keys = delegated(stack, TLS)
        used: list[DelegatedIdentity] = []

        def use(identity: DelegatedIdentity) -> None:
            if not used and keys.failures() == {}:
                raise OSError(28, "No space left on device")
            used.append(identity)

        keys.watch(use)
        await keys.renew_due()
        assert "No space" in keys.failures()["tls"]
        assert keys.find("tls") is None
        operations = stack.signer.operations
        keys._slots["tls"].retry_at = 0.0  # the pause is over
        await keys.renew_due()
        assert used == [keys.current("tls")]
        assert keys.failures() == {}
        assert stack.signer.operations == operations


async def test_the_pauses_between_attempts_double_and_are_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    time = StoppedTime()
    monkeypatch.setattr(delegated_module, "time", time)
    async with status_stack(tmp_path) as stack:
        refused = Refused(Forbidden("not today"))
        answers: list[Outcome | None] = [None] + [refused] * 11

        async def enroll(request: EnrollmentRequest, *, generation: int | None = None) -> Outcome:
            return answers.pop(0) or await stack.enroll(request, generation=generation)

        keys = delegated(stack, enroll=enroll)
        await keys.renew_due()
        stack.time.advance(days=6)
        waits = []
        while answers:
            wait_s = await keys.renew_due()
            if not waits or wait_s != 60.0:
                waits.append(wait_s)
            time.now_s += wait_s
        assert waits[:6] == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0]
        assert caplog.text.count("not today") == 1
        assert keys.failures() == {"ocsp-1": "not today"}


async def test_the_pauses_begin_anew_after_a_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    time = StoppedTime()
    monkeypatch.setattr(delegated_module, "time", time)
    async with status_stack(tmp_path) as stack:
        refused = Refused(Forbidden("not today"))
        answers: list[Outcome | None] = [refused, refused, None, refused]

        async def enroll(request: EnrollmentRequest, *, generation: int | None = None) -> Outcome:
            return answers.pop(0) or await stack.enroll(request, generation=generation)

        keys = delegated(stack, enroll=enroll)
        for expected in (1.0, 2.0, 60.0):
            wait_s = await keys.renew_due()
            assert wait_s == expected
            time.now_s += wait_s
        stack.time.advance(days=6)
        assert await keys.renew_due() == 1.0


async def test_it_is_due_when_two_thirds_are_over_and_not_before(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        keys = world.authority.delegated
        await keys.renew_due()
        first = keys.current("ocsp-1")
        world.clock.advance(first.renew_at_ms - world.clock.now_ms() - 500)
        assert await keys.renew_due() == 0.5
        assert keys.current("ocsp-1") is first
        world.clock.advance(500)
        await keys.renew_due()
        assert keys.current("ocsp-1").serial != first.serial


async def test_an_identity_found_again_is_put_to_use_once(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        await delegated(stack).renew_due()
    async with status_stack(tmp_path) as stack:
        keys = delegated(stack)
        heard: list[DelegatedIdentity] = []
        keys.watch(heard.append)
        await keys.renew_due()
        await keys.renew_due()
        assert heard == [keys.current("ocsp-1")]


async def test_the_running_task_replaces_a_revoked_certificate_at_once(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        keys = delegated(stack)
        heard: asyncio.Queue[DelegatedIdentity] = asyncio.Queue()
        keys.watch(heard.put_nowait)
        task = asyncio.create_task(keys.run())
        async with asyncio.timeout(30):  # the loop would look by itself after a minute
            first = await heard.get()
            await stack.revoker.revoke(first.serial, Reason.SUPERSEDED, "test")
            assert (await heard.get()).serial != first.serial
        task.cancel()
        await asyncio.wait([task])


async def test_the_journal_tells_the_gateways_own_requests_from_those_of_devices(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        await world.authority.delegated.renew_due()
        (intent,) = await world.recorded(Intent)
        assert isinstance(intent, Intent)
        assert (intent.protocol, intent.requester, intent.operation) == ("internal", "gateway:ocsp-1", "enroll")

"""Tokens that are pulled out, hang, crash, lie, or refuse the PIN: what callers see, and what is never done twice."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.errors import Busy, PinError, SignerUnavailable
from gateway.keys.keeper import TokenTimes
from gateway.keys.provider import KeyRing
from gateway.keys.signer import KeySpec, KeyState, Priority, Signer
from gateway.keys.wrapping import WrappingKey
from gateway.pki.algorithms import PublicKey, signature_is_valid
from tests.support.loop_stalls import measured_loop
from tests.support.tokens import FaultyToken, build_fault_module, softhsm_store, softhsm_token

TIMES = TokenTimes(sign=60.0, grace=0.0, attach=60.0)  # polling as in production
HANG_TIMES = replace(TIMES, sign=1.0)


@pytest.fixture(scope="session")
def fault_module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_fault_module(tmp_path_factory.mktemp("p11fault"))


class Stand:
    """A faulty token with the key ``ca`` on it, and gateways that use it."""

    def __init__(self, faulty: FaultyToken, directory: Path) -> None:
        self.faulty = faulty
        self.pin_file = directory / "pin"
        self.pin_file.write_text(faulty.token.pin)
        self._keys = directory / "keys"
        self.public_key: PublicKey | None = None

    @asynccontextmanager
    async def ring(self, times: TokenTimes = TIMES) -> AsyncIterator[KeyRing]:
        ring = KeyRing(self._keys, WrappingKey(bytes(32)), times=times)
        try:
            yield ring
        finally:
            await ring.close()

    def uri(self, name: str = "ca") -> str:
        return self.faulty.token.uri(name, pin_source=f"file:{self.pin_file}")

    @asynccontextmanager
    async def signer(self, times: TokenTimes = TIMES) -> AsyncIterator[Signer]:
        """The key in a new start of the gateway, opened without waiting for the token."""
        async with self.ring(times) as ring:
            yield await ring.open(self.uri(), self.public_key)

    def count(self, call: str) -> int:
        return self.faulty.count(call)


@pytest.fixture
async def stand(fault_module: Path, tmp_path: Path) -> Stand:
    real = softhsm_token(softhsm_store(tmp_path / "softhsm"), "ca token")
    stand = Stand(FaultyToken(fault_module, tmp_path / "faulty", real), tmp_path)
    async with stand.ring() as ring:
        stand.public_key = (await ring.generate(stand.uri(), KeySpec.P256)).public_key
    (tmp_path / "faulty" / "log").unlink()
    return stand


async def until(condition: Callable[[], bool]) -> None:
    """Poll; a minute is for a machine with a hundred other things to do."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)


async def state(signer: Signer, wanted: KeyState) -> None:
    await until(lambda: signer.health().state is wanted)


async def until_signed(signer: Signer) -> bytes:
    """Ask again and again, as clients with Retry-After do."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await signer.sign(b"again")
            except SignerUnavailable:
                await asyncio.sleep(0.01)


async def test_one_signature_is_one_operation_and_any_number_need_one_login(stand: Stand) -> None:
    async with stand.signer() as signer:
        await state(signer, KeyState.UP)
        signatures = await asyncio.gather(*(signer.sign(bytes([number])) for number in range(30)))
        for number, signature in enumerate(signatures):
            assert signature_is_valid(signer.public_key, signer.algorithm, signature, bytes([number]))
    assert (stand.count("C_SignInit"), stand.count("C_Sign"), stand.count("C_Login")) == (30, 30, 1)


async def test_an_unplugged_token_is_seen_without_traffic(stand: Stand) -> None:
    async with stand.signer() as signer:
        await state(signer, KeyState.UP)
        stand.faulty.unplug()
        await state(signer, KeyState.DOWN)
        assert "not plugged in" in signer.health().detail or "unplugged" in signer.health().detail


async def test_signing_resumes_within_five_seconds_of_replug(stand: Stand) -> None:
    async with stand.signer() as signer:
        await state(signer, KeyState.UP)
        await signer.sign(b"before")
        stand.faulty.unplug()
        with pytest.raises(SignerUnavailable) as caught:
            await signer.sign(b"while it is out")
        assert caught.value.retry_after > 0
        await until(lambda: "not plugged in" in signer.health().detail)
        stand.faulty.replug()
        start = time.monotonic()
        await until_signed(signer)
        assert time.monotonic() - start < 5
    assert stand.count("C_Login") == 2  # the right PIN, once for each time it was plugged in


async def test_pulled_out_while_signing_the_outcome_is_unknown_and_nothing_is_repeated(stand: Stand) -> None:
    stand.faulty.order("latency=300")
    async with stand.signer() as signer:
        await state(signer, KeyState.UP)
        signing = asyncio.create_task(signer.sign(b"cut short"))
        await until(lambda: stand.count("C_Sign") == 1)
        stand.faulty.unplug()
        with pytest.raises(SignerUnavailable, match="outcome unknown"):
            await signing
        stand.faulty.replug()
        await state(signer, KeyState.UP)
        assert stand.count("C_Sign") == 1


async def test_a_hung_token_is_given_up_after_the_deadline_and_opened_anew(stand: Stand) -> None:
    async with stand.signer(HANG_TIMES) as signer:
        await state(signer, KeyState.UP)
        stand.faulty.order("hang")
        with pytest.raises(SignerUnavailable, match=r"did not answer.*outcome unknown"):
            await signer.sign(b"x")
        stand.faulty.order()
        await until_signed(signer)


async def test_a_crash_in_the_vendors_module_stays_in_the_child(stand: Stand) -> None:
    async with stand.signer() as signer:
        await state(signer, KeyState.UP)
        stand.faulty.order("abort")
        with pytest.raises(SignerUnavailable, match="crashed; outcome unknown"):
            await signer.sign(b"x")
        stand.faulty.order()
        await until_signed(signer)


async def test_a_wrong_signature_never_leaves(stand: Stand) -> None:
    async with stand.signer() as signer:
        await state(signer, KeyState.UP)
        stand.faulty.order("wrong")
        with pytest.raises(SignerUnavailable, match="wrong signature"):
            await signer.sign(b"x")
        stand.faulty.order()
        await until_signed(signer)


@pytest.mark.parametrize("fault", ["unplugged", "hang", "abort", "wrong", "latency=200"])
async def test_the_event_loop_is_never_blocked(stand: Stand, fault: str) -> None:
    async with stand.signer(HANG_TIMES) as signer:
        await state(signer, KeyState.UP)
        with measured_loop() as stalls:
            await asyncio.gather(*(signer.sign(b"x") for _ in range(20)))
            stand.faulty.order(fault)
            await asyncio.gather(*(signer.sign(b"x") for _ in range(3)), return_exceptions=True)
            stand.faulty.replug()
            await until_signed(signer)
    assert max(stalls) < 0.05


async def test_the_measure_of_the_loop_finds_a_blocked_loop() -> None:
    """The control for the test above."""
    with measured_loop() as stalls:
        await asyncio.sleep(0.02)
        time.sleep(0.1)
        await asyncio.sleep(0.02)
    assert max(stalls) > 0.05


async def _requests_until(signer: Signer, wanted: KeyState) -> None:
    await state(signer, wanted)
    for _ in range(20):
        with pytest.raises(SignerUnavailable):
            await signer.sign(b"x")


async def test_a_wrong_pin_is_tried_once_over_requests_restarts_and_replugs(stand: Stand) -> None:
    right = stand.pin_file.read_text()
    stand.pin_file.write_text("000000")
    for _ in range(3):
        async with stand.signer() as signer:
            await _requests_until(signer, KeyState.PIN_BLOCKED)
            stand.faulty.unplug()
            await state(signer, KeyState.DOWN)
            stand.faulty.replug()
            await state(signer, KeyState.PIN_BLOCKED)
    assert stand.count("C_Login") == 1
    async with stand.signer() as signer:
        await state(signer, KeyState.PIN_BLOCKED)
        with pytest.raises(PinError):  # not even when a person enters it again
            await signer.unlock("000000")
        assert stand.count("C_Login") == 1
        await signer.unlock(right)
        await until_signed(signer)
    assert stand.count("C_Login") == 2


async def test_another_pin_in_the_file_is_tried_by_itself(stand: Stand) -> None:
    right = stand.pin_file.read_text()
    stand.pin_file.write_text("000000")
    async with stand.signer() as signer:
        await state(signer, KeyState.PIN_BLOCKED)
        stand.pin_file.write_text(right)
        await until_signed(signer)
    assert stand.count("C_Login") == 2


@pytest.mark.parametrize("fault", ["login-abort", "login-hang"])
async def test_a_login_that_was_cut_short_waits_for_a_person(stand: Stand, fault: str, tmp_path: Path) -> None:
    (tmp_path / "keys" / "pins.json").unlink()  # a PIN that was never accepted here
    stand.faulty.order(fault)
    async with stand.signer(replace(TIMES, login=1.0)) as signer:
        await state(signer, KeyState.PIN_BLOCKED)
        stand.faulty.order()
        await _requests_until(signer, KeyState.PIN_BLOCKED)
        assert stand.count("C_Login") == 1
        await signer.unlock(stand.pin_file.read_text())
        await until_signed(signer)
    assert stand.count("C_Login") == 2


async def test_a_pin_that_a_person_entered_is_kept_nowhere_and_asked_for_again_after_a_crash(stand: Stand) -> None:
    pin = stand.pin_file.read_text()
    stand.pin_file.unlink()
    async with stand.signer() as signer:
        await _requests_until(signer, KeyState.PIN_NEEDED)
        await signer.unlock(pin)
        await until_signed(signer)
        stand.faulty.order("abort")
        with pytest.raises(SignerUnavailable):
            await signer.sign(b"x")
        stand.faulty.order()
        await _requests_until(signer, KeyState.PIN_NEEDED)
        await signer.unlock(pin)
        await until_signed(signer)


async def test_the_start_does_not_wait_for_an_absent_token(stand: Stand) -> None:
    stand.faulty.unplug()
    async with stand.signer() as signer:
        assert signer.health().state is KeyState.DOWN
        assert signer.public_key == stand.public_key
        await until(lambda: "not plugged in" in signer.health().detail)
        stand.faulty.replug()
        await until_signed(signer)


async def test_a_wrong_stick_gets_no_pin(stand: Stand, fault_module: Path, tmp_path: Path) -> None:
    """Same label, another key: as when two sticks are mixed up. The serial number in the URI is left out to make it hard."""
    other = FaultyToken(fault_module, tmp_path / "other", softhsm_token(softhsm_store(tmp_path / "other store"), "ca token"))
    uri = other.token.uri("ca", pin_source=f"file:{stand.pin_file}", serial=False)
    async with stand.ring() as ring:
        await ring.generate(uri, KeySpec.P256)
    logins = other.count("C_Login")
    async with stand.ring() as ring:
        signer = await ring.open(uri, stand.public_key)
        await _requests_until(signer, KeyState.WRONG_TOKEN)
    assert other.count("C_Login") == logins


async def test_a_token_with_another_serial_number_gets_no_pin(stand: Stand, fault_module: Path, tmp_path: Path) -> None:
    other = FaultyToken(fault_module, tmp_path / "other", softhsm_token(softhsm_store(tmp_path / "other store"), "ca token"))
    uri = stand.uri().replace(str(stand.faulty.token.module), str(other.token.module))
    async with stand.ring() as ring:
        signer = await ring.open(uri, stand.public_key)
        await _requests_until(signer, KeyState.WRONG_TOKEN)
        assert other.token.serial in signer.health().detail
    assert other.count("C_Login") == 0


async def test_tokens_side_by_side_fail_alone(stand: Stand, fault_module: Path, tmp_path: Path) -> None:
    second = FaultyToken(fault_module, tmp_path / "second", softhsm_token(softhsm_store(tmp_path / "second store"), "second"))
    async with stand.ring(HANG_TIMES) as ring:
        first_signer = await ring.open(stand.uri(), stand.public_key)
        second_signer = await ring.generate(second.token.uri("ca", pin_source=f"file:{stand.pin_file}"), KeySpec.P256)
        await state(first_signer, KeyState.UP)
        stand.faulty.order("hang")
        hanging = asyncio.create_task(first_signer.sign(b"x"))
        await until(lambda: stand.count("C_Sign") == 1)
        await second_signer.sign(b"y")
        with pytest.raises(SignerUnavailable):
            await hanging
        assert second_signer.health().state is KeyState.UP


async def test_several_keys_of_one_token_share_one_login(stand: Stand) -> None:
    async with stand.ring() as ring:
        first = await ring.open(stand.uri(), stand.public_key)
        second = await ring.generate(stand.uri("next generation"), KeySpec.P384)
        await asyncio.gather(until_signed(first), until_signed(second))
    assert stand.count("C_Login") == 1


async def test_a_key_can_be_closed_before_its_ring_and_the_others_go_on(stand: Stand) -> None:
    async with stand.ring() as ring:
        first = await ring.open(stand.uri(), stand.public_key)
        second = await ring.open(stand.uri(), stand.public_key)
        await until_signed(first)
        await first.close()
        await until_signed(second)


async def test_the_most_urgent_goes_first_and_too_many_are_told_so(stand: Stand) -> None:
    order: list[str] = []

    async def note(name: str, work: Awaitable[bytes]) -> None:
        await work
        order.append(name)

    async with stand.signer() as signer:
        await state(signer, KeyState.UP)
        stand.faulty.order("latency=50")
        bulk = [asyncio.create_task(note("bulk", signer.sign(b"x", priority=Priority.BULK))) for _ in range(6)]
        await until(lambda: signer.health().waiting == 4)
        line = asyncio.create_task(note("line", signer.sign(b"x", priority=Priority.LINE)))
        status = asyncio.create_task(note("status", signer.sign(b"x", priority=Priority.STATUS)))
        await asyncio.gather(*bulk, line, status)
        assert order == ["bulk", "bulk", "status", "line", "bulk", "bulk", "bulk", "bulk"]
        stand.faulty.order("latency=1000")
        crowd = [asyncio.create_task(signer.sign(b"x")) for _ in range(600)]
        results: list[object] = []
        while not any(isinstance(result, Busy) for result in results):
            done, _ = await asyncio.wait(crowd, return_when=asyncio.FIRST_COMPLETED)
            results = [task.exception() for task in done]
        for task in crowd:
            task.cancel()
        await asyncio.gather(*crowd, return_exceptions=True)


async def test_a_token_with_a_locked_pin_gets_no_attempt_until_it_is_unblocked(stand: Stand) -> None:
    stand.faulty.order("pin-locked")
    async with stand.signer() as signer:
        await _requests_until(signer, KeyState.PIN_BLOCKED)
        assert "vendor's tool" in signer.health().detail
        with pytest.raises(PinError, match="locked"):
            await signer.unlock(stand.pin_file.read_text())
        assert stand.count("C_Login") == 0
        stand.faulty.order()
        await until_signed(signer)
    assert stand.count("C_Login") == 1


async def test_the_last_try_is_not_spent_on_a_pin_nobody_has_proven(stand: Stand, tmp_path: Path) -> None:
    (tmp_path / "keys" / "pins.json").unlink()
    stand.faulty.order("pin-last")
    async with stand.signer() as signer:
        await _requests_until(signer, KeyState.PIN_BLOCKED)
        assert stand.count("C_Login") == 0
        await signer.unlock(stand.pin_file.read_text())
        await until_signed(signer)
    async with stand.signer() as signer:  # proven now
        await until_signed(signer)
    assert stand.count("C_Login") == 2


@pytest.mark.parametrize(("flag", "text"), [("pin-low", "a wrong PIN was entered"), ("pin-last", "one PIN attempt is left")])
async def test_wrong_pins_entered_elsewhere_are_shown_while_signing_works(stand: Stand, flag: str, text: str) -> None:
    async with stand.signer() as signer:
        await state(signer, KeyState.UP)
        stand.faulty.order(flag)
        await until(lambda: text in signer.health().detail)
        await signer.sign(b"x")

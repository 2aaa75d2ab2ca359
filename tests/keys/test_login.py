"""One PIN, one attempt: what a person is told, and what the ledger keeps of an attempt whose end is unknown."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path

import pytest

from gateway.errors import PinError, SignerUnavailable
from gateway.keys.frames import Code, Kind, TokenInfo, failure
from gateway.keys.login import Login
from gateway.keys.pin import OncePin, PinLedger, no_pin
from gateway.keys.process import ChildFailure, ChildGone
from gateway.keys.signer import KeyState
from gateway.keys.wrapping import WrappingKey
from tests.support.scripted_child import scripted_child

INFO = TokenInfo("4711", "here", login_required=True)
DIGEST = bytes(32)
HAS_PIN, NO_PIN = (Kind.OK, DIGEST), (Kind.OK, b"")


@pytest.fixture
def ledger(tmp_path: Path) -> PinLedger:
    return PinLedger(tmp_path / "pins.json", WrappingKey(bytes(32)))


async def refused(outcome: Awaitable[None]) -> str:
    with pytest.raises(PinError) as caught:
        await outcome
    return str(caught.value)


async def test_a_token_that_needs_no_login_needs_no_pin(ledger: PinLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    login = Login(no_pin(), ledger, 60)
    offered = login.offer("1234")
    async with scripted_child(monkeypatch) as child:
        assert await login.attempt(child, TokenInfo("4711", "here", login_required=False))
        assert child.answers == 0
    assert await offered is None


async def test_without_a_pin_nothing_is_tried(ledger: PinLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    login = Login(no_pin(), ledger, 60)
    async with scripted_child(monkeypatch, NO_PIN) as child:
        assert not await login.attempt(child, INFO)
    assert login.problem[0] is KeyState.PIN_NEEDED


async def test_a_second_pin_waits_for_the_outcome_of_the_first(ledger: PinLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    login = Login(no_pin(), ledger, 60)
    first = login.offer("1234")
    with pytest.raises(SignerUnavailable, match="another PIN is being tried"):
        login.offer("5678")
    async with scripted_child(monkeypatch, HAS_PIN, (Kind.OK, b"")) as child:
        assert await login.attempt(child, INFO)
    assert await first is None
    login.offer("5678")


async def test_a_refused_pin_is_told_and_never_tried_again(ledger: PinLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    login = Login(no_pin(), ledger, 60)
    first = login.offer("1234")
    async with scripted_child(monkeypatch, HAS_PIN, (Kind.FAILED, failure(Code.PIN_INCORRECT, "no")), HAS_PIN) as child:
        assert not await login.attempt(child, INFO)
        assert "will not be tried again" in await refused(first)
        assert login.problem == (KeyState.PIN_BLOCKED, "the token refused the PIN; it will not be tried again")
        again = login.offer("1234")
        assert not await login.attempt(child, INFO)
        assert "refused by the token before" in await refused(again)
        assert child.answers == 3  # no second LOGIN


async def test_a_token_that_locks_its_pin_at_the_attempt_is_told_so(ledger: PinLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    login = Login(no_pin(), ledger, 60)
    offered = login.offer("1234")
    async with scripted_child(monkeypatch, HAS_PIN, (Kind.FAILED, failure(Code.PIN_LOCKED, "locked"))) as child:
        assert not await login.attempt(child, INFO)
    assert "unblock it" in await refused(offered)
    assert login.problem[0] is KeyState.PIN_BLOCKED
    with pytest.raises(PinError, match="refused by the token before"):
        ledger.begin("4711", DIGEST, by_person=True, last_try=False)


async def test_a_locked_token_gets_no_attempt(ledger: PinLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    login = Login(no_pin(), ledger, 60)
    offered = login.offer("1234")
    async with scripted_child(monkeypatch) as child:
        assert not await login.attempt(child, TokenInfo("4711", "here", login_required=True, pin_locked=True))
        assert child.answers == 0
    assert "unblock it" in await refused(offered)


async def test_another_fault_at_the_login_leaves_the_attempt_open(ledger: PinLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody knows whether the token counted it: only a person may try this PIN again."""
    login = Login(no_pin(), ledger, 60)
    offered = login.offer("1234")
    async with scripted_child(monkeypatch, HAS_PIN, (Kind.FAILED, failure(Code.TOKEN, "CKR_DEVICE_ERROR"))) as child:
        with pytest.raises(ChildFailure, match="CKR_DEVICE_ERROR"):
            await login.attempt(child, INFO)
    login.interrupted()
    with pytest.raises(SignerUnavailable, match="went away"):
        await offered
    with pytest.raises(PinError, match="interrupted"):
        ledger.begin("4711", DIGEST, by_person=False, last_try=False)
    ledger.begin("4711", DIGEST, by_person=True, last_try=False)


async def test_a_pin_from_a_prompt_is_used_once(ledger: PinLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def ask() -> str:
        asked.append("PIN")
        return "1234"

    login = Login(OncePin(ask), ledger, 60)
    async with scripted_child(monkeypatch, HAS_PIN, (Kind.OK, b""), NO_PIN) as child:
        assert await login.attempt(child, INFO)
        assert not await login.attempt(child, INFO)
    assert (asked, login.problem[0]) == (["PIN"], KeyState.PIN_NEEDED)


async def test_a_person_who_did_not_wait_stops_nothing(ledger: PinLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    login = Login(no_pin(), ledger, 60)
    login.offer("1234").cancel()
    async with scripted_child(monkeypatch, HAS_PIN, (Kind.OK, b"")) as child:
        assert await login.attempt(child, INFO)


async def test_a_child_that_ends_at_the_login_says_so(ledger: PinLedger, monkeypatch: pytest.MonkeyPatch) -> None:
    login = Login(OncePin(lambda: "1234"), ledger, 60)
    async with scripted_child(monkeypatch, HAS_PIN) as child:
        with pytest.raises(ChildGone):
            await login.attempt(child, INFO)

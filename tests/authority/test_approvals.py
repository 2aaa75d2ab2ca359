"""Requests that wait for a person: one record each, one certificate for an approval, and a list that stays readable."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.authority import approvals
from gateway.authority.approvals import KEEP_MS, MOST_WAITING_OF_ONE, ApprovalState
from gateway.authority.requests import Issued, Pending, Requester, RequesterKind
from gateway.errors import Busy, Conflict, Forbidden, NotFound
from gateway.journal.records import Decided, Record, Waiting
from tests.support.authority import SteppedClock, TestCa, World, authority_in, device_csr, enrollment

TOKEN = Requester(RequesterKind.TOKEN, "token:t")


async def ask(world: World, key: int = 0, identity: str = "token:t", forged_key: bytes | None = None) -> Pending | None:
    request = enrollment(device_csr(key=key), requester=replace(TOKEN, identity=identity))
    return await world.authority.approvals.consult(request, forged_key or request.idempotency_key, 60)


async def waiting(world: World, key: int = 0, identity: str = "token:t") -> str:
    pending = await ask(world, key, identity)
    assert isinstance(pending, Pending)
    return pending.request_id


async def test_asking_again_waits_in_the_same_line(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        assert await waiting(world) == await waiting(world)
        (line,) = world.authority.approvals.list()
        assert (line.state, line.requester, line.profile) == (ApprovalState.WAITING, "token:t", "ldevid")
        assert set(line.subject.split(",")) == {"CN=plc-7", "serialNumber=SN-7"}
        assert len(await world.recorded(Waiting)) == 1


@pytest.mark.parametrize("approved", [True, False])
async def test_a_decision_is_recorded_once_with_the_operators_name(tmp_path: Path, approved: bool) -> None:
    async with authority_in(tmp_path) as world:
        request_id = await waiting(world)
        for _ in range(2):
            line = await world.authority.approvals.decide(request_id, approved=approved, operator="anna", reason="r")
        assert (line.state, line.operator) == (ApprovalState.APPROVED if approved else ApprovalState.DENIED, "anna")
        assert await world.recorded(Decided) == [Decided(request_id, approved, "anna", "r")]


async def test_an_answer_may_be_changed(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        request_id = await waiting(world)
        await world.authority.approvals.decide(request_id, approved=False, operator="anna")
        with pytest.raises(Forbidden, match=r"was denied$"):
            await ask(world)
        await world.authority.approvals.decide(request_id, approved=True, operator="anna")
        assert await ask(world) is None


async def test_nobody_decides_on_what_nobody_asked(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        with pytest.raises(NotFound):
            await world.authority.approvals.decide("0" * 16, approved=True, operator="anna")


async def test_the_list_outlives_a_restart(tmp_path: Path) -> None:
    root, clock = TestCa.make("Root"), SteppedClock()
    async with authority_in(tmp_path, root=root, clock=clock) as world:
        await waiting(world, 0)
        await world.authority.approvals.decide(await waiting(world, 1), approved=True, operator="anna")
        await world.authority.approvals.decide(await waiting(world, 2), approved=False, operator="anna", reason="no")
        before = world.authority.approvals.list()
    async with authority_in(tmp_path, root=root, clock=clock) as world:
        assert world.authority.approvals.list() == before
        assert await ask(world, 1) is None
        with pytest.raises(Forbidden, match="no"):
            await ask(world, 2)


async def test_a_request_nobody_cared_about_is_forgotten(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        await waiting(world, 0)
        world.clock.advance(KEEP_MS)
        await waiting(world, 1)
        assert len(world.authority.approvals.list()) == 2
        world.clock.advance(1)
        await waiting(world, 2)
        assert len(world.authority.approvals.list()) == 2


async def test_one_requester_cannot_fill_the_list(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        for key in range(MOST_WAITING_OF_ONE):
            await waiting(world, key)
        with pytest.raises(Busy) as caught:
            await ask(world, MOST_WAITING_OF_ONE)
        assert caught.value.retry_after == 600  # a person has to look first
        await waiting(world, MOST_WAITING_OF_ONE, "token:other")
        await world.authority.approvals.decide(await waiting(world, 0), approved=True, operator="anna")
        await waiting(world, MOST_WAITING_OF_ONE)


async def test_the_list_has_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(approvals, "MOST_WAITING", 2)
    async with authority_in(tmp_path) as world:
        await waiting(world, 0, "token:a")
        await waiting(world, 1, "token:b")
        with pytest.raises(Busy):
            await ask(world, 2, "token:c")


async def test_an_approval_is_not_good_for_a_request_that_only_shares_its_short_name(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        request_id = await waiting(world)
        await world.authority.approvals.decide(request_id, approved=True, operator="anna")
        with pytest.raises(Conflict):
            await ask(world, 1, "token:thief", forged_key=bytes.fromhex(request_id) + bytes(24))


async def test_a_denial_that_comes_while_the_request_is_looked_at_counts(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        request_id = await waiting(world)
        await world.authority.approvals.decide(request_id, approved=True, operator="anna")
        find_issued = world.journal.inner.find_issued

        async def slow(key: bytes, not_before_ms: int) -> tuple[Record, Record] | None:
            await world.authority.approvals.decide(request_id, approved=False, operator="bert")
            return await find_issued(key, not_before_ms)

        world.journal.find_issued = slow  # type: ignore[attr-defined]
        with pytest.raises(Forbidden, match="denied"):
            await ask(world)


async def test_what_was_forgotten_does_not_come_back_with_a_restart(tmp_path: Path) -> None:
    root, clock = TestCa.make("Root"), SteppedClock()
    async with authority_in(tmp_path, root=root, clock=clock) as world:
        await waiting(world, 0)
        clock.advance(KEEP_MS)
        await world.authority.approvals.decide(await waiting(world, 1), approved=True, operator="anna")
        clock.advance(1)
        await waiting(world, 2)
        before = world.authority.approvals.list()
        assert len(before) == 2
    async with authority_in(tmp_path, root=root, clock=clock) as world:
        assert world.authority.approvals.list() == before


async def test_a_decision_on_a_forgotten_request_does_not_stop_the_start(tmp_path: Path) -> None:
    """The list may lack what the journal's older part had."""
    root, clock = TestCa.make("Root"), SteppedClock()
    async with authority_in(tmp_path, root=root, clock=clock) as world:
        await world.journal.append(Decided("0" * 16, True, "anna", ""))
    async with authority_in(tmp_path, root=root, clock=clock) as world:
        assert world.authority.approvals.list() == ()


async def test_a_request_that_waits_once_more_goes_to_the_end_of_the_list(tmp_path: Path) -> None:
    async with authority_in(tmp_path, tables={"ldevid": {"approval": True}}) as world:
        requester = await world.token(uses=5)

        async def enroll(key: int) -> Pending | Issued:
            outcome = await world.authority.enroll(enrollment(device_csr(key=key), requester=requester))
            assert isinstance(outcome, Pending | Issued)
            return outcome

        first, other = await enroll(0), await enroll(1)
        assert isinstance(first, Pending)
        assert isinstance(other, Pending)
        await world.authority.approvals.decide(first.request_id, approved=True, operator="anna")
        assert isinstance(await enroll(0), Issued)
        world.clock.advance(max(rule.retry_window_s for rule in world.authority.policy.current.rules.values()) * 1000 + 1)
        assert await enroll(0) == first
        assert [line.request_id for line in world.authority.approvals.list()] == [other.request_id, first.request_id]


def test_the_words_of_the_operators_answer_stay() -> None:
    """The control socket says them, and scripts read them."""
    assert [state.value for state in ApprovalState] == ["waiting", "approved", "denied"]


async def test_a_person_compares_sixteen_digits_and_has_a_month(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        request_id = await waiting(world)
        assert (len(request_id), set(request_id) <= set("0123456789abcdef")) == (16, True)
    assert timedelta(days=30) / timedelta(milliseconds=1) == KEEP_MS

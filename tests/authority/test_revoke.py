"""Revoking, holding, releasing: what may follow what, and that nothing is answered before it is durable."""

import asyncio
import gc
from pathlib import Path

import pytest

from gateway.authority.requests import Issued
from gateway.authority.revoke import CENTRAL, Revoker, resulting_reason
from gateway.errors import Conflict, Forbidden, JournalFailed, NotFound, RequestError
from gateway.journal.records import CommandDone, Payload, Record, Released, Revoked
from gateway.pki.crl import Reason
from gateway.pki.tbs import new_serial
from tests.support.authority import START_MS, authority_in, enrollment
from tests.support.status_stack import StatusStack, status_stack

HOLD, KEY, SUPERSEDED = Reason.CERTIFICATE_HOLD, Reason.KEY_COMPROMISE, Reason.SUPERSEDED


@pytest.mark.parametrize(
    ("current", "asked", "result"),
    [
        (None, SUPERSEDED, SUPERSEDED),
        (None, HOLD, HOLD),
        (HOLD, HOLD, None),
        (HOLD, SUPERSEDED, SUPERSEDED),
        (HOLD, KEY, KEY),
        (SUPERSEDED, HOLD, None),
        (SUPERSEDED, Reason.UNSPECIFIED, None),
        (SUPERSEDED, KEY, KEY),
        (KEY, KEY, None),
        (KEY, SUPERSEDED, None),
        (KEY, HOLD, None),
        (Reason.UNSPECIFIED, KEY, KEY),
    ],
)
def test_a_reason_may_only_rise_to_key_compromise(current: Reason | None, asked: Reason, result: Reason | None) -> None:
    assert resulting_reason(current, asked) is result


async def written(stack: StatusStack) -> list[Payload]:
    return [record.payload async for record in stack.journal.scan(Revoked, Released)]


async def test_revoking_twice_is_answered_alike_and_recorded_once(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        serial = (await stack.issue()).serial_number
        first = await stack.revoker.revoke(serial, SUPERSEDED, "anna")
        again = await stack.revoker.revoke(serial, Reason.CESSATION_OF_OPERATION, "bert")
        assert again == first
        assert first.reason is SUPERSEDED
        assert await written(stack) == [Revoked(f"{serial:x}", 1, "superseded", first.revoked_ms, "anna")]


async def test_parallel_revocations_of_one_serial_record_one(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        serial = (await stack.issue()).serial_number
        results = await asyncio.gather(*(stack.revoker.revoke(serial, SUPERSEDED, f"op {i}") for i in range(8)))
        assert len(set(results)) == 1
        assert len(await written(stack)) == 1


async def test_a_hold_that_becomes_a_revocation_keeps_its_date(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        serial = (await stack.issue()).serial_number
        held = await stack.revoker.hold(serial, "anna")
        stack.time.advance(hours=3)
        final = await stack.revoker.revoke(serial, KEY, "anna")
        assert (final.reason, final.revoked_ms) == (KEY, held.revoked_ms)
        assert stack.status.find(serial) == final


async def test_the_earliest_date_wins(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        serial = (await stack.issue()).serial_number
        first = await stack.revoker.revoke(serial, SUPERSEDED, "anna")
        earlier = first.revoked_ms - 3_600_000
        final = await stack.revoker.revoke(serial, KEY, "anna", revoked_at_ms=earlier)
        assert final.revoked_ms == earlier


async def test_release_lifts_a_hold_and_nothing_else(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        serial = (await stack.issue()).serial_number
        with pytest.raises(Conflict, match="not revoked"):
            await stack.revoker.release(serial, "anna")
        await stack.revoker.hold(serial, "anna")
        await stack.revoker.release(serial, "anna")
        await stack.revoker.release(serial, "anna")  # the answer was lost
        assert [type(payload) for payload in await written(stack)] == [Revoked, Released]
        assert stack.status.find(serial) is None
        await stack.revoker.revoke(serial, KEY, "anna")
        with pytest.raises(Conflict, match="keyCompromise"):
            await stack.revoker.release(serial, "anna")


async def test_only_serials_in_the_journal_can_be_revoked(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        with pytest.raises(NotFound):
            await stack.revoker.revoke(4711, KEY, "anna")
        with pytest.raises(NotFound):
            await stack.revoker.release(4711, "anna")
        open_serial = new_serial(stack.clock.now_ms(), bytes(12))
        await stack.plan(open_serial)
        with pytest.raises(NotFound):
            await stack.revoker.revoke(open_serial, KEY, "anna")
        assert await written(stack) == []


async def test_a_void_serial_is_revoked_already_and_may_rise(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        serial = new_serial(stack.clock.now_ms(), bytes(12))
        await stack.void(serial)
        assert (await stack.revoker.revoke(serial, SUPERSEDED, "anna")).reason is Reason.UNSPECIFIED
        assert (await stack.revoker.revoke(serial, KEY, "anna")).reason is KEY


@pytest.mark.parametrize("shift_ms", [60_000, None])
async def test_impossible_dates_are_refused(tmp_path: Path, shift_ms: int | None) -> None:
    async with status_stack(tmp_path) as stack:
        serial = (await stack.issue()).serial_number
        when = -1 if shift_ms is None else stack.clock.now_ms() + shift_ms
        with pytest.raises(RequestError, match="future"):
            await stack.revoker.revoke(serial, KEY, "anna", revoked_at_ms=when)


async def test_remove_from_crl_is_no_reason(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        serial = (await stack.issue()).serial_number
        with pytest.raises(RequestError, match="release"):
            await stack.revoker.revoke(serial, Reason.REMOVE_FROM_CRL, "anna")


class SlowJournal:
    """Appends when it is told to, or fails; the rest is the real one."""

    def __init__(self, stack: StatusStack, *, error: Exception | None = None) -> None:
        self._stack = stack
        self._error = error
        self.asked = asyncio.Event()
        self.go = asyncio.Event()
        self.urgent: list[bool] = []

    async def append(self, *payloads: Payload, urgent: bool = False) -> tuple[Record, ...]:
        self.urgent.append(urgent)
        self.asked.set()
        await self.go.wait()
        if self._error:
            raise self._error
        return await self._stack.journal.append(*payloads, urgent=urgent)

    async def by_serial(self, serial: int) -> tuple[Record, ...]:
        return await self._stack.journal.by_serial(serial)


async def test_nothing_is_revoked_before_the_record_is_durable(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        serial = (await stack.issue()).serial_number
        journal = SlowJournal(stack)
        task = asyncio.create_task(Revoker(journal, stack.status, stack.clock).revoke(serial, KEY, "anna"))
        await journal.asked.wait()
        assert stack.status.find(serial) is None
        assert not task.done()
        journal.go.set()
        await task
        assert stack.status.find(serial) is not None
        assert journal.urgent == [True]  # accepted on a full disk


async def test_a_requester_who_hangs_up_does_not_undo_a_revocation(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        serial = (await stack.issue()).serial_number
        journal = SlowJournal(stack)
        applied = asyncio.Event()
        stack.status.watch(lambda *_: applied.set())
        task = asyncio.create_task(Revoker(journal, stack.status, stack.clock).revoke(serial, KEY, "anna"))
        await journal.asked.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        journal.go.set()
        await applied.wait()
        assert stack.status.find(serial) is not None


async def test_a_journal_that_failed_revokes_nothing(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        serial = (await stack.issue()).serial_number
        journal = SlowJournal(stack, error=JournalFailed("input/output error"))
        journal.go.set()
        with pytest.raises(JournalFailed):
            await Revoker(journal, stack.status, stack.clock).revoke(serial, KEY, "anna")
        assert stack.status.find(serial) is None


async def test_what_a_change_was_made_for_is_recorded_with_it(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        serial = (await stack.issue()).serial_number
        for command in ("c1", "c2"):  # the second time nothing changes, and is answered all the same
            await stack.revoker.revoke(serial, SUPERSEDED, CENTRAL, because=(CommandDone(command, "done"),))
        recorded = [record async for record in stack.journal.scan(Revoked, CommandDone)]
        assert [type(record.payload) for record in recorded] == [Revoked, CommandDone, CommandDone]
        assert recorded[1].seq == recorded[0].seq + 1


async def test_a_failed_transaction_changes_neither(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        serial = (await stack.issue()).serial_number
        journal = SlowJournal(stack, error=JournalFailed("injected"))
        journal.go.set()
        revoker = Revoker(journal, stack.status, stack.clock)
        with pytest.raises(JournalFailed):
            await revoker.revoke(serial, SUPERSEDED, CENTRAL, because=(CommandDone("c", "done"),))
        assert stack.status.find(serial) is None
        assert [record async for record in stack.journal.scan(Revoked, CommandDone)] == []


async def test_only_central_lifts_a_hold_of_central(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        serial = (await stack.issue()).serial_number
        await stack.revoker.hold(serial, CENTRAL)
        with pytest.raises(Forbidden, match="central must release it"):
            await stack.revoker.release(serial, "operator:anna")
        await stack.revoker.release(serial, CENTRAL, because=(CommandDone("c", "done"),))
        assert stack.status.find(serial) is None
        await stack.revoker.release(serial, CENTRAL, because=(CommandDone("c2", "nothing-to-do"),))
        assert len([record async for record in stack.journal.scan(CommandDone)]) == 2


async def test_central_lifts_a_hold_of_the_gateway(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        serial = (await stack.issue()).serial_number
        await stack.revoker.hold(serial, "operator:anna")
        await stack.revoker.release(serial, CENTRAL)
        assert stack.status.find(serial) is None


@pytest.mark.parametrize("ago_ms", [0, START_MS])
async def test_a_date_may_lie_anywhere_up_to_now(tmp_path: Path, ago_ms: int) -> None:
    async with authority_in(tmp_path) as world:
        outcome = await world.authority.enroll(enrollment())
        assert isinstance(outcome, Issued)
        when = world.clock.now_ms() - ago_ms
        assert (await world.authority.revoker.revoke(outcome.serial, KEY, "anna", revoked_at_ms=when)).revoked_ms == when


async def test_a_hold_is_lifted_on_a_full_disk_too(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        outcome = await world.authority.enroll(enrollment())
        assert isinstance(outcome, Issued)
        await world.authority.revoker.hold(outcome.serial, "anna")
        append, urgencies = world.journal.append, list[bool]()

        async def watched(*payloads: Payload, urgent: bool = False) -> tuple[Record, ...]:
            urgencies.append(urgent)
            return await append(*payloads, urgent=urgent)

        world.journal.append = watched  # type: ignore[method-assign]
        await world.authority.revoker.release(outcome.serial, "anna")
        assert urgencies == [True]


async def test_a_finished_revocation_is_not_kept_in_memory(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        for _ in range(3):
            await stack.revoker.revoke((await stack.issue()).serial_number, KEY, "anna")
        await asyncio.sleep(0)
        assert stack.revoker._running == set()


async def test_what_central_had_done_already_is_recorded_on_a_full_disk_too(tmp_path: Path) -> None:
    async with authority_in(tmp_path) as world:
        outcome = await world.authority.enroll(enrollment())
        assert isinstance(outcome, Issued)
        revoker, append, urgencies = world.authority.revoker, world.journal.append, list[bool]()

        async def watched(*payloads: Payload, urgent: bool = False) -> tuple[Record, ...]:
            urgencies.append(urgent)
            return await append(*payloads, urgent=urgent)

        world.journal.append = watched  # type: ignore[method-assign]
        for number in range(2):
            await revoker.revoke(outcome.serial, Reason.CERTIFICATE_HOLD, CENTRAL, because=(CommandDone(f"c{number}", "done"),))
        for number in range(2, 4):
            await revoker.release(outcome.serial, CENTRAL, because=(CommandDone(f"c{number}", "done"),))
        assert urgencies == [True] * 4
        (held,) = [payload for payload in await world.recorded(Revoked) if isinstance(payload, Revoked)]
        assert held.by == "central"  # the word that old records have, and that a release is judged by


async def test_central_joins_a_hold_of_the_gateway_and_then_only_central_lifts_it(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        serial = (await stack.issue()).serial_number
        held = await stack.revoker.hold(serial, "operator:anna")
        stack.time.advance(hours=1)
        for _ in range(2):  # asked again, it is recorded once
            assert await stack.revoker.hold(serial, CENTRAL) == held
        await stack.revoker.hold(serial, "operator:bert")
        name = f"{serial:x}"
        assert await written(stack) == [
            Revoked(name, 1, HOLD.value, held.revoked_ms, "operator:anna"),
            Revoked(name, 1, HOLD.value, held.revoked_ms, CENTRAL),
        ]
        with pytest.raises(Forbidden, match="central must release it"):
            await stack.revoker.release(serial, "operator:anna")
        await stack.revoker.release(serial, CENTRAL)
        await stack.revoker.hold(serial, "operator:anna")
        await stack.revoker.release(serial, "operator:anna")  # central's hold was lifted before
        assert stack.status.find(serial) is None


@pytest.mark.parametrize("reason", [HOLD, SUPERSEDED, KEY])
async def test_an_earlier_date_is_recorded_once(tmp_path: Path, reason: Reason) -> None:
    async with status_stack(tmp_path) as stack:
        serial = (await stack.issue()).serial_number
        first = await stack.revoker.revoke(serial, reason, CENTRAL)
        earlier = first.revoked_ms - 3_600_000
        for _ in range(2):
            final = await stack.revoker.revoke(serial, HOLD, "operator:anna", revoked_at_ms=earlier)
            assert (final.reason, final.revoked_ms) == (reason, earlier)
        assert await stack.revoker.revoke(serial, reason, "operator:anna") == final  # a later one changes nothing
        assert [type(each) for each in await written(stack)] == [Revoked, Revoked]
        assert stack.status.find(serial) == final


async def test_whoever_dates_centrals_hold_back_does_not_take_it_over(tmp_path: Path) -> None:
    async with status_stack(tmp_path) as stack:
        serial = (await stack.issue()).serial_number
        held = await stack.revoker.hold(serial, CENTRAL)
        await stack.revoker.revoke(serial, HOLD, "operator:anna", revoked_at_ms=held.revoked_ms - 1)
        with pytest.raises(Forbidden, match="central must release it"):
            await stack.revoker.release(serial, "operator:anna")


async def test_a_failure_nobody_waits_for_any_more_is_no_error_of_the_event_loop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with status_stack(tmp_path) as stack:
        serial = (await stack.issue()).serial_number
        journal = SlowJournal(stack, error=JournalFailed("input/output error"))
        revoker = Revoker(journal, stack.status, stack.clock)
        task = asyncio.create_task(revoker.revoke(serial, KEY, "anna"))
        await journal.asked.wait()
        task.cancel()
        await asyncio.wait([task])
        (running,) = revoker._running
        journal.go.set()
        await asyncio.wait([running])
        await asyncio.sleep(0)
        del running
        gc.collect()
        assert "never retrieved" not in caplog.text


@pytest.mark.parametrize(
    ("reason", "first", "again"),
    [(HOLD, "operator:anna", "operator:bert"), (HOLD, CENTRAL, CENTRAL), (SUPERSEDED, "operator:anna", CENTRAL)],
)
async def test_asking_for_what_is_so_already_records_nothing(tmp_path: Path, reason: Reason, first: str, again: str) -> None:
    async with status_stack(tmp_path) as stack:
        serial = (await stack.issue()).serial_number
        known = await stack.revoker.revoke(serial, reason, first)
        assert await stack.revoker.revoke(serial, reason, again) == known
        assert len(await written(stack)) == 1

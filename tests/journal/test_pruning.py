"""Pruning: what goes, what stays, what a verifier accepts, and that a crash in between is harmless."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.errors import IntegrityError, NotFound
from gateway.journal import pruning
from gateway.journal.backup import restore
from gateway.journal.checkpoint import Checkpoint, sign_note, verifier_key
from gateway.journal.cosignature import cosign
from gateway.journal.journal import Journal
from gateway.journal.pruning import KINDS, Retention
from gateway.journal.records import (
    CommandDone,
    CrlPublished,
    Decided,
    DesiredApplied,
    DesiredRefused,
    Intent,
    Joined,
    OperatorAction,
    PolicyApplied,
    Pruned,
    Refused,
    Released,
    Revoked,
    Started,
    TokenCreated,
    Void,
    Waiting,
    decode,
)
from gateway.journal.store import DiskFull, Store
from gateway.journal.verify import Report, verify
from tests.support.journal import KEY, ORIGIN, START_MS, Place, intent, issue, real_issue

DAY_MS = 86_400_000
CENTRAL = Ed25519PrivateKey.from_private_bytes(bytes(range(7, 39)))
CENTRAL_VKEY = verifier_key("central", CENTRAL.public_key())
#: The certificates of tests.support.journal.real_issue end on 2027-01-01.
MUCH_LATER_MS = 2 * 365 * DAY_MS
YEAR_MS = 365 * DAY_MS


@pytest.fixture(autouse=True)
def short_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the start-up check read nothing but the last records that every test below appends."""
    monkeypatch.setattr(pruning, "KEPT_AT_END", 64)


@dataclass
class Bench:
    """A journal that belongs to a central, with a bit of everything in it."""

    place: Place
    journal: Journal

    def receipt(self, key: Ed25519PrivateKey = CENTRAL) -> str:
        """Central has everything up to here."""
        return cosign(self.journal.head.note, "central", key, self.place.hands.now // 1000)

    def retention(self, receipt: str, needed: Callable[[CommandDone], bool] = lambda _: False) -> Retention:
        return Retention(receipt, CENTRAL_VKEY, self.place.hands.now - 90 * DAY_MS, needed)

    async def later(self, ms: int = MUCH_LATER_MS) -> None:
        """Time passes, and enough is recorded for everything before to be old."""
        self.place.hands.now += ms
        await self.journal.append(*(OperatorAction("later", "test", str(number)) for number in range(64)))

    async def bodies(self) -> list[bytes]:
        return await self.journal.read(0, 10_000)

    async def left(self) -> list[str]:
        """Details of what is left, without what :meth:`later` appended."""
        kinds = [decode(body).payload for body in await self.bodies() if body]
        return [payload.kind for payload in kinds if getattr(payload, "action", "") != "later"]

    def verified(self) -> Report:
        return verify(self.place.path, public_key=KEY.public_key())


async def bench(directory: Path) -> Bench:
    place = Place(directory)
    journal = await place.create()
    await journal.append(Joined("central", CENTRAL_VKEY, b"root", ("https://c",), "anna"), PolicyApplied(1, "file", bytes(32)))
    return Bench(place, journal)


def refused(number: int) -> Refused:
    return Refused("tls-client", "est", "nobody", bytes([number]) * 32, "Forbidden", "no")


async def test_the_past_goes_and_what_is_needed_stays(tmp_path: Path) -> None:
    one = await bench(tmp_path)
    journal = one.journal
    await journal.append(TokenCreated("t", b"v", "tls-client", 3, START_MS + DAY_MS, "anna"))
    plan, done = await real_issue(journal, 1)
    expired = plan.payload
    assert isinstance(expired, Intent)
    await journal.append(Revoked(expired.serial, 1, "keyCompromise", START_MS, "anna"), Released(expired.serial, 1, "anna"))
    unreadable, _ = await issue(journal, 2)  # whose TBS says no end
    await journal.append(refused(1), OperatorAction("noted", "anna"))
    await journal.append(*(CrlPublished(1, "full", number, 1, 2, bytes(32), 0) for number in (1, 2)))
    await journal.append(CrlPublished(1, "delta", 1, 1, 2, bytes(32), 0))
    await journal.append(
        DesiredApplied(1, bytes(32), 1, 0), DesiredApplied(2, bytes(32), 1, 0), DesiredRefused(3, bytes(32), "x")
    )
    await journal.append(CommandDone("old", "done"), CommandDone("open", "done"))
    waiting = Waiting("r1", "tls-client", "est", "nobody", "CN=x", bytes(32), bytes(32))
    await journal.append(waiting, replace(waiting, request_id="r2"), Decided("r1", True, "anna"))
    (void,) = await journal.append(intent(9))
    await journal.append(Void(void.seq, intent(9).serial, "test", intent(9).quota))
    before = await one.bodies()
    root = journal.head.root
    receipt = one.receipt()
    await one.later()
    assert await journal.prune(one.retention(receipt, lambda command: command.command == "open")) == 12
    assert await one.left() == [
        "genesis", "joined", "policy-applied", "token-created",
        "intent", "issued",  # it has no end
        "crl-published", "crl-published", "desired-applied", "desired-refused", "command-done",
        "waiting", "intent", "void", "pruned",
    ]  # fmt: skip
    after = await one.bodies()
    assert [now for now in after[: len(before)] if now] == [was for was, now in zip(before, after, strict=False) if now]
    # What was pruned is not found any more, and whoever asks is told why.
    assert await journal.get(plan.seq) is None
    assert await journal.by_serial(int(expired.serial, 16)) == ()
    assert await journal.find_issued(expired.idempotency_key, 0) is None
    assert len(await journal.by_serial(int(unreadable.payload.serial, 16))) == 2  # type: ignore[union-attr]
    assert [record.payload async for record in journal.scan(Refused, Revoked, Released)] == []
    with pytest.raises(NotFound, match="pruned; central has it"):
        await journal.prove(done.seq)
    with pytest.raises(NotFound, match="expired and was pruned"):
        await journal.prove_serial(int(expired.serial, 16))
    with pytest.raises(NotFound, match="there is no record"):
        await journal.prove(10_000)
    (await journal.prove(unreadable.seq)).check(journal.genesis.verifier_key)
    # Again there is nothing to do, and nothing more is recorded.
    size = journal.head.size
    assert await journal.prune(one.retention(receipt, lambda command: command.command == "open")) == 0
    assert journal.head.size == size
    copy = tmp_path / "copy"
    await journal.backup(copy)
    await journal.close()
    report = one.verified()
    assert report.clean, report.problems
    assert (report.pruned, report.certificates) == (12, 1)
    again = await one.place.open()
    assert again.head.tallies["line-a"] == 2
    await again.close()
    manifest = restore(copy, tmp_path / "restored.db")
    assert manifest.size == size
    assert root != again.head.root


async def test_nothing_young_and_nothing_that_central_lacks_goes(tmp_path: Path) -> None:
    one = await bench(tmp_path)
    await one.journal.append(refused(1))
    covered = one.receipt()
    await one.journal.append(refused(2))
    await one.later(89 * DAY_MS)
    assert await one.journal.prune(one.retention(covered)) == 0  # younger than 90 days
    assert Pruned.kind not in await one.left()
    await one.later(2 * DAY_MS)
    assert await one.journal.prune(one.retention(covered)) == 2  # the first start, and the first refusal
    assert [decode(body).payload for body in await one.bodies() if b'"refused"' in body] == [refused(2)]
    assert await one.journal.prune(one.retention(one.receipt())) == 1
    await one.journal.close()
    assert one.verified().clean


async def test_a_certificate_stays_until_it_and_all_that_is_said_of_it_is_past(tmp_path: Path) -> None:
    one = await bench(tmp_path)
    plan, _ = await real_issue(one.journal, 1)
    assert isinstance(plan.payload, Intent)
    open_plan, _ = await real_issue(one.journal, 2)
    assert isinstance(open_plan.payload, Intent)
    (unclosed,) = await one.journal.append(replace(open_plan.payload, serial="77", idempotency_key=bytes(32)))
    await one.later(YEAR_MS)  # the certificates end some weeks later
    assert await one.journal.prune(one.retention(one.receipt())) == 1  # the first start
    await one.later(YEAR_MS)
    await one.journal.append(Revoked(plan.payload.serial, 1, "keyCompromise", START_MS, "anna"))
    await one.later(DAY_MS)
    receipt = one.receipt()
    assert await one.journal.prune(one.retention(receipt)) == 64 + 2  # what was "later" then, and the second certificate
    assert len(await one.journal.by_serial(int(plan.payload.serial, 16))) == 3
    assert await one.journal.get(unclosed.seq) is not None
    assert await one.journal.by_serial(int(open_plan.payload.serial, 16)) == ()
    await one.journal.close()
    assert one.verified().clean


async def test_without_a_genuine_receipt_of_this_journal_nothing_goes(tmp_path: Path) -> None:
    one = await bench(tmp_path)
    await one.journal.append(refused(1))
    note, head = one.journal.head.note, one.journal.head
    await one.later()
    stranger = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))

    def forged(checkpoint: Checkpoint) -> str:
        return cosign(sign_note(checkpoint, ORIGIN, KEY), "central", CENTRAL, 5)

    for receipt in (
        "", note,  # central has not signed
        one.receipt(stranger),
        forged(Checkpoint("another/journal", head.size, head.root)),
        forged(Checkpoint(ORIGIN, head.size, bytes(32))),
        forged(Checkpoint(ORIGIN, one.journal.head.size + 1, head.root)),
    ):  # fmt: skip
        with pytest.raises(IntegrityError):
            await one.journal.prune(one.retention(receipt))
    assert all(await one.bodies())
    await one.journal.close()
    assert one.verified().pruned == 0


def empty_by_hand(path: Path, kind: str) -> int:
    """What an attacker or a wrong program would do; the first record of ``kind`` loses its body."""
    with sqlite3.connect(path) as connection:
        (seq,) = connection.execute("SELECT min(seq) FROM record WHERE kind = ? AND body <> x''", (kind,)).fetchone()
        connection.execute("UPDATE record SET body = x'' WHERE seq = ?", (seq,))
    connection.close()
    return int(seq)


async def test_verify_finds_a_body_that_is_gone_without_a_receipt(tmp_path: Path) -> None:
    one = await bench(tmp_path)
    await one.journal.append(refused(1))
    await one.later()
    await one.journal.close()
    seq = empty_by_hand(one.place.path, "refused")
    (problem,) = one.verified().problems
    assert (problem.seq, "no receipt" in problem.text) == (seq, True)


@pytest.mark.parametrize(
    ("kind", "text"), [("token-created", "never pruned"), ("refused", "covers"), ("issued", "central lacks")]
)
async def test_verify_finds_a_body_that_may_not_be_gone(tmp_path: Path, kind: str, text: str) -> None:
    one = await bench(tmp_path)
    await one.journal.append(TokenCreated("t", b"v", "tls-client", 3, START_MS + DAY_MS, "anna"))
    await one.journal.append(OperatorAction("noted", "anna"))
    await real_issue(one.journal, 1)
    receipt = one.receipt()
    await one.journal.append(refused(1))
    await one.later(100 * DAY_MS)
    assert await one.journal.prune(one.retention(receipt)) == 2
    await one.journal.close()
    assert one.verified().clean
    empty_by_hand(one.place.path, kind)
    problems = one.verified().problems
    assert problems
    if kind != "issued":
        assert text in problems[0].text
    else:  # half of a certificate: its intent looks open
        assert any("open intents" in problem.text for problem in problems)


async def test_verify_finds_a_receipt_of_other_records(tmp_path: Path) -> None:
    one = await bench(tmp_path)
    await one.journal.append(refused(1))
    head = one.journal.head
    other = cosign(sign_note(Checkpoint(ORIGIN, head.size, bytes(32)), ORIGIN, KEY), "central", CENTRAL, 5)
    await one.later()
    await one.journal.append(Pruned("no note at all", 5), Pruned(other, 5))
    await one.journal.close()
    assert one.verified().clean  # nothing is missing yet
    empty_by_hand(one.place.path, "refused")
    assert ["receipt" in problem.text for problem in one.verified().problems] == [True]


async def test_pruned_intents_do_not_hide_a_tally_that_was_lowered(tmp_path: Path) -> None:
    one = await bench(tmp_path)
    await real_issue(one.journal, 1)
    await issue(one.journal, 2)
    receipt = one.receipt()
    await one.later()
    await one.journal.prune(one.retention(receipt))
    await one.journal.close()
    assert one.verified().clean
    with sqlite3.connect(one.place.path) as connection:
        connection.execute("UPDATE tally SET used = 0")
    connection.close()
    assert ["tallies" in problem.text for problem in one.verified().problems] == [True]


async def test_a_fenced_or_full_journal_is_left_alone_and_a_full_disk_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await bench(tmp_path)
    await one.journal.append(*(refused(number) for number in range(200)))
    receipt = one.receipt()
    await one.later()
    whole = Store.empty
    batches = 0

    def full_at_the_second(store: Store, numbers: list[int]) -> object:
        nonlocal batches
        batches += 1
        return whole(store, numbers) if batches == 1 else no_space()

    async def no_space() -> None:
        raise DiskFull("test")

    monkeypatch.setattr(Store, "empty", full_at_the_second)
    emptied = await one.journal.prune(one.retention(receipt))
    assert 0 < emptied < 200
    await one.journal.append(OperatorAction("later", "test"))  # the journal goes on
    monkeypatch.undo()
    one.journal._writer.full = True
    assert await one.journal.prune(one.retention(receipt)) == 0
    one.journal._writer.full = False
    one.journal.fence("test")
    assert await one.journal.prune(one.retention(receipt)) == 0
    await one.journal.close()
    report = one.verified()
    assert report.clean
    assert report.pruned == emptied
    monkeypatch.setattr(pruning, "KEPT_AT_END", 64)
    again = await one.place.open()
    await again.close()


async def test_a_crash_between_receipt_and_bodies_is_harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = await bench(tmp_path)
    await one.journal.append(*(refused(number) for number in range(100)))
    receipt = one.receipt()
    await one.later()

    gate = asyncio.Event()

    async def waiting(_store: Store, _numbers: list[int]) -> None:
        await gate.wait()
        raise DiskFull("test")

    monkeypatch.setattr(Store, "empty", waiting)
    pruned = asyncio.create_task(one.journal.prune(one.retention(receipt)))
    size = one.journal.head.size
    while one.journal.head.size == size:  # until the receipt is durable
        await asyncio.sleep(0)
    copy = tmp_path / "crash"
    copy.mkdir()
    for file in tmp_path.glob("journal.db*"):
        (copy / file.name).write_bytes(file.read_bytes())
    report = verify(copy / "journal.db", public_key=KEY.public_key())
    assert report.clean
    assert report.pruned == 0
    gate.set()
    assert await pruned == 0
    await one.journal.close()


def test_only_kinds_that_tell_of_the_past_may_lose_their_bodies() -> None:
    assert KINDS.isdisjoint(
        {"genesis", "joined", "pruned", "fenced", "closed", "policy-applied", "token-created", "ca-activated"}
    )
    assert Started.kind in KINDS

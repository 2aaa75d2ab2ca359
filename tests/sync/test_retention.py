"""Old records go when central has them and the retention is over, not before; a command's end stays while it may come again."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from gateway.errors import IntegrityError
from gateway.journal import pruning
from gateway.journal.checkpoint import NoteSigner
from gateway.journal.cosignature import cosign
from gateway.journal.records import CommandDone, OperatorAction, Refused
from gateway.pki.crl import Reason
from sync.desired import RevokeCommand
from sync.orders import Orders
from sync.outbox import Outbox
from sync.receipts import Receipts
from sync.retention import Pruning
from tests.support.authority import DAY_MS, START_MS, World
from tests.sync.test_orders import JOINED, KEY, VKEY, document, obeying


@pytest.fixture(autouse=True)
def short_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "KEPT_AT_END", 64)


def of(world: World, orders: Orders, receipts: Receipts, *, days: int = 90) -> Pruning:
    return Pruning(cast(Any, world.journal), receipts, orders, world.clock, central_key=VKEY, days=days)


async def later(world: World, days: int) -> None:
    world.clock.advance(days * DAY_MS)
    await world.journal.append(*(OperatorAction("later", "test", str(number)) for number in range(64)))


async def left(world: World, *kinds: type[Any]) -> list[Any]:
    return [record.payload async for record in world.journal.inner.scan(*kinds)]


async def test_what_central_has_goes_after_the_retention_and_a_command_that_may_come_again_stays(tmp_path: Path) -> None:
    async with obeying(tmp_path) as (world, orders):
        journal = world.journal.inner
        receipts = Receipts(tmp_path / "receipt", journal.genesis.verifier_key, VKEY)
        command = RevokeCommand("c1", 77, 1, Reason.SUPERSEDED, START_MS)
        await orders.take(document(1, expires=0, commands=(command,)), JOINED)
        assert len(await left(world, CommandDone)) == 1
        await journal.append(Refused("plc", "est", "nobody", bytes(32), "Forbidden", "no"))
        await later(world, 100)
        pruned = of(world, orders, receipts)
        assert await pruned.once() == 0  # no receipt
        receipts.take(cosign(journal.head.note, "central", KEY, START_MS // 1000))
        assert await of(world, orders, receipts, days=0).once() == 0
        assert await of(world, orders, receipts, days=101).once() == 0
        assert await pruned.once() > 0
        assert await left(world, Refused) == []
        assert len(await left(world, CommandDone)) == 1
        await orders.take(document(2, expires=0), JOINED)
        await later(world, 100)
        receipts.take(cosign(journal.head.note, "central", KEY, START_MS // 1000 + 1))
        assert await pruned.once() > 0
        assert await left(world, CommandDone) == []
        # A central that lost what was pruned is told so; the roots are what they were.
        outbox = Outbox(journal, NoteSigner("gateway", KEY), tmp_path / "position")
        with pytest.raises(IntegrityError, match=r"record \d+ was pruned after central confirmed it"):
            await outbox.batch(0, "", 0)
        assert await outbox.root_at(journal.head.size) == journal.head.root


async def test_a_receipt_that_is_not_of_this_journal_is_logged_and_nothing_goes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with obeying(tmp_path) as (world, orders):
        journal = world.journal.inner
        receipts = Receipts(tmp_path / "receipt", journal.genesis.verifier_key, VKEY)
        receipts.take(cosign(journal.head.note, "central", KEY, START_MS // 1000))
        await later(world, 100)
        stranger = Pruning(cast(Any, journal), receipts, orders, world.clock, central_key=journal.genesis.verifier_key, days=90)
        assert await stranger.once() == 0
        assert "nothing was pruned" in caplog.text
        assert all(await journal.read(0, 1000))

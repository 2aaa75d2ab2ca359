"""Batches out of a real journal: right root at every place, whatever was remembered, and never a false one."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.errors import NotFound
from gateway.journal.checkpoint import NoteSigner, open_note
from gateway.journal.merkle import Frontier, root_of
from gateway.journal.records import OperatorAction, leaf_hash
from sync.outbox import Outbox
from sync.wire import BATCH_OCTETS
from tests.support.journal import KEY, ORIGIN, Place

pytestmark = pytest.mark.asyncio


def outbox(journal: object, folder: Path) -> Outbox:
    return Outbox(journal, NoteSigner(ORIGIN, KEY), folder / "position")  # type: ignore[arg-type]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


async def filled(place: Place, records: int) -> tuple[object, list[bytes]]:
    journal = await place.create()
    for number in range(records):
        await journal.append(OperatorAction("test", f"operator {number}"))
    bodies = await journal.read(0, 10_000)
    return journal, bodies


async def test_batches_from_anywhere_carry_the_signed_root_of_their_end(place: Place) -> None:
    journal, bodies = await filled(place, 40)
    leaves = [leaf_hash(body) for body in bodies]
    for start in (0, 1, 7, 31, len(bodies)):
        box = outbox(journal, place.directory)
        assert await box.root_at(start) == root_of(leaves[:start])
        batch = await box.batch(start, "s", 3, records=9)
        assert list(batch.records) == bodies[start : start + 9]
        checkpoint = open_note(batch.checkpoint, journal.genesis.verifier_key)  # type: ignore[attr-defined]
        assert (checkpoint.size, checkpoint.root) == (batch.stop, root_of(leaves[: batch.stop]))
    await journal.close()  # type: ignore[attr-defined]


async def test_a_batch_that_was_lost_is_made_again(place: Place) -> None:
    journal, bodies = await filled(place, 20)
    box = outbox(journal, place.directory)
    first = await box.batch(0, "s", 0, records=5)
    await box.batch(5, "s", 0, records=5)  # unconfirmed, as is the first
    assert await box.batch(0, "s", 0, records=5) == first
    box.confirm()
    assert (await box.batch(5, "s", 0, records=2)).start == 5
    assert await box.root_at(3) == root_of([leaf_hash(body) for body in bodies[:3]])
    await journal.close()  # type: ignore[attr-defined]


async def test_a_long_record_ends_the_batch_before_it(place: Place) -> None:
    journal = await place.create()
    await journal.append(OperatorAction("short", "o"))
    await journal.append(OperatorAction("long", "o", "x" * BATCH_OCTETS))
    await journal.append(OperatorAction("short", "o"))
    box = outbox(journal, place.directory)
    first = await box.batch(0, "s", 0)
    assert first.records
    assert sum(map(len, first.records)) <= BATCH_OCTETS
    second = await box.batch(first.stop, "s", 0)
    assert len(second.records) == 1  # more than the limit by itself, and sent all the same
    third = await box.batch(second.stop, "s", 0)
    assert third.stop == journal.head.size
    await journal.close()


async def test_the_place_is_found_again_after_a_restart(place: Place) -> None:
    journal, bodies = await filled(place, 12)
    box = outbox(journal, place.directory)
    await box.batch(0, "s", 0, records=8)
    box.confirm()
    box.remember()
    again = outbox(journal, place.directory)
    assert await again.root_at(8) == root_of([leaf_hash(body) for body in bodies[:8]])
    await journal.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("content", [b"", b"garbage", Frontier().to_bytes() + b"x"])
async def test_a_damaged_place_is_computed_anew(place: Place, content: bytes) -> None:
    journal, bodies = await filled(place, 5)
    (place.directory / "position").write_bytes(content)
    assert await outbox(journal, place.directory).root_at(4) == root_of([leaf_hash(body) for body in bodies[:4]])
    await journal.close()  # type: ignore[attr-defined]


async def test_a_false_place_convinces_nobody_who_asks_from_scratch(place: Place) -> None:
    """The control for ``from_scratch``: with the remembered place alone, an honest gateway would take itself for a fork."""
    journal, bodies = await filled(place, 5)
    lie = Frontier()
    for number in range(3):
        lie.append(bytes([number]) * 32)
    (place.directory / "position").write_bytes(lie.to_bytes())
    right = root_of([leaf_hash(body) for body in bodies[:4]])
    box = outbox(journal, place.directory)
    assert await box.root_at(4) != right
    assert await box.root_at(4, from_scratch=True) == right
    assert await box.root_at(4) == right
    await journal.close()  # type: ignore[attr-defined]


async def test_beyond_the_end_there_is_no_root(place: Place) -> None:
    journal, _ = await filled(place, 1)
    with pytest.raises(NotFound):
        await outbox(journal, place.directory).root_at(10_000)
    await journal.close()  # type: ignore[attr-defined]

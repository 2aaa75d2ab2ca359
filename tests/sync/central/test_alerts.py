"""Alerts about what is missing: opened once, closed when it is over or by a person, each with a sentence on what to do."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.errors import NotFound
from sync.central import alarms
from sync.central.alerts import (
    ADAPTER,
    ADVICE,
    CA_ENDS,
    CRITICAL,
    NOT_APPLIED,
    SILENCE,
    WARNING,
    Watcher,
    WatchOptions,
    advice_on,
    dismiss,
)
from sync.central.rows import Alert, Ca, Document, Journal
from sync.central.store import CentralStore
from tests.support.authority import START_MS, SteppedClock
from tests.support.edge import Edge

HOUR_MS = 3_600_000
ORIGIN = "plant.example/one"


class Watched:
    """One gateway and who looks at it."""

    def __init__(self, store: CentralStore) -> None:
        self.store, self.clock = store, SteppedClock()
        self.watcher = Watcher(store, self.clock, WatchOptions(silence_hours=24))

    async def change(self, **columns: int | str) -> None:
        async with self.store.transaction() as t:
            await t.change(Journal, ORIGIN, **columns)

    async def put(self, row: Document | Ca) -> None:
        async with self.store.transaction() as t:
            await t.put(row)

    async def open(self) -> dict[str, Alert]:
        """Look, then what is open."""
        await self.watcher.look()
        async with self.store.transaction() as t:
            return {each.kind: each for each in await t.select(Alert, closed=0)}


@pytest.fixture
async def watched(store: CentralStore) -> Watched:
    async with store.transaction() as t:
        await t.put(replace(Edge().row(await t.next_number()), seen=START_MS))
    return Watched(store)


async def test_all_is_well(watched: Watched) -> None:
    assert await watched.open() == {}


async def test_silence_is_opened_once_and_closed_by_contact(watched: Watched) -> None:
    watched.clock.advance(24 * HOUR_MS - 1)
    assert await watched.open() == {}
    watched.clock.advance(1)
    first = (await watched.open())[SILENCE]
    assert first.opened == START_MS + 24 * HOUR_MS
    watched.clock.advance(HOUR_MS)
    assert (await watched.open())[SILENCE] == first
    await watched.change(seen=watched.clock.now_ms())
    assert await watched.open() == {}


async def test_silence_that_a_person_closed_stays_closed_until_there_was_contact(watched: Watched) -> None:
    watched.clock.advance(25 * HOUR_MS)
    await watched.open()
    await dismiss(watched.store, SILENCE, ORIGIN, "", watched.clock.now_ms())
    watched.clock.advance(HOUR_MS)
    assert await watched.open() == {}
    await watched.change(seen=watched.clock.now_ms())
    await watched.open()
    watched.clock.advance(25 * HOUR_MS)
    assert set(await watched.open()) == {SILENCE}


@pytest.mark.parametrize("column", ["closed", "fenced"])
async def test_nothing_is_expected_of_who_is_closed_or_fenced(watched: Watched, column: str) -> None:
    watched.clock.advance(25 * HOUR_MS)
    assert set(await watched.open()) == {SILENCE}
    await watched.change(**{column: "why"})
    assert await watched.open() == {}


async def test_a_document_that_is_not_applied_although_there_is_contact(watched: Watched) -> None:
    await watched.put(Document(ORIGIN, 3, START_MS, 0, b""))
    await watched.change(applied=2)
    watched.clock.advance(HOUR_MS)
    assert await watched.open() == {}  # no contact since: nothing to wonder at
    await watched.change(seen=watched.clock.now_ms())
    assert await watched.open() == {}  # a bundle came, which does not say
    await watched.change(session="a session")
    assert "version 3" in (await watched.open())[NOT_APPLIED].text
    await watched.change(applied=3)
    assert await watched.open() == {}


async def test_a_ca_that_ends_without_a_successor(watched: Watched) -> None:
    edge = Edge()
    end_ms = START_MS + 90 * 24 * HOUR_MS
    ca = Ca(b"1" * 32, edge.key_id, ORIGIN, b"", b"", end_ms, generation=1, signed=START_MS, activated=START_MS)
    await watched.put(ca)
    watched.clock.advance(74 * 24 * HOUR_MS)
    await watched.change(seen=watched.clock.now_ms())
    assert await watched.open() == {}
    watched.clock.advance(2 * 24 * HOUR_MS)
    await watched.change(seen=watched.clock.now_ms())
    assert set(await watched.open()) == {CA_ENDS}
    now_ms = watched.clock.now_ms()
    await watched.put(replace(ca, digest=b"2" * 32, generation=2, signed=now_ms, activated=now_ms, not_after=2 * end_ms))
    assert await watched.open() == {}


async def test_only_an_alert_that_is_there_can_be_dismissed(watched: Watched) -> None:
    with pytest.raises(NotFound):
        await dismiss(watched.store, SILENCE, ORIGIN, "", 5)


# Advice.


def test_every_kind_of_alert_has_its_advice() -> None:
    """Every constant that names a kind, wherever it stands."""
    kinds = {value for name, value in vars(alarms).items() if name.isupper() and isinstance(value, str)}
    opened = "".join(path.read_text() for path in Path("sync/central").glob("*.py"))
    assert kinds | {SILENCE, NOT_APPLIED, CA_ENDS, ADAPTER} <= set(ADVICE)
    assert len(re.findall(r"open_alert\(t, ", opened)) > 10
    for kind, advice in ADVICE.items():
        assert advice.severity in (CRITICAL, WARNING), kind
        for texts in (advice.title, advice.do):
            assert set(texts) == {"en", "de"}
        assert all(text.endswith(".") for text in advice.do.values())


def test_an_unknown_kind_is_a_warning_with_advice_too() -> None:
    assert advice_on("from the future").severity == WARNING

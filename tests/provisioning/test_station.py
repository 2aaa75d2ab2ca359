"""The table of a unit's life: complete, without a way round, and the same as in the document."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from gateway.errors import Conflict, IntegrityError
from gateway.journal.line_records import UnitEnded, UnitKeyed, UnitMoved, UnitReserved
from gateway.journal.records import Record, Stopped
from provisioning.station import CERTIFIED, ENDS, MOVES, RULES, State, Step, Unit, advance, begin, check_move, next_step

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "LINE.md"
RESERVED = UnitReserved("O/1/1", "O", "1", "port:p", ("order:O",), 1, "device", chip="c", chip_attempt=1)


def unit_in(state: State, **changes: object) -> Unit:
    unit = begin(Record(5, 1000, RESERVED))
    return replace(unit, state=state, certificate="1f" if state in CERTIFIED else "", **changes)  # type: ignore[arg-type]


def test_every_state_has_a_rule_and_its_moves() -> None:
    assert set(RULES) == set(MOVES) == set(State)
    for state, rule in RULES.items():
        assert rule.to is None or rule.to in MOVES[state]
        assert rule.on_restart or state in ENDS


def test_every_way_leads_to_an_end_and_no_end_goes_on() -> None:
    reachable = {State.RESERVED}
    while (
        new := {to for state in reachable for to in (*MOVES[state], *([State.QUARANTINE] if state not in ENDS else []))}
        - reachable
    ):
        reachable |= new
    assert reachable == set(State)
    assert all(not MOVES[state] for state in ENDS)


@pytest.mark.parametrize("to", State, ids=[state.value for state in State])
@pytest.mark.parametrize("state", State, ids=[state.value for state in State])
def test_only_the_moves_of_the_table_are_made(state: State, to: State) -> None:
    unit = unit_in(state)
    allowed = to in MOVES[state] or (to is State.QUARANTINE and state not in ENDS and state is not to)
    if allowed:
        check_move(unit, to)
    else:
        with pytest.raises(Conflict, match=f"is {state.value}"):
            check_move(unit, to)


def test_a_certificate_cannot_be_released() -> None:
    check_move(unit_in(State.QUARANTINE), State.RELEASED)
    with pytest.raises(Conflict, match="scrap it"):
        check_move(replace(unit_in(State.QUARANTINE), certificate="1f"), State.RELEASED)


@pytest.mark.parametrize(
    ("state", "lock", "label", "step"),
    [
        (State.VERIFIED, True, True, Step.BEGIN_LOCK),
        (State.VERIFIED, False, True, Step.LABEL),
        (State.VERIFIED, False, False, Step.CONFIRM),
        (State.LOCKED, True, True, Step.LABEL),
        (State.LOCKED, True, False, Step.CONFIRM),
        (State.LOCKING, False, False, Step.LOCK),
        (State.RESERVED, False, False, Step.OBTAIN_KEY),
        (State.QUARANTINE, True, True, Step.WAIT),
        (State.CONFIRMED, True, True, Step.NOTHING),
    ],
)
def test_an_order_without_lock_or_label_passes_over_them(state: State, lock: bool, label: bool, step: Step) -> None:
    assert next_step(unit_in(state), lock=lock, label=label) is step


def test_a_unit_is_what_its_records_tell() -> None:
    unit = begin(Record(5, 1000, RESERVED))
    unit = advance(unit, Record(7, 1001, UnitKeyed("O/1/1", 5, b"k" * 32, b"c" * 32, b"e" * 32, "cose")))
    assert (unit.state, unit.spki_digest, unit.evidence_format) == (State.KEYED, b"k" * 32, "cose")
    unit = advance(unit, Record(9, 1002, UnitMoved("O/1/1", 7, "O", "issued", "port:p", "1f")))
    unit = advance(unit, Record(10, 1003, UnitMoved("O/1/1", 9, "O", "written", "port:p")))
    assert (unit.state, unit.certificate, unit.is_open) == (State.WRITTEN, "1f", True)
    unit = advance(unit, Record(11, 1004, UnitEnded("O/1/1", 10, "O", "scrapped", "ada", "fell down")))
    assert (unit.state, unit.detail, unit.is_open) == (State.SCRAPPED, "fell down", False)
    assert [state for state, _ in unit.times] == [State.RESERVED, State.KEYED, State.ISSUED, State.WRITTEN, State.SCRAPPED]


def test_a_record_that_does_not_follow_is_no_step() -> None:
    unit = begin(Record(5, 1000, RESERVED))
    with pytest.raises(IntegrityError):
        begin(Record(0, 0, Stopped()))
    for payload in (
        UnitMoved("O/1/1", 4, "O", "issued", "p"),
        UnitMoved("O/2/1", 5, "O", "issued", "p"),
        Stopped(),
    ):
        with pytest.raises(IntegrityError):
            advance(unit, Record(6, 1, payload))


def test_a_label_counts_its_prints() -> None:
    unit = unit_in(State.LOCKED)
    for number in range(3):
        unit = advance(unit, Record(6 + number, 1, UnitMoved(unit.id, unit.seq, "O", "labelled", "p")))
        assert unit.prints == number + 1


def test_the_document_has_the_table_of_the_code() -> None:
    rows = re.findall(
        r"^\| `([a-z]+)` \| ([a-z-]+) \| ([a-z-]+|) \| (.*) \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE
    )
    expected = [
        (state.value, rule.step.value, rule.to.value if rule.to else "", rule.on_restart)
        for state, rule in RULES.items()
        if state not in ENDS
    ]
    assert rows == expected

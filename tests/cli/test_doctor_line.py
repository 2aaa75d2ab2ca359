"""What ``doctor`` says of the production line."""

from __future__ import annotations

from typing import Any

from gateway.cli.doctor import _line


def report(**changes: Any) -> dict[str, Any]:
    return {"line": {"ports": [], "quarantined": [], "overdue": [], "orders": [], **changes}}


def test_a_line_in_order_and_no_line_are_no_findings() -> None:
    assert list(_line({})) == []
    assert list(_line(report(ports=[{"port": "p1", "state": "busy"}], orders=[{"faults": []}]))) == []


def test_what_a_person_must_do_is_said_with_the_serial_number() -> None:
    port = {"port": "p1", "state": "fault", "sentence": "no answer", "hint": "Switch it on."}
    unit = {"serial": "SN-7", "detail": "another key", "state": "quarantine", "began": 0}
    late = {"serial": "SN-8", "state": "written", "began": 1_790_000_000_000}
    found = list(_line(report(ports=[port], quarantined=[unit], overdue=[unit, late], orders=[{"faults": ["5 of 4"]}])))
    assert [(each.what, each.do) for each in found[:1]] == [("port p1: no answer", "Switch it on.")]
    assert "SN-7 is in quarantine: another key" in found[1].what
    assert "rework or scrap SN-7" in found[1].do
    assert "SN-8 has had its certificate since 2026" in found[2].what
    assert "does not add up: 5 of 4" in found[3].what
    assert len(found) == 4

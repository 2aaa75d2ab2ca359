"""``scripts/line --check``: real shells and openssl as devices, a gateway that is killed, every device one identity."""

from __future__ import annotations

from pathlib import Path

from tests.support.line_command import play


async def test_the_line_of_the_readme_makes_its_devices_through_a_kill(tmp_path: Path) -> None:
    told: list[str] = []
    await play(tmp_path / "l", 4, told.append, None)  # raises LineError for whatever is not as it should be
    assert "order DEMO-1: 4 confirmed, 4 of 1000 begun, adds up" in told
    assert any("4 devices hold 4 different certificates" in line for line in told)
    assert any("was killed (SIGKILL) with units in its hands" in line for line in told)

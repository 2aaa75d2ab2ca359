"""The disk watch: cheap looks, thresholds, and the reserve."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.journal.disk import DiskLevel, DiskWatch, used_fraction


def _watch(directory: Path, used: list[float], reserve_bytes: int = 8192) -> DiskWatch:
    def usage(_: Path) -> float:
        used.append(used[-1])
        return used[-1]

    return DiskWatch(directory / "reserve", reserve_bytes=reserve_bytes, warn=0.8, refuse=0.95, usage=usage)


@pytest.mark.parametrize(
    ("used", "level"),
    [(0.0, DiskLevel.OK), (0.79, DiskLevel.OK), (0.8, DiskLevel.WARNING), (0.94, DiskLevel.WARNING), (0.95, DiskLevel.FULL)],
)
def test_the_thresholds(tmp_path: Path, used: float, level: DiskLevel) -> None:
    assert _watch(tmp_path, [used]).level(0) is level


def test_it_looks_at_most_once_a_second(tmp_path: Path) -> None:
    used = [0.5]
    watch = _watch(tmp_path, used)
    for now in range(0, 3000, 10):
        watch.level(now)
    assert len(used) == 1 + 3


def test_the_reserve_is_allocated_given_up_and_taken_again(tmp_path: Path) -> None:
    watch = _watch(tmp_path, [0.5])
    watch.level(0)
    reserve = tmp_path / "reserve"
    assert os.stat(reserve).st_blocks * 512 >= 8192
    watch.give_up_reserve()
    watch.give_up_reserve()
    assert not reserve.exists()
    assert watch.level(10) is DiskLevel.FULL
    assert watch.level(1010) is DiskLevel.OK
    assert reserve.stat().st_size == 8192


def test_no_room_for_the_reserve_is_a_full_disk(tmp_path: Path) -> None:
    watch = DiskWatch(tmp_path / "nowhere" / "reserve", reserve_bytes=10, warn=0.8, refuse=0.95, usage=lambda _: 0.1)
    assert watch.level(0) is DiskLevel.FULL
    assert (
        DiskWatch(tmp_path / "nowhere" / "r", reserve_bytes=0, warn=0.8, refuse=0.95, usage=lambda _: 0.1).level(0)
        is DiskLevel.OK
    )


def test_the_used_fraction_is_a_fraction(tmp_path: Path) -> None:
    assert 0 < used_fraction(tmp_path) < 1


def test_a_lasting_lack_of_room_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watch = DiskWatch(tmp_path / "nowhere" / "reserve", reserve_bytes=10, warn=0.8, refuse=0.95, usage=lambda _: 0.1)
    for second in range(5):
        assert watch.level(second * 1000) is DiskLevel.FULL
    assert [record.levelname for record in caplog.records] == ["WARNING"]

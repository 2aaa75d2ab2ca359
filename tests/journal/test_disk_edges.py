"""The disk watch keeps no descriptors: a gateway runs for years."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway.journal.disk import DiskLevel, DiskWatch


def test_taking_the_reserve_leaves_no_descriptor_open(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    watch = DiskWatch(tmp_path / "reserve", reserve_bytes=8192, warn=0.8, refuse=0.95, usage=lambda _: 0.1)
    watch.level(0)
    assert (tmp_path / "reserve").exists()
    assert set(os.listdir("/proc/self/fd")) == before


def test_a_disk_that_fills_up_again_is_told_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    watch = DiskWatch(tmp_path / "reserve", reserve_bytes=8192, warn=0.8, refuse=0.95, usage=lambda _: 0.1)
    for at_ms in (0, 10_000):
        assert watch.level(at_ms) is DiskLevel.OK
        watch.give_up_reserve()
        watch.give_up_reserve()
    assert caplog.text.count("the disk is full") == 2

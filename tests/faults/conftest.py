"""Fault tools that are compiled once for a run of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.crash_stage import Past, build_fault_library, stage


@pytest.fixture(scope="session")
def diskfault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library of ``diskfault.c``."""
    return build_fault_library(tmp_path_factory.mktemp("diskfault"))


@pytest.fixture(scope="session")
def past(diskfault: Path, tmp_path_factory: pytest.TempPathFactory) -> Past:
    """A gateway whose last life was cut short, and what its clients hold since then."""
    state = tmp_path_factory.mktemp("past") / "state"
    with stage(diskfault) as place:
        return Past(state, place.prepare(state))

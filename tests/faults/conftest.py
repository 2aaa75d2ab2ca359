"""Fault tools that are compiled once for a run of the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.crash_stage import build_fault_library


@pytest.fixture(scope="session")
def diskfault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library of ``diskfault.c``."""
    return build_fault_library(tmp_path_factory.mktemp("diskfault"))

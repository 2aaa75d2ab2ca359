from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.journal import Place


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """A directory for one journal, with a clock that a test moves by hand."""
    directory = tmp_path / "state"
    directory.mkdir()
    return Place(directory)

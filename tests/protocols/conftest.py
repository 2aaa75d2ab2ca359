"""Fixtures for the endpoints: a certificate authority made on the spot and a listener on a free port of the loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.est_stack import EstStack, TestPki


@pytest.fixture(scope="session")
def test_pki(tmp_path_factory: pytest.TempPathFactory) -> TestPki:
    return TestPki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
async def stack(test_pki: TestPki, tmp_path: Path) -> AsyncIterator[EstStack]:
    stack = EstStack(test_pki, tmp_path)
    await stack.start()
    yield stack
    await stack.close()

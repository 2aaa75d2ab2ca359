from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sync.central.store import CentralStore
from sync.central.store_postgres import PostgresStore
from sync.central.store_sqlite import SqliteStore
from tests.support.postgres import PostgresServer, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[CentralStore]:
    """An empty database of each kind."""
    opened: SqliteStore | PostgresStore
    if request.param == "sqlite":
        opened = await SqliteStore.open(tmp_path / "central.db")
    else:
        opened = await PostgresStore.open(request.getfixturevalue("postgres").new_database(), connections=4)
    try:
        yield opened
    finally:
        await opened.close()

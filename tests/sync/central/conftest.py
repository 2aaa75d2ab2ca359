from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from sync.central.rows import TABLES
from sync.central.store import CentralStore
from sync.central.store_postgres import PostgresStore
from sync.central.store_sqlite import SqliteStore
from tests.support.postgres import PostgresServer, postgres_server


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="session")
def database(postgres: PostgresServer) -> str:
    """The DSN of a database that many tests use, one after the other: making one takes longer than most tests."""
    return postgres.new_database()


async def emptied(dsn: str) -> PostgresStore:
    store = await PostgresStore.open(dsn, connections=4)
    async with store.transaction() as t:
        for table in TABLES:
            await t.remove(table.row)
        await t.connection.execute("TRUNCATE record")
    return store


@pytest.fixture(params=["sqlite", "postgresql"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[CentralStore]:
    """An empty database of each kind."""
    opened: SqliteStore | PostgresStore
    if request.param == "sqlite":
        opened = await SqliteStore.open(tmp_path / "central.db")
    else:
        opened = await emptied(request.getfixturevalue("database"))
    try:
        yield opened
    finally:
        await opened.close()

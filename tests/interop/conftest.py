"""One running gateway for all clients of a test run: they must all work against one and the same configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.est_clients import Service
from tests.support.plant_gateway import Plant, running_plant


@pytest.fixture(scope="session")
def plant(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plant]:
    with running_plant(tmp_path_factory.mktemp("plant")) as plant:
        yield plant


@pytest.fixture
def service(plant: Plant, tmp_path: Path) -> Service:
    return plant.service(tmp_path)

"""The fuzz targets hold for their seeds and for a fixed number of mutations, the same ones in each run."""

from __future__ import annotations

import pytest

from tests.fuzz.targets import TARGETS, mutations, seeds


@pytest.mark.parametrize("name", TARGETS)
def test_the_seeds_of_a_target_raise_nothing_else(name: str) -> None:
    for seed in seeds(name):
        TARGETS[name](seed)


@pytest.mark.parametrize("name", TARGETS)
def test_mutations_of_the_seeds_raise_nothing_else(name: str) -> None:
    for data in mutations(name, 20_000):
        TARGETS[name](data)


def test_mutations_are_the_same_each_time() -> None:
    assert list(mutations("est_codec", 50)) == list(mutations("est_codec", 50))

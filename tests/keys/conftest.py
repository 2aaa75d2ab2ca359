"""Where keys can live, for the suite that all of them share, and tokens that fail on command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.support.key_places import Place, nothing, token_place
from tests.support.tokens import Token, flush_tpm, softhsm_store, softhsm_token, tpm_token


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[Token]:
    with tpm_token(tmp_path / "tpm") as token:
        yield token


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Parametrised indirectly: ``software``, ``softhsm`` or ``tpm``."""
    if request.param == "software":
        return Place(tmp_path / "keys", lambda name: f"software:{name}", nothing)
    between: Callable[[], None] = nothing
    if request.param == "softhsm":
        token = softhsm_token(softhsm_store(tmp_path / "softhsm"), "line 4")
    else:
        token = request.getfixturevalue("tpm")
        between = partial(flush_tpm, token.environment)
    for name, value in token.environment.items():
        monkeypatch.setenv(name, value)
    return token_place(token, tmp_path, between)


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Token:
    """A SoftHSM2 token, plugged in."""
    made = softhsm_token(softhsm_store(tmp_path / "softhsm"), "here")
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made

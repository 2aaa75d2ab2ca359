"""The rules of the house hold, and each of them bites: a forbidden line added to a copy of the tree is found."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import pytest

from tests.support.house_rules import PACKAGES, RANKS, Violation, load, violations

ROOT = Path(__file__).resolve().parents[2]


def test_the_house_keeps_its_rules() -> None:
    found = violations(ROOT)
    assert not found, "\n" + "\n".join(map(str, found))


def test_every_layer_that_exists_has_a_rank() -> None:
    tops = {".".join(module.name.split(".")[:2]) for module in load(ROOT) if module.name.startswith("gateway.")}
    assert tops <= set(RANKS)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for package in PACKAGES:
        if (ROOT / package).is_dir():
            shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


@cache
def violations_before() -> frozenset[Violation]:
    return frozenset(violations(ROOT))


CONTROLS = [
    # (rule, module that gets the line, the line, what the finding must name)
    (1, "gateway/pki/algorithms.py", "from gateway.journal import records", "gateway.journal"),
    (1, "gateway/pki/algorithms.py", "import gateway.authority.requests", "gateway.authority.requests"),
    (1, "gateway/journal/records.py", "from gateway.keys.signer import Signer", "gateway.keys.signer"),
    (1, "gateway/keys/signer.py", "from gateway.journal.records import Record", "gateway.journal.records"),
    (1, "gateway/keys/signer.py", "from ..authority import requests", "gateway.authority.requests"),
    (1, "gateway/authority/requests.py", "from gateway.protocols.est import codec", "gateway.protocols.est"),
    (1, "gateway/authority/requests.py", "def late() -> None:\n    from gateway import app", "gateway.app"),
    (1, "gateway/authority/requests.py", "from gateway.config import Config", "configuration"),
    (1, "gateway/protocols/est/codec.py", "from gateway.protocols.ocsp import codec as other", "each other"),
    (1, "gateway/web/control.py", "import gateway.app", "gateway.app"),
    (1, "gateway/app.py", "import gateway.cli", "gateway.cli"),
    (1, "gateway/new_thing.py", "", "no layer"),
    (1, "gateway/authority/requests.py", "import sync.wire", "only gateway.app"),
    (2, "gateway/pki/algorithms.py", "import asyncio", "asyncio"),
    (2, "gateway/pki/algorithms.py", "from os import urandom", "os"),
    (2, "gateway/journal/records.py", "import datetime\nNOW = datetime.datetime.now()", ".now()"),
    (2, "gateway/journal/records.py", "TEXT = open('x').read()", "open()"),
    (2, "gateway/authority/requests.py", "from gateway.keys import signer", "gateway.keys.signer"),
    (2, "gateway/authority/requests.py", "import sqlite3", "sqlite3"),
    (2, "gateway/authority/requests.py", "import urllib.request", "urllib.request"),
    (2, "gateway/protocols/est/codec.py", "import aiohttp", "aiohttp"),
    (3, "gateway/keys/signer.py", "import pkcs11", "gateway.keys.pkcs11"),
    (3, "gateway/keys/signer.py", "import aiosqlite", "gateway.journal.store"),
    (3, "gateway/keys/signer.py", "QUERY = 'SELECT seq FROM record'", "SQL"),
    (3, "gateway/keys/signer.py", "from gateway.errors import BadKey\nSTATUS = BadKey.http_status", "http_status"),
    (4, "gateway/keys/signer.py", "\n".join(f"X{n} = {n}" for n in range(400)), "lines"),
    (4, "gateway/keys/signer.py", "def long() -> None:\n" + "\n".join("    pass" for _ in range(70)), "long has 71 lines"),
]


@pytest.mark.parametrize(
    ("rule", "module", "line", "named"), CONTROLS, ids=[f"{c[0]}-{c[1]}-{n}" for n, c in enumerate(CONTROLS)]
)
def test_a_line_against_the_rules_is_found(copy: Path, rule: int, module: str, line: str, named: str) -> None:
    before = violations_before()
    (copy / "sync").mkdir(exist_ok=True)
    (copy / "sync" / "wire.py").touch()
    path = copy / module
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(f"\n{line}\n")
    added = [finding for finding in violations(copy) if finding not in before]
    assert any(finding.rule == rule and named in finding.text for finding in added), added

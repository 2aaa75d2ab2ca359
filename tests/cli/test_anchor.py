"""The anchor on a token through the commands of a technician, against a real SoftHSM2 token."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.support.demo_gateway import command
from tests.support.tokens import Token, softhsm_store, softhsm_token


@pytest.fixture
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Token:
    made = softhsm_token(softhsm_store(tmp_path / "softhsm"), "anchor token")
    for name, value in made.environment.items():
        monkeypatch.setenv(name, value)
    return made


def configured(state: Path, uri: str) -> None:
    state.mkdir(exist_ok=True)
    (state / "config.toml").write_text(
        f'[journal]\nanchor = "{uri}"\ndisk_warn = 0.998\ndisk_refuse = 0.999\n', encoding="utf-8"
    )


def test_init_status_and_verify_speak_of_the_token_and_an_old_disk_is_found(token: Token, tmp_path: Path) -> None:
    state, pin = tmp_path / "state", tmp_path / "pin"
    pin.write_text(token.pin, encoding="utf-8")
    configured(state, token.uri("", pin_source=f"file:{pin}"))
    done = command(state, "init")
    assert done.returncode == 0, done.stderr.decode()
    shutil.copy(state / "journal.db", tmp_path / "old")
    status = json.loads(command(state, "--json", "status").stdout)
    assert status["journal"]["anchor"]["trouble"] == ""
    assert status["journal"]["anchor"]["name"].startswith("pkcs11:token=anchor%20token")
    said = command(state, "verify")
    assert said.returncode == 0, said.stderr.decode()
    assert b"anchor     pkcs11:token=anchor%20token" in said.stdout
    shutil.copy(tmp_path / "old", state / "journal.db")
    said = command(state, "verify")
    assert said.returncode == 4
    assert b"the anchor has seen" in said.stdout
    assert b"the journal is fenced: the anchor has seen" in command(state, "doctor").stdout
    pin.unlink()  # the control: nobody can ask the token
    said = command(state, "verify")
    assert said.returncode == 0
    assert b"NOT compared with the anchor" in said.stdout


def test_init_takes_the_pin_from_a_person_and_needs_the_token(token: Token, tmp_path: Path) -> None:
    state = tmp_path / "state"
    configured(state, token.uri("").replace("anchor%20token", "another"))
    done = command(state, "init")
    assert done.returncode == 3
    assert b"plug in the token" in done.stderr
    configured(state, token.uri(""))
    done = command(state, "init")
    assert done.returncode == 3
    assert b"ca unlock" in done.stderr
    assert not (state / "journal.db").exists()
    done = command(state, "init", "--pin", "fd:0", stdin=token.pin.encode())
    assert done.returncode == 0, done.stderr.decode()
    assert token.pin.encode() not in done.stdout + done.stderr
    said = command(state, "doctor")
    assert b"out of reach" in said.stdout
    assert b"ca unlock --key" in said.stdout

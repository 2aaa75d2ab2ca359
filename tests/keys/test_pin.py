"""PIN sources, and the ledger's promise: a refused PIN is never tried again."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from argon2.low_level import Type, hash_secret_raw

from gateway.errors import ConfigError, IntegrityError, PinError
from gateway.keys.pin import FilePin, PinLedger, PinSource, pin_digest, pin_source, read_pin
from gateway.keys.wrapping import WrappingKey

KEY = WrappingKey(bytes(32))


@pytest.fixture
def ledger(tmp_path: Path) -> PinLedger:
    return PinLedger(tmp_path / "keys" / "pins.json", KEY)


def begin(ledger: PinLedger, pin: str = "1234", *, serial: str = "A", by_person: bool = False, last_try: bool = False) -> None:
    ledger.begin(serial, pin_digest(pin, ledger.salt()), by_person=by_person, last_try=last_try)


def settle(ledger: PinLedger, *, accepted: bool) -> None:
    ledger.settle("A", pin_digest("1234", ledger.salt()), accepted=accepted)


def test_a_refused_pin_is_refused_for_ever_also_to_a_person_and_after_a_restart(ledger: PinLedger, tmp_path: Path) -> None:
    begin(ledger)
    settle(ledger, accepted=False)
    for again in (ledger, PinLedger(tmp_path / "keys" / "pins.json", KEY)):
        for by_person in (False, True):
            with pytest.raises(PinError):
                begin(again, by_person=by_person)


def test_an_accepted_pin_may_be_used_again_and_again(ledger: PinLedger) -> None:
    for _ in range(3):
        begin(ledger)
        settle(ledger, accepted=True)


def test_an_interrupted_first_attempt_is_repeated_by_a_person_only(ledger: PinLedger) -> None:
    begin(ledger)
    with pytest.raises(PinError, match="interrupted"):
        begin(ledger)
    begin(ledger, by_person=True)


def test_an_interrupted_attempt_with_a_proven_pin_does_not_stop_the_gateway(ledger: PinLedger) -> None:
    begin(ledger)
    settle(ledger, accepted=True)
    begin(ledger)  # power cut here
    begin(ledger)


def test_a_pin_that_was_changed_on_the_token_is_refused_after_one_attempt(ledger: PinLedger) -> None:
    begin(ledger)
    settle(ledger, accepted=True)
    begin(ledger)
    settle(ledger, accepted=False)
    with pytest.raises(PinError):
        begin(ledger)


def test_another_pin_and_another_token_have_their_own_attempt(ledger: PinLedger) -> None:
    begin(ledger)
    settle(ledger, accepted=False)
    begin(ledger, "12345")
    begin(ledger, serial="B")


def test_the_last_try_belongs_to_a_person_or_a_proven_pin(ledger: PinLedger) -> None:
    with pytest.raises(PinError, match="last"):
        begin(ledger, last_try=True)
    begin(ledger, last_try=True, by_person=True)
    settle(ledger, accepted=True)
    begin(ledger, last_try=True)


def test_the_file_tells_no_pin(ledger: PinLedger, tmp_path: Path) -> None:
    begin(ledger, "482913")
    assert "482913" not in (tmp_path / "keys" / "pins.json").read_text()


@pytest.mark.parametrize("content", ["", "[]", '{"salt": "00"}', '{"salt": "00", "pins": []}'])
def test_a_damaged_ledger_allows_no_attempt(ledger: PinLedger, tmp_path: Path, content: str) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "pins.json").write_text(content)
    with pytest.raises(IntegrityError):
        begin(ledger)


async def pin_of(source: PinSource) -> str | None:
    """What the signer child would log in with."""
    return read_pin(source.path) if isinstance(source, FilePin) else await source.take()


async def test_a_file_is_read_at_each_login_and_may_come_later(tmp_path: Path) -> None:
    source = pin_source(f"file:{tmp_path}/pin")
    assert await pin_of(source) is None
    (tmp_path / "pin").write_text("1234\n")
    assert await pin_of(source) == "1234"
    (tmp_path / "pin").write_bytes("Straße 5".encode())
    assert await pin_of(source) == "Straße 5"
    (tmp_path / "pin").write_text("\n")
    assert await pin_of(source) is None


async def test_a_file_uri_is_read_as_such(tmp_path: Path) -> None:
    (tmp_path / "my pin").write_text("1234")
    assert await pin_of(pin_source(f"file://{tmp_path}/my%20pin")) == "1234"


async def test_a_credential_is_a_file_in_systemds_directory(tmp_path: Path) -> None:
    (tmp_path / "hsm-pin").write_text("1234")
    assert await pin_of(pin_source("credential:hsm-pin", credentials=tmp_path)) == "1234"


async def test_a_descriptor_is_read_once_and_its_pin_forgotten() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"1234\n")
    os.close(writing)
    source = pin_source(f"fd:{reading}")
    assert [await pin_of(source), await pin_of(source)] == ["1234", None]


async def test_a_prompt_asks_once_and_forgets(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["1234"]
    monkeypatch.setattr("getpass.getpass", lambda _: answers.pop())
    source = pin_source("prompt")
    assert [await pin_of(source), await pin_of(source)] == ["1234", None]


async def test_no_source_waits_for_a_person() -> None:
    assert await pin_of(pin_source("")) is None


@pytest.mark.parametrize(
    "text",
    ["1234", "file:pin", "file:", "credential:", "credential:../pin", "credential:pin", "fd:", "fd:x", "env:PIN", "prompt:"],
)
def test_other_sources_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        pin_source(text)


@pytest.mark.parametrize("content", [b"\xff\xfe", b"1" * 300, b"12\x0034"])
async def test_what_cannot_be_a_pin_is_a_configuration_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pin").write_bytes(content)
    with pytest.raises(ConfigError):
        await pin_of(pin_source(f"file:{tmp_path}/pin"))


async def test_unreadable_sources_are_a_configuration_error(tmp_path: Path) -> None:
    for text in (f"file:{tmp_path}", "fd:9999"):
        with pytest.raises(ConfigError, match="cannot read"):
            await pin_of(pin_source(text))


@pytest.mark.parametrize(("known", "message"), [("refused", "was refused"), ("trying", "was interrupted"), ("accepted", "")])
def test_the_ledger_is_read_alike_over_updates(ledger: PinLedger, tmp_path: Path, known: str, message: str) -> None:
    """An update that computed another digest or mark, or used other words, would allow a wrong PIN once more."""
    salt = bytes(range(16))
    digest = hash_secret_raw(b"1234", salt, time_cost=2, memory_cost=19_456, parallelism=1, hash_len=32, type=Type.ID)
    assert pin_digest("1234", salt) == digest
    mark = KEY.authenticate(b"pin\0A\0" + digest)[:16].hex()
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "pins.json").write_text(json.dumps({"salt": salt.hex(), "pins": {mark: known}}))
    if message:
        with pytest.raises(PinError, match=message):
            begin(ledger)
    else:
        begin(ledger, last_try=True)

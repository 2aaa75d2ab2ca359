"""A key on a token as its callers have it: unlocked by a person, made, lied to."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from gateway.errors import SignerUnavailable
from gateway.keys import keeper
from gateway.keys.frames import Code, Kind, TokenInfo, failure, signed, to_json
from gateway.keys.generation import generate_key, public_to_der
from gateway.keys.keeper import TokenTimes
from gateway.keys.process import ChildFailure
from gateway.keys.provider import KeyRing
from gateway.keys.signer import KeySpec, KeyState
from gateway.keys.uri import KeyUri
from gateway.keys.wrapping import WrappingKey
from tests.support.scripted_child import SCRIPTED, script
from tests.support.tokens import Token

PUBLIC = generate_key(KeySpec.P256).public_key()
OPEN_INFO = (Kind.OK, to_json(TokenInfo("4711", "scripted", login_required=False)))


def ring_in(directory: Path, times: TokenTimes) -> KeyRing:
    return KeyRing(directory / "keys", WrappingKey(bytes(32)), times=times)


async def test_a_person_unlocks_and_is_answered_also_when_nothing_is_locked(tmp_path: Path, token: Token) -> None:
    ring = ring_in(tmp_path, TokenTimes(attach=60.0))
    (tmp_path / "pin").write_text(token.pin)
    made = KeyRing(tmp_path / "first", WrappingKey(bytes(32)))
    public_key = (await made.generate(token.uri(pin_source=f"file:{tmp_path / 'pin'}"), KeySpec.P256)).public_key
    await made.close()
    signer = await ring.open(token.uri(), public_key)
    async with asyncio.timeout(60):
        await signer.unlock(token.pin)
        while signer.health().state is not KeyState.UP:
            await asyncio.sleep(0.01)
        await signer.ready()
        await signer.unlock("not looked at")
    for duration_ms in (1.0, 2.0, 9.0):
        ring.token(token.uri()).figures.add(duration_ms)
    health = signer.health()
    assert (health.state, health.detail, health.token_serial) == (KeyState.UP, "", token.serial)
    assert (health.operations, health.p50_ms, health.p95_ms) == (3, 2.0, 9.0)
    await ring.close()


async def test_a_pin_handed_over_in_a_descriptor_opens_the_token(tmp_path: Path, token: Token) -> None:
    reading, writing = os.pipe()
    os.write(writing, token.pin.encode())
    os.close(writing)
    ring = ring_in(tmp_path, TokenTimes(attach=60.0))
    uri = token.uri(pin_source=f"fd:{reading}", serial=False)
    signer = await ring.generate(uri, KeySpec.P256)
    assert await signer.sign(b"message")
    assert ring.signers() == (signer,)
    assert KeyUri.parse(signer.uri).serial == token.serial  # from now on no other token will do
    await signer.close()
    assert ring.token(uri)._keys == []
    await ring.close()


async def test_what_the_token_says_of_a_failed_generation_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "CHILD_MODULE", SCRIPTED)
    (tmp_path / "module.so").touch()
    script(monkeypatch, OPEN_INFO, (Kind.FAILED, failure(Code.TOKEN, "CKR_DEVICE_MEMORY")))
    ring = ring_in(tmp_path, TokenTimes(attach=60.0, poll=60.0))
    with pytest.raises(ChildFailure, match="CKR_DEVICE_MEMORY"):
        await ring.generate(f"pkcs11:token=scripted;object=ca?module-path={tmp_path / 'module.so'}", KeySpec.P256)
    await ring.close()


async def test_a_token_that_returned_a_wrong_signature_is_opened_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "CHILD_MODULE", SCRIPTED)
    (tmp_path / "module.so").touch()
    private_half = (Kind.OK, b"\x00\x00" + public_to_der(PUBLIC))
    # Opened, the key looked at before and after the login, probed once because the key was just asked for, and then:
    script(monkeypatch, OPEN_INFO, private_half, private_half, OPEN_INFO, (Kind.OK, signed(1.0, b"no signature")))
    ring = ring_in(tmp_path, TokenTimes(poll=60.0))
    uri = f"pkcs11:token=scripted;object=ca?module-path={tmp_path / 'module.so'}"
    signer = await ring.open(uri, PUBLIC)
    async with asyncio.timeout(60):
        while (child := ring.token(uri).child) is None or signer.health().state is not KeyState.UP:
            await asyncio.sleep(0.01)
        with pytest.raises(SignerUnavailable, match="wrong signature"):
            await signer.sign(b"message")
        assert await child.gone == "the token returned a wrong signature"
    assert signer.health().operations == 0
    await ring.close()

"""What callers of a token are told while it is away, and how the keeper spares the machine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import ConfigError, NotFound, PinError, SignerUnavailable
from gateway.keys import keeper, process
from gateway.keys.frames import Code, Kind, TokenInfo, failure, to_json
from gateway.keys.generation import generate_key, public_to_der
from gateway.keys.keeper import TokenTimes
from gateway.keys.process import ChildProcess
from gateway.keys.provider import KeyRing
from gateway.keys.signer import KeySpec, KeyState
from gateway.keys.wrapping import WrappingKey
from tests.support.scripted_child import SCRIPTED, script
from tests.support.tokens import Token

QUICK = TokenTimes(poll=0.05, respawn=0.05, grace=0.0, attach=0.2)
PUBLIC = generate_key(KeySpec.P256).public_key()
OPEN_INFO = (Kind.OK, to_json(TokenInfo("4711", "scripted", login_required=False)))


def ring_in(directory: Path, times: TokenTimes = QUICK) -> KeyRing:
    return KeyRing(directory / "keys", WrappingKey(bytes(32)), times=times)


def absent(token: Token) -> str:
    """The URI of a key on a token that is not plugged in."""
    return f"pkcs11:token=elsewhere;object=ca?module-path={token.module}"


async def test_nobody_signs_and_no_pin_is_tried_while_the_token_is_away(tmp_path: Path, token: Token) -> None:
    ring = ring_in(tmp_path)
    signer = await ring.open(absent(token), PUBLIC)
    with pytest.raises(SignerUnavailable) as refused:
        await signer.ready()
    assert refused.value.retry_after == 5
    with pytest.raises(SignerUnavailable, match="no PIN was tried"):
        await signer.unlock("1234")
    assert not (tmp_path / "keys" / "pins.json").exists()
    await ring.close()


async def test_a_key_that_is_wanted_of_an_absent_token_is_unavailable(tmp_path: Path, token: Token) -> None:
    ring = ring_in(tmp_path)
    with pytest.raises(SignerUnavailable):
        await ring.open(absent(token))
    with pytest.raises(SignerUnavailable):
        await ring.generate(absent(token), KeySpec.P256)
    await ring.close()


async def test_a_key_that_was_not_found_is_looked_for_no_more(tmp_path: Path, token: Token) -> None:
    (tmp_path / "pin").write_text(token.pin)
    uri = token.uri("nothing", pin_source=f"file:{tmp_path / 'pin'}")
    ring = ring_in(tmp_path, TokenTimes(attach=60.0))
    with pytest.raises(NotFound):
        await ring.open(uri)
    assert ring.token(uri)._keys == []
    await ring.close()


async def test_a_pin_that_cannot_be_one_is_refused_before_anything_is_tried(tmp_path: Path, token: Token) -> None:
    ring = ring_in(tmp_path)
    signer = await ring.open(absent(token), PUBLIC)
    with pytest.raises(ConfigError, match="NUL"):
        await signer.unlock("12\x0034")
    await ring.close()


async def test_a_token_that_fails_over_and_over_is_opened_ever_more_slowly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "module.so").write_bytes(b"no library")
    sleep, pauses, enough = asyncio.sleep, list[float](), asyncio.Event()

    async def noted(seconds: float, *rest: Any) -> None:
        if seconds:
            pauses.append(seconds)
            if len(pauses) == 6:
                enough.set()
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", noted)
    ring = ring_in(tmp_path, TokenTimes(respawn=0.1, respawn_most=2.0))
    await ring.open(f"pkcs11:token=t;object=ca?module-path={tmp_path / 'module.so'}", PUBLIC)
    async with asyncio.timeout(60):
        await enough.wait()
    assert pauses[:6] == [0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    await ring.close()


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        (b"\xff\xff" + public_to_der(PUBLIC), "only the public half"),
        (b"\x00\x00" + public_to_der(generate_key(KeySpec.P256).public_key()), "another one than the certificate's"),
    ],
    ids=["no private half", "another key"],
)
async def test_a_key_that_cannot_be_the_right_one_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: bytes, problem: str
) -> None:
    monkeypatch.setattr(keeper, "CHILD_MODULE", SCRIPTED)
    (tmp_path / "module.so").touch()
    public_half = (Kind.OK, b"\xff\xff" + public_to_der(PUBLIC))
    script(monkeypatch, OPEN_INFO, public_half, (Kind.OK, found))
    ring = ring_in(tmp_path, TokenTimes(poll=60.0))
    signer = await ring.open(f"pkcs11:token=scripted;object=ca?module-path={tmp_path / 'module.so'}", PUBLIC)
    async with asyncio.timeout(60):
        while signer.health().state is not KeyState.WRONG_TOKEN:
            await asyncio.sleep(0.01)
    assert problem in signer.health().detail
    with pytest.raises(SignerUnavailable, match=problem) as refused:
        await signer.ready()
    assert refused.value.retry_after == 60  # a person has to bring the right one
    await ring.close()


async def test_closing_lets_the_child_log_out(tmp_path: Path, token: Token, monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[int | None] = []
    finish = ChildProcess._finish

    async def noted(child: ChildProcess) -> None:
        ends.append(await child._process.wait())
        await finish(child)

    monkeypatch.setattr(ChildProcess, "_finish", noted)
    monkeypatch.setattr(process, "_FAREWELL_S", 60.0)  # a loaded machine takes its time
    ring = ring_in(tmp_path, TokenTimes(poll=60.0))
    signer = await ring.open(absent(token), PUBLIC)
    async with asyncio.timeout(60):
        while signer.health().detail == "the token is being opened":
            await asyncio.sleep(0.01)
    await ring.close()
    assert ends == [0]  # not killed


async def test_a_stick_with_another_key_gets_no_pin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeper, "CHILD_MODULE", SCRIPTED)
    (tmp_path / "module.so").touch()
    info = TokenInfo("4711", "another stick", login_required=True)
    other = public_to_der(generate_key(KeySpec.P256).public_key())
    script(monkeypatch, (Kind.OK, to_json(info)), (Kind.OK, b"\xff\xff" + other))
    ring = ring_in(tmp_path, TokenTimes(poll=60.0))
    signer = await ring.open(f"pkcs11:token=scripted;object=ca?module-path={tmp_path / 'module.so'}", PUBLIC)
    async with asyncio.timeout(60):
        while signer.health().state is not KeyState.WRONG_TOKEN:
            await asyncio.sleep(0.01)
    assert "'another stick' (serial 4711) holds another key; its PIN was not tried" in signer.health().detail
    await ring.close()


async def test_a_token_that_stays_away_is_looked_for_by_a_fresh_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: Token
) -> None:
    """Some modules list their slots only once."""
    monkeypatch.setattr(keeper, "_LOOKS_PER_CHILD", 2)
    spawn, looks, enough = ChildProcess.spawn, list[int](), asyncio.Event()

    async def noted(module: str) -> ChildProcess:
        child = await spawn(module)
        child.gone.add_done_callback(lambda _: looks.append(child.answers))
        child.gone.add_done_callback(lambda _: enough.set())
        return child

    monkeypatch.setattr(ChildProcess, "spawn", noted)
    ring = ring_in(tmp_path, TokenTimes(poll=0.01, respawn=0.01))
    await ring.open(absent(token), PUBLIC)
    async with asyncio.timeout(60):
        await enough.wait()
    assert looks[0] == 2
    await ring.close()


async def test_who_needs_a_key_of_a_token_that_waits_for_its_pin_is_told_so_at_once(tmp_path: Path, token: Token) -> None:
    ring = ring_in(tmp_path, TokenTimes(attach=3600.0))
    async with asyncio.timeout(60):
        with pytest.raises(PinError, match="waits for its PIN"):
            await ring.open(token.uri())
        with pytest.raises(PinError, match="waits for its PIN"):
            await ring.generate(token.uri(), KeySpec.P256)
    assert ring.token(token.uri())._keys == []
    await ring.close()


async def test_a_token_that_fails_while_its_keys_are_looked_for_is_opened_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only "no such key" is an answer; after anything else nobody knows."""
    monkeypatch.setattr(keeper, "CHILD_MODULE", SCRIPTED)
    (tmp_path / "module.so").touch()
    fault = (Kind.FAILED, failure(Code.TOKEN, "CKR_DEVICE_ERROR"))
    script(monkeypatch, OPEN_INFO, fault, fault)
    ring = ring_in(tmp_path, TokenTimes(poll=60.0, respawn=60.0))
    signer = await ring.open(f"pkcs11:token=scripted;object=ca?module-path={tmp_path / 'module.so'}", PUBLIC)
    async with asyncio.timeout(60):
        while "CKR_DEVICE_ERROR" not in signer.health().detail:
            await asyncio.sleep(0.01)
    assert signer.health().state is KeyState.DOWN
    await ring.close()


async def test_a_key_without_a_public_half_serves_only_where_that_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeper, "CHILD_MODULE", SCRIPTED)
    (tmp_path / "module.so").touch()
    uri = f"pkcs11:token=scripted;object=ca?module-path={tmp_path / 'module.so'}"
    no_half = (Kind.OK, b"\x00\x00")
    script(monkeypatch, OPEN_INFO, no_half, no_half, OPEN_INFO)
    for expected in (None, PUBLIC):
        ring = ring_in(tmp_path, TokenTimes(poll=60.0, attach=60.0))
        if expected is None:
            with pytest.raises(NotFound, match="no public half"):
                await ring.open(uri)
        else:
            signer = await ring.open(uri, expected)
            async with asyncio.timeout(60):
                while signer.health().state is not KeyState.UP:
                    await asyncio.sleep(0.01)
            await signer.ready()
        await ring.close()

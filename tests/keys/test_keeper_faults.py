"""The keeper of a token outlives whatever goes wrong beside the token: a token is never lost until a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.keys.keeper import TokenTimes
from gateway.keys.pin import PinLedger
from gateway.keys.provider import KeyRing
from gateway.keys.signer import KeySpec, KeyState
from gateway.keys.wrapping import WrappingKey
from tests.support.tokens import softhsm_store, softhsm_token


async def test_a_full_disk_at_the_first_login_does_not_cost_the_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = softhsm_token(softhsm_store(tmp_path / "softhsm"), "here")
    for name, value in token.environment.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "pin").write_text(token.pin)
    uri = token.uri(pin_source=f"file:{tmp_path / 'pin'}")
    wrapping = WrappingKey(bytes(32))
    made = KeyRing(tmp_path / "first", wrapping)
    public_key = (await made.generate(uri, KeySpec.P256)).public_key
    await made.close()

    def full(self: PinLedger, salt: str, marks: dict[str, str]) -> None:
        raise OSError(28, "No space left on device")

    ring = KeyRing(tmp_path / "keys", wrapping, times=TokenTimes(poll=0.05, respawn=0.05, grace=0.0))
    with monkeypatch.context() as patch:
        patch.setattr(PinLedger, "_write", full)
        signer = await ring.open(uri, public_key)
        async with asyncio.timeout(60):
            while "No space left" not in signer.health().detail:
                await asyncio.sleep(0.01)
    async with asyncio.timeout(60):
        while signer.health().state is not KeyState.UP:
            await asyncio.sleep(0.01)
    await signer.sign(b"x")
    await ring.close()

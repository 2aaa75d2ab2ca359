"""A token that fails on its data objects is opened anew; one that does it again and again is left to those who sign."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.errors import SignerUnavailable
from gateway.keys import keeper, token_anchor
from gateway.keys.frames import Code, Kind, TokenInfo, failure, to_json
from gateway.keys.keeper import TokenTimes
from gateway.keys.provider import KeyRing
from gateway.keys.signer import KeyState
from gateway.keys.token_anchor import TokenAnchor
from gateway.keys.uri import KeyUri
from gateway.keys.wrapping import WrappingKey
from tests.support.scripted_child import SCRIPTED, script

OPEN_INFO = (Kind.OK, to_json(TokenInfo("4711", "scripted", login_required=False)))
FAULT = (Kind.FAILED, failure(Code.TOKEN, "CKR_DEVICE_ERROR"))
TIMES = TokenTimes(poll=60.0, attach=60.0, respawn=0.01, respawn_most=0.01)


@pytest.fixture
def uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeyUri:
    monkeypatch.setattr(keeper, "CHILD_MODULE", SCRIPTED)
    (tmp_path / "module.so").touch()
    return KeyUri.parse(f"pkcs11:token=scripted?module-path={tmp_path / 'module.so'}")


async def fail(ring: KeyRing, anchor: TokenAnchor, uri: KeyUri) -> None:
    """One fault at the data object, after which the child is gone."""
    await is_up(ring, uri)
    child = ring.token(uri.format()).child
    assert child is not None
    with pytest.raises(SignerUnavailable, match="CKR_DEVICE_ERROR; it is tried again"):
        await anchor.load()
    assert "CKR_DEVICE_ERROR" in await child.gone


async def is_up(ring: KeyRing, uri: KeyUri) -> None:
    """Until the token is open, perhaps anew."""
    token = ring.token(uri.format())
    async with asyncio.timeout(60):
        while token.state is not KeyState.UP or token.child is None or token.child.gone.done():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(("rest_s", "again"), [(3600.0, False), (-1.0, True)])
async def test_after_two_faults_a_token_that_seems_to_be_back_is_left_alone_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: KeyUri, rest_s: float, again: bool
) -> None:
    monkeypatch.setattr(token_anchor, "_REST_S", rest_s)
    script(monkeypatch, OPEN_INFO, FAULT)
    ring = KeyRing(tmp_path / "keys", WrappingKey(bytes(32)), times=TIMES)
    anchor = TokenAnchor(ring.token(uri.format()), uri)
    await ring.token(uri.format()).looked_for()
    await fail(ring, anchor, uri)
    await is_up(ring, uri)
    assert anchor.returned()  # once may be chance
    await fail(ring, anchor, uri)
    await is_up(ring, uri)
    assert anchor.returned() is again
    await ring.close()


async def test_a_fault_after_a_writing_is_the_first_one_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: KeyUri
) -> None:
    script(monkeypatch, OPEN_INFO, FAULT)
    ring = KeyRing(tmp_path / "keys", WrappingKey(bytes(32)), times=TIMES)
    anchor = TokenAnchor(ring.token(uri.format()), uri)
    await ring.token(uri.format()).looked_for()
    await is_up(ring, uri)
    script(monkeypatch, OPEN_INFO, (Kind.OK, b"old"), (Kind.OK, b""), FAULT)  # for the next child
    await fail(ring, anchor, uri)
    await is_up(ring, uri)
    assert await anchor.load() == b"old"
    await anchor.store(b"new")
    await fail(ring, anchor, uri)
    await is_up(ring, uri)
    assert anchor.returned()
    await ring.close()


def test_the_name_that_people_read_says_nothing_of_the_pin_and_the_module(uri: KeyUri) -> None:
    full = KeyUri.parse("pkcs11:token=t;object=anchor?module-path=/m.so&pin-source=file:/pin")
    assert TokenAnchor(None, full).name == "pkcs11:token=t;object=anchor"  # type: ignore[arg-type]
    named = KeyUri.parse("pkcs11:token=t?module-name=softhsm2")
    assert TokenAnchor(None, named).name == "pkcs11:token=t"  # type: ignore[arg-type]

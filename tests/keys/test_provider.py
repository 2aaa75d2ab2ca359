"""Opening and preparing tokens: modules, initialisation, the anchor on the token."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from gateway.errors import ConfigError, IntegrityError, SignerUnavailable
from gateway.keys.generation import private_to_der
from gateway.keys.initialise import initialise_token
from gateway.keys.keeper import TokenTimes
from gateway.keys.provider import KeyRing, module_path
from gateway.keys.signer import KeySpec, KeyState
from gateway.keys.token_anchor import TokenAnchor
from gateway.keys.uri import KeyUri
from gateway.keys.wrapping import WrappingKey
from tests.support.key_places import TIMES, Place
from tests.support.tokens import Token, library, softhsm_store, softhsm_token


@pytest.mark.parametrize("place", ["softhsm"], indirect=True)
async def test_an_anchor_on_the_token_keeps_the_newest_value_over_restarts(place: Place) -> None:
    async with place.ring() as ring:
        anchor = TokenAnchor(ring.token(place.uri("ca")))
        assert await asyncio.to_thread(anchor.load) is None
        for value in (b"first", b"second" * 100):
            await asyncio.to_thread(anchor.store, value)
            assert await asyncio.to_thread(anchor.load) == value
    async with place.ring() as ring:
        other = TokenAnchor(ring.token(place.uri("ca")), label="another anchor")
        assert await asyncio.to_thread(TokenAnchor(ring.token(place.uri("ca"))).load) == b"second" * 100
        assert await asyncio.to_thread(other.load) is None


async def test_an_anchor_on_an_absent_token_is_an_os_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = softhsm_token(softhsm_store(tmp_path / "softhsm"), "here")
    monkeypatch.setenv("SOFTHSM2_CONF", token.environment["SOFTHSM2_CONF"])
    ring = KeyRing(tmp_path / "keys", WrappingKey(bytes(32)), times=TokenTimes(attach=0.5))
    anchor = TokenAnchor(ring.token(token.uri().replace("token=here", "token=elsewhere")))
    with pytest.raises(OSError, match="token"):
        await asyncio.to_thread(anchor.load)
    await ring.close()


async def test_a_token_is_initialised_without_a_pin_in_any_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTHSM2_CONF", softhsm_store(tmp_path / "softhsm")["SOFTHSM2_CONF"])
    module = library("libsofthsm2.so")
    info = await initialise_token(str(module), 0, "new token", so_pin="12345678", pin="482913")
    assert info.label == "new token"
    assert info.login_required
    (tmp_path / "pin").write_text("482913")
    ring = KeyRing(tmp_path / "keys", WrappingKey(bytes(32)), times=TIMES)
    token = Token(module, "new token", info.serial)
    signer = await ring.generate(token.uri(pin_source=f"file:{tmp_path / 'pin'}"), KeySpec.P256)
    await signer.sign(b"x")
    await ring.close()


async def test_what_cannot_be_initialised_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOFTHSM2_CONF", softhsm_store(tmp_path / "softhsm")["SOFTHSM2_CONF"])
    module = str(library("libsofthsm2.so"))
    with pytest.raises(ConfigError):
        await initialise_token(module, 0, "x", so_pin="", pin="482913")
    with pytest.raises(SignerUnavailable, match="at most 32"):
        await initialise_token(module, 0, "x" * 33, so_pin="12345678", pin="482913")
    with pytest.raises(SignerUnavailable, match="C_InitToken failed"):
        await initialise_token(module, 99, "x", so_pin="12345678", pin="482913")


def test_a_module_is_found_by_path_name_or_default(tmp_path: Path) -> None:
    for name in ("x86_64-linux-gnu/pkcs11/libtoken.so", "softhsm/other.so", "aarch64-linux-gnu/p11-kit-proxy.so"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    directories = (str(tmp_path / "nowhere"), str(tmp_path))

    def found(text: str) -> str:
        return module_path(KeyUri.parse(text), directories=directories).removeprefix(f"{tmp_path}/")

    assert found(f"pkcs11:object=ca?module-path={tmp_path}/softhsm/other.so") == "softhsm/other.so"
    assert found("pkcs11:object=ca?module-name=token") == "x86_64-linux-gnu/pkcs11/libtoken.so"
    assert found("pkcs11:object=ca?module-name=other") == "softhsm/other.so"
    assert found("pkcs11:object=ca") == "aarch64-linux-gnu/p11-kit-proxy.so"
    for absent in ("?module-name=absent", f"?module-path={tmp_path}/absent.so"):
        with pytest.raises(ConfigError):
            found(f"pkcs11:object=ca{absent}")


@pytest.mark.parametrize("text", ["pkcs11:token=t", "nonsense", "pkcs11:object=a?pin-value=1"])
async def test_a_uri_that_names_no_key_is_refused(tmp_path: Path, text: str) -> None:
    ring = KeyRing(tmp_path, WrappingKey(bytes(32)))
    with pytest.raises(ConfigError):
        await ring.open(text)
    with pytest.raises(ConfigError):
        await ring.generate(text, KeySpec.P256)


async def test_a_new_key_on_a_token_needs_a_label_and_an_anchor_a_token(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path, WrappingKey(bytes(32)))
    with pytest.raises(ConfigError, match="label"):
        await ring.generate("pkcs11:id=%01", KeySpec.P256)
    with pytest.raises(ConfigError, match="no token"):
        ring.token("software:ca")


async def test_the_ring_knows_its_signers_and_closes_them(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path, WrappingKey(bytes(32)))
    signer = await ring.generate("software:ca", KeySpec.P256)
    assert ring.signers() == (signer,)
    assert private_to_der(ring.software.load("ca"))
    await ring.close()
    assert signer.health().state is KeyState.DOWN
    assert ring.signers() == ()


async def test_a_damaged_key_file_is_said_so(tmp_path: Path) -> None:
    ring = KeyRing(tmp_path, WrappingKey(bytes(32)))
    (tmp_path / "ca.key").write_text("{}")
    with pytest.raises(IntegrityError):
        await ring.open("software:ca")

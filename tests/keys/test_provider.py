"""Opening tokens: modules, which URIs share one, the anchor on the token."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.errors import ConfigError, IntegrityError, SignerUnavailable
from gateway.keys.generation import private_to_der
from gateway.keys.keeper import RemoteToken
from gateway.keys.provider import KeyRing, _same_token, module_path
from gateway.keys.signer import KeySpec, KeyState
from gateway.keys.token_anchor import TokenAnchor
from gateway.keys.uri import KeyUri
from gateway.keys.wrapping import WrappingKey
from tests.support.key_places import Place, token_place
from tests.support.tokens import Token, library, softhsm_store, softhsm_token


@pytest.mark.parametrize("place", ["softhsm"], indirect=True)
async def test_an_anchor_on_the_token_keeps_the_newest_value_over_restarts(place: Place) -> None:
    uri = KeyUri.parse(place.uri(""))
    async with place.ring() as ring:
        anchor = TokenAnchor(ring.token(uri.format()), uri)
        assert await anchor.load() is None
        for value in (b"first", b"second" * 100, b"third"):
            await anchor.store(value)
            assert await anchor.load() == value
    async with place.ring() as ring:
        token = ring.token(uri.format())
        other = TokenAnchor(token, replace(uri, object="another anchor"))
        assert await TokenAnchor(token, uri).load() == b"third"
        assert await other.load() is None
        assert "pin" not in other.name


async def test_an_anchor_on_an_absent_token_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = softhsm_token(softhsm_store(tmp_path / "softhsm"), "here")
    monkeypatch.setenv("SOFTHSM2_CONF", token.environment["SOFTHSM2_CONF"])
    ring = KeyRing(tmp_path / "keys", WrappingKey(bytes(32)))
    uri = KeyUri.parse(token.uri("").replace("token=here", "token=elsewhere"))
    anchor = TokenAnchor(ring.token(uri.format()), uri)
    for attempt in (anchor.load(), anchor.store(b"x")):
        with pytest.raises(SignerUnavailable, match="plug in the token"):
            await attempt
    await ring.close()


async def test_an_anchor_that_was_not_read_is_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = softhsm_token(softhsm_store(tmp_path / "softhsm"), "here")
    monkeypatch.setenv("SOFTHSM2_CONF", token.environment["SOFTHSM2_CONF"])
    place = token_place(token, tmp_path)
    uri = KeyUri.parse(place.uri(""))
    async with place.ring() as ring:
        remote = ring.token(uri.format())
        await TokenAnchor(remote, uri).load()  # it is up
        anchor = TokenAnchor(remote, uri)
        assert anchor.returned()
        with pytest.raises(SignerUnavailable, match="compared first"):
            await anchor.store(b"blind")
        assert await anchor.load() is None
        assert not anchor.returned()


@pytest.mark.parametrize("first_with_serial", [True, False])
async def test_one_token_has_one_child_whether_its_uri_names_its_serial_number_or_not(
    tmp_path: Path, first_with_serial: bool
) -> None:
    ring = KeyRing(tmp_path, WrappingKey(bytes(32)))
    module = library("libsofthsm2.so")

    def token(serial: str) -> RemoteToken:
        return ring.token(Token(module, "line 4", serial).uri())

    first, second = (token("a1"), token("")) if first_with_serial else (token(""), token("a1"))
    assert first is second
    assert token("a2") is not first
    assert first.uri.serial == "a1"


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


@pytest.mark.parametrize(
    ("known", "wanted", "seen", "same"),
    [
        ("token=a", "token=a", "", True),
        ("token=a", "token=b", "", False),
        ("token=a", "token=a;serial=1", "", True),  # as long as nobody has seen the token
        ("token=a;serial=1", "token=a;serial=2", "", False),
        ("token=a", "token=a;serial=1", "1", True),
        ("token=a", "serial=1", "1", True),  # whatever its label: the serial number is the token's name
        ("token=a", "token=a;serial=2", "1", False),
    ],
)
def test_two_names_of_one_token_share_its_child(known: str, wanted: str, seen: str, same: bool) -> None:
    assert _same_token(KeyUri.parse(f"pkcs11:{known}"), KeyUri.parse(f"pkcs11:{wanted}"), seen) is same

"""Key files and signers without hardware."""

from __future__ import annotations

import asyncio
import stat
import threading
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, x25519

from gateway.errors import AlreadyExists, BadKey, ConfigError, IntegrityError, NotFound, SignerUnavailable
from gateway.keys.generation import generate_key, private_to_der, public_from_der, public_to_der, spec_of
from gateway.keys.signer import KeySpec, KeyState
from gateway.keys.software import SoftwareKeys, SoftwareSigner
from gateway.keys.wrapping import WrappingKey


@pytest.fixture
def keys(tmp_path: Path) -> SoftwareKeys:
    return SoftwareKeys(tmp_path / "keys", WrappingKey(bytes(32)))


def test_a_stored_key_is_wrapped_and_private(keys: SoftwareKeys) -> None:
    key = keys.generate("ca", KeySpec.ED25519)
    path = keys.path("ca")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert private_to_der(key).hex()[-64:] not in path.read_text()
    assert private_to_der(keys.load("ca")) == private_to_der(key)
    assert [file.name for file in path.parent.iterdir()] == ["ca.key"]


def test_a_renamed_file_does_not_open(keys: SoftwareKeys) -> None:
    keys.generate("ca", KeySpec.P256)
    keys.path("ca").rename(keys.path("tls"))
    with pytest.raises(IntegrityError):
        keys.load("tls")


@pytest.mark.parametrize(
    ("old", "new"), [("p-256", "p-384"), ("p-256", "p-999"), ("key-1", "key-2"), ('"wrapped": "', '"wrapped": "0'), ("{", "[")]
)
def test_a_changed_file_does_not_open(keys: SoftwareKeys, old: str, new: str) -> None:
    keys.generate("ca", KeySpec.P256)
    path = keys.path("ca")
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(IntegrityError):
        keys.load("ca")


def test_load_or_generate_makes_a_key_once_and_minds_its_type(keys: SoftwareKeys) -> None:
    first = keys.load_or_generate("tls", KeySpec.P256)
    assert private_to_der(keys.load_or_generate("tls", KeySpec.P256)) == private_to_der(first)
    with pytest.raises(IntegrityError):
        keys.load_or_generate("tls", KeySpec.P384)


def test_storing_never_overwrites(keys: SoftwareKeys) -> None:
    first = keys.generate("ca", KeySpec.P256)
    with pytest.raises(AlreadyExists):
        keys.store("ca", generate_key(KeySpec.P256))
    assert private_to_der(keys.load("ca")) == private_to_der(first)


def test_an_erased_key_is_gone(keys: SoftwareKeys) -> None:
    keys.generate("tls", KeySpec.P256)
    keys.erase("tls")
    keys.erase("tls")
    with pytest.raises(NotFound):
        keys.load("tls")


@pytest.mark.parametrize("name", ["", "../ca", "a/b", ".hidden", "a" * 65, "ca\n"])
def test_names_stay_in_the_directory(keys: SoftwareKeys, name: str) -> None:
    with pytest.raises(ConfigError):
        keys.path(name)


@pytest.mark.parametrize("spec", list(KeySpec))
def test_specs_and_public_keys_translate_both_ways(spec: KeySpec) -> None:
    public_key = generate_key(spec).public_key()
    assert spec_of(public_key) is spec
    assert public_from_der(public_to_der(public_key)) == public_key


def test_a_key_no_spec_makes_is_refused() -> None:
    with pytest.raises(BadKey):
        spec_of(ec.generate_private_key(ec.SECP256K1()).public_key())
    foreign = x25519.X25519PrivateKey.generate().public_key()
    der = foreign.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(BadKey):
        public_from_der(der)


@pytest.mark.parametrize("spec", [KeySpec.P256, KeySpec.RSA_2048])
async def test_a_closed_signer_signs_no_more(spec: KeySpec) -> None:
    signer = SoftwareSigner(generate_key(spec), "ca")
    await asyncio.gather(signer.sign(b"a"), signer.sign(b"b"))
    await signer.unlock("no PIN is needed")
    await signer.close()
    assert signer.health().state is KeyState.DOWN
    with pytest.raises(SignerUnavailable):
        await signer.sign(b"c")


async def test_a_signature_that_does_not_verify_never_leaves() -> None:
    signer = SoftwareSigner(generate_key(KeySpec.P256), "ca")
    signer._public_key = generate_key(KeySpec.P256).public_key()  # as if memory had flipped a bit of the private key
    with pytest.raises(SignerUnavailable, match="wrong signature"):
        await signer.sign(b"x")
    assert signer.health().operations == 0


def test_a_key_is_there_once_it_was_made(keys: SoftwareKeys) -> None:
    assert not keys.exists("ca")
    keys.generate("ca", KeySpec.P256)
    assert keys.exists("ca")
    with pytest.raises(AlreadyExists, match="'ca' already exists"):
        keys.generate("ca", KeySpec.P256)


async def test_a_closed_signer_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    signer = SoftwareSigner(generate_key(KeySpec.RSA_2048), "ca")
    await signer.sign(b"message")
    own = {thread for thread in set(threading.enumerate()) - before if thread.name.startswith("software-signer")}
    assert own
    await signer.close()
    assert not own & set(threading.enumerate())


#: Written by version 0.1 under the wrapping key 00 01 ... 1f: the P-256 key whose private number is 7.
KEY_FILE = (
    '{"format": "edge-gateway-key-1", "name": "ca", "type": "p-256", "wrapped": "000102030405060708090a0b77835119c4'
    "e5f2088b46bd0df927456f82d08f1e763391413b66e28170596bb00011aadcafc1129874a47fed88872838ee59608d5ad6a3da3f972a19"
    "18e3f5eef03cc67d729525231c50243dd4e0ae5743ccecd946052f69069de0358048118224a369e08c31f99d2cbf4d5955c8c14ca2510f"
    'ad7c46836fddff040ab4d5a50aa073c598ae510aa70855229479ac9e2f2c93ba90921ad6a160c9"}'
)


def test_a_key_that_an_earlier_version_stored_opens(tmp_path: Path) -> None:
    (tmp_path / "ca.key").write_text(KEY_FILE)
    key = SoftwareKeys(tmp_path, WrappingKey(bytes(range(32)))).load("ca")
    assert public_to_der(key.public_key()) == public_to_der(ec.derive_private_key(7, ec.SECP256R1()).public_key())

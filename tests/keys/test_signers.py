"""What every key store must do, asked of all of them: encrypted files, SoftHSM2, and a TPM behind tpm2-pkcs11."""

from __future__ import annotations

import asyncio
from itertools import product

import pytest

from gateway.errors import AlreadyExists, BadKey, NotFound
from gateway.keys.generation import generate_key, public_to_der, spec_of
from gateway.keys.signer import KeySpec, KeyState, Priority
from gateway.keys.uri import KeyUri
from gateway.pki.algorithms import signature_is_valid
from tests.support.key_places import Place

CLASSIC = (KeySpec.RSA_2048, KeySpec.P256, KeySpec.P384)
SUPPORTED = {
    "software": tuple(KeySpec),
    "softhsm": (*CLASSIC, KeySpec.RSA_3072, KeySpec.RSA_4096, KeySpec.P521, KeySpec.ED25519),
    "tpm": CLASSIC,
}
EVERY_TYPE = [pair for place, specs in SUPPORTED.items() for pair in product([place], specs)]
everywhere = pytest.mark.parametrize("place", list(SUPPORTED), indirect=True)


@pytest.mark.parametrize(("place", "spec"), EVERY_TYPE, indirect=["place"])
async def test_a_generated_key_signs_what_verifies_also_after_a_restart(place: Place, spec: KeySpec) -> None:
    async with place.ring() as ring:
        made = await ring.generate(place.uri("ca"), spec)
        public_key = made.public_key
        assert spec_of(public_key) is spec
    async with place.ring() as ring:
        signer = await ring.open(made.uri)
        signature = await signer.sign(b"to be signed", priority=Priority.STATUS)
        assert public_to_der(signer.public_key) == public_to_der(public_key)
        assert signature_is_valid(public_key, signer.algorithm, signature, b"to be signed")
        assert not signature_is_valid(public_key, signer.algorithm, signature, b"something else")


@everywhere
async def test_an_existing_key_is_never_overwritten(place: Place) -> None:
    async with place.ring() as ring:
        made = await ring.generate(place.uri("ca"), KeySpec.P256)
        with pytest.raises(AlreadyExists):
            await ring.generate(place.uri("ca"), KeySpec.P256)
        signature = await made.sign(b"x")
    async with place.ring() as ring:
        again = await ring.open(place.uri("ca"))
        assert signature_is_valid(again.public_key, again.algorithm, signature, b"x")


@everywhere
async def test_a_key_that_is_not_there_is_not_found(place: Place) -> None:
    async with place.ring() as ring:
        with pytest.raises(NotFound):
            await ring.open(place.uri("nothing"))


@everywhere
async def test_parallel_signatures_of_every_size_are_each_right_and_counted(place: Place) -> None:
    messages = [bytes([index]) * size for index, size in enumerate((0, 1, 64, 4096, 300_000, 17, 18, 19))]
    async with place.ring() as ring:
        signer = await ring.generate(place.uri("ca"), KeySpec.P256)
        signatures = await asyncio.gather(*(signer.sign(message) for message in messages))
        for message, signature in zip(messages, signatures, strict=True):
            assert signature_is_valid(signer.public_key, signer.algorithm, signature, message)
        health = signer.health()
        assert (health.state, health.operations, health.waiting) == (KeyState.UP, len(messages), 0)
        assert 0 < health.p50_ms <= health.p95_ms


@everywhere
async def test_the_uri_shown_to_people_names_the_key_and_no_pin(place: Place) -> None:
    async with place.ring() as ring:
        signer = await ring.generate(place.uri("ca"), KeySpec.P256)
        parsed = KeyUri.parse(signer.uri)
        assert parsed.software == "ca" or (parsed.object == "ca" and parsed.id and parsed.serial)
        assert "482913" not in signer.uri
        assert "482913" not in repr(signer.health())


@everywhere
async def test_another_key_than_the_certificates_is_not_used(place: Place) -> None:
    stranger = generate_key(KeySpec.P256).public_key()
    async with place.ring() as ring:
        await ring.generate(place.uri("ca"), KeySpec.P256)
    async with place.ring() as ring:
        if place.uri("ca").startswith("software:"):
            with pytest.raises(NotFound):
                await ring.open(place.uri("ca"), stranger)
            return
        signer = await ring.open(place.uri("ca"), stranger)
        async with asyncio.timeout(60):
            while signer.health().state is not KeyState.WRONG_TOKEN:
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("place", ["softhsm", "tpm"], indirect=True)
@pytest.mark.parametrize("spec", [KeySpec.ML_DSA_65])
async def test_a_key_type_the_token_cannot_make_is_refused(place: Place, spec: KeySpec) -> None:
    async with place.ring() as ring:
        with pytest.raises(BadKey):
            await ring.generate(place.uri("ca"), spec)

"""A key that cannot be opened says so and signs nothing; what is known of it stays known."""

from __future__ import annotations

import pytest

from gateway.errors import SignerUnavailable
from gateway.keys.absent import AbsentSigner
from gateway.keys.generation import generate_key
from gateway.keys.signer import KeySpec, KeyState
from gateway.pki.algorithms import default_algorithm

PUBLIC = generate_key(KeySpec.P256).public_key()


async def test_a_lost_key_signs_nothing_and_tells_why() -> None:
    signer = AbsentSigner("software:ca", PUBLIC, "the key file is missing")
    for attempt in (signer.ready, lambda: signer.sign(b"message")):
        with pytest.raises(SignerUnavailable, match="the key file is missing") as refused:
            await attempt()
        assert refused.value.retry_after == 300  # a person has to bring it back
    await signer.unlock("1234")
    health = signer.health()
    assert (health.uri, health.state, health.detail) == ("software:ca", KeyState.DOWN, "the key file is missing")


async def test_what_the_certificate_says_of_a_lost_key_stays_known() -> None:
    signer = AbsentSigner("software:ca", PUBLIC, "gone")
    assert (signer.uri, signer.public_key, signer.algorithm) == ("software:ca", PUBLIC, default_algorithm(PUBLIC))
    await signer.close()

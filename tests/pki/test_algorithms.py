"""Signature algorithms: each key type signs with its default, and nothing else verifies."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import x25519

from gateway.errors import BadKey
from gateway.pki.algorithms import SignatureAlgorithm, default_algorithm, family, sign, signature_is_valid
from tests.support.csrs import KEY_TYPES, key_for


@pytest.mark.parametrize("kind", [kind for kind in KEY_TYPES if kind not in ("rsa-5120", "rsa-6144", "rsa-7168")])
def test_a_signature_verifies_with_its_algorithm_and_message_only(kind: str) -> None:
    key = key_for(kind)
    algorithm = default_algorithm(key.public_key())
    signature = sign(key, algorithm, b"message")
    accepted = {one for one in SignatureAlgorithm if signature_is_valid(key.public_key(), one, signature, b"message")}
    assert accepted == {algorithm}
    assert not signature_is_valid(key.public_key(), algorithm, signature, b"massage")


@pytest.mark.parametrize("kind", [kind for kind in KEY_TYPES if kind not in ("rsa-5120", "rsa-6144", "rsa-7168")])
def test_both_halves_of_a_key_are_of_one_family(kind: str) -> None:
    key = key_for(kind)
    expected = "ec" if kind.startswith(("p-", "brainpool")) else "rsa" if kind.startswith("rsa") else kind
    assert family(type(key)) == family(type(key.public_key())) == expected


def test_other_classes_are_of_no_family() -> None:
    assert family(x25519.X25519PublicKey) == family(int) == ""


def test_the_hash_is_as_strong_as_the_key() -> None:
    assert default_algorithm(key_for("rsa-8192").public_key()) is SignatureAlgorithm.RSA_SHA384
    assert isinstance(default_algorithm(key_for("p-384").public_key()).hash, hashes.SHA384)
    assert default_algorithm(key_for("brainpoolp512r1").public_key()) is SignatureAlgorithm.ECDSA_SHA512
    assert SignatureAlgorithm.ED25519.hash is None


def test_a_key_that_cannot_sign_has_no_algorithm() -> None:
    key = x25519.X25519PrivateKey.generate().public_key()
    with pytest.raises(BadKey, match="X25519"):
        default_algorithm(key)  # type: ignore[arg-type]

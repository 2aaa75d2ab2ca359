"""A stored key is of the type it was stored as, or it is not used."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import x25519

from gateway.errors import IntegrityError
from gateway.keys.generation import generate_key, private_from_der, private_to_der
from gateway.keys.signer import KeySpec


@pytest.mark.parametrize("spec", [KeySpec.P384, KeySpec.ED25519])
def test_a_key_of_another_type_is_not_the_stored_one(spec: KeySpec) -> None:
    der = private_to_der(generate_key(KeySpec.P256))
    assert private_to_der(private_from_der(der, KeySpec.P256)) == der
    with pytest.raises(IntegrityError, match=spec.value):
        private_from_der(der, spec)


def test_a_key_that_cannot_sign_is_not_the_stored_one() -> None:
    der = x25519.X25519PrivateKey.generate().private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(IntegrityError):
        private_from_der(der, KeySpec.P256)

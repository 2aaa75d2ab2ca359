"""Making and naming software keys: the table between :class:`KeySpec` and ``cryptography``."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast, get_args

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa

from gateway.errors import BadKey, IntegrityError
from gateway.keys.signer import KeySpec
from gateway.pki.algorithms import PrivateKey, PublicKey

PUBLIC_EXPONENT = 65_537  # FIPS 186-5 section A.1.1
_PUBLIC_KEYS = get_args(PublicKey)
_PRIVATE_KEYS = get_args(PrivateKey)

RSA_BITS = {KeySpec.RSA_2048: 2048, KeySpec.RSA_3072: 3072, KeySpec.RSA_4096: 4096}
EC_CURVES: dict[KeySpec, ec.EllipticCurve] = {
    KeySpec.P256: ec.SECP256R1(),
    KeySpec.P384: ec.SECP384R1(),
    KeySpec.P521: ec.SECP521R1(),
}
_OTHERS: dict[KeySpec, Callable[[], PrivateKey]] = {
    KeySpec.ED25519: ed25519.Ed25519PrivateKey.generate,
    KeySpec.ML_DSA_44: mldsa.MLDSA44PrivateKey.generate,
    KeySpec.ML_DSA_65: mldsa.MLDSA65PrivateKey.generate,
    KeySpec.ML_DSA_87: mldsa.MLDSA87PrivateKey.generate,
}
_OTHER_TYPES: tuple[tuple[type[PublicKey], KeySpec], ...] = (
    (ed25519.Ed25519PublicKey, KeySpec.ED25519),
    (mldsa.MLDSA44PublicKey, KeySpec.ML_DSA_44),
    (mldsa.MLDSA65PublicKey, KeySpec.ML_DSA_65),
    (mldsa.MLDSA87PublicKey, KeySpec.ML_DSA_87),
)


def generate_key(spec: KeySpec) -> PrivateKey:
    """A new software key. EC keys take 13 µs, RSA 50 ms to 1 s: those belong in a thread or come from the pool."""
    if spec in RSA_BITS:
        return rsa.generate_private_key(PUBLIC_EXPONENT, RSA_BITS[spec])
    if spec in EC_CURVES:
        return ec.generate_private_key(EC_CURVES[spec])
    return _OTHERS[spec]()


def spec_of(public_key: PublicKey) -> KeySpec:
    """The spec a key was made by. Raises BadKey for a key that no spec makes."""
    if isinstance(public_key, rsa.RSAPublicKey):
        matches = [spec for spec, bits in RSA_BITS.items() if bits == public_key.key_size]
    elif isinstance(public_key, ec.EllipticCurvePublicKey):
        matches = [spec for spec, curve in EC_CURVES.items() if curve.name == public_key.curve.name]
    else:
        matches = [spec for kind, spec in _OTHER_TYPES if isinstance(public_key, kind)]
    if not matches:
        raise BadKey(f"no key of this kind is made here: {type(public_key).__name__}")
    return matches[0]


def private_to_der(private_key: PrivateKey) -> bytes:
    """PKCS #8 PrivateKeyInfo (RFC 5208, RFC 5958), not encrypted: only ever to be wrapped."""
    return private_key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def private_from_der(der: bytes, spec: KeySpec) -> PrivateKey:
    """A key that this gateway made and wrapped itself. Raises IntegrityError when it is not of type ``spec``.

    The key was authenticated by the wrapping, so the primality check of RSA keys (38 ms) is left out.
    """
    key = serialization.load_der_private_key(der, None, unsafe_skip_rsa_key_validation=True)
    if not isinstance(key, _PRIVATE_KEYS) or spec_of(key.public_key()) is not spec:
        raise IntegrityError(f"the stored key is not of type {spec.value}")
    return cast(PrivateKey, key)


def public_to_der(public_key: PublicKey) -> bytes:
    """SubjectPublicKeyInfo (RFC 5280 section 4.1.2.7)."""
    return public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def public_from_der(der: bytes) -> PublicKey:
    """The inverse of :func:`public_to_der`. Raises BadKey for a key of another kind."""
    key = serialization.load_der_public_key(der)
    if not isinstance(key, _PUBLIC_KEYS):
        raise BadKey(f"no key of this kind is used here: {type(key).__name__}")
    return cast(PublicKey, key)

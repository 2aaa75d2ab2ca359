"""Which public keys get no certificate: weak, malformed, known to everybody. Pure.

A key's type has a name that profiles list: ``rsa-2048``, ``p-256``, ``brainpoolp256r1``, ``ed25519``, ``ml-dsa-44`` and so on.
An RSA key of an odd size is ``rsa-2304``; a list may hold ``rsa>=2048``, which takes every RSA key of at least that size.

Sources: RFC 3279 section 2.3.1 and RFC 5480 section 2 (encodings), FIPS 186-5 section 5 and A.1 (RSA), Nemec et al., "The
Return of Coppersmith's Attack" (CCS 2017, ROCA), RFC 7748 and RFC 8032 (points of small order).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection
from functools import lru_cache
from typing import cast

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from gateway.errors import BadKey
from gateway.pki import der
from gateway.pki.algorithms import PublicKey, family
from gateway.pki.leniency import RSA_SMALL_EXPONENT
from gateway.pki.testkeys import KNOWN_KEYS
from gateway.pki.walk import content, elements

MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192
#: The smallest exponent that FIPS 186-5 section 5.4 allows.
MIN_RSA_EXPONENT = 65537
#: OpenSSL verifies with no larger one above 3072 bits, and a huge exponent would make our own verification slow.
MAX_RSA_EXPONENT_BITS = 64
#: Enough for primes that differ in their lower half by little; a random key has no chance to be hit.
_FERMAT_ROUNDS = 100

_EC_TYPES = {
    "secp256r1": "p-256",
    "secp384r1": "p-384",
    "secp521r1": "p-521",
    "brainpoolP256r1": "brainpoolp256r1",
    "brainpoolP384r1": "brainpoolp384r1",
    "brainpoolP512r1": "brainpoolp512r1",
}
_RSA_ALGORITHM = bytes.fromhex("300d06092a864886f70d0101010500")
#: The one AlgorithmIdentifier of each type in a SubjectPublicKeyInfo.
_ALGORITHMS = {
    "p-256": bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107"),
    "p-384": bytes.fromhex("301006072a8648ce3d020106052b81040022"),
    "p-521": bytes.fromhex("301006072a8648ce3d020106052b81040023"),
    "brainpoolp256r1": bytes.fromhex("301406072a8648ce3d020106092b2403030208010107"),
    "brainpoolp384r1": bytes.fromhex("301406072a8648ce3d020106092b240303020801010b"),
    "brainpoolp512r1": bytes.fromhex("301406072a8648ce3d020106092b240303020801010d"),
    "ed25519": bytes.fromhex("300506032b6570"),
    "ml-dsa-44": bytes.fromhex("300b0609608648016503040311"),
    "ml-dsa-65": bytes.fromhex("300b0609608648016503040312"),
    "ml-dsa-87": bytes.fromhex("300b0609608648016503040313"),
}
#: How the SubjectPublicKeyInfo of an EC key of each type begins when it is the one that is accepted: SEQUENCE,
#: AlgorithmIdentifier, BIT STRING of whole octets, uncompressed point (RFC 5480 section 2).
_EC_BEGINNINGS = {
    name: der.sequence(_ALGORITHMS[name], der.bit_string(b"\x04" + bytes(2 * octets)))[: -2 * octets]
    for name, octets in {
        "p-256": 32,
        "p-384": 48,
        "p-521": 66,
        "brainpoolp256r1": 32,
        "brainpoolp384r1": 48,
        "brainpoolp512r1": 64,
    }.items()
}


def key_type(public_key: PublicKey) -> str:
    """The name of the key's type. Raises BadKey for a type the gateway does not know."""
    kind = family(type(public_key))
    if kind == "ec":
        curve = cast("ec.EllipticCurvePublicKey", public_key).curve.name
        name = _EC_TYPES.get(curve)
        if name is None:
            raise BadKey(f"keys on the curve {curve} are not accepted; use P-256, P-384, P-521 or Brainpool r1")
        return name
    if kind == "rsa":
        return f"rsa-{cast('rsa.RSAPublicKey', public_key).key_size}"
    if not kind:
        raise BadKey(f"keys of type {type(public_key).__name__} are not accepted")
    return kind


def is_allowed(name: str, allowed: Collection[str]) -> bool:
    """Whether ``allowed`` holds the key type ``name`` itself or a range ``rsa>=BITS`` with it (up to :data:`MAX_RSA_BITS`)."""
    if name in allowed:
        return True
    kind, _, bits = name.partition("-")
    if kind != "rsa":
        return False
    return any(entry.startswith("rsa>=") and int(entry[5:]) <= int(bits) <= MAX_RSA_BITS for entry in allowed)


def check_key(
    public_key: PublicKey,
    spki: bytes,
    allowed: frozenset[str] | None = None,
    *,
    leniency: frozenset[str] = frozenset(),
    blocked: Callable[[bytes], bool] | None = None,
) -> str:
    """Refuse a key that must not be certified; the name of its type if it may.

    ``spki`` is the SubjectPublicKeyInfo in DER that ``public_key`` was made of, ``allowed`` what the profile takes (``None``:
    every type), ``blocked`` says whether a SHA-256 digest of a SubjectPublicKeyInfo is on a list of unwanted keys. Raises
    BadKey with the reason, also when the SubjectPublicKeyInfo is not the one encoding the standards allow.
    """
    name = key_type(public_key)
    if allowed is not None and not is_allowed(name, allowed):
        what = f"the RSA key has {name[4:]} bits" if name.startswith("rsa-") else f"the key is of type {name}"
        raise BadKey(f"{what}; this profile takes {', '.join(sorted(allowed))}")
    beginning = _EC_BEGINNINGS.get(name)
    if beginning is None or not spki.startswith(beginning):
        _check_encoding(public_key, name, spki, leniency)
    digest = key_digest(spki)
    if digest in KNOWN_KEYS:
        raise BadKey(f"everybody has the private key of this public key: {KNOWN_KEYS[digest]}")
    if blocked is not None and blocked(digest):
        raise BadKey("this public key is on the list of blocked keys; generate a new one")
    return name


@lru_cache(maxsize=64)  # the CSR reader, the policy and the plan ask for each key
def key_digest(spki: bytes) -> bytes:
    """SHA-256 of a SubjectPublicKeyInfo: how lists of keys and records name it."""
    return hashlib.sha256(spki).digest()


def _check_encoding(public_key: PublicKey, name: str, spki: bytes, leniency: frozenset[str]) -> None:
    """Refuse another form of ``spki`` than its one right one (elliptic curves: only called for another), and weak numbers."""
    start, end = content(spki, 0x30)
    (_, _, algorithm_end), (_, bits_start, _) = elements(spki, start, end)
    algorithm = spki[start:algorithm_end]
    if isinstance(public_key, rsa.RSAPublicKey):
        if algorithm != _RSA_ALGORITHM:
            raise BadKey("an RSA key must be marked rsaEncryption with NULL parameters, not RSASSA-PSS or otherwise")
        _check_rsa(public_key, leniency)
    elif algorithm != _ALGORITHMS[name]:
        raise BadKey(f"the public key's algorithm identifier is not the standard one of {name} (for EC: a named curve)")
    elif name in _EC_BEGINNINGS:
        raise BadKey("the EC point must be uncompressed (first octet 04)")
    else:
        _check_octets(name, spki[bits_start + 1 :])


_ED25519_P = 2**255 - 19
#: The y of the Ed25519 points whose order divides 8, as they may be encoded (RFC 8032 section 5.1.2).
_ED25519_SMALL_ORDER = frozenset(
    {
        0,
        1,
        _ED25519_P - 1,
        _ED25519_P,
        _ED25519_P + 1,
        int.from_bytes(bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"),
        int.from_bytes(bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"),
    }
)


def _check_octets(name: str, octets: bytes) -> None:
    """Ed25519 and ML-DSA keys, which no parser looks into."""
    if octets.count(0) == len(octets):
        raise BadKey(f"the {name} key is all zero")
    if name == "ed25519" and int.from_bytes(octets, "little") & (1 << 255) - 1 in _ED25519_SMALL_ORDER:
        raise BadKey("the ed25519 key is a point of small order")


def _primes(limit: int) -> list[int]:
    return [n for n in range(2, limit) if all(n % divisor for divisor in range(2, math.isqrt(n) + 1))]


_SMALL_PRIMES = math.prod(_primes(752))
#: For each small prime the remainders that powers of 65537 have, as bits: an Infineon modulus has only such remainders.
_ROCA_MARKS = tuple(
    (prime, sum({1 << pow(65537, power, prime) for power in range(prime - 1)})) for prime in _primes(168) if prime > 2
)
#: Numbers modulo 256 that squares can have.
_SQUARES = frozenset(n * n % 256 for n in range(256))


def _check_rsa(public_key: rsa.RSAPublicKey, leniency: frozenset[str]) -> None:
    numbers = public_key.public_numbers()
    modulus, exponent = numbers.n, numbers.e
    bits = modulus.bit_length()
    if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
        raise BadKey(f"the RSA key has {bits} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are accepted")
    if exponent.bit_length() > MAX_RSA_EXPONENT_BITS:
        raise BadKey(f"the RSA exponent has {exponent.bit_length()} bits; at most {MAX_RSA_EXPONENT_BITS} are accepted")
    if exponent < 3 or exponent % 2 == 0:
        raise BadKey(f"the RSA exponent {exponent} must be odd and at least 3")
    if exponent < MIN_RSA_EXPONENT and RSA_SMALL_EXPONENT not in leniency:
        raise BadKey(f"the RSA exponent {exponent} is smaller than {MIN_RSA_EXPONENT} (leniency switch {RSA_SMALL_EXPONENT})")
    if math.gcd(modulus, _SMALL_PRIMES) != 1:
        raise BadKey("the RSA modulus has a small factor")
    if all(marks >> modulus % prime & 1 for prime, marks in _ROCA_MARKS):
        raise BadKey("the RSA key was generated by a chip with the ROCA defect (CVE-2017-15361)")
    if _has_close_primes(modulus):
        raise BadKey("the two primes of the RSA key are too close to each other (Fermat factorisation)")


@lru_cache(maxsize=64)  # by far the dearest of these checks, and both the CSR reader and the policy ask for each key
def _has_close_primes(modulus: int) -> bool:
    """Fermat's method, a bounded number of rounds: look for a, b with modulus = a² - b²."""
    a = math.isqrt(modulus)
    if a * a == modulus:
        return True
    a += 1
    square = a * a - modulus
    for _ in range(_FERMAT_ROUNDS):
        if square & 255 in _SQUARES and math.isqrt(square) ** 2 == square:
            return True
        square += 2 * a + 1
        a += 1
    return False

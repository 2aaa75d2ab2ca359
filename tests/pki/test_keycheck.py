"""Keys that get no certificate, each with its reason."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from gateway.errors import BadKey
from gateway.pki import der
from gateway.pki.algorithms import PublicKey
from gateway.pki.csr import read_csr
from gateway.pki.keycheck import check_key, is_allowed, key_type
from gateway.pki.leniency import ALL_LENIENCIES, RSA_SMALL_EXPONENT
from gateway.pki.testkeys import KNOWN_KEYS
from tests.support.csrs import KEY_TYPES, key_for, make_csr, spki_of


def load(spki: bytes) -> PublicKey:
    return load_der_public_key(spki)  # type: ignore[return-value]


def spki(key: rsa.RSAPublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def rsa_key(modulus: int, exponent: int = 65537) -> rsa.RSAPublicKey:
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


GOOD_MODULUS = key_for("rsa-2048").public_key().public_numbers().n  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", KEY_TYPES)
def test_sound_keys_of_every_type_pass(kind: str) -> None:
    key = key_for(kind)
    assert check_key(key.public_key(), spki_of(key), frozenset({kind})) == kind
    assert key_type(key.public_key()) == kind


def test_the_profile_decides_and_the_reason_names_what_it_takes() -> None:
    key = key_for("rsa-2048")
    with pytest.raises(BadKey, match=r"the RSA key has 2048 bits; this profile takes p-256, rsa-3072"):
        check_key(key.public_key(), spki_of(key), frozenset({"rsa-3072", "p-256"}))
    key = key_for("p-384")
    with pytest.raises(BadKey, match=r"the key is of type p-384; this profile takes p-256"):
        check_key(key.public_key(), spki_of(key), frozenset({"p-256"}))


@pytest.mark.parametrize(
    ("name", "allowed", "expected"),
    [
        ("rsa-2048", {"rsa-2048"}, True),
        ("rsa-3072", {"rsa-2048"}, False),
        ("rsa-2304", {"rsa>=2048"}, True),
        ("rsa-5120", {"rsa>=2048"}, True),
        ("rsa-6144", {"rsa>=2048"}, True),
        ("rsa-7168", {"rsa>=2048"}, True),
        ("rsa-8192", {"rsa>=2048"}, True),
        ("rsa-8200", {"rsa>=2048"}, False),
        ("rsa-2048", {"rsa>=3072", "p-256"}, False),
        ("p-256", {"rsa>=2048"}, False),
        ("ed25519", {"ed25519"}, True),
    ],
)
def test_lists_hold_types_and_rsa_ranges(name: str, allowed: set[str], expected: bool) -> None:
    assert is_allowed(name, allowed) is expected


RSA_REASONS = {
    "too small": (rsa_key((1 << 2046) + 1), "2047 bits"),
    "too large": (rsa_key((1 << 8192) + 1), "8193 bits"),
    "exponent 3": (rsa_key(GOOD_MODULUS, 3), RSA_SMALL_EXPONENT),
    "exponent of 65 bits": (rsa_key(GOOD_MODULUS, (1 << 64) + 1), "65 bits"),
    "small factor": (rsa_key(751 * ((1 << 2039) + 1)), "small factor"),
    "even": (rsa_key(1 << 2047), "small factor"),
}


@pytest.mark.parametrize("name", RSA_REASONS)
def test_weak_rsa_keys_are_refused(name: str) -> None:
    key, reason = RSA_REASONS[name]
    with pytest.raises(BadKey, match=reason):
        check_key(key, spki(key))


def rsa_spki(exponent: int) -> bytes:
    numbers = der.sequence(der.integer(GOOD_MODULUS), der.integer(exponent))
    return der.sequence(der.sequence(der.oid("1.2.840.113549.1.1.1"), der.null()), der.bit_string(numbers))


@pytest.mark.parametrize("exponent", [-3, 0, 1, 2, 4, 65538])
def test_a_request_with_an_even_or_tiny_exponent_is_refused_whoever_finds_it(exponent: int) -> None:
    with pytest.raises(BadKey):
        read_csr(make_csr("rsa-2048", spki=rsa_spki(exponent)), leniency=ALL_LENIENCIES)


class CarelessKey:
    """An RSA key as a library would give it that looks at nothing; the one we use refuses these exponents itself."""

    key_size = 2048

    def __init__(self, exponent: int) -> None:
        self.exponent = exponent

    def public_numbers(self) -> SimpleNamespace:
        return SimpleNamespace(n=GOOD_MODULUS, e=self.exponent)


rsa.RSAPublicKey.register(CarelessKey)


@pytest.mark.parametrize("exponent", [1, 2, 65538])
def test_our_own_check_finds_even_and_tiny_exponents(exponent: int) -> None:
    with pytest.raises(BadKey, match="odd and at least 3"):
        check_key(CarelessKey(exponent), rsa_spki(exponent))  # type: ignore[arg-type]


def test_a_small_exponent_passes_with_its_switch() -> None:
    key = rsa_key(GOOD_MODULUS, 3)
    assert check_key(key, spki(key), leniency=frozenset({RSA_SMALL_EXPONENT})) == "rsa-2048"


#: Three primes of 1024 bits, two near each other and one that agrees with them in its upper half only.
PRIME, NEXT_PRIME, NEAR_PRIME = (0xC << 1020) + 19089269, (0xC << 1020) + 19090495, (0xC << 1020) + (1 << 500) + 19089385


@pytest.mark.parametrize(("p", "q"), [(PRIME, PRIME), (PRIME, NEXT_PRIME), (PRIME, NEAR_PRIME)])
def test_close_primes_are_found(p: int, q: int) -> None:
    key = rsa_key(p * q)
    with pytest.raises(BadKey, match="close"):
        check_key(key, spki(key))


def test_roca_keys_are_found() -> None:
    """Infineon's primes were k*M + (65537**a mod M), M the product of the first primes; so is the modulus."""
    product = math.prod(n for n in range(2, 702) if all(n % d for d in range(2, math.isqrt(n) + 1)))
    base = pow(65537, 1234567, product)
    modulus = base + product * ((3 << 2046) // product)
    key = rsa_key(modulus)
    with pytest.raises(BadKey, match="ROCA"):
        check_key(key, spki(key))


def ec_spki(point_format: PublicFormat) -> bytes:
    key = key_for("p-256").public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    point = key.public_bytes(Encoding.X962, point_format)
    return der.sequence(spki_of(key_for("p-256"))[2:23], der.bit_string(point))


def test_compressed_points_are_refused() -> None:
    data = ec_spki(PublicFormat.CompressedPoint)
    with pytest.raises(BadKey, match="uncompressed"):
        check_key(load(data), data)


def test_other_encodings_of_the_algorithm_are_refused() -> None:
    key = key_for("rsa-2048")
    pss = spki_of(key).replace(bytes.fromhex("2a864886f70d010101"), bytes.fromhex("2a864886f70d01010a"))
    with pytest.raises(BadKey, match="rsaEncryption"):
        check_key(key.public_key(), pss)
    ec_key = key_for("p-256")
    with pytest.raises(BadKey, match="named curve"):
        check_key(ec_key.public_key(), spki_of(key_for("p-384")))


def test_curves_and_types_that_are_not_accepted_are_named() -> None:
    with pytest.raises(BadKey, match="secp256k1"):
        key_type(key_for("secp256k1").public_key())
    x25519 = load(der.sequence(der.sequence(der.oid("1.3.101.110")), der.bit_string(b"\x01" * 32)))
    with pytest.raises(BadKey, match="X25519"):
        key_type(x25519)


@pytest.mark.parametrize(
    ("octets", "reason"),
    [
        (bytes(32), "all zero"),
        (b"\x01" + bytes(31), "small order"),
        (b"\xec" + b"\xff" * 30 + b"\x7f", "small order"),
        (b"\xed" + b"\xff" * 31, "small order"),
        (bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa"), "small order"),
    ],
)
def test_ed25519_keys_without_a_secret_are_refused(octets: bytes, reason: str) -> None:
    key = ed25519.Ed25519PublicKey.from_public_bytes(octets)
    with pytest.raises(BadKey, match=reason):
        check_key(key, key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def test_ml_dsa_keys_of_zeros_are_refused() -> None:
    key = mldsa.MLDSA44PublicKey.from_public_bytes(bytes(1312))
    with pytest.raises(BadKey, match="all zero"):
        check_key(key, key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


PUBLISHED: list[PublicKey] = [
    ec.derive_private_key(1, ec.SECP256R1()).public_key(),
    ec.derive_private_key(3, ec.BrainpoolP512R1()).public_key(),
    ec.derive_private_key(
        0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721, ec.SECP256R1()
    ).public_key(),  # RFC 6979 A.2.5
    ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key(),
    mldsa.MLDSA65PrivateKey.from_seed_bytes(bytes(range(32))).public_key(),  # RFC 9881 appendix C
    ec.derive_private_key(
        0xE6CB5BDD80AA45AE9C95E8C15476679FFEC953C16851E711E743939589C64FC1, ec.SECP256R1()
    ).public_key(),  # RFC 9500 section 2.3, testECCP256
]


@pytest.mark.parametrize("key", PUBLISHED, ids=lambda key: type(key).__name__)
def test_keys_that_everybody_has_are_refused(key: PublicKey) -> None:
    with pytest.raises(BadKey, match="everybody has"):
        check_key(key, key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


def test_the_list_of_known_keys_is_made_of_sha256_digests() -> None:
    assert {len(digest) for digest in KNOWN_KEYS} == {32}
    assert all(KNOWN_KEYS.values())


def test_blocked_keys_are_refused() -> None:
    key = key_for("p-256")
    assert check_key(key.public_key(), spki_of(key), blocked=lambda digest: False) == "p-256"
    with pytest.raises(BadKey, match="blocked"):
        check_key(key.public_key(), spki_of(key), blocked=lambda digest: len(digest) == 32)

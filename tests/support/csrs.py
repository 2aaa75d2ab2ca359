"""Makes certification requests of every kind, right and wrong, for tests.

:func:`key_for` gives a private key of a named type, the same one for the same label within a test run; RSA keys are read from
``tests/vectors/keys``, because making a large one takes many seconds. :func:`make_csr` signs a request put together here
byte by byte, so that a test can make every part of it wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from gateway.pki import der
from gateway.pki.algorithms import PrivateKey, SignatureAlgorithm, default_algorithm, sign
from gateway.pki.names import name_from_text
from gateway.pki.sans import san_from_text

VECTORS = Path(__file__).resolve().parents[1] / "vectors"

_CURVES: dict[str, type[ec.EllipticCurve]] = {
    "p-256": ec.SECP256R1,
    "p-384": ec.SECP384R1,
    "p-521": ec.SECP521R1,
    "brainpoolp256r1": ec.BrainpoolP256R1,
    "brainpoolp384r1": ec.BrainpoolP384R1,
    "brainpoolp512r1": ec.BrainpoolP512R1,
    "secp256k1": ec.SECP256K1,
}
_ML_DSA: dict[str, type[mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey]] = {
    "ml-dsa-44": mldsa.MLDSA44PrivateKey,
    "ml-dsa-65": mldsa.MLDSA65PrivateKey,
    "ml-dsa-87": mldsa.MLDSA87PrivateKey,
}
#: One of every type that the gateway accepts.
KEY_TYPES = (
    "rsa-2048",
    "rsa-3072",
    "rsa-4096",
    "rsa-5120",
    "rsa-6144",
    "rsa-7168",
    "rsa-8192",
    "p-256",
    "p-384",
    "p-521",
    "brainpoolp256r1",
    "brainpoolp384r1",
    "brainpoolp512r1",
    "ed25519",
    "ml-dsa-44",
    "ml-dsa-65",
    "ml-dsa-87",
)
OID_CHALLENGE_PASSWORD = "1.2.840.113549.1.9.7"
OID_EXTENSION_REQUEST = "1.2.840.113549.1.9.14"


@lru_cache(maxsize=512)
def key_for(key_type: str = "p-256", label: str = "") -> PrivateKey:
    """The private key of this type for ``label``. RSA has one key per size whatever the label."""
    if key_type.startswith("rsa-"):
        pem = (VECTORS / "keys" / f"{key_type}.pem").read_bytes()
        key = load_pem_private_key(pem, None, unsafe_skip_rsa_key_validation=True)
        assert isinstance(key, rsa.RSAPrivateKey)
        return key
    return new_key(key_type)


def new_key(key_type: str = "p-256") -> PrivateKey:
    """A fresh private key of this type; do not ask for large RSA keys."""
    if key_type.startswith("rsa-"):
        return rsa.generate_private_key(65537, int(key_type[4:]))
    if key_type in _CURVES:
        return ec.generate_private_key(_CURVES[key_type]())
    if key_type in _ML_DSA:
        return _ML_DSA[key_type].generate()
    assert key_type == "ed25519", key_type
    return ed25519.Ed25519PrivateKey.generate()


def spki_of(key: PrivateKey) -> bytes:
    """The SubjectPublicKeyInfo of ``key`` in DER."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def name_der(text: str) -> bytes:
    """RFC 4514 text as a DER Name."""
    return name_from_text(text).public_bytes()


def extension(oid: str, value: bytes, *, critical: bool = False) -> bytes:
    return der.sequence(der.oid(oid), der.boolean(True) if critical else b"", der.octet_string(value))


def encode_extension(value: x509.ExtensionType, *, critical: bool = False) -> bytes:
    return extension(value.oid.dotted_string, value.public_bytes(), critical=critical)


def attribute(oid: str, *values: bytes) -> bytes:
    return der.sequence(der.oid(oid), der.set_of(values))


def csr_attributes(
    *, san: Sequence[str] = (), challenge: str | None = None, extensions: Iterable[bytes] = (), attributes: Iterable[bytes] = ()
) -> list[bytes]:
    """The encoded attributes, in no order: extensionRequest (with a subjectAltName for ``san``), challengePassword, others."""
    requested = list(extensions)
    if san:
        names = x509.SubjectAlternativeName([san_from_text(text) for text in san])
        requested.insert(0, encode_extension(names))
    found = list(attributes)
    if requested:
        found.append(attribute(OID_EXTENSION_REQUEST, der.sequence(*requested)))
    if challenge is not None:
        found.append(attribute(OID_CHALLENGE_PASSWORD, der.utf8_string(challenge)))
    return found


def make_csr(
    key: PrivateKey | str = "p-256",
    *,
    subject: str | bytes = "CN=device-1,O=Example",
    san: Sequence[str] = (),
    challenge: str | None = None,
    extensions: Iterable[bytes] = (),
    attributes: Iterable[bytes] = (),
    ordered: bool = True,
    version: int = 0,
    spki: bytes | None = None,
    signer: PrivateKey | None = None,
    algorithm: bytes | None = None,
    information: bytes | None = None,
    signature: bytes | None = None,
) -> bytes:
    """A CertificationRequest in DER.

    ``key`` is a key or the name of a type for :func:`key_for`; ``subject`` RFC 4514 text or a DER Name; ``san`` texts for
    :func:`gateway.pki.sans.san_from_text`; ``extensions`` and ``attributes`` encoded ones; ``ordered`` false puts the
    attributes into the wrong order. ``spki``, ``algorithm`` (an AlgorithmIdentifier), ``information`` (a whole
    CertificationRequestInfo) and ``signature`` replace what belongs there; ``signer`` signs instead of ``key``.
    """
    private_key = key_for(key) if isinstance(key, str) else key
    found = csr_attributes(san=san, challenge=challenge, extensions=extensions, attributes=attributes)
    found.sort(reverse=not ordered)
    subject_der = name_der(subject) if isinstance(subject, str) else subject
    if information is None:
        information = der.sequence(
            der.integer(version), subject_der, spki_of(private_key) if spki is None else spki, der.context(0, *found)
        )
    signing = private_key if signer is None else signer
    default = default_algorithm(signing.public_key())
    if signature is None:
        signature = sign(signing, default, information)
    return der.sequence(information, default.value if algorithm is None else algorithm, der.bit_string(signature))


def sign_rsa(key: PrivateKey, message: bytes, hash_: hashes.HashAlgorithm, *, pss: bool = False) -> bytes:
    """An RSA signature with any hash, for algorithms that the gateway itself never signs with."""
    assert isinstance(key, rsa.RSAPrivateKey)
    chosen = padding.PSS(padding.MGF1(hash_), padding.PSS.DIGEST_LENGTH) if pss else padding.PKCS1v15()
    return key.sign(message, chosen, hash_)


def sign_ec(key: PrivateKey, message: bytes, hash_: hashes.HashAlgorithm) -> bytes:
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    return key.sign(message, ec.ECDSA(hash_))


def algorithm_of(key: PrivateKey) -> SignatureAlgorithm:
    return default_algorithm(key.public_key())

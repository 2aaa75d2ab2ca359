"""Signature algorithms: their AlgorithmIdentifier, how a software key makes one, how a signature is checked. Pure.

One table serves CSRs (checking), certificates, CRLs and OCSP answers (making). Sources: RFC 4055 and RFC 8017 (RSA), RFC
5758 (ECDSA), RFC 8410 (Ed25519), RFC 9881 (ML-DSA).
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from typing import TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa

from gateway.errors import BadKey

PublicKey: TypeAlias = (
    rsa.RSAPublicKey
    | ec.EllipticCurvePublicKey
    | ed25519.Ed25519PublicKey
    | mldsa.MLDSA44PublicKey
    | mldsa.MLDSA65PublicKey
    | mldsa.MLDSA87PublicKey
)
PrivateKey: TypeAlias = (
    rsa.RSAPrivateKey
    | ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)


class SignatureAlgorithm(Enum):
    """A signature algorithm; the value is the complete DER AlgorithmIdentifier that goes into the signed structure."""

    RSA_SHA256 = bytes.fromhex("300d06092a864886f70d01010b0500")
    RSA_SHA384 = bytes.fromhex("300d06092a864886f70d01010c0500")
    RSA_SHA512 = bytes.fromhex("300d06092a864886f70d01010d0500")
    ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
    ECDSA_SHA384 = bytes.fromhex("300a06082a8648ce3d040303")
    ECDSA_SHA512 = bytes.fromhex("300a06082a8648ce3d040304")
    ED25519 = bytes.fromhex("300506032b6570")
    ML_DSA_44 = bytes.fromhex("300b0609608648016503040311")
    ML_DSA_65 = bytes.fromhex("300b0609608648016503040312")
    ML_DSA_87 = bytes.fromhex("300b0609608648016503040313")

    __hash__ = object.__hash__  # each member exists once; Enum's own hashes its name, in Python

    @property
    def hash(self) -> hashes.HashAlgorithm | None:
        """The hash of RSA and ECDSA algorithms; ``None`` where the algorithm signs the message itself."""
        return _HASHES.get(self)


_HASHES: dict[SignatureAlgorithm, hashes.HashAlgorithm] = {
    SignatureAlgorithm.RSA_SHA256: hashes.SHA256(),
    SignatureAlgorithm.RSA_SHA384: hashes.SHA384(),
    SignatureAlgorithm.RSA_SHA512: hashes.SHA512(),
    SignatureAlgorithm.ECDSA_SHA256: hashes.SHA256(),
    SignatureAlgorithm.ECDSA_SHA384: hashes.SHA384(),
    SignatureAlgorithm.ECDSA_SHA512: hashes.SHA512(),
}
_PKCS1 = padding.PKCS1v15()
_ECDSA = {algorithm: ec.ECDSA(hash_) for algorithm, hash_ in _HASHES.items() if algorithm.name.startswith("ECDSA")}


def default_algorithm(public_key: PublicKey) -> SignatureAlgorithm:
    """The algorithm a CA key of this type signs with: the hash as strong as the key (RFC 5480 section 4, RFC 8017).

    Raises BadKey for a key type that cannot sign certificates here.
    """
    if isinstance(public_key, rsa.RSAPublicKey):
        return SignatureAlgorithm.RSA_SHA256 if public_key.key_size < 7680 else SignatureAlgorithm.RSA_SHA384
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        if public_key.key_size <= 256:
            return SignatureAlgorithm.ECDSA_SHA256
        return SignatureAlgorithm.ECDSA_SHA384 if public_key.key_size <= 384 else SignatureAlgorithm.ECDSA_SHA512
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return SignatureAlgorithm.ED25519
    if isinstance(public_key, mldsa.MLDSA44PublicKey):
        return SignatureAlgorithm.ML_DSA_44
    if isinstance(public_key, mldsa.MLDSA65PublicKey):
        return SignatureAlgorithm.ML_DSA_65
    if isinstance(public_key, mldsa.MLDSA87PublicKey):
        return SignatureAlgorithm.ML_DSA_87
    raise BadKey(f"keys of type {type(public_key).__name__} are not accepted")


@lru_cache(maxsize=32)
def family(kind: type[object]) -> str:
    """What a class of public or private keys is: "rsa", "ec", "ed25519", "ml-dsa-44" and so on, empty for any other.

    The library's classes are abstract, and asking one of those costs more than a hash of a kilobyte; a type is asked once.
    """
    for base, name in _FAMILIES.items():
        if issubclass(kind, base):
            return name
    return ""


_FAMILIES: dict[type[object], str] = {
    rsa.RSAPublicKey: "rsa",
    rsa.RSAPrivateKey: "rsa",
    ec.EllipticCurvePublicKey: "ec",
    ec.EllipticCurvePrivateKey: "ec",
    ed25519.Ed25519PublicKey: "ed25519",
    ed25519.Ed25519PrivateKey: "ed25519",
    mldsa.MLDSA44PublicKey: "ml-dsa-44",
    mldsa.MLDSA44PrivateKey: "ml-dsa-44",
    mldsa.MLDSA65PublicKey: "ml-dsa-65",
    mldsa.MLDSA65PrivateKey: "ml-dsa-65",
    mldsa.MLDSA87PublicKey: "ml-dsa-87",
    mldsa.MLDSA87PrivateKey: "ml-dsa-87",
}


def sign(private_key: PrivateKey, algorithm: SignatureAlgorithm, message: bytes) -> bytes:
    """The signature as it goes into the BIT STRING: ECDSA as DER Ecdsa-Sig-Value, all others as raw bytes."""
    kind = family(type(private_key))
    if kind == "ec":
        return private_key.sign(message, _ECDSA[algorithm])  # type: ignore[call-arg,arg-type]  # an elliptic curve key
    if kind == "rsa":
        return private_key.sign(message, _PKCS1, _HASHES[algorithm])  # type: ignore[call-arg,arg-type]  # an RSA key
    return private_key.sign(message)  # type: ignore[call-arg]  # any other


def signature_is_valid(public_key: PublicKey, algorithm: SignatureAlgorithm, signature: bytes, message: bytes) -> bool:
    """Whether ``signature`` is one of ``message``; False also when key and algorithm do not belong together."""
    scheme = _ECDSA.get(algorithm)
    try:
        if scheme is not None:  # first, because nearly every request is signed with ECDSA
            if family(type(public_key)) != "ec":
                return False
            public_key.verify(signature, message, scheme)  # type: ignore[call-arg,arg-type]  # an elliptic curve key
        elif isinstance(public_key, rsa.RSAPublicKey):
            if algorithm not in _HASHES:
                return False
            public_key.verify(signature, message, _PKCS1, _HASHES[algorithm])
        elif isinstance(public_key, ec.EllipticCurvePublicKey) or algorithm is not default_algorithm(public_key):
            return False
        else:
            public_key.verify(signature, message)
    except InvalidSignature:
        return False
    return True

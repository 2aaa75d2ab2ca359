"""The few forms of CMS (RFC 5652) that enrolment needs, as DER: certs-only, signed and enveloped data. Pure.

Certs-only answers EST and SCEP (RFC 8951 section 3.2). A private key generated here travels as RFC 7030 section 4.4.2 says: an
asymmetric key package (RFC 5958) inside SignedData inside EnvelopedData. SETs are sorted as DER demands, so equal input
gives equal bytes. Random bytes are arguments; only the RSA padding takes its own from the library.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes, keywrap, padding
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric import padding as rsa_padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.x963kdf import X963KDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.errors import BadKey
from gateway.pki import der
from gateway.pki.algorithms import SignatureAlgorithm
from gateway.pki.tbs import encode_time, tbs_fields, tbs_of
from gateway.pki.walk import content as content_of
from gateway.pki.walk import elements

OID_DATA = "1.2.840.113549.1.7.1"
OID_SIGNED_DATA = "1.2.840.113549.1.7.2"
OID_ENVELOPED_DATA = "1.2.840.113549.1.7.3"
#: id-ct-KP-aKeyPackage, RFC 5958 section 2.
OID_KEY_PACKAGE = "2.16.840.1.101.2.1.2.78.5"
_OID_CONTENT_TYPE = "1.2.840.113549.1.9.3"
_OID_MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
_OID_SIGNING_TIME = "1.2.840.113549.1.9.5"
_OID_EC_PUBLIC_KEY = "1.2.840.10045.2.1"
_OID_AES256_WRAP = "2.16.840.1.101.3.4.1.45"
_NULL = b"\x05\x00"

#: Key size in bytes and OID of the content ciphers.
_CIPHERS = {"aes-128-cbc": (16, "2.16.840.1.101.3.4.1.2"), "aes-256-cbc": (32, "2.16.840.1.101.3.4.1.42")}
_RSA_ENCRYPTION = der.tlv(0x30, der.oid("1.2.840.113549.1.1.1"), _NULL)
#: RSAES-OAEP with SHA-256 for both hash and mask (RFC 4055 section 4.1).
_RSAES_OAEP = der.tlv(
    0x30,
    der.oid("1.2.840.113549.1.1.7"),
    der.tlv(
        0x30,
        der.tlv(0xA0, der.tlv(0x30, der.oid("2.16.840.1.101.3.4.2.1"), _NULL)),
        der.tlv(
            0xA1,
            der.tlv(0x30, der.oid("1.2.840.113549.1.1.8"), der.tlv(0x30, der.oid("2.16.840.1.101.3.4.2.1"), _NULL)),
        ),
    ),
)
#: dhSinglePass-stdDH with the KDF's hash as strong as the curve (RFC 5753 section 7.1.4), by curve size in bits.
_KDFS: tuple[tuple[int, str, hashes.HashAlgorithm], ...] = (
    (256, "1.3.132.1.11.1", hashes.SHA256()),
    (384, "1.3.132.1.11.2", hashes.SHA384()),
    (521, "1.3.132.1.11.3", hashes.SHA512()),
)
#: Order of each curve's base point (FIPS 186-4 appendix D, RFC 5639 section 3), to draw an ephemeral key from given bytes.
_ORDERS = {
    "secp256r1": 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551,
    "secp384r1": int("ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16),
    "secp521r1": int("1fff" + "f" * 62 + "a51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409", 16),
    "brainpoolP256r1": 0xA9FB57DBA1EEA9BC3E660A909D838D718C397AA3B561A6F7901E0E82974856A7,
    "brainpoolP384r1": int(
        "8cb91e82a3386d280f5d6f7e50e641df152f7109ed5456b31f166e6cac0425a7cf3ab6af6b7fc3103b883202e9046565",
        16,
    ),
    "brainpoolP512r1": int(
        "aadd9db8dbe9c48b3fd4e6ae33c9fc07cb308db3b3c9d20ed6639cca70330870"
        "553e5c414ca92619418661197fac10471db1d381085ddaddb58796829ca90069",
        16,
    ),
}
#: What :func:`envelop` wants as ``random``: content key, initialisation vector, seed of an ephemeral key (64 bits longer than
#: the largest order, so that the reduction is not biased: FIPS 186-4 appendix B.4.1).
RANDOM_BYTES = 32 + 16 + 74

_DIGESTS = {"sha256": "2.16.840.1.101.3.4.2.1", "sha384": "2.16.840.1.101.3.4.2.2", "sha512": "2.16.840.1.101.3.4.2.3"}


def content_info(content_type: str, value: bytes) -> bytes:
    return der.tlv(0x30, der.oid(content_type), der.tlv(0xA0, value))


def _set_of(tag: int, items: Iterable[bytes]) -> bytes:
    return der.tlv(tag, *sorted(items))


#: What precedes and follows the certificates in a SignedData without signers: version 1, no digests, no content; no signers.
_BEFORE_CERTIFICATES = b"\x02\x01\x01" + b"\x31\x00" + der.tlv(0x30, der.oid(OID_DATA))
_BEHIND_CERTIFICATES = b"\x31\x00"
_SIGNED_DATA = der.oid(OID_SIGNED_DATA)


def certs_only(certificates: Iterable[bytes]) -> bytes:
    """The "degenerate" SignedData without signers that only carries certificates (RFC 5652 section 5)."""
    signed = der.tlv(0x30, _BEFORE_CERTIFICATES, _set_of(0xA0, certificates), _BEHIND_CERTIFICATES)
    return der.tlv(0x30, _SIGNED_DATA, der.tlv(0xA0, signed))


def key_package(private_keys: Iterable[bytes]) -> bytes:
    """AsymmetricKeyPackage of PKCS#8 OneAsymmetricKeys (RFC 5958 section 2)."""
    return der.tlv(0x30, *private_keys)


@dataclass(frozen=True, slots=True)
class SigningPlan:
    """A SignedData waiting for its signature: sign ``to_be_signed`` with ``algorithm`` and the certificate's key."""

    content: bytes
    content_type: str
    certificate: bytes
    algorithm: SignatureAlgorithm
    digest: bytes  # DER AlgorithmIdentifier
    to_be_signed: bytes  # the signed attributes as SET OF


def plan_signed_data(
    content: bytes, *, content_type: str, certificate: bytes, algorithm: SignatureAlgorithm, signing_ms: int
) -> SigningPlan:
    """Prepare signing ``content`` (the eContent octets) with the key of ``certificate`` (DER)."""
    # RFC 8419 and RFC 9882: algorithms that hash for themselves take SHA-512 for the message digest.
    name = algorithm.hash.name if algorithm.hash else "sha512"
    attributes = (
        _attribute(_OID_CONTENT_TYPE, der.oid(content_type)),
        _attribute(_OID_SIGNING_TIME, encode_time(signing_ms // 1000)),
        _attribute(_OID_MESSAGE_DIGEST, der.tlv(0x04, hashlib.new(name, content).digest())),
    )
    digest = der.tlv(0x30, der.oid(_DIGESTS[name]))
    return SigningPlan(content, content_type, certificate, algorithm, digest, _set_of(0x31, attributes))


def _attribute(oid: str, value: bytes) -> bytes:
    return der.tlv(0x30, der.oid(oid), der.tlv(0x31, value))


def assemble_signed_data(plan: SigningPlan, signature: bytes, chain: Iterable[bytes] = ()) -> bytes:
    """The ContentInfo with SignedData; it carries the signer's certificate and ``chain``."""
    signer_info = der.tlv(
        0x30,
        b"\x02\x01\x01",
        _issuer_and_serial(plan.certificate),
        plan.digest,
        b"\xa0" + plan.to_be_signed[1:],  # IMPLICIT [0] instead of SET
        plan.algorithm.value,
        der.tlv(0x04, signature),
    )
    signed = der.tlv(
        0x30,
        b"\x02\x01\x01" if plan.content_type == OID_DATA else b"\x02\x01\x03",  # RFC 5652 section 5.1
        der.tlv(0x31, plan.digest),
        der.tlv(0x30, der.oid(plan.content_type), der.tlv(0xA0, der.tlv(0x04, plan.content))),
        _set_of(0xA0, {plan.certificate, *chain}),
        der.tlv(0x31, signer_info),
    )
    return content_info(OID_SIGNED_DATA, signed)


def envelop(
    content: bytes,
    recipient_certificate: bytes,
    *,
    random: bytes,
    content_type: str = OID_DATA,
    cipher: str = "aes-256-cbc",
    oaep: bool = False,
) -> bytes:
    """The ContentInfo with EnvelopedData that only the key of ``recipient_certificate`` (DER) opens.

    RSA recipients get key transport (PKCS #1 v1.5, or OAEP with SHA-256), elliptic curve recipients key agreement with an
    ephemeral key. ``content`` are the octets to encrypt: for ``content_type`` signedData the SignedData itself, see
    :func:`inner_content`. ``random`` are :data:`RANDOM_BYTES` fresh random bytes. Raises BadKey for keys that can neither.
    """
    if len(random) != RANDOM_BYTES:
        raise ValueError(f"envelop needs {RANDOM_BYTES} random bytes")
    key_size, cipher_oid = _CIPHERS[cipher]
    key, iv, seed = random[:key_size], random[32:48], random[48:]
    public_key = x509.load_der_x509_certificate(recipient_certificate).public_key()
    if isinstance(public_key, rsa.RSAPublicKey):
        recipient, version = _key_transport(recipient_certificate, public_key, key, oaep), b"\x02\x01\x00"
    elif isinstance(public_key, ec.EllipticCurvePublicKey):
        recipient, version = _key_agreement(recipient_certificate, public_key, key, seed), b"\x02\x01\x02"
    else:
        raise BadKey("only RSA and elliptic curve certificates can receive an encrypted key")
    padder = padding.PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    encrypted = encryptor.update(padder.update(content) + padder.finalize()) + encryptor.finalize()
    encrypted_content = der.tlv(
        0x30,
        der.oid(content_type),
        der.tlv(0x30, der.oid(cipher_oid), der.tlv(0x04, iv)),
        der.tlv(0x80, encrypted),
    )
    return content_info(OID_ENVELOPED_DATA, der.tlv(0x30, version, der.tlv(0x31, recipient), encrypted_content))


def inner_content(info: bytes) -> bytes:
    """The value inside a ContentInfo: what is encrypted where the type is said beside it (RFC 5652 section 6.1)."""
    _, (_, start, end) = elements(info, *content_of(info, 0x30))
    return info[start:end]


def _key_transport(certificate: bytes, public_key: rsa.RSAPublicKey, key: bytes, oaep: bool) -> bytes:
    """KeyTransRecipientInfo (RFC 5652 section 6.2.1)."""
    sha256 = hashes.SHA256()
    method: rsa_padding.AsymmetricPadding = rsa_padding.PKCS1v15()
    if oaep:
        method = rsa_padding.OAEP(rsa_padding.MGF1(sha256), sha256, None)
    encrypted = public_key.encrypt(key, method)
    return der.tlv(
        0x30,
        b"\x02\x01\x00",
        _issuer_and_serial(certificate),
        _RSAES_OAEP if oaep else _RSA_ENCRYPTION,
        der.tlv(0x04, encrypted),
    )


def _key_agreement(certificate: bytes, public_key: ec.EllipticCurvePublicKey, key: bytes, seed: bytes) -> bytes:
    """KeyAgreeRecipientInfo with an ephemeral-static ECDH key and AES-256 key wrap (RFC 5753 section 3.1)."""
    curve = public_key.curve
    order = _ORDERS.get(curve.name)
    if order is None:
        raise BadKey(f"no key agreement on the curve {curve.name}")
    ephemeral = ec.derive_private_key(int.from_bytes(seed, "big") % (order - 1) + 1, curve)
    scheme, hash_ = next((oid, hash_) for size, oid, hash_ in _KDFS if curve.key_size <= size)
    wrap = der.tlv(0x30, der.oid(_OID_AES256_WRAP))
    # ECC-CMS-SharedInfo, RFC 5753 section 7.2: suppPubInfo is the wrapping key's size in bits, in 32 bits.
    shared_info = der.tlv(0x30, wrap, der.tlv(0xA2, der.tlv(0x04, (256).to_bytes(4, "big"))))
    wrapping_key = X963KDF(hash_, 32, shared_info).derive(ephemeral.exchange(ec.ECDH(), public_key))
    point = ephemeral.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    originator = der.tlv(0xA1, der.tlv(0x30, der.oid(_OID_EC_PUBLIC_KEY)), der.tlv(0x03, b"\x00", point))
    wrapped = der.tlv(0x30, _issuer_and_serial(certificate), der.tlv(0x04, keywrap.aes_key_wrap(wrapping_key, key)))
    return der.tlv(
        0xA1,
        b"\x02\x01\x03",
        der.tlv(0xA0, originator),
        der.tlv(0x30, der.oid(scheme), wrap),
        der.tlv(0x30, wrapped),
    )


def _issuer_and_serial(certificate: bytes) -> bytes:
    fields = tbs_fields(tbs_of(certificate))
    return der.tlv(0x30, fields.issuer, der.tlv(0x02, fields.serial))

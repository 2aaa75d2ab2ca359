"""What a TPM 2.0 says and what it proves: public areas, names, credentials, attestations. Pure.

Structures and their numbers are those of the TCG's TPM 2.0 Library, part 2; the
proof that a key lives in a given chip is that of "TPM 2.0 Keys for Device Identity and Attestation": an endorsement key (EK)
whose certificate its maker signed, an attestation key (IAK) that signs nothing but what its TPM says, and the device's key
(IDevID) that the IAK certifies. Random octets are arguments.

What is wrong with a TPM raises :class:`gateway.errors.WrongDevice` with a sentence, what cannot be read DeviceRefused.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.decrepit.ciphers.modes import CFB  # the TPM's choice
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.errors import DeviceRefused, GatewayError, WrongDevice
from gateway.pki import chains
from gateway.pki.algorithms import default_algorithm, signature_is_valid

# Part 2, TPM_ALG_ID.
_RSA, _SHA256, _NULL, _ECC, _AES, _CFB = 0x0001, 0x000B, 0x0010, 0x0023, 0x0006, 0x0043
# Part 2, TPM_ECC_CURVE.
_CURVES: dict[int, type[ec.EllipticCurve]] = {3: ec.SECP256R1, 4: ec.SECP384R1, 5: ec.SECP521R1}
# Part 2, TPMA_OBJECT.
FIXED_TPM, FIXED_PARENT, SENSITIVE_DATA_ORIGIN = 1 << 1, 1 << 4, 1 << 5
RESTRICTED, DECRYPT, SIGN = 1 << 16, 1 << 17, 1 << 18
_BORN_HERE = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN
_ATTRIBUTE_NAMES = {
    FIXED_TPM: "fixedTPM",
    FIXED_PARENT: "fixedParent",
    SENSITIVE_DATA_ORIGIN: "sensitiveDataOrigin",
    RESTRICTED: "restricted",
    DECRYPT: "decrypt",
    SIGN: "sign",
}
#: Part 2: TPM_GENERATED_VALUE and the structure tags of attestations.
_GENERATED, _ATTEST_CERTIFY, _ATTEST_QUOTE = 0xFF544347, 0x8017, 0x8018
#: Part 2, TPM_RH_ENDORSEMENT: the hierarchy under which EK, IAK and IDevID are primary keys.
_ENDORSEMENT_HIERARCHY = 0x4000000B
#: The head of the file that tpm2_activatecredential reads.
_CREDENTIAL_HEAD = struct.pack(">II", 0xBADCC0DE, 1)
_DEFAULT_EXPONENT = 65537
_MAX_STRUCTURE = 4096

#: TCG OID registry: what an EK certificate is for (extended key usage; TCG EK Credential Profile).
EK_CERTIFICATE = x509.ObjectIdentifier("2.23.133.8.1")
#: Certificate policies for keys in TPMs (TPM 2.0 Keys for Device Identity and Attestation), for profiles.
VERIFIED_TPM_RESIDENCY = "2.23.133.11.1.1"
VERIFIED_TPM_FIXED = "2.23.133.11.1.2"
VERIFIED_TPM_RESTRICTED = "2.23.133.11.1.3"
#: hwType of a HardwareModuleName (RFC 4108) in an IDevID whose key is in a TPM 2.0.
HARDWARE_TPM_2_0 = "2.23.133.1.2"


@dataclass(frozen=True, slots=True)
class Public:
    """A public area. ``area`` is the TPMT_PUBLIC, without the size before it."""

    area: bytes
    attributes: int
    public_key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey

    @property
    def name(self) -> bytes:
        """Part 1, "Names": the algorithm and the digest of the public area; nobody has the same name by chance or will."""
        return struct.pack(">H", _SHA256) + hashlib.sha256(self.area).digest()

    @property
    def digest(self) -> str:
        """SHA-256 of the public area, in hexadecimal."""
        return hashlib.sha256(self.area).hexdigest()

    @property
    def spki(self) -> bytes:
        return self.public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def qualified_name(self) -> bytes:
        """Part 1, "Names": of a primary key under the endorsement hierarchy."""
        digest = hashlib.sha256(struct.pack(">I", _ENDORSEMENT_HIERARCHY) + self.name).digest()
        return struct.pack(">H", _SHA256) + digest


class _Fields:
    """Reads big-endian fields one after the other."""

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self._at = 0
        if len(data) > _MAX_STRUCTURE:
            raise self.refused("is too long")

    def refused(self, why: str) -> DeviceRefused:
        return DeviceRefused(f"the {self._what} from the TPM {why}")

    def take(self, count: int) -> bytes:
        if self._at + count > len(self._data):
            raise self.refused("is cut short")
        self._at += count
        return self._data[self._at - count : self._at]

    def number(self, size: int = 2) -> int:
        return int.from_bytes(self.take(size), "big")

    def sized(self) -> bytes:
        """A TPM2B: a 16-bit length and so many octets."""
        return self.take(self.number())

    def finish(self) -> None:
        if self._at != len(self._data):
            raise self.refused("has more octets than it should")


def read_public(data: bytes, what: str) -> Public:
    """A TPM2B_PUBLIC (part 2) of an RSA or EC key with SHA-256 as its name algorithm."""
    outer = _Fields(data, what)
    area = outer.sized()
    outer.finish()
    fields = _Fields(area, what)
    kind, name_algorithm, attributes = fields.number(), fields.number(), fields.number(4)
    fields.sized()  # the policy
    if name_algorithm != _SHA256:
        raise fields.refused(f"has the name algorithm 0x{name_algorithm:04x}; only SHA-256 is known here")
    cipher = fields.number()  # of a storage key
    if cipher != _NULL and (cipher, fields.number(), fields.number()) != (_AES, 128, _CFB):
        raise fields.refused("protects what it stores with something else than AES-128 in CFB mode")
    if fields.number() != _NULL:  # the scheme and its hash
        fields.number()
    key = _rsa_key(fields) if kind == _RSA else _ec_key(fields) if kind == _ECC else None
    if key is None:
        raise fields.refused(f"has the key type 0x{kind:04x}; only RSA and elliptic curves are known here")
    fields.finish()
    return Public(area, attributes, key)


def _rsa_key(fields: _Fields) -> rsa.RSAPublicKey:
    bits, exponent, modulus = fields.number(), fields.number(4) or _DEFAULT_EXPONENT, fields.sized()
    if len(modulus) * 8 != bits:
        raise fields.refused("has a modulus of another size than it says")
    try:
        return rsa.RSAPublicNumbers(exponent, int.from_bytes(modulus, "big")).public_key()
    except ValueError as error:
        raise fields.refused(f"holds no RSA key: {error}") from error


def _ec_key(fields: _Fields) -> ec.EllipticCurvePublicKey:
    curve = _CURVES.get(fields.number())
    if fields.number() != _NULL:  # the key derivation scheme, always null today
        fields.number()
    x, y = fields.sized(), fields.sized()
    if curve is None:
        raise fields.refused("has a curve that is not used here")
    try:
        return ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), curve()).public_key()
    except ValueError as error:
        raise fields.refused(f"holds no point of its curve: {error}") from error


def check_endorsement_key(ek: Public) -> None:
    """The EK decrypts for its TPM alone: else activation would prove nothing."""
    _check(ek, "EK", _BORN_HERE | RESTRICTED | DECRYPT, SIGN)
    if not isinstance(ek.public_key, rsa.RSAPublicKey):
        raise DeviceRefused("the EK is no RSA key; only the RSA-2048 EK (TCG EK template L-1) is known here")


def check_attestation_key(iak: Public) -> None:
    """The IAK is restricted: it signs what the TPM says, and nothing that only looks like it."""
    _check(iak, "attestation key (IAK)", _BORN_HERE | RESTRICTED | SIGN, DECRYPT)


def check_identity_key(key: Public) -> None:
    """The IDevID key was made in the TPM and cannot leave it."""
    _check(key, "IDevID key", _BORN_HERE | SIGN, DECRYPT | RESTRICTED)


def _check(key: Public, what: str, needed: int, forbidden: int) -> None:
    missing = [name for bit, name in _ATTRIBUTE_NAMES.items() if needed & bit and not key.attributes & bit]
    too_much = [name for bit, name in _ATTRIBUTE_NAMES.items() if forbidden & bit and key.attributes & bit]
    if missing:
        raise WrongDevice(f"the TPM's {what} is not {' and not '.join(missing)}: it may be known outside this TPM")
    if too_much:
        raise WrongDevice(f"the TPM's {what} is {' and '.join(too_much)}, which such a key must not be")


def make_credential(ek: Public, name: bytes, secret: bytes, seed: bytes) -> bytes:
    """What only the TPM with this EK opens, and only if it holds the key ``name``: the file of tpm2_activatecredential.

    Part 1, "Credential Protection". ``secret`` and ``seed`` are fresh random octets, 16 to 32 and exactly 32.
    """
    if not isinstance(ek.public_key, rsa.RSAPublicKey):
        raise DeviceRefused("the EK is no RSA key")
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), b"IDENTITY\0")
    encrypted_seed = ek.public_key.encrypt(seed, oaep)
    storage_key = _kdf(seed, b"STORAGE", name, 16)
    # The key is used once, and part 1 wants an initialisation vector of zeros.
    encryptor = Cipher(algorithms.AES(storage_key), CFB(bytes(16))).encryptor()
    encrypted = encryptor.update(_sized(secret)) + encryptor.finalize()
    integrity = hmac.digest(_kdf(seed, b"INTEGRITY", b"", 32), encrypted + name, "sha256")
    return _CREDENTIAL_HEAD + _sized(_sized(integrity) + encrypted) + _sized(encrypted_seed)


def _kdf(key: bytes, label: bytes, context: bytes, size: int) -> bytes:
    """KDFa (part 1, "Key Derivation Function") with SHA-256; one block is enough here."""
    return hmac.digest(key, struct.pack(">I", 1) + label + b"\0" + context + struct.pack(">I", size * 8), "sha256")[:size]


def _sized(data: bytes) -> bytes:
    return struct.pack(">H", len(data)) + data


@dataclass(frozen=True, slots=True)
class Attestation:
    """A TPMS_ATTEST (part 2): what a TPM said, and when by its own clock."""

    kind: int
    signer: bytes  # qualified name of the key that signed it
    extra: bytes
    clock: int  # milliseconds
    boots: tuple[int, int]  # resets and restarts: the clock may fall back a little at each
    certified: bytes = b""  # name of the certified key


def read_attestation(data: bytes) -> Attestation:
    fields = _Fields(data, "attestation")
    if fields.number(4) != _GENERATED:
        raise WrongDevice("an attestation was not made by a TPM: it does not begin with TPM_GENERATED")
    kind, signer, extra = fields.number(), fields.sized(), fields.sized()
    clock, resets, restarts = fields.number(8), fields.number(4), fields.number(4)
    fields.take(1 + 8)  # whether the clock is safe, the firmware's version
    certified = b""
    if kind == _ATTEST_CERTIFY:
        certified, _ = fields.sized(), fields.sized()
        fields.finish()
    return Attestation(kind, signer, extra, clock, (resets, restarts), certified)


@dataclass(frozen=True, slots=True)
class Proof:
    """What the IAK signed: a quote over the gateway's nonce, then that the IDevID key is in its TPM.

    tpm2_certify puts no nonce of ours into its attestation. The quote does, so it is fresh; a certification that the same key
    made in the same boot, at a later time of the TPM's clock, is fresh too.
    """

    quote: bytes
    quote_signature: bytes
    certification: bytes
    certification_signature: bytes


def check_proof(proof: Proof, *, iak: Public, key: Public, nonce: bytes) -> None:
    """Raises WrongDevice when ``iak`` did not, just now, certify ``key``."""
    algorithm = default_algorithm(iak.public_key)
    quote, certification = read_attestation(proof.quote), read_attestation(proof.certification)
    for what, kind, wanted, signature, data in (
        ("quote", quote, _ATTEST_QUOTE, proof.quote_signature, proof.quote),
        ("certification", certification, _ATTEST_CERTIFY, proof.certification_signature, proof.certification),
    ):
        if kind.kind != wanted:
            raise WrongDevice(f"the TPM's {what} is an attestation of another kind")
        if not signature_is_valid(iak.public_key, algorithm, signature, data):
            raise WrongDevice(f"the TPM's {what} was not signed by its attestation key (IAK)")
        if kind.signer != iak.qualified_name:
            raise WrongDevice(f"the TPM's {what} names another signer, or the IAK is not in the endorsement hierarchy")
    if not hmac.compare_digest(quote.extra, nonce):
        raise WrongDevice("the TPM's quote answers another question: it was recorded earlier")
    if certification.boots != quote.boots or certification.clock < quote.clock:
        raise WrongDevice("the TPM certified the key before it was asked: the attestation was recorded earlier")
    if certification.certified != key.name:
        raise WrongDevice("the TPM certified another key than the one that the device shows")


def check_endorsement_certificate(
    data: bytes, ek: Public, *, anchors: Sequence[bytes], intermediates: Sequence[bytes], now_ms: int
) -> bytes:
    """The EK certificate (DER) in what the TPM's NV index holds, after it was found to be of this EK and of a known maker.

    ``anchors`` and ``intermediates`` are DER certificates of TPM makers.
    """
    certificate_der = first_element(data)
    try:
        chains.verify_chip(certificate_der, anchors=anchors, intermediates=intermediates, now_ms=now_ms)
    except GatewayError as error:
        raise WrongDevice(f"the TPM is of no known maker: {error}") from error
    certificate = x509.load_der_x509_certificate(certificate_der)
    purposes = [
        usage for item in certificate.extensions if isinstance(item.value, x509.ExtendedKeyUsage) for usage in item.value
    ]
    if EK_CERTIFICATE not in purposes:
        raise WrongDevice("the TPM's EK certificate is none: it lacks the purpose tcg-kp-EKCertificate")
    try:
        spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise DeviceRefused(f"the TPM's EK certificate has a key that cannot be read: {error}") from error
    if spki != ek.spki:
        raise WrongDevice("the TPM's EK certificate belongs to another EK: it is that of another TPM")
    return certificate_der


def first_element(data: bytes) -> bytes:
    """The DER SEQUENCE at the start: an NV index may be longer than the certificate in it."""
    if data[:2] == b"\x30\x82" and len(data) >= 4:
        length = 4 + int.from_bytes(data[2:4], "big")
        if length <= len(data):
            return data[:length]
    raise DeviceRefused("the TPM's NV index holds no certificate")

"""The ``esp_secure_cert`` partition of Espressif's chips: certificates and key as a list of TLV entries. Pure.

Format: esp_secure_cert_mgr, ``docs/format.md``. An entry is twelve octets of header (little-endian: magic, flags, three
reserved octets, type, subtype, length), the data, zeros up to a multiple of 16 octets of data, and a CRC-32 over all of that.
The last entry is the SHA-256 of everything before it. Erased flash (all ones) follows. What :func:`build` writes is octet for
octet what Espressif's own ``configure_esp_secure_cert.py`` writes from the same files.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from gateway.errors import BadKey, DeviceFault, DeviceRefused
from gateway.pki.algorithms import PrivateKey

_Key: TypeAlias = "ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey"

#: The size Espressif's tool and examples use; a partition table may give it another.
PARTITION_SIZE = 0x2000
MAGIC = 0xBA5EBA11
_HEADER = struct.Struct("<IB3sBBH")
_CRC = struct.Struct("<I")
_CRC_SEED = 0xFFFFFFFF
_ALIGNMENT = 16  # of flash encryption
_ERASED = b"\xff"


class PartitionDamaged(DeviceFault):
    """What lies in the partition is not, or not wholly, credentials: another use, or a write that was cut off."""

    hint = "Start the unit again: its credentials are written anew."


class Type(IntEnum):
    """Types of entries that this gateway writes."""

    CA_CERTIFICATE = 0
    DEVICE_CERTIFICATE = 1
    PRIVATE_KEY = 2
    INTEGRITY = 9


class Encoding(IntEnum):
    """How certificates and key are coded; in PEM they end with a NUL, because mbedTLS wants that."""

    PEM = 0
    DER = 1


@dataclass(frozen=True, slots=True)
class Entry:
    type: int
    subtype: int
    flags: int  # of a private key: 0 means in clear
    data: bytes


@dataclass(frozen=True, slots=True)
class Contents:
    """What a partition holds, in DER; empty where it holds none. ``key`` is the key as it lies there, in clear."""

    certificate: bytes = b""
    chain: tuple[bytes, ...] = ()
    key: bytes = b""

    def __repr__(self) -> str:  # a key never gets into a log by way of a traceback
        return (
            f"Contents(certificate={len(self.certificate)} octets, chain={len(self.chain)}, key={'yes' if self.key else 'no'})"
        )


def entry(kind: int, data: bytes, *, subtype: int = 0, flags: int = 0) -> bytes:
    """Raises ValueError for more than 65,535 octets."""
    if len(data) > 0xFFFF:
        raise ValueError("an entry of esp_secure_cert holds 65,535 octets at most")
    head = _HEADER.pack(MAGIC, flags, bytes(3), kind, subtype, len(data))
    covered = head + data + bytes(-len(data) % _ALIGNMENT)
    return covered + _CRC.pack(zlib.crc32(covered, _CRC_SEED))


def build(
    certificate: bytes,
    authorities: Sequence[bytes],
    private_key: bytes,
    *,
    encoding: Encoding = Encoding.PEM,
    size: int = PARTITION_SIZE,
) -> bytes:
    """The used part of a partition with these certificates (DER) and this key (PKCS #8, DER, in clear).

    ``authorities`` begins with the issuing CA: it becomes CA certificate 0, the next one number 1 and so on. An empty
    certificate is left out, for a device that gets its key first. Raises BadKey for a key that the format cannot hold,
    DeviceRefused where it does not fit into ``size`` octets.
    """
    parts = [entry(Type.CA_CERTIFICATE, _certificate(ca, encoding), subtype=number) for number, ca in enumerate(authorities)]
    if certificate:
        parts.append(entry(Type.DEVICE_CERTIFICATE, _certificate(certificate, encoding)))
    parts.append(entry(Type.PRIVATE_KEY, _key_octets(load_key(private_key), encoding)))
    before = b"".join(parts)
    image = before + entry(Type.INTEGRITY, hashlib.sha256(before).digest())
    if len(image) > size:
        raise DeviceRefused(f"certificates and key need {len(image)} octets; the partition of this device has {size}")
    return image


def padded(image: bytes, size: int = PARTITION_SIZE) -> bytes:
    """``image`` filled up with what erased flash holds, so that writing it leaves nothing of what was there before."""
    return image + _ERASED * (size - len(image))


def read_entries(partition: bytes) -> list[Entry]:
    """Every entry, check sums and integrity verified; none for an erased partition.

    Raises PartitionDamaged for anything else: other contents, a part of an image, a wrong check sum, no integrity entry.
    """
    entries: list[Entry] = []
    position = 0
    while position + _HEADER.size <= len(partition):
        magic, flags, _, kind, subtype, length = _HEADER.unpack_from(partition, position)
        if magic != MAGIC:
            break
        end = position + _HEADER.size + length + -length % _ALIGNMENT
        if end + _CRC.size > len(partition):
            raise PartitionDamaged("the device's credentials are cut off in the middle of an entry")
        if _CRC.unpack_from(partition, end)[0] != zlib.crc32(partition[position:end], _CRC_SEED):
            raise PartitionDamaged(f"the check sum of entry {len(entries) + 1} of the device's credentials is wrong")
        start = position + _HEADER.size
        entries.append(Entry(kind, subtype, flags, partition[start : start + length]))
        if kind == Type.INTEGRITY and entries[-1].data != hashlib.sha256(partition[:position]).digest():
            raise PartitionDamaged("the digest over the device's credentials is wrong")
        position = end + _CRC.size
    if partition[position:].strip(_ERASED):
        raise PartitionDamaged("the device's partition holds something that is no entry of esp_secure_cert")
    if entries and entries[-1].type != Type.INTEGRITY:
        raise PartitionDamaged("the device's credentials end without the digest that closes them")
    return entries


def read(partition: bytes) -> Contents:
    """What the entries say; other types are passed over. Raises PartitionDamaged as :func:`read_entries`, and for what is no
    DER or PEM; DeviceRefused for a key that lies there in any other form than in clear."""
    certificate = key = b""
    authorities: dict[int, bytes] = {}
    for found in read_entries(partition):
        match found.type:
            case Type.DEVICE_CERTIFICATE if found.subtype == 0:
                certificate = _der_certificate(found.data)
            case Type.CA_CERTIFICATE:
                authorities[found.subtype] = _der_certificate(found.data)
            case Type.PRIVATE_KEY if found.subtype == 0:
                if found.flags:
                    raise DeviceRefused("the device's key is bound to its hardware: this recipe is for keys in clear")
                key = found.data
    return Contents(certificate, tuple(authorities[number] for number in sorted(authorities)), key)


def load_key(private_key: bytes) -> _Key:
    """PKCS #8 or the traditional form, PEM or DER, with or without the NUL behind it. Raises BadKey."""
    octets = private_key.rstrip(b"\0") if private_key.startswith(b"-----") else private_key
    load = serialization.load_pem_private_key if octets.startswith(b"-----") else serialization.load_der_private_key
    try:
        key = load(octets, None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BadKey("this is no private key in clear") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise BadKey("esp_secure_cert takes RSA and elliptic-curve keys only")
    return key


def to_der(private_key: PrivateKey) -> bytes:
    """PKCS #8 in clear."""
    return private_key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def same_key(first: bytes, second: bytes) -> bool:
    """Whether two private keys have the same public key, however each is coded. Raises BadKey."""
    return load_key(first).public_key() == load_key(second).public_key()


def _key_octets(key: _Key, encoding: Encoding) -> bytes:
    pem = encoding == Encoding.PEM
    coded = key.private_bytes(
        serialization.Encoding.PEM if pem else serialization.Encoding.DER,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    return coded + b"\0" if pem else coded


def _certificate(certificate: bytes, encoding: Encoding) -> bytes:
    if encoding == Encoding.DER:
        return certificate
    return x509.load_der_x509_certificate(certificate).public_bytes(serialization.Encoding.PEM) + b"\0"


def _der_certificate(data: bytes) -> bytes:
    try:
        if data.startswith(b"-----"):
            return x509.load_pem_x509_certificate(data.rstrip(b"\0")).public_bytes(serialization.Encoding.DER)
        return x509.load_der_x509_certificate(data).public_bytes(serialization.Encoding.DER)
    except ValueError as error:
        raise PartitionDamaged("the device's credentials hold something that is no certificate") from error

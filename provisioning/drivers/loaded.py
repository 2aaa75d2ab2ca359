"""What the gateway does with a key that it loaded into a device which cannot sign for itself while it is on the line.

The key is in the gateway's hands anyway until the unit is done: a request, and a proof by the key as it was read back from the
device, are made with it here. Such a proof says that the device holds the key, no more.
"""

from __future__ import annotations

from typing import cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_private_key, load_pem_private_key
from cryptography.x509 import load_der_x509_certificate

from gateway.errors import DeviceFault
from gateway.pki.algorithms import PrivateKey, default_algorithm, sign
from provisioning import pkcs10
from provisioning.device import Csr


def private_key_of(octets: bytes) -> PrivateKey:
    """A key in clear, DER or PEM. Raises DeviceFault, which never quotes it."""
    try:
        if octets.startswith(b"-----"):
            return cast(PrivateKey, load_pem_private_key(octets.rstrip(b"\0"), None, unsafe_skip_rsa_key_validation=True))
        return cast(PrivateKey, load_der_private_key(octets, None, unsafe_skip_rsa_key_validation=True))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise DeviceFault("what the device holds as its key is no private key") from None


def spki_of(key: PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def request_of(key: PrivateKey, subject: str) -> Csr:
    """A request signed with ``key``. Raises MalformedRequest for no RFC 4514 name."""
    information = pkcs10.request_information(subject, spki_of(key))
    algorithm = default_algorithm(key.public_key())
    return Csr(pkcs10.request(information, algorithm, sign(key, algorithm, information)))


def proof_of(key: PrivateKey, challenge: bytes) -> bytes:
    return sign(key, default_algorithm(key.public_key()), challenge)


def belongs(certificate: bytes, key: PrivateKey) -> bool:
    """Whether the certificate (DER) is for this key."""
    return load_der_x509_certificate(certificate).public_key() == key.public_key()

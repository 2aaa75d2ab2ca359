"""Giving ``ssl`` a private key that is in no file."""

from __future__ import annotations

import secrets
import ssl
import tempfile
from collections.abc import Iterable
from pathlib import Path

from cryptography.hazmat.primitives import serialization

from gateway.pki.algorithms import PrivateKey


def load_identity(context: ssl.SSLContext, certificate: bytes, chain: Iterable[bytes], key: PrivateKey) -> None:
    """Present ``certificate`` (DER) with ``chain`` (issuing CA first, DER) from the next handshake on.

    ``ssl`` takes keys from files only: the key goes through a file that is readable by us alone, encrypted under a random
    password that never leaves memory, and gone when this returns. Raises ssl.SSLError when key and certificate do not
    belong together.
    """
    password = secrets.token_hex(32).encode()
    # Few rounds of key derivation (the library's choice: 2,048) do no harm: the password has 256 random bits.
    encryption = serialization.BestAvailableEncryption(password)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    bundle = pem + b"".join(ssl.DER_cert_to_PEM_cert(item).encode() for item in (certificate, *chain))
    with tempfile.TemporaryDirectory(prefix="tls-") as directory:
        path = Path(directory, "identity.pem")
        path.touch(mode=0o600)
        path.write_bytes(bundle)
        context.load_cert_chain(path, password=password)

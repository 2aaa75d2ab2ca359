"""What openssl's command line on a device is told, and what it says. Pure.

Every release since 1.0.2 understands it, but for Ed25519, which needs 1.1.1.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from gateway.errors import MalformedRequest
from gateway.pki.algorithms import SignatureAlgorithm, default_algorithm, family

_CURVES = {
    "p-256": "P-256",
    "p-384": "P-384",
    "p-521": "P-521",
    "brainpoolp256r1": "brainpoolP256r1",
    "brainpoolp384r1": "brainpoolP384r1",
    "brainpoolp512r1": "brainpoolP512r1",
}
#: The options of ``openssl genpkey`` by key type.
GENPKEY: Final[dict[str, str]] = {
    **{f"rsa-{bits}": f"-algorithm RSA -pkeyopt rsa_keygen_bits:{bits}" for bits in (2048, 3072, 4096, 8192)},
    **{
        kind: f"-algorithm EC -pkeyopt ec_paramgen_curve:{curve} -pkeyopt ec_param_enc:named_curve"
        for kind, curve in _CURVES.items()
    },
    "ed25519": "-algorithm ED25519",
}
_HASHES = {
    SignatureAlgorithm.RSA_SHA256: "sha256",
    SignatureAlgorithm.RSA_SHA384: "sha384",
    SignatureAlgorithm.ECDSA_SHA256: "sha256",
    SignatureAlgorithm.ECDSA_SHA384: "sha384",
    SignatureAlgorithm.ECDSA_SHA512: "sha512",
}
#: ``openssl req`` wants a configuration even where the subject is given; this one says nothing.
REQUEST_CONFIGURATION: Final = "[req]\ndistinguished_name=d\n[d]\n"


def subject(name: x509.Name) -> str:
    """For ``-subj``: ``/2.5.4.10=Acme/2.5.4.3=plc-7``, in the order of the encoding; ``-utf8`` goes with it."""
    parts = []
    for rdn in name.rdns:
        pairs = []
        for attribute in rdn:
            value = attribute.value
            if not isinstance(value, str) or not value.isprintable():
                raise MalformedRequest("a name that cannot be put on a command line")
            escaped = "".join(f"\\{character}" if character in "/+\\=" else character for character in value)
            pairs.append(f"{attribute.oid.dotted_string}={escaped}")
        parts.append("/" + "+".join(pairs))
    return "".join(parts) or "/"


def sign_command(spki: bytes, key: str, message: str, signature: str) -> str:
    """Sign the file ``message`` with the private key in ``key``, whose public half is ``spki``, by its default algorithm.

    Raises ValueError for a key that openssl could not have made.
    """
    public = load_der_public_key(spki)
    kind = family(type(public))
    if kind == "ed25519":
        return f"openssl pkeyutl -sign -rawin -inkey {key} -in {message} -out {signature}"
    if kind not in {"rsa", "ec"}:
        raise ValueError("no key of RSA, an elliptic curve or Ed25519")
    hashed = _HASHES[default_algorithm(public)]  # type: ignore[arg-type]  # one of these two
    return f"openssl dgst -{hashed} -sign {key} -out {signature} {message}"


def armoured(text: str, label: str) -> bytes:
    """The PEM block of ``label`` in what a console said, without what stands around it; empty where there is none."""
    begin, end = f"-----BEGIN {label}-----", f"-----END {label}-----"
    _, found, rest = text.partition(begin)
    body, ended, _ = rest.partition(end)
    return f"{begin}{body}{end}\n".encode() if found and ended else b""


def certificate_pem(der: bytes) -> bytes:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM)

"""Parties that sign papers: a key of each kind that JOSE knows, with a certificate of a CA below a root."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.pki.algorithms import PrivateKey
from gateway.pki.names import name_from_text
from provisioning.jws import Draft, Party, sign
from tests.support.csrs import key_for

START, END = datetime(2025, 1, 1, tzinfo=UTC), datetime(2045, 1, 1, tzinfo=UTC)
KINDS = ("p-256", "p-384", "p-521", "rsa-2048", "ed25519")


def certify(
    subject: str,
    key: PrivateKey,
    issuer: str,
    issuer_key: PrivateKey,
    *,
    ca: bool = False,
    extensions: tuple[x509.ExtensionType, ...] = (),
) -> bytes:
    """DER. CA keys are EC."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(name_from_text(subject))
        .issuer_name(name_from_text(issuer))
        .public_key(key.public_key())
        .serial_number(int.from_bytes(subject.encode()[:18]))
        .not_valid_before(START)
        .not_valid_after(END)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.DER)  # type: ignore[arg-type]


ROOT, ISSUER = "CN=Line Root,O=Maker", "CN=Line Issuing CA,O=Maker"


@cache
def issuers() -> tuple[bytes, bytes]:
    """The issuing CA and the root."""
    root, issuer = key_for("p-256", "papers-root"), key_for("p-256", "papers-issuer")
    return certify(ISSUER, issuer, ROOT, root, ca=True), certify(ROOT, root, ROOT, root, ca=True)


@cache
def party(kind: str = "p-256", name: str = "Line records", pss: bool = False) -> Party:
    certificate = certify(f"CN={name} {kind},O=Maker", party_key(kind, name), ISSUER, key_for("p-256", "papers-issuer"))
    return Party((certificate, *issuers()), pss=pss)


@cache
def party_key(kind: str = "p-256", name: str = "Line records") -> PrivateKey:
    return key_for(kind, f"papers-{name}")


def finished(draft: Draft, kind: str = "p-256", name: str = "Line records") -> bytes:
    """The document, signed by :func:`party`."""
    return draft.finish(sign(party_key(kind, name), draft.algorithm, draft.signing_input))

"""A throw-away root and issuing CA, requests and certificates for the tests of the writing side of gateway.pki."""

from __future__ import annotations

import hashlib
import ssl
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.pki.algorithms import PrivateKey, sign
from gateway.pki.csr import CertificationRequest
from gateway.pki.names import name_from_text
from gateway.pki.profiles import Profile
from gateway.pki.sans import san_from_text
from gateway.pki.tbs import CaInfo, Publication, assemble, build_tbs, ca_info, new_serial
from tests.support.csrs import key_for

NOW_MS = 1_790_000_000_000  # 2026-09-21
PUBLICATION = Publication(
    crl_urls=("http://pki.example/ca.crl",),
    ocsp_urls=("http://pki.example/ocsp",),
    issuer_urls=("http://pki.example/ca.cer",),
)


def private_key(kind: str) -> PrivateKey:
    """One key of each type for the whole run."""
    return key_for(kind, "issuing")


@dataclass(frozen=True)
class IssuingCa:
    key: PrivateKey
    info: CaInfo
    certificate: bytes
    root: bytes


@cache
def issuing_ca(kind: str = "p-256", *, days: int = 3650) -> IssuingCa:
    """A root (P-256) and below it an issuing CA with a key of ``kind``."""
    start = datetime.fromtimestamp(NOW_MS // 1000, UTC) - timedelta(days=30)
    root_key = ec.generate_private_key(ec.SECP256R1())
    root_name = name_from_text("CN=Root,O=Test")
    root = _ca_certificate(root_name, root_name, root_key.public_key(), root_key, start, days + 60, None)
    key = private_key(kind)
    name = name_from_text(f"CN=Issuing {kind},O=Test")
    certificate = _ca_certificate(name, root_name, key.public_key(), root_key, start, days + 30, 0)
    encoded = certificate.public_bytes(Encoding.DER)
    return IssuingCa(key, ca_info(encoded), encoded, root.public_bytes(Encoding.DER))


def _ca_certificate(name, issuer, public_key, issuer_key, start, days, path_length):  # type: ignore[no-untyped-def]
    usage = x509.KeyUsage(
        digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
        key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
        .sign(issuer_key, hashes.SHA256())
    )


def request(
    subject: str | x509.Name = "CN=plc-7,O=Acme",
    san: Sequence[str | x509.GeneralName] = (),
    *,
    key: PrivateKey | None = None,
    subject_der: bytes | None = None,
    extensions: Sequence[x509.Extension[x509.ExtensionType]] = (),
) -> CertificationRequest:
    """What reading a CSR would give; the CSR itself does not matter here."""
    public_key = (key or private_key("p-256")).public_key()
    name = name_from_text(subject) if isinstance(subject, str) else subject
    return CertificationRequest(
        der=b"",
        subject_der=name.public_bytes() if subject_der is None else subject_der,
        public_key=public_key,
        spki=public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        san=tuple(san_from_text(item) if isinstance(item, str) else item for item in san),
        extensions=tuple(extensions),
    )


def tbs_for(profile: Profile, made: CertificationRequest, *, ca: IssuingCa | None = None, serial: int | None = None) -> bytes:
    number = new_serial(NOW_MS, hashlib.sha256(made.spki + made.subject_der).digest()[:12]) if serial is None else serial
    return build_tbs(
        profile=profile, ca=(ca or issuing_ca()).info, request=made, serial=number, now_ms=NOW_MS, publication=PUBLICATION
    )


def certificate_for(
    profile: Profile, made: CertificationRequest, *, ca: IssuingCa | None = None, serial: int | None = None
) -> bytes:
    chosen = ca or issuing_ca()
    return signed(chosen, tbs_for(profile, made, ca=chosen, serial=serial))


def signed(ca: IssuingCa, tbs: bytes) -> bytes:
    return assemble(tbs, ca.info.algorithm, sign(ca.key, ca.info.algorithm, tbs))


def verify_with_openssl(directory: Path, ca: IssuingCa, certificate: bytes, *options: str) -> str:
    """``openssl verify`` of ``certificate`` through the issuing CA to the root, at the tests' time."""
    for name, encoded in (("root", ca.root), ("ca", ca.certificate), ("leaf", certificate)):
        (directory / f"{name}.pem").write_text(ssl.DER_cert_to_PEM_cert(encoded))
    command = [
        "openssl",
        "verify",
        "-x509_strict",
        "-attime",
        str(NOW_MS // 1000),
        "-CAfile",
        "root.pem",
        "-untrusted",
        "ca.pem",
    ]
    result = subprocess.run([*command, *options, "leaf.pem"], cwd=directory, capture_output=True, text=True, check=False)
    return result.stdout + result.stderr

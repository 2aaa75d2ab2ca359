"""What we wrap, OpenSSL and cryptography unwrap."""

from __future__ import annotations

import hashlib
import ssl
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, pkcs7

from gateway.errors import BadKey
from gateway.pki.algorithms import PrivateKey, default_algorithm, sign
from gateway.pki.cms import (
    OID_DATA,
    OID_KEY_PACKAGE,
    OID_SIGNED_DATA,
    RANDOM_BYTES,
    assemble_signed_data,
    certs_only,
    envelop,
    inner_content,
    key_package,
    plan_signed_data,
)
from gateway.pki.profiles import BUILTIN_PROFILES
from tests.support.issuing import NOW_MS, certificate_for, issuing_ca, private_key, request

RANDOM = hashlib.shake_256(b"test").digest(RANDOM_BYTES)
RECIPIENTS = ["rsa-2048", "p-256", "p-384", "p-521", "brainpoolp256r1", "brainpoolp384r1", "brainpoolp512r1"]


def certificate_of(kind: str) -> bytes:
    return certificate_for(BUILTIN_PROFILES["tls-client"], request(f"CN=recipient {kind}", key=private_key(kind)))


def pkcs8(key: PrivateKey, encoding: Encoding = Encoding.DER) -> bytes:
    return key.private_bytes(encoding, PrivateFormat.PKCS8, NoEncryption())


def openssl(directory: Path, *arguments: str) -> bytes:
    return subprocess.run(["openssl", *arguments], cwd=directory, capture_output=True, check=True).stdout


def write_recipient(directory: Path, kind: str) -> None:
    (directory / "cert.pem").write_text(ssl.DER_cert_to_PEM_cert(certificate_of(kind)))
    (directory / "key.pem").write_bytes(pkcs8(private_key(kind), Encoding.PEM))


def test_certs_only_is_byte_for_byte_what_the_library_writes() -> None:
    ca = issuing_ca()
    certificates = [certificate_of("p-256"), ca.certificate, ca.root]
    loaded = [x509.load_der_x509_certificate(certificate) for certificate in certificates]
    assert certs_only(certificates) == pkcs7.serialize_certificates(loaded, Encoding.DER)
    assert certs_only(reversed(certificates)) == certs_only(certificates)


def test_openssl_prints_certs_only(tmp_path: Path) -> None:
    (tmp_path / "certs.p7").write_bytes(certs_only([certificate_of("p-256"), issuing_ca().certificate]))
    printed = openssl(tmp_path, "pkcs7", "-inform", "DER", "-in", "certs.p7", "-print_certs")
    assert printed.count(b"BEGIN CERTIFICATE") == 2


@pytest.mark.parametrize("cipher", ["aes-128-cbc", "aes-256-cbc"])
@pytest.mark.parametrize(("kind", "oaep"), [*((kind, False) for kind in RECIPIENTS), ("rsa-2048", True)])
def test_openssl_opens_the_envelope(kind: str, oaep: bool, cipher: str, tmp_path: Path) -> None:
    write_recipient(tmp_path, kind)
    (tmp_path / "enveloped").write_bytes(envelop(b"secret", certificate_of(kind), random=RANDOM, cipher=cipher, oaep=oaep))
    command = ["cms", "-decrypt", "-inform", "DER", "-in", "enveloped", "-recip", "cert.pem", "-inkey", "key.pem"]
    assert openssl(tmp_path, *command) == b"secret"


@pytest.mark.parametrize("kind", ["rsa-2048", "p-256"])
def test_generated_key_travels_signed_and_enveloped(kind: str, tmp_path: Path) -> None:
    """RFC 7030 section 4.4.2: key package in SignedData in EnvelopedData."""
    ca, signer = issuing_ca(), private_key("p-384")
    signer_certificate = certificate_of("p-384")
    package = key_package([pkcs8(private_key("p-521"))])
    plan = plan_signed_data(
        package,
        content_type=OID_KEY_PACKAGE,
        certificate=signer_certificate,
        algorithm=default_algorithm(signer.public_key()),
        signing_ms=NOW_MS,
    )
    signed = assemble_signed_data(plan, sign(signer, plan.algorithm, plan.to_be_signed), [ca.certificate])
    sealed = envelop(inner_content(signed), certificate_of(kind), random=RANDOM, content_type=OID_SIGNED_DATA)
    write_recipient(tmp_path, kind)
    (tmp_path / "sealed").write_bytes(sealed)
    (tmp_path / "root.pem").write_text(ssl.DER_cert_to_PEM_cert(ca.root))
    opened = openssl(tmp_path, "cms", "-decrypt", "-inform", "DER", "-in", "sealed", "-recip", "cert.pem", "-inkey", "key.pem")
    assert opened == inner_content(signed)
    (tmp_path / "signed").write_bytes(signed)
    verify = ["cms", "-verify", "-inform", "DER", "-in", "signed", "-CAfile", "root.pem", "-binary", "-purpose", "any"]
    assert openssl(tmp_path, *verify, "-attime", str(NOW_MS // 1000)) == package


@pytest.mark.parametrize("kind", ["p-256", "p-384", "p-521", "rsa-2048"])
def test_openssl_verifies_signed_data_of_every_classic_key(kind: str, tmp_path: Path) -> None:
    key = private_key(kind)
    plan = plan_signed_data(
        b"content",
        content_type=OID_DATA,
        certificate=certificate_of(kind),
        algorithm=default_algorithm(key.public_key()),
        signing_ms=NOW_MS,
    )
    (tmp_path / "signed").write_bytes(
        assemble_signed_data(plan, sign(key, plan.algorithm, plan.to_be_signed), [issuing_ca().certificate])
    )
    (tmp_path / "root.pem").write_text(ssl.DER_cert_to_PEM_cert(issuing_ca().root))
    verify = ["cms", "-verify", "-inform", "DER", "-in", "signed", "-CAfile", "root.pem", "-binary", "-purpose", "any"]
    assert openssl(tmp_path, *verify, "-attime", str(NOW_MS // 1000)) == b"content"


@pytest.mark.parametrize("kind", ["ed25519", "ml-dsa-44"])
def test_keys_that_hash_for_themselves_take_sha512_for_the_digest(kind: str) -> None:
    plan = plan_signed_data(
        b"content",
        content_type=OID_DATA,
        certificate=certificate_of(kind),
        algorithm=default_algorithm(private_key(kind).public_key()),
        signing_ms=NOW_MS,
    )
    assert hashlib.sha512(b"content").digest() in plan.to_be_signed


def test_equal_input_gives_equal_bytes() -> None:
    assert envelop(b"secret", certificate_of("p-256"), random=RANDOM) == envelop(
        b"secret", certificate_of("p-256"), random=RANDOM
    )


@pytest.mark.parametrize("kind", ["ed25519", "ml-dsa-44"])
def test_keys_that_only_sign_cannot_receive(kind: str) -> None:
    with pytest.raises(BadKey, match="only RSA and elliptic curve"):
        envelop(b"secret", certificate_of(kind), random=RANDOM)


def test_unknown_curve_cannot_receive() -> None:
    key = ec.generate_private_key(ec.SECP256K1())
    name = x509.Name([])
    moment = datetime.fromtimestamp(NOW_MS // 1000, UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(1)
    certificate = (
        builder.not_valid_before(moment)
        .not_valid_after(moment)
        .sign(
            private_key("p-256"),
            default_algorithm(private_key("p-256").public_key()).hash,  # type: ignore[arg-type]
        )
    )
    with pytest.raises(BadKey, match="secp256k1"):
        envelop(b"secret", certificate.public_bytes(Encoding.DER), random=RANDOM)


def test_envelope_needs_all_its_randomness() -> None:
    with pytest.raises(ValueError, match="random bytes"):
        envelop(b"secret", certificate_of("p-256"), random=RANDOM[:-1])

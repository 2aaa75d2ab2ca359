"""Certificates of CAs: what the library reads in them, and what is not made."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.errors import OperatorError
from gateway.pki.algorithms import SignatureAlgorithm, sign
from gateway.pki.ca_tbs import build_ca_tbs, ca_request_info
from gateway.pki.extensions import Publication
from gateway.pki.names import name_from_text
from gateway.pki.tbs import CaInfo, assemble, ca_info

KEY, SUB_KEY = ec.derive_private_key(11, ec.SECP256R1()), ec.derive_private_key(12, ec.SECP256R1())
ECDSA = SignatureAlgorithm.ECDSA_SHA256
START, END = 1_790_000_000_000, 1_890_000_000_000
ROOT = name_from_text("CN=Root,O=Test")


def spki(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def root(path_length: int | None = 1) -> CaInfo:
    tbs = build_ca_tbs(
        issuer=None, algorithm=ECDSA, subject=ROOT, spki=spki(KEY), serial=1, not_before_ms=START, not_after_ms=END,
        path_length=path_length,
    )  # fmt: skip
    return ca_info(assemble(tbs, ECDSA, sign(KEY, ECDSA, tbs)))


def sub_ca(
    subject: str = "CN=Sub", publication: Publication | None = None, start: int = START, end: int = END
) -> x509.Certificate:
    tbs = build_ca_tbs(
        issuer=root(), algorithm=ECDSA, subject=name_from_text(subject), spki=spki(SUB_KEY), serial=2, not_before_ms=start,
        not_after_ms=end, publication=publication,
    )  # fmt: skip
    return x509.load_der_x509_certificate(assemble(tbs, ECDSA, sign(KEY, ECDSA, tbs)))


def test_a_root_certifies_itself() -> None:
    made = root().certificate
    made.verify_directly_issued_by(made)
    assert made.subject == made.issuer == ROOT
    assert (made.not_valid_before_utc, made.not_valid_after_utc) == tuple(
        datetime.fromtimestamp(each / 1000, UTC) for each in (START, END)
    )
    assert {
        extension.critical for extension in made.extensions if extension.oid.dotted_string in ("2.5.29.19", "2.5.29.15")
    } == {True}


@pytest.mark.parametrize("path_length", [None, 0, 1])
def test_the_length_of_the_path(path_length: int | None) -> None:
    constraints = root(path_length).certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, path_length)


def test_a_sub_ca_lies_below_its_issuer() -> None:
    made = sub_ca()
    made.verify_directly_issued_by(root().certificate)
    issuer = made.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
    assert issuer.key_identifier == root().key_identifier
    usage = made.extensions.get_extension_for_class(x509.KeyUsage).value
    assert (usage.key_cert_sign, usage.crl_sign, usage.digital_signature) == (True, True, False)
    for kind in (x509.CRLDistributionPoints, x509.AuthorityInformationAccess):
        with pytest.raises(x509.ExtensionNotFound):
            made.extensions.get_extension_for_class(kind)


def test_a_sub_ca_says_where_its_status_is() -> None:
    made = sub_ca(publication=Publication(("http://a/root.crl",), (), ("http://a/ocsp",), ("http://a/ca.cer",)))
    points = made.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    assert [each.value for each in points[0].full_name or ()] == ["http://a/root.crl"]
    access = made.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    assert [each.access_location.value for each in access] == ["http://a/ocsp", "http://a/ca.cer"]
    bare = sub_ca(publication=Publication())
    assert len(bare.extensions) == len(sub_ca().extensions)


def test_a_sub_ca_ends_no_later_and_begins_no_earlier_than_its_issuer() -> None:
    made = sub_ca(start=START - 5000, end=END + 5000)
    assert made.not_valid_after_utc == root().certificate.not_valid_after_utc
    assert made.not_valid_before_utc == root().certificate.not_valid_before_utc


def test_what_is_no_ca_is_not_made() -> None:
    with pytest.raises(OperatorError, match="name"):
        sub_ca("")
    with pytest.raises(OperatorError, match="the CA above it"):
        sub_ca("CN=Root,O=Test")
    with pytest.raises(OperatorError, match="not valid"):
        sub_ca(start=END)


@pytest.mark.parametrize("path_length", [None, 0, 2])
def test_a_request_asks_for_what_a_ca_needs(path_length: int | None) -> None:
    info = ca_request_info(ROOT, spki(KEY), path_length=path_length)
    request = x509.load_der_x509_csr(assemble(info, ECDSA, sign(KEY, ECDSA, info)))
    assert request.is_signature_valid
    constraints = request.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, path_length)
    identifier = request.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    assert identifier.digest == root().key_identifier

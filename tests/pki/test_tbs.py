"""The TBS bytes are the builder's bytes, and what comes out verifies everywhere."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import BadKey, MalformedRequest, NotReady, OperatorError
from gateway.pki.algorithms import default_algorithm, signature_is_valid
from gateway.pki.names import name_from_text
from gateway.pki.profiles import BUILTIN_PROFILES, Profile
from gateway.pki.tbs import (
    Publication,
    build_tbs,
    ca_info,
    encode_serial,
    encode_time,
    extensions_of,
    key_bits,
    new_serial,
    tbs_fields,
    tbs_of,
)
from tests.support.csrs import KEY_TYPES
from tests.support.issuing import (
    NOW_MS,
    PUBLICATION,
    certificate_for,
    issuing_ca,
    private_key,
    request,
    tbs_for,
    verify_with_openssl,
)

URL = "http://pki.example/"
RANDOM = st.binary(min_size=12, max_size=12)
#: At most 64 bytes, because the library's builder counts those and not characters.
NAMES = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=64).filter(
    lambda text: len(text.encode()) <= 64
)
HOSTS = st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\.[a-z]([a-z0-9]{0,10})?){0,3}", fullmatch=True)


def built_by_library(profile: Profile, subject: x509.Name, hosts: list[str], serial: int) -> bytes:
    """The same certificate made by cryptography's builder."""
    ca = issuing_ca()
    key = private_key("p-256")
    now = datetime.fromtimestamp(NOW_MS // 1000, UTC)
    usage = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"), False,
    ) | {"digital_signature": True}  # fmt: skip
    identifier = x509.UniformResourceIdentifier
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(ca.info.certificate.subject)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(now - timedelta(seconds=profile.backdate))
        .not_valid_after(now + timedelta(seconds=profile.validity or 0))
        .add_extension(x509.AuthorityKeyIdentifier(ca.info.key_identifier, None, None), critical=False)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(
            x509.CertificatePolicies([x509.PolicyInformation(x509.ObjectIdentifier("1.3.6.1.4.1.32473.9"), None)]),
            critical=False,
        )
        .add_extension(
            x509.CRLDistributionPoints(
                [x509.DistributionPoint([identifier(URL + "a"), identifier(URL + "b")], None, None, None)]
            ),
            critical=False,
        )
        .add_extension(
            x509.FreshestCRL([x509.DistributionPoint([identifier(URL + "delta")], None, None, None)]), critical=False
        )
        .add_extension(
            x509.AuthorityInformationAccess(
                [
                    x509.AccessDescription(AuthorityInformationAccessOID.OCSP, identifier(URL + "ocsp")),
                    x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, identifier(URL + "ca")),
                ]
            ),
            critical=False,
        )
        .add_extension(
            x509.SubjectKeyIdentifier(tbs_ski(key_bits(request(key=key).spki))),
            critical=False,
        )
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts]), critical=False)
    return builder.sign(ca.key, ca.info.algorithm.hash).tbs_certificate_bytes


def tbs_ski(bits: bytes) -> bytes:
    return hashlib.sha256(bits).digest()[:20]


@settings(max_examples=60, deadline=None)
@given(
    common=NAMES, organisation=NAMES, hosts=st.lists(HOSTS, unique=True, max_size=4), random=st.binary(min_size=12, max_size=12)
)
def test_tbs_is_byte_for_byte_what_the_library_builds(common: str, organisation: str, hosts: list[str], random: bytes) -> None:
    profile = replace(BUILTIN_PROFILES["tls-client"], policies=("1.3.6.1.4.1.32473.9",))
    attributes = [(x509.NameOID.ORGANIZATION_NAME, organisation), (x509.NameOID.COMMON_NAME, common)]
    subject = x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes])
    made = request(subject, ["DNS:" + host for host in hosts])
    serial = new_serial(NOW_MS, random)
    publication = Publication((URL + "a", URL + "b"), (URL + "delta",), (URL + "ocsp",), (URL + "ca",))
    tbs = build_tbs(profile=profile, ca=issuing_ca().info, request=made, serial=serial, now_ms=NOW_MS, publication=publication)
    assert tbs == built_by_library(profile, subject, hosts, serial)


@pytest.mark.parametrize("ca_kind", ["p-256", "p-384", "p-521", "rsa-2048", "ed25519", "brainpoolp256r1", "ml-dsa-44"])
def test_certificate_of_every_ca_key_type_verifies(ca_kind: str) -> None:
    ca = issuing_ca(ca_kind)
    der = certificate_for(BUILTIN_PROFILES["tls-client"], request(), ca=ca)
    certificate = x509.load_der_x509_certificate(der)
    certificate.verify_directly_issued_by(ca.info.certificate)
    assert signature_is_valid(ca.info.public_key, default_algorithm(ca.info.public_key), certificate.signature, tbs_of(der))
    assert certificate.public_bytes(Encoding.DER) == der


@pytest.mark.parametrize("kind", [kind for kind in KEY_TYPES if not kind.startswith("ml-dsa")])
def test_certificate_of_every_classic_key_type_passes_openssl_verify(kind: str, tmp_path: Path) -> None:
    der = certificate_for(BUILTIN_PROFILES["tls-client"], request(key=private_key(kind)))
    assert verify_with_openssl(tmp_path, issuing_ca(), der, "-purpose", "sslclient") == "leaf.pem: OK\n"


@pytest.mark.parametrize("kind", ["ml-dsa-44", "ml-dsa-65", "ml-dsa-87"])
def test_post_quantum_key_is_certified_unchanged(kind: str) -> None:
    made = request(key=private_key(kind))
    der = certificate_for(BUILTIN_PROFILES["tls-client"], made)
    x509.load_der_x509_certificate(der).verify_directly_issued_by(issuing_ca().info.certificate)
    assert tbs_fields(tbs_of(der)).spki == made.spki


SUBJECTS = {
    "idevid": ("2.5.4.5=4711,O=Acme", ["HMN:1.3.6.1.4.1.32473.1:0a1b"]),
    "ldevid": ("CN=plc-7", ["HMN:1.3.6.1.4.1.32473.1:0a1b", "email:a@plant.example", "UPN:a@plant.example"]),
    "tls-server": ("CN=plc-7", ["IP:192.0.2.7", "IP:2001:db8::7"]),
    "opcua-application": ("CN=plc-7,O=Acme", ["URI:urn:acme:plc-7", "DNS:plc-7"]),
    "station": ("CN=line-3", []),
}


@pytest.mark.parametrize("name", sorted(BUILTIN_PROFILES))
def test_certificate_of_every_profile_passes_openssl_verify(name: str, tmp_path: Path) -> None:
    der = certificate_for(BUILTIN_PROFILES[name], request(*SUBJECTS.get(name, ("CN=plc-7.example", []))))
    assert verify_with_openssl(tmp_path, issuing_ca(), der) == "leaf.pem: OK\n"


def test_idevid_ends_at_the_end_of_time_and_outlives_its_ca() -> None:
    certificate = x509.load_der_x509_certificate(certificate_for(BUILTIN_PROFILES["idevid"], request("2.5.4.5=4711")))
    assert certificate.not_valid_after_utc == datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    oids = {extension.oid.dotted_string for extension in certificate.extensions}
    assert "2.5.29.35" in oids
    assert "2.5.29.14" not in oids


def test_validity_is_capped_by_the_ca() -> None:
    ca = issuing_ca(days=40)
    profile = replace(BUILTIN_PROFILES["tls-client"], backdate=90 * 86_400)
    certificate = x509.load_der_x509_certificate(certificate_for(profile, request(), ca=ca))
    assert certificate.not_valid_after_utc == ca.info.certificate.not_valid_after_utc
    assert certificate.not_valid_before_utc == ca.info.certificate.not_valid_before_utc


@pytest.mark.parametrize("shift_days", [-31, 4000])
def test_no_certificate_outside_the_validity_of_the_ca(shift_days: int) -> None:
    with pytest.raises(NotReady, match="CA certificate is not valid"):
        build_tbs(
            profile=BUILTIN_PROFILES["tls-client"],
            ca=issuing_ca().info,
            request=request(),
            serial=5,
            now_ms=NOW_MS + shift_days * 86_400_000,
            publication=PUBLICATION,
        )


def test_key_type_outside_the_profile_is_refused() -> None:
    profile = replace(BUILTIN_PROFILES["tls-client"], key_types=frozenset({"p-384"}))
    with pytest.raises(BadKey, match=r"p-256 keys; it takes p-384"):
        tbs_for(profile, request())


@pytest.mark.parametrize("kind", [kind for kind in KEY_TYPES if kind.startswith("rsa-")])
def test_every_builtin_profile_takes_rsa_of_2048_to_8192_bits(kind: str) -> None:
    for name, profile in BUILTIN_PROFILES.items():
        made = request(*SUBJECTS.get(name, ("CN=plc-7.example", [])), key=private_key(kind))
        assert tbs_fields(tbs_for(profile, made)).spki == made.spki


def test_an_rsa_range_has_a_lower_end() -> None:
    profile = replace(BUILTIN_PROFILES["tls-client"], key_types=frozenset({"rsa>=3072", "p-256"}))
    assert tbs_for(profile, request(key=private_key("rsa-5120")))
    with pytest.raises(BadKey, match=r"rsa-2048 keys; it takes p-256, rsa>=3072"):
        tbs_for(profile, request(key=private_key("rsa-2048")))


def test_requested_extension_is_copied_only_when_the_profile_says_so() -> None:
    oid = x509.ObjectIdentifier("1.3.6.1.4.1.32473.5")
    wanted = x509.Extension(oid, True, x509.UnrecognizedExtension(oid, b"\x05\x00"))
    plain = BUILTIN_PROFILES["tls-client"]
    copying = replace(plain, copy_extensions=frozenset({oid.dotted_string}))
    assert b"\x83\xfd\x59\x05" not in tbs_for(plain, request(extensions=[wanted]))
    certificate = x509.load_der_x509_certificate(certificate_for(copying, request(extensions=[wanted])))
    assert certificate.extensions.get_extension_for_oid(oid) == wanted
    with pytest.raises(MalformedRequest, match="twice"):
        tbs_for(copying, request(extensions=[wanted, wanted]))


@given(st.integers(1, (1 << 55) - 2), RANDOM)
def test_serial_is_positive_short_and_ordered_by_time(now_ms: int, random: bytes) -> None:
    serial = new_serial(now_ms, random)
    assert serial > 0
    assert len(encode_serial(serial)) <= 22
    assert serial >> 96 == now_ms
    assert new_serial(now_ms + 1, bytes(12)) > serial


@pytest.mark.parametrize(("now_ms", "random"), [(0, bytes(12)), (NOW_MS, bytes(11)), (1 << 55, bytes(12))])
def test_serial_needs_a_time_and_enough_randomness(now_ms: int, random: bytes) -> None:
    with pytest.raises(ValueError):
        new_serial(now_ms, random)


@pytest.mark.parametrize("serial", [0, -1, 1 << 159])
def test_serial_outside_rfc5280_is_refused(serial: int) -> None:
    with pytest.raises(ValueError):
        encode_serial(serial)


def test_times_change_their_type_in_2050() -> None:
    assert encode_time(2_524_607_999) == b"\x17\x0d491231235959Z"
    assert encode_time(2_524_608_000) == b"\x18\x0f20500101000000Z"


def test_ca_info_reads_what_signing_needs() -> None:
    ca = issuing_ca()
    assert ca.info.subject_der == name_from_text("CN=Issuing p-256,O=Test").public_bytes()
    assert ca.info.not_after_ms == int(ca.info.certificate.not_valid_after_utc.timestamp()) * 1000
    assert ca_info(ca.certificate) != ca.info  # by identity


def test_ca_info_refuses_what_cannot_issue() -> None:
    leaf = certificate_for(BUILTIN_PROFILES["tls-client"], request())
    with pytest.raises(OperatorError, match="may not sign"):
        ca_info(leaf)
    idevid = certificate_for(BUILTIN_PROFILES["idevid"], request("2.5.4.5=4711"))
    with pytest.raises(OperatorError, match="lacks an extension"):
        ca_info(idevid)
    with pytest.raises(OperatorError, match="not a certificate"):
        ca_info(b"\x30\x00")


@pytest.mark.parametrize(
    "tbs",
    [
        b"",
        b"\x30\x00",
        bytes.fromhex("3014a003020101020105300030003000300030 00a300"),
        bytes.fromhex("3013a0030201020201053000300030003000300030 00"),
        bytes.fromhex("301aa003020102020105300030003000300030 00a3063004310205 00"),
    ],
)
def test_tbs_fields_refuses_other_structures(tbs: bytes) -> None:
    with pytest.raises(MalformedRequest):
        extensions_of(tbs, tbs_fields(tbs))


def test_tbs_without_extensions_is_read() -> None:
    tbs = bytes.fromhex("3012a003020102020105300030003000300030 00")
    assert extensions_of(tbs, tbs_fields(tbs)) == []

"""Lists of every kind are what cryptography and OpenSSL read, and what the library would build."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.pki.algorithms import sign
from gateway.pki.crl import CrlEntry, Reason, assemble, build_crl_tbs, encode_entry, indirect_entry, next_crl_number, shard_of
from gateway.pki.profiles import BUILTIN_PROFILES
from tests.support.issuing import NOW_MS, certificate_for, issuing_ca, request, verify_with_openssl

DAY_MS = 86_400_000
ENTRIES = [CrlEntry(1000 + reason.code, NOW_MS - reason.code * 1000, reason) for reason in Reason]


def crl(entries: list[CrlEntry], *, kind: str = "p-256", **options: object) -> x509.CertificateRevocationList:
    return x509.load_der_x509_crl(encoded_crl(entries, kind=kind, **options))


def encoded_crl(entries: list[CrlEntry], *, kind: str = "p-256", **options: object) -> bytes:
    ca = issuing_ca(kind)
    arguments: dict[str, object] = {"number": NOW_MS, "this_update_ms": NOW_MS, "next_update_ms": NOW_MS + DAY_MS} | options
    tbs = build_crl_tbs(ca=ca.info, entries=map(encode_entry, entries), **arguments)  # type: ignore[arg-type]
    return assemble(tbs, ca.info.algorithm, sign(ca.key, ca.info.algorithm, tbs))


def moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds // 1000, UTC)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, (1 << 159) - 1), st.integers(0, 4_000_000_000), st.sampled_from(list(Reason))),
        max_size=8,
        unique_by=lambda entry: entry[0],
    )
)
def test_tbs_is_byte_for_byte_what_the_library_builds(entries: list[tuple[int, int, Reason]]) -> None:
    ca = issuing_ca()
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.info.certificate.subject)
        .last_update(moment(NOW_MS))
        .next_update(moment(NOW_MS + DAY_MS))
        .add_extension(x509.AuthorityKeyIdentifier(ca.info.key_identifier, None, None), critical=False)
        .add_extension(x509.CRLNumber(7), critical=False)
    )
    for serial, seconds, reason in entries:
        revoked = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(moment(seconds * 1000))
        if reason is not Reason.UNSPECIFIED:
            revoked = revoked.add_extension(x509.CRLReason(x509.ReasonFlags(reason.value)), critical=False)
        builder = builder.add_revoked_certificate(revoked.build())
    expected = builder.sign(ca.key, ca.info.algorithm.hash)  # type: ignore[arg-type]
    ours = crl([CrlEntry(serial, seconds * 1000, reason) for serial, seconds, reason in entries], number=7)
    assert ours.tbs_certlist_bytes == expected.tbs_certlist_bytes


@pytest.mark.parametrize("kind", ["p-256", "p-384", "p-521", "rsa-2048", "ed25519", "brainpoolp256r1", "ml-dsa-65"])
def test_signature_of_every_ca_key_type_is_valid(kind: str) -> None:
    assert crl(ENTRIES, kind=kind).is_signature_valid(issuing_ca(kind).info.public_key)  # type: ignore[arg-type]


def test_unspecified_reason_is_left_out() -> None:
    entry = crl(ENTRIES).get_revoked_certificate_by_serial_number(1000)
    assert entry is not None
    assert len(entry.extensions) == 0


def test_empty_list_has_no_revoked_certificates_and_number_zero_is_written() -> None:
    empty = crl([], number=0)
    assert len(empty) == 0
    assert empty.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 0


def test_shard_names_its_distribution_point_critically() -> None:
    extension = crl(ENTRIES, idp_url="http://pki.example/3.crl").extensions.get_extension_for_class(
        x509.IssuingDistributionPoint
    )
    assert extension.critical
    assert extension.value.full_name == [x509.UniformResourceIdentifier("http://pki.example/3.crl")]


def test_delta_refers_to_its_base_and_the_full_list_to_its_deltas() -> None:
    delta = crl(ENTRIES, base_number=NOW_MS - 5).extensions.get_extension_for_class(x509.DeltaCRLIndicator)
    assert delta.critical
    assert delta.value.crl_number == NOW_MS - 5
    full = crl(ENTRIES, delta_urls=("http://pki.example/delta.crl",))
    assert not full.extensions.get_extension_for_class(x509.FreshestCRL).critical


@pytest.mark.parametrize(
    "options",
    [
        {"base_number": NOW_MS},
        {"base_number": 1, "delta_urls": ("http://pki.example/d",)},
        {"next_update_ms": NOW_MS + 1},
        {"number": -1},
    ],
)
def test_lists_that_contradict_themselves_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        encoded_crl(ENTRIES, **options)


def test_number_follows_the_clock_and_always_grows() -> None:
    assert next_crl_number(NOW_MS, 5) == NOW_MS
    assert next_crl_number(NOW_MS, NOW_MS + 9) == NOW_MS + 10


@given(st.integers(1, (1 << 159) - 1), st.integers(1, 300))
def test_certificate_has_one_shard_for_ever(serial: int, shards: int) -> None:
    assert 0 <= shard_of(serial, shards) < shards
    assert shard_of(serial, shards) == shard_of(serial, shards)


def test_openssl_reads_the_list_and_checks_its_signature(tmp_path: Path) -> None:
    ca = issuing_ca()
    (tmp_path / "list.crl").write_bytes(encoded_crl(ENTRIES))
    (tmp_path / "ca.der").write_bytes(ca.certificate)
    subprocess.run(["openssl", "x509", "-inform", "DER", "-in", "ca.der", "-out", "ca.pem"], cwd=tmp_path, check=True)
    command = ["openssl", "crl", "-inform", "DER", "-in", "list.crl", "-CAfile", "ca.pem", "-noout", "-text", "-verify"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "verify OK" in result.stderr
    assert result.stdout.count("Serial Number:") == len(ENTRIES)
    assert "Key Compromise" in result.stdout


@pytest.mark.parametrize(("revoked", "verdict"), [(True, "certificate revoked"), (False, "leaf.pem: OK")])
def test_openssl_verify_obeys_the_list(revoked: bool, verdict: str, tmp_path: Path) -> None:
    entries = [CrlEntry(4242 if revoked else 4243, NOW_MS - 1000, Reason.KEY_COMPROMISE)]
    (tmp_path / "list.der").write_bytes(encoded_crl(entries))
    convert = ["openssl", "crl", "-inform", "DER", "-in", "list.der", "-out", "list.pem"]
    subprocess.run(convert, cwd=tmp_path, check=True)
    der = certificate_for(BUILTIN_PROFILES["tls-client"], request(), serial=4242)
    assert verdict in verify_with_openssl(tmp_path, issuing_ca(), der, "-crl_check", "-CRLfile", "list.pem")


@pytest.mark.parametrize("reason", [Reason.KEY_COMPROMISE, Reason.UNSPECIFIED])
def test_an_indirect_entry_names_the_certificates_issuer_as_another_encoder_does(reason: Reason) -> None:
    issuer = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Plant 7 Issuing CA " + "x" * 40)] * 3)  # past 127 octets
    entry = CrlEntry(0x8000AA, 1_790_000_000_000, reason)
    other = x509.RevokedCertificateBuilder().serial_number(entry.serial)
    other = other.revocation_date(datetime.fromtimestamp(entry.revoked_ms // 1000, UTC))
    if reason is not Reason.UNSPECIFIED:
        other = other.add_extension(x509.CRLReason(x509.ReasonFlags(reason.value)), critical=False)
    other = other.add_extension(x509.CertificateIssuer([x509.DirectoryName(issuer)]), critical=True)
    crl = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer)
        .last_update(datetime(2026, 1, 1, tzinfo=UTC))
        .next_update(datetime(2027, 1, 1, tzinfo=UTC))
        .add_revoked_certificate(other.build())
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    assert indirect_entry(entry, issuer.public_bytes()) in crl.tbs_certlist_bytes

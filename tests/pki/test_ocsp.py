"""OCSP as cryptography and OpenSSL ask and read it; hostile requests are refused as malformed."""

from __future__ import annotations

import contextlib
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.errors import MalformedRequest, RequestError, TooLarge
from gateway.pki import der
from gateway.pki.algorithms import default_algorithm, sign
from gateway.pki.crl import Reason
from gateway.pki.ocsp import (
    CertId,
    CertState,
    OcspRequest,
    ResponseStatus,
    SingleStatus,
    assemble_response,
    build_response_tbs,
    cert_id,
    error_response,
    matches,
    parse_request,
    responder_key_hash,
)
from gateway.pki.profiles import BUILTIN_PROFILES
from gateway.pki.tbs import key_bits
from tests.support.issuing import NOW_MS, certificate_for, issuing_ca, private_key, request, verify_with_openssl

DAY_MS = 86_400_000
HASHES: list[hashes.HashAlgorithm] = [hashes.SHA1(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()]


@cache
def leaf(serial: int) -> bytes:
    return certificate_for(BUILTIN_PROFILES["tls-client"], request(), serial=serial)


def asked(*serials: int, hash_: hashes.HashAlgorithm | None = None, nonce: bytes | None = None) -> bytes:
    """A request; for several certificates our own encoding, since the library's builder takes one."""
    if len(serials) == 1:
        certificate = x509.load_der_x509_certificate(leaf(serials[0]))
        builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuing_ca().info.certificate, hash_ or hashes.SHA1())
        if nonce is not None:
            builder = builder.add_extension(x509.OCSPNonce(nonce), critical=False)
        return builder.build().public_bytes(Encoding.DER)
    return raw(*(cert_id(issuing_ca().info, serial).encoded for serial in serials))


def raw(*cert_ids: bytes, before: bytes = b"", after: bytes = b"", signature: bytes = b"", single: bytes = b"") -> bytes:
    requests = (der.tlv(0x30, encoded, single) for encoded in cert_ids)
    return der.tlv(0x30, der.tlv(0x30, before, der.tlv(0x30, *requests), after), signature)


def nonce_extension(nonce: bytes, *, times: int = 1, wrapped: bool = True) -> bytes:
    value = der.tlv(4, nonce) if wrapped else nonce
    one = der.tlv(0x30, der.oid("1.3.6.1.5.5.7.48.1.2"), der.tlv(4, value))
    return der.tlv(0xA2, der.tlv(0x30, one * times))


def responder(kind: str = "p-256") -> tuple[bytes, bytes]:
    """Certificate and ResponderID key hash of a delegated responder."""
    made = request("CN=responder", key=private_key(kind))
    return certificate_for(BUILTIN_PROFILES["ocsp-responder"], made), responder_key_hash(key_bits(made.spki))


def answer(
    singles: list[SingleStatus], *, nonce: bytes | None = None, kind: str = "p-256", with_certificate: bool = True
) -> bytes:
    certificate, key_hash = responder(kind)
    tbs = build_response_tbs(responder_key=key_hash, singles=singles, produced_ms=NOW_MS, nonce=nonce)
    algorithm = default_algorithm(private_key(kind).public_key())
    signature = sign(private_key(kind), algorithm, tbs)
    return assemble_response(tbs, algorithm, signature, certificate if with_certificate else None)


def status_of(requested: CertId, state: CertState = CertState.GOOD, reason: Reason = Reason.UNSPECIFIED) -> SingleStatus:
    return SingleStatus(requested, state, NOW_MS, NOW_MS + DAY_MS, NOW_MS - 5000, reason)


@pytest.mark.parametrize("hash_", HASHES, ids=lambda hash_: hash_.name)
def test_request_with_every_hash_finds_its_issuer(hash_: hashes.HashAlgorithm) -> None:
    (found,) = parse_request(asked(77, hash_=hash_)).cert_ids
    assert found.serial == 77
    assert found.hash_name == hash_.name
    assert matches(issuing_ca().info, found)
    assert not matches(issuing_ca("p-384").info, found)
    assert not matches(issuing_ca().info, replace(found, issuer_key_hash=b""))


@pytest.mark.parametrize("hash_", HASHES, ids=lambda hash_: hash_.name)
def test_cert_id_for_signing_ahead_is_what_clients_send(hash_: hashes.HashAlgorithm) -> None:
    assert parse_request(asked(77, hash_=hash_)).cert_ids == (cert_id(issuing_ca().info, 77, hash_.name),)


def test_unknown_hash_matches_no_issuer() -> None:
    encoded = cert_id(issuing_ca().info, 5).encoded.replace(der.oid("1.3.14.3.2.26"), der.oid("1.3.14.3.2.27"))
    (found,) = parse_request(raw(encoded)).cert_ids
    assert found.hash_name is None
    assert not matches(issuing_ca().info, found)
    assert found.encoded == encoded


def test_several_certificates_in_one_request() -> None:
    assert [found.serial for found in parse_request(asked(1, 2, 3)).cert_ids] == [1, 2, 3]


@pytest.mark.parametrize("size", [1, 16, 32, 128])
def test_nonce_of_an_allowed_length_is_read(size: int) -> None:
    assert parse_request(asked(5, nonce=b"n" * size)).nonce == b"n" * size


def test_optional_parts_are_accepted() -> None:
    encoded = cert_id(issuing_ca().info, 5).encoded
    name = der.tlv(0xA1, der.tlv(0xA4, b"\x30\x00"))
    version = b"\xa0\x03\x02\x01\x00"
    unknown = der.tlv(0x30, der.oid("1.2.3.4"), der.tlv(4, b"\x05\x00"))
    signature = der.tlv(0xA0, b"\x30\x00")
    parsed = parse_request(
        raw(
            encoded,
            before=version + name,
            after=der.tlv(0xA2, der.tlv(0x30, unknown)),
            signature=signature,
            single=der.tlv(0xA0, der.tlv(0x30, unknown)),
        )
    )
    assert parsed == OcspRequest((cert_id(issuing_ca().info, 5),), None)


GOOD_ID = der.tlv(
    0x30, der.tlv(0x30, der.oid("1.3.14.3.2.26"), b"\x05\x00"), der.tlv(4, bytes(20)), der.tlv(4, bytes(20)), b"\x02\x01\x05"
)
CRITICAL = der.tlv(0xA2, der.tlv(0x30, der.tlv(0x30, der.oid("1.2.3.4"), b"\x01\x01\xff", der.tlv(4, b"\x05\x00"))))
MALFORMED = {
    "empty": b"",
    "no sequence": b"\x04\x00",
    "truncated": raw(GOOD_ID)[:-1],
    "trailing": raw(GOOD_ID) + b"\x00",
    "no certificate": raw(),
    "too many certificates": raw(*[GOOD_ID] * 65),
    "version 2": raw(GOOD_ID, before=b"\xa0\x03\x02\x01\x01"),
    "out of order": raw(GOOD_ID, before=b"\xa2\x00"),
    "field twice": raw(GOOD_ID, after=nonce_extension(b"n") * 2),
    "unknown field": raw(GOOD_ID, after=b"\xa3\x00"),
    "unknown part behind": raw(GOOD_ID, signature=b"\xa1\x00"),
    "request of another type": der.tlv(0x30, der.tlv(0x30, der.tlv(0x30, b"\x31\x00"))),
    "request without CertID": der.tlv(0x30, der.tlv(0x30, der.tlv(0x30, b"\x30\x00"))),
    "CertID without serial": raw(der.tlv(0x30, b"\x30\x00\x04\x00\x04\x00")),
    "CertID with empty algorithm": raw(der.tlv(0x30, b"\x30\x00\x04\x00\x04\x00\x02\x01\x05")),
    "CertID with empty serial": raw(der.tlv(0x30, b"\x30\x02\x06\x00\x04\x00\x04\x00\x02\x00")),
    "CertID with huge serial": raw(der.tlv(0x30, b"\x30\x02\x06\x00\x04\x00\x04\x00", der.tlv(2, b"\x01" * 65))),
    "empty nonce": raw(GOOD_ID, after=nonce_extension(b"")),
    "long nonce": raw(GOOD_ID, after=nonce_extension(b"n" * 129)),
    "bare nonce": raw(GOOD_ID, after=nonce_extension(b"nonce", wrapped=False)),
    "two nonces": raw(GOOD_ID, after=nonce_extension(b"n", times=2)),
    "critical extension": raw(GOOD_ID, after=CRITICAL),
    "extension of another type": raw(GOOD_ID, after=der.tlv(0xA2, der.tlv(0x30, b"\x31\x00"))),
    "extension without value": raw(GOOD_ID, after=der.tlv(0xA2, der.tlv(0x30, der.tlv(0x30, der.oid("1.2.3"))))),
    "indefinite length": b"\x30\x80\x00\x00",
    "long length": b"\x30\x81\x05" + b"\x30\x03\x30\x01\x00",
    "length of length": b"\x30\x85\x00\x00\x00\x00\x00",
    "length cut off": b"\x30\x82\x01",
    "tag alone": b"\x30",
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_request_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedRequest):
        parse_request(data)


def test_the_malformed_requests_differ_from_a_good_one_only_in_their_fault() -> None:
    assert parse_request(raw(GOOD_ID, after=nonce_extension(b"n"))).nonce == b"n"


def test_huge_request_is_refused_unread() -> None:
    with pytest.raises(TooLarge):
        parse_request(bytes(20_000))


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutated_request_parses_or_is_refused(data: st.DataObject) -> None:
    octets = bytearray(raw(GOOD_ID, after=nonce_extension(b"nonce")))
    for _ in range(data.draw(st.integers(1, 4))):
        octets[data.draw(st.integers(0, len(octets) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(RequestError):
        assert isinstance(parse_request(bytes(octets)), OcspRequest)


@pytest.mark.parametrize("kind", ["p-256", "p-384", "rsa-2048", "ed25519", "ml-dsa-44"])
def test_library_reads_every_state(kind: str) -> None:
    wanted = parse_request(asked(1, 2, 3)).cert_ids
    singles = [
        status_of(wanted[0]),
        status_of(wanted[1], CertState.REVOKED, Reason.KEY_COMPROMISE),
        status_of(wanted[2], CertState.UNKNOWN),
    ]
    response = ocsp.load_der_ocsp_response(answer(singles, nonce=b"12345678", kind=kind))
    states = [single.certificate_status for single in response.responses]
    assert states == [ocsp.OCSPCertStatus.GOOD, ocsp.OCSPCertStatus.REVOKED, ocsp.OCSPCertStatus.UNKNOWN]
    revoked = list(response.responses)[1]
    assert revoked.revocation_reason is x509.ReasonFlags.key_compromise
    assert revoked.serial_number == 2
    assert response.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == b"12345678"
    assert response.responder_key_hash == responder(kind)[1]
    assert len(response.certificates) == 1


def test_response_is_byte_for_byte_what_the_library_builds() -> None:
    certificate = x509.load_der_x509_certificate(leaf(9))
    when = certificate.not_valid_before_utc.replace(microsecond=0)
    now_ms = int(when.timestamp()) * 1000
    expected = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            certificate,
            issuing_ca().info.certificate,
            hashes.SHA1(),
            ocsp.OCSPCertStatus.REVOKED,
            when,
            when,
            when,
            x509.ReasonFlags.certificate_hold,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, x509.load_der_x509_certificate(responder()[0]))
        .add_extension(x509.OCSPNonce(b"n" * 32), critical=False)
        .sign(private_key("p-256"), hashes.SHA256())  # type: ignore[arg-type]
    )
    single = SingleStatus(cert_id(issuing_ca().info, 9), CertState.REVOKED, now_ms, now_ms, now_ms, Reason.CERTIFICATE_HOLD)
    produced = int(expected.produced_at_utc.timestamp()) * 1000
    ours = build_response_tbs(responder_key=responder()[1], singles=[single], produced_ms=produced, nonce=b"n" * 32)
    assert ours == expected.tbs_response_bytes


def test_reason_next_update_and_certificate_may_be_absent() -> None:
    single = replace(status_of(cert_id(issuing_ca().info, 9), CertState.REVOKED), next_update_ms=None)
    response = ocsp.load_der_ocsp_response(answer([single], with_certificate=False))
    assert response.revocation_reason is None
    assert response.next_update_utc is None
    assert response.certificates == []


@pytest.mark.parametrize("status", list(ResponseStatus))
def test_error_responses_are_read_by_the_library(status: ResponseStatus) -> None:
    assert ocsp.load_der_ocsp_response(error_response(status)).response_status.value == status.value


def test_openssl_asks_and_agrees_on_good_revoked_and_unknown(tmp_path: Path) -> None:
    verify_with_openssl(tmp_path, issuing_ca(), leaf(11))
    options = ["openssl", "ocsp", "-issuer", "ca.pem", "-serial", "11", "-serial", "12", "-serial", "13"]
    subprocess.run([*options, "-reqout", "request.der"], cwd=tmp_path, check=True, capture_output=True)
    parsed = parse_request((tmp_path / "request.der").read_bytes())
    states = (CertState.GOOD, CertState.REVOKED, CertState.UNKNOWN)
    singles = [status_of(*pair, Reason.SUPERSEDED) for pair in zip(parsed.cert_ids, states, strict=True)]
    (tmp_path / "response.der").write_bytes(answer(singles, nonce=parsed.nonce))
    trust = ["-respin", "response.der", "-CAfile", "root.pem", "-verify_other", "ca.pem"]
    trust += ["-attime", str(NOW_MS // 1000), "-validity_period", "10000000000"]
    with_nonce = ["openssl", "ocsp", "-reqin", "request.der", *trust]
    result = subprocess.run(with_nonce, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.stderr == "Response verify OK\n"
    result = subprocess.run([*options, "-no_nonce", *trust], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.stderr == "Response verify OK\n"
    assert "11: good" in result.stdout
    assert "12: revoked" in result.stdout
    assert "Reason: superseded" in result.stdout
    assert "13: unknown" in result.stdout

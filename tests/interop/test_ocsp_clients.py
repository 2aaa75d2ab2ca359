"""What others read of the running gateway's revocation lists and OCSP answers: all agree, for each state of a certificate."""

from __future__ import annotations

import datetime
import subprocess
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.support import est_clients
from tests.support.ocsp_clients import get_status, gnutls_status, openssl_status
from tests.support.plant_gateway import Plant, openssl

#: Far longer than a publication takes; it only ends a test that would otherwise hang.
_DEADLINE_S = 60.0


@pytest.fixture
def certificate(plant: Plant, tmp_path: Path) -> Path:
    """PEM of a certificate that was just issued, with its key beside it."""
    service = plant.service(tmp_path)
    _, request = est_clients.openssl_request(service, f"status-{tmp_path.name}"[:60])
    done = est_clients.curl(service, "simpleenroll", body=request.read_bytes(), user=plant.token.credentials)
    path = tmp_path / "device.pem"
    openssl("x509", "-inform", "DER", "-out", path, input_=done.certificate)
    return path


def published_after(plant: Plant, certificate: Path, status: str) -> dict[str, bytes]:
    """The lists once the last change of this certificate is on them: changes within a second come out as one list."""
    serial = x509.load_pem_x509_certificate(certificate.read_bytes()).serial_number
    deadline = time.monotonic() + _DEADLINE_S
    while True:
        lists = plant.crls()
        found = x509.load_der_x509_crl(lists["1.crl"]).get_revoked_certificate_by_serial_number(serial)
        if (found is not None) is (status == "revoked"):
            return lists
        assert time.monotonic() < deadline, f"the list does not say {status}"
        time.sleep(0.05)  # another process publishes; a poll is how a client learns of it


def agree(plant: Plant, certificate: Path, status: str, reason: str = "") -> None:
    """openssl ocsp with and without nonce, by GET in both forms, ocsptool, openssl crl and openssl verify say the same."""
    url, work = plant.text("ocsp"), certificate.parent
    places = {"issuer": plant.issuing, "anchor": plant.anchors}
    for nonce in (True, False):
        said = openssl_status(url, [certificate], **places, nonce=nonce)
        assert f"{certificate}: {status}" in said, said
        assert "Response verify OK" in said, said
        assert "WARNING: no nonce" not in said or not nonce, said
        if reason:
            assert f"Reason: {reason}" in said, said
    for encoded in (True, False):
        assert f": {status}" in get_status(url, certificate, **places, work=work, encoded=encoded)
    said = gnutls_status(url, certificate, issuer=plant.issuing, anchor=plant.issuing)  # it builds no chain to the root
    assert f"Certificate Status: {status}" in said, said
    assert "Verifying OCSP Response: Success." in said, said

    lists = work / "lists.pem"
    lists.write_bytes(b"")
    published = published_after(plant, certificate, status)
    for der in published.values():
        with lists.open("ab") as file:
            file.write(openssl("crl", "-inform", "DER", input_=der).encode())
    serial = f"{x509.load_pem_x509_certificate(certificate.read_bytes()).serial_number:X}"
    listed = openssl("crl", "-inform", "DER", "-noout", "-text", input_=published["1.crl"])
    checked = openssl("crl", "-inform", "DER", "-noout", "-CAfile", plant.issuing, input_=published["1.crl"])
    assert "verify OK" in checked
    assert (f"Serial Number: {serial.zfill(len(serial) + len(serial) % 2)}\n" in listed) is (status == "revoked"), listed
    verify = ["verify", "-crl_check_all", "-CRLfile", lists, "-CAfile", plant.anchors, "-untrusted", plant.issuing, certificate]
    if status == "revoked":
        assert "certificate revoked" in openssl(*verify, code=2)
    elif status == "good":
        assert "OK" in openssl(*verify)


def test_everyone_says_good_of_a_new_certificate(plant: Plant, certificate: Path) -> None:
    agree(plant, certificate, "good")


def test_everyone_says_revoked_after_revoke_and_why(plant: Plant, certificate: Path) -> None:
    plant.revoke(certificate, "--reason", "keyCompromise")
    agree(plant, certificate, "revoked", "keyCompromise")


def test_a_hold_is_seen_and_lifted_by_everyone(plant: Plant, certificate: Path) -> None:
    plant.revoke(certificate, "--reason", "certificateHold")
    agree(plant, certificate, "revoked", "certificateHold")
    plant.revoke(certificate, "--release")
    agree(plant, certificate, "good")


def test_everyone_says_unknown_of_a_serial_that_was_never_issued(plant: Plant, tmp_path: Path) -> None:
    """The names are ours, the serial is in no record: whoever stole the CA's key gets no "good" for what he made."""
    issuer = x509.load_pem_x509_certificate(plant.issuing.read_bytes()).subject
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.UTC)
    forged = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stranger")]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    stranger = tmp_path / "stranger.pem"
    stranger.write_bytes(forged.public_bytes(Encoding.PEM))
    agree(plant, stranger, "unknown")


def test_a_revoked_certificate_renews_nothing_and_a_held_one_after_its_release(plant: Plant, tmp_path: Path) -> None:
    service = plant.service(tmp_path)
    key, request = est_clients.openssl_request(service, "held")
    done = est_clients.curl(service, "simpleenroll", body=request.read_bytes(), user=plant.token.credentials)
    path = tmp_path / "held.pem"
    openssl("x509", "-inform", "DER", "-out", path, input_=done.certificate)

    def renew() -> int:
        return est_clients.curl(service, "simplereenroll", body=request.read_bytes(), client=(path, key)).status

    plant.revoke(path, "--reason", "certificateHold")
    assert renew() == 401
    plant.revoke(path, "--release")
    assert renew() == 200
    plant.revoke(path, "--reason", "superseded")
    assert renew() == 401


def test_several_certificates_in_one_request(plant: Plant, certificate: Path, tmp_path: Path) -> None:
    tls = tmp_path / "tls.pem"
    host = plant.text("https").removeprefix("https://")
    shown = subprocess.run(["openssl", "s_client", "-connect", host], input=b"", capture_output=True, check=True).stdout
    openssl("x509", "-out", tls, input_=shown)
    said = openssl_status(plant.text("ocsp"), [certificate, tls], issuer=plant.issuing, anchor=plant.anchors)
    assert f"{certificate}: good" in said, said
    assert f"{tls}: good" in said, said

"""Requests of strongSwan's ``pki --req`` (Debian package strongswan-pki), which leaves the attributes unsorted."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from gateway.errors import BadProofOfPossession, MalformedRequest
from gateway.pki.csr import read_csr
from gateway.pki.leniency import ALL_LENIENCIES, CSR_UNORDERED_SET
from gateway.pki.sans import san_to_text

SUBJECT = "C=DE, O=Example, CN=router-7"
SAN = ("--san", "router-7.plant.example", "--san", "192.0.2.7")
PASSWORD = ("--password", "secret")


def request_of_strongswan(directory: Path, algorithm: str, bits: str, *options: str) -> bytes:
    """A fresh key of strongSwan's own and what ``pki --req`` makes with it, in DER."""
    key = directory / "key.der"
    with key.open("wb") as out:
        subprocess.run(["pki", "--gen", "--type", algorithm, "--size", bits], stdout=out, stderr=subprocess.PIPE, check=True)
    command = ["pki", "--req", "--in", str(key), "--type", algorithm, "--dn", SUBJECT, "--digest", "sha256", *options]
    return subprocess.run(command, capture_output=True, check=True).stdout


@pytest.mark.parametrize(("algorithm", "bits"), [("ecdsa", "256"), ("rsa", "2048")])
def test_san_with_challenge_password_needs_the_switch_that_the_refusal_names(algorithm: str, bits: str, tmp_path: Path) -> None:
    data = request_of_strongswan(tmp_path, algorithm, bits, *SAN, *PASSWORD)
    with pytest.raises(MalformedRequest, match=rf"not in DER order .*leniency switch: {CSR_UNORDERED_SET}"):
        read_csr(data)
    with pytest.raises(MalformedRequest, match=CSR_UNORDERED_SET):
        read_csr(data, leniency=ALL_LENIENCIES - {CSR_UNORDERED_SET})
    request = read_csr(data, leniency=frozenset({CSR_UNORDERED_SET}))
    assert request.leniencies == (CSR_UNORDERED_SET,)
    assert [san_to_text(name) for name in request.san] == ["DNS:router-7.plant.example", "IP:192.0.2.7"]
    assert request.challenge_password == b"secret"
    assert request.subject.rfc4514_string() == "CN=router-7,O=Example,C=DE"
    assert request.der == data


def test_the_switch_does_not_stand_in_for_the_signature(tmp_path: Path) -> None:
    data = request_of_strongswan(tmp_path, "ecdsa", "256", *SAN, *PASSWORD)
    forged = data.replace(b"router-7.plant", b"router-8.plant")
    assert forged != data
    with pytest.raises(BadProofOfPossession):
        read_csr(forged, leniency=frozenset({CSR_UNORDERED_SET}))


@pytest.mark.parametrize("options", [(), SAN, PASSWORD], ids=["plain", "san", "password"])
def test_one_attribute_alone_is_in_order(options: tuple[str, ...], tmp_path: Path) -> None:
    request = read_csr(request_of_strongswan(tmp_path, "ecdsa", "256", *options))
    assert request.leniencies == ()
    assert len(request.san) == options.count("--san")

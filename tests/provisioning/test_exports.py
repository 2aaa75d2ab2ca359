"""Lists for other systems: read with the standard library's readers."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import MalformedRequest
from provisioning.exports import COLUMNS, aws_registration, order_csv, pem
from tests.support.parties import issuers, produced

DEVICE = produced()


def test_the_csv_of_an_order_has_a_line_for_each_device() -> None:
    lines = list(order_csv([DEVICE, produced("D7-000124", "rsa-2048")]))
    first, second = csv.DictReader(lines)
    assert list(first) == list(COLUMNS)
    assert (first["serial"], first["key_type"], second["serial"], second["key_type"]) == (
        "D7-000123",
        "p-256",
        "D7-000124",
        "rsa-2048",
    )
    assert (first["issued"], first["finished"]) == ("2026-09-21T14:13:20.500Z", "2026-09-21T14:13:21.750Z")
    assert first["label_prints"] == "2"
    assert all(line.endswith("\r\n") for line in lines)


def test_a_time_that_is_not_known_is_empty() -> None:
    (row,) = csv.DictReader(order_csv([replace(DEVICE, steps=(), finished_ms=0)]))
    assert (row["issued"], row["finished"]) == ("", "")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_whatever_a_cell_holds_the_csv_keeps_its_lines_and_columns(text: str) -> None:
    rows = list(csv.reader(order_csv([replace(DEVICE, product=text)]), strict=True))
    assert [len(row) for row in rows] == [len(COLUMNS)] * 2
    assert rows[1][1].removeprefix("'") == text.removeprefix("'")


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1"])
def test_no_cell_is_a_formula(text: str) -> None:
    (row,) = csv.DictReader(order_csv([replace(DEVICE, station=text)]))
    assert row["station"] == "'" + text


def test_aws_gets_one_json_object_a_line() -> None:
    lines = list(aws_registration([DEVICE, produced("D7-000124")]))
    assert all(line.endswith(b"}\n") and line.count(b"\n") == 1 for line in lines)
    first = json.loads(lines[0])
    assert set(first) == {"ThingName", "SerialNumber", "CertificatePem", "CACertificatePem"}
    assert (first["ThingName"], first["SerialNumber"]) == ("D7-000123", "D7-000123")
    assert x509.load_pem_x509_certificate(first["CertificatePem"].encode()) == x509.load_der_x509_certificate(
        DEVICE.certificate
    )
    assert first["CACertificatePem"] == pem(issuers()[0])


@pytest.mark.parametrize("serial", ["", "a b", "ü", "a/b", "x" * 129])
def test_a_serial_that_is_no_name_of_a_thing_is_refused(serial: str) -> None:
    with pytest.raises(MalformedRequest):
        list(aws_registration([replace(DEVICE, serial=serial)]))

"""Lists of a drop: what is read, what is refused in words with its line, and what refuses the whole list."""

from __future__ import annotations

import base64
import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import MalformedRequest, RequestError, TooLarge
from provisioning.droplist import (
    EVENTS,
    MOST_CSR_OCTETS,
    MOST_LINES,
    Refusal,
    ReportLine,
    UnitLine,
    csr_der,
    csv_line,
    read_reports,
    read_units,
    safe_name,
)
from tests.support.csrs import make_csr

HEAD = b"order,serial,chip,csr\n"


def refusals(data: bytes) -> list[Refusal]:
    return read_units(data)[1]


def test_a_line_is_a_unit() -> None:
    lines, refused = read_units(HEAD + b"A-1,S-1,c0ffee,1.csr\nA-1,S-2,,2.csr\n")
    assert lines == [UnitLine(2, "A-1", "S-1", "c0ffee", "1.csr"), UnitLine(3, "A-1", "S-2", "", "2.csr")]
    assert refused == []


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbforder;serial;csr\r\nA;S;f\r\n",
        b"order\tserial\tcsr\nA\tS\tf",
        b'"Order","SERIAL","csr"\n"A","S","f"\n\n,,\n',
        b"csr,serial,order\nf,S,A\n",
        b"order,serial,csr\n A , S , f \n",
    ],
)
def test_lists_of_every_spreadsheet_are_read(data: bytes) -> None:
    assert read_units(data) == ([UnitLine(2, "A", "S", "", "f")], [])


def test_numbers_of_lines_are_those_of_an_editor() -> None:
    lines, refused = read_units(HEAD + b"\n\nA,S-1,,1.csr\n\nA,,,2.csr\nA,S-3,,3.csr")
    assert [each.line for each in lines] == [4, 7]
    assert refused == [Refusal(6, "A", "", "serial is empty")]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b",S,,f", "order is empty"),
        (b"A,S,,", "csr is empty"),
        (b"A,S,f", "3 cells, and there are 4 columns"),
        (b"A,S,,f,x", "5 cells"),
        (b'A,"S,,f', "no CSV"),
        (b'A,S"x"y,"z"w,f', "no CSV"),
        (b"A,S\xfc,,f", "not UTF-8"),
        (b"A,S\x00,,f", "control character"),
        (b"A,S\x1b[2J,,f", "control character"),
        (b"A,S,,\xe2\x80\xaef", "control character"),
        (b"A," + b"x" * 201 + b",,f", "longer than 200"),
        (b"A,S,," + b"x" * 5000, "longer than 4096"),
    ],
    ids=map(str, range(12)),
)
def test_a_wrong_line_costs_itself_and_no_other(line: bytes, says: str) -> None:
    lines, refused = read_units(HEAD + b"A,S-1,,1.csr\n" + line + b"\nA,S-2,,2.csr\n")
    assert [each.line for each in lines] == [2, 4]
    assert [each.line for each in refused] == [3]
    assert says in refused[0].text


def test_a_serial_number_that_stands_twice_is_done_for_neither() -> None:
    lines, refused = read_units(HEAD + b"A,S-1,,1.csr\nA,S-2,,2.csr\nA,S-1,,3.csr\nB,S-1,,4.csr\n")
    assert [each.line for each in lines] == [3, 5]
    assert [(each.line, each.text) for each in refused] == [
        (2, "the serial number S-1 stands in lines 2, 4; nothing was done for any of them"),
        (4, "the serial number S-1 stands in lines 2, 4; nothing was done for any of them"),
    ]


def test_a_file_that_is_named_twice_is_used_for_neither() -> None:
    assert [each.line for each in refusals(HEAD + b"A,S-1,,1.csr\nA,S-2,,1.csr\n")] == [2, 3]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "column"),
        (b"order,serial,chipp,csr\n", "no column 'chipp'"),
        (b"order,chip,csr\n", "'serial' is missing"),
        (b"order,serial,csr,csr\n", "twice"),
        ("order,serial,csr\n".encode("utf-16"), "UTF-16"),
        ("order,serial,csr\n".encode("utf-16-be"), "UTF-16"),
        (b"PK\x03\x04", "no column"),
    ],
)
def test_a_list_with_other_columns_or_another_encoding_is_refused_whole(data: bytes, says: str) -> None:
    with pytest.raises(MalformedRequest, match=says):
        read_units(data)


def test_too_many_lines_and_too_many_octets_are_refused_whole() -> None:
    lines = b"".join(b"A,S-%d,,%d.csr\n" % (number, number) for number in range(MOST_LINES))
    assert len(read_units(HEAD + lines)[0]) == MOST_LINES
    with pytest.raises(TooLarge, match="100000 lines"):
        read_units(HEAD + lines + b"A,S,,f\n")
    with pytest.raises(TooLarge, match="32 MiB"):
        read_units(HEAD + b"\n" * (32 << 20))


def test_reports_are_events_of_units() -> None:
    lines, refused = read_reports(
        b"order,serial,event,detail\nA,S-1,written,\nA,S-1,verified,after reset\nA,S-1,exploded,\n,S,written,\n"
    )
    assert lines == [ReportLine(2, "A", "S-1", "written", ""), ReportLine(3, "A", "S-1", "verified", "after reset")]
    assert [each.line for each in refused] == [4, 5]
    assert all(event in refused[0].text for event in EVENTS)


@given(st.binary(max_size=400))
def test_whatever_follows_the_header_is_a_line_or_a_refusal(octets: bytes) -> None:
    try:
        lines, refused = read_units(HEAD + octets)
    except RequestError:
        return
    numbers = [each.line for each in lines] + [each.line for each in refused]
    assert len(set(numbers)) == len(numbers) == sum(1 for line in octets.split(b"\n") if line.strip(b" \t\r,;"))


@given(st.binary(max_size=200))
def test_whatever_a_list_is_it_is_read_or_refused(octets: bytes) -> None:
    for reader in (read_units, read_reports):
        try:
            reader(octets)
        except RequestError:
            continue


DER = make_csr()
PEM = b"-----BEGIN CERTIFICATE REQUEST-----\n" + base64.encodebytes(DER) + b"-----END CERTIFICATE REQUEST-----\n"


@pytest.mark.parametrize(
    "content", [DER, PEM, PEM.replace(b"\n", b"\r\n"), b"Subject: x\n" + PEM, PEM.replace(b"CERTIFICATE", b"NEW CERTIFICATE")]
)
def test_requests_are_der_or_pem(content: bytes) -> None:
    assert csr_der(content) == DER


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"", "neither"), (b"hello", "neither"), (PEM.replace(b"MI", b"*I"), "damaged"), (PEM[:100], "neither")],
)
def test_what_is_no_request_is_refused(content: bytes, says: str) -> None:
    with pytest.raises(MalformedRequest, match=says):
        csr_der(content)


def test_a_request_that_is_too_large_is_refused() -> None:
    with pytest.raises(TooLarge):
        csr_der(b"\x30" * (MOST_CSR_OCTETS + 1))


@given(st.text())
def test_names_of_files_are_harmless(text: str) -> None:
    name = safe_name(text)
    assert name.isascii()
    assert 1 <= len(name) <= 64
    assert not set(name) & set('/\\:*?"<>|\n ')
    assert name not in {".", ".."}
    assert not name.startswith(".")


def test_lines_of_answers_are_csv_without_formulas() -> None:
    assert list(csv.reader([csv_line(["a,b", 'c"d', "=1", "x"])])) == [["a,b", 'c"d', "'=1", "x"]]

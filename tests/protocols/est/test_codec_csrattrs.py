"""csrattrs (RFC 7030 section 4.5.2, RFC 9908): what they say for each kind of profile, read back by OpenSSL's own parser."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace

import pytest

from gateway.pki.profiles import ALL_KEY_TYPES, BUILTIN_PROFILES, Profile
from gateway.protocols.est.csrattrs import encode_csrattrs

OPEN = Profile("open", key_usage=())
TEMPLATE = "id-aa-certificationRequestInfoTemplate"
#: Names that OpenSSL does not have for these OIDs.
_NAMES = {"1.2.840.113549.1.9.16.2.61": TEMPLATE, "1.2.840.113549.1.9.16.2.62": "id-aa-extensionReqTemplate"}


def asn1(encoded: bytes) -> list[str]:
    """``DEPTH TYPE VALUE`` of each element, as ``openssl asn1parse`` prints them."""
    command = ["openssl", "asn1parse", "-inform", "DER"]
    printed = subprocess.run(command, input=encoded, capture_output=True, check=True).stdout.decode()
    lines = []
    for line in printed.splitlines():
        match = re.fullmatch(r" *\d+:d=(\d+) +hl=\d+ +l= *\d+ (?:prim|cons): (.*?) *(?::(.*))?", line)
        assert match, line
        value, kind = match[3] or "", match[2].removesuffix("[HEX DUMP]").strip()
        lines.append(f"{match[1]} {kind} {_NAMES.get(value, value)}".strip())
    return lines


def said(profile: Profile, wanted: tuple[str, ...] = ()) -> tuple[list[str], list[str]]:
    """What older clients read, and the template."""
    encoded = encode_csrattrs(profile, wanted)
    assert encoded is not None
    lines = asn1(encoded)
    assert lines[0] == "0 SEQUENCE"
    at = lines.index(f"2 OBJECT {TEMPLATE}") - 1
    assert lines[at : at + 5] == ["1 SEQUENCE", f"2 OBJECT {TEMPLATE}", "2 SET", "3 SEQUENCE", "4 INTEGER 00"]
    return lines[1:at], lines[at + 5 :]


def key_types(*names: str) -> Profile:
    return replace(OPEN, key_types=frozenset(names))


def test_one_curve_is_named_in_both_forms() -> None:
    older, template = said(key_types("p-384"))
    assert older == [
        "1 SEQUENCE", "2 OBJECT id-ecPublicKey", "2 SET", "3 OBJECT secp384r1", "1 OBJECT ecdsa-with-SHA384",
    ]  # fmt: skip
    assert template == [
        "4 cont [ 0 ]", "5 SEQUENCE", "6 OBJECT id-ecPublicKey", "6 OBJECT secp384r1", "4 cont [ 1 ]",
    ]  # fmt: skip


def test_one_rsa_size_is_a_number_and_a_placeholder_key_of_that_length() -> None:
    older, template = said(key_types("rsa-3072"))
    assert older == [
        "1 SEQUENCE", "2 OBJECT rsaEncryption", "2 SET", "3 INTEGER 0C00", "1 OBJECT sha256WithRSAEncryption",
    ]  # fmt: skip
    assert template == [
        "4 cont [ 0 ]", "5 SEQUENCE", "6 OBJECT rsaEncryption", "6 NULL", "5 BIT STRING", "4 cont [ 1 ]",
    ]  # fmt: skip
    encoded = encode_csrattrs(key_types("rsa-3072"))
    assert encoded is not None
    _, _, after = encoded.partition(b"\x03\x82\x01\x8f\x00")
    assert asn1(after[:-2]) == ["0 SEQUENCE", "1 INTEGER " + "FF" * 384, "1 INTEGER 010001"]


@pytest.mark.parametrize("sizes", [("rsa-2048", "rsa-3072"), ("rsa>=2048",), ("rsa>=2048", "rsa-8192")])
def test_several_rsa_sizes_are_named_without_a_size(sizes: tuple[str, ...]) -> None:
    older, template = said(key_types(*sizes))
    assert older == ["1 OBJECT rsaEncryption", "1 OBJECT sha256WithRSAEncryption"]
    assert template == ["4 cont [ 0 ]", "5 SEQUENCE", "6 OBJECT rsaEncryption", "6 NULL", "4 cont [ 1 ]"]


def test_several_curves_are_said_to_older_clients_only() -> None:
    older, template = said(key_types("p-256", "p-384"))
    assert (older, template) == (["1 OBJECT id-ecPublicKey"], ["4 cont [ 1 ]"])


@pytest.mark.parametrize("types", [("p-256", "rsa-2048"), ("p-256", "ed25519"), ("ed25519", "ml-dsa-65"), ("ed448",)])
def test_a_choice_of_algorithms_is_not_mentioned(types: tuple[str, ...]) -> None:
    assert encode_csrattrs(key_types(*types)) is None


@pytest.mark.parametrize("name", sorted(ALL_KEY_TYPES))
def test_every_key_type_of_the_profiles_can_be_said(name: str) -> None:
    _, template = said(key_types(name))
    assert template[0] == "4 cont [ 0 ]"


def test_subject_attributes_to_be_filled_in_stand_without_a_value() -> None:
    older, template = said(replace(OPEN, subject_required=("CN", "O")), ("serialNumber", "CN"))
    assert older == ["1 OBJECT commonName", "1 OBJECT organizationName", "1 OBJECT serialNumber"]
    rdns = [
        line
        for name in ("commonName", "organizationName", "serialNumber")
        for line in ("5 SET", "6 SEQUENCE", f"7 OBJECT {name}")
    ]
    assert template == ["4 SEQUENCE", *rdns, "4 cont [ 1 ]"]


def test_a_template_subject_shows_fixed_values_and_what_the_request_must_bring() -> None:
    profile = replace(
        OPEN,
        subject_template=("C=DE", "O=Acme", "OU=A", "OU=B", "CN=plc-{serialNumber}"),
        subject_required=("CN",),
        san_template=("HMN:1.3.6.1.4.1.32473.1:{serialNumber.hex}", "DNS:{CN}"),
    )
    older, template = said(profile)
    names = ["countryName", *["organizationName"], *["organizationalUnitName"] * 2, "serialNumber", "commonName"]
    assert older == [f"1 OBJECT {name}" for name in names]
    assert [line for line in template if line.startswith("7 ")] == [
        "7 OBJECT countryName", "7 PRINTABLESTRING DE", "7 OBJECT organizationName", "7 UTF8STRING Acme",
        "7 OBJECT organizationalUnitName", "7 UTF8STRING A", "7 OBJECT organizationalUnitName", "7 UTF8STRING B",
        "7 OBJECT serialNumber", "7 OBJECT commonName",
    ]  # fmt: skip


def hexdump(*names: str) -> str:
    content = "".join(names)
    return f"30{len(content) // 2:02X}{content}"


def test_required_kinds_of_names_are_empty_names_to_be_filled_in() -> None:
    profile = replace(
        OPEN,
        san_allowed=frozenset({"DNS", "IP", "URI", "email"}),
        san_required=frozenset({"IP", "email"}),
        san_required_any=frozenset({"IP", "DNS"}),  # settled by IP
        san_template=("URI:urn:x",),
        subject_template=("CN={DNS}",),
        extended_key_usage=("clientAuth",),
    )
    older, template = said(profile)
    assert older[:2] == ["1 OBJECT X509v3 Subject Alternative Name", "1 SEQUENCE"]
    uri = "8605" + b"urn:x".hex().upper()
    assert template == [
        "4 cont [ 1 ]", "5 SEQUENCE", "6 OBJECT id-aa-extensionReqTemplate", "6 SET", "7 SEQUENCE",
        "8 SEQUENCE", "9 OBJECT X509v3 Subject Alternative Name", f"9 OCTET STRING {hexdump(uri, '8200', '8700', '8100')}",
        "8 SEQUENCE", "9 OBJECT X509v3 Extended Key Usage", "9 OCTET STRING 300A06082B06010505070302",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"san_required_any": frozenset({"DNS", "IP"})},
        {"san_required": frozenset({"URI"}), "san_required_any": frozenset({"DNS", "IP"})},
        {"san_required": frozenset({"HMN"})},
        {"san_required_any": frozenset({"DNS"}), "san_default": ("DNS:{CN}",)},
    ],
)
def test_an_or_and_a_kind_without_an_empty_form_are_left_to_the_client(changes: dict[str, frozenset[str]]) -> None:
    older, template = said(replace(OPEN, san_allowed=frozenset({"DNS", "IP", "URI", "HMN"}), **changes))  # type: ignore[arg-type]
    assert older == ["1 OBJECT X509v3 Subject Alternative Name"]
    assert template[-2:] == ["8 SEQUENCE", "9 OBJECT X509v3 Subject Alternative Name"]


def test_names_that_the_profile_fixes_are_complete_where_a_request_may_bring_them() -> None:
    fixed = replace(OPEN, san_template=("DNS:plant.example", "URI:urn:x"), san_required_any=frozenset({"DNS"}))
    assert encode_csrattrs(fixed) is None
    older, template = said(replace(fixed, san_allowed=frozenset({"DNS"})))
    dump = hexdump("820D" + b"plant.example".hex().upper())
    assert older == [
        "1 SEQUENCE", "2 OBJECT Extension Request", "2 SET", "3 SEQUENCE", "4 SEQUENCE",
        "5 OBJECT X509v3 Subject Alternative Name", f"5 OCTET STRING {dump}",
    ]  # fmt: skip
    assert [line[2:] for line in template[1:]] == [line[2:] for line in older]


def test_usages_are_shown_where_they_do_not_depend_on_the_key() -> None:
    server = BUILTIN_PROFILES["tls-server"]  # keyEncipherment for RSA only
    usage, extended = "OBJECT X509v3 Key Usage", "OBJECT X509v3 Extended Key Usage"
    assert f"5 {usage}" not in said(server)[0]
    assert f"5 {extended}" in said(server)[0]
    older, template = said(replace(server, key_types=frozenset({"rsa-2048"})))
    at = older.index(f"5 {usage}")
    assert older[at + 1 : at + 3] == ["5 BOOLEAN 255", "5 OCTET STRING 030205A0"]
    assert f"9 {usage}" in template


@pytest.mark.parametrize("name", sorted(BUILTIN_PROFILES))
def test_every_builtin_profile_has_an_answer_with_one_kind_of_extension_request(name: str) -> None:
    """RFC 9908 section 3.4: never both, and each at most once."""
    older, template = said(BUILTIN_PROFILES[name])
    requests = [line for line in template if line.endswith(("Extension Request", "id-aa-extensionReqTemplate"))]
    assert len(requests) <= 1
    assert sum(line.endswith("Extension Request") for line in older) <= 1
    assert "challengePassword" not in " ".join(older + template)

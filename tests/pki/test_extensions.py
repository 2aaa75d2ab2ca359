"""Which names a certificate may carry, and the DER of the extensions."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import Forbidden, MalformedRequest
from gateway.pki import der
from gateway.pki.extensions import (
    Publication,
    authority_key_identifier,
    check_dns_name,
    copied_extensions,
    extension,
    fixed_extensions,
    general_name,
    key_usage,
    kind_of,
    named_bits,
)
from gateway.pki.names import name_from_text
from gateway.pki.profiles import BUILTIN_PROFILES, Profile
from gateway.pki.sans import san_from_text, san_to_text
from tests.support.issuing import certificate_for, request

HMN = "HMN:1.3.6.1.4.1.32473.1:0a1b"


def names_in(certificate: bytes) -> list[str]:
    try:
        found = x509.load_der_x509_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return [san_to_text(name) for name in found.value]


@given(st.sets(st.integers(0, 8)))
def test_key_usage_bits_are_what_the_library_writes(bits: set[int]) -> None:
    flags = [number in bits for number in range(9)]
    if not flags[4] and (flags[7] or flags[8]):
        return  # the library refuses encipherOnly and decipherOnly without keyAgreement
    assert named_bits(bits) == x509.KeyUsage(*flags).public_bytes()


@pytest.mark.parametrize("text", ["a", "plc-7", "a.b.example", "1a.2b", "xn--bcher-kva.example", "a" * 63 + ".b"])
def test_dns_names_that_are_ones(text: str) -> None:
    check_dns_name(text, wildcards=False)


BAD_DNS = ["", ".a", "a.", "a..b", "-a", "a-", "a_b", "a b", "ü.example", "a" * 64, "a." * 127 + "ab", "a*.b.c", "*", "a.*.c"]


@pytest.mark.parametrize("text", [*BAD_DNS, "10.0.0.1", "a.7", "a\n", "*.example"])
def test_dns_names_that_are_none(text: str) -> None:
    with pytest.raises(MalformedRequest):
        check_dns_name(text, wildcards=True)


def test_wildcard_only_where_the_profile_allows_it() -> None:
    check_dns_name("*.plant.example", wildcards=True)
    with pytest.raises(Forbidden):
        check_dns_name("*.plant.example", wildcards=False)


@pytest.mark.parametrize(
    "name",
    [
        x509.UniformResourceIdentifier("plc-7"),
        x509.UniformResourceIdentifier("urn:a b"),
        x509.UniformResourceIdentifier("7urn:a"),
        x509.UniformResourceIdentifier("urn:" + "a" * 2048),
        x509.RFC822Name("a"),
        x509.RFC822Name("a b@c"),
        x509.RFC822Name("a@-b"),
        x509.IPAddress(ipaddress.ip_network("192.0.2.0/24")),
        x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.4"), b"\x05\x00"),
        x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x30\x00"),
    ],
    ids=repr,
)
def test_malformed_name_is_refused(name: x509.GeneralName) -> None:
    with pytest.raises(MalformedRequest):
        general_name(name)


@pytest.mark.parametrize(
    "name",
    [
        x509.DirectoryName(name_from_text("CN=a")),
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
        x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"),
    ],
    ids=kind_of,
)
def test_name_of_an_unknown_kind_is_not_issued(name: x509.GeneralName) -> None:
    with pytest.raises(Forbidden):
        general_name(name)


ALL_NAMES = [
    "DNS:a.example", "IP:192.0.2.7", "IP:2001:db8::7", "URI:urn:acme:plc-7", "email:a@plant.example", HMN,
    "PID:1.3.6.1.4.1.32473.2:4711", "UPN:a@plant.example",
]  # fmt: skip


def test_every_kind_of_name_arrives_as_it_was_asked_for() -> None:
    assert names_in(certificate_for(BUILTIN_PROFILES["ldevid"], request("CN=a", ALL_NAMES))) == ALL_NAMES


@pytest.mark.parametrize("text", ALL_NAMES)
def test_encoding_is_the_library_s(text: str) -> None:
    name = san_from_text(text)
    encoded = general_name(name)
    assert x509.SubjectAlternativeName([name]).public_bytes()[2:] == encoded


def test_what_profile_and_publication_leave_out_is_not_written() -> None:
    bare = replace(BUILTIN_PROFILES["tls-client"], key_usage=(), basic_constraints=False, extended_key_usage=())
    written = fixed_extensions(bare, "ec", bytes(20), Publication())
    assert written == authority_key_identifier(bytes(20))


def test_usages_follow_the_type_of_key() -> None:
    agreeing = replace(BUILTIN_PROFILES["tls-server"], key_usage_ec=("keyAgreement",))
    for group, usages in (("rsa", ("keyEncipherment",)), ("ec", ("keyAgreement",)), ("sign", ())):
        assert key_usage(("digitalSignature", *usages)) in fixed_extensions(agreeing, group, bytes(20), Publication())


def test_extension_that_nobody_copies_is_left_out() -> None:
    wanted = [
        x509.Extension(x509.ObjectIdentifier(oid), False, x509.UnrecognizedExtension(x509.ObjectIdentifier(oid), b"\x05\x00"))
        for oid in ("1.2.3.4", "1.2.3.5")
    ]
    copying = replace(BUILTIN_PROFILES["tls-client"], copy_extensions=frozenset({"1.2.3.5"}))
    assert copied_extensions(copying, wanted) == extension("1.2.3.5", b"\x05\x00")


def profile(**changes: object) -> Profile:
    return replace(BUILTIN_PROFILES["tls-server"], **changes)  # type: ignore[arg-type]


REFUSED: list[tuple[type[Exception], str, Profile, str, list[str]]] = [
    (Forbidden, "type URI", profile(), "CN=a", ["URI:urn:a"]),
    (Forbidden, "attribute title", profile(), "CN=a,2.5.4.12=Dr", ["DNS:a"]),
    (Forbidden, "OID octets 2a0304", profile(), "CN=a,1.2.3.4=x", ["DNS:a"]),
    (MalformedRequest, "has no CN", profile(), "O=a", []),
    (MalformedRequest, "not a DNS name", profile(), "CN=a b", []),
    (MalformedRequest, "more than 1 names", profile(san_limit=1), "CN=a", ["DNS:a", "DNS:b"]),
    (MalformedRequest, "needs a name of type DNS or IP", profile(san_default=()), "CN=a", []),
    (MalformedRequest, "needs a name of type URI", BUILTIN_PROFILES["opcua-application"], "CN=a,O=b", ["DNS:a"]),
    (MalformedRequest, "one URI", BUILTIN_PROFILES["opcua-application"], "CN=a,O=b", ["URI:urn:a", "URI:urn:b", "DNS:a"]),
    (MalformedRequest, "needs O", BUILTIN_PROFILES["opcua-application"], "CN=a", ["URI:urn:a", "DNS:a"]),
    (MalformedRequest, "needs a subject", BUILTIN_PROFILES["tls-client"], "", []),
    (MalformedRequest, "needs serialNumber", BUILTIN_PROFILES["idevid"], "CN=a", []),
    (MalformedRequest, "hardwareModuleName", BUILTIN_PROFILES["idevid"], "2.5.4.5=1", ["URI:urn:a"]),
    (MalformedRequest, "would write the name", profile(san_default=("IP:{CN}",)), "CN=a", []),
    (MalformedRequest, "more than 24", profile(), ",".join(["OU=a"] * 25), ["DNS:a"]),
]


@pytest.mark.parametrize(("error", "text", "rules", "subject", "san"), REFUSED, ids=[row[1] for row in REFUSED])
def test_names_against_the_profile_are_refused(
    error: type[Exception], text: str, rules: Profile, subject: str, san: list[str]
) -> None:
    with pytest.raises(error, match=text):
        certificate_for(rules, request(subject, san))


def test_common_name_becomes_the_dns_name_when_none_is_asked_for() -> None:
    assert names_in(certificate_for(profile(), request("CN=plc-7.example"))) == ["DNS:plc-7.example"]
    assert names_in(certificate_for(profile(), request("CN=plc-7.example", ["DNS:b", "DNS:b"]))) == ["DNS:b"]


def test_templates_take_their_values_from_the_request() -> None:
    rules = replace(
        BUILTIN_PROFILES["idevid"],
        subject_template=("O=Acme", "CN=plc {serialNumber}", "serialNumber={serialNumber}", "DC=a"),
        san_template=("HMN:1.3.6.1.4.1.32473.1:{serialNumber.hex}", "URI:urn:acme:{serialNumber}", "DNS:{DNS}"),
        san_allowed=frozenset({"DNS", "IP", "UPN"}),
    )
    made = request("2.5.4.5=47,1.2.3.4=x", ["DNS:a", "IP:192.0.2.7", "UPN:a@b"])
    certificate = certificate_for(rules, made)
    assert sorted(names_in(certificate)) == [
        "DNS:a", "HMN:1.3.6.1.4.1.32473.1:3437", "IP:192.0.2.7", "UPN:a@b", "URI:urn:acme:47"
    ]  # fmt: skip
    subject = x509.load_der_x509_certificate(certificate).subject
    assert [attribute.value for attribute in subject] == ["Acme", "plc 47", "47", "a"]


def test_address_can_fill_a_template() -> None:
    rules = profile(subject_template=("CN={IP}",))
    certificate = x509.load_der_x509_certificate(certificate_for(rules, request("CN=a", ["IP:192.0.2.7"])))
    assert certificate.subject.rfc4514_string() == "CN=192.0.2.7"


def attribute(oid: str, tag: int, value: bytes) -> bytes:
    return der.tlv(0x30, der.tlv(0x31, der.tlv(0x30, der.oid(oid), der.tlv(tag, value))))


CN, SERIAL, COUNTRY, MAIL = "2.5.4.3", "2.5.4.5", "2.5.4.6", "1.2.840.113549.1.9.1"
REWRITTEN = [
    (CN, 0x14, "Gerät".encode("latin-1"), 0x0C, "Gerät".encode()),
    (CN, 0x1E, "Gerät".encode("utf-16-be"), 0x0C, "Gerät".encode()),
    (CN, 0x1C, "Gerät".encode("utf-32-be"), 0x0C, "Gerät".encode()),
    (CN, 0x16, b"plc", 0x0C, b"plc"),
    (CN, 0x13, b"a@b", 0x0C, b"a@b"),
    (SERIAL, 0x0C, b"47-11", 0x13, b"47-11"),
    (COUNTRY, 0x0C, b"DE", 0x13, b"DE"),
    (MAIL, 0x0C, b"a@b", 0x16, b"a@b"),
]


@pytest.mark.parametrize(("oid", "tag", "value", "new_tag", "new_value"), REWRITTEN)
def test_string_type_is_corrected_and_the_characters_stay(
    oid: str, tag: int, value: bytes, new_tag: int, new_value: bytes
) -> None:
    made = request("CN=x", subject_der=attribute(oid, tag, value))
    assert attribute(oid, new_tag, new_value) in certificate_for(BUILTIN_PROFILES["ldevid"], made)


@pytest.mark.parametrize(
    ("oid", "tag", "value"),
    [
        (CN, 0x0C, b"\xff"),
        (CN, 0x0C, b""),
        (CN, 0x0C, b"a" * 65),
        (CN, 0x0C, b"a\x00b"),
        (CN, 0x0C, "a\u2028b".encode()),
        (CN, 0x04, b"a"),
        (SERIAL, 0x0C, b"a_b"),
        (SERIAL, 0x0C, "ü".encode()),
        (COUNTRY, 0x13, b"D"),
        (COUNTRY, 0x13, b"49"),
        (COUNTRY, 0x0C, "ÄÖ".encode()),
        (MAIL, 0x0C, "ü@b".encode()),
    ],
)
def test_attribute_that_cannot_be_right_is_refused(oid: str, tag: int, value: bytes) -> None:
    with pytest.raises(MalformedRequest):
        certificate_for(BUILTIN_PROFILES["ldevid"], request("CN=x", subject_der=attribute(oid, tag, value)))


@pytest.mark.parametrize("oid_tag", [(CN, 0x13), (CN, 0x0C), (SERIAL, 0x13), (MAIL, 0x16)])
def test_right_string_type_stays(oid_tag: tuple[str, int]) -> None:
    subject = attribute(*oid_tag, b"plc-7")
    assert subject in certificate_for(BUILTIN_PROFILES["ldevid"], request("CN=x", subject_der=subject))

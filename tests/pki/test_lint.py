"""The lint passes what we build and catches every way a TBS can be broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.pki import der
from gateway.pki.extensions import extension, key_usage, subject_alt_name
from gateway.pki.lint import Finding, Level, lint_tbs
from gateway.pki.profiles import BUILTIN_PROFILES, Profile
from gateway.pki.tbs import extensions_of, tbs_fields
from tests.support.csrs import KEY_TYPES
from tests.support.issuing import issuing_ca, private_key, request, tbs_for

CLIENT = BUILTIN_PROFILES["tls-client"]
SERVER = BUILTIN_PROFILES["tls-server"]
IDEVID = BUILTIN_PROFILES["idevid"]
RESPONDER = BUILTIN_PROFILES["ocsp-responder"]
OID_OF = {"ski": "2.5.29.14", "ku": "2.5.29.15", "san": "2.5.29.17", "bc": "2.5.29.19", "cdp": "2.5.29.31", "aki": "2.5.29.35"}
OID_OF |= {"eku": "2.5.29.37", "aia": "1.3.6.1.5.5.7.1.1", "nocheck": "1.3.6.1.5.5.7.48.1.5", "policies": "2.5.29.32"}


def good(profile: Profile) -> bytes:
    subject, san = {"idevid": ("2.5.4.5=4711", []), "tls-server": ("CN=plc-7", ["DNS:plc-7"])}.get(profile.name, ("CN=a", []))
    return tbs_for(profile, request(subject, san))


def with_field(tbs: bytes, index: int, value: bytes) -> bytes:
    """``tbs`` with its field number ``index`` (version 0 ... extensions 7) replaced."""
    fields = tbs_fields(tbs)
    extensions = der.tlv(0xA3, der.tlv(0x30, *(der.tlv(0x30, tbs[a:b]) for a, b in extensions_of(tbs, fields))))
    parts = [b"\xa0\x03\x02\x01\x02", der.tlv(2, fields.serial), fields.algorithm, fields.issuer, fields.validity]
    parts += [fields.subject, fields.spki, extensions]
    parts[index] = value
    return der.tlv(0x30, *parts)


def with_extension(tbs: bytes, name: str, *replacements: bytes) -> bytes:
    """``tbs`` with the named extension replaced by ``replacements`` (none: removed; absent before: added)."""
    content = [tbs[a:b] for a, b in extensions_of(tbs, tbs_fields(tbs))]
    kept = [der.tlv(0x30, item) for item in content if not item.startswith(der.oid(OID_OF[name]))]
    return with_field(tbs, 7, der.tlv(0xA3, der.tlv(0x30, *kept, *replacements)))


def ext(name: str, value: bytes, *, critical: bool = False) -> bytes:
    return extension(OID_OF[name], value, critical=critical)


def serial(content: str) -> Callable[[bytes], bytes]:
    return lambda tbs: with_field(tbs, 1, der.tlv(2, bytes.fromhex(content)))


def validity(*times: tuple[int, str]) -> Callable[[bytes], bytes]:
    return lambda tbs: with_field(tbs, 4, der.tlv(0x30, *(der.tlv(tag, text.encode()) for tag, text in times)))


def subject(*attributes: tuple[str, int, bytes]) -> Callable[[bytes], bytes]:
    rdns = [der.tlv(0x31, der.tlv(0x30, der.oid(oid), der.tlv(tag, value))) for oid, tag, value in attributes]
    return lambda tbs: with_field(tbs, 5, der.tlv(0x30, *rdns))


def changed(name: str, *replacements: bytes) -> Callable[[bytes], bytes]:
    return lambda tbs: with_extension(tbs, name, *replacements)


def san(*names: bytes, critical: bool = False) -> Callable[[bytes], bytes]:
    return changed("san", subject_alt_name(names, critical=critical))


DNS = der.tlv(0x82, b"a.example")
AKI = lambda: der.tlv(0x30, der.tlv(0x80, issuing_ca().info.key_identifier))  # noqa: E731
BROKEN: list[tuple[str, Profile, Callable[[bytes], bytes]]] = [
    ("serial-length", CLIENT, serial("")),
    ("serial-length", CLIENT, serial("01" * 21)),
    ("serial-positive", CLIENT, serial("ff" * 10)),
    ("serial-positive", CLIENT, serial("00")),
    ("serial-minimal", CLIENT, serial("0001020304050607")),
    ("algorithm", CLIENT, lambda tbs: with_field(tbs, 2, bytes.fromhex("300a06082a8648ce3d040303"))),
    ("algorithm", CLIENT, lambda tbs: with_field(tbs, 2, b"\x30\x00")),
    ("issuer", CLIENT, lambda tbs: with_field(tbs, 3, b"\x30\x00")),
    ("issuer", CLIENT, lambda tbs: with_field(tbs, 3, tbs_fields(tbs).subject)),
    ("validity-form", CLIENT, validity((0x17, "260921000000Z"))),
    ("validity-form", CLIENT, validity((0x17, "260921000000Z"), (0x18, "20260922000000Z"))),
    ("validity-form", CLIENT, validity((0x17, "2609210000Z"), (0x17, "260922000000Z"))),
    ("validity-form", CLIENT, validity((0x13, "260921000000Z"), (0x17, "260922000000Z"))),
    ("der", CLIENT, validity((0x17, "261321000000Z"), (0x17, "260922000000Z"))),
    ("der", CLIENT, validity((0x17, "260230000000Z"), (0x17, "260922000000Z"))),
    ("der", CLIENT, validity((0x17, "260921000000+"), (0x17, "260922000000Z"))),
    ("validity-order", CLIENT, validity((0x17, "260922000000Z"), (0x17, "260922000000Z"))),
    ("validity-length", CLIENT, validity((0x17, "260921000000Z"), (0x17, "280922000000Z"))),
    ("validity-ca", CLIENT, validity((0x17, "560921000000Z"), (0x17, "570820000000Z"))),
    ("validity-ca", CLIENT, validity((0x18, "20560921000000Z"), (0x18, "20570820000000Z"))),
    ("validity-expiry", IDEVID, validity((0x17, "260921000000Z"), (0x18, "20560920000000Z"))),
    ("subject-required", IDEVID, subject(("2.5.4.3", 0x0C, b"a"))),
    ("subject-attribute", CLIENT, subject(("1.2.3.4", 0x0C, b"a"))),
    ("subject-string-type", CLIENT, subject(("2.5.4.3", 0x14, b"a"))),
    ("subject-string-type", IDEVID, subject(("2.5.4.5", 0x0C, b"4711"))),
    ("subject-bound", CLIENT, subject(("2.5.4.3", 0x0C, b"a" * 65))),
    ("subject-bound", CLIENT, subject(("2.5.4.3", 0x0C, b""))),
    ("subject-form", CLIENT, lambda tbs: with_field(tbs, 5, b"\x30\x02\x31\x00")),
    ("der", CLIENT, subject(("2.5.4.3", 0x0C, b"\xff"))),
    ("der", CLIENT, lambda tbs: with_field(tbs, 6, bytes.fromhex("300730050603 2b6571 0300"))),
    ("der", CLIENT, lambda tbs: tbs[:-1]),
    ("der", CLIENT, lambda tbs: tbs + b"\x00"),
    ("der", CLIENT, lambda tbs: with_field(tbs, 0, b"\xa0\x03\x02\x01\x01")),
    ("san-missing", SERVER, changed("san")),
    ("san-missing", SERVER, lambda tbs: with_field(with_extension(tbs, "san"), 5, b"\x30\x00")),
    ("san-empty", SERVER, san()),
    ("san-name", SERVER, san(der.tlv(0x82))),
    ("san-name", SERVER, san(der.tlv(0xA4, b"\x30\x00"))),
    ("san-name", SERVER, san(der.tlv(0x82, "ü".encode()))),
    ("san-address", SERVER, san(der.tlv(0x87, bytes(8)))),
    ("san-dns", SERVER, san(der.tlv(0x82, b".a"))),
    ("san-dns", SERVER, san(der.tlv(0x82, b"a."))),
    ("san-dns", SERVER, san(der.tlv(0x82, b"a b"))),
    ("san-uri", SERVER, san(der.tlv(0x86, b"plc-7"))),
    ("criticality", SERVER, san(DNS, critical=True)),
    ("criticality", SERVER, lambda tbs: with_field(tbs, 5, b"\x30\x00")),
    ("criticality", CLIENT, changed("ski", ext("ski", der.tlv(4, bytes(20)), critical=True))),
    ("criticality", CLIENT, changed("ku", ext("ku", b"\x03\x02\x07\x80"))),
    ("criticality", CLIENT, lambda tbs: with_extension(tbs, "aki", ext("aki", AKI(), critical=True))),
    ("key-identifier", CLIENT, changed("ski")),
    ("key-identifier", CLIENT, changed("ski", ext("ski", b"\x04\x00"))),
    ("key-identifier", IDEVID, changed("ski", ext("ski", der.tlv(4, bytes(20))))),
    ("key-usage", CLIENT, changed("ku")),
    ("key-usage", CLIENT, changed("ku", key_usage(("digitalSignature", "keyEncipherment")))),
    ("key-usage", CLIENT, changed("ku", ext("ku", b"\x03\x02\x01\x06", critical=True))),  # keyCertSign, cRLSign
    ("extended-key-usage", CLIENT, changed("eku")),
    ("extended-key-usage", CLIENT, changed("eku", ext("eku", der.tlv(0x30, der.oid("2.5.29.37.0"))))),
    ("extended-key-usage", IDEVID, changed("eku", ext("eku", der.tlv(0x30, der.oid("2.5.29.37.0"))))),
    ("not-a-ca", CLIENT, changed("bc")),
    ("not-a-ca", CLIENT, changed("bc", ext("bc", b"\x30\x03\x01\x01\xff", critical=True))),
    ("authority-key", CLIENT, changed("aki")),
    ("authority-key", CLIENT, changed("aki", ext("aki", b"\x30\x00"))),
    ("authority-key", CLIENT, changed("aki", ext("aki", der.tlv(0x30, der.tlv(0x80, bytes(20)))))),
    ("policies", CLIENT, changed("policies", ext("policies", b"\x30\x00"))),
    ("nocheck", RESPONDER, changed("nocheck")),
    ("nocheck", RESPONDER, changed("nocheck", ext("nocheck", b"\x04\x00"))),
    ("nocheck", CLIENT, changed("nocheck", ext("nocheck", b"\x05\x00"))),
    ("publication", RESPONDER, changed("cdp", ext("cdp", b"\x30\x02\x30\x00"))),
    ("extension-empty", CLIENT, changed("cdp", ext("cdp", b"\x30\x00"))),
    ("extension-unknown", CLIENT, changed("san", extension("1.2.3.4", b"\x05\x00"))),
    ("extension-twice", SERVER, changed("san", *[subject_alt_name([DNS], critical=False)] * 2)),
    ("der", CLIENT, changed("ku", der.tlv(0x30, der.oid("2.5.29.15"), b"\x01\x01\x00", der.tlv(4, b"\x03\x02\x07\x80")))),
    ("der", CLIENT, changed("ku", der.tlv(0x30, der.oid("2.5.29.15")))),
    ("der", CLIENT, changed("ku", b"\x31\x00")),
]


@pytest.mark.parametrize(("rule", "profile", "mutate"), BROKEN, ids=[f"{n}-{row[0]}" for n, row in enumerate(BROKEN)])
def test_broken_tbs_is_an_error(rule: str, profile: Profile, mutate: Callable[[bytes], bytes]) -> None:
    findings = lint_tbs(mutate(good(profile)), profile, ca=issuing_ca().info)
    assert rule in {finding.rule for finding in findings if finding.level is Level.ERROR}


@pytest.mark.parametrize("profile", [CLIENT, SERVER, IDEVID, RESPONDER], ids=lambda profile: profile.name)
def test_what_we_build_has_no_findings(profile: Profile) -> None:
    assert lint_tbs(good(profile), profile, ca=issuing_ca().info) == ()
    assert lint_tbs(good(profile), profile) == ()


@pytest.mark.parametrize("kind", KEY_TYPES)
def test_every_key_type_is_read(kind: str) -> None:
    profile = replace(CLIENT, key_usage_rsa=("keyEncipherment",), key_usage_ec=("keyAgreement",))
    assert lint_tbs(tbs_for(profile, request(key=private_key(kind))), profile, ca=issuing_ca().info) == ()


def test_extensions_of_every_length_are_read() -> None:
    for count in (1, 5, 20, 60):  # lengths of one, two and three octets
        names = [f"DNS:device-{number}.plant.example" for number in range(count)]
        assert lint_tbs(tbs_for(SERVER, request("CN=a", names)), SERVER, ca=issuing_ca().info) == ()


def test_an_extension_behind_those_of_the_request_is_looked_at() -> None:
    tbs = good(SERVER)
    broken = with_extension(tbs, "nocheck", ext("nocheck", b"\x04\x00"))
    assert extensions_of(broken, tbs_fields(broken))[-2] == extensions_of(tbs, tbs_fields(tbs))[-1]
    assert {finding.rule for finding in lint_tbs(broken, SERVER)} == {"nocheck"}


def test_copied_extension_is_no_finding() -> None:
    profile = replace(CLIENT, copy_extensions=frozenset({"1.2.3.4"}))
    tbs = with_extension(good(CLIENT), "nocheck", extension("1.2.3.4", b"\x05\x00"))
    assert lint_tbs(tbs, profile) == ()


def test_email_address_and_empty_subject_are_read() -> None:
    made = request("1.2.840.113549.1.9.1=a@plant.example", ["DNS:a.example"])
    assert lint_tbs(tbs_for(CLIENT, made), CLIENT) == ()
    assert lint_tbs(tbs_for(SERVER, request("", ["DNS:a.example"])), SERVER) == ()


def test_unusual_but_allowed_is_a_warning() -> None:
    levels = {finding.rule: finding.level for finding in lint_tbs(serial("7f")(good(CLIENT)), CLIENT)}
    assert levels == {"serial-entropy": Level.WARNING}
    silent = with_extension(with_extension(good(CLIENT), "cdp"), "aia")
    assert [(finding.rule, finding.level) for finding in lint_tbs(silent, CLIENT)] == [("no-status", Level.WARNING)]


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_any_bytes_give_findings_and_never_another_exception(data: st.DataObject) -> None:
    tbs = bytearray(good(SERVER))
    for _ in range(data.draw(st.integers(1, 4))):
        tbs[data.draw(st.integers(0, len(tbs) - 1))] = data.draw(st.integers(0, 255))
    assert all(isinstance(finding, Finding) for finding in lint_tbs(bytes(tbs), SERVER, ca=issuing_ca().info))

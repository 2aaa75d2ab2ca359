"""The esp_secure_cert partition: octet for octet what the maker's tool writes, and nothing broken is taken for right."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadKey, DeviceFault
from gateway.keys.generation import private_from_der
from gateway.keys.signer import KeySpec
from provisioning import esp_secure_cert
from provisioning.device import Delivery
from tests.support.board_credentials import delivery, private_key
from tests.support.esp_tools import vendor_parse, vendor_partition

PEM, DER = esp_secure_cert.Encoding.PEM, esp_secure_cert.Encoding.DER
KEY_TYPES = ("p-256", "p-384", "rsa-2048", "rsa-3072")


def unit(key_type: str = "p-256") -> tuple[Delivery, bytes]:
    key = private_key(key_type)
    loaded = load_der_private_key(key, None, unsafe_skip_rsa_key_validation=True)
    return delivery(loaded.public_key()), key  # type: ignore[arg-type]


def pem_of(certificate: bytes) -> bytes:
    return x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM)


@pytest.mark.parametrize("encoding", ["pem", "der"])
@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_it_writes_what_the_makers_tool_writes(tmp_path: Path, key_type: str, encoding: str) -> None:
    made, key = unit(key_type)
    files = (made.certificate, made.chain[0], key)
    if encoding == "pem":
        loaded = esp_secure_cert.load_key(key)
        key_pem = loaded.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        files = (pem_of(made.certificate), pem_of(made.chain[0]), key_pem)
    theirs = vendor_partition(tmp_path, *files, encoding)
    ours = esp_secure_cert.build(made.certificate, made.chain[:1], key, encoding=PEM if encoding == "pem" else DER)
    assert ours == theirs


@pytest.mark.parametrize("encoding", [PEM, DER], ids=["pem", "der"])
def test_the_makers_parser_reads_a_whole_chain(tmp_path: Path, encoding: esp_secure_cert.Encoding) -> None:
    made, key = unit()
    image = esp_secure_cert.padded(esp_secure_cert.build(made.certificate, made.chain, key, encoding=encoding))
    found = vendor_parse(tmp_path, image)
    expected = [*made.chain, made.certificate]
    if encoding is PEM:
        assert [found[name] for name in ("cacert_0_0.pem", "cacert_0_1.pem", "devcert_1_0.pem")] == list(map(pem_of, expected))
    else:
        assert [found[name] for name in ("cacert_0_0.der", "cacert_0_1.der", "devcert_1_0.der")] == expected
    assert esp_secure_cert.same_key(next(found[name] for name in found if name.startswith("privkey")), key)


@pytest.mark.parametrize("encoding", [PEM, DER], ids=["pem", "der"])
@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_it_reads_what_it_wrote(key_type: str, encoding: esp_secure_cert.Encoding) -> None:
    made, key = unit(key_type)
    size = 0x3000  # the chain and an RSA key need more than the usual 8 KiB in no case, but a table may give more
    image = esp_secure_cert.padded(esp_secure_cert.build(made.certificate, made.chain, key, encoding=encoding, size=size), size)
    assert len(image) == size
    contents = esp_secure_cert.read(image)
    assert (contents.certificate, contents.chain) == (made.certificate, made.chain)
    assert esp_secure_cert.same_key(contents.key, key)
    assert "BEGIN" not in repr(contents)


def test_a_partition_may_hold_the_key_alone_or_nothing() -> None:
    key = private_key()
    contents = esp_secure_cert.read(esp_secure_cert.padded(esp_secure_cert.build(b"", (), key)))
    assert esp_secure_cert.same_key(contents.key, key)
    assert (contents.certificate, contents.chain) == (b"", ())
    assert esp_secure_cert.read(b"\xff" * 0x2000) == esp_secure_cert.Contents()


MADE, KEY = unit()
IMAGE = esp_secure_cert.build(MADE.certificate, MADE.chain, KEY)


@given(st.integers(0, len(IMAGE) - 1), st.integers(1, 255))
def test_a_changed_octet_is_never_taken_for_right(place: int, change: int) -> None:
    broken = bytearray(IMAGE)
    broken[place] ^= change
    with pytest.raises(DeviceFault):
        esp_secure_cert.read(esp_secure_cert.padded(bytes(broken)))


@given(st.integers(1, len(IMAGE) - 1))
def test_a_part_of_an_image_is_never_taken_for_whole(length: int) -> None:
    with pytest.raises(DeviceFault):
        esp_secure_cert.read(esp_secure_cert.padded(IMAGE[:length]))


@given(st.binary(max_size=300), st.booleans())
def test_any_octets_are_contents_or_a_fault(octets: bytes, behind_an_entry: bool) -> None:
    head = esp_secure_cert.entry(0x33, b"other") if behind_an_entry else b""
    try:
        found = esp_secure_cert.read(head + octets)
    except DeviceFault:
        return
    assert found == esp_secure_cert.Contents()


def closed(*entries: bytes) -> bytes:
    before = b"".join(entries)
    return before + esp_secure_cert.entry(esp_secure_cert.Type.INTEGRITY, hashlib.sha256(before).digest())


def test_what_is_well_formed_and_not_ours_is_refused_with_a_sentence() -> None:
    kinds = esp_secure_cert.Type
    with pytest.raises(DeviceFault, match="no certificate"):
        esp_secure_cert.read(closed(esp_secure_cert.entry(kinds.DEVICE_CERTIFICATE, b"nonsense")))
    with pytest.raises(DeviceFault, match="bound to its hardware"):
        esp_secure_cert.read(closed(esp_secure_cert.entry(kinds.PRIVATE_KEY, b"x", flags=0x80)))
    with pytest.raises(DeviceFault, match="digest over"):
        esp_secure_cert.read(esp_secure_cert.entry(kinds.INTEGRITY, bytes(32)))
    with pytest.raises(DeviceFault, match="without the digest"):
        esp_secure_cert.read(esp_secure_cert.entry(kinds.PRIVATE_KEY, b"x"))


def test_entries_of_other_types_are_passed_over() -> None:
    assert esp_secure_cert.read(closed(esp_secure_cert.entry(51, b"user data"))) == esp_secure_cert.Contents()


def test_what_does_not_fit_is_refused_before_anything_is_written() -> None:
    with pytest.raises(DeviceFault, match="the partition of this device has 2048"):
        esp_secure_cert.build(MADE.certificate, MADE.chain, private_key("rsa-3072"), size=2048)
    with pytest.raises(ValueError, match="65,535"):
        esp_secure_cert.entry(51, bytes(65536))


@pytest.mark.parametrize(
    "key", [private_key("ed25519"), b"garbage", b"-----BEGIN NONSENSE-----"], ids=["ed25519", "garbage", "pem"]
)
def test_a_key_that_the_format_cannot_hold_is_refused(key: bytes) -> None:
    with pytest.raises(BadKey):
        esp_secure_cert.build(MADE.certificate, MADE.chain, key)


def test_two_keys_are_the_same_however_they_are_coded() -> None:
    again = private_from_der(KEY, KeySpec.P256).private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    assert esp_secure_cert.same_key(KEY, again + b"\0")
    assert not esp_secure_cert.same_key(KEY, private_key())

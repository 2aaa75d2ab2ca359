"""Bundles: read back as they were written; cut, changed, doubled or foreign ones are refused with nothing taken from them."""

from __future__ import annotations

import datetime
import io
import zipfile

import pytest
import zstandard
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.errors import IntegrityError, MalformedRequest
from gateway.journal.canonical import JsonValue
from gateway.journal.checkpoint import verifier_key
from sync.bundle import DOWN, MANIFEST, UP, BundleReader, BundleWriter, decrypt, unpack
from sync.wire import MOST_OCTETS, Batch

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
VKEY = verifier_key("plant/1", KEY.public_key())
FACTS: dict[str, JsonValue] = {"origin": "plant/1", "start": 3, "stop": 7, "size": 9, "made": 1_700_000_000_000}
BATCHES = (Batch("plant/1", "", 3, "note", (b"a", b"b")), Batch("plant/1", "", 5, "note", (b"c", b"d")))


def bundle(recipient: bytes | None = None) -> bytes:
    writer = BundleWriter()
    for batch in BATCHES:
        writer.add_batch(batch)
    writer.add("crl/full.crl", b"list")
    return writer.finish(UP, FACTS, "plant/1", KEY, recipient)


def rewritten(changes: dict[str, bytes | None], archive: bytes) -> bytes:
    """The archive with entries replaced, added or (None) left out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            content = changes.get(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
        for name in changes.keys() - set(old.namelist()):
            new.writestr(name, changes[name] or b"")
    return buffer.getvalue()


def test_what_was_written_is_read_back() -> None:
    reader = BundleReader(bundle())
    assert reader.claimed_origin() == "plant/1"
    manifest = reader.verified(UP, VKEY)
    assert (manifest.origin, manifest.start, manifest.stop, manifest.size) == ("plant/1", 3, 7, 9)
    assert tuple(reader.batches()) == BATCHES
    assert reader.entries("crl/") == {"full.crl": b"list"}
    assert reader.entry("receipt") is None


def test_the_same_content_makes_the_same_bundle() -> None:
    assert bundle() == bundle()


@pytest.mark.parametrize(
    "changes",
    [
        {"crl/full.crl": b"another"},
        {"crl/full.crl": None},
        {"batches/000001.zst": None},
        {"batches/000009.zst": b"more"},
    ],
)
def test_a_changed_entry_is_found(changes: dict[str, bytes | None]) -> None:
    reader = BundleReader(rewritten(changes, bundle()))
    with pytest.raises(IntegrityError, match="manifest says"):
        reader.verified(UP, VKEY)


def test_another_key_or_direction_is_refused() -> None:
    other = verifier_key("plant/1", Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key())
    for kind, vkey in ((UP, other), (DOWN, VKEY)):
        with pytest.raises(IntegrityError):
            BundleReader(bundle()).verified(kind, vkey)


def test_a_bundle_cut_short_anywhere_is_refused() -> None:
    whole = bundle()
    for length in range(len(whole)):
        with pytest.raises((MalformedRequest, IntegrityError)):
            BundleReader(whole[:length]).verified(UP, VKEY)


def test_every_flipped_octet_is_found_or_makes_no_difference() -> None:
    """A zip has octets that mean nothing, such as dates; what is read must be what was written."""
    whole = bundle()
    for at in range(len(whole)):
        try:
            reader = BundleReader(whole[:at] + bytes((whole[at] ^ 0x41,)) + whole[at + 1 :])
            reader.verified(UP, VKEY)
        except (MalformedRequest, IntegrityError):
            continue
        assert tuple(reader.batches()) == BATCHES


def test_without_a_manifest_it_is_no_bundle() -> None:
    with pytest.raises(MalformedRequest, match="manifest"):
        BundleReader(rewritten({MANIFEST: None}, bundle()))


def test_compressed_entries_are_not_unpacked() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(MANIFEST, b"\0" * (1 << 20))
    with pytest.raises(MalformedRequest, match="no bundle"):
        BundleReader(buffer.getvalue())


def test_a_batch_that_unpacks_to_too_much_is_refused() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(MOST_OCTETS + 1))
    assert len(bomb) < 10_000
    with pytest.raises(MalformedRequest, match="at most"):
        unpack(bomb)
    with pytest.raises(MalformedRequest, match="zstd"):
        unpack(b"nothing of the kind")


@pytest.fixture(scope="module")
def central() -> tuple[x509.Certificate, rsa.RSAPrivateKey]:
    key = rsa.generate_private_key(65537, 2048)
    name = x509.Name.from_rfc4514_string("CN=central")
    now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 5, now, now + datetime.timedelta(days=1))
    return builder.sign(key, hashes.SHA256()), key


def test_an_encrypted_bundle_opens_for_its_reader_alone(central: tuple[x509.Certificate, rsa.RSAPrivateKey]) -> None:
    certificate, key = central
    sealed = bundle(certificate.public_bytes(Encoding.DER))
    assert b"crl/full.crl" not in sealed
    assert decrypt(sealed, certificate, key) == bundle()
    with pytest.raises(MalformedRequest, match="somebody else"):
        decrypt(sealed, certificate, rsa.generate_private_key(65537, 2048))
    with pytest.raises(MalformedRequest):
        decrypt(b"garbage", certificate, key)


def test_a_plain_bundle_needs_no_key(central: tuple[x509.Certificate, rsa.RSAPrivateKey]) -> None:
    assert decrypt(bundle(), *central) == bundle()

"""Bundles: what would go over the network, in one file for a USB stick (docs/SYNC.md, Bundles).

A bundle is a zip archive: a signed manifest with the SHA-256 of every entry, and the entries. The manifest says whose it is and
that nothing is missing from it; what the records are worth is decided by the same rules as on the network, so a bundle that is
old, repeated, cut short or in pieces does no harm. Encrypted, the archive is the content of a CMS EnvelopedData (RFC 5652).
"""

from __future__ import annotations

import hashlib
import io
import secrets
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import zstandard
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import pkcs7

from gateway.errors import IntegrityError, MalformedRequest, TooLarge
from gateway.journal.canonical import JsonValue
from gateway.journal.statements import from_json, number_of, open_statement, sign_statement, text_of, to_json
from gateway.pki.cms import RANDOM_BYTES, envelop
from sync.wire import MOST_OCTETS, Batch

#: What a gateway sends, and what central answers.
UP: Final = "bundle"
DOWN: Final = "bundle-answer"
MANIFEST: Final = "manifest"
RECEIPT: Final = "receipt"
DESIRED: Final = "desired"
_BATCHES: Final = "batches/"
CRLS: Final = "crl/"
#: A bundle that has grown to this is complete; the next one goes on.
GOAL_OCTETS: Final = 128 << 20
#: What is accepted at most.
MOST_BUNDLE_OCTETS: Final = 256 << 20
#: ... and encrypted, which adds a few hundred octets.
MOST_SEALED_OCTETS: Final = MOST_BUNDLE_OCTETS + (64 << 10)
_MOST_ENTRIES: Final = 100_000
_ZIP = b"PK"
#: What zipfile raises for octets that are no zip archive, or one with features that we do not write.
_DAMAGE = (zipfile.BadZipFile, NotImplementedError, EOFError, OSError, RuntimeError, ValueError, struct.error)
_ZSTD_LEVEL = 3


class BundleWriter:
    """Collects entries, then signs. Nothing is written to disk here."""

    def __init__(self) -> None:
        self._buffer = io.BytesIO()
        self._zip = zipfile.ZipFile(self._buffer, "w", zipfile.ZIP_STORED)
        self._digests: dict[str, JsonValue] = {}
        self._pack = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress
        self._batches = 0

    @property
    def octets(self) -> int:
        return self._buffer.tell()

    def add(self, name: str, content: bytes) -> None:
        self._digests[name] = hashlib.sha256(content).hexdigest()
        # A fixed date: the same content makes the same bundle.
        self._zip.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content)

    def add_batch(self, batch: Batch) -> None:
        self.add(f"{_BATCHES}{self._batches:06}.zst", self._pack(batch.to_bytes()))
        self._batches += 1

    def finish(
        self, kind: str, facts: Mapping[str, JsonValue], key_name: str, key: Ed25519PrivateKey, recipient: bytes | None = None
    ) -> bytes:
        """The bundle, its manifest signed; readable by the holder of ``recipient``'s key (certificate, DER, RSA) alone."""
        manifest = to_json({**facts, "digests": self._digests})
        self._zip.writestr(zipfile.ZipInfo(MANIFEST, (1980, 1, 1, 0, 0, 0)), sign_statement(kind, manifest, key_name, key))
        self._zip.close()
        archive = self._buffer.getvalue()
        return archive if recipient is None else encrypt(archive, recipient)


def encrypt(archive: bytes, recipient: bytes) -> bytes:
    """For the holder of the key of ``recipient`` (DER) alone."""
    return envelop(archive, recipient, random=secrets.token_bytes(RANDOM_BYTES))


def is_sealed(data: bytes) -> bool:
    """Whether this is no archive, so that it must be decrypted first."""
    return not data.startswith(_ZIP)


def decrypt(data: bytes, certificate: x509.Certificate, key: RSAPrivateKey) -> bytes:
    """The archive in an encrypted bundle; others are returned as they are. Raises MalformedRequest."""
    if not is_sealed(data):
        return data
    try:
        return pkcs7.pkcs7_decrypt_der(data, certificate, key, [])
    except ValueError as error:
        raise MalformedRequest("this is no bundle, or one that is encrypted to somebody else") from error


@dataclass(frozen=True, slots=True)
class Manifest:
    """What its writer says of a bundle. For bundles of gateways: records ``start`` up to ``stop``, of ``size`` then."""

    origin: str
    start: int
    stop: int
    size: int
    made_ms: int


class BundleReader:
    """One archive. Nothing of it counts before :meth:`verified`."""

    def __init__(self, archive: bytes) -> None:
        """Raises MalformedRequest, TooLarge."""
        if len(archive) > MOST_BUNDLE_OCTETS:
            raise TooLarge(f"a bundle has at most {MOST_BUNDLE_OCTETS >> 20} MiB")
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(archive))
            infos = self._zip.infolist()
            self._names = tuple(info.filename for info in infos)
            # Entries are stored, so nothing grows on the way out; a compressed one is not ours.
            if len(infos) > _MOST_ENTRIES or any(info.compress_type != zipfile.ZIP_STORED for info in infos):
                raise MalformedRequest("this zip archive is no bundle")
            if len(set(self._names)) != len(self._names) or MANIFEST not in self._names:
                raise MalformedRequest("this zip archive has no manifest, or entries twice: the file was cut short or changed")
            self._statement = self._zip.read(MANIFEST)
        except _DAMAGE as error:
            raise MalformedRequest("the bundle cannot be read: it was cut short or changed") from error

    def claimed_origin(self) -> str:
        """Whose journal it claims to be about; to look up with which key to verify it. Raises MalformedRequest."""
        _, separator, body = self._statement.partition(b"\n\n")
        if not separator:
            raise MalformedRequest("the bundle's manifest is not a signed statement")
        return text_of(from_json(body), "origin")

    def verified(self, kind: str, vkey: str) -> Manifest:
        """Check the manifest's signature and every entry's digest. Raises IntegrityError, MalformedRequest."""
        body = from_json(open_statement(kind, self._statement, vkey))
        digests = body.get("digests")
        if not isinstance(digests, dict) or set(digests) != set(self._names) - {MANIFEST}:
            raise IntegrityError("the bundle has other entries than its manifest says")
        for name, expected in digests.items():
            if hashlib.sha256(self._read(name)).hexdigest() != expected:
                raise IntegrityError(f"{name} in the bundle is not what its manifest says")
        return Manifest(
            text_of(body, "origin"), number_of(body, "start"), number_of(body, "stop"), number_of(body, "size"),
            number_of(body, "made"),
        )  # fmt: skip

    def batches(self) -> Iterator[Batch]:
        """In order. Raises MalformedRequest."""
        for name in sorted(each for each in self._names if each.startswith(_BATCHES)):
            yield Batch.from_bytes(unpack(self._read(name)))

    def entry(self, name: str) -> bytes | None:
        return self._read(name) if name in self._names else None

    def entries(self, prefix: str) -> dict[str, bytes]:
        """By the name after ``prefix``."""
        return {name.removeprefix(prefix): self._read(name) for name in self._names if name.startswith(prefix)}

    def _read(self, name: str) -> bytes:
        try:
            return self._zip.read(name)
        except _DAMAGE as error:
            raise MalformedRequest("the bundle cannot be read: it was cut short or changed") from error


def unpack(data: bytes) -> bytes:
    """A batch as it travels, uncompressed. Raises MalformedRequest, also for one that grows beyond what a batch may have."""
    try:
        # One octet more than allowed is enough to know; a bomb is never unpacked whole.
        with zstandard.ZstdDecompressor(max_window_size=MOST_OCTETS).stream_reader(data) as reader:
            content = reader.read(MOST_OCTETS + 1)
    except zstandard.ZstdError as error:
        raise MalformedRequest("not zstd, or cut short") from error
    if len(content) > MOST_OCTETS:
        raise MalformedRequest(f"a batch has at most {MOST_OCTETS} octets")
    return content

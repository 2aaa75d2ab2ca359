"""Makers of devices: whose IDevIDs (IEEE 802.1AR) are taken, and which of them no longer.

A maker is a set of CA certificates, all of them trust anchors, with the revocation lists of these CAs as files. A list counts
when it is signed by one of the maker's CAs named here (:mod:`gateway.authority.crl_files`). What a list says holds also after
its nextUpdate: a stale list is better than none. Whether there must be a current one is :attr:`Maker.require_crl`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.authority.crl_files import CrlFile
from gateway.pki.chains import verify_client
from gateway.pki.der import END_OF_TIME_MS
from gateway.pki.names import name_to_text


@dataclass(frozen=True, slots=True)
class Maker:
    """``certificates`` are CA certificates (DER), ``crls`` files (DER or PEM)."""

    name: str
    certificates: tuple[bytes, ...]
    crls: tuple[Path, ...] = ()
    #: Refuse IDevIDs for whose issuer there is no list, or one past its nextUpdate.
    require_crl: bool = False
    #: Take IDevIDs after their end. They are made to live as long as their device (IEEE 802.1AR clause 8.7); some do not.
    accept_expired: bool = False


@dataclass(frozen=True, slots=True)
class _Link:
    """A certificate as its issuer knows it."""

    issuer: bytes  # what _identity says of the issuer
    issuer_name: str
    serial: int


@dataclass(frozen=True, slots=True)
class MadeBy:
    """A certificate whose chain was verified up to ``maker``."""

    maker: Maker
    leaf: x509.Certificate
    _links: tuple[_Link, ...]


@dataclass(slots=True)
class _Lists:
    maker: Maker
    files: tuple[CrlFile, ...]

    def issuers(self) -> tuple[bytes, ...]:
        return self.maker.certificates


class Makers:
    """All makers of the configuration. :meth:`refresh` reads their lists, at first and whenever a file changed."""

    def __init__(self, makers: Iterable[Maker]) -> None:
        self._lists: dict[str, _Lists] = {}
        self._owner: dict[bytes, Maker] = {}
        self.anchors: tuple[bytes, ...] = ()
        for maker in makers:
            self.put(maker)

    def put(self, maker: Maker) -> None:
        """Add ``maker``, or replace the one of its name: from now on only its new certificates count."""
        self._lists[maker.name] = _Lists(maker, tuple(CrlFile(path, f"maker {maker.name}'s list") for path in maker.crls))
        self._owner = {der: lists.maker for lists in reversed(self._lists.values()) for der in lists.maker.certificates}
        self.anchors = tuple(dict.fromkeys(der for lists in self._lists.values() for der in lists.maker.certificates))

    async def refresh(self) -> None:
        for lists in self._lists.values():
            for file in lists.files:
                await file.refresh(lists.issuers)

    def verify(self, chain: Sequence[bytes], now_ms: int) -> MadeBy:
        """Whose certificate ``chain[0]`` is; the others (DER) are what it sent along. Its own end is not looked at.

        Raises Unauthenticated.
        """
        found = verify_client(
            chain[0], anchors=self.anchors, intermediates=chain[1:], now_ms=now_ms, expired_grace_ms=END_OF_TIME_MS
        )
        certificates = (found.leaf, *found.issuers)
        issuers = (*found.issuers, found.anchor)
        links = tuple(
            _Link(_identity(issuer), repr(name_to_text(issuer.subject)[:200]), certificate.serial_number)
            for certificate, issuer in zip(certificates, issuers, strict=True)
        )
        return MadeBy(self._owner[found.anchor.public_bytes(Encoding.DER)], found.leaf, links)

    def objection(self, made: MadeBy, now_ms: int) -> str:
        """Why its maker no longer stands for a certificate, in words for its holder; empty when it does."""
        files = self._lists[made.maker.name].files
        for link in made._links:
            lists = [file.crl for file in files if file.crl is not None and _identity(file.crl.issuer) == link.issuer]
            if any(link.serial in read.serials for read in lists):
                return f"certificate {link.serial:x} was revoked by its issuer {link.issuer_name}"
            if made.maker.require_crl and not any(now_ms < read.next_update_ms for read in lists):
                return f"there is no current revocation list of {link.issuer_name} here, which maker {made.maker.name} needs"
        return ""

    def health(self, now_ms: int) -> list[tuple[str, str, int, str, bool]]:
        """For each list: maker, file, next update (0 for none), failure, and whether somebody must bring a new one."""
        report = []
        for name, lists in self._lists.items():
            for file in lists.files:
                until_ms = file.crl.next_update_ms if file.crl else 0
                report.append((name, file.path.name, until_ms, file.failure, bool(file.failure) or until_ms <= now_ms))
        return report


@lru_cache(maxsize=256)
def _identity(issuer: x509.Certificate) -> bytes:
    """Equal for two certificates of one CA: its name and key."""
    spki = issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(issuer.subject.public_bytes() + spki).digest()

"""Certificate revocation lists as bytes (RFC 5280 section 5): full, sharded by issuing distribution point, delta. Pure.

Entries are encoded once, when a certificate is revoked, and joined here, so that a list of a million entries costs less than a
second. Which entries belong on a list - also whether those of expired certificates stay - is the caller's decision.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from functools import cache, lru_cache

from gateway.pki import der
from gateway.pki.extensions import (
    OID_FRESHEST_CRL,
    authority_key_identifier,
    distribution_points,
    extension,
)
from gateway.pki.tbs import CaInfo, assemble, encode_serial, encode_time

__all__ = [
    "CrlEntry",
    "Reason",
    "assemble",
    "build_crl_tbs",
    "encode_entry",
    "entry_bytes",
    "indirect_entry",
    "next_crl_number",
    "shard_of",
]

_OID_CRL_NUMBER = "2.5.29.20"
_OID_REASON_CODE = "2.5.29.21"
_OID_DELTA_CRL_INDICATOR = "2.5.29.27"
_OID_ISSUING_DISTRIBUTION_POINT = "2.5.29.28"
_OID_CERTIFICATE_ISSUER = "2.5.29.29"
_VERSION_2 = b"\x02\x01\x01"


class Reason(Enum):
    """CRLReason (RFC 5280 section 5.3.1); the value is its name there, :attr:`code` its number."""

    UNSPECIFIED = "unspecified"
    KEY_COMPROMISE = "keyCompromise"
    CA_COMPROMISE = "cACompromise"
    AFFILIATION_CHANGED = "affiliationChanged"
    SUPERSEDED = "superseded"
    CESSATION_OF_OPERATION = "cessationOfOperation"
    CERTIFICATE_HOLD = "certificateHold"
    REMOVE_FROM_CRL = "removeFromCRL"
    PRIVILEGE_WITHDRAWN = "privilegeWithdrawn"
    AA_COMPROMISE = "aACompromise"

    @property
    def code(self) -> int:
        return _CODES[self]


_CODES = dict(zip(Reason, (0, 1, 2, 3, 4, 5, 6, 8, 9, 10), strict=True))


@dataclass(frozen=True, slots=True)
class CrlEntry:
    """A revoked certificate. ``removeFromCRL`` stands in delta lists only: a hold was lifted, or the certificate expired."""

    serial: int
    revoked_ms: int
    reason: Reason = Reason.UNSPECIFIED


@cache
def reason_extension(reason: Reason) -> bytes:
    """crlEntryExtensions. An unspecified reason is left out, as RFC 5280 section 5.3.1 asks."""
    code = _reason_code(reason)
    return der.tlv(0x30, code) if code else b""


def _reason_code(reason: Reason) -> bytes:
    return b"" if reason is Reason.UNSPECIFIED else extension(_OID_REASON_CODE, bytes((0x0A, 1, reason.code)))


@lru_cache(maxsize=4096)
def _date(day: int) -> bytes:
    """An encoded time without its last seven octets, the time of day: a million entries lie on few days."""
    return encode_time(day * _DAY_S)[:-7]


_DAY_S = 86_400
_MINUTES = tuple(b"%02d%02d" % divmod(minute, 60) for minute in range(1440))
_SECONDS = tuple(b"%02dZ" % second for second in range(60))
_SERIAL_OCTETS = 20
_SERIAL_HEADS = tuple(bytes((0x02, length)) for length in range(_SERIAL_OCTETS + 1))
_ENTRY_HEADS = tuple(bytes((0x30, length)) for length in range(128))  # an entry's length always fits one octet


def encode_entry(entry: CrlEntry) -> bytes:
    """One element of revokedCertificates."""
    return entry_bytes(entry.serial, entry.revoked_ms, reason_extension(entry.reason))


def entry_bytes(serial: int, revoked_ms: int, extension: bytes) -> bytes:
    """:func:`encode_entry` from its parts, ``extension`` by :func:`reason_extension`; about a microsecond."""
    length = serial.bit_length() // 8 + 1
    if serial <= 0 or length > _SERIAL_OCTETS:
        encode_serial(serial)  # says what is wrong with it
    day, second = divmod(revoked_ms // 1000, _DAY_S)
    content = (
        _SERIAL_HEADS[length] + serial.to_bytes(length, "big")
        + _date(day) + _MINUTES[second // 60] + _SECONDS[second % 60] + extension
    )  # fmt: skip
    return _ENTRY_HEADS[len(content)] + content


def indirect_entry(entry: CrlEntry, issuer: bytes) -> bytes:
    """An entry of an indirect list, which names the issuer of its certificate: DER of a Name (RFC 5280 section 5.3.3)."""
    name = extension(_OID_CERTIFICATE_ISSUER, der.tlv(0x30, der.tlv(0xA4, issuer)), critical=True)
    extensions = der.tlv(0x30, _reason_code(entry.reason), name)
    return der.tlv(0x30, encode_serial(entry.serial), encode_time(entry.revoked_ms // 1000), extensions)


def shard_of(serial: int, shards: int) -> int:
    """Which of ``shards`` lists, 0 to shards - 1, a certificate belongs to for its whole life.

    The low bits of a serial number are random (:func:`gateway.pki.tbs.new_serial`), so the lists grow evenly. The certificate
    names its own list's URL: changing the number of shards applies to new certificates only, the old lists stay.
    """
    return serial % shards


def next_crl_number(now_ms: int, last: int) -> int:
    """A CRL number that follows the clock, so that it does not go back after a restore, and always grows."""
    return max(now_ms, last + 1)


def build_crl_tbs(
    *,
    ca: CaInfo,
    entries: Iterable[bytes],
    number: int,
    this_update_ms: int,
    next_update_ms: int,
    idp_url: str | None = None,
    indirect: bool = False,
    base_number: int | None = None,
    delta_urls: tuple[str, ...] = (),
) -> bytes:
    """A version 2 TBSCertList; sign and :func:`assemble` it like a certificate.

    ``entries`` are results of :func:`encode_entry`. ``idp_url`` makes it the list of that distribution point alone (a shard);
    every certificate it covers must carry this very URL. ``indirect`` makes it a list of other CAs' certificates, whose entries
    are results of :func:`indirect_entry` (section 5.2.5). ``base_number`` makes it a delta to the full list of that number
    and the same scope. ``delta_urls`` goes into full lists: where deltas are found (freshestCRL).
    """
    if base_number is not None and not base_number < number:
        raise ValueError("a delta CRL's number is higher than its base's")
    if base_number is not None and delta_urls:
        raise ValueError("freshestCRL must not be in a delta CRL (RFC 5280 section 5.2.6)")
    if next_update_ms // 1000 <= this_update_ms // 1000:
        raise ValueError("nextUpdate must be later than thisUpdate")
    extensions = [authority_key_identifier(ca.key_identifier), extension(_OID_CRL_NUMBER, _number(number))]
    if base_number is not None:
        extensions.append(extension(_OID_DELTA_CRL_INDICATOR, _number(base_number), critical=True))
    if idp_url is not None or indirect:
        point = der.tlv(0xA0, der.tlv(0xA0, der.tlv(0x86, idp_url.encode("ascii")))) if idp_url is not None else b""
        point = der.tlv(0x30, point, b"\x84\x01\xff" if indirect else b"")
        extensions.append(extension(_OID_ISSUING_DISTRIBUTION_POINT, point, critical=True))
    if delta_urls:
        extensions.append(distribution_points(OID_FRESHEST_CRL, delta_urls))
    revoked = b"".join(entries)
    return der.tlv(
        0x30,
        _VERSION_2,
        ca.algorithm.value,
        ca.subject_der,
        encode_time(this_update_ms // 1000),
        encode_time(next_update_ms // 1000),
        der.tlv(0x30, revoked) if revoked else b"",  # absent when there is none (RFC 5280 section 5.1.2.6)
        der.tlv(0xA0, der.tlv(0x30, *extensions)),
    )


def _number(number: int) -> bytes:
    """CRLNumber and BaseCRLNumber follow the same limits as a serial number, and the first one may be 0."""
    return encode_serial(number) if number else b"\x02\x01\x00"

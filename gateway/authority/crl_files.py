"""Revocation lists that other CAs signed, as files that somebody brings here: an offline root's, an IDevID maker's.

A file is read again when it changes. It counts only when the CA it names is one of those expected, its signature is that CA's,
and it is not older than what was read before (RFC 5280 sections 6.3.3 and 5.2.3); otherwise the list before stays in use and
:attr:`CrlFile.failure` says why. Lists that are not about all certificates of their CA (deltas, indirect and partitioned ones)
carry a critical extension and are refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.pki.names import name_to_text

_log = logging.getLogger(__name__)
#: A list of a million revocations has about 40 MB.
MAX_CRL_SIZE = 128 << 20
_OLD_HASHES = (hashes.SHA1, hashes.MD5)


@dataclass(frozen=True, slots=True)
class ReadCrl:
    """A list that was checked. ``number`` is 0 where it has none; times in UTC milliseconds."""

    der: bytes
    issuer: x509.Certificate
    number: int
    this_update_ms: int
    next_update_ms: int
    serials: frozenset[int]


class CrlFile:
    """One file. ``what`` is what its log lines call it."""

    def __init__(self, path: Path, what: str) -> None:
        self.path = path
        self.what = what
        self.crl: ReadCrl | None = None
        self.failure = "not read yet"
        self._stamp = (0, 0)

    async def refresh(self, issuers: Callable[[], Sequence[bytes]]) -> None:
        """Read the file if it changed; ``issuers`` are the CA certificates (DER) whose lists are expected. Never raises."""
        try:
            await asyncio.to_thread(self._refresh, issuers)
        except (OSError, ValueError, x509.DuplicateExtension) as error:
            self._stamp = (0, 0)  # the same file may be good later: a medium that was away, a CA that was not known yet
            failure = f"cannot be read: {error}"
            if failure != self.failure:
                _log.warning("%s %s %s", self.what, self.path.name, failure)
            self.failure = failure

    def _refresh(self, issuers: Callable[[], Sequence[bytes]]) -> None:
        facts = self.path.stat()
        stamp = (facts.st_mtime_ns, facts.st_size)
        if stamp == self._stamp:
            return
        if facts.st_size > MAX_CRL_SIZE:
            raise ValueError(f"it has more than {MAX_CRL_SIZE} bytes")
        read = _read(self.path.read_bytes(), issuers())
        before = self.crl
        if before is not None and before.issuer == read.issuer and _is_older(read, before):
            raise ValueError("it is older than the one in service")
        self.crl, self._stamp, self.failure = read, stamp, ""


def _is_older(new: ReadCrl, before: ReadCrl) -> bool:
    return new.this_update_ms < before.this_update_ms or new.number < before.number


def _read(content: bytes, issuers: Sequence[bytes]) -> ReadCrl:
    """Raises ValueError, or DuplicateExtension, which the library keeps outside it."""
    pem = content.lstrip().startswith(b"-----BEGIN")
    crl = x509.load_pem_x509_crl(content) if pem else x509.load_der_x509_crl(content)
    if crl.next_update_utc is None:
        raise ValueError("it has no nextUpdate, which RFC 5280 section 5.1.2.5 requires")
    number = 0
    for extension in crl.extensions:
        if isinstance(extension.value, x509.CRLNumber):
            number = extension.value.crl_number
        elif extension.critical:
            oid = extension.oid.dotted_string
            raise ValueError(f"it has the critical extension {oid}: delta, indirect and partitioned lists are not read")
    return ReadCrl(
        der=crl.public_bytes(Encoding.DER),
        issuer=_issuer(crl, issuers),
        number=number,
        this_update_ms=int(crl.last_update_utc.timestamp()) * 1000,
        next_update_ms=int(crl.next_update_utc.timestamp()) * 1000,
        serials=frozenset(entry.serial_number for entry in crl),
    )


def _issuer(crl: x509.CertificateRevocationList, issuers: Sequence[bytes]) -> x509.Certificate:
    """The one of ``issuers`` that signed the list. Raises ValueError."""
    name = repr(name_to_text(crl.issuer)[:200])
    named = [each for each in map(x509.load_der_x509_certificate, issuers) if each.subject == crl.issuer]
    if not named:
        raise ValueError(f"it is a list of {name}, which is none of the CAs expected here")
    if isinstance(crl.signature_hash_algorithm, _OLD_HASHES):
        raise ValueError(f"it is signed with {crl.signature_hash_algorithm.name}")
    for issuer in named:
        if _may_sign_lists(issuer) and _is_signed_by(crl, issuer):
            return issuer
    raise ValueError(f"its signature is not that of the CA {name} known here")


def _may_sign_lists(issuer: x509.Certificate) -> bool:
    try:
        return issuer.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        return True


def _is_signed_by(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    try:
        return crl.is_signature_valid(issuer.public_key())  # type: ignore[arg-type]  # TypeError for a key that cannot sign
    except (TypeError, ValueError, UnsupportedAlgorithm):
        return False

"""Certificate chains: who presents a client certificate, and whether a CA certificate fits its issuers (RFC 5280 6.1). Pure.

Written for what factories have: IDevIDs (IEEE 802.1AR) have no subjectAltName, expire in the year 9999 and carry extended key
usages of their makers' own, which are no hindrance; refused are those for another purpose only (:data:`_OTHER_PURPOSES`).
Revocation and what the holder may do is the caller's business. Validity is judged by the gateway's clock only. The search is
bounded: at most :data:`MAX_INTERMEDIATES` in a chain, and at most :data:`MAX_SIGNATURES` signatures verified, however the
certificates cross-sign each other.

Trust anchors are what the operator configured: name, key, validity, basicConstraints and pathLen of an anchor count, its
other extensions do not (RFC 5280 section 6.1.1 d). Name constraints and policy constraints below an anchor are refused,
not ignored.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from gateway.errors import OperatorError, Unauthenticated
from gateway.pki.names import name_to_text

MAX_INTERMEDIATES = 4
MAX_SIGNATURES = 16
MAX_CERTIFICATE_SIZE = 65_536
#: A certificate may have been made a moment ago by a CA whose clock is ahead of ours.
CLOCK_SKEW_MS = 300_000

#: Extensions that may be critical: they are checked here, or say nothing about whether the chain holds.
_UNDERSTOOD = frozenset(
    {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.EXTENDED_KEY_USAGE,
        ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
        ExtensionOID.CERTIFICATE_POLICIES,
        ExtensionOID.CRL_DISTRIBUTION_POINTS,
    }
)
#: The purposes of RFC 5280 section 4.2.1.12 that are not a TLS client's: a maker's CA may also serve its web sites.
_OTHER_PURPOSES = frozenset(
    {
        ExtendedKeyUsageOID.SERVER_AUTH,
        ExtendedKeyUsageOID.CODE_SIGNING,
        ExtendedKeyUsageOID.EMAIL_PROTECTION,
        ExtendedKeyUsageOID.TIME_STAMPING,
        ExtendedKeyUsageOID.OCSP_SIGNING,
    }
)


@dataclass(frozen=True, slots=True)
class VerifiedChain:
    """``leaf`` was issued by ``issuers[0]``, that by ``issuers[1]`` and so on, the last by ``anchor``."""

    leaf: x509.Certificate
    issuers: tuple[x509.Certificate, ...]
    anchor: x509.Certificate


class _Refused(Exception):
    """Why a certificate or chain does not hold; becomes Unauthenticated or OperatorError at the border of this module."""


def verify_client(
    leaf_der: bytes,
    *,
    anchors: Sequence[bytes],
    intermediates: Sequence[bytes] = (),
    now_ms: int,
    expired_grace_ms: int = 0,
) -> VerifiedChain:
    """The chain from an end entity's certificate to one of ``anchors`` (all in DER); ``intermediates`` may come from anybody.

    ``expired_grace_ms`` is how long after its end the leaf (only the leaf) is still taken, for renewing late. Raises
    Unauthenticated with the reason.
    """
    try:
        leaf = _load(leaf_der)
        _check_time(leaf, now_ms, expired_grace_ms)
        _check_end_entity(leaf)
        return _Search(anchors, intermediates, now_ms, for_client=True).chain(leaf, cas_below=0)
    except _Refused as refusal:
        raise Unauthenticated(str(refusal)) from refusal


def verify_chip(leaf_der: bytes, *, anchors: Sequence[bytes], intermediates: Sequence[bytes], now_ms: int) -> VerifiedChain:
    """The chain from the certificate that a chip's maker gave to a key in it (a TPM's EK), which signs nothing.

    Unlike a client's it may lack digitalSignature and have any purpose: what it must be for is the caller's to check. Raises
    Unauthenticated with the reason.
    """
    try:
        leaf = _load(leaf_der)
        _check_time(leaf, now_ms)
        _check_critical(leaf)
        constraints = _extension(leaf, x509.BasicConstraints)
        if constraints is not None and constraints.ca:
            raise _Refused(f"{_name(leaf)} is one of a CA, not of a chip")
        return _Search(anchors, intermediates, now_ms).chain(leaf, cas_below=0)
    except _Refused as refusal:
        raise Unauthenticated(str(refusal)) from refusal


def verify_issuer_chain(ca_der: bytes, chain: Sequence[bytes], *, now_ms: int) -> VerifiedChain:
    """Check that a CA certificate may issue and that ``chain`` (any order, with its root) leads from it to a self-signed root.

    For importing a CA certificate in a ceremony. A self-signed CA certificate is its own anchor. Raises OperatorError.
    """
    try:
        ca = _load(ca_der)
        _check_issuer(ca, now_ms, 0)
        usage = _extension(ca, x509.KeyUsage)
        if usage is None or not (usage.key_cert_sign and usage.crl_sign):
            raise _Refused(f"{_name(ca)} needs the key usages keyCertSign and cRLSign")
        if _extension(ca, x509.SubjectKeyIdentifier) is None:
            raise _Refused(f"{_name(ca)} has no subjectKeyIdentifier (RFC 5280 section 4.2.1.2)")
        if _is_self_signed(ca):
            return VerifiedChain(ca, (), ca)
        _check_critical(ca)
        others = [_load(der) for der in chain[: MAX_INTERMEDIATES + 2]]
        roots = [der for der, other in zip(chain, others, strict=False) if _is_self_signed(other)]
        if not roots:
            raise _Refused("the chain holds no self-signed root")
        return _Search(roots, chain[: MAX_INTERMEDIATES + 2], now_ms).chain(ca, cas_below=1)
    except _Refused as refusal:
        raise OperatorError(str(refusal)) from refusal


class _Search:
    """Looks for a path from a certificate to an anchor, depth first, with a budget of signatures to verify."""

    def __init__(
        self, anchors: Sequence[bytes], intermediates: Sequence[bytes], now_ms: int, *, for_client: bool = False
    ) -> None:
        self._for_client = for_client
        self._anchors = [_load_cached(der) for der in anchors]
        self._intermediates: list[x509.Certificate] = []
        for der in intermediates:
            try:
                self._intermediates.append(_load(der))
            except _Refused:
                continue  # a certificate that nobody can read is no help, and no reason to refuse the others
        self._now_ms = now_ms
        self._signatures_left = MAX_SIGNATURES
        self._reason = ""

    def chain(self, leaf: x509.Certificate, *, cas_below: int) -> VerifiedChain:
        found = self._climb(leaf, (), cas_below)
        if found is None:
            raise _Refused(self._reason or f"{_name(leaf)} was issued by {_issuer(leaf)}, which is not trusted here")
        issuers, anchor = found
        return VerifiedChain(leaf, issuers, anchor)

    def _climb(
        self, certificate: x509.Certificate, path: tuple[x509.Certificate, ...], cas_below: int
    ) -> tuple[tuple[x509.Certificate, ...], x509.Certificate] | None:
        """Issuers and anchor above ``certificate``, which stands on top of ``path``; ``None`` when there is no way."""
        for anchor in self._anchors:
            if self._issued(certificate, anchor, cas_below, is_anchor=True):
                return path, anchor
        if len(path) == MAX_INTERMEDIATES:
            self._reason = self._reason or f"the chain has more than {MAX_INTERMEDIATES} intermediate certificates"
            return None
        for issuer in self._intermediates:
            if issuer in path or issuer == certificate:
                continue
            if self._issued(certificate, issuer, cas_below, is_anchor=False):
                self_issued = issuer.subject == issuer.issuer
                found = self._climb(issuer, (*path, issuer), cas_below + (not self_issued))
                if found is not None:
                    return found
        return None

    def _issued(self, certificate: x509.Certificate, issuer: x509.Certificate, cas_below: int, *, is_anchor: bool) -> bool:
        if certificate.issuer != issuer.subject:
            return False
        if self._signatures_left == 0:
            self._reason = f"no chain was found within {MAX_SIGNATURES} signatures"
            return False
        try:
            _check_issuer(issuer, self._now_ms, cas_below)
            if not is_anchor:
                _check_critical(issuer)
                if self._for_client:
                    _check_purpose(issuer)
            self._signatures_left -= 1
            _check_signature(certificate, issuer)
        except _Refused as refusal:
            self._reason = str(refusal)
            return False
        return True


def _load(der: bytes) -> x509.Certificate:
    if len(der) > MAX_CERTIFICATE_SIZE:
        raise _Refused(f"a certificate of {len(der)} bytes; at most {MAX_CERTIFICATE_SIZE} are accepted")
    try:
        certificate = x509.load_der_x509_certificate(der)
        # The library parses these on first use; done here, nothing below can fail. It warns of over-long names.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            _ = certificate.subject, certificate.issuer, certificate.extensions
            _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except (ValueError, TypeError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType, x509.InvalidVersion) as error:
        raise _Refused(f"not a certificate: {str(error)[:200]}") from error
    if certificate.version is not x509.Version.v3:
        raise _Refused(f"{_name(certificate)} is an X.509 version 1 certificate")
    return certificate


#: Anchors come from the configuration and are the same at every request.
_load_cached = lru_cache(maxsize=256)(_load)


def _name(certificate: x509.Certificate) -> str:
    return f"the certificate of {name_to_text(certificate.subject)[:200]!r}"


def _issuer(certificate: x509.Certificate) -> str:
    return repr(name_to_text(certificate.issuer)[:200])


_E = TypeVar("_E", bound=x509.ExtensionType)


def _extension(certificate: x509.Certificate, kind: type[_E]) -> _E | None:
    for extension in certificate.extensions:
        if isinstance(extension.value, kind):
            return extension.value
    return None


def _check_time(certificate: x509.Certificate, now_ms: int, grace_ms: int = 0) -> None:
    not_before, not_after = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if now_ms + CLOCK_SKEW_MS < int(not_before.timestamp()) * 1000:
        raise _Refused(f"{_name(certificate)} is not valid before {not_before:%Y-%m-%d %H:%M:%S} UTC")
    if now_ms >= int(not_after.timestamp()) * 1000 + 1000 + grace_ms:
        raise _Refused(f"{_name(certificate)} expired at {not_after:%Y-%m-%d %H:%M:%S} UTC")


def _check_critical(certificate: x509.Certificate) -> None:
    for extension in certificate.extensions:
        if extension.critical and extension.oid not in _UNDERSTOOD:
            raise _Refused(
                f"{_name(certificate)} has the critical extension {extension.oid.dotted_string}, not understood here"
            )
        if extension.oid == ExtensionOID.NAME_CONSTRAINTS:
            raise _Refused(f"{_name(certificate)} has name constraints, which are not evaluated here")


def _check_purpose(certificate: x509.Certificate) -> None:
    """RFC 5280 section 4.2.1.12. OpenSSL does not look at it in our handshakes (gateway.protocols.tls)."""
    usages = _extension(certificate, x509.ExtendedKeyUsage)
    if usages is not None and _OTHER_PURPOSES.issuperset(usages):
        raise _Refused(f"{_name(certificate)} is none of a TLS client (extKeyUsage)")


def _check_end_entity(leaf: x509.Certificate) -> None:
    _check_critical(leaf)
    _check_purpose(leaf)
    constraints = _extension(leaf, x509.BasicConstraints)
    usage = _extension(leaf, x509.KeyUsage)
    if (constraints is not None and constraints.ca) or (usage is not None and usage.key_cert_sign):
        raise _Refused(f"{_name(leaf)} is one of a CA, not of a device")
    if usage is not None and not usage.digital_signature:
        raise _Refused(f"{_name(leaf)} lacks the key usage digitalSignature")


def _check_issuer(issuer: x509.Certificate, now_ms: int, cas_below: int) -> None:
    """``cas_below`` is the number of CA certificates between it and the end entity that are not self-issued."""
    _check_time(issuer, now_ms)
    constraints = _extension(issuer, x509.BasicConstraints)
    if constraints is None or not constraints.ca:
        raise _Refused(f"{_name(issuer)} is not one of a CA (basicConstraints)")
    usage = _extension(issuer, x509.KeyUsage)
    if usage is not None and not usage.key_cert_sign:
        raise _Refused(f"{_name(issuer)} lacks the key usage keyCertSign")
    if constraints.path_length is not None and cas_below > constraints.path_length:
        raise _Refused(f"{_name(issuer)} allows {constraints.path_length} CA certificates below it, not {cas_below}")


def _check_signature(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    try:
        if isinstance(certificate.signature_hash_algorithm, hashes.SHA1 | hashes.MD5):
            raise _Refused(f"{_name(certificate)} is signed with {certificate.signature_hash_algorithm.name}")
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
        raise _Refused(f"{_name(certificate)} was not signed by the CA {_issuer(certificate)} known here") from error


def _is_self_signed(certificate: x509.Certificate) -> bool:
    if certificate.subject != certificate.issuer:
        return False
    try:
        _check_signature(certificate, certificate)
    except _Refused:
        return False
    return True

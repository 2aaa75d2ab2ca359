"""The status of every journalled certificate while its gateway is out of reach: OCSP (RFC 6960) from the records.

Each gateway's CA certifies central's OCSP key in advance, because RFC 6960 section 4.2.2.2 wants the responder certified by the
very key that issued the certificate; that certificate is found in the gateway's journal. ``good`` are only serials that a
journal names as issued: a certificate made with a stolen CA key is never good here. ``revoked`` is what the words of both sides
merge to (:mod:`sync.conflicts`), so central's own decision counts before the gateway has heard of it.
"""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID

from gateway.authority.ocsp import TRY_LATER, OcspAnswer
from gateway.clock import Clock
from gateway.errors import GatewayError, IntegrityError, RequestError, Unavailable
from gateway.journal.certificates import certificate_of
from gateway.journal.records import Intent, Issued, decode
from gateway.journal.tip import serial_column
from gateway.pki.algorithms import PrivateKey, default_algorithm, sign
from gateway.pki.crl import Reason
from gateway.pki.ocsp import (
    CertId,
    CertState,
    OcspRequest,
    ResponseStatus,
    SingleStatus,
    assemble_response,
    build_response_tbs,
    cert_id,
    error_response,
    matches,
    parse_request,
    responder_key_hash,
)
from gateway.pki.tbs import CaInfo, ca_info, key_bits
from sync.central.listing import every
from sync.central.revocations import words
from sync.central.rows import ISSUED, VOID, Ca, Certificate, Journal
from sync.central.store import CentralStore, Transaction
from sync.conflicts import merged

_log = logging.getLogger(__name__)
_MALFORMED = error_response(ResponseStatus.MALFORMED_REQUEST)
_INTERNAL_ERROR = error_response(ResponseStatus.INTERNAL_ERROR)
_UNAUTHORIZED = error_response(ResponseStatus.UNAUTHORIZED)
#: Hashes by which a request may name the issuer.
_HASHES = ("sha1", "sha256", "sha384", "sha512")
#: RFC 5280 section 4.1.2.2: a serial has at most 20 octets; nothing longer is looked for.
_SERIAL_BITS = 159
#: How long what the database said about CAs and responders is believed: requests for unknown issuers must not cost a scan each.
_BELIEVED_MS = 5_000
_MOST_RESPONDERS = 1024


@dataclass(frozen=True, slots=True)
class _Responder:
    """The certificate of our key by one CA; ``certificate`` is empty where there is none yet."""

    certificate: bytes
    not_after_ms: int
    looked_ms: int


class CentralResponder:
    """Answers OCSP requests about the certificates of all gateways."""

    def __init__(self, store: CentralStore, key: PrivateKey, clock: Clock, *, validity_s: int = 86_400) -> None:
        self._store, self._key, self._clock, self._validity_ms = store, key, clock, validity_s * 1000
        self._algorithm = default_algorithm(key.public_key())
        spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self._spki_digest, self._key_hash = hashlib.sha256(spki).digest(), responder_key_hash(key_bits(spki))
        self._cas: dict[tuple[bytes, bytes], CaInfo] = {}  # by the hashes of name and key
        self._known: set[bytes] = set()  # digests of the certificates in _cas
        self._looked_ms = -_BELIEVED_MS
        self._responders: OrderedDict[bytes, _Responder] = OrderedDict()  # by the CA's key identifier

    def ocsp_at_hand(self, request_der: bytes) -> OcspAnswer | None:
        """Nothing is kept: several workers may answer, and a revocation at one must count at all."""

    async def ocsp(self, request_der: bytes) -> OcspAnswer:
        """The answer to any bytes at all; never raises for what a client sent."""
        try:
            request = parse_request(request_der)
        except RequestError:
            return OcspAnswer(_MALFORMED)
        try:
            async with self._store.transaction() as t:
                return await self._answer(t, request)
        except Unavailable as error:
            _log.warning("OCSP: %s", error)
            return OcspAnswer(TRY_LATER)
        except GatewayError:
            _log.exception("OCSP: the status cannot be told")
            return OcspAnswer(_INTERNAL_ERROR)

    async def _answer(self, t: Transaction, request: OcspRequest) -> OcspAnswer:
        now_ms = self._clock.now_ms()
        ca = await self._issuer(t, request, now_ms)
        if ca is None:
            return OcspAnswer(_UNAUTHORIZED)
        responder = await self._responder(t, ca, now_ms)
        if not responder.certificate or responder.not_after_ms <= now_ms + 1000:
            return OcspAnswer(TRY_LATER)
        until_ms = min(now_ms + self._validity_ms, responder.not_after_ms)
        singles = [await self._single(t, each, ca, now_ms, until_ms) for each in request.cert_ids]
        tbs = build_response_tbs(
            responder_key=self._key_hash, singles=singles, produced_ms=now_ms, nonce=request.nonce
        )  # fmt: skip
        signature = sign(self._key, self._algorithm, tbs)
        der = assemble_response(tbs, self._algorithm, signature, responder.certificate)
        cacheable = request.nonce is None and all(single.state is not CertState.UNKNOWN for single in singles)
        return OcspAnswer(der, cacheable, now_ms, until_ms)

    async def _single(self, t: Transaction, asked: CertId, ca: CaInfo, now_ms: int, until_ms: int) -> SingleStatus:
        unknown = SingleStatus(asked, CertState.UNKNOWN, now_ms, until_ms)
        if not matches(ca, asked) or not 0 < asked.serial < 1 << _SERIAL_BITS:
            return unknown
        found = await t.find(Certificate, serial_column(f"{asked.serial:x}"), ca.key_identifier)
        if found is None:
            return unknown
        status = merged(*await words(t, found))
        if status is not None:
            return SingleStatus(asked, CertState.REVOKED, now_ms, until_ms, status.revoked_ms, status.reason)
        if found.state == VOID:
            return SingleStatus(asked, CertState.REVOKED, now_ms, until_ms, found.issued, Reason.UNSPECIFIED)
        return SingleStatus(asked, CertState.GOOD, now_ms, until_ms) if found.state == ISSUED else unknown

    async def _issuer(self, t: Transaction, request: OcspRequest, now_ms: int) -> CaInfo | None:
        for again in (False, True):
            if again:
                if now_ms - self._looked_ms < _BELIEVED_MS:
                    return None
                await self._load_cas(t, now_ms)
            for each in request.cert_ids:
                ca = self._cas.get((each.issuer_name_hash, each.issuer_key_hash))
                if ca is not None:
                    return ca
        return None

    async def _load_cas(self, t: Transaction, now_ms: int) -> None:
        self._looked_ms = now_ms
        async for row in every(t, Ca):
            if row.digest in self._known:
                continue
            self._known.add(row.digest)
            ca = ca_info(row.certificate)
            for name in _HASHES:
                named = cert_id(ca, 1, name)
                self._cas[named.issuer_name_hash, named.issuer_key_hash] = ca

    async def _responder(self, t: Transaction, ca: CaInfo, now_ms: int) -> _Responder:
        """What the CA certified our key with last."""
        kept = self._responders.get(ca.key_identifier)
        if kept is not None and now_ms - kept.looked_ms < _BELIEVED_MS:
            return kept
        found = _Responder(b"", 0, now_ms)
        rows = await t.select(Certificate, spki=self._spki_digest)
        ours = [row for row in rows if row.issuer == ca.key_identifier and row.state == ISSUED and row.not_after > now_ms]
        for row in sorted(ours, key=lambda each: each.not_after, reverse=True):
            certificate = await certificate_der(t, row)
            if _may_sign_ocsp(certificate, ca) and merged(*await words(t, row)) is None:
                found = _Responder(certificate, row.not_after, now_ms)
                break
        self._responders[ca.key_identifier] = found
        self._responders.move_to_end(ca.key_identifier)
        if len(self._responders) > _MOST_RESPONDERS:
            self._responders.popitem(last=False)
        return found


async def certificate_der(t: Transaction, row: Certificate) -> bytes:
    """The certificate, made from its two records. Raises IntegrityError."""
    journal = await t.find(Journal, row.origin)
    if journal is None or row.state != ISSUED:
        raise IntegrityError("there is no such certificate")
    found = {kept.seq: decode(kept.body).payload for kept in await t.records_at(journal, [row.intent, row.closing])}
    intent, issued = found.get(row.intent), found.get(row.closing)
    if not isinstance(intent, Intent) or not isinstance(issued, Issued):
        raise IntegrityError(f"records {row.intent} and {row.closing} of {row.origin} are no intent and its certificate")
    return certificate_of(intent, issued)


def _may_sign_ocsp(der: bytes, ca: CaInfo) -> bool:
    """Whether clients will believe a responder with this certificate (RFC 6960 section 4.2.2.2)."""
    certificate = x509.load_der_x509_certificate(der)
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return ExtendedKeyUsageOID.OCSP_SIGNING in usage and certificate.issuer == ca.certificate.subject

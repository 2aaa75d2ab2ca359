"""Who asks: from what a connection proved to a :class:`~gateway.authority.requests.Requester`.

The TLS layer has proven that the peer holds the key of its certificate; whose certificate it is, is decided here. One of ours
is recognised by the journal, by its exact bytes, and not by its signature alone: a certificate this journal does not know is
not ours. One of a maker is verified up to that maker's root. A token is compared in constant time.

Expired certificates are let through, because renewing them may be allowed, and those that their maker revoked; policy decides,
says why and has it journalled. Every refusal here says the same to the requester and which part was wrong to the log only.
"""

from __future__ import annotations

import hashlib
import ipaddress
import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from gateway.authority.generations import CaGeneration, Generations
from gateway.authority.inforce import PolicyInForce
from gateway.authority.makers import MadeBy, Makers
from gateway.authority.requests import Holder, Requester, RequesterKind
from gateway.authority.status import RevocationStatus
from gateway.authority.tokens import Tokens
from gateway.clock import Clock, elapsed_ms
from gateway.errors import Busy, GatewayError, MalformedRequest, Unauthenticated
from gateway.journal.records import Intent, Issued, Record
from gateway.pki.der import END_OF_TIME_MS
from gateway.pki.tbs import tbs_fields
from gateway.pki.walk import content, elements

_log = logging.getLogger(__name__)
#: Certificates remembered, so that a keep-alive connection is looked at once. About 3 KB each.
_MOST_KNOWN = 2_048
#: How long a maker's certificate is trusted without verifying its chain again. Milliseconds.
_MAKER_TRUST_MS = 3_600_000
#: Failed passwords of one address: so many at once, then one each interval. Guessing 136 bits is hopeless anyway; this
#: protects the log and the processor.
_FAILURES, _FAILURE_INTERVAL_MS = 10, 6_000
_MOST_SOURCES = 4_096
_NOT_ACCEPTED = "the client certificate is not accepted here"


class CertificateJournal(Protocol):
    """What is needed of the journal."""

    async def by_serial(self, serial: int) -> tuple[Record, ...]: ...


@dataclass(frozen=True, slots=True)
class _Known:
    """A certificate that was recognised. ``generation`` is ours; ``None`` for one ``made`` by a maker, trusted until
    ``until_ms``."""

    certificate: bytes
    digest: bytes
    holder: Holder
    generation: int | None
    until_ms: int = 0
    made: MadeBy | None = None


class Authenticator:
    """Names requesters. ``makers`` are those whose IDevIDs are accepted."""

    def __init__(
        self,
        *,
        journal: CertificateJournal,
        generations: Generations,
        status: RevocationStatus,
        policy: PolicyInForce,
        tokens: Tokens,
        clock: Clock,
        makers: Makers,
    ) -> None:
        self._journal, self._generations, self._status = journal, generations, status
        self._policy, self._tokens, self._clock = policy, tokens, clock
        self._makers = makers
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._failures = FailureLimit()

    async def certificate(self, chain: Sequence[bytes]) -> Requester:
        """The holder of ``chain[0]``; the others (DER) are what it sent along. Raises Unauthenticated."""
        if not chain:
            raise Unauthenticated("no client certificate was sent")
        digest = hashlib.sha256(chain[0]).digest()
        known = self._known.get(digest)
        if known is None or (known.generation is None and self._clock.now_ms() >= known.until_ms):
            known = await self._recognise(chain, digest)
            self._known[digest] = known
            if len(self._known) > _MOST_KNOWN:
                self._known.popitem(last=False)
        self._known.move_to_end(digest)
        return self._requester(known)

    async def password(self, user: str, password: str, source: str = "") -> Requester:
        """The user of a one-time token. ``source`` is the peer's IP address, for counting failures.

        Raises Unauthenticated, and Busy where that address failed too often.
        """
        now_ms = elapsed_ms()  # the gateway's clock may stand still for a year; nobody is locked out that long
        self._failures.check(source, now_ms)
        checked = self._tokens.check(user, password)
        if checked is None:
            self._failures.count(source, now_ms)
            _log.warning("wrong credentials from %s", source or "an unknown address")
            raise Unauthenticated("these credentials are not valid")
        grant, station = checked
        kind = RequesterKind.STATION if station else RequesterKind.TOKEN
        return Requester(kind, f"token:{grant.token_id}", token_id=grant.token_id, token=grant)

    async def _recognise(self, chain: Sequence[bytes], digest: bytes) -> _Known:
        try:
            certificate = x509.load_der_x509_certificate(chain[0])
            issuer = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        except x509.ExtensionNotFound:
            issuer = None
        except ValueError as error:
            raise Unauthenticated(_NOT_ACCEPTED) from error
        generation = self._generations.by_key_identifier(issuer) if issuer else None
        if generation is not None:
            return await self._ours(certificate, chain[0], digest, generation)
        return self._makers_own(certificate, chain, digest)

    async def _ours(self, certificate: x509.Certificate, der: bytes, digest: bytes, generation: CaGeneration) -> _Known:
        payloads = [record.payload for record in await self._journal.by_serial(certificate.serial_number)]
        intent = next((each for each in payloads if isinstance(each, Intent) and each.generation == generation.number), None)
        issued = any(isinstance(each, Issued) and each.certificate_digest == digest for each in payloads)
        if intent is None or not issued:
            _log.warning("a certificate with our issuer and serial %x is not in the journal", certificate.serial_number)
            raise Unauthenticated(_NOT_ACCEPTED)
        return _Known(der, digest, holder_of(certificate, intent.profile), generation.number)

    def _makers_own(self, certificate: x509.Certificate, chain: Sequence[bytes], digest: bytes) -> _Known:
        now_ms = self._clock.now_ms()
        try:
            made = self._makers.verify(chain, now_ms)
        except GatewayError as error:
            _log.info("client certificate %s not accepted: %s", digest.hex(), error)
            raise Unauthenticated(_NOT_ACCEPTED) from error
        holder = holder_of(certificate)
        if made.maker.accept_expired:
            holder = replace(holder, not_after_ms=END_OF_TIME_MS)
        return _Known(chain[0], digest, holder, None, now_ms + _MAKER_TRUST_MS, made)

    def _requester(self, known: _Known) -> Requester:
        """Asked anew for every request: revocation and policy change while a connection lives."""
        holder = known.holder
        if known.generation is None:
            objection = "" if known.made is None else self._makers.objection(known.made, self._clock.now_ms())
            identity = f"idevid:{known.digest.hex()}"
            return Requester(RequesterKind.IDEVID, identity, certificate=known.certificate, holder=holder, objection=objection)
        if self._status.find(holder.serial, known.generation) is not None:
            _log.info("certificate %x is revoked and not accepted", holder.serial)
            raise Unauthenticated(_NOT_ACCEPTED)
        rule = self._policy.current.rules.get(holder.profile)
        if rule is not None and rule.station:
            kind, identity = RequesterKind.STATION, f"station:{holder.serial:x}"
        else:
            kind, identity = RequesterKind.OWN, f"own:{holder.serial:x}"
        return Requester(kind, identity, certificate=known.certificate, holder=holder)


class FailureLimit:
    """How often each source may fail: :data:`_FAILURES` times at once, regaining one each interval. Memory is bounded.

    Kept is one number for each source, the time by which all its failures will be forgiven (GCRA, ITU-T I.371).
    """

    def __init__(self) -> None:
        self._forgiven_ms: OrderedDict[str, int] = OrderedDict()

    def check(self, source: str, now_ms: int) -> None:
        """Raise Busy when ``source`` has failed too often."""
        if not self._forgiven_ms:
            return
        excess = self._forgiven_ms.get(_subnet(source), now_ms) - now_ms - (_FAILURES - 1) * _FAILURE_INTERVAL_MS
        if excess > 0:
            raise Busy("too many failed attempts from this address", retry_after=-(-excess // 1000))

    def count(self, source: str, now_ms: int) -> None:
        """Note a failure."""
        subnet = _subnet(source)
        self._forgiven_ms[subnet] = max(now_ms, self._forgiven_ms.get(subnet, now_ms)) + _FAILURE_INTERVAL_MS
        self._forgiven_ms.move_to_end(subnet)
        if len(self._forgiven_ms) > _MOST_SOURCES:
            self._forgiven_ms.popitem(last=False)


def _subnet(source: str) -> str:
    """An IPv6 host owns a /64 (RFC 4291 section 2.5.4) and all addresses in it."""
    if ":" not in source:
        return source
    try:
        return str(ipaddress.IPv6Network((source.partition("%")[0], 64), strict=False))
    except ValueError:
        return source


def holder_of(certificate: x509.Certificate, profile: str = "") -> Holder:
    """What policy wants to know of a certificate. Raises Unauthenticated for one that cannot be read."""
    try:
        fields = tbs_fields(certificate.tbs_certificate_bytes)
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value.public_bytes()
    except x509.ExtensionNotFound:
        san = b"\x30\x00"
    except (ValueError, MalformedRequest) as error:
        raise Unauthenticated(_NOT_ACCEPTED) from error
    start, end = content(san, 0x30)
    ends = [stop for _, _, stop in elements(san, start, end)]
    names = (san[begin:stop] for begin, stop in pairwise((start, *ends)))
    serials = [attribute.value for attribute in certificate.subject.get_attributes_for_oid(NameOID.SERIAL_NUMBER)]
    return Holder(
        subject_der=fields.subject,
        names=frozenset(names),
        device_serial=serials[0] if len(serials) == 1 and isinstance(serials[0], str) else None,
        spki=fields.spki,
        not_after_ms=int(certificate.not_valid_after_utc.timestamp() * 1000),
        serial=certificate.serial_number,
        profile=profile,
        renews_only=bool(profile) and not _is_for_clients(certificate),
    )


def _is_for_clients(certificate: x509.Certificate) -> bool:
    """RFC 5280 section 4.2.1.12: without extKeyUsage a certificate is for everything."""
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return ExtendedKeyUsageOID.CLIENT_AUTH in usages or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usages

"""Answering OCSP requests (RFC 6960, RFC 5019) from the journal, with a delegated software key and no HSM operation.

What a serial of one of our generations gets:

- in the journal as issued: ``good``; revoked, held or VOID: ``revoked``;
- not in the journal: ``unknown``. A certificate made with a stolen key but outside the journal is thus never good. RFC 6960
  section 2.2 would also allow ``revoked`` for it, but together with the extended-revoked extension and an invented date;
  clients refuse both, and ``unknown`` says what is true, also in the moment before a new certificate is recorded.

A request for other issuers alone gets ``unauthorized`` (RFC 5019 section 2.2.3). RFC 6960 section 4.2.2.2 wants the responder
certified by the very key that issued the certificate, so each generation has its own responder.

Signed answers are kept by the exact bytes of the request, as nearly every client always sends the same ones, until half
their time is over or the status of a certificate in them changes. Only answers about known certificates without a nonce are
kept, so strangers cannot push them out with made-up serials.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gateway.authority.delegated import DelegatedIdentity
from gateway.authority.generations import CaGeneration, Generations
from gateway.authority.status import RevocationStatus
from gateway.clock import Clock
from gateway.errors import GatewayError, RequestError, Unavailable
from gateway.journal.records import Intent, Issued, Record
from gateway.pki.algorithms import default_algorithm, sign
from gateway.pki.ocsp import (
    CertId,
    CertState,
    OcspRequest,
    ResponseStatus,
    SingleStatus,
    assemble_response,
    build_response_tbs,
    error_response,
    matches,
    parse_request,
    responder_key_hash,
)

_log = logging.getLogger(__name__)
_MALFORMED = error_response(ResponseStatus.MALFORMED_REQUEST)
_INTERNAL_ERROR = error_response(ResponseStatus.INTERNAL_ERROR)
#: What is said while no status can be told.
TRY_LATER = error_response(ResponseStatus.TRY_LATER)
_UNAUTHORIZED = error_response(ResponseStatus.UNAUTHORIZED)
#: RFC 5280 section 4.1.2.2: a serial has at most 20 octets; nothing longer is looked for.
_SERIAL_BITS = 159


@dataclass(frozen=True, slots=True)
class OcspAnswer:
    """An OCSPResponse. ``cacheable`` is whether an HTTP cache may keep it until ``next_update_ms``; errors are not."""

    der: bytes
    cacheable: bool = False
    this_update_ms: int = 0
    next_update_ms: int = 0


@dataclass(frozen=True, slots=True)
class OcspOptions:
    """``validity_s`` is how long a client may rely on an answer; ``cache_size`` counts answers of about 1 KB."""

    validity_s: int = 12 * 3600
    cache_size: int = 4096


class StatusJournal(Protocol):
    """What is needed of the journal; it answers lookups that wait together with one read."""

    async def by_serial(self, serial: int) -> tuple[Record, ...]: ...


class OcspResponder:
    """``responder`` gives the current delegated identity of a generation, or ``None`` while there is none."""

    def __init__(
        self,
        *,
        generations: Generations,
        status: RevocationStatus,
        journal: StatusJournal,
        clock: Clock,
        responder: Callable[[int], DelegatedIdentity | None],
        options: OcspOptions | None = None,
    ) -> None:
        self._generations = generations
        self._status = status
        self._journal = journal
        self._clock = clock
        self._responder = responder
        self._options = options or OcspOptions()
        self._kept: OrderedDict[bytes, tuple[int, OcspAnswer, tuple[int, ...]]] = OrderedDict()
        self._requests: dict[int, set[bytes]] = {}  # serial to the kept requests that ask for it
        self._issued: OrderedDict[tuple[int, int], None] = OrderedDict()  # (generation, serial) seen in the journal
        self._changes = 0
        status.watch(self._changed)

    async def answer(self, request_der: bytes) -> OcspAnswer:
        """The answer to any bytes at all; never raises for what a client sent."""
        kept = self.at_hand(request_der)
        if kept is not None:
            return kept
        try:
            request = parse_request(request_der)
        except RequestError:
            return OcspAnswer(_MALFORMED)
        try:
            return await self._answer(request, request_der)
        except Unavailable as error:
            _log.warning("OCSP: %s", error)
            return OcspAnswer(TRY_LATER)
        except GatewayError:
            _log.exception("OCSP: the status cannot be told")
            return OcspAnswer(_INTERNAL_ERROR)

    def at_hand(self, request_der: bytes) -> OcspAnswer | None:
        """The kept answer that :meth:`answer` would give now, if there is one: nothing is made, nothing awaited."""
        kept = self._kept.get(request_der)
        if kept is None or kept[0] <= self._clock.now_ms():
            return None
        self._kept.move_to_end(request_der)
        return kept[1]

    async def _answer(self, request: OcspRequest, request_der: bytes) -> OcspAnswer:
        generation = self._issuer(request)
        if generation is None:
            return OcspAnswer(_UNAUTHORIZED)
        changes = self._changes
        known = {}
        for cert_id in request.cert_ids:
            known[cert_id.encoded] = matches(generation.ca, cert_id) and await self._is_known(cert_id.serial, generation)
        now_ms = self._clock.now_ms()
        identity = self._responder(generation.number)
        if identity is None or identity.not_after_ms <= now_ms + 1000:
            return OcspAnswer(TRY_LATER)
        until_ms = min(now_ms + self._options.validity_s * 1000, identity.not_after_ms)
        singles = [self._single(cert_id, generation, known[cert_id.encoded], now_ms, until_ms) for cert_id in request.cert_ids]
        cacheable = request.nonce is None and all(single.state is not CertState.UNKNOWN for single in singles)
        answer = OcspAnswer(_signed(identity, singles, now_ms, request.nonce), cacheable, now_ms, until_ms)
        if cacheable and changes == self._changes:  # else a revocation came in while we looked: the next request asks anew
            self._keep(request_der, request, answer)
        return answer

    def _issuer(self, request: OcspRequest) -> CaGeneration | None:
        for cert_id in request.cert_ids:
            for generation in self._generations.all:
                if matches(generation.ca, cert_id):
                    return generation
        return None

    async def _is_known(self, serial: int, generation: CaGeneration) -> bool:
        if not 0 < serial < 1 << _SERIAL_BITS:
            return False
        key = (generation.number, serial)
        if key in self._issued or self._status.find(serial, generation.number) is not None:
            return True
        payloads = [record.payload for record in await self._journal.by_serial(serial)]
        ours = any(isinstance(payload, Intent) and payload.generation == generation.number for payload in payloads)
        if not ours or not any(isinstance(payload, Issued) for payload in payloads):
            return False
        self._issued[key] = None  # what was issued stays so: requests with a nonce need not ask the disk each time
        if len(self._issued) > self._options.cache_size:
            self._issued.popitem(last=False)
        return True

    def _single(self, cert_id: CertId, generation: CaGeneration, known: bool, now_ms: int, until_ms: int) -> SingleStatus:
        if not known:
            return SingleStatus(cert_id, CertState.UNKNOWN, now_ms, until_ms)
        # Looked up last, with no await between here and the signature: a revocation that was acknowledged is in the answer.
        revocation = self._status.find(cert_id.serial, generation.number)
        if revocation is None:
            return SingleStatus(cert_id, CertState.GOOD, now_ms, until_ms)
        return SingleStatus(cert_id, CertState.REVOKED, now_ms, until_ms, revocation.revoked_ms, revocation.reason)

    def _keep(self, request_der: bytes, request: OcspRequest, answer: OcspAnswer) -> None:
        self._drop(request_der)
        serials = tuple(cert_id.serial for cert_id in request.cert_ids)
        refresh_ms = (answer.this_update_ms + answer.next_update_ms) // 2
        self._kept[request_der] = (refresh_ms, answer, serials)
        for serial in serials:
            self._requests.setdefault(serial, set()).add(request_der)
        while len(self._kept) > self._options.cache_size:
            self._drop(next(iter(self._kept)))

    def _drop(self, request_der: bytes) -> None:
        kept = self._kept.pop(request_der, None)
        for serial in kept[2] if kept else ():
            requests = self._requests.get(serial, set())
            requests.discard(request_der)
            if not requests:
                self._requests.pop(serial, None)

    def _changed(self, _generation: int, serial: int) -> None:
        self._changes += 1
        for request_der in tuple(self._requests.get(serial, ())):
            self._drop(request_der)


def _signed(identity: DelegatedIdentity, singles: list[SingleStatus], now_ms: int, nonce: bytes | None) -> bytes:
    algorithm = default_algorithm(identity.private_key.public_key())
    tbs = build_response_tbs(
        responder_key=responder_key_hash(identity.key_bits), singles=singles, produced_ms=now_ms, nonce=nonce
    )
    return assemble_response(tbs, algorithm, sign(identity.private_key, algorithm, tbs), identity.certificate)

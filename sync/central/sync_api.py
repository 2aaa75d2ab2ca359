"""What gateways ask of central over HTTPS: the requests of docs/SYNC.md, "Messages".

A gateway is known by the key of its TLS client certificate and by nothing else. Every refusal is a problem document (RFC 9457)
whose ``type`` says to the gateway's machine what to do next; what stands in ``detail`` is for people.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, Protocol

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.errors import GatewayError, MalformedRequest, Unavailable
from gateway.journal.canonical import JsonValue
from gateway.journal.statements import base64_text
from gateway.protocols.server import SERVER, Limits, method_not_allowed, read_body
from gateway.protocols.tls import client_chain
from sync.central.limits import Allowance
from sync.central.rows import Journal
from sync.central.service import MOST_WAIT_S, Ingest, ResumeAt, SyncRefusal, UnknownGateway
from sync.joining import MOST_REQUEST_OCTETS
from sync.wire import MOST_OCTETS, STATEMENT_TYPE

_log = logging.getLogger(__name__)
PREFIX: Final = "/sync/v1/"
PROBLEM: Final = "urn:edge-gateway:sync:"
_PROBLEM_TYPE = "application/problem+json"
_STATEMENT_OCTETS = 4 << 20
_CRL_OCTETS = 64 << 20
_SLOW_S = 120.0  # a link of 64 kbit/s needs that for a megabyte
_CRL_PATH = re.compile(r"crl/([A-Za-z0-9][A-Za-z0-9._-]{0,80}\.crl)")
_NUMBER = re.compile(r"[0-9]{1,15}")


class Joiner(Protocol):
    """What is needed of the registry."""

    async def join(self, data: bytes) -> bytes: ...


class ListTaker(Protocol):
    """Who keeps the gateways' revocation lists. Raises RequestError for one that is not the gateway's, or older."""

    async def upload(self, origin: str, name: str, der: bytes) -> bool: ...


class SyncEndpoint:
    """On the HTTPS listener; client certificates are asked for there."""

    prefixes = (PREFIX,)

    def __init__(self, ingest: Ingest, joiner: Joiner, lists: ListTaker, joins: Allowance, now_ms: Callable[[], int]) -> None:
        """``joins`` bounds how often a join request is looked at, whoever sends it; ``now_ms`` is its monotonic clock."""
        self._ingest, self._joiner, self._lists, self._joins, self._now_ms = ingest, joiner, lists, joins, now_ms
        self._known: set[int] = set()  # serial numbers of registered gateways' certificates: as many as they renew
        self._posts: Mapping[str, Callable[[Journal, web.BaseRequest], Awaitable[web.Response]]] = {
            "challenge": self._challenge,
            "hello": self._hello,
            "records": self._records,
            "urgent": self._urgent,
        }

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Never raises a GatewayError: all of them have an answer here."""
        try:
            return await self._dispatch(request, request.path.removeprefix(PREFIX))
        except GatewayError as error:
            return _problem(error)

    async def _dispatch(self, request: web.BaseRequest, name: str) -> web.Response:
        if name == "join":
            return await self._join(request) if request.method == "POST" else method_not_allowed(request, "POST")
        if name in self._posts:
            if request.method != "POST":
                return method_not_allowed(request, "POST")
            return await self._posts[name](await self._gateway(request), request)
        if name == "desired":
            if request.method != "GET":
                return method_not_allowed(request, "GET")
            return await self._desired(await self._gateway(request), request)
        if crl := _CRL_PATH.fullmatch(name):
            if request.method != "PUT":
                return method_not_allowed(request, "PUT")
            return await self._crl(await self._gateway(request), crl[1], request)
        return _problem(_NoSuchRequest("central knows no such request; is the gateway's software newer?"))

    async def _gateway(self, request: web.BaseRequest) -> Journal:
        """Who speaks. Raises UnknownGateway.

        A certificate that has expired names its gateway all the same: one that was dark for long must find its way back, and
        what it says is signed by its journal's key. It is worth a line in the log, once.
        """
        chain = client_chain(request.transport)
        if not chain:
            raise UnknownGateway("a gateway shows its TLS client certificate")
        try:
            certificate = x509.load_der_x509_certificate(chain[0])
            spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        except ValueError as error:
            raise UnknownGateway("the TLS client certificate cannot be read") from error
        journal = await self._ingest.gateway(hashlib.sha256(spki).digest())
        if certificate.serial_number not in self._known:
            self._known.add(certificate.serial_number)
            if certificate.not_valid_after_utc < datetime.now(UTC):
                _log.warning("the TLS client certificate of %s has expired", journal.origin)
        return journal

    async def _challenge(self, journal: Journal, _request: web.BaseRequest) -> web.Response:
        return _json({"nonce": await self._ingest.challenge(journal.origin)})

    async def _hello(self, journal: Journal, request: web.BaseRequest) -> web.Response:
        welcome = await self._ingest.hello(journal.origin, await _body(request, _STATEMENT_OCTETS))
        return web.Response(body=welcome.to_bytes(), content_type="application/json", headers={"Server": SERVER})

    async def _records(self, journal: Journal, request: web.BaseRequest) -> web.Response:
        accepted = await self._ingest.records(journal.origin, await _body(request, MOST_OCTETS))
        return web.Response(body=accepted.to_bytes(), content_type="application/json", headers={"Server": SERVER})

    async def _urgent(self, journal: Journal, request: web.BaseRequest) -> web.Response:
        await self._ingest.urgent(journal.origin, await _body(request, _STATEMENT_OCTETS))
        return _json({})

    async def _desired(self, journal: Journal, request: web.BaseRequest) -> web.Response:
        have, wait_s = _number(request, "have"), min(_number(request, "wait"), MOST_WAIT_S)
        document = await self._ingest.desired(journal.origin, have, wait_s)
        if document is None:
            return web.Response(status=304, headers={"Server": SERVER})
        return web.Response(body=document, content_type=STATEMENT_TYPE, headers={"Server": SERVER})

    async def _crl(self, journal: Journal, name: str, request: web.BaseRequest) -> web.Response:
        await self._lists.upload(journal.origin, name, await _body(request, _CRL_OCTETS))
        return web.Response(status=204, headers={"Server": SERVER})

    async def _join(self, request: web.BaseRequest) -> web.Response:
        now_ms = self._now_ms()
        if pause_s := self._joins.wait_s(now_ms):
            raise Unavailable("more gateways want to join than central looks at", retry_after=pause_s)
        self._joins.spend(1, 0, now_ms)
        answer = await self._joiner.join(await _body(request, MOST_REQUEST_OCTETS))
        return web.Response(body=answer, content_type=STATEMENT_TYPE, headers={"Server": SERVER})


class _NoSuchRequest(SyncRefusal):
    http_status = 404
    problem = "unknown-request"


_LIMITS = Limits(body_s=_SLOW_S)


async def _body(request: web.BaseRequest, most: int) -> bytes:
    return await read_body(request, replace(_LIMITS, body=most))


def _number(request: web.BaseRequest, name: str) -> int:
    text = request.query.get(name, "0")
    if not _NUMBER.fullmatch(text):
        raise MalformedRequest(f"{name} must be a whole number")
    return int(text)


def _json(value: dict[str, JsonValue]) -> web.Response:
    return web.Response(text=json.dumps(value), content_type="application/json", headers={"Server": SERVER})


def _problem(error: GatewayError) -> web.Response:
    kind = error.problem if isinstance(error, SyncRefusal) else "busy" if isinstance(error, Unavailable) else "refused"
    status = error.http_status
    body: dict[str, JsonValue] = {
        "type": PROBLEM + kind, "title": type(error).__name__, "status": status, "detail": str(error), "hint": error.hint,
    }  # fmt: skip
    headers = {"Server": SERVER}
    if isinstance(error, ResumeAt):
        body |= {"size": error.size, "root": base64_text(error.root)}
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(error.retry_after)
    return web.Response(text=json.dumps(body), status=status, content_type=_PROBLEM_TYPE, headers=headers)

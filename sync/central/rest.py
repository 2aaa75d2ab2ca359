"""REST for operators and machines below ``/api/v1/`` on the HTTPS listener.

Who asks is an operator (:mod:`sync.central.operators`); what can be asked stands in :mod:`sync.central.rest_answers`. A refusal
is a problem document (RFC 9457). Every change carries an ``Idempotency-Key``: the same request with the same key is carried
out once and gets the same answer for a day. A browser sends such a field to its own origin only, so the field is what keeps
other sites' pages from acting in an operator's name, too. Every change is in the trail before it is carried out.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from aiohttp import web

from gateway.errors import Busy, Conflict, GatewayError, Unavailable
from gateway.protocols.server import Limits, read_body
from gateway.protocols.tls import client_chain
from gateway.web.rest import KeyReused, find_route, idempotency_key, json_object, octets_of, problem, response
from sync.central.openapi import document
from sync.central.operators import Operator, Operators
from sync.central.routes import JSON_TYPE, Call, Parts, Reply, Route
from sync.central.rows import Action, Answered
from sync.central.store import CentralStore

_log = logging.getLogger(__name__)
PREFIX: Final = "/api/v1"
PROBLEM: Final = "urn:edge-central:problem:"
_OPENAPI = "/openapi.json"
_CHALLENGE = 'Bearer realm="edge-central"'
_JSON_OCTETS = 1 << 20
_SLOW_S = 600.0  # a bundle of 256 MiB over a slow line
#: How long an answer is repeated.
KEPT_MS: Final = 86_400_000
_FORGET_S = 3600.0
_LARGE_S = 5
_MOST_ACTION, _MOST_DETAIL = 500, 20_000
#: A longer answer is not kept: only one to a bundle is, and a bundle may be taken again.
MOST_KEPT: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class _Change:
    """One change as it is remembered: its key, the digest that tells it from others, and what the trail says."""

    key: str
    digest: bytes
    action: str
    detail: str


class RestEndpoint:
    """An endpoint for :class:`gateway.protocols.server.Listener`."""

    prefixes = (PREFIX + "/",)

    def __init__(self, routes: Sequence[Route], parts: Parts, operators: Operators) -> None:
        self._routes, self._parts, self._operators = tuple(routes), parts, operators
        self._store, self._clock = parts.store, parts.clock
        self._under_way: set[tuple[str, str]] = set()
        self._numbers = itertools.count()
        self._large = asyncio.Semaphore(1)  # bodies that are not JSON: 256 MiB at a time are enough

    async def run(self) -> None:
        """Forget what is not repeated any more, for ever."""
        while True:
            try:
                await forget_answers(self._store, self._clock.now_ms())
            except Unavailable as error:
                _log.warning("old answers are deleted later: %s", error)
            await asyncio.sleep(_FORGET_S)

    async def answer(self, request: web.BaseRequest) -> web.Response:
        """Never raises a GatewayError: all of them have an answer here."""
        try:
            path = request.raw_path.partition("?")[0].removeprefix(PREFIX)
            if path == _OPENAPI and request.method == "GET":
                return response(Reply(document(self._routes)))
            operator = await asyncio.to_thread(
                self._operators.who, request.headers.get("Authorization", ""), client_chain(request.transport)
            )
            route, variables = find_route(self._routes, request.method, path, PREFIX + _OPENAPI)
            operator.check(changes=route.changes)
            return response(await self._carry_out(operator, route, variables, path, request))
        except GatewayError as error:
            return response(problem(error, PROBLEM, _CHALLENGE))

    async def _carry_out(
        self, operator: Operator, route: Route, variables: dict[str, str], path: str, request: web.BaseRequest
    ) -> Reply:
        query = dict(request.query)
        route.check_query(query)
        if not route.changes:
            return await route.answer(self._parts, Call(operator.name, variables, query, {}))
        if not route.octets:
            return await self._change(operator, route, variables, path, request)
        if self._large.locked():
            raise Busy("another bundle is being taken", retry_after=_LARGE_S)
        async with self._large:
            return await self._change(operator, route, variables, path, request)

    async def _change(
        self, operator: Operator, route: Route, variables: dict[str, str], path: str, request: web.BaseRequest
    ) -> Reply:
        key = idempotency_key(request)
        content = await read_body(request, replace(Limits(body_s=_SLOW_S), body=route.octets or _JSON_OCTETS))
        body = {} if route.octets else json_object(content)
        route.check_body(body)
        headers = request.headers
        call = Call(
            operator.name, variables, dict(request.query), body, content if route.octets else b"", headers.get("If-Match", ""),
            headers.get("If-None-Match", ""),
        )  # fmt: skip
        change = await asyncio.to_thread(_read_change, key, f"{route.method} {path}", call, content)
        if (operator.name, key) in self._under_way:
            raise Conflict("the same request is under way")
        self._under_way.add((operator.name, key))
        try:
            return await self._once(route, call, change)
        finally:
            self._under_way.discard((operator.name, key))

    async def _once(self, route: Route, call: Call, change: _Change) -> Reply:
        """Carry out a change unless that was done; the answer is remembered when it is a success.

        After a crash in between the change is carried out again, which every one of them bears.
        """
        key, digest = change.key, change.digest
        async with self._store.transaction() as t:
            known = await t.find(Answered, call.operator, key)
        if known is not None and known.at + KEPT_MS > self._clock.now_ms():
            if known.request != digest:
                raise KeyReused("this Idempotency-Key was used for another request")
            stored = Reply(known.content, known.status, head={**json.loads(known.head), "Idempotent-Replayed": "true"})
            return replace(stored, media=stored.head.get("Content-Type", JSON_TYPE))
        action = await self._enter(call.operator, change)
        status = 500
        try:
            reply = await route.answer(self._parts, call)
            status = reply.status
        except GatewayError as error:
            status = error.http_status
            raise
        except asyncio.CancelledError:
            status = 0  # the client has gone, and nobody knows how far it came
            raise
        finally:
            async with self._store.transaction() as t:
                await t.change(Action, action, status=status)
        octets, head = octets_of(reply), json.dumps({**reply.head, "Content-Type": reply.media})
        if len(octets) <= MOST_KEPT:
            async with self._store.transaction() as t:
                await t.put(Answered(call.operator, key, digest, reply.status, head, octets, self._clock.now_ms()))
        return reply

    async def _enter(self, operator: str, change: _Change) -> str:
        """Into the trail."""
        now_ms = self._clock.now_ms()
        identifier = f"{now_ms:012x}-{next(self._numbers):08x}-{secrets.token_hex(4)}"
        async with self._store.transaction() as t:
            await t.put(Action(identifier, now_ms, operator, change.action[:_MOST_ACTION], change.detail[:_MOST_DETAIL]))
        _log.info("%s: %s", operator, change.action[:_MOST_ACTION])
        return identifier


async def forget_answers(store: CentralStore, now_ms: int) -> int:
    """Delete the answers that are not repeated any more; how many."""
    gone, after = 0, ("", "")
    while True:
        async with store.transaction() as t:
            page = await t.select(Answered, after=after, limit=100)
            for row in page:
                if row.at + KEPT_MS <= now_ms:
                    gone += await t.remove(Answered, operator=row.operator, key=row.key)
        if len(page) < 100:
            return gone
        after = (page[-1].operator, page[-1].key)


def _read_change(key: str, action: str, call: Call, content: bytes) -> _Change:
    digest = hashlib.sha256(json.dumps([action, dict(call.query), call.if_match, call.if_none_match]).encode() + content)
    detail = f"sha256 {hashlib.sha256(content).hexdigest()}" if call.content else content.decode(errors="replace")
    return _Change(key, digest.digest(), action, detail.replace("\0", "?"))

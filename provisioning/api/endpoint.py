"""REST for stations below ``/api/v1/line/`` on the HTTPS listener: who asks, what is refused, changes that happen once.

What can be asked stands in :mod:`provisioning.api.table`. Nobody's body is read before it is known that a station asks. A
refusal is a problem document (RFC 9457) and changes nothing, but for what the line's rules put into quarantine, which the
problem says.

Every POST carries an ``Idempotency-Key``. The same request with the same key gets the same answer while that is remembered;
it is in memory, so after a restart the request is carried out again, and the unit's own state sees to it that nothing is
done twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
from collections import OrderedDict
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Final

from aiohttp import web

from gateway.authority.authority import Authority
from gateway.clock import elapsed_ms
from gateway.errors import Conflict, GatewayError
from gateway.protocols.server import CHALLENGE, SERVER, Answer, Limits, read_body
from gateway.web.rest import KeyReused, find_route, idempotency_key, json_object, octets_of, problem, response
from gateway.web.routes import Call, Reply
from provisioning.api.challenges import Challenges
from provisioning.api.feed import Feed
from provisioning.api.openapi import document
from provisioning.api.shop_answers import Stream
from provisioning.api.stations import Doorkeeper, Places, Station, Turns
from provisioning.api.table import ROUTES, Route
from provisioning.api.visit import PREFIX, Shop, Visit
from provisioning.line import Line
from provisioning.steps import Finisher
from provisioning.units import Units

PROBLEM: Final = "urn:edge-gateway:problem:"
_OPENAPI: Final = "/openapi.json"


@dataclass(frozen=True, slots=True)
class LineLimits:
    """What one station may cost, and what is remembered for all of them."""

    requests: int = 64  # at once
    watching: int = 16  # event streams and long polls at once
    body: int = 65_536  # octets of a JSON body
    #: Records of the journal that a watcher of events may be behind.
    backlog: int = 50_000
    #: Seconds after which a watcher that takes nothing is cut off.
    stalled_s: float = 30.0
    answers: int = 2_048
    answer: int = 32_768  # octets; a longer answer is not remembered


class LineEndpoint:
    """An endpoint for :class:`gateway.protocols.server.Listener`. :meth:`close` it before the listener."""

    prefixes = (PREFIX + "/",)

    def __init__(
        self,
        authority: Authority,
        units: Units,
        line: Line | None,
        finisher: Finisher,
        limits: LineLimits | None = None,
        *,
        on_order: Callable[[], None] = lambda: None,
    ) -> None:
        """``line`` is None where the gateway has no ports. ``on_order`` is called when a station brought an order."""
        self._limits = limits or LineLimits()
        self._feed = Feed(authority.journal, units, line, self._limits.backlog)
        challenges = Challenges(elapsed_ms, secrets.token_bytes)
        self._shop = Shop(authority, units, line, finisher, challenges, self._feed, Turns(), on_order)
        self._doorkeeper = Doorkeeper(authority)
        self._working = Places(self._limits.requests, "requests")
        self._watching = Places(self._limits.watching, "event streams and long polls")
        self._answers = _Answers(self._limits)

    def close(self) -> None:
        """End the streams of events, so that the listener can close in time."""
        self._feed.close()

    async def answer(self, request: web.BaseRequest) -> Answer:
        """Never raises a GatewayError: all of them have an answer here."""
        try:
            path = request.raw_path.partition("?")[0].removeprefix(PREFIX)
            if path == _OPENAPI and request.method == "GET":
                return response(Reply(document()))
            station = await self._doorkeeper.who(request)
            route, variables = find_route(ROUTES, request.method, path, PREFIX + _OPENAPI)
            query = dict(request.query)
            route.check_query(query)
            call = Call(station.name, variables, query, {}, head=request.headers)
            visit = Visit(self._shop, station)
            if route.changes:
                with self._working.taken(station.name):
                    return response(await self._change(visit, route, call, f"{request.method} {path}", request))
            places = self._watching if route.media == "text/event-stream" or "wait" in query else self._working
            with places.taken(station.name):
                reply = await route.answer(visit, call)
                return await self._streamed(request, reply) if isinstance(reply, Stream) else response(reply)
        except GatewayError as error:
            return response(problem(error, PROBLEM, CHALLENGE))

    async def _change(self, visit: Visit, route: Route, call: Call, action: str, request: web.BaseRequest) -> Reply:
        key = idempotency_key(request)
        content = await read_body(request, Limits(body=route.octets or self._limits.body))
        body = {} if route.octets else json_object(content)
        route.check_body(body)
        call = replace(call, body=body, content=content if route.octets else b"")
        digest = hashlib.sha256(json.dumps([action, dict(call.query)]).encode() + b"\0" + content).digest()
        known = self._answers.begin(visit.station, key, digest)
        if known is not None:
            return known
        reply = None
        try:
            reply = await route.answer(visit, call)
        finally:
            self._answers.finish(visit.station, key, reply)
        return reply

    async def _streamed(self, request: web.BaseRequest, reply: Stream) -> Answer:
        """Send events until the client leaves, is cut off, or the feed ends."""
        head = {"Content-Type": reply.media, "Cache-Control": "no-store", "X-Accel-Buffering": "no", "Server": SERVER}
        stream = web.StreamResponse(headers=head)
        await stream.prepare(request)
        assert reply.pieces is not None  # noqa: S101
        async with aclosing(reply.pieces) as pieces:  # type: ignore[type-var]  # an asynchronous generator
            async for piece in pieces:
                try:
                    async with asyncio.timeout(self._limits.stalled_s):
                        await stream.write(piece)
                except TimeoutError:
                    if request.transport is not None:
                        request.transport.abort()
                    raise ConnectionResetError("the client reads no events") from None
        return stream


@dataclass(slots=True)
class _Kept:
    """``reply`` is None while the request is being carried out."""

    digest: bytes
    reply: Reply | None = None


class _Answers:
    """The newest successful answers by station and key."""

    def __init__(self, limits: LineLimits) -> None:
        self._limits = limits
        self._kept: OrderedDict[tuple[str, str], _Kept] = OrderedDict()

    def begin(self, station: Station, key: str, digest: bytes) -> Reply | None:
        """The answer that this request had; None where it is to be carried out now. Raises KeyReused, Conflict."""
        kept = self._kept.get((station.name, key))
        if kept is None:
            self._kept[station.name, key] = _Kept(digest)
            return None
        if kept.digest != digest:
            raise KeyReused("this Idempotency-Key was used for another request")
        if kept.reply is None:
            raise Conflict("the same request is under way")
        return replace(kept.reply, head={**kept.reply.head, "Idempotent-Replayed": "true"})

    def finish(self, station: Station, key: str, reply: Reply | None) -> None:
        """Remember a success, and nothing else: what failed may be asked again."""
        if reply is None or len(octets_of(reply)) > self._limits.answer:
            del self._kept[station.name, key]
            return
        self._kept[station.name, key].reply = reply
        self._kept.move_to_end((station.name, key))
        while len(self._kept) > self._limits.answers:
            oldest = next((name for name, each in self._kept.items() if each.reply is not None), None)
            if oldest is None:
                break
            del self._kept[oldest]

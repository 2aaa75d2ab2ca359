"""Who asks: a station, by its client certificate or by its token, and how much one station may ask at once.

A station is named as the patterns of work orders and the records name it: ``station:COMMON-NAME`` where it shows a
certificate of a profile for stations, ``token:ID`` where it sends a station's token over HTTP Basic. A renewed certificate
with the same common name is the same station.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web
from cryptography import x509
from cryptography.x509.oid import NameOID

from gateway.authority.authority import Authority
from gateway.authority.policy import check_standing
from gateway.authority.requests import Requester, RequesterKind
from gateway.errors import Busy, Forbidden, Unauthenticated
from gateway.protocols.est.codec import decode_basic
from gateway.protocols.tls import client_chain
from provisioning.orders import WorkOrder

_NOBODY: Final = "show a client certificate of a station, or send a station's token"


@dataclass(frozen=True, slots=True)
class Station:
    """``profile`` is that of a token: it may make units of this profile only. Empty: of any."""

    name: str
    profile: str = ""

    def objection(self, order: WorkOrder) -> str:
        """Why it may not work on the units of ``order``; empty if it may."""
        if not order.is_for(self.name):
            return f"order {order.id} is not for station {self.name}"
        if self.profile and self.profile != order.profile:
            return f"order {order.id} makes units of profile {order.profile}; this station's token is for {self.profile}"
        return ""

    def check(self, order: WorkOrder) -> None:
        """Raises Forbidden."""
        if objection := self.objection(order):
            raise Forbidden(objection)


class Doorkeeper:
    """Lets stations in and nobody else."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    async def who(self, request: web.BaseRequest) -> Station:
        """The station behind ``request``, whose body is not read. Raises Unauthenticated, Forbidden, Busy."""
        requester = await self._requester(request)
        check_standing(self._authority.policy.current, requester)
        if requester.kind is not RequesterKind.STATION:
            raise Forbidden(f"this is not the certificate or token of a station; {_NOBODY}")
        holder = requester.holder
        if holder is not None and holder.not_after_ms <= self._authority.clock.now_ms():
            raise Forbidden("the station's certificate has expired; renew it over EST (simplereenroll)")
        if requester.certificate is not None:
            return Station(f"station:{_common_name(requester.certificate)}")
        grant = requester.token
        if grant is None or grant.spent:
            raise Unauthenticated("the token was used up")
        return Station(f"token:{grant.token_id}", grant.profile)

    async def _requester(self, request: web.BaseRequest) -> Requester:
        """The certificate first; credentials decide where there is none, or where it is none of a station."""
        header, chain = request.headers.get("Authorization"), client_chain(request.transport)
        if chain:
            try:
                requester = await self._authority.authenticator.certificate(chain)
            except Unauthenticated:
                if header is None:
                    raise
            else:
                if header is None or requester.kind is RequesterKind.STATION:
                    return requester
        if header is None:
            raise Unauthenticated(_NOBODY)
        return await self._authority.authenticator.password(*decode_basic(header), request.remote or "")


def _common_name(certificate: bytes) -> str:
    """Raises Forbidden where it has none, or several."""
    subject = x509.load_der_x509_certificate(certificate).subject
    names = [attribute.value for attribute in subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if len(names) != 1 or not isinstance(names[0], str):
        raise Forbidden("a station's certificate needs exactly one common name: it is the station's name")
    return names[0]


class Places:
    """So many requests of one station are answered at once; one more is told to come back."""

    def __init__(self, most: int, what: str) -> None:
        self._most, self._what = most, what
        self._taken: Counter[str] = Counter()

    @contextmanager
    def taken(self, station: str) -> Iterator[None]:
        """Raises Busy."""
        if self._taken[station] >= self._most:
            raise Busy(f"station {station} has {self._most} {self._what} open already", retry_after=1)
        self._taken[station] += 1
        try:
            yield
        finally:
            self._taken[station] -= 1
            if not self._taken[station]:
                del self._taken[station]


@dataclass(slots=True, eq=False)
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    wanted: int = 0


class Turns:
    """One request at a time for each name: a station that asks again while its first request is still being worked on waits
    for that one's outcome instead of racing it."""

    def __init__(self) -> None:
        self._turns: dict[str, _Turn] = {}

    @asynccontextmanager
    async def of(self, name: str) -> AsyncIterator[None]:
        turn = self._turns.setdefault(name, _Turn())
        turn.wanted += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.wanted -= 1
            if not turn.wanted:
                del self._turns[name]

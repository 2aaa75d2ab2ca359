"""Bundles that are carried to central, and the answers that are carried back (docs/SYNC.md, Bundles)."""

from __future__ import annotations

import asyncio

from gateway.clock import Clock
from gateway.errors import NotFound, RequestError
from gateway.journal.canonical import JsonValue
from sync.bundle import CRLS, DESIRED, DOWN, RECEIPT, UP, BundleReader, BundleWriter, Manifest
from sync.central.authority import CentralAuthority
from sync.central.bundle_identity import BundleIdentity
from sync.central.lists import CentralLists
from sync.central.rows import Document, Journal
from sync.central.service import Ingest
from sync.central.store import CentralStore


class Bundles:
    """Takes bundles by the same decisions as messages over the network; repeated, partial and old ones do no harm."""

    def __init__(
        self,
        store: CentralStore,
        authority: CentralAuthority,
        ingest: Ingest,
        lists: CentralLists,
        clock: Clock,
        *,
        identity: BundleIdentity,
    ) -> None:
        self._store, self._authority, self._identity = store, authority, identity
        self._ingest, self._lists, self._clock = ingest, lists, clock

    async def take(self, data: bytes) -> tuple[Journal, Manifest, bytes]:
        """Whose it was and what it said it holds, and the answer to carry back: receipt and desired document.

        ``data`` may be encrypted to this central.

        Raises NotFound for a gateway that never joined, MalformedRequest, IntegrityError, and the refusals of :class:`Ingest`.
        """
        reader = await asyncio.to_thread(BundleReader, await self._identity.open(data))
        origin = reader.claimed_origin()
        async with self._store.transaction() as t:
            journal = await t.find(Journal, origin)
        if journal is None:
            raise NotFound(f"no gateway {origin[:80]!r} has joined this central")
        manifest = await asyncio.to_thread(reader.verified, UP, journal.vkey)
        for batch in reader.batches():
            await self._ingest.carried(origin, batch)
        for name, der in reader.entries(CRLS).items():
            await self._lists.upload(origin, name, der)
        return journal, manifest, await self.answer(origin)

    async def answer(self, origin: str) -> bytes:
        """What central has to say to a gateway now, as a bundle. Raises NotFound."""
        async with self._store.transaction() as t:
            journal, document = await t.find(Journal, origin), await t.find(Document, origin)
        if journal is None:
            raise NotFound(f"no gateway {origin[:80]!r} has joined this central")
        if journal.fenced:
            raise RequestError(f"{origin} is fenced: {journal.fenced}")
        writer = BundleWriter()
        if journal.receipt:
            writer.add(RECEIPT, journal.receipt.encode())
        if document is not None:
            writer.add(DESIRED, document.content)
        facts: dict[str, JsonValue] = {
            "origin": origin,
            "start": 0,
            "stop": journal.size,
            "size": journal.size,
            "made": self._clock.now_ms(),
        }
        return self._authority.sign_bundle(writer, DOWN, facts)

"""Central's ear for the tests: registered gateways, receipts by a key of the tests, batches as they travel."""

from __future__ import annotations

import zstandard

from gateway.clock import MonotonicClock
from gateway.journal.cosignature import cosign
from sync.central.limits import Limits
from sync.central.service import Ingest
from sync.central.store import CentralStore
from sync.wire import Batch
from tests.support.edge import CENTRAL_KEY, START_MS, Edge


def sign_receipt(note: str) -> str:
    return cosign(note, "central.example", CENTRAL_KEY, START_MS // 1000)


def pack(batch: Batch) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(batch.to_bytes())


def ingest_on(store: CentralStore, limits: Limits | None = None) -> Ingest:
    return Ingest(store, cosign=sign_receipt, clock=MonotonicClock(lambda: START_MS), limits=limits)


async def register(store: CentralStore, *edges: Edge) -> None:
    for edge in edges:
        async with store.transaction() as t:
            await t.put(edge.row(await t.next_number()))

"""``scripts/bench --only sync``: what it costs to bring a large journal to central, on both sides, and to make tables of it.

A real gateway journal is filled with well-formed certificates (:func:`fill`). One process reads it as the gateway does, batch
by batch with signed checkpoints, and packs the batches into a file; another one takes them from there as central does, so
each side's processor time is its own. Then the projector makes the tables. The network is left out.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import zstandard

from gateway.clock import MonotonicClock
from gateway.journal.checkpoint import NoteSigner
from gateway.journal.cosignature import cosign
from gateway.journal.journal import Journal, JournalOptions
from gateway.journal.records import Intent, decode
from gateway.pki.crl import Reason
from gateway.pki.tbs import encode_serial, new_serial, tbs_fields
from sync.central import rows
from sync.central.audit import root_problems
from sync.central.limits import Limits
from sync.central.projector import Projector
from sync.central.service import Ingest
from sync.central.store import CentralStore
from sync.central.store_postgres import PostgresStore
from sync.central.store_sqlite import SqliteStore
from sync.outbox import Outbox
from sync.wire import BATCH_RECORDS
from tests.support.edge import CENTRAL_KEY, Edge
from tests.support.postgres import postgres_server

Figures = dict[str, float]
_GROUP = 250
_ZSTD_LEVEL = 1  # as sync.client has it
DIGITS = 10
_BESIDE = 200_000  # records taken while the projector runs
_POINT = 64  # octets of an uncompressed P-256 point after its first


class Times:
    """Wall and processor time, and memory, of this process from here on."""

    def __init__(self) -> None:
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    def per(self, count: int) -> Figures:
        wall, cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        return {"per_s": count / wall, "cpu_us": cpu / count * 1e6}


def rss_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / (1 << 20)


# The gateway.


def _options(work: Path) -> JournalOptions:
    return JournalOptions(work / "journal.db", work / "anchor", disk_warn=0.998, disk_refuse=0.999)


async def fill(work: Path, count: int, say: Callable[[str], None]) -> None:
    """A gateway's journal with ``count`` records about certificates that differ in serial number, device and key."""
    edge, clock = Edge(), MonotonicClock()
    journal = await Journal.create(
        _options(work), origin=edge.origin, key_name=edge.origin, key=edge.key, clock=clock, random=os.urandom(16)
    )
    variants = Variants(edge.plan(1, device="0" * DIGITS), b"0" * DIGITS)
    await journal.append(*(decode(record).payload for record in edge.records[1:]))
    for start in range(0, count // 2, _GROUP):
        plans = [variants.intent(start + index) for index in range(_GROUP)]
        records = await journal.append(*plans)
        await journal.append(*(edge.sign(plan, record.seq) for record, plan in zip(records, plans, strict=True)))
        if (start + _GROUP) % 50_000 == 0:
            say(f"{2 * (start + _GROUP)} records")
    await journal.close()


class Variants:
    """Plans like ``model``, each with a serial number, device and key of its own; ``device`` are the :data:`DIGITS` octets in
    its names that stand for the number of the device."""

    def __init__(self, model: Intent, device: bytes) -> None:
        self._model, self._device = model, device
        self._serial, self._spki = encode_serial(int(model.serial, 16)), tbs_fields(model.tbs).spki

    def intent(self, number: int) -> Intent:
        own = new_serial(time.time_ns() // 1_000_000, os.urandom(12))
        key = self._spki[:-_POINT] + os.urandom(_POINT)  # who only reads does not look whether it is on the curve
        tbs = self._model.tbs.replace(self._serial, encode_serial(own)).replace(self._spki, key)
        return replace(
            self._model, serial=f"{own:x}", tbs=tbs.replace(self._device, f"{number:0{DIGITS}}".encode()),
            spki_digest=hashlib.sha256(key).digest(), csr_digest=os.urandom(32), idempotency_key=os.urandom(32),
        )  # fmt: skip


async def pack(work: Path) -> Figures:
    """The gateway's side: every batch, signed and compressed, into one file."""
    edge = Edge()
    journal = await Journal.open(_options(work), key=edge.key, clock=MonotonicClock())
    outbox = Outbox(journal, NoteSigner(edge.origin, edge.key), work / "position")
    compress = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress
    size, position, plain, packed = journal.head.size, 0, 0, 0
    before, times = rss_mib(), Times()
    with (work / "batches").open("wb") as file:
        while position < size:
            batch = await outbox.batch(position, "session", 0)
            octets = batch.to_bytes()
            content = compress(octets)
            outbox.confirm()
            file.write(len(content).to_bytes(4, "big") + content)
            position, plain, packed = batch.stop, plain + len(octets), packed + len(content)
    figures = times.per(size)
    await journal.close()
    return {
        **figures, "records": size, "octets": packed / size, "octets_plain": plain / size, "rss_before_mib": before,
        "rss_mib": rss_mib(),
    }  # fmt: skip


# Central.


@asynccontextmanager
async def _store(work: Path, dsn: str) -> AsyncIterator[CentralStore]:
    store = await PostgresStore.open(dsn) if dsn else await SqliteStore.open(work / "central.db")
    try:
        yield store
    finally:
        await store.close()


def _receipt(note: str) -> str:
    return cosign(note, "central.example", CENTRAL_KEY, time.time_ns() // 1_000_000_000)


async def take(work: Path, dsn: str) -> Figures:
    """Central's side: every batch of the file, unpacked, verified, stored, cosigned."""
    edge = Edge()
    async with _store(work, dsn) as store:
        async with store.transaction() as t:
            await t.put(replace(edge.row(await t.next_number()), session="session"))
        unlimited = Limits(records_per_s=0, octets_per_s=0)
        ingest = Ingest(store, cosign=_receipt, clock=MonotonicClock(), limits=unlimited)
        memory, times, latencies = [], Times(), []
        with (work / "batches").open("rb") as file:
            while length := file.read(4):
                content = file.read(int.from_bytes(length, "big"))
                begin = time.perf_counter()
                await ingest.records(edge.origin, content)
                latencies.append(time.perf_counter() - begin)
                if len(latencies) % 100 == 0:
                    memory.append(rss_mib())
        async with store.transaction() as t:
            row = await t.find(rows.Journal, edge.origin)
        assert row is not None
        figures = times.per(row.size)
        assert await root_problems(store) == []
        latencies.sort()
        memory = memory or [rss_mib()]
        return {
            **figures, "records": row.size, "p50_ms": 1e3 * latencies[len(latencies) // 2],
            "p99_ms": 1e3 * latencies[len(latencies) * 99 // 100], "rss_begin_mib": memory[0], "rss_end_mib": memory[-1],
        }  # fmt: skip


async def tables(work: Path, dsn: str) -> Figures:
    """The projection of everything that was taken, with every CA signature checked."""
    async with _store(work, dsn) as store:
        projector, times, count, memory = Projector(store, MonotonicClock(), revoke=_nothing_is_wrong), Times(), 0, []
        while step := await projector.step():
            count += step
            memory.append(rss_mib())
        figures = times.per(count)
        async with store.transaction() as t:
            certificates, aside = await t.count(rows.Certificate), await t.count(rows.Quarantined)
        return {
            **figures, "records": count, "certificates": certificates, "quarantined": aside, "rss_begin_mib": memory[0],
            "rss_end_mib": memory[-1],
        }  # fmt: skip


async def beside(work: Path, dsn: str) -> Figures:
    """Taking and projecting in one process, as the embedded central does: what ingest loses, how far the tables are behind."""
    edge = Edge()
    async with _store(work, dsn) as store:
        async with store.transaction() as t:
            await t.put(replace(edge.row(await t.next_number()), session="session"))
        ingest = Ingest(store, cosign=_receipt, clock=MonotonicClock(), limits=Limits(records_per_s=0, octets_per_s=0))
        projector = Projector(store, MonotonicClock(), revoke=_nothing_is_wrong, busy=lambda: ingest.busy)
        task, times, count = asyncio.create_task(projector.run()), Times(), 0
        with (work / "batches").open("rb") as file:
            while (length := file.read(4)) and count < _BESIDE:
                await ingest.records(edge.origin, file.read(int.from_bytes(length, "big")))
                count += BATCH_RECORDS
        figures = times.per(count)
        lag = await projector.lag()
        begin = time.perf_counter()
        while await projector.lag():
            await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return {**figures, "records": count, "lag_records": lag, "caught_up_s": time.perf_counter() - begin}


async def _nothing_is_wrong(serial: int, reason: Reason, by: str, *, issuer: bytes) -> None:
    raise AssertionError(f"nothing is wrong with certificate {serial:x}: {reason}, {by}, {issuer.hex()}")


ROLES = {"take": take, "tables": tables, "beside": beside}


# Both.


def _child(role: str, work: Path, *arguments: str) -> Figures:
    command = [sys.executable, "-m", "tests.load.sync_bench", role, str(work), *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    figures: Figures = json.loads(done.stdout)
    return figures


def bench(work: Path, count: int, say: Callable[[str], None]) -> dict[str, object]:
    """Fill, pack, then take and project with each database."""
    say(f"filling a journal with {count} records")
    asyncio.run(fill(work, count, say))
    figures: dict[str, object] = {"gateway": _child("pack", work)}
    say(json.dumps(figures))
    figures["sqlite"] = _central(work, "", say)
    figures["sqlite_mib"] = (work / "central.db").stat().st_size / (1 << 20)
    (work / "central.db").unlink()
    figures["beside"] = _child("beside", work)
    say(f"beside: {json.dumps(figures['beside'])}")
    with postgres_server() as server:
        figures["postgresql"] = _central(work, server.new_database(), say)
    return figures


def _central(work: Path, dsn: str, say: Callable[[str], None]) -> dict[str, Figures]:
    figures = {}
    for name, role in (("ingest", "take"), ("projection", "tables")):
        figures[name] = _child(role, work, dsn)
        say(f"{name}: {json.dumps(figures[name])}")
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("all", "pack", *ROLES))
    parser.add_argument("work", type=Path, nargs="?")
    parser.add_argument("dsn", nargs="?", default="")
    parser.add_argument("--records", type=int, default=1_000_000)
    options = parser.parse_args()
    if options.role == "all":
        work = Path(tempfile.mkdtemp(prefix="sync-bench-"))
        try:
            print(json.dumps(bench(work, options.records, lambda text: print(text, file=sys.stderr, flush=True)), indent=1))
        finally:
            shutil.rmtree(work)
    elif options.role == "pack":
        print(json.dumps(asyncio.run(pack(options.work))))
    else:
        print(json.dumps(asyncio.run(ROLES[options.role](options.work, options.dsn))))


if __name__ == "__main__":
    main()

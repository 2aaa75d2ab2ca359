"""``scripts/bench --only drain``: a gateway that was cut off for a million records is plugged in, beside its daily work.

Gateway and central are real daemons, the records real certificates of the gateway's CA, sent over real HTTPS through a cable
that counts octets. The gateway has the first core. Central, the load generator, the cable and this process share the last one,
central behind the others in priority: what clients see shall be the gateway, not the queue for the other core. Central makes
its tables while the records arrive, as it always does.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import statistics
import sys
import time
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp

from gateway.app import opened
from gateway.config import load_config
from gateway.journal.records import Intent, Issued
from gateway.keys.uri import KeyUri
from gateway.pki.algorithms import SignatureAlgorithm, sign
from gateway.pki.tbs import assemble
from tests.load import process
from tests.load.client import Figures
from tests.load.sync_bench import DIGITS, Variants
from tests.support.fault_proxy import Direction
from tests.support.fleet import Fleet, FleetError, Gateway, until
from tests.support.fleet_story import search

Say = Callable[[str], None]
Row = dict[str, object]
_GROUP = 250
_CLIENTS = 16
_KNOWN = 40  # certificates that central knows before the cable is unplugged
_PAIRS, _APART_S = (
    8,
    0.5,
)  # revocations in each direction, spread over what central lets through and the pauses that it asks for
_ALONE = 0.2  # of the backlog
_ROUNDS = 5
_NICE = 10  # of central
_DEADLINE_S = 900.0


# The stage: a gateway that has joined, and its journal full of what central has not seen.


async def prepare(fleet: Fleet, records: int, say: Say) -> list[str]:
    """Joined, unplugged, filled, running again; serials of certificates that central knows."""
    gateway = fleet.gateways[0]
    await gateway.issue(_KNOWN, "known")
    await gateway.issue(1, "0" * (DIGITS - 2))

    serials: list[str] = []

    async def known() -> bool:
        found = await search(fleet.central, gateway.origin)
        serials[:] = [str(each["serial"]) for each in found if "known-" in str(each["subject"])]
        url = f"{fleet.central.endpoints['http']}/ocsp"
        return len(serials) == _KNOWN and await _status(url, _issuer(gateway), serials[0]) is ocsp.OCSPCertStatus.GOOD

    await until(known, "central answers for the first certificates")
    fleet.cable.unplug()
    await gateway.stop()
    await fill(gateway, records, say)
    await gateway.start()
    return serials


async def fill(gateway: Gateway, records: int, say: Say) -> None:
    """Certificates like the last one, which differ in serial number, device and key, all signed by the gateway's CA."""
    config = load_config(gateway.state / "config.toml").with_state(gateway.state)
    async with opened(config) as open_gateway:
        key = open_gateway.keyring.software.load(KeyUri.parse(config.ca.key).software)
        journal = open_gateway.journal
        model = [record.payload async for record in journal.scan(Intent)][-1]
        assert isinstance(model, Intent)
        variants = Variants(model, f"{0:0{DIGITS - 2}}-0".encode())
        algorithm = SignatureAlgorithm[model.algorithm]
        for start in range(0, records // 2, _GROUP):
            planned = await journal.append(*(variants.intent(start + index) for index in range(_GROUP)))
            issued = []
            for record in planned:
                intent = record.payload
                assert isinstance(intent, Intent)
                signature = sign(key, algorithm, intent.tbs)
                digest = hashlib.sha256(assemble(intent.tbs, algorithm, signature)).digest()
                issued.append(Issued(record.seq, intent.serial, signature, digest, intent.idempotency_key))
            await journal.append(*issued)
            if (start + _GROUP) % 50_000 == 0:
                say(f"{2 * (start + _GROUP)} records")


# The measurement.


@dataclass(frozen=True, slots=True)
class Sample:
    """What there is to see at one moment."""

    at_s: float
    confirmed: int
    gateway_cpu_us: float
    central_cpu_us: float
    up: int
    down: int
    rss_mib: float
    certificates: int  # in central's tables

    def until(self, end: Sample) -> Row:
        """Per second and per record from here to ``end``."""
        count, seconds = max(1, end.confirmed - self.confirmed), end.at_s - self.at_s
        return {
            "records": end.confirmed - self.confirmed, "per_s": count / seconds,
            "gateway_us": (end.gateway_cpu_us - self.gateway_cpu_us) / count,
            "central_us": (end.central_cpu_us - self.central_cpu_us) / count,
            "octets_up": (end.up - self.up) / count, "octets_down": (end.down - self.down) / count,
            "rss_mib": [self.rss_mib, end.rss_mib], "tables_per_s": 2 * (end.certificates - self.certificates) / seconds,
        }  # fmt: skip


class Bench:
    """``serials`` are of certificates that both sides know, to be revoked."""

    def __init__(self, fleet: Fleet, serials: list[str], say: Say) -> None:
        self._fleet, self._gateway, self._central = fleet, fleet.gateways[0], fleet.central
        self._serials, self._say = serials.copy(), say
        self._here, self._there = (f"{each.endpoints['http']}/ocsp" for each in (self._gateway, self._central))
        self._issuer = _issuer(self._gateway)
        self._loads = 0
        self._memory: list[float] = []

    async def measure(self, enrolments: int) -> Row:
        """From unplugged, with the whole backlog there, to drained."""
        cores = os.cpu_count() or 1
        process.pin(self._gateway.pid, 0)
        process.pin(self._central.pid, cores - 1)
        process.pin(os.getpid(), cores - 1)
        process.nice(self._central.pid, _NICE)
        await self._load(400)  # warm
        waiting = int(str((await self._report())["waiting"]))
        row: Row = {"waiting": waiting, "load_average_before": os.getloadavg()[0]}
        before = self._rss()
        watching = asyncio.create_task(self._watch_memory())
        row["revocations_s"] = await self._revocations()
        row["alone"] = await self._alone(int(waiting * _ALONE))
        row |= await self._beside(enrolments)
        row["rest"] = await self._rest()
        watching.cancel()
        row["rss_mib"] = {"before": before[0], "most": max(self._memory), "after": self._rss()[0]}
        row["central_rss_mib"] = {"before": before[1], "after": self._rss()[1]}
        row["load_average_after"] = os.getloadavg()[0]
        return row

    async def _revocations(self) -> Row:
        """Seconds until the other side's OCSP says it. Of those made while the cable was out the time begins when it is in."""
        dark, plugged = await self._revoke(), time.perf_counter()
        await self._fleet.plug()
        row: Row = {"at_plug": await self._known(*dark, since=plugged)}
        row["meanwhile"] = await self._pairs()
        load = asyncio.create_task(self._load(5000))
        await asyncio.sleep(1)
        row["meanwhile_with_enrolments"] = await self._pairs()
        await load
        row["waiting_then"] = (await self._report())["waiting"]
        self._say(f"revocations: {json.dumps(row)}")
        return row

    async def _pairs(self) -> Row:
        """The seconds of each of some revocations, at both sides at once."""
        found = []
        for _ in range(_PAIRS):
            found.append(await self._known(*await self._revoke()))
            await asyncio.sleep(_APART_S)
        return {side: sorted(each[side] for each in found) for side in ("at_central", "at_gateway")}

    async def _alone(self, records: int) -> Row:
        """The drain while nobody enrols, of so many records."""
        begin = await self._sample()
        await self._moves(records)
        row = begin.until(await self._sample())
        self._say(f"alone: {json.dumps(row)}")
        return row

    async def _beside(self, enrolments: int) -> Row:
        """The same load by turns with the cable out and in. While it is out central is stopped: its tables would take from the
        load generator's core what they leave to it while records arrive."""
        out, drained, drains = [], [], []
        for _ in range(_ROUNDS):
            self._fleet.cable.unplug()
            os.kill(self._central.pid, signal.SIGSTOP)
            try:
                out.append(await self._load(enrolments))
            finally:
                os.kill(self._central.pid, signal.SIGCONT)
            await self._fleet.plug()
            await self._moves()
            begin = await self._sample()
            drained.append(await self._load(enrolments))
            drains.append(begin.until(await self._sample())["per_s"])
            if not (await self._report())["waiting"]:
                raise FleetError("the backlog was gone before the enrolments: take more records, or fewer enrolments")
            self._say(f"p99 {out[-1].p99_ms:.1f} ms, draining {drained[-1].p99_ms:.1f} ms; {drains[-1]:.0f} records/s")
        ratio = _median(drained, "p99_ms") / _median(out, "p99_ms")
        return {
            "enrolment": _summary(out),
            "enrolment_draining": _summary(drained),
            "p99_ratio": ratio,
            "draining_per_s": drains,
        }

    async def _rest(self) -> Row:
        begin = await self._sample()

        async def drained() -> bool:
            return (await self._report())["waiting"] == 0

        await until(drained, "everything is at central", deadline_s=_DEADLINE_S, every_s=0.5)
        row = begin.until(await self._sample())
        self._say(f"rest: {json.dumps(row)}")
        return row

    async def _moves(self, records: int = 1) -> None:
        """Until so many more records are at central."""
        before = (await self._sample()).confirmed

        async def moved() -> bool:
            return int(str((await self._report())["confirmed"])) >= before + records

        await until(moved, "the drain goes on", deadline_s=_DEADLINE_S)

    async def _report(self) -> Row:
        return {**await self._gateway.ask("/central")}

    async def _sample(self) -> Sample:
        confirmed, certificates = (await self._report())["confirmed"], (await self._central.ask("/status"))["certificates"]
        assert isinstance(confirmed, int)
        assert isinstance(certificates, int)
        passed = self._fleet.cable.passed
        return Sample(
            time.perf_counter(), confirmed, process.cpu_us(self._gateway.pid), process.cpu_us(self._central.pid),
            passed[Direction.UP], passed[Direction.DOWN], self._rss()[0], certificates,
        )  # fmt: skip

    def _rss(self) -> tuple[float, float]:
        """MiB of the gateway and of central."""
        return process.rss_kib(self._gateway.pid) / 1024, process.rss_kib(self._central.pid) / 1024

    async def _watch_memory(self) -> None:
        while True:
            self._memory.append(self._rss()[0])
            await asyncio.sleep(0.5)

    async def _load(self, count: int) -> Figures:
        """Enrolments by 16 keep-alive clients in a process of their own, which inherits our core."""
        self._loads += 1
        plan = replace(self._gateway.plan(count, f"bench-{self._loads}-{time.time_ns():x}"), connections=_CLIENTS)
        client = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.load.client", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        answer, _ = await client.communicate(json.dumps(asdict(plan)).encode())
        figures = Figures(**json.loads(answer))
        if figures.ok != count:
            raise FleetError(f"not every request was answered with 200: {figures.statuses}")
        return figures

    async def _revoke(self) -> tuple[tuple[str, float], tuple[str, float]]:
        """One certificate at each side: serial and moment."""
        here, there = self._serials.pop(), self._serials.pop()
        await self._gateway.ask("/revocations", {"serial": here, "reason": "superseded"})
        at_gateway = here, time.perf_counter()
        await self._central.ask("/revocations", {"serial": there, "issuer": "", "reason": "superseded"})
        return at_gateway, (there, time.perf_counter())

    async def _known(self, here: tuple[str, float], there: tuple[str, float], *, since: float = 0.0) -> dict[str, float]:
        """Seconds from each revocation, or from ``since``, until the other side says it."""
        up, down = await asyncio.gather(self._heard(self._there, here[0]), self._heard(self._here, there[0]))
        return {"at_central": up - max(since, here[1]), "at_gateway": down - max(since, there[1])}

    async def _heard(self, url: str, serial: str) -> float:
        """When the responder at ``url`` says that the certificate is revoked."""

        async def revoked() -> bool:
            return await _status(url, self._issuer, serial) is ocsp.OCSPCertStatus.REVOKED

        await until(revoked, f"{url} says that {serial} is revoked", every_s=0.02)
        return time.perf_counter()


def _issuer(gateway: Gateway) -> x509.Certificate:
    return x509.load_der_x509_certificate(_fetch(f"{gateway.endpoints['http']}/ca/issuing.cer"))


async def _status(url: str, issuer: x509.Certificate, serial: str) -> ocsp.OCSPCertStatus | None:
    """What the responder at ``url`` says; ``None`` while it has no answer."""
    key = x509.SubjectKeyIdentifier.from_public_key(issuer.public_key()).digest  # SHA-1, as in RFC 6960 section 4.1.1
    name = hashlib.sha1(issuer.subject.public_bytes(), usedforsecurity=False).digest()
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(name, key, int(serial, 16), hashes.SHA1())
    body = builder.build().public_bytes(Encoding.DER)
    request = urllib.request.Request(url, body, {"Content-Type": "application/ocsp-request"})
    answer = ocsp.load_der_ocsp_response(await asyncio.to_thread(_fetch, request))
    return answer.certificate_status if answer.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL else None


def _fetch(request: str | urllib.request.Request) -> bytes:
    with urllib.request.urlopen(request, timeout=60) as answer:
        content: bytes = answer.read()
        return content


def _median(runs: list[Figures], name: str) -> float:
    return float(statistics.median(getattr(each, name) for each in runs))


def _summary(runs: list[Figures]) -> Row:
    return {
        "per_s": statistics.median(each.ok / each.seconds for each in runs), "p50_ms": _median(runs, "p50_ms"),
        "p95_ms": _median(runs, "p95_ms"), "p99_ms": _median(runs, "p99_ms"), "p99_ms_each": [each.p99_ms for each in runs],
    }  # fmt: skip


def bench(work: Path, records: int, enrolments: int, say: Say) -> Row:
    """``enrolments`` in each of the runs beside the drain."""

    async def run() -> Row:
        async with Fleet.running(work, 1) as fleet:
            serials = await prepare(fleet, records, say)
            return await Bench(fleet, serials, say).measure(enrolments)

    before = os.sched_getaffinity(0)
    try:
        return asyncio.run(run())
    finally:
        os.sched_setaffinity(0, before)

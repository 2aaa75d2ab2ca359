"""The life of a journal, run again and again in fresh processes that a test may kill, starve or lie to.

``python journal_workload.py`` is a fork server, so that a run costs milliseconds and not the start of an interpreter. Each line
on standard input is a JSON object ``{"directory": ..., "variant": ..., "rounds": ...}``. The server forks a child, prints its
process id, and lets it begin when the next line arrives (by then strace is attached). The child tells on standard output, one
unbuffered line each, what it promises: ``{"record": [seq, sha256]}`` and ``{"certificate": sha256}`` after the append
returned, ``{"error": ...}`` for what it met. The last line of a run is the server's ``{"exit": status}``.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gateway.errors import GatewayError, JournalFailed, JournalFull
from gateway.journal import writer as writer_module
from gateway.journal.journal import Journal
from gateway.journal.records import Payload, Record, Revoked, encode
from gateway.journal.store import Broken, Store
from tests.support.journal import START_MS, Place, intent, issued


def tell(**what: object) -> None:
    os.write(1, json.dumps(what).encode() + b"\n")


def promise(records: tuple[Record, ...]) -> None:
    for record in records:
        tell(record=[record.seq, hashlib.sha256(encode(record)).hexdigest()])


class Life:
    """What the daemon does with a journal, in small. It goes on after errors, as long as the journal lets it."""

    def __init__(self, place: Place, variant: str) -> None:
        self.place, self.variant = place, variant

    async def append(self, journal: Journal, *payloads: Payload, urgent: bool = False) -> tuple[Record, ...]:
        try:
            records = await journal.append(*payloads, urgent=urgent)
        except (JournalFull, JournalFailed) as error:
            tell(error=type(error).__name__)
            return ()
        promise(records)
        return records

    async def certificate(self, journal: Journal, number: int) -> bool:
        """Issue one; whether it was planned at least."""
        plans = await self.append(journal, intent(number))
        for plan in plans:
            done = issued(plan)
            if self.variant == "sign-before-record":  # control: the certificate leaves before its record is durable
                tell(certificate=done.certificate_digest.hex())
            if await self.append(journal, done):
                tell(certificate=done.certificate_digest.hex())
        return bool(plans)

    async def run(self, rounds: int) -> None:
        for turn in range(rounds):
            self.place.hands.now += 1500  # more than the interval of the look at the disk
            journal = await (self.place.open() if self.place.path.exists() else self.place.create())
            base = journal.head.size * 100
            planned = await self.certificate(journal, base)
            await asyncio.gather(*(self.certificate(journal, base + number) for number in range(1, 4)))
            if planned:
                revoked = Revoked(intent(base).serial, 1, "keyCompromise", START_MS, "operator")
                await self.append(journal, revoked, urgent=True)
            await self.append(journal, intent(base + 4))  # left open: the next start makes it void
            latched = journal.failure.done()
            await journal.close()
            if latched:  # the daemon exits; only a new process, after a full verify, may go on
                raise JournalFailed("latched")
            tell(turn=turn)


def break_on_purpose(variant: str) -> None:
    """The controls: known mistakes that the tests must catch. They live here, never in the product."""
    if variant == "synchronous-normal":
        Store._synchronous = staticmethod(lambda: "synchronous = NORMAL")  # type: ignore[method-assign]
    elif variant == "retry-after-error":
        write = Store.write

        async def write_again(self: Store, *arguments: Any) -> None:
            try:
                await write(self, *arguments)
            except Broken:
                tell(error="io")
                await write(self, *arguments)

        writer_module.Store.write = write_again  # type: ignore[method-assign]


def child(order: dict[str, Any]) -> int:
    writer_module._ENOUGH = 2  # three certificates are a crowd here: what begins in the middle of a turn is swept, too
    break_on_purpose(order["variant"])
    try:
        asyncio.run(Life(Place(Path(order["directory"])), order["variant"]).run(order["rounds"]))
    except GatewayError as error:  # the daemon would say so and exit non-zero
        tell(error=type(error).__name__, text=str(error))
        return 3
    return 0


def main() -> None:
    while line := sys.stdin.readline():
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            while not Path(order["directory"], "go").exists():
                os.sched_yield()
            status = child(order)
            os._exit(status)
        tell(pid=pid)
        _, status = os.waitpid(pid, 0)
        tell(exit=os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()

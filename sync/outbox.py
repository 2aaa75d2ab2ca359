"""The journal as what is to be sent: adjacent records with a signed checkpoint at their end, from any place on.

Central's size is the position. To sign a checkpoint in the middle of the journal the Merkle frontier of that place is needed;
it is kept from batch to batch and in a small file, which is a cache: without it, it is computed again from the stored leaves.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from gateway.errors import IntegrityError, NotFound
from gateway.journal.anchor import write_durably
from gateway.journal.checkpoint import Checkpoint, NoteSigner
from gateway.journal.journal import Journal
from gateway.journal.merkle import Frontier
from gateway.journal.records import leaf_hash
from sync.wire import BATCH_OCTETS, BATCH_RECORDS, Batch

#: Leaves hashed between two turns of the event loop: about 3 ms.
_PAGE = 2_000


class Outbox:
    """Reads ``journal`` for one receiver. ``position`` is the file that remembers the frontier."""

    def __init__(self, journal: Journal, signer: NoteSigner, position: Path) -> None:
        self._journal = journal
        self._signer = signer
        self._file = position
        self._confirmed = _read(position)  # never beyond what the receiver has, or going back there costs a full computation
        self._offered = self._confirmed

    @property
    def size(self) -> int:
        """How many records there are to send in all."""
        return self._journal.head.size

    async def root_at(self, size: int, *, from_scratch: bool = False) -> bytes:
        """The root of the first ``size`` records; the next batches go on from there. Raises NotFound beyond the end.

        ``from_scratch`` trusts nothing remembered: to be asked for before a difference is taken for a second history.
        """
        if size > self.size:
            raise NotFound(f"this journal has {self.size} records, not {size}")
        known = (self._offered, self._confirmed) if not from_scratch else ()
        frontier = next((each.copy() for each in known if each.size <= size), Frontier())
        while frontier.size < size:
            leaves = await self._journal.leaves(frontier.size, min(size, frontier.size + _PAGE))
            if not leaves:
                raise IntegrityError(f"the journal lacks record {frontier.size}")
            for leaf in leaves:
                frontier.append(leaf)
            await asyncio.sleep(0)
        self._confirmed = self._offered = frontier
        return frontier.root()

    async def batch(self, start: int, session: str, applied: int, *, records: int = BATCH_RECORDS) -> Batch:
        """Up to ``records`` from ``start`` on; with none it confirms the place. Raises IntegrityError for pruned records."""
        if self._offered.size != start:
            await self.root_at(start)
        bodies = await self._journal.read(start, records) if records else []
        octets = 0
        for count, body in enumerate(bodies):
            octets += len(body)
            if not body:
                raise IntegrityError(f"record {start + count} was pruned after central confirmed it, and central lacks it now")
            if octets > BATCH_OCTETS and count:
                bodies = bodies[:count]
                break
        frontier = self._offered.copy()
        for body in bodies:
            frontier.append(leaf_hash(body))
        self._offered = frontier
        note = self._signer.sign(Checkpoint(self._journal.genesis.origin, frontier.size, frontier.root()))
        return Batch(self._journal.genesis.origin, session, start, note, tuple(bodies), applied)

    def confirm(self) -> None:
        """The receiver has what was offered last."""
        self._confirmed = self._offered

    def remember(self) -> None:
        """Write the confirmed place down, to be found again after a restart. Raises OSError."""
        write_durably(self._file, self._confirmed.to_bytes())


def _read(path: Path) -> Frontier:
    try:
        return Frontier.from_bytes(path.read_bytes())
    except (OSError, IntegrityError):
        return Frontier()

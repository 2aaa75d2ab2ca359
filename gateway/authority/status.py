"""Which serial numbers are revoked, in memory, rebuilt at every start from the journal's rare records.

The journal stays the truth; this is its answer to three questions that come too often to ask the disk: is this certificate
revoked (each TLS client, each OCSP answer), what goes into the next revocation list, and what changed since the last one.

A table keeps each revocation as its finished CRL entry in one byte string, with two arrays that find it: about 80 bytes for
each of a million revocations (50 are the entry itself), where a dictionary of ``bytes`` needs 250. A list is then one join.
Serials are spread over :data:`PARTITIONS` tables by their low bits (the random part), so that no step ever copies or
rehashes more than a 64th of everything, and so that a shard of a revocation list is a set of whole tables.

The serial of a VOID intent is on the list, too: a signature may exist although no certificate was recorded, for instance
when the power failed between the two, and nobody may rely on it. The reason is left out: RFC 5280 section 5.3.1 has no code
that says "never issued", and wants the extension absent rather than ``unspecified``.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from gateway.errors import IntegrityError
from gateway.journal.records import Intent, Payload, Record, Released, Revoked, Void, decode
from gateway.journal.revocations import read_revoked
from gateway.pki.crl import CrlEntry, Reason, encode_entry, entry_bytes, reason_extension, shard_of

#: Tables per generation, and the largest number of shards a revocation list can have.
PARTITIONS = 64
_REASON_BITS = 4
_REASONS = tuple(Reason)
_REASON_NUMBERS = {reason: number for number, reason in enumerate(_REASONS)}
#: By a reason's name: its number here, and how it stands in a CRL entry.
FORMS = {reason.value: (number, reason_extension(reason)) for number, reason in enumerate(_REASONS)}
#: Instead of time and reason: taken off the list; or its content has moved to the row that had the serial before.
_REMOVED, _SUPERSEDED = 2**64 - 1, 2**64 - 2
#: How long single changes are remembered for delta CRLs, whose base is about a day old, and when that is looked after.
_CHANGES_KEPT_MS = 8 * 86_400_000
_CHANGES_CHECKED = 4096
#: More than so many are forgotten together, about 15 MB of them: a full list is then the better answer, and is asked for.
_MOST_CHANGES = 100_000


@dataclass(frozen=True, slots=True)
class Revocation:
    """``revoked_ms`` is UTC milliseconds; a VOID serial has reason ``unspecified``."""

    serial: int
    generation: int
    revoked_ms: int
    reason: Reason


class StatusSource(Protocol):
    """What is read of the journal."""

    def pages(self, *kinds: type[Payload]) -> AsyncIterator[list[bytes]]: ...

    async def get(self, seq: int) -> Record | None: ...


async def _generations(journal: StatusSource, records: list[Record]) -> dict[int, int]:
    """By the number of each void among ``records``: the generation of its intent. Raises IntegrityError."""
    voids = [(record.seq, record.payload.intent) for record in records if isinstance(record.payload, Void)]
    intents = await asyncio.gather(*(journal.get(number) for _, number in voids))  # one question to the database
    found: dict[int, int] = {}
    for (seq, number), intent in zip(voids, intents, strict=True):
        if intent is None or not isinstance(intent.payload, Intent):
            raise IntegrityError(f"record {seq} voids {number}, which is not an intent")
        found[seq] = intent.payload.generation
    return found


class EntryTable:
    """Serial to (time, reason, encoded CRL entry): an open-addressed hash table over one byte string of entries."""

    __slots__ = ("_entries", "_facts", "_live", "_offsets", "_placed", "_slots", "_stale_bytes")

    def __init__(self) -> None:
        self._entries = bytearray()
        self._offsets = array("I")  # by row: where the entry begins
        self._facts = array("Q")  # by row: time and reason in one number, or _REMOVED
        self._slots = array("I", bytes(4 * 16))  # row + 1, or 0; a power of two of them
        self._placed = 0  # rows that have their slot
        self._live = 0
        self._stale_bytes = 0  # of entries that were removed or replaced

    def __len__(self) -> int:
        self._place()
        return self._live

    def find(self, serial: int) -> tuple[int, Reason] | None:
        """When (ms) and why ``serial`` was revoked."""
        row = self._row(serial)
        if row is None or self._facts[row] == _REMOVED:
            return None
        return self._facts[row] >> _REASON_BITS, _REASONS[self._facts[row] & (1 << _REASON_BITS) - 1]

    def entry(self, serial: int) -> bytes | None:
        """The encoded CRL entry of ``serial``."""
        row = self._row(serial)
        if row is None or self._facts[row] == _REMOVED:
            return None
        return self._entry_at(self._offsets[row])

    def add(self, serial: int, revoked_ms: int, form: tuple[int, bytes]) -> None:
        """:meth:`put` for many in a row, with the reason's form: whoever asks for something next finds the places for them."""
        self._offsets.append(len(self._entries))
        self._facts.append(revoked_ms << _REASON_BITS | form[0])
        self._entries += entry_bytes(serial, revoked_ms, form[1])

    def put(self, serial: int, revoked_ms: int, reason: Reason) -> None:
        """Add or replace the entry of ``serial``."""
        slot = self._slot(serial)
        row = self._slots[slot] - 1
        if row < 0:
            row = len(self._offsets)
            self._offsets.append(0)
            self._facts.append(_REMOVED)
            self._slots[slot] = row + 1
            self._placed += 1
        elif self._facts[row] != _REMOVED:
            self._stale_bytes += self._size_at(self._offsets[row])
        if self._facts[row] == _REMOVED:
            self._live += 1
        self._facts[row] = revoked_ms << _REASON_BITS | _REASON_NUMBERS[reason]
        self._offsets[row] = len(self._entries)
        self._entries += entry_bytes(serial, revoked_ms, reason_extension(reason))
        if 3 * len(self._offsets) > 2 * len(self._slots):
            self._place(grow=True)

    def remove(self, serial: int) -> None:
        """Take ``serial`` off the list; nothing happens when it is not on it."""
        row = self._row(serial)
        if row is not None and self._facts[row] != _REMOVED:
            self._facts[row] = _REMOVED
            self._live -= 1
            self._stale_bytes += self._size_at(self._offsets[row])

    def joined(self) -> bytes:
        """All entries, one after the other, as ``revokedCertificates`` holds them."""
        self._place()
        if self._stale_bytes:
            self._compact()
        return bytes(self._entries)

    def _compact(self) -> None:
        entries, offsets, facts = self._entries, self._offsets, self._facts
        self._entries, self._offsets, self._facts = bytearray(), array("I"), array("Q")
        self._stale_bytes = 0
        for row, fact in enumerate(facts):
            if fact < _SUPERSEDED:
                self._offsets.append(len(self._entries))
                self._facts.append(fact)
                start = offsets[row]
                self._entries += entries[start : start + 2 + entries[start + 1]]
        self._placed = len(self._offsets)
        self._place(grow=True)

    def _size_at(self, offset: int) -> int:
        # A serial has at most 20 octets, so an entry is shorter than 128 bytes and its length stands in its second byte.
        return 2 + self._entries[offset + 1]

    def _entry_at(self, offset: int) -> bytes:
        return bytes(self._entries[offset : offset + self._size_at(offset)])

    def _row(self, serial: int) -> int | None:
        slot = self._slot(serial)  # first: it may replace the slots
        row = self._slots[slot]
        return row - 1 if row else None

    def _slot(self, serial: int) -> int:
        """Where ``serial`` stands, or the free slot where it belongs."""
        self._place()
        length = serial.bit_length() // 8 + 1
        start = bytes((0x02, length)) + serial.to_bytes(length, "big")
        slots, mask = self._slots, len(self._slots) - 1
        slot = _spread(serial) & mask
        while row := slots[slot]:
            if self._entries.startswith(start, self._offsets[row - 1] + 2):
                break
            slot = slot + 1 & mask
        return slot

    def _place(self, *, grow: bool = False) -> None:
        """Give the added rows their slots; of several with one serial the last counts. With ``grow`` all rows anew."""
        count, placed = len(self._offsets), self._placed
        if count == placed and not grow:
            return
        first = placed
        if grow or 3 * count > 2 * len(self._slots):
            self._slots = array("I", bytes(max(4 * 16, 4 << (3 * count // 2).bit_length())))
            first = 0
        entries, offsets, facts, slots = self._entries, self._offsets, self._facts, self._slots
        mask = len(slots) - 1
        for row in range(first, count):
            if facts[row] == _SUPERSEDED:
                continue
            start = offsets[row] + 4
            end = start + entries[start - 1]
            slot = _spread(int.from_bytes(entries[start:end], "big")) & mask
            while other := slots[slot]:
                if row >= placed and entries.startswith(entries[start - 2 : end], offsets[other - 1] + 2):
                    self._supersede(other - 1, row)
                    break
                slot = slot + 1 & mask
            else:
                slots[slot] = row + 1
                self._live += row >= placed
        self._placed = count

    def _supersede(self, old: int, row: int) -> None:
        """Move what ``row`` says into ``old``, the row that has the slot of this serial."""
        if self._facts[old] == _REMOVED:
            self._live += 1
        else:
            self._stale_bytes += self._size_at(self._offsets[old])
        self._facts[old], self._offsets[old] = self._facts[row], self._offsets[row]
        self._facts[row] = _SUPERSEDED


def _spread(serial: int) -> int:
    # The low bits chose the table, so they say nothing within it. hash() folds all bits of a long serial into 61.
    return hash(serial) >> 6


class RevocationStatus:
    """The revocations of all generations, and who wants to know when one changes.

    ``changes_from_ms`` is where the memory of *changes* begins (for delta CRLs); revocations themselves are complete.
    """

    def __init__(self, *, changes_from_ms: int = 0) -> None:
        self._tables: dict[int, tuple[EntryTable, ...]] = {}
        self._changes: dict[int, dict[int, int]] = {}
        self._changes_from_ms = changes_from_ms
        self._changes_checked = _CHANGES_CHECKED
        self._watchers: list[Callable[[int, int], None]] = []

    @classmethod
    async def load(cls, journal: StatusSource, *, changes_from_ms: int = 0) -> RevocationStatus:
        """Rebuild the state from the records of all revocations, releases and voids.

        Raises IntegrityError when a void names an intent that the journal does not have.
        """
        status = cls(changes_from_ms=changes_from_ms)
        async for bodies in journal.pages(Revoked, Released, Void):
            quick = [read_revoked(body) for body in bodies]
            others = [decode(body) for body, read in zip(bodies, quick, strict=True) if read is None]
            generations = await _generations(journal, others)
            following = iter(others)
            for read in quick:
                if read is None:
                    record = next(following)
                    status.apply(record, generations.get(record.seq, 0))
                else:
                    status._add(*read)
        return status

    def _add(self, generation: int, reason: str, revoked_ms: int, serial: int, time_ms: int) -> None:
        """:meth:`apply` for a revocation among many, while nobody watches yet."""
        tables = self._tables.get(generation) or self._tables_of(generation)
        tables[serial % PARTITIONS].add(serial, revoked_ms, FORMS[reason])
        if time_ms >= self._changes_from_ms:
            self._remember(generation, serial, time_ms)

    @property
    def changes_from_ms(self) -> int:
        return self._changes_from_ms

    def watch(self, watcher: Callable[[int, int], None]) -> None:
        """Call ``watcher(generation, serial)`` after every change."""
        self._watchers.append(watcher)

    def apply(self, record: Record, generation: int = 0) -> None:
        """Take in a durable record; others than revoked, released and void change nothing.

        ``generation`` is that of a void's intent and ignored otherwise. The same record may be applied again.
        """
        payload = record.payload
        if isinstance(payload, Revoked | Released):
            generation = payload.generation
        elif not isinstance(payload, Void):
            return
        serial = int(payload.serial, 16)
        table = self._table(generation, serial)
        if isinstance(payload, Revoked):
            table.put(serial, payload.revoked_at, Reason(payload.reason))
        elif isinstance(payload, Released):
            table.remove(serial)
        elif table.find(serial) is None:
            table.put(serial, record.time, Reason.UNSPECIFIED)
        self._remember(generation, serial, record.time)
        for watcher in self._watchers:
            watcher(generation, serial)

    def find(self, serial: int, generation: int | None = None) -> Revocation | None:
        """The revocation of ``serial``, or ``None``; without ``generation`` that of whichever issued it. Costs 1 to 3 µs."""
        for number in self._tables if generation is None else (generation,):
            tables = self._tables.get(number)
            found = tables[shard_of(serial, PARTITIONS)].find(serial) if tables else None
            if found is not None:
                return Revocation(serial, number, found[0], found[1])
        return None

    def size(self, generation: int, shard: int = 0, shards: int = 1) -> int:
        """How many serials are on the list (of one shard) of a generation."""
        return sum(len(table) for table in self._shard(generation, shard, shards))

    def entries(self, generation: int, shard: int = 0, shards: int = 1) -> list[bytes]:
        """A snapshot of the encoded entries, already joined piecewise. ``shards`` divides :data:`PARTITIONS`."""
        return [table.joined() for table in self._shard(generation, shard, shards) if len(table)]

    def changed_entries(self, generation: int, since_ms: int) -> list[bytes] | None:
        """The entries of a delta CRL: what was revoked or released at or after ``since_ms``.

        A released serial gets reason removeFromCRL (RFC 5280 section 5.3.1). ``None`` when the memory of changes begins later.
        """
        if since_ms < self._changes_from_ms:
            return None
        entries = []
        for serial, changed_ms in self._changes.get(generation, {}).items():
            if changed_ms >= since_ms:
                entry = self._table(generation, serial).entry(serial)
                entries.append(entry or encode_entry(CrlEntry(serial, changed_ms, Reason.REMOVE_FROM_CRL)))
        return entries

    def forget_changes(self, before_ms: int) -> None:
        """Shorten the memory of changes to those at or after ``before_ms``."""
        if before_ms <= self._changes_from_ms:
            return
        self._changes_from_ms = before_ms
        for generation, changes in self._changes.items():
            kept = {serial: changed for serial, changed in changes.items() if changed >= before_ms}
            self._changes[generation] = kept

    def _remember(self, generation: int, serial: int, time_ms: int) -> None:
        if time_ms < self._changes_from_ms:
            return
        changes = self._changes.setdefault(generation, {})
        changes[serial] = time_ms
        if len(changes) >= self._changes_checked:
            self.forget_changes(time_ms - _CHANGES_KEPT_MS)
            if max(map(len, self._changes.values())) >= _MOST_CHANGES:
                self.forget_changes(time_ms + 1)
            most = max(map(len, self._changes.values()))
            self._changes_checked = min(_MOST_CHANGES, max(_CHANGES_CHECKED, 2 * most))

    def _table(self, generation: int, serial: int) -> EntryTable:
        return self._tables_of(generation)[shard_of(serial, PARTITIONS)]

    def _tables_of(self, generation: int) -> tuple[EntryTable, ...]:
        tables = self._tables.get(generation)
        if tables is None:
            tables = self._tables[generation] = tuple(EntryTable() for _ in range(PARTITIONS))
        return tables

    def _shard(self, generation: int, shard: int, shards: int) -> Iterator[EntryTable]:
        return iter(self._tables.get(generation, ())[shard::shards])

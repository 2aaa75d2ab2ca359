"""From records to tables: follows every journal by its own durable cursor and writes what :mod:`sync.central.projection` says.

The rows of some records and the cursor behind them are one transaction, so nothing is projected twice or left out, whoever
crashes; it is short, because reading and thinking come before it. Several workers may run a projector: the cursor's row is
the lock, and who finds it moved has worked for nothing. A record that cannot be projected is set aside in quarantine and
tried again by the next start, which may know more.

What there is to find in the records is :mod:`sync.central.findings`; what must be revoked is carried out here, after the
transaction that found it, and marked as done.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Protocol, TypeAlias

from gateway.clock import Clock, elapsed_ms
from gateway.errors import GatewayError, IntegrityError, JournalFailed, Unavailable
from gateway.journal.records import CaActivated, FencedByCentral, PolicyApplied, Record, Revoked
from gateway.journal.tip import serial_column
from gateway.pki.crl import Reason
from gateway.pki.tbs import ca_info
from sync.central import alarms, findings, line_findings
from sync.central.alarms import close_alert, open_alert
from sync.central.line_rows import Unit
from sync.central.listing import every
from sync.central.projection import Issuer, Known, Projection, needed_intents, project, readable
from sync.central.rows import (
    GATEWAY,
    Alert,
    Announced,
    Ca,
    Cursor,
    Event,
    Evidence,
    Journal,
    Kept,
    Policy,
    Quarantined,
    Revocation,
    Tally,
)
from sync.central.store import RECORDS, CentralStore, Transaction
from sync.central.units import needed_units
from sync.conflicts import SILENT, Word, edge_word, join

_log = logging.getLogger(__name__)
READER: Final = "projection"
#: Records in one transaction, which others wait for.
CHUNK: Final = 500
#: How long new records may stay unnoticed if nobody announces them, and how long after trouble to try again, in seconds.
_LOOK_S, _RETRY_S = 5.0, 2.0
#: While records are arriving, the projector takes this share of the time and leaves the rest to them.
_SHARE = 0.25
_MOST_TEXT = 500
#: Records of the quarantine tried again between two pieces of new ones.
_AGAIN: Final = 100
_Place: TypeAlias = tuple[str, int]
_FIRST: Final[_Place] = ("", -1)


class Revoke(Protocol):
    """Central's own revoking (:meth:`sync.central.revocations.Revocations.revoke`), asked for more than once."""

    async def __call__(self, serial: int, reason: Reason, by: str, *, issuer: bytes) -> object: ...


@dataclass(frozen=True, slots=True)
class _Piece:
    """Adjacent records of one journal that go into one transaction: one ``ca-activated``, or others."""

    journal: Journal
    position: int
    stop: int
    records: tuple[Record, ...]
    aside: dict[int, str]


class Projector:
    """Keeps the tables behind the records. ``busy`` says whether records are arriving just now."""

    def __init__(
        self,
        store: CentralStore,
        clock: Clock,
        *,
        revoke: Revoke,
        busy: Callable[[], bool] = lambda: False,
        verify: bool = True,
        chunk: int = CHUNK,
    ) -> None:
        self._store, self._clock, self._revoke, self._busy = store, clock, revoke, busy
        self._verify, self._chunk = verify, chunk

    async def run(self) -> None:
        """Project what arrives, for ever. Raises StoreFailed, which is final."""
        again: _Place | None = _FIRST
        with self._store.listening(RECORDS) as news:
            while True:
                try:
                    news.clear()
                    if again is not None:
                        _, again = await self._reproject_some(again)
                    if not await self.step() and again is None:
                        await asyncio.wait_for(news.wait(), _LOOK_S)
                except TimeoutError:
                    continue
                except JournalFailed:
                    raise
                except Unavailable as error:
                    _log.warning("records are projected later: %s", error)
                    await asyncio.sleep(_RETRY_S)

    async def step(self) -> int:
        """One piece of every journal that has some, then what follows from them; how many records that were."""
        count = 0
        async with self._store.transaction() as t:
            positions = {cursor.origin: cursor.position async for cursor in every(t, Cursor, reader=READER)}
            behind = [each.origin async for each in every(t, Journal) if positions.get(each.origin, 0) < each.size]
        for origin in behind:
            begin_ms = elapsed_ms()
            count += await self._advance(origin)
            if self._busy():
                await asyncio.sleep((elapsed_ms() - begin_ms) / 1000 * (1 / _SHARE - 1))
        await self.carry_out()
        return count

    async def lag(self) -> int:
        """How many records are not projected yet."""
        async with self._store.transaction() as t:
            positions = {cursor.origin: cursor.position async for cursor in every(t, Cursor, reader=READER)}
            return sum([each.size - positions.get(each.origin, 0) async for each in every(t, Journal)])

    # One piece.

    async def _advance(self, origin: str) -> int:
        try:
            return await self._project(origin, self._chunk)
        except Unavailable:
            raise
        except Exception:  # a mistake of ours, or a value no table takes: one record must not hold up the others
            _log.exception("some records of %s cannot be projected together", origin)
        return await self._one_by_one(origin)

    async def _one_by_one(self, origin: str) -> int:
        for count in range(self._chunk):
            try:
                if not await self._project(origin, 1):
                    return count
            except Unavailable:
                raise
            except Exception as error:  # as above, and now it is known which record it is
                _log.exception("a record of %s is set aside", origin)
                await self._skip(origin, str(error)[:_MOST_TEXT] or type(error).__name__)
        return self._chunk

    async def _project(self, origin: str, limit: int) -> int:
        """Read, think, write; how many records."""
        async with self._store.transaction() as t:
            journal = await t.find(Journal, origin)
            cursor = await t.find(Cursor, READER, origin)
            position = cursor.position if cursor else 0
            kept = await t.records(journal, position, limit) if journal is not None else []
        if journal is None or not kept:
            return 0
        piece = await asyncio.to_thread(_first_piece, journal, kept)
        known = await self._known(piece)
        done = await asyncio.to_thread(project, piece.records, known, verify=self._verify)
        done.aside.update(piece.aside)
        issuers = {generation: issuer.key_id for generation, issuer in known.issuers.items()}
        async with self._store.transaction() as t:
            if findings.repeats_central(piece.records):
                await t.lock(origin)  # an operator may decide about the same certificate just now
            if not await _move(t, origin, position, piece.stop):
                return 0
            await self._write(t, journal, piece.records, done, issuers)
        return piece.stop - position

    async def _known(self, piece: _Piece) -> Known:
        origin = piece.journal.origin
        async with self._store.transaction() as t:
            cas = await t.select(Ca, origin=origin)
            policies = [_policy_record(row) async for row in every(t, Policy, origin=origin)]
            intents = await t.records_at(piece.journal, sorted(needed_intents(piece.records)))
            units = await t.select_in(Unit, "unit", sorted(needed_units(piece.records)))
        issuers = {
            row.generation: Issuer(row.key_id, ca_info(row.certificate).public_key) for row in cas if row.activated
        }  # fmt: skip
        earlier, _ = readable(intents)
        begun = {unit.unit: unit for unit in units if unit.origin == origin}
        return Known(origin, issuers, policies, {record.seq: record for record in earlier}, begun)

    async def _write(
        self,
        t: Transaction,
        journal: Journal,
        records: Sequence[Record],
        done: Projection,
        issuers: Mapping[int, bytes] | None = None,
    ) -> None:
        origin, now_ms = journal.origin, self._clock.now_ms()
        for record in records:
            if isinstance(record.payload, CaActivated):
                try:
                    await _activate(t, origin, record, record.payload)
                except GatewayError as error:
                    done.aside[record.seq] = str(error)
                    text = f"record {record.seq}: {error}"
                    await open_alert(t, Alert(alarms.FOREIGN_CA, origin, "", text, now_ms))
        await t.put(*done.certificates.values())
        await _hear(t, origin, done.words)
        await t.put(*done.policies)
        await t.put(*done.units.values())
        await t.add(*done.events)
        if done.tallies:
            used = {row.name: row.used for row in await t.select(Tally, origin=origin)}
            await t.put(*(Tally(origin, name, used.get(name, 0) + change) for name, change in done.tallies.items()))
        for announced in done.announced.values():
            last = await t.find(Announced, announced.issuer, announced.scope)
            if last is None or last.number < announced.number:
                await t.put(announced)
        if done.aside:
            await t.put(*(Quarantined(origin, seq, reason, now_ms) for seq, reason in done.aside.items()))
            await open_alert(t, _quarantine_alert(origin, done.aside, now_ms))
        if done.forged:
            await self._fence(t, journal, done.forged)
        await findings.look(t, journal, records, done, now_ms, issuers=issuers)
        await line_findings.look(t, origin, records, done, now_ms)

    async def _fence(self, t: Transaction, journal: Journal, forged: dict[int, str]) -> None:
        """A certificate that the CA's key did not sign, under a root that the gateway signed: nothing of it is believed now."""
        now_ms = self._clock.now_ms()
        reason = f"record {min(forged)}: {forged[min(forged)]}"
        for record in await t.records_at(journal, sorted(forged)):
            digest = hashlib.sha256(record.body).digest()
            await t.add(Evidence(digest, journal.origin, reason, journal.receipt, record.body, now_ms))
        current = await t.find(Journal, journal.origin)
        if current is not None and not current.fenced:
            await t.change(Journal, journal.origin, fenced=reason, session="", nonce="")
        await open_alert(t, Alert(alarms.FENCED, journal.origin, "", reason, now_ms))

    async def _skip(self, origin: str, reason: str) -> None:
        """Set the record at the cursor aside."""
        now_ms = self._clock.now_ms()
        async with self._store.transaction() as t:
            cursor = await t.find(Cursor, READER, origin)
            seq = cursor.position if cursor else 0
            if await _move(t, origin, seq, seq + 1):
                await t.put(Quarantined(origin, seq, _stored(reason), now_ms))
                await open_alert(t, _quarantine_alert(origin, {seq: _stored(reason)}, now_ms))

    # Again.

    async def reproject(self) -> int:
        """Try every record in quarantine again, in order; how many of them have a meaning now."""
        count = 0
        after: _Place | None = _FIRST
        while after is not None:
            done, after = await self._reproject_some(after)
            count += done
        return count

    async def _reproject_some(self, after: _Place) -> tuple[int, _Place | None]:
        """Some of them, those behind ``after``; how many have a meaning now, and where to go on."""
        async with self._store.transaction() as t:
            aside = await t.select(Quarantined, after=after, limit=_AGAIN)
        count = 0
        for row in aside:
            try:
                count += await self._again(row)
            except Unavailable:
                raise
            except Exception:  # it stays where it is
                _log.exception("record %d of %s stays in quarantine", row.seq, row.origin)
        if len(aside) == _AGAIN:
            return count, (aside[-1].origin, aside[-1].seq)
        async with self._store.transaction() as t:
            for alert in [alert async for alert in every(t, Alert, kind=alarms.QUARANTINE, closed=0)]:
                if not await t.select(Quarantined, origin=alert.origin, limit=1):
                    await close_alert(t, alarms.QUARANTINE, alert.origin, self._clock.now_ms())
        return count, None

    async def _again(self, row: Quarantined) -> bool:
        async with self._store.transaction() as t:
            journal = await t.find(Journal, row.origin)
            kept = await t.records_at(journal, [row.seq]) if journal is not None else []
        if journal is None or not kept:
            return False
        piece = await asyncio.to_thread(_first_piece, journal, kept)
        if piece.aside:
            return False
        known = await self._known(piece)
        done = await asyncio.to_thread(project, piece.records, known, verify=self._verify)
        async with self._store.transaction() as t:
            if done.aside or not await t.remove(Quarantined, origin=row.origin, seq=row.seq):
                return False  # as before, or another worker was faster
            await self._write(t, journal, piece.records, done)
        return not done.aside

    # What has to be revoked.

    async def carry_out(self) -> None:
        """Revoke what the records ask for; what fails is tried again by the next call."""
        async with self._store.transaction() as t:
            events = [event async for event in every(t, Event, kind=findings.REVOKE, done=0)]
        for event in events:
            verdict = findings.Verdict.from_bytes(event.content)
            serial = int.from_bytes(verdict.serial, "big")
            try:
                await self._revoke(serial, verdict.reason, f"central: {verdict.why}", issuer=verdict.issuer)
            except Unavailable:
                raise
            except GatewayError as error:
                _log.error("certificate %x of %s cannot be revoked: %s", serial, event.origin, error)
                continue
            now_ms = self._clock.now_ms()
            async with self._store.transaction() as t:
                await t.change(Event, findings.REVOKE, event.origin, event.seq, done=now_ms)


async def hear_early(t: Transaction, journal: Journal, records: Sequence[bytes], now_ms: int) -> None:
    """What urgent records say, before they come in their place. Others, and what cannot be read, are left for then."""
    await _cursor(t, journal.origin)
    kept = [Kept(_claimed_seq(body), b"", body, now_ms) for body in records]
    cas = {row.generation: row.key_id for row in await t.select(Ca, origin=journal.origin) if row.activated}
    words: dict[tuple[bytes, bytes], tuple[Word, int, str]] = {}
    for record in readable(kept)[0]:
        match record.payload:
            case Revoked() as said:  # a release waits: a restored gateway may have lost it, and what it holds must not be good
                try:
                    key, word = (serial_column(said.serial), cas.get(said.generation, b"")), edge_word(record)
                except ValueError:
                    continue
                before = words.get(key)
                words[key] = (join(before[0], word) if before else word, said.generation, said.by)
            case FencedByCentral() as fenced:
                await open_alert(t, Alert(alarms.FENCED_THERE, journal.origin, "", fenced.reason[:_MOST_TEXT], now_ms))
    await _hear(t, journal.origin, words)


async def _hear(t: Transaction, origin: str, words: dict[tuple[bytes, bytes], tuple[Word, int, str]]) -> None:
    """Join the gateway's words to those it said before."""
    if not words:
        return
    before = {
        (row.serial, row.issuer): row.word
        for row in await t.select_in(Revocation, "serial", sorted({serial for serial, _ in words}))
        if row.side == GATEWAY
    }
    rows = []
    for key, (word, generation, by) in words.items():
        known = before.get(key, SILENT)
        said = join(known, word)
        if said != known:
            reason = said.reason.value if said.reason else ""
            rows.append(Revocation(*key, GATEWAY, origin, generation, reason, said.revoked_ms, by[:_MOST_TEXT], said.number))
    await t.put(*rows)


async def _activate(t: Transaction, origin: str, record: Record, activated: CaActivated) -> None:
    """A CA generation of the gateway. Raises IntegrityError for another's key, OperatorError for no CA certificate."""
    info = ca_info(activated.certificate)
    if any(row.origin != origin for row in await t.select(Ca, key_id=info.key_identifier)):
        raise IntegrityError("this CA key is another gateway's")
    if any(
        row.activated and row.key_id != info.key_identifier
        for row in await t.select(Ca, origin=origin, generation=activated.generation)
    ):
        raise IntegrityError(f"generation {activated.generation} has another CA key already")
    digest = hashlib.sha256(activated.certificate).digest()
    signed = await t.find(Ca, digest)
    await t.put(
        Ca(
            digest, info.key_identifier, origin, activated.certificate, b"".join(activated.chain), info.not_after_ms,
            generation=activated.generation, signed=signed.signed if signed else 0, activated=record.time,
        )
    )  # fmt: skip
    # Revocations that came before anybody knew which key this generation has.
    early = [row for row in await t.select(Revocation, origin=origin, issuer=b"") if row.generation == activated.generation]
    await _hear(t, origin, {(row.serial, info.key_identifier): (row.word, row.generation, row.by) for row in early})
    for row in early:
        await t.remove(Revocation, serial=row.serial, issuer=b"", side=GATEWAY, origin=origin)


async def _cursor(t: Transaction, origin: str) -> Cursor:
    """The journal's cursor, locked."""
    await t.add(Cursor(READER, origin, 0))
    cursor = await t.find(Cursor, READER, origin, lock=True)
    assert cursor is not None  # noqa: S101 - added just before, and never deleted
    return cursor


async def _move(t: Transaction, origin: str, position: int, stop: int) -> bool:
    """Move the cursor from ``position``; False when somebody else has."""
    cursor = await _cursor(t, origin)
    if cursor.position != position:
        return False
    await t.put(replace(cursor, position=stop))
    return True


def _first_piece(journal: Journal, kept: Sequence[Kept]) -> _Piece:
    """As many of these records as go together: what follows a ``ca-activated`` needs what that one says."""
    records, aside = readable(kept)
    cut = next((each.seq for each in records if isinstance(each.payload, CaActivated)), None)
    position, stop = kept[0].seq, kept[-1].seq + 1
    if cut is not None:
        stop = cut if cut > position else cut + 1
    own = tuple(each for each in records if each.seq < stop)
    return _Piece(journal, position, stop, own, {seq: reason for seq, reason in aside.items() if seq < stop})


def _policy_record(row: Policy) -> Record:
    return Record(row.seq, row.since, PolicyApplied(row.version, row.source, row.digest, row.expires))


def _quarantine_alert(origin: str, aside: dict[int, str], now_ms: int) -> Alert:
    seq = min(aside)
    text = f"record {seq} and perhaps others have no meaning here: {aside[seq][:_MOST_TEXT]}"
    return Alert(alarms.QUARANTINE, origin, "", text, now_ms)


def _stored(text: str) -> str:
    """A text that every database takes."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _claimed_seq(body: bytes) -> int:
    """What an urgent record says of its place; -1 for none."""
    try:
        seq = json.loads(body).get("seq")
    except (ValueError, AttributeError, RecursionError):
        return -1
    return seq if type(seq) is int else -1

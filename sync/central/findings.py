"""What a person or another part of central must hear of from the records: alerts, and what the conflict table asks for.

Everything here is part of the transaction that projects the records, and the same when it happens twice. What has to be
revoked becomes an event of the kind :data:`REVOKE`; who carries it out is :mod:`sync.central.projector`'s matter.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.journal.records import (
    Closed,
    CommandDone,
    DesiredApplied,
    DesiredRefused,
    FencedByCentral,
    Genesis,
    Record,
    Released,
    Revoked,
)
from gateway.journal.tip import serial_column
from gateway.pki.crl import Reason
from sync.central import alarms
from sync.central.alarms import close_alert, open_alert
from sync.central.desired_state import ALL, BLOCKED, UNKNOWN_DOCUMENT
from sync.central.projection import CertificateKey, Projection, clashes
from sync.central.rows import (
    CENTRAL,
    GATEWAY,
    ISSUED,
    OPEN,
    Alert,
    Certificate,
    Document,
    Event,
    Journal,
    Order,
    Revocation,
    Setting,
    Tally,
)
from sync.central.store import Transaction
from sync.conflicts import (
    SILENT,
    DuplicateIdentity,
    Identity,
    SharedKey,
    join,
    merged,
    overspent,
    quota_step,
    reason_for_successor,
    repeated_word,
)
from sync.desired import Desired

#: A certificate that must be revoked; the content is a :class:`Verdict`.
REVOKE: Final = "revoke"
_PROFILE: Final = "profile:"
_MOST_TEXT: Final = 500


@dataclass(frozen=True, slots=True)
class Verdict:
    """Why central revokes a certificate by itself."""

    serial: bytes
    issuer: bytes
    reason: Reason
    why: str

    def to_bytes(self) -> bytes:
        body = {"serial": self.serial.hex(), "issuer": self.issuer.hex(), "reason": self.reason.value, "why": self.why}
        return json.dumps(body).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Verdict:
        body = json.loads(data)
        return cls(bytes.fromhex(body["serial"]), bytes.fromhex(body["issuer"]), Reason(body["reason"]), body["why"])


async def condemn(t: Transaction, certificate: Certificate, reason: Reason, why: str, now_ms: int) -> None:
    """Have ``certificate`` revoked, once."""
    verdict = Verdict(certificate.serial, certificate.issuer, reason, why)
    # The record that made the certificate tells the event from others.
    await t.add(
        Event(REVOKE, certificate.origin, certificate.closing, certificate.generation, verdict.to_bytes(), now_ms)
    )  # fmt: skip


async def look(
    t: Transaction,
    journal: Journal,
    records: Sequence[Record],
    done: Projection,
    now_ms: int,
    *,
    issuers: Mapping[int, bytes] | None = None,
) -> None:
    """Everything there is to find in some records and the rows they became, which are written already.

    ``issuers`` are the CAs' key identifiers by generation, for records in their place; ``None`` for those that are read late.
    """
    for record in records:
        if issuers is not None and record.seq not in done.aside:
            await _hear_own_word(t, journal.origin, record, issuers)
        await _single(t, journal, record, now_ms)
    await _compare_identities(t, done, now_ms)
    await _dispute(t, done, now_ms)
    await _follow_predecessors(t, journal.origin, done, now_ms)
    if done.tallies:
        await _look_at_quotas(t, journal.origin, done.tallies, now_ms)


async def _single(t: Transaction, journal: Journal, record: Record, now_ms: int) -> None:
    """Records that concern the gateway as a whole."""
    origin = journal.origin
    match record.payload:
        case Genesis() as genesis:
            if (genesis.origin, genesis.verifier_key) != (origin, journal.vkey):
                text = f"record 0 names {genesis.origin[:100]} and another key than the gateway joined with"
                await open_alert(t, Alert(alarms.IDENTITY, origin, "", text, now_ms))
        case DesiredApplied() as applied:
            await close_alert(t, alarms.DOCUMENT_REFUSED, origin, now_ms)
            await _compare_documents(t, origin, record, applied, now_ms)
        case DesiredRefused() as refused:
            text = f"it does not apply version {refused.version} of its document: {refused.reason[:_MOST_TEXT]}"
            await open_alert(t, Alert(alarms.DOCUMENT_REFUSED, origin, "", text, now_ms))
        case CommandDone() as command:
            await _finish(t, origin, record, command, now_ms)
        case FencedByCentral() as fenced:
            await open_alert(t, Alert(alarms.FENCED_THERE, origin, "", fenced.reason[:_MOST_TEXT], now_ms))
        case Closed() as closed:
            current = await t.find(Journal, origin)
            if current is not None and not current.closed:
                await t.change(Journal, origin, closed=closed.reason[:_MOST_TEXT] or "closed")


async def _finish(t: Transaction, origin: str, record: Record, command: CommandDone, now_ms: int) -> None:
    order = await t.find(Order, command.command)
    if order is None or order.origin != origin or order.state != OPEN:
        return
    detail = command.detail[:_MOST_TEXT]
    await t.change(Order, order.id, state=command.outcome, detail=detail, finished=record.time)
    if command.outcome == "failed":
        text = f"{order.do} of {order.serial.hex()} failed there: {detail}"
        await open_alert(t, Alert(alarms.COMMAND_FAILED, origin, order.id, text, now_ms))


# Central restored from backup.


def repeats_central(records: Iterable[Record]) -> bool:
    """Whether some of the records may tell central what it said itself; then the journal's lock is needed to write it."""
    return any(isinstance(each.payload, Revoked | Released) and each.payload.by == CENTRAL for each in records)


async def _hear_own_word(t: Transaction, origin: str, record: Record, issuers: Mapping[int, bytes]) -> None:
    """Central's own word as the gateway repeats it: a restored central has forgotten it."""
    payload = record.payload
    if not isinstance(payload, Revoked | Released) or not repeats_central([record]):
        return
    serial, issuer = serial_column(payload.serial), issuers[payload.generation]
    pending = any(order.issuer == issuer for order in await t.select(Order, serial=serial, state=OPEN))
    repeated = repeated_word(record, pending=pending)
    known = await t.find(Revocation, serial, issuer, CENTRAL)
    before = known.word if known else SILENT
    said = join(before, repeated)
    if said != before:
        reason = said.reason.value if said.reason else ""
        by = known.by if known else payload.by
        await t.put(
            Revocation(serial, issuer, CENTRAL, origin, payload.generation, reason, said.revoked_ms, by, said.number)
        )  # fmt: skip


async def _compare_documents(t: Transaction, origin: str, record: Record, applied: DesiredApplied, now_ms: int) -> None:
    """A document is in force that nobody here remembers: one with a higher version must take its place."""
    document = await t.find(Document, origin)
    if document is not None and (
        applied.version < document.version or applied.digest == hashlib.sha256(document.content).digest()
    ):
        return
    await t.add(Event(UNKNOWN_DOCUMENT, origin, record.seq, 0, str(applied.version).encode(), now_ms))


# Same device id, other key, two gateways; same key, other device id.


async def _compare_identities(t: Transaction, done: Projection, now_ms: int) -> None:
    if not done.identities:
        return
    for wrong in clashes(done.identities, await _rivals(t, done.identities)):
        first, second = wrong.first, wrong.second
        named = f"serial {first.serial} of {first.origin}, serial {second.serial} of {second.origin}"
        match wrong:
            case DuplicateIdentity():
                text = f"two gateways certified different keys for device {second.device}: {named}"
                await open_alert(t, Alert(alarms.DUPLICATE_IDENTITY, second.origin, second.device, text, now_ms))
            case SharedKey(blocked=key):
                text = f"devices {first.device} and {second.device} have the same key, which is blocked now: {named}"
                await open_alert(t, Alert(alarms.SHARED_KEY, second.origin, key.hex(), text, now_ms))
                await t.add(Setting(ALL, BLOCKED + key.hex(), json.dumps(text)))


async def _rivals(t: Transaction, new: Sequence[Identity]) -> list[Identity]:
    """The valid certificates of other gateways for these devices, and of other devices for these keys."""
    origin, begin_ms = new[0].origin, min(each.time_ms for each in new)
    devices = {each.spki: each.device for each in new}
    found = await t.select_in(Certificate, "device", sorted({each.device for each in new}))
    found += await t.select_in(Certificate, "spki", sorted(devices))
    rivals = {
        (row.serial, row.issuer): row
        for row in found
        if row.device
        and row.state == ISSUED
        and row.not_after > begin_ms
        and (row.origin != origin or row.device != devices.get(row.spki, row.device))
    }
    bad = await _revoked(t, rivals)
    return [
        Identity(row.issued, row.origin, f"{int.from_bytes(row.serial, 'big'):x}", row.device, row.spki)
        for key, row in rivals.items()
        if key not in bad
    ]


async def _revoked(t: Transaction, keys: Iterable[CertificateKey]) -> dict[CertificateKey, Reason]:
    """Those of the certificates that are revoked or on hold, and why."""
    wanted = set(keys)
    said: dict[CertificateKey, dict[str, Revocation]] = {}
    for row in await t.select_in(Revocation, "serial", sorted({serial for serial, _ in wanted})):
        if (row.serial, row.issuer) in wanted:
            said.setdefault((row.serial, row.issuer), {})[row.side] = row
    found = {}
    for key, sides in said.items():
        status = merged(*(sides[side].word if side in sides else SILENT for side in (GATEWAY, CENTRAL)))
        if status is not None:
            found[key] = status.reason
    return found


# Policy changed while apart; violation found later.


async def _dispute(t: Transaction, done: Projection, now_ms: int) -> None:
    """The record stays as it is; the certificate is revoked."""
    for row in done.certificates.values():
        if row.disputed:
            text = f"{row.disputed}: serial {row.serial.hex()} and perhaps others; they are revoked"
            await open_alert(t, Alert(alarms.DISPUTED, row.origin, row.disputed, text, now_ms))
            await condemn(t, row, Reason.PRIVILEGE_WITHDRAWN, row.disputed, now_ms)


# Central revokes while the edge renews.


async def _follow_predecessors(t: Transaction, origin: str, done: Projection, now_ms: int) -> None:
    """New certificates of revoked predecessors, and successors of newly revoked certificates."""
    renewed = {row.predecessor: row for row in done.certificates.values() if row.predecessor and row.state == ISSUED}
    if renewed:
        before = await t.select_in(Certificate, "serial", sorted(renewed))
        keys = [(row.serial, row.issuer) for row in before if row.origin == origin]
        for (serial, _), reason in (await _revoked(t, keys)).items():
            if (passed_on := reason_for_successor(reason)) is not None:
                await condemn(t, renewed[serial], passed_on, "the certificate that it renewed is revoked", now_ms)
    for (serial, _), (word, _, _) in done.words.items():
        if word.reason is not None:
            await condemn_successors(t, origin, serial, word.reason, now_ms)


async def condemn_successors(t: Transaction, origin: str, serial: bytes, reason: Reason, now_ms: int) -> None:
    """Whoever held a stolen key, or a right that was withdrawn, may have been the one who renewed."""
    passed_on = reason_for_successor(reason)
    if passed_on is None:
        return
    for row in await t.select(Certificate, predecessor=serial, origin=origin):
        if row.state == ISSUED:
            await condemn(t, row, passed_on, "the certificate that it renewed is revoked", now_ms)


# Quota.


async def _look_at_quotas(t: Transaction, origin: str, changed: Iterable[str], now_ms: int) -> None:
    """An alert at 80, 95 and 100 per cent of what central granted, and beyond."""
    profiles = [name for name in changed if name.startswith(_PROFILE)]
    document = await t.find(Document, origin) if profiles else None
    if document is None:
        return
    granted = _quotas(document)
    for name in profiles:
        quota = granted.get(name.removeprefix(_PROFILE))
        tally = await t.find(Tally, origin, name) if quota is not None else None
        if quota is None or tally is None:
            continue
        if over := overspent(quota, tally.used):
            text = f"{over} more certificates exist than the quota {name} of {quota} allows: it was spent twice"
        elif step := quota_step(quota, tally.used):
            text = f"{step} % of the quota {name} of {quota} are used"
        else:
            await close_alert(t, alarms.QUOTA, origin, now_ms, name)
            continue
        await open_alert(t, Alert(alarms.QUOTA, origin, name, text, now_ms))


def _quotas(document: Document) -> Mapping[str, int]:
    return Desired.from_bytes(document.content.partition(b"\n\n")[2]).quotas

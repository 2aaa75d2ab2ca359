"""Central as the simulation runs it: the real decisions over a store that is one Python object.

Every method is one transaction: :mod:`tests.sim.history` decides whether it happens at all and whether its answer arrives.
``wrong`` names a rule that is broken on purpose (:data:`tests.sim.history.WRONG_RULES`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Protocol

from gateway.journal.checkpoint import Checkpoint
from gateway.journal.merkle import Frontier
from gateway.journal.records import (
    CommandDone,
    DesiredApplied,
    Intent,
    PolicyApplied,
    Record,
    Released,
    Revoked,
    Void,
    leaf_hash,
)
from gateway.pki.crl import Reason
from sync import session as say
from sync.conflicts import (
    SILENT,
    Word,
    edge_word,
    join,
    merged,
    next_number,
    overspent,
    policy_violation,
    reason_for_successor,
    repeated_word,
)
from sync.ingest import (
    Appended,
    BatchVerdict,
    Convict,
    Greet,
    IsFenced,
    Refuse,
    Resume,
    Standing,
    Welcomed,
    challenge,
    judge_batch,
    judge_hello,
)
from sync.wire import Batch, Hello, Welcome


class Seal(Protocol):
    """Signs and reads checkpoints and receipts; cheap or real."""

    def sign(self, checkpoint: Checkpoint) -> str: ...

    def read(self, note: str, vkey: str) -> Checkpoint: ...

    def cosign(self, note: str) -> str: ...

    def open_receipt(self, note: str) -> Checkpoint: ...


@dataclass(frozen=True, slots=True)
class Order:
    """A command in the document; ``reason`` is ``None`` to release."""

    id: str
    serial: str
    reason: Reason | None
    at_ms: int


@dataclass(frozen=True, slots=True)
class Document:
    """What the simulation needs of the desired document."""

    version: int
    policy: int
    expires: int
    quota: int
    orders: tuple[Order, ...] = ()

    @property
    def digest(self) -> bytes:
        return sha256(repr(self).encode()).digest()


class Central:
    """``meanings`` reads a body; a real central decodes it."""

    def __init__(self, origin: str, vkey: str, seal: Seal, meaning: Callable[[bytes], Record], wrong: str) -> None:
        self.seal, self.meaning, self.wrong = seal, meaning, wrong
        self.standing = Standing(origin, vkey)
        self.bodies: list[bytes] = []
        self.leaves: list[bytes] = []
        self.document = Document(1, 1, 0, 12)
        self.edge: dict[str, Word] = {}
        self.own: dict[str, Word] = {}
        self.issued: dict[str, str] = {}  # serial -> predecessor
        self.policies: list[Record] = []
        self.disputed: list[str] = []
        self.spent = 0
        self.convicted = ""
        self.counter = 0
        self.remembered = self.standing  # what the other worker saw last, where it does not lock
        self.at_other_worker = False

    # Copies for the backup.

    def backup(self) -> dict[str, object]:
        kept = {name: getattr(self, name) for name in ("standing", "document", "spent", "convicted")}
        copied = ("bodies", "leaves", "edge", "own", "issued", "policies", "disputed")
        return kept | {name: getattr(self, name).copy() for name in copied}

    def restore(self, backup: Mapping[str, object]) -> None:
        for name, value in backup.items():
            setattr(self, name, value.copy() if isinstance(value, list | dict) else value)

    # The messages.

    def ask_challenge(self) -> say.Answer:
        self.counter += 1
        nonce = f"n{self.counter}"
        self.standing = challenge(self.standing, nonce)
        return say.Nonce(nonce)

    def hello(self, hello: Hello) -> say.Answer:
        self.counter += 1
        standing = self.standing
        if self.wrong == "no nonce":
            standing, hello = replace(standing, nonce="x"), replace(hello, nonce="x")
        if self.wrong == "fences expire" and standing.fenced:
            standing = replace(standing, fenced="", retired=frozenset(), nonce=hello.nonce)
        verdict = judge_hello(standing, hello, f"s{self.counter}", read_note=self.seal.read)
        match verdict:
            case Welcomed(standing):
                self.standing = standing
                return Welcome(standing.session, standing.size, standing.root, standing.receipt, self.document.version)
            case Greet():
                return say.SayHello()
            case Refuse(reason):
                return say.Refused(reason)
            case Convict() | IsFenced():
                return self._fence(verdict)

    def records(self, batch: Batch) -> say.Answer | str:
        """A receipt's note where the batch was accepted."""
        verdict = self._judge(batch)
        match verdict:
            case Appended(standing, records, leaves, note):
                if note:
                    standing = replace(standing, receipt=self.seal.cosign(note))
                if not batch.session and self.wrong == "a nonce survives a bundle":
                    standing = replace(standing, nonce=self.standing.nonce)
                self.standing = standing
                start = len(self.bodies)
                self.bodies += records
                self.leaves += leaves
                for body in records:
                    self._project(self.meaning(body))
                if len(self.bodies) > start:
                    self._follow_lines()
                return standing.receipt
            case Resume():
                return say.ResumeAt(self.standing.size, self.standing.root)
            case Greet():
                return say.SayHello()
            case Refuse(reason):
                return say.Refused(reason)
            case Convict() | IsFenced():
                return self._fence(verdict)

    def _judge(self, batch: Batch) -> BatchVerdict:
        standing = self.standing
        if self.at_other_worker:
            standing, self.remembered = self.remembered, standing
        known = self.leaves[batch.start : batch.stop]
        if self.wrong == "the overlap is trusted" and batch.start <= standing.size < batch.stop:
            leaves = tuple(map(leaf_hash, batch.records[standing.size - batch.start :]))
            grown = Frontier.from_bytes(standing.frontier)
            for leaf in leaves:
                grown.append(leaf)
            after = replace(standing, size=batch.stop, frontier=grown.to_bytes())
            return Appended(after, batch.records[standing.size - batch.start :], leaves, batch.checkpoint)
        return judge_batch(standing, batch, known, read_note=self.seal.read)

    def urgent(self, bodies: tuple[bytes, ...]) -> None:
        for body in bodies:
            record = self.meaning(body)
            if isinstance(record.payload, Revoked) or self.wrong == "releases overtake":
                self._hear(record)
        self._follow_lines()

    def desired(self, have: int) -> Document | None:
        return self.document if self.document.version > have else None

    def _fence(self, verdict: Convict | IsFenced) -> say.IsFenced:
        if isinstance(verdict, Convict):
            self.standing = verdict.standing
            self.convicted = verdict.reason
        return say.IsFenced(verdict.reason)

    # What the records mean.

    def _project(self, record: Record) -> None:
        payload = record.payload
        match payload:
            case Intent():
                self.spent += 1
                policies = self.policies
                if self.wrong == "judged by the newest policy":
                    document = self.document
                    newest = PolicyApplied(payload.policy_version, "central", b"", document.expires)
                    policies = [Record(0, 0, newest)]
                if why := policy_violation(record, policies):
                    self.disputed.append(why)
                self.issued[payload.serial] = payload.predecessor
            case Void():
                self.spent -= 1
                self.edge[payload.serial] = join(
                    self.edge.get(payload.serial, SILENT), Word(record.seq, Reason.UNSPECIFIED, record.time)
                )
            case PolicyApplied():
                self.policies.append(record)
            case CommandDone(command=done):
                left = tuple(order for order in self.document.orders if order.id != done)
                if len(left) < len(self.document.orders):
                    self.change(replace(self.document, orders=left), self.document.version + 1)
            case DesiredApplied(version=version, digest=digest) if version >= self.document.version:
                if digest != self.document.digest:  # central was restored: a document that nobody here remembers is in force
                    self.change(self.document, version + 1)
            case Revoked(serial=serial) | Released(serial=serial):
                self._hear(record)
                pending = any(order.serial == serial for order in self.document.orders)
                repeated = repeated_word(record, pending=pending)
                if repeated is not SILENT and self.wrong != "a restored central keeps its holds":
                    self.own[serial] = join(self.own.get(serial, SILENT), repeated)

    def _hear(self, record: Record) -> None:
        if isinstance(record.payload, Revoked | Released):
            serial = record.payload.serial
            word = edge_word(record)
            if self.wrong != "the last message wins":
                word = join(self.edge.get(serial, SILENT), word)
            self.edge[serial] = word

    def status(self, serial: str) -> tuple[int, Reason] | None:
        edge, own = self.edge.get(serial, SILENT), self.own.get(serial, SILENT)
        found = merged(edge, SILENT if self.wrong == "only the edge revokes" else own)
        return (found.revoked_ms, found.reason) if found else None

    # What people at central do.

    def change(self, document: Document, version: int = 0) -> None:
        self.document = replace(document, version=version or self.document.version + 1)

    def decide(self, serial: str, reason: Reason | None, now_ms: int) -> None:
        """Revoke, hold or release: a word at once, and a command down."""
        edge, own = self.edge.get(serial, SILENT), self.own.get(serial, SILENT)
        if reason and (status := self.status(serial)):
            now_ms = min(now_ms, status[0])
        self.own[serial] = join(own, Word(next_number(edge, own), reason, now_ms if reason else 0))
        self.counter += 1
        order = Order(f"c{self.counter}", serial, reason, now_ms)
        self.change(replace(self.document, orders=(*self.document.orders, order)))
        self._follow_lines()

    def _follow_lines(self) -> None:
        """Successors of certificates that fell for a reason that follows the line."""
        if self.wrong == "successors stand":
            return
        for serial, predecessor in self.issued.items():
            if not predecessor or self.own.get(serial, SILENT).is_final:
                continue
            status = self.status(predecessor)
            reason = reason_for_successor(status[1]) if status else None
            if reason is not None:
                assert status is not None
                self.decide(serial, reason, status[0])

    def overspent(self, granted: int) -> int:
        return overspent(granted, self.spent)

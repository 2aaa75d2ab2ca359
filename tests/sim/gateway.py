"""A gateway as the simulation runs it: a durable journal, what is folded from it, and the real session machine.

The journal survives crashes; everything else is rebuilt from it by :meth:`Gateway.start`. ``crash`` is asked between any two
durable steps and raises :class:`Crash`.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway.authority.revoke import CENTRAL, resulting_reason
from gateway.clock import MonotonicClock
from gateway.journal.checkpoint import Checkpoint
from gateway.journal.merkle import Frontier
from gateway.journal.records import (
    CommandDone,
    DesiredApplied,
    Intent,
    Issued,
    Payload,
    PolicyApplied,
    Record,
    Released,
    Revoked,
    Started,
    Void,
    leaf_hash,
)
from gateway.pki.crl import Reason
from sync.session import State
from tests.sim.central import Document, Order, Seal


class Crash(Exception):
    """The process ends here; what is durable stays."""


class Journal:
    """Records, their bytes and leaves, and the root at every size."""

    __slots__ = ("bodies", "frontier", "leaves", "records", "roots")

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.bodies: list[bytes] = []
        self.leaves: list[bytes] = []
        self.frontier = Frontier()
        self.roots = [self.frontier.root()]

    def __len__(self) -> int:
        return len(self.bodies)

    def append(self, record: Record, body: bytes) -> None:
        leaf = leaf_hash(body)
        self.records.append(record)
        self.bodies.append(body)
        self.leaves.append(leaf)
        self.frontier.append(leaf)
        self.roots.append(self.frontier.root())

    def copy(self, size: int) -> Journal:
        other = Journal()
        other.records, other.bodies, other.leaves = self.records[:size], self.bodies[:size], self.leaves[:size]
        other.roots = self.roots[: size + 1]
        if size == len(self):
            other.frontier = self.frontier.copy()
        else:
            for leaf in other.leaves:
                other.frontier.append(leaf)
        return other


class Anchor:
    """The head in a place that no backup brings back."""

    def __init__(self) -> None:
        self.size = 0
        self.root = b""


class Gateway:
    def __init__(
        self,
        origin: str,
        journal: Journal,
        seal: Seal,
        write: Callable[[Record], bytes],
        time: Callable[[], int],
        crash: Callable[[], None],
        anchor: Anchor | None,
        wrong: str,
    ) -> None:
        self.origin, self.journal, self.seal = origin, journal, seal
        self.write, self.time, self.crash, self.anchor, self.wrong = write, time, crash, anchor, wrong
        self.fenced = ""  # durable, as the journal's state is
        self.incarnation = ""
        self.documents: dict[bytes, Document] = {}  # durable, by digest
        self.cursor = 0  # what must not be relied upon
        self.spent = 0

    # Life.

    def join(self, document: Document) -> None:
        """Begin as a gateway that has just joined: with central's first document."""
        self.documents[document.digest] = document
        for payload in (
            DesiredApplied(document.version, document.digest, 0, document.expires),
            PolicyApplied(document.policy, "central", document.digest, document.expires),
        ):
            record = Record(len(self.journal), self.time(), payload)
            self.journal.append(record, self.write(record))

    def start(self, incarnation: str) -> None:
        """Fold the journal, void open intents, record the start."""
        self.incarnation = incarnation
        self.spent = 0
        self.applied = 0
        self.document = Document(0, 0, 0, 0)
        self.status: dict[str, tuple[int, Reason, str]] = {}
        self.issued: dict[str, str] = {}  # serial -> predecessor
        self.open: dict[int, str] = {}
        self.done: set[str] = set()
        self.urgent = 0
        self.state = State(0)
        journal = self.journal
        self.clock = MonotonicClock(self.time, floor_ms=journal.records[-1].time if journal.records else 0)
        for record in journal.records:
            self._fold(record)
        if self.wrong == "quota is forgotten by a crash":
            self.spent = 0
        self._compare_anchor()
        if not self.fenced:
            voids = [Void(seq, serial, "open at start") for seq, serial in self.open.items()]
            self.append(*voids, Started(incarnation, False, True))
            self.carry_out()
        self.state = State(len(journal), self.document.version, self.fenced)

    def _compare_anchor(self) -> None:
        anchor = self.anchor
        if anchor is None or self.wrong == "no comparison with the anchor":
            return
        if anchor.size > len(self.journal) or (anchor.size and self.journal.roots[anchor.size] != anchor.root):
            self.fenced = "the anchor has seen another journal"

    def append(self, *payloads: Payload) -> list[Record]:
        """One durable group; afterwards the anchor."""
        if self.fenced:
            raise Crash
        journal, time = self.journal, self.clock.now_ms()
        if self.wrong == "the clock may go back":
            time = self.time()
        records = []
        for payload in payloads:
            record = Record(len(journal), time, payload)
            journal.append(record, self.write(record))
            self._fold(record)
            records.append(record)
        self.crash()
        if self.anchor is not None:
            self.anchor.size, self.anchor.root = len(journal), journal.roots[-1]
        return records

    def _fold(self, record: Record) -> None:
        payload = record.payload
        match payload:
            case Intent():
                self.spent += 1
                self.open[record.seq] = payload.serial
                self.issued[payload.serial] = payload.predecessor
            case Issued():
                del self.open[payload.intent]
            case Void():
                self.spent -= 1
                self.open.pop(payload.intent, None)
                self.status.setdefault(payload.serial, (record.time, Reason.UNSPECIFIED, ""))
            case Revoked():
                self.urgent = record.seq + 1
                self.status[payload.serial] = (payload.revoked_at, Reason(payload.reason), payload.by)
            case Released():
                self.urgent = record.seq + 1
                self.status.pop(payload.serial, None)
            case DesiredApplied():
                self.applied = payload.version
                self.document = self.documents.get(payload.digest, self.document)
            case CommandDone():
                self.done.add(payload.command)

    def head(self, size: int = -1) -> str:
        """The signed checkpoint of ``size`` records."""
        size = len(self.journal) if size < 0 else size
        return self.seal.sign(Checkpoint(self.origin, size, self.journal.roots[size]))

    # Work.

    def issue(self, serial: str, predecessor: str = "") -> None:
        document, now_ms = self.document, self.clock.now_ms()
        if self.spent >= document.quota or (document.expires and now_ms >= document.expires):
            return
        plan = Intent(
            serial, b"", "ecdsa", 1, "ldevid", "est", "enroll", "device", b"", b"", document.policy, b"", ("profile:ldevid",),
            predecessor=predecessor,
        )  # fmt: skip
        (record,) = self.append(plan)
        self.append(Issued(record.seq, serial, b"", b"", b""))

    def revoke(self, serial: str, reason: Reason, by: str, at_ms: int, *because: Payload) -> None:
        """As :class:`gateway.authority.revoke.Revoker` does it."""
        current = self.status.get(serial)
        result = resulting_reason(current[1] if current else None, reason)
        if current is not None and result is None:
            joins = reason is current[1] is Reason.CERTIFICATE_HOLD and by == CENTRAL != current[2]
            if joins and self.wrong != "central's hold of a held certificate is not recorded":
                result = current[1]
            if at_ms < current[0] and self.wrong != "an earlier date is not recorded":
                result = current[1]
        at_ms = min(at_ms, current[0]) if current else at_ms
        effect = (Revoked(serial, 1, result.value, at_ms, by),) if result else ()
        self._together(*effect, *because)

    def release(self, serial: str, by: str, *because: Payload) -> None:
        current = self.status.get(serial)
        on_hold = current is not None and current[1] is Reason.CERTIFICATE_HOLD
        by_central = current is not None and current[2] == CENTRAL != by
        allowed = on_hold and (not by_central or self.wrong == "anyone lifts a hold")
        effect = (Released(serial, 1, by),) if allowed else ()
        self._together(*effect, *because)

    def _together(self, *payloads: Payload) -> None:
        if payloads:
            self.append(*payloads)

    def take(self, document: Document) -> None:
        """Central's document: stored, recorded, obeyed."""
        if self.fenced:
            return
        if document.version > self.applied or self.wrong == "an older document is applied":
            self.documents[document.digest] = document
            self.append(
                DesiredApplied(document.version, document.digest, 0, document.expires),
                PolicyApplied(document.policy, "central", document.digest, document.expires),
            )
        self.carry_out()

    def carry_out(self) -> None:
        for order in self.document.orders:
            if order.id not in self.done or self.wrong == "commands are done again":
                self._obey(order)

    def _obey(self, order: Order) -> None:
        done = CommandDone(order.id, "done")
        if order.reason is None:
            self.release(order.serial, CENTRAL, done)
        else:
            self.revoke(order.serial, order.reason, CENTRAL, order.at_ms, done)

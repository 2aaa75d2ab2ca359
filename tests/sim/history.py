"""One whole history of a gateway (or its clone) and central, made from a seed, with the promises checked after every step.

What may happen at any time: issue, renew, revoke, hold and release on either side, policy and quota change, the clock jumps, a
crash of either side between any two durable steps, a request or its answer is lost, cut, repeated or arrives late (also through
another worker of central), bundles are written, carried, repeated and forgotten, either side is restored from a backup, the
gateway is cloned. At the end the link is good, and both sides must agree, or the gateway must be found.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TypeAlias, TypeVar

from gateway.pki.crl import Reason
from sync import session as say
from sync.session import Action, Event, step
from sync.wire import Batch, Hello
from tests.sim.central import Central, Document
from tests.sim.gateway import Anchor, Crash, Gateway, Journal
from tests.sim.seals import ORIGIN, CheapSeal, RealSeal

#: Known mistakes, put in on purpose: each must be found.
WRONG_RULES = (
    "the overlap is trusted",
    "two workers without a lock",
    "acknowledged before durable",
    "sent before durable",
    "no nonce",
    "a nonce survives a bundle",
    "a cursor instead of central's size",
    "urgent records are dropped",
    "releases overtake",
    "anyone lifts a hold",
    "central's hold of a held certificate is not recorded",
    "an earlier date is not recorded",
    "only the edge revokes",
    "the last message wins",
    "a restored central keeps its holds",
    "successors stand",
    "an older document is applied",
    "commands are done again",
    "quota is forgotten by a crash",
    "judged by the newest policy",
    "the clock may go back",
    "no comparison with the anchor",
    "fences expire",
)
T = TypeVar("T")
HONEST, RESTORED, CLONED = "honest", "restored", "cloned"
_REASONS = (
    Reason.CERTIFICATE_HOLD,
    Reason.CERTIFICATE_HOLD,
    Reason.SUPERSEDED,
    Reason.KEY_COMPROMISE,
    Reason.PRIVILEGE_WITHDRAWN,
)
_START_MS = 1_700_000_000_000
_BATCH = 5

Message: TypeAlias = Callable[[], say.Answer | str | Document | None]


class Broken(AssertionError):
    """A promise does not hold."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a history was, for the figures."""

    kind: str
    steps: int
    records: int
    found_by: str = ""


def expect(holds: bool, promise: str) -> None:
    if not holds:
        raise Broken(promise)


class History:
    def __init__(self, seed: int, wrong: str = "", *, real: bool = False) -> None:
        self.chance = Random(seed)
        self.wrong = wrong
        self.now_ms, self.jump_ms = _START_MS, 0
        self.seal = RealSeal() if real else CheapSeal()
        self.central = Central(ORIGIN, self.seal.vkey, self.seal, self.seal.meaning, wrong)
        random = self.chance.random
        dice = random()
        self.kind = HONEST if dice < 0.6 else RESTORED if dice < 0.85 else CLONED
        self.anchored = random() < 0.5
        self.loss = (0.0, 0.1, 0.3, 0.6)[int(random() * 4)]
        self.crashes = (0.0, 0.02, 0.1)[int(random() * 3)]
        self.calm = False
        self.serials = 0
        self.starts = 0
        self.late: list[Message] = []
        self.bundles: list[list[Batch]] = []
        self.answers: list[Document] = []
        self.saved: tuple[Journal, dict[bytes, Document]] | None = None
        self.central_saved: dict[str, object] | None = None
        self.lost_records = False  # a restore dropped some
        self.confirmed = 0  # the largest receipt since central's last restore
        self.central_was_restored = False
        self.granted = self.central.document.quota
        self.steps = 0
        self.gateway = self._new(Journal(), Anchor() if self.anchored else None)
        self.clone: Gateway | None = None
        self.action: dict[int, Action | None] = {}
        self.gateway.join(self.central.document)
        self._boot(self.gateway)

    # The run.

    def run(self) -> Outcome:
        random = self.chance.random
        dice = random()
        deeds = _DEEDS if dice < 0.6 else _CARRIED if dice < 0.8 else _UNDONE
        for _ in range(12 + int(random() * 28)):
            self.steps += 1
            self.now_ms += int(random() * 60_000)
            deed = deeds[int(random() * len(deeds))]
            actor = self.clone if self.clone is not None and random() < 0.5 else self.gateway
            try:
                deed(self, actor)
            except Crash:
                self._boot(actor)
            self._check_always()
        self._settle()
        return Outcome(self.kind, self.steps, len(self.gateway.journal), self.central.convicted or self.gateway.fenced)

    def _new(self, journal: Journal, anchor: Anchor | None) -> Gateway:
        return Gateway(ORIGIN, journal, self.seal, self.seal.write, self._gateway_time, self._crash, anchor, self.wrong)

    def _gateway_time(self) -> int:
        return self.now_ms + self.jump_ms

    def _crash(self) -> None:
        if not self.calm and self.chance.random() < self.crashes:
            raise Crash

    def _boot(self, gateway: Gateway) -> None:
        while True:
            self.starts += 1
            try:
                gateway.start(f"i{self.starts}")
                break
            except Crash:
                continue
        self.action[id(gateway)] = None
        self._feed(gateway, say.Connected())

    # What happens at the gateway.

    def _issue(self, gateway: Gateway) -> None:
        if gateway.fenced:
            return
        self.serials += 1
        predecessor = ""
        if gateway.issued and self.chance.random() < 0.3:
            predecessor = self._some(list(gateway.issued))
            if predecessor in gateway.status:
                predecessor = ""
        try:
            gateway.issue(f"{self.serials:x}", predecessor)
        finally:
            self._tell(gateway)

    def _revoke_at_edge(self, gateway: Gateway) -> None:
        if gateway.fenced or not gateway.issued:
            return
        serial = self._some(list(gateway.issued))
        try:
            if gateway.status.get(serial, (0, None))[1] is Reason.CERTIFICATE_HOLD and self.chance.random() < 0.5:
                gateway.release(serial, "anna")
            else:
                gateway.revoke(serial, self._some(_REASONS), "anna", self.now_ms)
        finally:
            self._tell(gateway)

    def _crash_gateway(self, gateway: Gateway) -> None:
        if self.chance.random() < 0.3:
            if self.wrong == "sent before durable" and len(gateway.journal) > 2:
                gateway.journal = gateway.journal.copy(len(gateway.journal) - 1)
            raise Crash

    def _jump(self, gateway: Gateway) -> None:
        self.jump_ms += int((self.chance.random() - 0.5) * 7_200_000)

    def _back_up(self, gateway: Gateway) -> None:
        journal = gateway.journal
        self.saved = journal.copy(len(journal)), gateway.documents.copy()

    def _restore(self, gateway: Gateway) -> None:
        """Of the newest backup; the anchor lies elsewhere and stays."""
        if self.saved is None or self.kind != RESTORED or gateway.fenced:
            return
        journal, documents = self.saved
        if len(journal) < len(gateway.journal):
            self.lost_records = True
        gateway.journal, gateway.documents = journal.copy(len(journal)), documents.copy()
        raise Crash

    def _copy(self, gateway: Gateway) -> None:
        if self.kind != CLONED or self.clone is not None or len(gateway.journal) < 3:
            return
        source = self.gateway
        self.clone = self._new(source.journal.copy(len(source.journal)), None)
        self.clone.documents = source.documents.copy()
        self._boot(self.clone)

    # What happens at central.

    def _decide(self, gateway: Gateway) -> None:
        central = self.central
        if not central.issued:
            return
        serial = self._some(list(central.issued))
        status = central.status(serial)
        reason = (
            None if status and status[1] is Reason.CERTIFICATE_HOLD and self.chance.random() < 0.5 else self._some(_REASONS)
        )
        central.decide(serial, reason, self.now_ms)
        if reason is not None and reason is not Reason.CERTIFICATE_HOLD:
            found = central.status(serial)
            expect(found is not None and found[1] is not Reason.CERTIFICATE_HOLD, "what central revoked is revoked at once")

    def _change_policy(self, gateway: Gateway) -> None:
        document, random = self.central.document, self.chance.random
        expires = self.now_ms + int(random() * 600_000) if random() < 0.4 else 0
        quota = document.quota + int((random() - 0.3) * 8)
        self.granted = max(self.granted, quota)
        self.central.change(replace(document, policy=document.policy + 1, expires=expires, quota=max(0, quota)))

    def _back_up_central(self, gateway: Gateway) -> None:
        self.central_saved = self.central.backup()

    def _restore_central(self, gateway: Gateway) -> None:
        if self.central_saved is not None and self.chance.random() < 0.3:
            self.central.restore(self.central_saved)
            self.confirmed, self.central_was_restored = 0, True

    # What happens between them.

    def _talk(self, gateway: Gateway) -> None:
        """Some actions of the gateway, one after the other."""
        for _ in range(1 + int(self.chance.random() * 12)):
            self.steps += 1
            action = self.action[id(gateway)]
            if action is None or isinstance(action, say.Fence):
                return
            if isinstance(action, say.Wait):
                self._feed(gateway, say.Tick())
                return
            self._perform(gateway, action)
            self._crash()

    def _deliver_late(self, gateway: Gateway) -> None:
        random = self.chance.random
        if self.late:
            at = len(self.late) - 1 if random() < 0.5 else int(random() * len(self.late))
            message = self.late.pop(at) if random() < 0.7 else self.late[at]
            self.central.at_other_worker = self.wrong == "two workers without a lock"
            message()
            self.central.at_other_worker = False

    def _write_bundle(self, gateway: Gateway) -> None:
        journal, random = gateway.journal, self.chance.random
        start = gateway.state.there if random() < 0.5 else int(random() * len(journal))
        self.bundles.append([self._batch(gateway, at, "") for at in range(start, len(journal), _BATCH)])
        if random() < 0.5:
            self._read_bundle(gateway)

    def _read_bundle(self, gateway: Gateway) -> None:
        if not self.bundles:
            return
        random = self.chance.random
        batches = self.bundles[-1] if random() < 0.5 else self._some(self.bundles)
        if random() < 0.2:  # somebody changed a byte on the stick
            batches = [replace(each, records=(b"record 0", *each.records[1:])) for each in batches]
        for batch in batches[int(random() < 0.2) :]:
            self._central_takes(batch)
        self.answers.append(self.central.document)

    def _read_answer(self, gateway: Gateway) -> None:
        if self.answers:
            try:
                self._hand_document(gateway, self._some(self.answers))
            finally:
                self._tell(gateway)

    # The line.

    def _feed(self, gateway: Gateway, event: Event) -> None:
        gateway.state, action = step(gateway.state, event, self.chance.random())
        if action is None:
            return
        if self.wrong == "a cursor instead of central's size" and isinstance(action, say.SendBatch):
            gateway.cursor = max(gateway.cursor, action.start)
            action = replace(action, start=gateway.cursor)
        if isinstance(action, say.Fence | say.SendForkProof):
            gateway.fenced = action.reason
        elif isinstance(action, say.AskChallenge) and action.fence:
            gateway.fenced = action.fence
        self.action[id(gateway)] = action

    def _tell(self, gateway: Gateway) -> None:
        state, size = gateway.state, len(gateway.journal)
        if gateway.urgent > state.urgent:
            self._feed(gateway, say.UrgentRecords(size))
        elif size > state.head:
            self._feed(gateway, say.NewRecords(size))

    def _perform(self, gateway: Gateway, action: Action) -> None:
        """One action, with whatever the line does to it; its answer is fed."""
        message, understand = self._request(gateway, action)
        if understand is None:  # nothing that crosses the line
            answer = message()
        else:
            dice = 1.0 if self.calm else self.chance.random()
            if dice < self.loss:
                fate = dice / self.loss
                if fate < 0.3:  # the request is lost
                    pass
                elif fate < 0.6:  # it arrives after the gateway gave up, perhaps much later, perhaps by another worker
                    self.late.append(message)
                elif fate < 0.7 and self.wrong == "acknowledged before durable":
                    saved = self.central.backup()
                    answer = understand(message())
                    self.central.restore(saved)
                    self._feed(gateway, answer)
                    return
                else:  # the answer is lost, or cut
                    message()
                answer = say.LinkLost("lost")
            else:
                answer = understand(message())
                if not self.calm and dice > 1 - self.loss / 4:
                    self.late.append(message)  # the network repeats it
        assert isinstance(answer, say.Answer)
        self._tell(gateway)
        self._feed(gateway, answer)

    def _request(
        self, gateway: Gateway, action: Action
    ) -> tuple[Message, Callable[[say.Answer | str | Document | None], say.Answer] | None]:
        """The request as a message that can be delivered at any time and again, and how the gateway reads its answer."""
        central = self.central
        match action:
            case say.AskChallenge():
                return central.ask_challenge, _as_it_is
            case say.SendHello(nonce):
                hello = Hello(ORIGIN, nonce, gateway.incarnation, gateway.head(), gateway.applied, self.now_ms, "")
                return lambda: central.hello(hello), _as_it_is
            case say.CheckRootAt(size):
                roots = gateway.journal.roots
                own = say.OwnRoot(roots[size] if size < len(roots) else None)
                return lambda: own, None
            case say.SendUrgent(start):
                return self._urgent(gateway, start)
            case say.SendBatch(start, session):
                batch = self._batch(gateway, start, session)
                return lambda: self._central_takes(batch), lambda answer: self._read_receipt(gateway, batch, answer)
            case say.SendForkProof(size, session):
                batch = Batch(ORIGIN, session, size, gateway.head(size), ())
                return lambda: self._central_takes(batch), lambda answer: self._read_receipt(gateway, batch, answer)
            case say.FetchDesired(have):
                return lambda: central.desired(have), lambda answer: self._take_document(gateway, have, answer)
        raise AssertionError(action)

    def _batch(self, gateway: Gateway, start: int, session: str) -> Batch:
        bodies = tuple(gateway.journal.bodies[start : start + _BATCH])
        return self.seal.carry(Batch(ORIGIN, session, start, gateway.head(start + len(bodies)), bodies, gateway.applied))

    def _urgent(
        self, gateway: Gateway, start: int
    ) -> tuple[Message, Callable[[say.Answer | str | Document | None], say.Answer] | None]:
        journal, central = gateway.journal, self.central
        stop = len(journal)
        bodies = tuple(
            journal.bodies[record.seq] for record in journal.records[start:] if record.payload.kind in ("revoked", "released")
        )
        sent = say.UrgentSent(stop)
        if not bodies or self.wrong == "urgent records are dropped":
            return lambda: sent, None
        return lambda: central.urgent(bodies), lambda answer: sent

    def _central_takes(self, batch: Batch) -> say.Answer | str:
        """A batch, and what must hold of central's log after it."""
        central = self.central
        before = len(central.bodies)
        answer = central.records(batch)
        grown = central.bodies[before:]
        if grown and self.kind == HONEST:
            expect(
                self.gateway.journal.bodies[before : len(central.bodies)] == grown, "central's log is a prefix of the gateway's"
            )
        return answer

    def _read_receipt(self, gateway: Gateway, batch: Batch, answer: say.Answer | str | Document | None) -> say.Answer:
        if not isinstance(answer, str):
            assert isinstance(answer, say.Answer)
            return answer
        if not answer and not batch.stop:
            return say.Confirmed(0, self.central.document.version)
        checkpoint = self.seal.open_receipt(answer)
        self.confirmed = max(self.confirmed, checkpoint.size)
        if checkpoint != self.seal.read(batch.checkpoint, self.seal.vkey):
            return say.ResumeAt(checkpoint.size, checkpoint.root)
        self._check_urgent(gateway, batch)
        return say.Confirmed(checkpoint.size, self.central.document.version)

    def _take_document(self, gateway: Gateway, have: int, answer: say.Answer | str | Document | None) -> say.Answer:
        if not isinstance(answer, Document):
            return say.DesiredHandled(have)
        self._hand_document(gateway, answer)
        return say.DesiredHandled(answer.version)

    def _hand_document(self, gateway: Gateway, document: Document) -> None:
        before = gateway.applied
        gateway.take(document)
        expect(gateway.applied >= before, "the version of the document in force never falls")

    # The promises.

    def _check_always(self) -> None:
        central, gateway = self.central, self.gateway
        expect(len(central.bodies) == central.standing.size, "central has as many records as it says")
        expect(self.confirmed <= len(central.bodies), "no receipt says more than central has")
        if self.kind == HONEST:
            expect(not central.convicted, f"an honest gateway is never convicted: {central.convicted}")
            expect(not gateway.fenced, f"an honest gateway never fences itself: {gateway.fenced}")
            expect(not central.overspent(self.granted), "no more is issued than was granted")
        elif self.kind == RESTORED and not self.lost_records:
            expect(not central.convicted and not gateway.fenced, "a restore that lost nothing is honest")

    def _check_urgent(self, gateway: Gateway, batch: Batch) -> None:
        """Once records flow in a session, every revocation from before it is known at central."""
        if self.kind != HONEST or self.central_was_restored:
            return
        for record in gateway.journal.records[batch.stop : gateway.state.told]:
            if record.payload.kind == "revoked":
                expect(record.payload.serial in self.central.edge, "revocations overtake the backlog")  # type: ignore[union-attr]

    def _settle(self) -> None:
        """The link is good and nobody crashes: both must come to agree, or be found."""
        self.calm = True
        gateway, central = self.gateway, self.central
        if self.kind == CLONED and self.clone is not None:
            for _ in range(2):
                self._sync(gateway)
                self._sync(self.clone)
            # Where central was restored since, it has forgotten its fence; the gateway that fenced itself has not.
            forgot = self.central_was_restored and bool(gateway.fenced or self.clone.fenced)
            expect(bool(central.convicted) or forgot, "a clone is found by the second sync of each")
            expect(bool(central.standing.fenced) or forgot, "what is fenced stays fenced")
            return
        self._sync(gateway)
        if central.convicted or gateway.fenced:
            expect(self.kind == RESTORED and self.lost_records, "only what lost records is fenced")
            expect(not central.convicted or bool(central.standing.fenced), "what is fenced stays fenced")
            return
        if self.lost_records:
            expect(not self.anchored, "with an anchor every restore that lost records is found")
        self._check_agreement()
        for message in self.late:  # what still crosses the line changes nothing any more
            message()
        self._check_always()
        if self.lost_records:  # but it may tell central of a revocation that the restore took back, and commands follow from it
            self._sync(gateway)
        self._check_agreement()

    def _sync(self, gateway: Gateway) -> None:
        if isinstance(self.action[id(gateway)], say.Fence):
            return
        self._boot(gateway)
        for _ in range(400):
            action = self.action[id(gateway)]
            if action is None or isinstance(action, say.Fence):
                return
            if not isinstance(action, say.Wait):
                self._perform(gateway, action)
                continue
            state = gateway.state
            if state.phase is say.Phase.IDLE and state.have >= self.central.document.version:
                return
            self._feed(gateway, say.Tick())
        raise Broken("both sides come to an end")

    def _check_agreement(self) -> None:
        gateway, central = self.gateway, self.central
        journal = gateway.journal
        expect(central.bodies == journal.bodies, "after a sync central has every record once, in order")
        expect(central.leaves == journal.leaves and central.standing.root == journal.roots[-1], "and the same tree")
        expect(gateway.applied == central.document.version, "the newest document is in force")
        expect(not central.document.orders, "every command was carried out")
        expect(central.spent == gateway.spent, "both count the same quota")
        for serial in gateway.issued:
            known, told = gateway.status.get(serial), central.status(serial)
            # What was told ahead and lost by a restore central alone remembers: too much is revoked there, never too little.
            same = (known[:2] if known else None) == told or (self.lost_records and told is not None)
            expect(same, "both sides tell the same of a certificate")
        times = [record.time for record in journal.records]
        expect(times == sorted(times), "the journal's time never goes back")
        done = [record.payload.command for record in journal.records if record.payload.kind == "command-done"]  # type: ignore[union-attr]
        expect(len(done) == len(set(done)), "a command is carried out once")
        if self.kind == HONEST:
            expect(not central.disputed, "nothing is disputed that was in order")
            expect(all(by_line(gateway, serial) for serial in gateway.issued), "successors fall with a stolen key")

    def _some(self, choice: Sequence[T]) -> T:
        return choice[int(self.chance.random() * len(choice))]


def by_line(gateway: Gateway, serial: str) -> bool:
    """Whether the certificate is revoked if the one that it was renewed from fell for a reason that follows the line."""
    predecessor = gateway.status.get(gateway.issued[serial])
    fell = predecessor is not None and predecessor[1] in (Reason.KEY_COMPROMISE, Reason.PRIVILEGE_WITHDRAWN)
    return not fell or serial in gateway.status


def _as_it_is(answer: say.Answer | str | Document | None) -> say.Answer:
    assert isinstance(answer, say.Answer)
    return answer


_DEEDS: tuple[Callable[[History, Gateway], None], ...] = (
    *(History._issue,) * 6,
    *(History._talk,) * 8,
    *(History._revoke_at_edge,) * 3,
    *(History._decide,) * 3,
    *(History._change_policy,) * 1,
    *(History._crash_gateway,) * 2,
    *(History._deliver_late,) * 3,
    *(History._write_bundle,) * 1,
    *(History._read_bundle,) * 2,
    *(History._read_answer,) * 1,
    *(History._jump,) * 1,
    *(History._back_up,) * 1,
    *(History._restore,) * 1,
    *(History._copy,) * 2,
    *(History._back_up_central,) * 1,
    *(History._restore_central,) * 1,
)
#: Where bundles are carried beside a bad line.
_CARRIED = (
    *(History._issue,) * 4,
    *(History._talk,) * 4,
    *(History._revoke_at_edge,) * 1,
    *(History._decide,) * 1,
    *(History._crash_gateway,) * 1,
    *(History._deliver_late,) * 5,
    *(History._write_bundle,) * 4,
    *(History._read_bundle,) * 2,
    *(History._read_answer,) * 1,
)
#: Where few certificates are decided about again and again, and either side forgets.
_UNDONE = (
    *(History._issue,) * 2,
    *(History._talk,) * 8,
    *(History._revoke_at_edge,) * 4,
    *(History._decide,) * 4,
    *(History._crash_gateway,) * 1,
    *(History._deliver_late,) * 3,
    *(History._read_answer,) * 1,
    *(History._write_bundle,) * 1,
    *(History._back_up,) * 1,
    *(History._restore,) * 2,
    *(History._back_up_central,) * 2,
    *(History._restore_central,) * 3,
)

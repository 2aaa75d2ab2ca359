"""The gateway's end of the line: does what :mod:`sync.session` says, and tells it what came of it.

One task asks the machine, performs its one action and feeds back the answer; what is new, urgent or desired meanwhile is fed in
between. A second task keeps one request for the desired document waiting at central, so a change arrives at once; a third
hands over revocation lists. Nothing here decides anything about records.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway import __version__
from gateway.clock import Clock
from gateway.errors import Fenced, GatewayError, IntegrityError, JournalFailed, NotFound, Unavailable
from gateway.journal.checkpoint import open_note
from gateway.journal.journal import Journal, JournalState
from gateway.journal.records import FencedByCentral, Joined, Revoked, encode
from gateway.journal.statements import sign_statement
from sync import client as http
from sync import session as machine
from sync.client import CentralClient
from sync.orders import Orders
from sync.outbox import Outbox
from sync.receipts import Receipts
from sync.session import Action, Event, State, step
from sync.wire import BATCH_RECORDS, HELLO, URGENT, Hello, Urgent, Welcome

_log = logging.getLogger(__name__)
_URGENT_RECORDS = 500
#: How long a new record waits for others to travel with, in seconds.
_LINGER_S = 0.2
#: Between two batches of a backlog while devices enrol, in seconds. A batch costs about 4 ms of processor time, so nine tenths
#: of it are left to devices.
_YIELD_S = 0.04
#: How long a request for the desired document waits at central, in seconds.
_WAIT_S = 50


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """For the technician's page."""

    phase: str
    trouble: str
    fenced: str
    heard_ms: int  # when central answered last, by our clock; 0 for not since the start


class Link:
    """Keeps this gateway and its central alike. ``lists`` gives our revocation lists by file name. ``fenced`` says why the
    journal was fenced before the start; a closed one is not, for central still wants its records."""

    def __init__(
        self,
        journal: Journal,
        outbox: Outbox,
        orders: Orders,
        client: CentralClient,
        *,
        receipts: Receipts,
        joined: Joined,
        key: Ed25519PrivateKey,
        clock: Clock,
        lists: Callable[[], dict[str, bytes]] = dict,
        fenced: str = "",
        chance: Callable[[], float] = random.random,
        rest: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._journal, self._outbox, self._orders, self._client = journal, outbox, orders, client
        self._receipts, self._joined, self._key, self._clock = receipts, joined, key, clock
        self._lists, self._chance, self._rest = lists, chance, rest
        self._size = journal.head.size  # when the last batch was made
        self._incarnation = secrets.token_hex(16)
        self._state = State(head=journal.head.size, have=orders.version, fenced=fenced)
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._wake = asyncio.Event()
        self._urgent = False
        self._session = asyncio.Event()  # set while central listens to us
        self._handed_over: dict[str, bytes] = {}
        self._heard_ms = 0
        journal.watch(self._wake.set)

    def status(self) -> LinkStatus:
        return LinkStatus(self._state.phase.value, self._state.trouble, self._state.fenced, self._heard_ms)

    def nudge(self) -> None:
        """Try now: somebody has plugged the cable in."""
        self._put(machine.Connected())

    def urgent(self) -> None:
        """Something was revoked or released just now."""
        self._urgent = True
        self._wake.set()

    async def run(self) -> None:
        """For ever; ends only when the journal was fenced."""
        async with asyncio.TaskGroup() as tasks:
            beside = [
                tasks.create_task(self._await_documents(), name="central-documents"),
                tasks.create_task(self._hand_over_lists(), name="central-lists"),
            ]
            try:
                await self._converse()
            finally:
                for task in beside:
                    task.cancel()
                self._receipts.write(now=True)
                self._remember_place()

    async def _converse(self) -> None:
        event: Event = machine.Connected()
        under_way: asyncio.Task[None] | None = None
        try:
            while True:
                self._state, action = step(self._state, event, self._chance())
                if self._state.session:
                    self._session.set()
                else:
                    self._session.clear()
                if action is not None:
                    if under_way is not None:
                        under_way.cancel()
                    if isinstance(action, machine.Fence):
                        await self._fence(action.reason)
                        return
                    under_way = asyncio.create_task(self._do(action), name="central-request")
                event = await self._next_event()
        finally:
            if under_way is not None:
                under_way.cancel()

    async def _next_event(self) -> Event:
        """What happened, the growth of the journal before the answer that came meanwhile. While nothing is under way, new
        records wait a little for more of them, unless one is urgent."""
        idle = self._state.phase is machine.Phase.IDLE
        deadline: float | None = None
        waited = False
        while True:
            size = self._journal.head.size
            if self._urgent:
                self._urgent = False
                return machine.UrgentRecords(size)
            if size > self._state.head and (waited or not self._events.empty()):
                return machine.NewRecords(size)
            if not self._events.empty():
                return self._events.get_nowait()
            self._wake.clear()
            if idle and deadline is None and size > self._state.head:
                deadline = asyncio.get_running_loop().time() + _LINGER_S
            try:
                async with asyncio.timeout_at(deadline):
                    await self._wake.wait()
            except TimeoutError:
                waited = True

    def _put(self, event: Event) -> None:
        self._events.put_nowait(event)
        self._wake.set()

    async def _do(self, action: Action) -> None:
        """Perform one action; its answer goes to the queue."""
        try:
            event = await self._answer(action)
            if isinstance(event, machine.Nonce | Welcome | machine.Confirmed):
                self._heard_ms = self._clock.now_ms()
        except http.LinkLost as error:
            event = machine.LinkLost(str(error))
        except http.CentralBusy as error:
            event = machine.Busy(error.retry_after, str(error))
        except http.HelloNeeded:
            event = machine.SayHello()
        except http.ResumeElsewhere as error:
            event = machine.ResumeAt(error.size, error.root)
        except http.FencedByCentral as error:
            event = machine.IsFenced(str(error))
        except JournalFailed:
            return  # the gateway ends, and with it this conversation
        except Unavailable as error:
            event = machine.Busy(error.retry_after, str(error))
        except GatewayError as error:  # 422, a receipt that is not genuine, a record that was pruned: a person must look
            event = machine.Refused(str(error))
        except Exception as error:  # a mistake of ours here must not stop what devices need, nor end in silence
            _log.exception("the conversation with central met a fault of the gateway")
            event = machine.Refused(f"a fault of this gateway: {type(error).__name__}; see its log")
        self._put(event)

    async def _answer(self, action: Action) -> Event:
        match action:
            case machine.AskChallenge(fence):
                if fence:
                    await self._fence(fence)
                return machine.Nonce(await self._client.challenge())
            case machine.SendHello(nonce):
                return await self._hello(nonce)
            case machine.CheckRootAt(size, thorough):
                try:
                    return machine.OwnRoot(await self._outbox.root_at(size, from_scratch=thorough))
                except NotFound:
                    return machine.OwnRoot(None)
            case machine.SendUrgent(start):
                return await self._send_urgent(start)
            case machine.SendBatch(start, session):
                return await self._send_batch(start, session)
            case machine.SendForkProof(size, session, reason):
                await self._fence(reason)
                batch = await self._outbox.batch(size, session, self._orders.version, records=0)
                await self._client.records(batch)
                return machine.Refused("central accepted the proof of a fork")
            case machine.FetchDesired(have):
                announced = self._state.desired  # what is announced meanwhile is a request of its own
                document = await self._client.desired(have, 0)
                if document is None:
                    return machine.DesiredHandled(have)
                await self._orders.take(document, self._joined)
                return machine.DesiredHandled(max(announced, have))
            case machine.Wait(seconds):
                await asyncio.sleep(seconds)
                return machine.Tick()
            case machine.Fence(reason):
                raise Fenced(reason)

    async def _hello(self, nonce: str) -> Event:
        genesis, head = self._journal.genesis, self._journal.head
        hello = Hello(
            genesis.origin, nonce, self._incarnation, head.note, self._orders.version, self._clock.now_ms(), __version__
        )
        welcome = await self._client.hello(self._sign(HELLO, hello.to_bytes()))
        self._receipts.forget_above(welcome.size)
        if welcome.receipt:
            receipt = self._receipts.take(welcome.receipt)
            if (receipt.checkpoint.size, receipt.checkpoint.root) != (welcome.size, welcome.root):
                raise IntegrityError("central's receipt is not of the journal that it says it has")
        return welcome

    async def _send_urgent(self, start: int) -> Event:
        records: list[bytes] = []
        stop = self._journal.head.size
        async for record in self._journal.scan(Revoked, FencedByCentral, start=start):
            if len(records) == _URGENT_RECORDS:
                stop = record.seq
                break
            records.append(encode(record))
        if records:
            origin = self._journal.genesis.origin
            await self._client.urgent(self._sign(URGENT, Urgent(origin, tuple(records)).to_bytes()))
        return machine.UrgentSent(stop)

    async def _send_batch(self, start: int, session: str) -> Event:
        before, self._size = self._size, self._journal.head.size
        if self._size > before and self._size - start > BATCH_RECORDS:
            await self._rest(_YIELD_S)  # somebody enrols just now, and a backlog can wait
        batch = await self._outbox.batch(start, session, self._orders.version)
        accepted = await self._client.records(batch)
        if not accepted.receipt and not batch.stop:
            return machine.Confirmed(0, accepted.desired)
        receipt = self._receipts.take(accepted.receipt)
        if receipt.checkpoint != open_note(batch.checkpoint, self._journal.genesis.verifier_key):
            return machine.ResumeAt(receipt.checkpoint.size, receipt.checkpoint.root)
        self._outbox.confirm()
        self._receipts.write(now=not batch.records)
        if not batch.records:
            self._remember_place()
        return machine.Confirmed(receipt.checkpoint.size, accepted.desired)

    def _remember_place(self) -> None:
        try:
            self._outbox.remember()
        except OSError as error:  # it is computed anew then
            _log.warning("the place in the journal cannot be kept on disk: %s", error.strerror)

    async def _fence(self, reason: str) -> None:
        """For good: recorded, so that a restart knows it, and in force at once."""
        if self._journal.state in (JournalState.FENCED, JournalState.FAILED):
            return
        try:
            await self._journal.append(FencedByCentral(reason), urgent=True)
        finally:
            self._journal.fence(reason)

    def _sign(self, kind: str, body: bytes) -> bytes:
        name = self._journal.genesis.verifier_key.partition("+")[0]
        return sign_statement(kind, body, name, self._key)

    # Beside the conversation.

    async def _await_documents(self) -> None:
        """Keep one request waiting at central; what comes is only told, and fetched in its turn."""
        while True:
            await self._session.wait()
            have = max(self._state.have, self._state.desired)
            try:
                document = await self._client.desired(have, _WAIT_S)
            except (Unavailable, GatewayError):
                await asyncio.sleep(5 + 5 * self._chance())  # the conversation finds out what is wrong
                continue
            if document is not None:
                self._put(machine.DesiredVersion(have + 1))
                await asyncio.sleep(1)

    async def _hand_over_lists(self) -> None:
        """Central serves our revocation lists while we are out of reach."""
        while True:
            await self._session.wait()
            for name, der in self._lists().items():
                if self._handed_over.get(name) == der:
                    continue
                try:
                    await self._client.put_crl(name, der)
                except Unavailable:
                    break
                except GatewayError as error:
                    _log.warning("central does not take the list %s: %s", name, error)
                self._handed_over[name] = der
            await asyncio.sleep(5)

"""What a gateway says to central, and when: the machine behind docs/SYNC.md, "Order of a session". Pure.

:func:`step` takes the :class:`State` and one event and gives the new state and what to do next. Whoever runs it (sync/link.py)
performs that one action, feeds back its answer, and feeds :class:`NewRecords`, :class:`UrgentRecords`, :class:`DesiredVersion`
and :class:`Connected` whenever they happen; ``None`` means that the action under way goes on. Time and chance are arguments.

Nothing here is written down. After a restart the machine begins again with hello, and central's size is the position::

    PAUSED --> CHALLENGE --> HELLO --> CHECK --> URGENT | FETCH | BATCH ... --> IDLE --> (heartbeat) BATCH ...
       ^_________ no answer, busy, refused ________|                            CHECK --> PROOF --> FENCED

What it holds to, whatever is lost, repeated or late:

- one request under way, so batches never overtake each other;
- nothing is sent from a place where the own root is not central's root: another root fences the gateway, a smaller size is
  only filled again, a larger one than the own journal fences the gateway;
- urgent records go before the document, the document before the backlog;
- fenced is for good: a fenced gateway sends nothing but what makes central fence it, too.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final, TypeAlias

from sync.wire import Welcome

#: Between heartbeats while there is nothing to send, in seconds.
HEARTBEAT_S: Final = 60.0
#: Bounds of the exponential backoff, in seconds.
SHORTEST_PAUSE_S: Final = 1.0
LONGEST_PAUSE_S: Final = 300.0
#: The most that central can ask for with Retry-After, in seconds.
MOST_RETRY_AFTER_S: Final = 3600.0


# What happened. The answers first: each is what came of one action.


@dataclass(frozen=True, slots=True)
class Nonce:
    """AskChallenge: what hello has to sign."""

    nonce: str


@dataclass(frozen=True, slots=True)
class OwnRoot:
    """CheckRootAt: the root of the own journal's first records; ``None`` where it has fewer."""

    root: bytes | None


@dataclass(frozen=True, slots=True)
class UrgentSent:
    """SendUrgent: the urgent records before seq ``stop`` are at central, or there are none, which needs no request."""

    stop: int


@dataclass(frozen=True, slots=True)
class Confirmed:
    """SendBatch, SendForkProof: central's receipt is genuine and of exactly the checkpoint that was sent.

    A genuine receipt of another checkpoint is fed as :class:`ResumeAt`.
    """

    size: int
    desired: int


@dataclass(frozen=True, slots=True)
class DesiredHandled:
    """FetchDesired: the document of ``version`` was applied or refused; the version asked with, where there was none."""

    version: int


@dataclass(frozen=True, slots=True)
class ResumeAt:
    """Central ends at ``size``, elsewhere than the batch expects (409 ``resume``)."""

    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class SayHello:
    """Central knows no such session, or another nonce (409 ``hello``)."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Central says that the message is wrong (422), or it could not be made. A person must look."""

    reason: str


@dataclass(frozen=True, slots=True)
class IsFenced:
    """Central takes nothing from this journal any more (403)."""

    reason: str


@dataclass(frozen=True, slots=True)
class Busy:
    """Central asks for a pause (429, 503)."""

    retry_after_s: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class LinkLost:
    """No answer, or none that makes sense: nobody knows whether central saw the request."""

    reason: str = ""


# What happens meanwhile.


@dataclass(frozen=True, slots=True)
class Tick:
    """The seconds of Wait are over."""


@dataclass(frozen=True, slots=True)
class Connected:
    """A reason to try at once: the gateway starts, the link came up, an operator asks."""


@dataclass(frozen=True, slots=True)
class NewRecords:
    """The own journal has ``size`` records now."""

    size: int


@dataclass(frozen=True, slots=True)
class UrgentRecords:
    """The own journal has ``size`` records now, and among the new ones is a revocation, a hold or a fence."""

    size: int


@dataclass(frozen=True, slots=True)
class DesiredVersion:
    """Central has a document of this version, as seen by a request that waited."""

    version: int


Answer: TypeAlias = (
    Nonce | Welcome | OwnRoot | UrgentSent | Confirmed | DesiredHandled
    | ResumeAt | SayHello | Refused | IsFenced | Busy | LinkLost
)  # fmt: skip
Event: TypeAlias = Answer | Tick | Connected | NewRecords | UrgentRecords | DesiredVersion


# What to do. Every action but Wait and Fence has exactly one answer.


@dataclass(frozen=True, slots=True)
class AskChallenge:
    """``POST challenge``. With ``fence``, first fence the own journal for that reason, durably (again is harmless): the hello
    that follows is said for central to know."""

    fence: str = ""


@dataclass(frozen=True, slots=True)
class SendHello:
    """``POST hello`` with the journal's head as it is now."""

    nonce: str


@dataclass(frozen=True, slots=True)
class CheckRootAt:
    """Compute the own root of the first ``size`` records; ``thorough``: from the stored leaves alone, trusting no cache."""

    size: int
    thorough: bool = False


@dataclass(frozen=True, slots=True)
class SendUrgent:
    """``POST urgent`` with the urgent records from seq ``start`` on, as many as fit."""

    start: int


@dataclass(frozen=True, slots=True)
class SendBatch:
    """``POST records`` from seq ``start`` on; without any records it is the heartbeat."""

    start: int
    session: str


@dataclass(frozen=True, slots=True)
class SendForkProof:
    """First fence the own journal for ``reason``, durably (again is harmless); then ``POST records``, empty, at ``size``."""

    size: int
    session: str
    reason: str


@dataclass(frozen=True, slots=True)
class FetchDesired:
    """``GET desired`` above version ``have`` without waiting; store, apply or refuse what comes."""

    have: int


@dataclass(frozen=True, slots=True)
class Wait:
    """Feed Tick after ``seconds``, unless another event leads to an action before. Meanwhile a ``GET desired`` may wait."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Fence:
    """The end: fence the own journal for ``reason``, durably (again is harmless). Nothing is to be sent any more."""

    reason: str


Action: TypeAlias = (
    AskChallenge | SendHello | CheckRootAt | SendUrgent | SendBatch | SendForkProof | FetchDesired | Wait | Fence
)  # fmt: skip


class Phase(Enum):
    """What is under way."""

    PAUSED = "paused"
    CHALLENGE = "challenge"
    HELLO = "hello"
    CHECK = "check"
    CHECK_AGAIN = "check again"
    URGENT = "urgent"
    FETCH = "fetch"
    BATCH = "batch"
    PROOF = "proof"
    IDLE = "idle"
    FENCED = "fenced"


@dataclass(frozen=True, slots=True)
class State:
    """Begin with ``State(head, have)`` and :class:`Connected`; a journal that is fenced already also gives ``fenced``."""

    head: int  # records in the own journal
    have: int = 0  # version of the desired document that was handled last
    fenced: str = ""  # why, for good
    phase: Phase = Phase.PAUSED
    session: str = ""  # empty: hello comes first
    claim: tuple[int, bytes] | None = None  # central's size and root until the own root was found to be the same
    there: int = 0  # records that central has, by its last word
    urgent: int = 0  # before this seq there may be urgent records
    told: int = 0  # before this seq they were sent ahead
    desired: int = 0  # version at central
    failures: int = 0  # since central confirmed something
    trouble: str = ""  # what a person should know; empty while all is well

    @property
    def backlog(self) -> int:
        """How many records central does not have yet."""
        return max(0, self.head - self.there)


Result: TypeAlias = tuple[State, Action | None]

_TROUBLE: Final = (SayHello, Refused, IsFenced, Busy, LinkLost)
#: Which answers the action of each phase can get; every other pairing is a mistake of the caller.
ANSWERS: Final[dict[Phase, tuple[type[Answer], ...]]] = {
    Phase.PAUSED: (),
    Phase.CHALLENGE: (Nonce, *_TROUBLE),
    Phase.HELLO: (Welcome, *_TROUBLE),
    Phase.CHECK: (OwnRoot, *_TROUBLE),
    Phase.CHECK_AGAIN: (OwnRoot, *_TROUBLE),
    Phase.URGENT: (UrgentSent, *_TROUBLE),
    Phase.FETCH: (DesiredHandled, *_TROUBLE),
    Phase.BATCH: (Confirmed, ResumeAt, *_TROUBLE),
    Phase.PROOF: (Confirmed, ResumeAt, *_TROUBLE),
    Phase.IDLE: (),
    Phase.FENCED: (),
}
#: After a pause the session goes on here; elsewhere it begins anew.
_IN_SESSION: Final = (Phase.URGENT, Phase.FETCH, Phase.BATCH)


def step(state: State, event: Event, chance: float = 0.0) -> Result:
    """The next state and action; no action means that what is under way goes on. ``chance`` is random, 0 up to 1.

    Raises ValueError for an answer to another action than the one under way.
    """
    match event:
        case NewRecords(size):
            return _meanwhile(replace(state, head=max(state.head, size)))
        case UrgentRecords(size):
            return _meanwhile(replace(state, head=max(state.head, size), urgent=max(state.urgent, size)))
        case DesiredVersion(version):
            return _meanwhile(replace(state, desired=max(state.desired, version)))
        case Tick() | Connected():
            if state.phase is Phase.IDLE:
                return _send(state)  # the heartbeat
            return _next(state) if state.phase is Phase.PAUSED else (state, None)
    if not isinstance(event, ANSWERS[state.phase]):
        raise ValueError(f"{type(event).__name__} is no answer to what is under way: {state.phase.value}")
    if isinstance(event, IsFenced):
        return _end(state, event.reason)
    if isinstance(event, SayHello | Refused | Busy | LinkLost):
        return _troubled(state, event, chance)
    return _answered(state, event, chance)


def _meanwhile(state: State) -> Result:
    """News interrupts idleness alone: a pause after trouble lasts, and whatever is under way gets its answer."""
    if state.phase is not Phase.IDLE:
        return state, None
    after, action = _next(state)
    return (state, None) if after.phase is Phase.IDLE else (after, action)


def _next(state: State) -> Result:
    """The most urgent of what there is to do."""
    if not state.session:
        return replace(state, phase=Phase.CHALLENGE), AskChallenge(state.fenced)
    start = max(state.told, state.there)
    if state.urgent > start:
        return replace(state, phase=Phase.URGENT), SendUrgent(start)
    if state.desired > state.have:
        return replace(state, phase=Phase.FETCH), FetchDesired(state.have)
    if state.head > state.there:
        return _send(state)
    return replace(state, phase=Phase.IDLE), Wait(HEARTBEAT_S)


def _send(state: State) -> Result:
    return replace(state, phase=Phase.BATCH), SendBatch(state.there, state.session)


def _answered(state: State, event: Answer, chance: float) -> Result:
    match event:
        case Nonce(nonce):
            return replace(state, phase=Phase.HELLO), SendHello(nonce)
        case Welcome(session=session, size=size, root=root, desired=desired):
            # A restored central has lost what was sent ahead, so from its end on all urgent records go again.
            state = replace(state, session=session, urgent=max(state.urgent, state.head), told=0, desired=desired)
            return _check(state, size, root)
        case ResumeAt() if state.phase is Phase.PROOF:
            return _end(state, state.fenced)  # central forgot what the proof contradicts
        case ResumeAt(size, root):
            state = _failed(state, f"central has {size} records, other than it said before")
            if state.failures > 1:  # a central that says so each time must not be asked without end
                return _pause(replace(state, session=""), _backoff(state, chance))
            return _check(state, size, root)
        case OwnRoot(root):
            return _compare(state, root)
        case UrgentSent(stop):
            return _next(replace(state, told=max(state.told, stop)))
        case DesiredHandled(version) if version > state.have:
            return _next(replace(state, have=version))
        case DesiredHandled():  # announced and not to be had: asked for when it is announced again
            return _next(replace(state, desired=state.have))
        case Confirmed() if state.phase is Phase.PROOF:
            return _end(state, state.fenced)
        case Confirmed(size, desired):
            return _next(replace(state, there=size, desired=max(state.desired, desired), failures=0, trouble=""))
    raise AssertionError(event)  # pragma: no cover


def _check(state: State, size: int, root: bytes) -> Result:
    return replace(state, phase=Phase.CHECK, claim=(size, root)), CheckRootAt(size)


def _compare(state: State, own: bytes | None) -> Result:
    assert state.claim is not None  # noqa: S101 - set before the root was asked for
    size, root = state.claim
    if own == root:
        state = replace(state, there=size, claim=None)
        return _end(state, state.fenced) if state.fenced else _next(state)
    if own is None:
        if state.fenced:
            return _end(state, state.fenced)
        reason = f"central has {size} records, this journal has fewer: it was restored from a backup"
        return _next(replace(state, fenced=reason, session="", claim=None))
    if state.phase is Phase.CHECK:  # what is remembered may be wrong; a fence is for good
        return replace(state, phase=Phase.CHECK_AGAIN), CheckRootAt(size, thorough=True)
    reason = state.fenced or f"central has another journal of {size} records: this gateway was cloned or restored"
    return replace(state, phase=Phase.PROOF, fenced=reason), SendForkProof(size, state.session, reason)


def _troubled(state: State, event: SayHello | Refused | Busy | LinkLost, chance: float) -> Result:
    in_session = state.phase in _IN_SESSION
    reason = "central knows no such session" if isinstance(event, SayHello) else event.reason
    state = _failed(state, reason)
    match event:
        case Refused() if state.phase is Phase.PROOF:
            return _end(state, state.fenced)
        case Refused() if state.phase is Phase.URGENT:  # the records come in their place
            return _next(replace(state, told=max(state.told, state.urgent)))
        case Refused() if state.phase is Phase.FETCH:  # the stream goes on without the document
            return _next(replace(state, desired=state.have))
        case Refused():
            return _pause(replace(state, session=""), LONGEST_PAUSE_S)
        case Busy(retry_after_s):
            # Gateways that central turned away together shall not come back together.
            pause = min(max(retry_after_s, SHORTEST_PAUSE_S), MOST_RETRY_AFTER_S) * (1 + chance)
            return _pause(state if in_session else replace(state, session=""), pause)
        case SayHello() if state.failures == 1:
            return _next(replace(state, session=""))
    return _pause(replace(state, session=""), _backoff(state, chance))


def _failed(state: State, reason: str) -> State:
    return replace(state, failures=state.failures + 1, trouble=reason)


def _backoff(state: State, chance: float) -> float:
    """Full jitter: anything from the shortest pause to one that doubles with every failure."""
    most = min(LONGEST_PAUSE_S, SHORTEST_PAUSE_S * (1 << min(state.failures, 10)))
    return SHORTEST_PAUSE_S + chance * (most - SHORTEST_PAUSE_S)


def _pause(state: State, seconds: float) -> Result:
    return replace(state, phase=Phase.PAUSED), Wait(seconds)


def _end(state: State, reason: str) -> Result:
    reason = state.fenced or reason
    return replace(state, phase=Phase.FENCED, session="", fenced=reason, trouble=reason), Fence(reason)

"""What must hold for a gateway after any crash, whatever its clients were told before: one checker for every fault test.

A test collects in :class:`Told` what reached the clients, breaks the gateway, and asks :func:`invariants` for every promise
that is broken. The checker opens the state directory as the daemon does, so it also proves that the gateway starts again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from gateway import settings
from gateway.app import Gateway, opened
from gateway.authority.requests import EnrollmentRequest
from gateway.authority.requests import Issued as Answer
from gateway.config import Config
from gateway.errors import GatewayError
from gateway.journal.certificates import certificate_of
from gateway.journal.journal import JournalState
from gateway.journal.records import Intent, Issued, Payload, Revoked, Void, decode
from gateway.journal.verify import verify

#: Builds again the request that a client of this name made.
Again = Callable[[Gateway, str, "Told"], Awaitable[EnrollmentRequest]]


@dataclass(slots=True)
class Told:
    """What one life of a gateway told its clients, as far as it reached them."""

    asked: list[str] = field(default_factory=list)  # names of requests, in order
    held: dict[str, list[str]] = field(default_factory=dict)  # by request: every certificate received, DER as hex
    revoked: dict[str, str] = field(default_factory=dict)  # serial -> reason, acknowledged
    lists: list[int] = field(default_factory=list)  # CRL numbers in service
    tokens: dict[str, list[str]] = field(default_factory=dict)  # name -> user, secret
    errors: list[str] = field(default_factory=list)  # class names
    after_failure: int = 0  # certificates that left after an I/O error was seen
    hit: bool = False  # whether the fault happened
    calls: dict[str, int] = field(default_factory=dict)  # of the disk, by class
    status: int = 0  # exit status, negative for a signal

    def hear(self, line: str) -> bool:
        """Take in one line from the gateway; whether it was the last one of its life."""
        what = json.loads(line)
        if "held" in what:
            name, certificate = what["held"]
            self.held.setdefault(name, []).append(certificate)
            self.after_failure += bool({"JournalFailed", "io"} & set(self.errors))
        elif "asked" in what:
            self.asked.append(what["asked"])
        elif "revoked" in what:
            serial, reason = what["revoked"]
            self.revoked[serial] = reason
        elif "list" in what:
            self.lists.append(what["list"])
        elif "token" in what:
            name, user, secret = what["token"]
            self.tokens[name] = [user, secret]
        elif "error" in what:
            self.errors.append(what["error"])
        elif "calls" in what:
            self.calls, self.hit = what["calls"], what["hit"]
        elif "exit" in what:
            self.status = what["exit"]
        return "exit" in what

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, object]) -> Told:
        return cls(**value)  # type: ignore[arg-type]


async def invariants(config: Config, told: Told, again: Again | None = None) -> list[str]:
    """Every broken promise, in words; none is what a test wants.

    With ``again`` each request is made once more: who holds a certificate must be given the identical one, and nobody may
    end with two.
    """
    broken = [f"in what the crash left: {text}" for text in await asyncio.to_thread(_problems, config)]
    try:
        async with opened(config) as gateway:
            if gateway.journal.state not in (JournalState.OK, JournalState.WARNING):
                broken.append(f"the journal is {gateway.journal.state.value}: {gateway.journal.state_detail}")
            broken += await _records(gateway, told)
            broken += await _list(gateway, told)
            if again is not None:
                broken += await _retries(gateway, told, again)
            broken += await _accounts(gateway)
    except GatewayError as error:
        return [*broken, f"the gateway does not open: {type(error).__name__}: {error}"]
    return broken + [f"at the end: {text}" for text in await asyncio.to_thread(_problems, config)]


def _problems(config: Config) -> list[str]:
    options = settings.journal_options(config)
    anchor = options.anchor.read_bytes() if options.anchor is not None and options.anchor.exists() else None
    return [str(problem) for problem in verify(options.path, anchor=anchor, signatures=True).problems]


async def _payloads(gateway: Gateway) -> dict[int, Payload]:
    found: dict[int, Payload] = {}
    while bodies := await gateway.journal.read(len(found), 500):
        for body in bodies:
            record = decode(body)
            found[record.seq] = record.payload
    return found


async def _records(gateway: Gateway, told: Told) -> list[str]:
    """Every certificate that is held has its intent and its record, byte for byte; no serial stands for two."""
    payloads = await _payloads(gateway)
    issued = [payload for payload in payloads.values() if isinstance(payload, Issued)]
    by_digest = {payload.certificate_digest: payload for payload in issued}
    broken = []
    for name, certificates in told.held.items():
        if len(set(certificates)) > 1:
            broken.append(f"{name} was given {len(set(certificates))} different certificates")
        for encoded in set(certificates):
            der = bytes.fromhex(encoded)
            record = by_digest.get(hashlib.sha256(der).digest())
            intent = payloads.get(record.intent) if record is not None else None
            if record is None or not isinstance(intent, Intent):
                broken.append(f"{name} holds a certificate without a record")
            elif certificate_of(intent, record) != der:
                broken.append(f"{name} holds another certificate than its records make")
    serials = Counter(payload.serial for payload in payloads.values() if isinstance(payload, Intent))
    broken += [f"the serial number {serial} was planned {count} times" for serial, count in serials.items() if count > 1]
    settled = {payload.intent for payload in payloads.values() if isinstance(payload, Issued | Void)}
    left_open = [seq for seq, payload in payloads.items() if isinstance(payload, Intent) and seq not in settled]
    return broken + [f"intent {seq} is neither issued nor void" for seq in left_open]


async def _list(gateway: Gateway, told: Told) -> list[str]:
    """The next list holds every acknowledged revocation and every void, and nothing else; its number never goes back."""
    payloads = (await _payloads(gateway)).values()
    recorded = {payload.serial: payload.reason for payload in payloads if isinstance(payload, Revoked)}
    voids = {payload.serial for payload in payloads if isinstance(payload, Void)}
    await gateway.authority.publisher.publish_now()
    crl = x509.load_der_x509_crl(gateway.authority.crl("1").der)
    broken = []
    ca_key = x509.load_der_x509_certificate(gateway.authority.generations.active.certificate).public_key()
    assert isinstance(ca_key, ec.EllipticCurvePublicKey)
    if not crl.is_signature_valid(ca_key):
        broken.append("the list's signature is not the CA's")
    number = crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    if told.lists and number <= max(told.lists):
        broken.append(f"list {number} comes after list {max(told.lists)}")
    listed = {f"{entry.serial_number:x}": entry for entry in crl}
    for serial, reason in told.revoked.items():
        if recorded.get(serial) != reason:
            broken.append(f"the acknowledged revocation of {serial} is lost")
        if serial not in listed:
            broken.append(f"{serial} was revoked and is not on the list")
    broken += [f"the void {serial} is not on the list" for serial in voids - set(listed)]
    return broken + [f"{serial} is on the list without a reason" for serial in set(listed) - set(recorded) - voids]


async def _retries(gateway: Gateway, told: Told, again: Again) -> list[str]:
    """The same requests once more, as clients make them that lost the connection."""
    broken = []
    for name in dict.fromkeys(told.asked):
        before = {bytes.fromhex(certificate) for certificate in told.held.get(name, ())}
        if gateway.authority.status.find(_serial_of(before)) is not None:
            continue  # revoked, perhaps without anybody being told: what its holder is given then is another rule's test
        outcome = await gateway.authority.enroll(await again(gateway, name, told))
        if not isinstance(outcome, Answer):
            broken.append(f"the retry of {name} got {outcome}")
        elif before and outcome.certificate not in before:
            broken.append(f"the retry of {name} got another certificate")
    return broken


def _serial_of(certificates: set[bytes]) -> int:
    return next((x509.load_der_x509_certificate(der).serial_number for der in certificates), 0)


async def _accounts(gateway: Gateway) -> list[str]:
    """One certificate for one request, and quota spent exactly by what stands in the journal."""
    payloads = (await _payloads(gateway)).values()
    counts = Counter(payload.idempotency_key for payload in payloads if isinstance(payload, Issued))
    broken = [f"one request was given {count} certificates" for count in counts.values() if count > 1]
    spent: Counter[str] = Counter()
    for payload in payloads:
        if isinstance(payload, Intent | Void):
            for name in payload.quota:
                spent[name] += 1 if isinstance(payload, Intent) else -1
    tallies = Counter({name: count for name, count in gateway.journal.head.tallies.items() if count})
    if tallies != Counter({name: count for name, count in spent.items() if count}):
        broken.append(f"the journal's tallies are {dict(tallies)}, its records spent {dict(spent)}")
    for name, count in spent.items():
        if gateway.authority.ledger.spent(name) != count:
            broken.append(f"the ledger says {gateway.authority.ledger.spent(name)} of {name} are spent, the records {count}")
    return broken

"""This gateway as a member of its central's fleet: what the composition root builds, and what operators ask of it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import NameOID

from gateway.authority.authority import Authority
from gateway.authority.delegated import DelegatedIdentity, DelegatedSpec
from gateway.authority.lifecycle import Ceremony
from gateway.authority.policy import Policy
from gateway.authority.policy_tables import Table
from gateway.clock import Clock
from gateway.errors import AlreadyExists, Fenced, GatewayError, JournalFailed, NotFound, OperatorError
from gateway.journal.canonical import JsonValue
from gateway.journal.checkpoint import NoteSigner
from gateway.journal.journal import Journal, JournalState
from gateway.journal.records import Closed, FencedByCentral, Joined, OperatorAction
from gateway.keys.signer import KeySpec
from gateway.keys.software import SoftwareKeys
from gateway.keys.tls_identity import load_identity
from gateway.keys.uri import KeyUri
from gateway.pki.names import name_to_text
from gateway.pki.tbs import ca_info
from sync.admission import CLIENT_KEY, Admission, kept_answer
from sync.bundle import CRLS, DESIRED, DOWN, GOAL_OCTETS, RECEIPT, UP, BundleReader, BundleWriter
from sync.client import CentralClient, client_context
from sync.desired import Desired
from sync.document import recipient
from sync.joining import read_code
from sync.link import Link
from sync.orders import Orders, Remembered
from sync.outbox import Outbox
from sync.receipts import Receipts
from sync.retention import Pruning

_log = logging.getLogger(__name__)
#: The profile of the gateway's own certificate for talking to central.
CLIENT_PROFILE = "central-client"
_COMMON_NAME = 64
_OPERATOR = "gateway"
_TEND_S = 600
_CLOSED = "this journal was closed: "


@dataclass(frozen=True, slots=True)
class MemberOptions:
    """``directory`` keeps central's documents and receipts; ``urls`` replaces the addresses recorded at joining."""

    name: str
    ca_key: str
    directory: Path
    urls: tuple[str, ...] = ()
    retention_days: int = 0  # 0: nothing is pruned


async def stopped_for_good(journal: Journal) -> str:
    """Why this journal issues nothing any more; empty when it does."""
    reason = ""
    async for record in journal.scan(FencedByCentral, Closed):
        match record.payload:
            case FencedByCentral(why):
                reason = why
            case Closed(reason=why):
                reason = _CLOSED + why
            case _:
                pass
    return reason


class Member:
    """Wires the parts of store and forward together; answers :class:`gateway.web.central.CentralOperations`."""

    def __init__(
        self,
        options: MemberOptions,
        memory: Remembered,
        *,
        journal: Journal,
        authority: Authority,
        ceremony: Ceremony,
        keys: SoftwareKeys,
        key: Ed25519PrivateKey,
        clock: Clock,
        local: Policy,
        own: Mapping[str, Table],
        activated: Callable[[], Awaitable[None]],
    ) -> None:
        self._options, self._journal, self._authority, self._clock = options, journal, authority, clock
        self._key = key
        self._joined = memory.joined
        self._orders = Orders(
            memory,
            options.directory,
            authority=authority,
            ceremony=ceremony,
            clock=clock,
            local=local,
            own=own,
            activated=activated,
        )
        self._admission = Admission(
            journal, ceremony, keys, clock, options.directory, name=options.name, ca_key=options.ca_key, activated=activated
        )
        self._ceremony = ceremony
        self._renewal = ""
        self._link: Link | None = None
        self._receipts: Receipts | None = None
        self._ready = asyncio.Event()
        if self._joined is not None:
            self._open_receipts(self._joined)
        authority.status.watch(lambda _generation, _serial: self._link.urgent() if self._link else None)

    def _open_receipts(self, joined: Joined) -> None:
        path = self._options.directory / "receipt"
        self._receipts = Receipts(path, self._journal.genesis.verifier_key, joined.central_key)
        self._ready.set()

    def watch(self, watcher: Callable[[Desired], None]) -> None:
        """See :meth:`sync.orders.Orders.watch`."""
        self._orders.watch(watcher)

    def hand_over(self, what: str, take: Callable[[Desired], Awaitable[None]]) -> None:
        """See :meth:`sync.orders.Orders.hand_over`."""
        self._orders.hand_over(what, take)

    @property
    def central_keys(self) -> tuple[str, ...]:
        """Vkeys of the central that is obeyed; none before the gateway has joined one."""
        return (self._joined.central_key,) if self._joined is not None else ()

    async def run(self) -> None:
        """Carry out what is in force, then keep the line to central, for ever."""
        await self._ready.wait()
        assert self._joined is not None and self._receipts is not None  # noqa: S101, PT018 - that is what ready means
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._tend(), name="central-orders")
            tasks.create_task(self._keep_line(self._joined, self._receipts), name="central-line")
            pruning = Pruning(
                self._journal, self._receipts, self._orders, self._clock,
                central_key=self._joined.central_key, days=self._options.retention_days,
            )  # fmt: skip
            tasks.create_task(pruning.run(), name="central-pruning")

    async def _tend(self) -> None:
        """Try again what could not be carried out, and ask for the CA's next certificate in time."""
        while True:
            await self._orders.carry_out()
            try:
                await self._renew_ca()
                self._renewal = ""
            except JournalFailed:
                raise
            except GatewayError as error:
                self._renewal = f"the CA's next key: {error}"
            await asyncio.sleep(_TEND_S)

    async def _renew_ca(self) -> None:
        """Past two thirds of the CA's life: a new key and a request for it in the journal. Central answers in its document."""
        if self._journal.state is JournalState.FENCED:
            return  # no record could say that the key was made
        progress = await self._ceremony.status()
        newest = progress[0]
        if newest.certificate is None:
            if newest.state == "key-generated":
                await self._ceremony.csr(self._ca_name(), _OPERATOR)
            return
        certificate = ca_info(newest.certificate).certificate
        begin, end = certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()
        if self._clock.now_ms() / 1000 < begin + (end - begin) * 2 / 3:
            return
        uri = next_key(self._options.ca_key, newest.number + 1)
        await self._ceremony.renew(uri, KeySpec.P256, _OPERATOR)
        await self._ceremony.csr(self._ca_name(), _OPERATOR)
        _log.info("the CA's certificate ends soon: central is asked for the next one")

    def _ca_name(self) -> x509.Name:
        """The CA keeps its name; its generations differ by their keys."""
        return self._authority.generations.active.ca.certificate.subject

    async def _keep_line(self, joined: Joined, receipts: Receipts) -> None:
        self._authority.delegated.want([self._client_spec()])
        context = client_context(joined.root)
        present = asyncio.Event()

        def use(identity: DelegatedIdentity) -> None:
            if identity.name == CLIENT_KEY:
                load_identity(context, identity.certificate, identity.chain, identity.private_key)
                present.set()

        self._authority.delegated.watch(use)
        if (identity := self._authority.delegated.find(CLIENT_KEY)) is not None:
            use(identity)
        await present.wait()
        async with CentralClient(self._options.urls or joined.urls, context) as client:
            self._link = Link(
                self._journal, self._outbox("position"), self._orders, client, receipts=receipts,
                joined=joined, key=self._key, clock=self._clock, lists=self._lists, fenced=self._fenced(),
            )  # fmt: skip
            await self._link.run()
        await asyncio.Event().wait()  # fenced: the rest of the gateway goes on saying so

    def _client_spec(self) -> DelegatedSpec:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self._options.name[:_COMMON_NAME])])
        return DelegatedSpec(CLIENT_KEY, CLIENT_PROFILE, name)

    def _outbox(self, position: str) -> Outbox:
        name = self._journal.genesis.verifier_key.partition("+")[0]
        return Outbox(self._journal, NoteSigner(name, self._key), self._options.directory / position)

    def _lists(self) -> dict[str, bytes]:
        """Our own revocation lists as published last; not those of the CAs above, whose names begin with a letter."""
        found = {}
        for each in self._authority.publisher.health():
            if not each.name[0].isdigit():
                continue
            try:
                found[each.name] = self._authority.crl(each.name).der
            except GatewayError:  # not signed yet
                continue
        return found

    # What operators ask.

    def report(self) -> dict[str, JsonValue]:
        orders, link, size = self._orders, self._link, self._journal.head.size
        status = link.status() if link else None
        receipt = self._receipts.newest if self._receipts else None
        confirmed = receipt.checkpoint.size if receipt else 0
        refused = orders.refused
        ended = self._journal.state_detail if self._journal.state is JournalState.FENCED else ""
        return {
            "joined": self._joined is not None,
            "central": self._joined.central if self._joined else "",
            "link": status.phase if status else "not connected",
            "trouble": "; ".join(filter(None, (status.trouble if status else "", *self._trouble()))),
            "size": size,
            "confirmed": confirmed,
            "waiting": size - confirmed,
            "receipt_time": receipt.time_s * 1000 if receipt else 0,
            "heard": status.heard_ms if status else 0,
            "fenced": self._fenced(),
            "closed": ended.removeprefix(_CLOSED) if ended.startswith(_CLOSED) else "",
            "applied": orders.applied.version if orders.applied else 0,
            "expires": orders.applied.expires if orders.applied else 0,
            "refused": refused.reason if refused else "",
            "refused_version": refused.version if refused else 0,
        }

    def _fenced(self) -> str:
        """Why the journal is fenced; empty also when it was closed, which is no fault."""
        ended = self._journal.state_detail if self._journal.state is JournalState.FENCED else ""
        return "" if ended.startswith(_CLOSED) else ended

    def nudge(self) -> None:
        """See :meth:`sync.link.Link.nudge`; nothing to do before there is a line."""
        if self._link is not None:
            self._link.nudge()

    def _trouble(self) -> list[str]:
        return [f"{what}: {why}" for what, why in self._orders.trouble.items()] + ([self._renewal] if self._renewal else [])

    async def join(self, url: str, code: str, subject: str, operator: str) -> dict[str, JsonValue]:
        joined, answer = await self._admission.over_network(url, code, subject, operator)
        return await self._begin(joined, answer.certificate, answer.desired)

    async def join_request(self, code: str, subject: str, operator: str) -> bytes:
        return await self._admission.request(read_code(code), subject, operator)

    async def join_answer(self, answer: bytes, code: str, operator: str) -> dict[str, JsonValue]:
        joined, opened = await self._admission.take(answer, read_code(code), operator)
        return await self._begin(joined, opened.certificate, opened.desired)

    async def _begin(self, joined: Joined, certificate: bytes, document: bytes) -> dict[str, JsonValue]:
        self._joined = joined
        await self._orders.take(document, joined)
        self._open_receipts(joined)
        ca = ca_info(certificate)
        return {
            "central": joined.central,
            "subject": name_to_text(ca.certificate.subject),
            "not_after": ca.not_after_ms,
            "applied": self._orders.applied.version if self._orders.applied else 0,
        }

    async def export_bundle(
        self, target: Path, *, since: int | None, plain: bool = False, operator: str
    ) -> dict[str, JsonValue]:
        """Everything that central has not confirmed, up to :data:`sync.bundle.GOAL_OCTETS`; a next one goes on from there.

        For central's eyes alone where its certificate for bundles is known, unless ``plain``.
        """
        if self._receipts is None:
            raise NotFound("this gateway has not joined a central: there is nobody to carry a bundle to")
        start = since if since is not None else self._receipts.size
        outbox, writer = self._outbox("export-position"), BundleWriter()
        size = outbox.size
        stop = start = min(start, size)
        while stop < size and writer.octets < GOAL_OCTETS:
            batch = await outbox.batch(stop, "", self._orders.version)
            await asyncio.to_thread(writer.add_batch, batch)
            stop = batch.stop
        if stop == start:  # at least the place, so that central can answer with its document
            writer.add_batch(await outbox.batch(start, "", self._orders.version, records=0))
        for name, der in self._lists().items():
            writer.add(CRLS + name, der)
        genesis = self._journal.genesis
        facts: dict[str, JsonValue] = {
            "origin": genesis.origin, "start": start, "stop": stop, "size": size, "made": self._clock.now_ms(),
        }  # fmt: skip
        reader = None if plain else self._recipient()
        key_name = genesis.verifier_key.partition("+")[0]
        content = await asyncio.to_thread(writer.finish, UP, facts, key_name, self._key, reader)
        await asyncio.to_thread(_write_new, target, content)
        await self._note("bundle-exported", operator, f"{target}: {start} to {stop}")
        return {
            "target": str(target), "start": start, "stop": stop, "left": size - stop, "octets": len(content),
            "encrypted": reader is not None,
        }  # fmt: skip

    def _recipient(self) -> bytes | None:
        """Central's certificate for bundles (DER): as the document in force says, before the first one as the join's answer."""
        if self._orders.desired is not None:
            pem = self._orders.desired.bundle_certificate
        else:
            answer = kept_answer(self._options.directory, self._joined) if self._joined is not None else None
            pem = answer.bundle_certificate if answer is not None else ""
        return recipient(pem) if pem else None

    async def import_bundle(self, source: Path, *, operator: str) -> dict[str, JsonValue]:
        """Central's answer to a bundle. Raises IntegrityError for one that is not central's, or not for this gateway."""
        if self._joined is None or self._receipts is None:
            raise NotFound("this gateway has not joined a central")
        try:
            reader = BundleReader(await asyncio.to_thread(source.read_bytes))
        except OSError as error:
            raise OperatorError(f"{source} cannot be read: {error.strerror}") from error
        manifest = reader.verified(DOWN, self._joined.central_key)
        genesis = self._journal.genesis
        if manifest.origin != genesis.origin:
            raise NotFound(f"this bundle is for {manifest.origin[:100]!r}, not for {genesis.origin}")
        if note := reader.entry(RECEIPT):
            self._receipts.take(note.decode(errors="replace"))
            self._receipts.write(now=True)
        await self._note("bundle-imported", operator, str(source))
        if document := reader.entry(DESIRED):
            await self._orders.take(document, self._joined)
        return {"confirmed": self._receipts.size, "applied": self._orders.applied.version if self._orders.applied else 0}

    async def _note(self, action: str, operator: str, detail: str) -> None:
        with suppress(Fenced):  # what a fenced gateway still has can be carried away all the same
            await self._journal.append(OperatorAction(action, operator, detail), urgent=True)

    async def close_journal(self, reason: str, operator: str) -> dict[str, JsonValue]:
        head = self._journal.head
        closed = Closed(head.size, head.root, reason, operator)
        await self._journal.append(closed, urgent=True)
        if self._link is not None:
            self._link.nudge()
        self._journal.fence(_CLOSED + reason)
        return {"size": self._journal.head.size, "root": head.root.hex()}


def _write_new(target: Path, content: bytes) -> None:
    try:
        with target.open("xb") as file:
            file.write(content)
    except FileExistsError:
        raise AlreadyExists(f"{target} exists already") from None
    except OSError as error:
        raise OperatorError(f"{target} cannot be written: {error.strerror}") from error


def next_key(uri: str, generation: int) -> str:
    """Where the key of a CA generation goes: beside the configured one, its name with the generation's number."""
    if uri.startswith("software:"):
        return f"{uri}-{generation}"
    parsed = KeyUri.parse(uri)
    return replace(parsed, object=f"{parsed.object}-{generation}").format()

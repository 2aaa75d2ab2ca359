"""What endpoints see of the authority: the parts wired together, and no logic.

:meth:`Authority.open` rebuilds every part from the journal; :meth:`Authority.run` keeps lists and delegated certificates fresh
until it is cancelled. To read what happens to a request, open :mod:`gateway.authority.issue`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gateway.authority.approvals import KEEP_MS, Approvals
from gateway.authority.blocked_keys import BlockedKeys
from gateway.authority.credentials import Authenticator
from gateway.authority.crl import CrlOptions, CrlPublisher
from gateway.authority.delegated import DelegatedIdentity, DelegatedKeys, DelegatedSpec
from gateway.authority.generations import Generations, SignerSource
from gateway.authority.inforce import PolicyInForce
from gateway.authority.issue import Issuer
from gateway.authority.lanes import Lanes
from gateway.authority.makers import Maker, Makers
from gateway.authority.ocsp import TRY_LATER, OcspAnswer, OcspOptions, OcspResponder
from gateway.authority.parents import PublishedCrl
from gateway.authority.policy import Policy, ProfileRule
from gateway.authority.quota import Ledger
from gateway.authority.requests import EnrollmentRequest, Lane, Outcome, Refused
from gateway.authority.revoke import Revoker
from gateway.authority.status import RevocationStatus
from gateway.authority.tokens import Tokens
from gateway.clock import Clock
from gateway.journal.journal import Journal, JournalState
from gateway.keys.pool import KeyPool
from gateway.keys.software import SoftwareKeys
from gateway.pki.names import name_from_text

_log = logging.getLogger(__name__)
#: Name of the delegated identity that TLS servers present, and the start of those that sign OCSP answers.
TLS_IDENTITY, _OCSP_PREFIX = "tls", "ocsp-"
_ERASE_INTERVAL_S = 600
#: How long a new revocation list of a maker or a newly blocked key may go unnoticed.
_REREAD_INTERVAL_S = 10
DEFAULT_LANES = {Lane.LINE: 256, Lane.RENEWAL: 512, Lane.BULK: 256}


@dataclass(frozen=True, slots=True)
class AuthorityOptions:
    """``delegated`` is where delegated certificates are cached; ``makers`` are those whose IDevIDs are accepted.

    ``blocked_keys`` is a file with keys that get no certificate, beside those that the policy blocks.
    """

    delegated: Path
    crl: CrlOptions
    ocsp: OcspOptions = field(default_factory=OcspOptions)
    lanes: Mapping[Lane, int] = field(default_factory=lambda: DEFAULT_LANES)
    makers: tuple[Maker, ...] = ()
    blocked_keys: Path | None = None
    policy_source: str = "file"


@dataclass(frozen=True, slots=True, eq=False)
class Authority:
    """The parts, each usable by itself; the methods are what most endpoints need."""

    journal: Journal
    generations: Generations
    status: RevocationStatus
    policy: PolicyInForce
    ledger: Ledger
    tokens: Tokens
    approvals: Approvals
    lanes: Lanes
    issuer: Issuer
    authenticator: Authenticator
    revoker: Revoker
    publisher: CrlPublisher
    delegated: DelegatedKeys
    responder: OcspResponder
    pool: KeyPool
    clock: Clock
    makers: Makers
    blocked: BlockedKeys

    @classmethod
    async def open(
        cls,
        options: AuthorityOptions,
        *,
        journal: Journal,
        keyring: SignerSource,
        keys: SoftwareKeys,
        pool: KeyPool,
        policy: Policy,
        clock: Clock,
    ) -> Authority:
        """Rebuild everything from the journal. ``keys`` makes the delegated keys. Raises ConfigError, IntegrityError."""
        generations = await Generations.load(journal, keyring)
        status = await RevocationStatus.load(journal)
        ledger = Ledger(journal.head.tallies)
        in_force = await PolicyInForce.load(policy, options.policy_source, journal=journal, ledger=ledger)
        tokens = await Tokens.load(journal, ledger, in_force, clock)
        approvals = await Approvals.load(journal, clock)
        lanes = Lanes(options.lanes)
        publisher = CrlPublisher(generations=generations, status=status, journal=journal, clock=clock, options=options.crl)
        await publisher.load()
        issuer = Issuer(
            journal=journal,
            generations=generations,
            status=status,
            policy=in_force,
            ledger=ledger,
            approvals=approvals,
            lanes=lanes,
            clock=clock,
            publication=publisher.publication_for,
        )
        makers = Makers(options.makers)
        await makers.refresh()
        blocked = BlockedKeys(options.blocked_keys, in_force)
        await blocked.load()
        authenticator = Authenticator(
            journal=journal,
            generations=generations,
            status=status,
            policy=in_force,
            tokens=tokens,
            clock=clock,
            makers=makers,
        )
        delegated = DelegatedKeys(
            keys=keys, directory=options.delegated, journal=journal, status=status, clock=clock, enroll=issuer.enroll
        )

        def responder_of(generation: int) -> DelegatedIdentity | None:
            return delegated.find(f"{_OCSP_PREFIX}{generation}")

        responder = OcspResponder(
            generations=generations, status=status, journal=journal, clock=clock, responder=responder_of, options=options.ocsp
        )
        revoker = Revoker(journal, status, clock)
        authority = cls(
            journal, generations, status, in_force, ledger, tokens, approvals, lanes, issuer, authenticator, revoker,
            publisher, delegated, responder, pool, clock, makers, blocked,
        )  # fmt: skip
        authority._want_responders()
        return authority

    async def run(self) -> None:
        """Keep revocation lists and delegated certificates fresh, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.publisher.run(), name="crl-publisher")
            tasks.create_task(self.delegated.run(), name="delegated-keys")
            tasks.create_task(self._erase_delivered_keys(), name="delivered-keys")
            tasks.create_task(self._reread_files(), name="files")

    async def _erase_delivered_keys(self) -> None:
        while True:
            await self.erase_delivered_keys()
            await asyncio.sleep(_ERASE_INTERVAL_S)

    async def _reread_files(self) -> None:
        while True:
            await asyncio.sleep(_REREAD_INTERVAL_S)
            await self.reread_files()

    async def reread_files(self) -> None:
        """Take up what changed in the makers' revocation lists and in the file of blocked keys."""
        await self.makers.refresh()
        await self.blocked.refresh()

    async def erase_delivered_keys(self) -> None:
        """Destroy server-side keys once no retry can ask for them again; where a person must approve, that takes longer."""
        rules = self.policy.current.rules.values()
        age_ms = max(rule.retry_window_s * 1000 + (KEEP_MS if rule.approval else 0) for rule in rules)
        try:
            await self.pool.erase_older_than(age_ms)
        except OSError as error:  # a key kept for longer than need be is no reason to stop serving
            _log.warning("delivered keys could not be erased: %s", error)

    async def refresh_generations(self) -> None:
        """Take up a CA that was activated beside the running gateway."""
        if await self.generations.refresh():
            self._want_responders()

    def _want_responders(self) -> None:
        self.delegated.want(
            DelegatedSpec(
                f"{_OCSP_PREFIX}{generation.number}",
                "ocsp-responder",
                name_from_text(f"CN=OCSP responder {generation.number}"),
                generation=generation.number,
            )
            for generation in self.generations.all
            if generation.ca.not_after_ms > self.clock.now_ms()
        )

    async def enroll(self, request: EnrollmentRequest) -> Outcome:
        """See :meth:`gateway.authority.issue.Issuer.enroll`."""
        return await self.issuer.enroll(request)

    async def screen(self, request: EnrollmentRequest) -> Refused | None:
        """See :meth:`gateway.authority.issue.Issuer.screen`."""
        return await self.issuer.screen(request)

    def rule(self, profile: str) -> ProfileRule:
        """The rule in force for ``profile``. Raises NotFound."""
        return self.policy.current.rule(profile)

    def ca_certificates(self) -> tuple[bytes, ...]:
        """The issuing CA's certificate, its chain, then older generations with theirs; each once. Empty before activation."""
        found: dict[bytes, None] = {}
        for generation in self.generations.all:
            found |= dict.fromkeys((generation.certificate, *generation.chain))
        return tuple(found)

    def crl(self, name: str) -> PublishedCrl:
        """The list whose file name is ``name``.crl. Raises NotFound, NotReady."""
        return self.publisher.get(name if name.endswith(".crl") else f"{name}.crl")

    async def ocsp(self, request_der: bytes) -> OcspAnswer:
        """The answer to any bytes; never raises for bad input. A fenced journal may lack revocations: "try later"."""
        return OcspAnswer(TRY_LATER) if self._is_fenced() else await self.responder.answer(request_der)

    def ocsp_at_hand(self, request_der: bytes) -> OcspAnswer | None:
        """The pre-signed answer that :meth:`ocsp` would give now, where nothing has to be made or awaited."""
        return None if self._is_fenced() else self.responder.at_hand(request_der)

    def _is_fenced(self) -> bool:
        return self.journal.state is JournalState.FENCED

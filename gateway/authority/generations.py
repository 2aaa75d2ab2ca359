"""The generations of this gateway's CA: one issues, all answer for what they issued.

The journal's ``ca-activated`` records are the only truth; there is no second file that could disagree. A generation's signer
is opened with the public key of its certificate, so a token that is away at start-up only makes that signer report itself
down: revocation lists and answers made earlier go on being served.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Protocol, cast

from gateway.errors import ConfigError, IntegrityError, NotFound, NotReady
from gateway.journal.records import CaActivated, Payload, Record
from gateway.keys.absent import AbsentSigner
from gateway.keys.signer import Signer
from gateway.pki.algorithms import PublicKey
from gateway.pki.tbs import CaInfo, ca_info

_log = logging.getLogger(__name__)


class ActivationSource(Protocol):
    """What is read of the journal: the records of some kinds, by sequence number."""

    def scan(self, *kinds: type[Payload]) -> AsyncIterator[Record]: ...


class SignerSource(Protocol):
    """What is needed of the key ring. ``expected`` stands in for the key of a token that is away."""

    async def open(self, uri: str, expected: PublicKey | None = None) -> Signer: ...


@dataclass(frozen=True, slots=True, eq=False)
class CaGeneration:
    """One activated CA key. ``chain`` begins with the issuer of ``certificate`` and ends with the root; all are DER."""

    number: int
    ca: CaInfo
    certificate: bytes
    chain: tuple[bytes, ...]
    signer: Signer
    demo: bool


class Generations:
    """All activated generations; the one with the highest number issues."""

    def __init__(self, journal: ActivationSource, keyring: SignerSource) -> None:
        self._journal = journal
        self._keyring = keyring
        self._by_number: dict[int, CaGeneration] = {}
        self._all: tuple[CaGeneration, ...] = ()
        self._refreshing = asyncio.Lock()
        self._watchers: list[Callable[[], None]] = []

    @classmethod
    async def load(cls, journal: ActivationSource, keyring: SignerSource) -> Generations:
        """Read every activation and open every key; one that is lost reports itself down."""
        generations = cls(journal, keyring)
        await generations.refresh()
        return generations

    async def refresh(self) -> tuple[CaGeneration, ...]:
        """Take up what was activated since (``ca import`` beside a running gateway); returns the new ones."""
        added = []
        async with self._refreshing:
            async for record in self._journal.scan(CaActivated):
                activated = cast(CaActivated, record.payload)
                if activated.generation in self._by_number:
                    continue
                ca = ca_info(activated.certificate)
                # ca_info has checked that the key is one that can sign here.
                signer = await self._signer(activated, cast(PublicKey, ca.certificate.public_key()))
                generation = CaGeneration(
                    activated.generation, ca, activated.certificate, activated.chain, signer, activated.demo
                )
                self._by_number[generation.number] = generation
                added.append(generation)
            self._all = tuple(self._by_number[number] for number in sorted(self._by_number, reverse=True))
        if added:
            for watcher in self._watchers:
                watcher()
        return tuple(added)

    async def _signer(self, activated: CaActivated, public_key: PublicKey) -> Signer:
        """One key that is lost must not keep the other generations, and the status of its own certificates, from service."""
        try:
            return await self._keyring.open(activated.uri, public_key)
        except (NotFound, IntegrityError, ConfigError) as error:
            _log.error("the key of CA generation %d cannot be opened: %s", activated.generation, error)
            return AbsentSigner(activated.uri, public_key, str(error))

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call ``watcher`` after every :meth:`refresh` that found a new generation."""
        self._watchers.append(watcher)

    @property
    def active(self) -> CaGeneration:
        """The generation that issues. Raises NotReady while none was activated."""
        if not self._all:
            raise NotReady("this gateway has no active CA yet", retry_after=60)
        return self._all[0]

    @property
    def all(self) -> tuple[CaGeneration, ...]:
        """Every generation, the issuing one first."""
        return self._all

    def get(self, number: int) -> CaGeneration | None:
        return self._by_number.get(number)

    def by_key_identifier(self, key_identifier: bytes) -> CaGeneration | None:
        """The generation whose subjectKeyIdentifier this is: it stands in what it issued as authorityKeyIdentifier."""
        for generation in self._all:
            if generation.ca.key_identifier == key_identifier:
                return generation
        return None

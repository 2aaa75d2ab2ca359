"""The policy in force: one value, replaced as a whole, journalled before it applies, never by an older version."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from gateway.authority.policy import Policy
from gateway.authority.quota import Ledger, profile_quota
from gateway.errors import ConfigError, Fenced
from gateway.journal.records import Payload, PolicyApplied, Record

_log = logging.getLogger(__name__)


class PolicyJournal(Protocol):
    """What is needed of the journal."""

    async def append(self, *payloads: Payload, urgent: bool = False) -> tuple[Record, ...]: ...

    def scan(self, *kinds: type[Payload]) -> AsyncIterator[Record]: ...


class PolicyInForce:
    """Whoever needs the policy asks for :attr:`current` once per request, so that one request sees one version."""

    def __init__(self, policy: Policy, ledger: Ledger, source: str = "file") -> None:
        self._ledger = ledger
        self._blocked: frozenset[bytes] = frozenset()
        self._policy = self._current = policy
        self._source = source
        self._take(policy)

    @classmethod
    async def load(cls, policy: Policy, source: str, *, journal: PolicyJournal, ledger: Ledger) -> PolicyInForce:
        """Begin with ``policy`` from ``source`` ("file" or "central"); recorded unless the last record says just that.

        Raises ConfigError when the journal has seen a higher version from the same source.
        """
        last: PolicyApplied | None = None
        async for record in journal.scan(PolicyApplied):
            if isinstance(record.payload, PolicyApplied) and record.payload.source == source:
                last = record.payload
        if last is not None and last.version > policy.version:
            raise ConfigError(f"policy.version {policy.version} is older than version {last.version}, once in force here")
        if last is None or (last.version, last.digest, last.expires) != (policy.version, policy.digest, policy.expires_ms):
            try:
                await journal.append(_record(policy, source), urgent=True)  # on a full disk, revoking must begin all the same
            except Fenced:
                _log.warning("version %d of the policy cannot be recorded: the journal is fenced", policy.version)
        return cls(policy, ledger, source)

    @property
    def current(self) -> Policy:
        return self._current

    def block(self, keys: frozenset[bytes]) -> None:
        """Block these keys (SHA-256 of SubjectPublicKeyInfos), and no others, beside those of whatever policy is in force."""
        self._blocked = keys
        self._current = self._with_blocked(self._policy)

    async def replace(self, policy: Policy, source: str, *, journal: PolicyJournal, because: Sequence[Payload] = ()) -> None:
        """Put ``policy`` in force once its record is durable, in one transaction with ``because``.

        Raises ConfigError for a version older than the one in force from the same source.
        """
        self._refuse_older(policy, source)
        await journal.append(*because, _record(policy, source), urgent=True)
        self._refuse_older(policy, source)  # another one may have been recorded meanwhile
        self._source = source
        self._take(policy)

    def _refuse_older(self, policy: Policy, source: str) -> None:
        if source == self._source and policy.version < self._current.version:
            raise ConfigError(f"version {policy.version} of the policy is older than version {self._current.version} in force")

    def _take(self, policy: Policy) -> None:
        for name in self._current.rules:
            self._ledger.limit(profile_quota(name), None)
        for name, rule in policy.rules.items():
            self._ledger.limit(profile_quota(name), rule.quota)
        self._policy, self._current = policy, self._with_blocked(policy)

    def _with_blocked(self, policy: Policy) -> Policy:
        return dataclasses.replace(policy, blocked_keys=policy.blocked_keys | self._blocked) if self._blocked else policy


def _record(policy: Policy, source: str) -> PolicyApplied:
    return PolicyApplied(policy.version, source, policy.digest, policy.expires_ms)

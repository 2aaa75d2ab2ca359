"""Obeying central: the signed document that comes down, and what a gateway does with it. Pure.

Central composes a :class:`Desired` and signs it with :func:`sign_desired`; the gateway asks :func:`judge` what to do with the
bytes that arrived, and :func:`policy_of` for the policy in them. The document's parts are :mod:`sync.document`'s matter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.authority.policy import ClockDoubt, Policy
from gateway.authority.policy_tables import Table, policy_from_tables
from gateway.errors import ConfigError, GatewayError, MalformedRequest
from gateway.journal.statements import open_statement, sign_statement, to_json
from sync.document import CaCertificate, Command, Desired, PolicyPart, ReleaseCommand, RevokeCommand, hex_of, policy_to_json
from sync.wire import MOST_STATEMENT_OCTETS

__all__ = [
    "Apply",
    "CaCertificate",
    "Command",
    "Desired",
    "InForce",
    "NothingNew",
    "PolicyPart",
    "RefuseDocument",
    "ReleaseCommand",
    "RevokeCommand",
    "Verdict",
    "judge",
    "open_desired",
    "policy_of",
    "sign_desired",
]

DESIRED: Final = "desired"


def policy_of(desired: Desired, local: Policy, own: Mapping[str, Table] | None = None) -> Policy:
    """The policy that ``desired`` puts in force over the ``local`` file's.

    Quotas, blocked keys and the end of the document also bind the local file's profiles where the document brings none of its
    own. ``own`` are the tables of the profiles for the gateway's own certificates, which no document may change. Raises
    ConfigError naming the key.
    """
    part, own = desired.policy, own or {}
    if part is None:
        base = local
    else:
        for name in part.profiles:
            if name in own:
                raise ConfigError(f"profile.{name} is for the gateway's own certificates and cannot be changed by central")
        base = policy_from_tables(
            {**own, **part.profiles},
            b"",
            part.version,
            files=desired.allow_lists,
            clock_doubt=ClockDoubt(part.clock_doubt),
            clock_tolerance_ms=part.clock_tolerance_s * 1000,
        )
        for profile in (part.default_profile, *part.labels.values()):
            if profile and profile not in base.rules:
                raise ConfigError(f"policy: a label leads to profile {profile!r}, which there is not")
    rules = dict(base.rules)
    for name, quota in desired.quotas.items():
        if name not in rules:
            raise ConfigError(f"quotas: there is no profile {name!r}")
        rules[name] = replace(rules[name], quota=quota)
    return replace(
        base,
        rules=rules,
        digest=_policy_digest(desired, local),
        expires_ms=desired.expires,
        blocked_keys=base.blocked_keys | desired.blocked_keys,
    )


def _policy_digest(desired: Desired, local: Policy) -> bytes:
    """SHA-256 of everything that the policy is made of."""
    part = policy_to_json(desired.policy) if desired.policy else local.digest.hex()
    return hashlib.sha256(
        to_json([part, dict(desired.allow_lists), dict(desired.quotas), hex_of(desired.blocked_keys)])
    ).digest()


# Signed.


def sign_desired(desired: Desired, key_name: str, key: Ed25519PrivateKey) -> bytes:
    """The document as it travels."""
    return sign_statement(DESIRED, desired.to_bytes(), key_name, key)


def open_desired(document: bytes, central_key: str) -> Desired:
    """What stands in ``document``. Raises IntegrityError unless the key of the vkey signed it, and MalformedRequest."""
    if len(document) > MOST_STATEMENT_OCTETS:
        raise MalformedRequest(f"a document has at most {MOST_STATEMENT_OCTETS} octets")
    return Desired.from_bytes(open_statement(DESIRED, document, central_key))


@dataclass(frozen=True, slots=True)
class InForce:
    """Whose documents the gateway obeys, and the one it applied last. ``digest`` is SHA-256 of the signed document."""

    central_key: str  # vkey
    version: int = 0
    digest: bytes = b""


@dataclass(frozen=True, slots=True)
class Apply:
    """Store it under ``digest``, record ``desired-applied``, put ``policy`` in force; then run the commands."""

    desired: Desired
    digest: bytes
    policy: Policy


@dataclass(frozen=True, slots=True)
class NothingNew:
    """The document in force, again."""


@dataclass(frozen=True, slots=True)
class RefuseDocument:
    """What is in force stays. ``version`` is 0 where central did not sign it: then nobody knows its version."""

    reason: str
    digest: bytes
    version: int = 0


Verdict: TypeAlias = Apply | NothingNew | RefuseDocument


def judge(
    current: InForce, document: bytes, origin: str, now_ms: int, *, local: Policy, own: Mapping[str, Table] | None = None
) -> Verdict:
    """What the gateway ``origin`` does with ``document``. ``local`` and ``own`` as for :func:`policy_of`."""
    digest = hashlib.sha256(document).digest()
    if digest == current.digest:
        return NothingNew()
    version = 0
    try:
        desired = open_desired(document, current.central_key)
        version = desired.version
        if desired.origin != origin:
            return RefuseDocument(f"the document is for {desired.origin[:100]!r}, not for {origin}", digest)
        if version < current.version:
            return RefuseDocument(f"version {version} is older than version {current.version} in force", digest, version)
        if version == current.version:
            return RefuseDocument(f"version {version} is in force already, with another content", digest, version)
        if desired.expires and now_ms >= desired.expires:
            return RefuseDocument(f"version {version} has expired; central must make a new one", digest, version)
        desired.check()
        return Apply(desired, digest, policy_of(desired, local, own))
    except GatewayError as error:
        return RefuseDocument(str(error), digest, version)

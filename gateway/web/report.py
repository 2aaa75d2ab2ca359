"""The state of the whole gateway as one JSON object: what ``status``, ``doctor`` and the technician's page are made of.

Only facts; what is wrong about them and what to do is said elsewhere. Times are UTC milliseconds.
"""

from __future__ import annotations

from gateway import __version__
from gateway.authority.approvals import ApprovalState
from gateway.authority.authority import Authority
from gateway.authority.lifecycle import Ceremony, GenerationStatus
from gateway.clock import MonotonicClock
from gateway.journal.anchoring import AnchorStatus
from gateway.journal.canonical import JsonValue
from gateway.journal.disk import used_fraction
from gateway.journal.journal import Journal
from gateway.keys.signer import Signer
from gateway.pki.names import name_to_text
from gateway.pki.tbs import ca_info


async def report(
    clock: MonotonicClock, journal: Journal, authority: Authority, ceremony: Ceremony, *, central: JsonValue, line: JsonValue
) -> dict[str, JsonValue]:
    """The report as it is now. ``central`` and ``line`` are what store and forward and the production line say."""
    signers = {each.number: each.signer for each in authority.generations.all}
    return {
        "version": __version__,
        "now": clock.now_ms(),
        "clock_behind": clock.behind_ms(),
        "journal": _journal(journal),
        "generations": [_generation(each, signers.get(each.number)) for each in await ceremony.status()],
        "crls": [
            {
                "name": each.name,
                "number": each.number,
                "next_update": each.next_update_ms,
                "entries": each.entries,
                "failure": each.failure,
                "degraded": each.degraded,
            }
            for each in authority.publisher.health()
        ],
        "maker_crls": [
            {"maker": maker, "name": name, "next_update": until_ms, "failure": failure, "degraded": degraded}
            for maker, name, until_ms, failure, degraded in authority.makers.health(clock.now_ms())
        ],
        "blocked_keys_failure": authority.blocked.failure,
        "delegated_failures": dict(authority.delegated.failures()),
        "waiting": sum(each.state is ApprovalState.WAITING for each in authority.approvals.list()),
        "tokens": sum(not each.revoked and each.remaining > 0 for each in authority.tokens.list()),
        "in_the_making": authority.issuer.in_the_making,
        "pool": {spec.value: [ready, wanted] for spec, (ready, wanted) in authority.pool.level().items()},
        "policy_version": authority.policy.current.version,
        "central": central,
        "line": line,
    }


def _journal(journal: Journal) -> dict[str, JsonValue]:
    return {
        "origin": journal.genesis.origin,
        "verifier_key": journal.genesis.verifier_key,
        "state": journal.state.value,
        "detail": journal.state_detail,
        "size": journal.head.size,
        "root": journal.head.root.hex(),
        "checkpoint": journal.head.note,
        "anchor": _anchor(journal.anchor),
        "disk_used_percent": round(used_fraction(journal.options.path.parent) * 100),
    }


def _anchor(status: AnchorStatus | None) -> JsonValue:
    if status is None:
        return None
    return {"name": status.name, "records": status.records, "written": status.written_ms, "trouble": status.trouble}


def _generation(status: GenerationStatus, signer: Signer | None) -> JsonValue:
    health = signer.health() if signer is not None else None
    subject = name_to_text(ca_info(status.certificate).certificate.subject) if status.certificate is not None else ""
    return {
        "number": status.number,
        "state": status.state,
        "subject": subject,
        "not_after": status.not_after_ms,
        "demo": status.demo,
        "uri": status.uri,
        "key": health.state.value if health is not None else "",
        "key_detail": health.detail if health is not None else "",
        "operations": health.operations if health is not None else 0,
        "signing_waiting": health.waiting if health is not None else 0,
        "p50_ms": round(health.p50_ms) if health is not None else 0,
        "p95_ms": round(health.p95_ms) if health is not None else 0,
    }

"""Rows of central's database as JSON for operators. Times are UTC ms, serial numbers and key identifiers hex, DER is base64."""

from __future__ import annotations

import base64
import json
from typing import TypeAlias

from gateway.errors import MalformedRequest
from gateway.journal.canonical import JsonValue
from sync.central.alerts import advice_on
from sync.central.line_rows import Unit
from sync.central.routes import is_text
from sync.central.rows import Action, Alert, Ca, Certificate, Code, Journal, Kept, Order
from sync.conflicts import Revocation

JsonObject: TypeAlias = dict[str, JsonValue]


def gateway_view(journal: Journal, version: int) -> JsonObject:
    """``version`` is that of the newest document."""
    return {
        "origin": journal.origin, "name": journal.name, "group": journal.group, "joined": journal.joined, "seen": journal.seen,
        "records": journal.size, "waiting": max(0, journal.head - journal.size), "applied": journal.applied,
        "document": version, "offset": journal.offset, "software": journal.software, "fenced": journal.fenced,
        "closed": journal.closed, "predecessor": journal.predecessor,
    }  # fmt: skip


def certificate_view(row: Certificate, status: Revocation | None) -> JsonObject:
    return {
        "serial": f"{int.from_bytes(row.serial, 'big'):x}", "issuer": row.issuer.hex(), "origin": row.origin,
        "state": "revoked" if status else row.state, "reason": status.reason.value if status else "",
        "revoked_at": status.revoked_ms if status else 0, "subject": row.subject, "sans": row.sans, "device": row.device,
        "profile": row.profile, "requester": row.requester, "not_before": row.not_before, "not_after": row.not_after,
        "issued": row.issued, "spki": row.spki.hex(), "disputed": row.disputed,
    }  # fmt: skip


def order_view(order: Order) -> JsonObject:
    return {
        "id": order.id, "do": order.do, "serial": f"{int.from_bytes(order.serial, 'big'):x}", "reason": order.reason,
        "by": order.by, "made": order.made, "state": order.state, "detail": order.detail, "finished": order.finished,
    }  # fmt: skip


def unit_view(row: Unit) -> JsonObject:
    return {
        "origin": row.origin, "unit": row.unit, "order": row.order, "device": row.device, "state": row.state,
        "station": row.station, "chip": row.chip, "attempt": row.attempt, "spki": row.spki.hex(),
        "serial": f"{int.from_bytes(row.serial, 'big'):x}" if row.serial else "", "begun": row.begun, "changed": row.changed,
        "over": row.over,
    }  # fmt: skip


def ca_view(row: Ca) -> JsonObject:
    return {
        "key_id": row.key_id.hex(), "generation": row.generation, "not_after": row.not_after, "signed": row.signed,
        "activated": row.activated, "der": base64.b64encode(row.certificate).decode(),
    }  # fmt: skip


def code_view(code: Code) -> JsonObject:
    """Never the secret."""
    return {
        "name": code.name, "group": code.group, "made": code.made, "expires": code.expires, "used": code.used,
        "origin": code.origin,
    }  # fmt: skip


def alert_view(alert: Alert) -> JsonObject:
    advice = advice_on(alert.kind)
    return {
        "id": alert_id(alert), "kind": alert.kind, "origin": alert.origin, "about": alert.about, "text": alert.text,
        "opened": alert.opened, "closed": alert.closed, "severity": advice.severity, "title": dict(advice.title),
        "do": dict(advice.do),
    }  # fmt: skip


def action_view(row: Action) -> JsonObject:
    return {
        "id": row.id, "at": row.at, "operator": row.operator, "action": row.action, "detail": row.detail,
        "status": row.status,
    }  # fmt: skip


def record_view(kept: Kept) -> JsonObject:
    """``record`` are its octets, which an auditor hashes as they are."""
    return {"seq": kept.seq, "received": kept.received, "record": base64.b64encode(kept.body).decode()}


def alert_id(alert: Alert) -> str:
    return opaque(alert.kind, alert.origin, alert.about)


def opaque(*parts: str) -> str:
    """Texts as one that stands in a URL."""
    return base64.urlsafe_b64encode(json.dumps(parts, ensure_ascii=False).encode()).decode().rstrip("=")


def parts_of(text: str, count: int) -> tuple[str, ...]:
    """The inverse of :func:`opaque`. Raises MalformedRequest."""
    try:
        parts = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except ValueError as error:
        raise MalformedRequest("this is no name or place that central gave out") from error
    if not isinstance(parts, list) or len(parts) != count or not all(isinstance(each, str) and is_text(each) for each in parts):
        raise MalformedRequest("this is no name or place that central gave out")
    return tuple(parts)

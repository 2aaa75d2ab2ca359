"""What the REST interface answers about gateways, codes, settings, alerts and bundles, and the table of all its routes."""

from __future__ import annotations

import json
from collections.abc import Sequence

from gateway.errors import ConfigError, IntegrityError, MalformedRequest, NotFound
from gateway.journal.canonical import JsonValue
from gateway.journal.statements import from_json, to_json
from gateway.pki.crl import Reason
from sync.bundle import MOST_BUNDLE_OCTETS
from sync.central import rest_orders, rest_records
from sync.central.alerts import dismiss
from sync.central.desired_state import ALL, SETTINGS, gateway_scope, group_scope
from sync.central.listing import every
from sync.central.preconditions import etag, precondition
from sync.central.rest_records import AFTER, LIMIT, journal_of, limit_of, page
from sync.central.routes import ANYTHING, NUMBER, OCTETS_TYPE, TRUTH, Call, Field, Parts, Reply, Route
from sync.central.rows import (
    OPEN,
    Action,
    Alert,
    Ca,
    Code,
    Document,
    Evidence,
    Journal,
    Order,
    Policy,
    Quarantined,
    Setting,
    Tally,
)
from sync.central.service import NotBelieved
from sync.central.store import Transaction
from sync.central.views import action_view, alert_view, ca_view, code_view, gateway_view, opaque, order_view, parts_of
from sync.desired import Desired

_HOURS = 48
_MOST_HOURS = 8784


# Gateways.


async def gateways(parts: Parts, call: Call) -> Reply:
    after, most = call.text("after"), limit_of(call)
    async with parts.store.transaction() as t:
        found = await t.select(Journal, after=parts_of(after, 1) if after else (), limit=most)
        versions = {row.origin: row.version for row in await _documents(t, found)}
    items: list[JsonValue] = [gateway_view(each, versions.get(each.origin, 0)) for each in found]
    return page(items, opaque(found[-1].origin) if len(found) == most else "")


async def _documents(t: Transaction, journals: Sequence[Journal]) -> list[Document]:
    return await t.select_in(Document, "origin", [each.origin for each in journals]) if journals else []


async def gateway(parts: Parts, call: Call) -> Reply:
    origin = call.path["origin"]
    async with parts.store.transaction() as t:
        journal = await t.find(Journal, origin)
        if journal is None:
            raise NotFound(f"there is no gateway {origin[:80]!r}")
        document = await t.find(Document, origin)
        cas = await t.select(Ca, origin=origin)
        tallies = await t.select(Tally, origin=origin)
        orders = await t.select(Order, origin=origin, state=OPEN)
        evidence = await t.select(Evidence, origin=origin)
        policies = [row async for row in every(t, Policy, origin=origin)]
        aside = await t.count(Quarantined, origin=origin)
    last = policies[-1] if policies else None
    view = gateway_view(journal, document.version if document else 0)
    view["verifier_key"], view["quarantined"] = journal.vkey, aside
    view["cas"] = [ca_view(row) for row in sorted(cas, key=lambda row: (row.generation, row.signed))]
    view["tallies"] = {row.name: row.used for row in tallies}
    view["commands"] = [order_view(each) for each in sorted(orders, key=lambda each: each.made)]
    view["evidence"] = [{"reason": each.reason, "at": each.at, "note": each.note} for each in evidence]
    view["policy"] = {"version": last.version, "source": last.source, "expires": last.expires} if last else None
    return Reply(view)


async def _again(parts: Parts, origin: str) -> Reply:
    journal = await journal_of(parts.store, origin)
    async with parts.store.transaction() as t:
        document = await t.find(Document, origin)
    return Reply(gateway_view(journal, document.version if document else 0))


async def fence(parts: Parts, call: Call) -> Reply:
    await parts.registry.fence(call.path["origin"], f"{call.text('reason')} ({call.operator})")
    return await _again(parts, call.path["origin"])


async def close(parts: Parts, call: Call) -> Reply:
    revoke = call.text("revoke")
    try:
        reason = Reason(revoke) if revoke else None
    except ValueError as error:
        raise MalformedRequest("this is no revocation reason of RFC 5280") from error
    await parts.registry.retire(call.path["origin"], f"{call.text('reason')} ({call.operator})", revoke=reason)
    return await _again(parts, call.path["origin"])


async def set_group(parts: Parts, call: Call) -> Reply:
    await parts.registry.set_group(call.path["origin"], call.text("group"))
    return await _again(parts, call.path["origin"])


async def approve(parts: Parts, call: Call) -> Reply:
    await parts.registry.approve(call.path["origin"])
    return await _again(parts, call.path["origin"])


async def desired(parts: Parts, call: Call) -> Reply:
    await journal_of(parts.store, call.path["origin"])
    async with parts.store.transaction() as t:
        document = await t.find(Document, call.path["origin"])
    if document is None:
        raise NotFound("this gateway has no document")
    body = document.content.partition(b"\n\n")[2]
    Desired.from_bytes(body)
    return Reply({"version": document.version, "issued": document.issued, "document": from_json(body)})


# Codes.


async def codes(parts: Parts, _call: Call) -> Reply:
    async with parts.store.transaction() as t:
        found: list[JsonValue] = [code_view(code) async for code in every(t, Code)]
    return page(found, "")


async def make_code(parts: Parts, call: Call) -> Reply:
    hours = call.number("hours", _HOURS)
    if not 0 < hours <= _MOST_HOURS:
        raise MalformedRequest(f"a code is good for 1 to {_MOST_HOURS} hours")
    code = await parts.registry.make_code(group=call.text("group"), hours=hours)
    expires = parts.clock.now_ms() + hours * 3_600_000
    return Reply({"name": code.name, "code": code.text(), "expires": expires}, 201)


async def withdraw_code(parts: Parts, call: Call) -> Reply:
    await parts.registry.withdraw_code(call.path["name"])
    return Reply(b"", 204)


# Settings.


async def groups(parts: Parts, _call: Call) -> Reply:
    counted: dict[str, int] = {}
    async with parts.store.transaction() as t:
        async for journal in every(t, Journal):
            if journal.group:
                counted[journal.group] = counted.get(journal.group, 0) + (not journal.closed)
        async for setting in every(t, Setting):
            if setting.scope.startswith(group_scope("")):
                counted.setdefault(setting.scope.removeprefix(group_scope("")), 0)
    return page([{"group": name, "gateways": count} for name, count in sorted(counted.items())], "")


def _scope(call: Call) -> str:
    """``central``, ``group:NAME`` or ``gateway:ORIGIN``. Raises NotFound."""
    scope = call.path["scope"]
    if scope != ALL and not scope.startswith((group_scope(""), gateway_scope(""))):
        raise NotFound(f"a scope is {ALL}, {group_scope('NAME')} or {gateway_scope('ORIGIN')}, not {scope[:80]!r}")
    return scope


async def settings(parts: Parts, call: Call) -> Reply:
    found = await parts.desired.settings(_scope(call))
    return Reply({name: {"value": value, "etag": etag(to_json(value).decode())} for name, value in sorted(found.items())})


async def setting(parts: Parts, call: Call) -> Reply:
    found = await parts.desired.settings(_scope(call))
    if call.path["name"] not in found:
        raise NotFound(f"{call.path['name'][:40]!r} is not set; what can be set is {', '.join(SETTINGS)}")
    value = found[call.path["name"]]
    return Reply({"value": value}, head={"ETag": etag(to_json(value).decode())})


async def set_setting(parts: Parts, call: Call) -> Reply:
    value = call.body["value"]
    if value is None:
        raise MalformedRequest("a value is missing; DELETE takes a setting away")
    try:
        await parts.desired.set(_scope(call), call.path["name"], value, before=precondition(call))
    except ConfigError as error:
        raise MalformedRequest(str(error)) from error
    return Reply({"value": value}, head={"ETag": etag(to_json(value).decode())})


async def unset(parts: Parts, call: Call) -> Reply:
    await parts.desired.set(_scope(call), call.path["name"], None, before=precondition(call))
    return Reply(b"", 204)


# Alerts and trail.


async def alerts(parts: Parts, call: Call) -> Reply:
    after, most = call.text("after"), limit_of(call)
    key = parts_of(after, 3) if after else ()
    async with parts.store.transaction() as t:
        if call.truth("open", True):
            found = await t.select(Alert, after=key, limit=most, closed=0)
        else:
            found = await t.select(Alert, after=key, limit=most)
    following = opaque(found[-1].kind, found[-1].origin, found[-1].about) if len(found) == most else ""
    return page([alert_view(each) for each in found], following)


async def close_alert(parts: Parts, call: Call) -> Reply:
    kind, origin, about = parts_of(call.path["alert"], 3)
    await dismiss(parts.store, kind, origin, about, parts.clock.now_ms())
    return Reply(b"", 204)


async def trail(parts: Parts, call: Call) -> Reply:
    after, most = call.text("after"), limit_of(call)
    async with parts.store.transaction() as t:
        found = await t.select(Action, after=(after,) if after else (), limit=most)
    return page([action_view(each) for each in found], found[-1].id if len(found) == most else "")


# Bundles.


async def bundle(parts: Parts, call: Call) -> Reply:
    try:
        journal, manifest, answer = await parts.bundles.take(call.content)
    except IntegrityError as error:
        raise NotBelieved(str(error)) from error
    head = {
        "Content-Disposition": 'attachment; filename="answer.bundle"',
        "Edge-Origin": json.dumps(journal.origin),
        "Edge-Records": f"{manifest.start}-{manifest.stop}/{manifest.size}",
    }
    return Reply(answer, media=OCTETS_TYPE, head=head)


async def answer_bundle(parts: Parts, call: Call) -> Reply:
    answer = await parts.bundles.answer(call.path["origin"])
    return Reply(answer, media=OCTETS_TYPE, head={"Content-Disposition": 'attachment; filename="answer.bundle"'})


_WHY = Field("reason", "for the record", required=True)
ROUTES = (
    Route("GET", "/gateways", gateways, "List the gateways", "a page, by origin", query=(LIMIT, AFTER)),
    Route("GET", "/gateways/{origin}", gateway, "Read a gateway", "the gateway with its CAs, quotas and open commands"),
    Route("POST", "/gateways/{origin}/fence", fence, "Take nothing from a gateway any more", "the gateway", body=(_WHY,)),
    Route(
        "POST", "/gateways/{origin}/close", close, "Expect nothing more from a gateway", "the gateway",
        body=(_WHY, Field("revoke", "revoke its CAs, too, for this reason of RFC 5280")),
    ),
    Route(
        "PUT", "/gateways/{origin}/group", set_group, "Put a gateway into a group", "the gateway",
        body=(Field("group", "its name, empty for none", required=True),),
    ),
    Route("POST", "/gateways/{origin}/approve", approve, "Certify the CA key that a gateway asked for", "the gateway"),
    Route("GET", "/gateways/{origin}/desired", desired, "What is desired of a gateway", "the newest document"),
    Route(
        "GET", "/gateways/{origin}/bundle", answer_bundle, "What central has to say to a gateway, to be carried",
        "a bundle", media=OCTETS_TYPE,
    ),
    Route(
        "POST", "/bundles", bundle, "Take a bundle that was carried here", "the bundle to carry back",
        octets=MOST_BUNDLE_OCTETS, media=OCTETS_TYPE,
    ),
    Route("GET", "/codes", codes, "List the one-time codes", "all of them, without their secrets"),
    Route(
        "POST", "/codes", make_code, "Make a one-time code for a new gateway", "the code, shown once",
        body=(Field("group", "the gateway becomes its member"), Field("hours", f"it is good for; {_HOURS}", NUMBER)),
        status=201,
    ),
    Route("DELETE", "/codes/{name}", withdraw_code, "Withdraw a code", "nothing", status=204),
    Route("GET", "/groups", groups, "List the groups", "all of them, with how many gateways are in each"),
    Route("GET", "/settings/{scope}", settings, "What is set for central, group:NAME or gateway:ORIGIN", "by name"),
    Route("GET", "/settings/{scope}/{name}", setting, "Read a setting", "its value, with an ETag"),
    Route(
        "PUT", "/settings/{scope}/{name}", set_setting, "Set a part of what is desired, with If-Match or If-None-Match: *",
        "the value, with its ETag", body=(Field("value", "as in the desired document", ANYTHING, required=True),),
    ),
    Route("DELETE", "/settings/{scope}/{name}", unset, "Take a setting away, with If-Match", "nothing", status=204),
    Route(
        "GET", "/alerts", alerts, "What a person should look at", "a page, each with what to do",
        query=(Field("open", "false gives those that are closed, too", TRUTH), LIMIT, AFTER),
    ),
    Route("POST", "/alerts/{alert}/close", close_alert, "Close an alert", "nothing", status=204),
    Route("GET", "/actions", trail, "Who changed what", "a page, oldest first", query=(LIMIT, AFTER)),
    *rest_orders.ROUTES,
    *rest_records.ROUTES,
)  # fmt: skip

"""What operators ask of central on its control socket, ``STATE/control.sock``: the command line's other end.

One method for each request; each answer is a JSON object. Times are UTC milliseconds, DER is base64, serial numbers are hex.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Mapping
from pathlib import Path

from gateway.clock import Clock
from gateway.errors import ConfigError, IntegrityError, MalformedRequest, NotFound, OperatorError
from gateway.journal.canonical import JsonValue
from gateway.journal.tip import serial_column
from gateway.pki.crl import Reason
from gateway.pki.names import name_to_text
from gateway.web.unix_rest import Answers, JsonObject, UnixRest, number_in, serial_in, text_in
from sync.central.audit import root_problems
from sync.central.authority import CentralAuthority
from sync.central.bundles import Bundles
from sync.central.desired_state import ALL, DesiredStates
from sync.central.devices import device_views
from sync.central.listing import every
from sync.central.registry import Registry
from sync.central.revocations import Revocations, words
from sync.central.rows import Alert, Certificate, Code, Document, Journal
from sync.central.status import certificate_der
from sync.central.store import CentralStore, Search
from sync.central.store_sqlite import SqliteStore
from sync.central.views import certificate_view, gateway_view
from sync.central.work_orders import WorkOrders
from sync.conflicts import merged

_log = logging.getLogger(__name__)
_MOST_FOUND = 100
_KEY_OCTETS = 20


class Operations(UnixRest):
    """The socket and its answers."""

    def __init__(
        self,
        *,
        store: CentralStore,
        authority: CentralAuthority,
        desired: DesiredStates,
        registry: Registry,
        revocations: Revocations,
        bundles: Bundles,
        orders: WorkOrders,
        clock: Clock,
    ) -> None:
        super().__init__(self._answers)
        self._store, self._authority, self._desired, self._registry = store, authority, desired, registry
        self._revocations, self._bundles, self._work_orders, self._clock = revocations, bundles, orders, clock

    def _answers(self) -> Answers:
        return (
            ("GET", "/status", self._status),
            ("GET", "/alerts", self._alerts),
            ("GET", "/gateways", self._gateways),
            ("POST", "/gateways/group", self._group),
            ("POST", "/gateways/approve", self._approve),
            ("POST", "/gateways/retire", self._retire),
            ("POST", "/gateways/fence", self._fence),
            ("GET", "/codes", self._codes),
            ("POST", "/codes", self._make_code),
            ("POST", "/codes/withdraw", self._withdraw_code),
            ("POST", "/joins", self._join),
            ("POST", "/bundles", self._bundle),
            ("POST", "/certificates/search", self._search),
            ("POST", "/certificates/read", self._certificate),
            ("POST", "/revocations", self._revoke),
            ("POST", "/releases", self._release),
            ("POST", "/settings/read", self._settings),
            ("POST", "/settings", self._set),
            ("POST", "/devices/read", self._device),
            ("GET", "/orders", self._orders),
            ("POST", "/orders", self._define_order),
            ("POST", "/orders/read", self._order),
            ("POST", "/orders/close", self._close_order),
            ("POST", "/orders/export", self._export_order),
            ("POST", "/verifications", self._verify),
            ("POST", "/unlock", self._unlock),
            ("POST", "/backups", self._backup),
        )

    async def _status(self, _body: JsonObject, _operator: str, _path: Mapping[str, str]) -> JsonObject:
        root = self._authority.root
        async with self._store.transaction() as t:
            journals = [journal async for journal in every(t, Journal)]
            alerts = await t.count(Alert, closed=0)
            certificates = await t.count(Certificate)
        health = self._authority.signer().health()
        return {
            "name": self._authority.identity.name,
            "verifier_key": self._authority.identity.vkey,
            "now": self._clock.now_ms(),
            "root": {
                "subject": name_to_text(root.certificate.subject), "not_after": root.not_after_ms,
                "key": health.state.value, "detail": health.detail, "uri": health.uri,
            },
            "gateways": sum(not journal.closed for journal in journals),
            "fenced": sum(bool(journal.fenced and not journal.closed) for journal in journals),
            "records": sum(journal.size for journal in journals),
            "certificates": certificates,
            "alerts": alerts,
        }  # fmt: skip

    async def _alerts(self, _body: JsonObject, _operator: str, _path: Mapping[str, str]) -> JsonObject:
        async with self._store.transaction() as t:
            found: list[JsonValue] = [
                {"kind": alert.kind, "origin": alert.origin, "about": alert.about, "text": alert.text, "opened": alert.opened}
                async for alert in every(t, Alert, closed=0)
            ]
        return {"alerts": found}

    # Gateways.

    async def _gateways(self, _body: JsonObject, _operator: str, _path: Mapping[str, str]) -> JsonObject:
        async with self._store.transaction() as t:
            versions = {document.origin: document.version async for document in every(t, Document)}
        return {"gateways": [gateway_view(each, versions.get(each.origin, 0)) for each in await self._registry.gateways()]}

    async def _group(self, body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        origin, group = text_in(body, "origin"), text_in(body, "group")
        await self._registry.set_group(origin, group)
        _log.info("%s put %s into group %r", operator, origin, group)
        return {"origin": origin, "group": group}

    async def _approve(self, body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        origin = text_in(body, "origin")
        certificate = await self._registry.approve(origin)
        _log.info("%s approved the next CA of %s", operator, origin)
        return {"origin": origin, "certificate": base64.b64encode(certificate).decode()}

    async def _retire(self, body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        origin, revoke = text_in(body, "origin"), text_in(body, "revoke")
        await self._registry.retire(
            origin, f"{text_in(body, 'reason') or 'retired'} ({operator})", revoke=_reason(revoke) if revoke else None
        )
        return {"origin": origin, "retired": True, "revoked": bool(revoke)}

    async def _fence(self, body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        origin = text_in(body, "origin")
        await self._registry.fence(origin, f"{text_in(body, 'reason') or 'fenced'} ({operator})")
        return {"origin": origin, "fenced": True}

    # Joining.

    async def _codes(self, _body: JsonObject, _operator: str, _path: Mapping[str, str]) -> JsonObject:
        async with self._store.transaction() as t:
            found: list[JsonValue] = [
                {
                    "name": code.name, "group": code.group, "made": code.made, "expires": code.expires, "used": code.used,
                    "origin": code.origin,
                }
                async for code in every(t, Code)
            ]  # fmt: skip
        return {"codes": found}

    async def _make_code(self, body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        hours = number_in(body, "hours")
        if not 0 < hours <= 8784:
            raise MalformedRequest("a code is good for 1 to 8784 hours")
        code = await self._registry.make_code(group=text_in(body, "group"), hours=hours)
        _log.info("%s made the code %s", operator, code.name)
        return {"code": code.text(), "name": code.name, "expires": self._clock.now_ms() + hours * 3_600_000}

    async def _withdraw_code(self, body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        name = text_in(body, "name")
        await self._registry.withdraw_code(name)
        _log.info("%s withdrew the code %s", operator, name)
        return {"name": name, "withdrawn": True}

    async def _join(self, body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        answer = await self._registry.join(_octets(body, "request"))
        _log.info("%s carried a join request here", operator)
        return {"answer": base64.b64encode(answer).decode()}

    async def _bundle(self, body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        source, target = _absolute(body, "source"), _absolute(body, "target")
        if target.exists():
            raise OperatorError(f"{target} exists already")
        try:
            archive = source.read_bytes()
        except OSError as error:
            raise OperatorError(f"{source} cannot be read: {error.strerror}") from error
        journal, manifest, answer = await self._bundles.take(archive)
        try:
            with target.open("xb") as file:
                file.write(answer)
        except OSError as error:
            raise OperatorError(f"the bundle was taken, but {target} cannot be written: {error.strerror}") from error
        _log.info("%s carried records %d to %d of %s here", operator, manifest.start, manifest.stop, journal.origin)
        return {"origin": journal.origin, "start": manifest.start, "stop": manifest.stop, "answer": str(target)}

    # Certificates.

    async def _search(self, body: JsonObject, _operator: str, _path: Mapping[str, str]) -> JsonObject:
        serial = text_in(body, "serial")
        search = Search(
            text=text_in(body, "text"), serial=serial_column(f"{serial_in(serial):x}") if serial else b"",
            device=text_in(body, "device"), origin=text_in(body, "origin"), profile=text_in(body, "profile"),
        )  # fmt: skip
        after = _hex(text_in(body, "after"))
        async with self._store.transaction() as t:
            page = await t.search(
                search, after=(after[:_KEY_OCTETS], after[_KEY_OCTETS:]) if after else None, limit=_MOST_FOUND
            )
            found: list[JsonValue] = [certificate_view(row, merged(*await words(t, row))) for row in page.certificates]
        return {"certificates": found, "after": b"".join(page.after).hex() if page.after else ""}

    async def _certificate(self, body: JsonObject, _operator: str, _path: Mapping[str, str]) -> JsonObject:
        serial = serial_in(text_in(body, "serial"))
        async with self._store.transaction() as t:
            rows = await t.select(Certificate, serial=serial_column(f"{serial:x}"))
            if not rows:
                raise NotFound(f"no gateway has journalled a certificate with serial {serial:x}")
            found = {**certificate_view(rows[0], merged(*await words(t, rows[0])))}
            found["der"] = base64.b64encode(await certificate_der(t, rows[0])).decode()
        return found

    async def _revoke(self, body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        row, status = await self._revocations.revoke(
            serial_in(text_in(body, "serial")), _reason(text_in(body, "reason")), operator, issuer=_hex(text_in(body, "issuer"))
        )
        _log.info("%s revoked %s of %s for %s", operator, text_in(body, "serial"), row.origin, status.reason.value)
        return certificate_view(row, status)

    async def _release(self, body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        serial = serial_in(text_in(body, "serial"))
        row, status = await self._revocations.release(serial, operator, issuer=_hex(text_in(body, "issuer")))
        _log.info("%s released %x of %s", operator, serial, row.origin)
        return certificate_view(row, status)

    # Settings, care.

    async def _settings(self, body: JsonObject, _operator: str, _path: Mapping[str, str]) -> JsonObject:
        scope = text_in(body, "scope") or ALL
        settings: JsonObject = await self._desired.settings(scope)
        return {"scope": scope, "settings": settings}

    async def _set(self, body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        scope, name = text_in(body, "scope") or ALL, text_in(body, "name")
        await self._desired.set(scope, name, body.get("value"))
        _log.info("%s set %s of %s", operator, name, scope)
        return {"scope": scope, "name": name}

    # Lines.

    async def _device(self, body: JsonObject, _operator: str, _path: Mapping[str, str]) -> JsonObject:
        units, certificates = await device_views(self._store, text_in(body, "device"))
        return {"units": [*units], "certificates": [*certificates]}

    async def _orders(self, _body: JsonObject, _operator: str, _path: Mapping[str, str]) -> JsonObject:
        return {"orders": [*await self._work_orders.orders()]}

    async def _order(self, body: JsonObject, _operator: str, _path: Mapping[str, str]) -> JsonObject:
        return await self._work_orders.order(text_in(body, "id"))

    async def _define_order(self, body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        order = body.get("order")
        if not isinstance(order, dict):
            raise MalformedRequest("an order is a JSON object")
        made = await self._work_orders.define(text_in(body, "scope"), order, operator)
        _log.info("%s set revision %d of work order %s", operator, made["revision"], made["id"])
        return made

    async def _close_order(self, body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        made = await self._work_orders.close(text_in(body, "id"), f"{text_in(body, 'reason') or 'closed'} ({operator})")
        _log.info("%s closed work order %s", operator, made["id"])
        return made

    async def _export_order(self, body: JsonObject, _operator: str, _path: Mapping[str, str]) -> JsonObject:
        statement = await self._work_orders.export(text_in(body, "id"), text_in(body, "origin"))
        return {"statement": statement.decode()}

    async def _verify(self, _body: JsonObject, _operator: str, _path: Mapping[str, str]) -> JsonObject:
        problems = await root_problems(self._store)
        if problems:
            raise IntegrityError("; ".join(problems[:20]))
        journals = await self._registry.gateways()
        return {"journals": len(journals), "records": sum(journal.size for journal in journals)}

    async def _unlock(self, body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        signer = self._authority.signer()
        _log.info("%s enters the PIN of the root's token", operator)
        await signer.unlock(text_in(body, "pin"))
        await signer.ready()
        return {"uri": signer.uri, "key": signer.health().state.value}

    async def _backup(self, body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        target = _absolute(body, "target")
        if not isinstance(self._store, SqliteStore):
            raise OperatorError("a PostgreSQL database is backed up with PostgreSQL's own tools (pg_dump)")
        await self._store.backup(target)
        _log.info("%s made the backup %s", operator, target)
        return {"target": str(target)}


def _reason(text: str) -> Reason:
    try:
        return Reason(text)
    except ValueError as error:
        raise MalformedRequest("this is no revocation reason of RFC 5280") from error


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise MalformedRequest("hexadecimal digits are expected") from error


def _octets(body: JsonObject, name: str) -> bytes:
    try:
        return base64.b64decode(text_in(body, name), validate=True)
    except binascii.Error as error:
        raise MalformedRequest(f"{name} is not base64") from error


def _absolute(body: JsonObject, name: str) -> Path:
    path = Path(text_in(body, name))
    if not path.is_absolute():
        raise ConfigError(f"{name} must be an absolute path")
    return path

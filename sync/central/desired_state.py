"""What central desires of each gateway: settings and commands become one signed document, a new version when it differs.

Settings are JSON texts in the form of the document's parts (:data:`SETTINGS`), under three scopes: ``central`` for all
gateways, ``group:NAME``, ``gateway:ORIGIN``. The narrower scope wins: tables are merged entry by entry, lists united, the rest
replaced.
To the settings come what central itself knows: commands that are not done, CA certificates that are not active yet, its
OCSP key and its certificate for bundles, the root's revocation list, keys that are blocked because an alert says so, work
orders (:mod:`sync.central.grants`).

:meth:`DesiredStates.refresh` composes one gateway's document; :meth:`DesiredStates.run` looks every few seconds at all that a
document is made of, whoever changed it, so nobody has to remember to say so.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final, cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from gateway.authority.policy import Policy
from gateway.authority.policy_tables import policy_from_tables
from gateway.clock import Clock
from gateway.errors import ConfigError, MalformedRequest, NotFound, OperatorError, RequestError
from gateway.journal.canonical import JsonValue
from gateway.journal.statements import base64_text, to_json
from gateway.pki.algorithms import default_algorithm
from sync.central import alarms, grants
from sync.central.alarms import close_alert, open_alert
from sync.central.authority import DAY_MS, ROOT_LIST, CentralAuthority
from sync.central.bundle_identity import bundle_certificate
from sync.central.listing import every
from sync.central.rows import OPEN, Alert, Ca, Crl, Document, Event, Journal, Order, Setting
from sync.central.running import repeated
from sync.central.store import CentralStore, Transaction, desired_topic
from sync.desired import Desired, PolicyPart, policy_of
from sync.document import FORMAT

_log = logging.getLogger(__name__)
ALL: Final = "central"
#: Parts of the document that an operator sets.
SETTINGS: Final = ("policy", "allow_lists", "quotas", "makers", "blocked_keys", "crls", "trust_lists")
_TABLES = frozenset({"allow_lists", "quotas", "crls"})
_LISTS = frozenset({"makers", "blocked_keys"})
#: Settings that an alert made, one for each key: this and the digest in hex.
BLOCKED: Final = "blocked-key:"
_OCSP_CSR = "ocsp-csr"
_LOOK_S = 5.0
#: The alert when settings cannot be made into a document.
UNDESIRABLE: Final = "document"
#: An event: the gateway applied a document of its own or a higher version that is not this one; the content is the version.
UNKNOWN_DOCUMENT: Final = "unknown-document"


def group_scope(group: str) -> str:
    return f"group:{group}"


def gateway_scope(origin: str) -> str:
    return f"gateway:{origin}"


@dataclass(frozen=True, slots=True)
class DesiredOptions:
    """``document_days`` is how long a document is good, 0 without end; it is renewed when half of that is over."""

    document_days: int = 90


class DesiredStates:
    """Composes, signs and stores the documents of all gateways."""

    def __init__(self, store: CentralStore, authority: CentralAuthority, clock: Clock, options: DesiredOptions) -> None:
        self._store, self._authority, self._clock, self._options = store, authority, clock, options
        self._seen: dict[str, tuple[bytes, int]] = {}  # what a document was made of, and when it is to be renewed

    # Settings.

    async def settings(self, scope: str) -> dict[str, JsonValue]:
        """What is set in one scope, by the names of :data:`SETTINGS`."""
        async with self._store.transaction() as t:
            return await _settings(t, scope)

    async def set(self, scope: str, name: str, value: JsonValue, *, before: Callable[[str], None] = lambda _text: None) -> None:
        """Set one part, or take it away with ``None``. ``before`` gets the text that stood there, "" for none, and may raise.

        Raises NotFound for a name or scope that is none, MalformedRequest or ConfigError for a value that no gateway could
        apply; then nothing changed.
        """
        if name not in SETTINGS:
            raise NotFound(f"there is no setting {name[:40]!r}; known are {', '.join(SETTINGS)}")
        if value is not None:
            _check({name: value})
        async with self._store.transaction() as t:
            if scope.startswith("gateway:") and await t.find(Journal, scope.removeprefix("gateway:")) is None:
                raise NotFound(f"there is no gateway {scope.removeprefix('gateway:')[:80]!r}")
            if not scope.startswith(("gateway:", "group:")) and scope != ALL:
                raise NotFound(f"a scope is {ALL}, group:NAME or gateway:ORIGIN, not {scope[:80]!r}")
            stood = await t.find(Setting, scope, name, lock=True)
            before(stood.value if stood is not None else "")
            await t.remove(Setting, scope=scope, name=name)
            if value is not None:
                await t.put(Setting(scope, name, to_json(value).decode()))
        await self.refresh_all()

    # Documents.

    async def refresh_all(self) -> int:
        """Compose every open gateway's document whose parts changed; how many there are anew."""
        async with self._store.transaction() as t:
            changed = await self._changed(t)
        made = 0
        for origin, look in changed.items():
            document, is_new = await self._refresh(origin)
            made += is_new
            self._seen[origin] = look, _renewal_ms(document) if document else 0
        return made

    async def refresh(self, origin: str) -> bool:
        """Compose one gateway's document; whether there is a new one. Raises NotFound."""
        _, is_new = await self._refresh(origin)
        return is_new

    async def _refresh(self, origin: str) -> tuple[Document | None, bool]:
        async with self._store.transaction() as t:
            journal = await t.lock(origin)
            if journal is None:
                raise NotFound(f"there is no gateway {origin[:80]!r}")
            before = await t.find(Document, origin)
            try:
                after = await self.compose(t, journal)
            except (RequestError, OperatorError) as error:
                _log.error("no new document for %s: %s", origin, error)
                alert = Alert(UNDESIRABLE, origin, "", f"its document cannot be made: {error}", self._clock.now_ms())
                await open_alert(t, alert)
                return before, False
            await close_alert(t, UNDESIRABLE, origin, self._clock.now_ms())
            return after, before is None or after.version != before.version

    async def compose(self, t: Transaction, journal: Journal) -> Document:
        """The document of ``journal``, stored and announced when it is another one than before. The caller holds the lock."""
        now_ms = self._clock.now_ms()
        current = await t.find(Document, journal.origin)
        wanted = await self._wanted(t, journal)
        last = _content(current) if current is not None else None
        made = current.version if current is not None else 0
        unknown = await _unknown_versions(t, journal.origin, now_ms)
        there = max((journal.applied, *unknown))
        if made < there or made in unknown:
            # Central was restored. What the gateway has counts above anything older, so the numbers go on from there.
            text = f"it has version {there} of its document and central made {made}: central's database is older"
            await open_alert(t, Alert(alarms.GAP, journal.origin, "", text, now_ms))
            made, current, last = there, None, None
        if current is not None and last is not None and not 0 < _renewal_ms(current) <= now_ms and _same(wanted, last):
            return current
        version = made + 1
        expires = now_ms + self._options.document_days * DAY_MS if self._options.document_days else 0
        desired = replace(
            wanted, version=version, issued=now_ms, expires=expires, policy=_numbered(wanted, last, version)
        )  # fmt: skip
        document = Document(journal.origin, version, now_ms, expires, self._authority.sign_desired(desired))
        await t.put(document)
        t.announce(desired_topic(journal.origin))
        return document

    async def _wanted(self, t: Transaction, journal: Journal) -> Desired:
        """What should be desired now, with version 1 for a version."""
        parts: dict[str, JsonValue] = {}
        for scope in (ALL, *([group_scope(journal.group)] if journal.group else []), gateway_scope(journal.origin)):
            _merge(parts, await _settings(t, scope))
        blocked = [row.name.removeprefix(BLOCKED) async for row in every(t, Setting, scope=ALL) if row.name.startswith(BLOCKED)]
        _merge(parts, {"blocked_keys": cast(JsonValue, blocked)})
        root_list = await t.find(Crl, self._authority.root.key_identifier, ROOT_LIST)
        if root_list is not None:
            _merge(parts, {"crls": {ROOT_LIST: base64_text(root_list.content)}})
        now_ms = self._clock.now_ms()
        certified = [
            {"certificate": _pem(row.certificate), "chain": [_pem(each) for each in self._authority.chain]}
            for row in await t.select(Ca, origin=journal.origin)
            if row.signed and not row.activated and row.not_after > now_ms
        ]
        orders = await t.select(Order, origin=journal.origin, state=OPEN)
        parts["ca_certificates"] = cast(JsonValue, certified)
        parts["commands"] = [_command(order) for order in sorted(orders, key=lambda each: (each.made, each.id))]
        parts["orders"] = await grants.statements(t, journal, self._authority.sign_work_order, now_ms) or None
        parts["ocsp"] = {"csr": await self._ocsp_csr(t)}
        parts["bundle_certificate"] = await bundle_certificate(t)
        return _desired(parts, journal.origin)

    async def _ocsp_csr(self, t: Transaction) -> str:
        """The request for central's OCSP key: made once, because every signature under it is another one."""
        setting = await t.find(Setting, ALL, _OCSP_CSR)
        key = self._authority.ocsp_key
        if setting is not None:
            request = x509.load_pem_x509_csr(setting.value.encode())
            if request.public_key() == key.public_key():
                return setting.value
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"OCSP responder of {self._authority.identity.name}"[:64])])
        hash_ = cast("hashes.SHA256 | None", default_algorithm(key.public_key()).hash)
        csr = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, hash_)
        text = csr.public_bytes(Encoding.PEM).decode()
        if setting is None:
            await t.add(Setting(ALL, _OCSP_CSR, text))  # another worker may do the same now: the first one counts
        else:
            await t.put(Setting(ALL, _OCSP_CSR, text))
        kept = await t.find(Setting, ALL, _OCSP_CSR)
        return kept.value if kept is not None else text

    # Looking for what changed.

    async def run(self) -> None:
        """Keep every document fresh, for ever."""
        await repeated(self.refresh_all, _LOOK_S, "documents are made")

    async def _changed(self, t: Transaction) -> dict[str, bytes]:
        """Gateways whose document may have to change, with the digest of what it is made of."""
        now_ms = self._clock.now_ms()
        settings: dict[str, bytes] = {}
        async for setting in every(t, Setting):
            settings[setting.scope] = _digest(settings.get(setting.scope, b""), setting.name, setting.value)
        for scope, look in (await grants.looks(t)).items():
            settings[scope] = _digest(settings.get(scope, b""), "work orders", look)
        root_list = await t.find(Crl, self._authority.root.key_identifier, ROOT_LIST)
        parts: dict[str, bytes] = {}
        async for order in every(t, Order, state=OPEN):
            parts[order.origin] = _digest(parts.get(order.origin, b""), order.id)
        async for ca in every(t, Ca, activated=0):
            parts[ca.origin] = _digest(parts.get(ca.origin, b""), ca.digest.hex())
        async for event in every(t, Event, kind=UNKNOWN_DOCUMENT, done=0):
            parts[event.origin] = _digest(parts.get(event.origin, b""), str(event.seq))
        common = _digest(settings.get(ALL, b""), str(root_list.number if root_list else 0))
        found: dict[str, bytes] = {}
        async for journal in every(t, Journal):
            if journal.closed or journal.fenced:
                continue
            narrow = (settings.get(group_scope(journal.group), b""), settings.get(gateway_scope(journal.origin), b""))
            number = str(journal.applied)
            look = _digest(common, journal.group, number, *(each.hex() for each in (*narrow, parts.get(journal.origin, b""))))
            seen, renewal_ms = self._seen.get(journal.origin, (b"", 0))
            if seen != look or 0 < renewal_ms <= now_ms:
                found[journal.origin] = look
        return found


async def _unknown_versions(t: Transaction, origin: str, now_ms: int) -> list[int]:
    """The versions of documents that the gateway applied and that are not this central's; each is looked at once."""
    events = [event async for event in every(t, Event, kind=UNKNOWN_DOCUMENT, origin=origin) if not event.done]
    for event in events:
        await t.change(Event, event.kind, origin, event.seq, done=now_ms)
    return [int(event.content) for event in events]


async def _settings(t: Transaction, scope: str) -> dict[str, JsonValue]:
    return {row.name: json.loads(row.value) async for row in every(t, Setting, scope=scope) if row.name in SETTINGS}


def _merge(parts: dict[str, JsonValue], narrower: Mapping[str, JsonValue]) -> None:
    for name, value in narrower.items():
        known = parts.get(name)
        if name == "policy" and isinstance(known, dict) and isinstance(value, dict):
            parts[name] = _merged_policy(known, value)
        elif name in _TABLES and isinstance(known, dict) and isinstance(value, dict):
            parts[name] = {**known, **value}
        elif name in _LISTS and isinstance(known, list) and isinstance(value, list):
            parts[name] = [*known, *(each for each in value if each not in known)]
        else:
            parts[name] = value


def _merged_policy(wider: dict[str, JsonValue], narrower: dict[str, JsonValue]) -> dict[str, JsonValue]:
    merged = {**wider, **narrower}
    for key in ("profiles", "labels"):
        one, other = wider.get(key), narrower.get(key)
        if isinstance(one, dict) and isinstance(other, dict):
            merged[key] = {**one, **other}
    return merged


def _desired(parts: Mapping[str, JsonValue], origin: str) -> Desired:
    """The parts as a document, read as strictly as a gateway will. Raises MalformedRequest, ConfigError."""
    body: dict[str, JsonValue] = {"format": FORMAT, "origin": origin, "version": 1, "issued": 0, "expires": 0, **parts}
    if isinstance(policy := body.get("policy"), dict):
        body["policy"] = {**policy, "version": 1}
    desired = Desired.from_bytes(to_json(body))
    desired.check()
    if desired.policy is not None:
        # Quotas may be for profiles of the local file, which only the gateway knows; its refusal is reported.
        policy_of(replace(desired, quotas={}), _NO_POLICY)
    return desired


_NO_POLICY: Policy = policy_from_tables({}, b"", 0)


def _check(parts: Mapping[str, JsonValue]) -> None:
    """Raise MalformedRequest or ConfigError for a part that makes no sense by itself."""
    if (policy := parts.get("policy")) is not None and not isinstance(policy, dict):
        raise MalformedRequest("policy must be an object")
    try:
        _desired(parts, "gateway")
    except ConfigError as error:
        if "was not read" not in str(error):  # an allow-list that another setting brings
            raise
    except (ValueError, RecursionError, UnicodeEncodeError) as error:
        raise MalformedRequest("the setting holds what no document can") from error


def _numbered(wanted: Desired, last: Desired | None, version: int) -> PolicyPart | None:
    """The policy with its version: that of the document in which anything of it changed last, so it never goes back."""
    if wanted.policy is None:
        return None
    if last is not None and last.policy is not None and _ruling(wanted) == _ruling(last):
        return replace(wanted.policy, version=last.policy.version)
    return replace(wanted.policy, version=version)


def _ruling(desired: Desired) -> tuple[object, ...]:
    return _without_numbers(desired).policy, desired.allow_lists, desired.quotas


def _content(document: Document) -> Desired:
    """What stands in a document that this central signed."""
    return Desired.from_bytes(document.content.partition(b"\n\n")[2])


def _same(wanted: Desired, last: Desired) -> bool:
    return _without_numbers(wanted) == _without_numbers(last)


def _without_numbers(desired: Desired) -> Desired:
    policy = replace(desired.policy, version=0) if desired.policy else None
    return replace(desired, version=1, issued=0, expires=0, policy=policy)


def _renewal_ms(document: Document) -> int:
    """When half of its time is over; 0 for a document without end."""
    return (document.issued + document.expires) // 2 if document.expires else 0


def _command(order: Order) -> JsonValue:
    common: dict[str, JsonValue] = {
        "id": order.id, "do": order.do, "serial": f"{int.from_bytes(order.serial, 'big'):x}", "generation": order.generation,
    }  # fmt: skip
    return common if order.do == "release" else {**common, "reason": order.reason, "revoked_at": order.revoked_at}


def _pem(der: bytes) -> str:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()


def _digest(*parts: bytes | str) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.digest()

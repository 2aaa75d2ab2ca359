"""Handing records on over HTTP: a webhook of our own making, and JSON:API in the shape of a trust management appliance."""

from __future__ import annotations

import hashlib
import hmac
import json
import ssl
import uuid
from collections.abc import Mapping

import aiohttp
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.clock import Clock
from gateway.journal.canonical import JsonValue
from gateway.journal.records import Issued, Released, Revoked
from gateway.pki.crl import Reason
from gateway.pki.names import name_to_text
from gateway.pki.sans import san_to_text
from sync.central.adapters.feed import Delivery, Item, NotDelivered

JsonObject = dict[str, JsonValue]
_TIMEOUT = aiohttp.ClientTimeout(total=60, connect=20)
_JSON_API = "application/vnd.api+json"
#: For the names of certificates at the other system (RFC 9562 section 5.5).
_NAMESPACE = uuid.UUID("6f1d6a52-94c5-5a44-9f3c-6d1a5bd1c9b7")
_MOST_SAID = 300


class HttpOut:
    """One connection to one system. ``ca`` (PEM) replaces the system's trust anchors."""

    def __init__(self, ca: str = "") -> None:
        self._context = ssl.create_default_context(cadata=ca or None)
        self._session: aiohttp.ClientSession | None = None

    async def send(self, method: str, url: str, content: bytes, head: Mapping[str, str], *, fine: tuple[int, ...] = ()) -> None:
        """Raises NotDelivered unless the answer is 2xx or one of ``fine``."""
        if self._session is None:
            connector = aiohttp.TCPConnector(ssl=self._context, limit=2)
            self._session = aiohttp.ClientSession(connector=connector, timeout=_TIMEOUT, trust_env=False)
        try:
            async with self._session.request(method, url, data=content, headers=head, allow_redirects=False) as answer:
                said = (await answer.content.read(_MOST_SAID)).decode(errors="replace")
                if not 200 <= answer.status < 300 and answer.status not in fine:
                    raise NotDelivered(f"the answer is {answer.status}: {' '.join(said.split())}")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise NotDelivered(f"no answer: {str(error)[:_MOST_SAID] or type(error).__name__}") from error

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None


class Webhook:
    """Posts records as JSON. ``Edge-Signature`` is ``v1=`` and the HMAC-SHA-256 (hex) of ``Edge-Timestamp``, a dot, the body.

    The body is ``{"events": [{"id", "origin", "seq", "kind", "time", "received", "record", "certificate"}]}``; ``record`` is
    the journal's own JSON, ``certificate`` PEM. Any 2xx is a receipt. ``kinds`` are the kinds of records that go out, all
    when there are none.
    """

    align = 1

    def __init__(
        self, name: str, url: str, secret: bytes, clock: Clock, *, kinds: frozenset[str] = frozenset(), ca: str = ""
    ) -> None:
        self.name, self._url, self._secret, self._kinds, self._clock = name, url, secret, kinds, clock
        self._http = HttpOut(ca)

    async def deliver(self, delivery: Delivery) -> None:
        events: list[JsonValue] = [_event(item) for item in delivery.items if not self._kinds or _kind(item) in self._kinds]
        if not events:
            return
        body = json.dumps({"events": events}, ensure_ascii=False).encode()
        timestamp = str(self._clock.now_ms() // 1000)
        first, last = delivery.items[0], delivery.items[-1]
        head = {
            "Content-Type": "application/json", "Edge-Timestamp": timestamp,
            "Edge-Signature": sign(self._secret, timestamp, body),
            "Idempotency-Key": hashlib.sha256(f"{first.id}{last.id}".encode()).hexdigest()[:32],
        }  # fmt: skip
        await self._http.send("POST", self._url, body, head)

    async def close(self) -> None:
        await self._http.close()


def sign(secret: bytes, timestamp: str, body: bytes) -> str:
    return "v1=" + hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def _kind(item: Item) -> str:
    return item.record.payload.kind if item.record is not None else "unknown"


def _event(item: Item) -> JsonObject:
    return {
        "id": item.id, "origin": item.origin, "seq": item.seq, "kind": _kind(item),
        "time": item.record.time if item.record is not None else 0, "received": item.received,
        "record": json.loads(item.body) if item.record is not None else None,
        "certificate": pem(item.certificate) if item.certificate else "",
    }  # fmt: skip


class JsonApi:
    """Keeps resources of the type ``certificates`` at ``url`` (JSON:API 1.1): POST when one was issued, PATCH when its status
    changes. The id is ours, made from origin, CA generation and serial number, so a second POST is answered 409, which is fine.
    """

    align = 1

    def __init__(self, name: str, url: str, secret: bytes, ca: str = "") -> None:
        self.name, self._url, self._secret = name, url.rstrip("/"), secret
        self._http = HttpOut(ca)

    async def deliver(self, delivery: Delivery) -> None:
        for item in delivery.items:
            payload = item.record.payload if item.record is not None else None
            match payload:
                case Issued() if item.intent is not None:
                    identifier = resource_id(item.origin, item.intent.generation, item.intent.serial)
                    await self._send("POST", self._url, identifier, _attributes(item), item.id, fine=(409,))
                case Revoked(serial, generation, reason, revoked_at):
                    status = "on-hold" if reason == Reason.CERTIFICATE_HOLD.value else "revoked"
                    changed: JsonObject = {"status": status, "revocationReason": reason, "revokedAt": revoked_at}
                    await self._patch(resource_id(item.origin, generation, serial), changed, item.id)
                case Released(serial, generation):
                    changed = {"status": "valid", "revocationReason": None, "revokedAt": None}
                    await self._patch(resource_id(item.origin, generation, serial), changed, item.id)
                case _:
                    continue

    async def close(self) -> None:
        await self._http.close()

    async def _patch(self, identifier: str, changed: JsonObject, key: str) -> None:
        await self._send("PATCH", f"{self._url}/{identifier}", identifier, changed, key)

    async def _send(
        self, method: str, url: str, identifier: str, attributes: JsonObject, key: str, *, fine: tuple[int, ...] = ()
    ) -> None:
        body = json.dumps({"data": {"type": "certificates", "id": identifier, "attributes": attributes}}, ensure_ascii=False)
        head = {"Content-Type": _JSON_API, "Accept": _JSON_API, "Idempotency-Key": key}
        if self._secret:
            head["Authorization"] = f"Bearer {self._secret.decode()}"
        await self._http.send(method, url, body.encode(), head, fine=fine)


def resource_id(origin: str, generation: int, serial: str) -> str:
    return str(uuid.uuid5(_NAMESPACE, f"{origin}\n{generation}\n{serial}"))


def _attributes(item: Item) -> JsonObject:
    certificate = x509.load_der_x509_certificate(item.certificate)
    assert item.intent is not None  # noqa: S101 - there is a certificate
    return {
        "origin": item.origin, "seq": item.seq, "serialNumber": item.intent.serial, "status": "valid",
        "subject": name_to_text(certificate.subject), "issuer": name_to_text(certificate.issuer),
        "subjectAlternativeNames": [*_sans(certificate)],
        "notBefore": int(certificate.not_valid_before_utc.timestamp()) * 1000,
        "notAfter": int(certificate.not_valid_after_utc.timestamp()) * 1000,
        "profile": item.intent.profile, "requester": item.intent.requester, "certificate": pem(item.certificate),
    }  # fmt: skip


def _sans(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [san_to_text(name) for name in names]


def pem(certificate: bytes) -> str:
    return x509.load_der_x509_certificate(certificate).public_bytes(Encoding.PEM).decode()

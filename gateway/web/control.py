"""REST under ``/api/v1`` on ``STATE/control.sock``: what the command line asks for while the gateway runs.

Whoever may open the socket (mode 0600 in a 0700 directory) is an operator; the kernel says which user it is (``SO_PEERCRED``),
and that name goes into the journal, never one that the client sent. Errors are problem documents (RFC 9457) with the class name
of :mod:`gateway.errors` in ``error``. Bodies and answers are JSON objects; DER is base64, times are UTC milliseconds.
"""

from __future__ import annotations

import base64
import binascii
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gateway.authority.approvals import ApprovalState
from gateway.authority.authority import Authority
from gateway.authority.lifecycle import Ceremony, CeremonyStep
from gateway.authority.requests import EnrollmentRequest, Lane, Operation, Pending, Refused, Requester, RequesterKind
from gateway.errors import ConfigError, MalformedRequest
from gateway.journal.canonical import JsonValue
from gateway.journal.journal import Journal
from gateway.journal.records import OperatorAction
from gateway.keys.provider import KeyRing
from gateway.keys.signer import KeySpec
from gateway.keys.uri import KeyUri
from gateway.pki.crl import Reason
from gateway.pki.csr import read_csr
from gateway.pki.names import name_from_text
from gateway.web.unix_rest import Answer, JsonObject, UnixRest, number_in, serial_in, text_in

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ControlParts:
    """What the socket may do. ``activated`` takes up a generation that was just imported; ``status`` is the whole report."""

    authority: Authority
    journal: Journal
    ceremony: Ceremony
    keyring: KeyRing
    ca_key: str  # configured key URI
    status: Callable[[], Awaitable[JsonObject]]
    activated: Callable[[], Awaitable[None]]
    more: tuple[tuple[str, str, Answer], ...] = ()  # method, path and answer of what other parts of the gateway can do


class ControlSocket(UnixRest):
    """The listener and its answers."""

    def __init__(self, parts: ControlParts) -> None:
        super().__init__(self._answers)
        self._parts = parts

    def _answers(self) -> tuple[tuple[str, str, Answer], ...]:
        return (
            ("GET", "/status", self._status),
            ("POST", "/certificates", self._issue),
            ("POST", "/revocations", self._revoke),
            ("POST", "/releases", self._release),
            ("GET", "/proofs/{serial}", self._prove),
            ("GET", "/tokens", self._list_tokens),
            ("POST", "/tokens", self._create_token),
            ("DELETE", "/tokens/{token}", self._revoke_token),
            ("GET", "/requests", self._list_requests),
            ("POST", "/requests/{request}/decision", self._decide),
            ("GET", "/ca", self._ca_status),
            ("POST", "/ca/keygen", self._ca_keygen),
            ("POST", "/ca/csr", self._ca_csr),
            ("POST", "/ca/import", self._ca_import),
            ("POST", "/ca/renew", self._ca_renew),
            ("POST", "/ca/unlock", self._ca_unlock),
            ("POST", "/backups", self._backup),
            *self._parts.more,
        )

    async def _status(self, _body: JsonObject, _operator: str, _path: Mapping[str, str]) -> JsonObject:
        return await self._parts.status()

    async def _issue(self, body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        profile = text_in(body, "profile")
        rule = self._parts.authority.rule(profile)
        csr = read_csr(_der(body, "csr"), leniency=rule.leniency)
        requester = Requester(RequesterKind.OPERATOR, f"operator:{operator}")
        request = EnrollmentRequest(csr, profile, requester, Operation.ENROLL, "control", Lane.BULK)
        outcome = await self._parts.authority.enroll(request)
        if isinstance(outcome, Refused):
            raise outcome.error
        if isinstance(outcome, Pending):
            return {"pending": True, "request_id": outcome.request_id, "retry_after": outcome.retry_after}
        pem = "".join(map(ssl.DER_cert_to_PEM_cert, (outcome.certificate, *outcome.chain)))
        return {"serial": f"{outcome.serial:x}", "seq": outcome.seq, "repeated": outcome.repeated, "pem": pem}

    async def _revoke(self, body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        try:
            reason = Reason(text_in(body, "reason"))
        except ValueError as error:
            raise MalformedRequest("this is no revocation reason of RFC 5280") from error
        revocation = await self._parts.authority.revoker.revoke(
            serial_in(text_in(body, "serial")), reason, f"operator:{operator}"
        )
        return {"serial": f"{revocation.serial:x}", "reason": revocation.reason.value, "revoked_at": revocation.revoked_ms}

    async def _release(self, body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        serial = serial_in(text_in(body, "serial"))
        await self._parts.authority.revoker.release(serial, f"operator:{operator}")
        return {"serial": f"{serial:x}", "released": True}

    async def _prove(self, _body: JsonObject, _operator: str, path: Mapping[str, str]) -> JsonObject:
        proof = await self._parts.journal.prove_serial(serial_in(path["serial"]))
        return {"serial": path["serial"], "proof": proof.to_json()}

    async def _list_tokens(self, _body: JsonObject, _operator: str, _path: Mapping[str, str]) -> JsonObject:
        tokens: list[JsonValue] = [
            {
                "token_id": token.token_id,
                "profile": token.profile,
                "subject": token.subject,
                "station": token.station,
                "uses": token.uses,
                "remaining": token.remaining,
                "not_after": token.not_after_ms,
                "operator": token.operator,
                "revoked": token.revoked,
            }
            for token in self._parts.authority.tokens.list()
        ]
        return {"tokens": tokens}

    async def _create_token(self, body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        token = await self._parts.authority.tokens.create(
            text_in(body, "profile"),
            operator=operator,
            validity_s=number_in(body, "hours") * 3600,
            uses=number_in(body, "uses"),
            subject=text_in(body, "subject"),
            station=body.get("station") is True,
        )
        return {"token_id": token.token_id, "secret": token.secret, "not_after": token.not_after_ms}

    async def _revoke_token(self, _body: JsonObject, operator: str, path: Mapping[str, str]) -> JsonObject:
        await self._parts.authority.tokens.revoke(path["token"], operator)
        return {"token_id": path["token"], "revoked": True}

    async def _list_requests(self, _body: JsonObject, _operator: str, _path: Mapping[str, str]) -> JsonObject:
        requests: list[JsonValue] = [
            {
                "request_id": each.request_id,
                "profile": each.profile,
                "protocol": each.protocol,
                "requester": each.requester,
                "subject": each.subject,
                "since": each.since_ms,
            }
            for each in self._parts.authority.approvals.list()
            if each.state is ApprovalState.WAITING
        ]
        return {"requests": requests}

    async def _decide(self, body: JsonObject, operator: str, path: Mapping[str, str]) -> JsonObject:
        decided = await self._parts.authority.approvals.decide(
            path["request"], approved=body.get("approved") is True, operator=operator, reason=text_in(body, "reason")
        )
        return {"request_id": decided.request_id, "state": decided.state.value}

    async def _ca_status(self, _body: JsonObject, _operator: str, _path: Mapping[str, str]) -> JsonObject:
        status = await self._parts.status()
        return {"generations": status["generations"]}

    async def _ca_keygen(self, body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        step = await self._parts.ceremony.keygen(self._parts.ca_key, _key_spec(body), operator, adopt=body.get("adopt") is True)
        return _step(step)

    async def _ca_renew(self, body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        return _step(await self._parts.ceremony.renew(text_in(body, "key") or self._parts.ca_key, _key_spec(body), operator))

    async def _ca_csr(self, body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        return _step(await self._parts.ceremony.csr(name_from_text(text_in(body, "subject")), operator))

    async def _ca_import(self, body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        certificate, *chain = _pem_certificates(text_in(body, "pem"))
        step = await self._parts.ceremony.import_certificate(certificate, tuple(chain), operator)
        await self._parts.activated()
        return _step(step)

    async def _ca_unlock(self, body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        uri = text_in(body, "key") or self._parts.ca_key
        if KeyUri.parse(uri).is_software:
            raise ConfigError(f"{uri} is a software key and needs no PIN")
        token = self._parts.keyring.token(uri)
        await self._parts.journal.append(OperatorAction("pin-entered", operator, KeyUri.parse(uri).format()), urgent=True)
        await token.unlock(text_in(body, "pin"))
        return {"uri": uri, "key": token.state.value}

    async def _backup(self, body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        target = Path(text_in(body, "target"))
        if not target.is_absolute():
            raise ConfigError("the backup's target must be an absolute path")
        size = self._parts.journal.head.size  # the backup begins with this very head; nothing runs in between
        await self._parts.journal.backup(target)
        await self._parts.journal.append(OperatorAction("backup", operator, str(target)), urgent=True)
        return {"target": str(target), "size": size}


def _der(body: JsonObject, name: str) -> bytes:
    try:
        return base64.b64decode(text_in(body, name), validate=True)
    except binascii.Error as error:
        raise MalformedRequest(f"{name} is not base64") from error


def _pem_certificates(pem: str) -> list[bytes]:
    """DER of every certificate in a PEM text, in its order."""
    end = "-----END CERTIFICATE-----"
    begin = "-----BEGIN CERTIFICATE-----"
    try:
        found = [ssl.PEM_cert_to_DER_cert(begin + part.split(begin, 1)[1] + end) for part in pem.split(end) if begin in part]
    except ValueError as error:
        raise MalformedRequest("a certificate in the file is not PEM") from error
    if not found:
        raise MalformedRequest("the file holds no PEM certificate")
    return found


def _key_spec(body: JsonObject) -> KeySpec:
    try:
        return KeySpec(text_in(body, "key_type"))
    except ValueError as error:
        raise MalformedRequest(f"known key types are {', '.join(spec.value for spec in KeySpec)}") from error


def _step(step: CeremonyStep) -> JsonObject:
    return {
        "generation": step.generation,
        "protocol": step.protocol,
        "der": base64.b64encode(step.der).decode(),
        "warnings": list(step.warnings),
    }

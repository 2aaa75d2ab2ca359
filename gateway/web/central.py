"""What operators ask for about central, on the control socket: join, its state, bundles carried by hand."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from gateway.errors import ConfigError, MalformedRequest
from gateway.web.unix_rest import Answer, JsonObject, text_in


class CentralOperations(Protocol):
    """What is needed of the gateway's side of store and forward."""

    def report(self) -> JsonObject: ...

    def nudge(self) -> None:
        """Try to reach central now, whatever the pause after the last failure: somebody has plugged the cable in."""

    async def join(self, url: str, code: str, subject: str, operator: str) -> JsonObject:
        """Over the network; returns who central is and what it certified."""

    async def join_request(self, code: str, subject: str, operator: str) -> bytes:
        """The same by files: what is to be carried to central."""

    async def join_answer(self, answer: bytes, code: str, operator: str) -> JsonObject:
        """... and what came back."""

    async def export_bundle(self, target: Path, *, since: int | None, plain: bool, operator: str) -> JsonObject:
        """Everything that central has not confirmed, or everything from record ``since`` on, into a new file.

        Encrypted to central where its certificate for that is known, unless ``plain``.
        """

    async def import_bundle(self, source: Path, *, operator: str) -> JsonObject:
        """Central's answer: receipt and desired document."""

    async def close_journal(self, reason: str, operator: str) -> JsonObject:
        """The last record: this hardware is replaced."""


def central_answers(operations: CentralOperations) -> tuple[tuple[str, str, Answer], ...]:
    """Method, path and answer of each request."""

    async def report(_body: JsonObject, _operator: str, _path: Mapping[str, str]) -> JsonObject:
        return operations.report()

    async def nudge(_body: JsonObject, _operator: str, _path: Mapping[str, str]) -> JsonObject:
        operations.nudge()
        return operations.report()

    async def join(body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        return await operations.join(text_in(body, "url"), text_in(body, "code"), text_in(body, "subject"), operator)

    async def join_request(body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        request = await operations.join_request(text_in(body, "code"), text_in(body, "subject"), operator)
        return {"request": base64.b64encode(request).decode()}

    async def join_answer(body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        try:
            answer = base64.b64decode(text_in(body, "answer"), validate=True)
        except binascii.Error as error:
            raise MalformedRequest("answer is not base64") from error
        return await operations.join_answer(answer, text_in(body, "code"), operator)

    async def export_bundle(body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        since = body.get("since")
        if since is not None and (type(since) is not int or since < 0):
            raise MalformedRequest("since must be a record's number")
        plain = body.get("plain", False)
        if not isinstance(plain, bool):
            raise MalformedRequest("plain must be true or false")
        return await operations.export_bundle(_absolute(body, "target"), since=since, plain=plain, operator=operator)

    async def import_bundle(body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        return await operations.import_bundle(_absolute(body, "source"), operator=operator)

    async def close_journal(body: JsonObject, operator: str, _path: Mapping[str, str]) -> JsonObject:
        return await operations.close_journal(text_in(body, "reason"), operator)

    return (
        ("GET", "/central", report),
        ("POST", "/central/now", nudge),
        ("POST", "/central/join", join),
        ("POST", "/central/join-request", join_request),
        ("POST", "/central/join-answer", join_answer),
        ("POST", "/central/export", export_bundle),
        ("POST", "/central/import", import_bundle),
        ("POST", "/central/close", close_journal),
    )


def _absolute(body: JsonObject, name: str) -> Path:
    path = Path(text_in(body, name))
    if not path.is_absolute():
        raise ConfigError(f"{name} must be an absolute path")
    return path

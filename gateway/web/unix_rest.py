"""REST under ``/api/v1`` on a socket of the file system: how the command line talks to a running daemon.

Whoever may open the socket (mode 0600 in a 0700 directory) is an operator; the kernel says which user it is (``SO_PEERCRED``),
and that name goes into the records, never one that the client sent. Errors are problem documents (RFC 9457) with the class name
of :mod:`gateway.errors` in ``error``. Bodies and answers are JSON objects.
"""

from __future__ import annotations

import json
import os
import pwd
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TypeAlias

from aiohttp import web

from gateway.errors import ConfigError, GatewayError, MalformedRequest, Unavailable
from gateway.journal.canonical import JsonValue

JsonObject: TypeAlias = dict[str, JsonValue]
#: Gives the answer to a body, for an operator, with the variable parts of the path.
Answer: TypeAlias = Callable[[JsonObject, str, Mapping[str, str]], Awaitable[JsonObject]]
#: Method, path below ``/api/v1`` and answer.
Answers: TypeAlias = tuple[tuple[str, str, Answer], ...]
#: ``struct ucred`` of unix(7): process, user, group.
_UCRED = struct.Struct("3i")
_MAX_BODY = 1 << 20  # a chain of CA certificates with post-quantum keys is the largest thing that is sent


class UnixRest:
    """The listener. ``answers`` is asked when it starts."""

    def __init__(self, answers: Callable[[], Answers]) -> None:
        self._table = answers
        self._runner: web.AppRunner | None = None

    async def start(self, path: Path) -> None:
        """Listen on ``path``; a socket that a crash left behind is replaced. Raises ConfigError."""
        application = web.Application(client_max_size=_MAX_BODY)
        application.add_routes(
            [web.route(method, f"/api/v1{path}", _handler(answer)) for method, path, answer in self._table()]
        )
        runner = web.AppRunner(application, access_log=None, handle_signals=False)
        await runner.setup()
        listening = _bind(path)
        await web.SockSite(runner, listening).start()
        self._runner = runner

    async def close(self) -> None:
        """Let running requests end, then stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None


def _bind(path: Path) -> socket.socket:
    """A listening socket that only this user can open, from its first moment on."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path.unlink(missing_ok=True)  # the journal's lock says that nobody else serves this state directory
    before = os.umask(0o177)
    try:
        listening.bind(str(path))
    except OSError as error:
        listening.close()
        raise ConfigError(f"the control socket {path} cannot be made: {error}") from error
    finally:
        os.umask(before)
    return listening


def _handler(answer: Answer) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Around each answer: read the body, name the operator, turn an error into a problem document."""

    async def handle(request: web.Request) -> web.Response:
        try:
            return web.json_response(await answer(await _body(request), _operator(request), request.match_info))
        except GatewayError as error:
            return _problem(error)

    return handle


async def _body(request: web.Request) -> JsonObject:
    if request.method != "POST":
        return {}
    try:
        body = json.loads(await request.read())
    except ValueError as error:
        raise MalformedRequest("the body is not JSON") from error
    if not isinstance(body, dict):
        raise MalformedRequest("the body is not a JSON object")
    return body


def _operator(request: web.Request) -> str:
    """The peer's user name, as the kernel knows it."""
    peer = request.transport.get_extra_info("socket") if request.transport is not None else None
    if peer is None:
        raise MalformedRequest("the connection is gone")
    _, uid, _ = _UCRED.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid-{uid}"


def _problem(error: GatewayError) -> web.Response:
    """RFC 9457."""
    problem: JsonObject = {
        "title": type(error).__name__,
        "status": error.http_status,
        "detail": str(error),
        "error": type(error).__name__,
        "hint": error.hint,
    }
    if isinstance(error, Unavailable):
        problem["retry_after"] = error.retry_after
    return web.json_response(problem, status=error.http_status, content_type="application/problem+json")


def text_in(body: JsonObject, name: str) -> str:
    """The text ``name`` of a body, empty when it is not there. Raises MalformedRequest."""
    value = body.get(name, "")
    if not isinstance(value, str):
        raise MalformedRequest(f"{name} must be a text")
    return value


def number_in(body: JsonObject, name: str) -> int:
    """The number ``name`` of a body. Raises MalformedRequest."""
    value = body.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise MalformedRequest(f"{name} must be a whole number")
    return value


def serial_in(text: str) -> int:
    """A serial number in hex. Raises MalformedRequest."""
    try:
        serial = int(text, 16)
    except ValueError as error:
        raise MalformedRequest("a serial number is a number in hex") from error
    if serial <= 0:
        raise MalformedRequest("a serial number is positive")
    return serial

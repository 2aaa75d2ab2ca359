"""What every REST interface over HTTPS does alike: find the route, read a JSON body, say what speaks against a request.

A refusal is a problem document (RFC 9457). A change carries an ``Idempotency-Key``: a browser sends such a field to its own
origin only, so it also keeps other sites' pages from acting in somebody's name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final, TypeVar

from aiohttp import web

from gateway.errors import (
    Forbidden,
    GatewayError,
    MalformedRequest,
    NotFound,
    RequestError,
    Unauthenticated,
    Unavailable,
)
from gateway.journal.canonical import JsonValue
from gateway.web.routes import Reply, Route

P = TypeVar("P")
PROBLEM_TYPE: Final = "application/problem+json"
_KEY = re.compile(r"[\x21-\x7e]{8,128}")
_SAME_SITE = ("", "none", "same-origin")


class BadMethod(RequestError):
    http_status = 405

    def __init__(self, message: str, allowed: Sequence[str]) -> None:
        super().__init__(message)
        self.allowed = ", ".join(allowed)


class KeyReused(RequestError):
    """RFC 9457 problem of the Idempotency-Key header field's draft."""

    http_status = 422
    hint = "A new request needs a new Idempotency-Key."


def find_route(routes: Sequence[Route[P]], method: str, path: str, description: str) -> tuple[Route[P], dict[str, str]]:
    """The route for a raw path below the interface's prefix, and the path's variables. ``description`` is where the interface
    is described. Raises NotFound, BadMethod.
    """
    others = []
    for route in routes:
        variables = route.match(path)
        if variables is not None:
            if route.method == method:
                return route, variables
            others.append(route.method)
    if others:
        raise BadMethod(f"{method} is not possible here, use {' or '.join(sorted(others))}", sorted(others))
    raise NotFound(f"there is nothing at this address; {description} says what there is")


def idempotency_key(request: web.BaseRequest) -> str:
    """Raises MalformedRequest, and Forbidden for a request that another site's page makes."""
    if request.headers.get("Sec-Fetch-Site", "").lower() not in _SAME_SITE:
        raise Forbidden("another site's page must not change anything here")
    key = request.headers.get("Idempotency-Key", "")
    if not _KEY.fullmatch(key):
        raise MalformedRequest("a change needs an Idempotency-Key of 8 to 128 characters, a new one for each request")
    return key


def json_object(content: bytes) -> dict[str, JsonValue]:
    """A body; nothing counts as an empty object. Raises MalformedRequest."""
    try:
        body = json.loads(content) if content else {}
    except (ValueError, RecursionError) as error:
        raise MalformedRequest("the body is not JSON") from error
    if not isinstance(body, dict):
        raise MalformedRequest("the body is not a JSON object")
    return body


def octets_of(reply: Reply) -> bytes:
    if isinstance(reply.content, bytes):
        return reply.content
    return json.dumps(reply.content, ensure_ascii=False).encode()


def response(reply: Reply) -> web.Response:
    headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **reply.head, "Content-Type": reply.media}
    if reply.status == 204:
        del headers["Content-Type"]
        return web.Response(status=204, headers=headers)
    return web.Response(body=octets_of(reply), status=reply.status, headers=headers)


def problem(error: GatewayError, kinds: str, challenge: str) -> Reply:
    """RFC 9457. ``kinds`` begins the name of every kind of problem, ``challenge`` is the WWW-Authenticate of a 401."""
    status = error.http_status
    body: dict[str, JsonValue] = {
        "type": kinds + type(error).__name__, "title": type(error).__name__, "status": status, "detail": str(error),
        "hint": error.hint,
    }  # fmt: skip
    head = {}
    if isinstance(error, Unavailable):
        head["Retry-After"] = str(error.retry_after)
    if isinstance(error, BadMethod):
        head["Allow"] = error.allowed
    if isinstance(error, Unauthenticated):
        head["WWW-Authenticate"] = challenge
    return Reply(body, status, PROBLEM_TYPE, head)

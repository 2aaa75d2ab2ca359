"""A change by who has read what stands there: If-Match and If-None-Match of the REST interface (RFC 9110 section 13.1)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from gateway.errors import RequestError
from sync.central.routes import Call


class Changed(RequestError):
    http_status = 412
    hint = "Read it again, and send its ETag as If-Match."


class NoPrecondition(RequestError):
    http_status = 428
    hint = "Send If-Match with the ETag that you have read, or If-None-Match: * for what must not exist."


def precondition(call: Call) -> Callable[[str], None]:
    """Compares what stands there, "" for nothing, with what the caller has read. Raises Changed, NoPrecondition."""

    def check(text: str) -> None:
        if call.if_none_match == "*":
            if text:
                raise Changed("this is set already")
        elif not call.if_match:
            raise NoPrecondition("this is changed only by who has read it")
        elif not text or call.if_match != etag(text):
            raise Changed("somebody has changed this since you read it")

    return check


def etag(text: str) -> str:
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'

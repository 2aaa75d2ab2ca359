"""The other end of :mod:`gateway.web.unix_rest`: asks a daemon, and raises the errors that it answers with."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NoReturn

import aiohttp

import gateway.errors
from gateway.errors import GatewayError, NotReady, RequestError, Unavailable
from gateway.web.unix_rest import JsonObject


class ControlClient:
    """Sends requests; an error answer becomes the exception that it describes."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def get(self, path: str) -> JsonObject:
        return await self._request("GET", path, None)

    async def post(self, path: str, body: JsonObject | None = None) -> JsonObject:
        return await self._request("POST", path, body or {})

    async def delete(self, path: str) -> JsonObject:
        return await self._request("DELETE", path, None)

    async def _request(self, method: str, path: str, body: JsonObject | None) -> JsonObject:
        try:
            async with self._session.request(method, f"http://control/api/v1{path}", json=body) as response:
                answer: JsonObject = await response.json(content_type=None)
                if response.status >= 400:
                    _raise(answer)
                return answer
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise NotReady(f"the gateway ended the conversation: {type(error).__name__}") from error


def _raise(problem: JsonObject) -> NoReturn:
    """Turn a problem document (RFC 9457) back into the error it was made from."""
    name, detail = str(problem.get("error", "")), str(problem.get("detail", "the gateway refused"))
    kind: object = getattr(gateway.errors, name, RequestError)
    if not (isinstance(kind, type) and issubclass(kind, GatewayError)):
        kind = RequestError
    if issubclass(kind, Unavailable):
        retry_after = problem.get("retry_after")
        raise kind(detail, retry_after=retry_after if isinstance(retry_after, int) else 10)
    raise kind(detail)


def daemon_answers(path: Path) -> bool:
    """Whether a daemon listens on the socket; a file that a crash left behind does not answer."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[ControlClient]:
    """A client of the daemon that listens on ``path``."""
    connector = aiohttp.UnixConnector(path=str(path))
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)  # a backup or a ceremony takes as long as it takes
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        yield ControlClient(session)

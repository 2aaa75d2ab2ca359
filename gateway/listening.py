"""The sockets that devices connect to: bound before anything else is built, because the port stands in every certificate.

With socket activation (sd_listen_fds(3)) systemd has opened them already; ``FileDescriptorName=http`` and ``https`` in the
socket unit tell them apart.
"""

from __future__ import annotations

import os
import socket
from typing import Protocol

from gateway.errors import OperatorError

#: SD_LISTEN_FDS_START of sd_listen_fds(3).
_FIRST_DESCRIPTOR = 3


class Address(Protocol):
    """A ``[listen.NAME]`` table."""

    @property
    def host(self) -> str: ...

    @property
    def port(self) -> int: ...

    @property
    def enabled(self) -> bool: ...


def bind(name: str, address: Address) -> socket.socket | None:
    """The listening socket of the listener ``name``; ``None`` when it is switched off. Raises OperatorError (port in use)."""
    if not address.enabled:
        return None
    if (inherited := _inherited(name)) is not None:
        return inherited
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=1024, reuse_port=False)
    except OSError as error:
        raise OperatorError(f"listen.{name}: {address.host} port {address.port} cannot be used: {error.strerror}") from error


def port(listening: socket.socket | None) -> int:
    """0 when there is no listener."""
    return 0 if listening is None else int(listening.getsockname()[1])


def _inherited(name: str) -> socket.socket | None:
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return None
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    if name not in names[: int(os.environ.get("LISTEN_FDS", "0"))]:
        return None
    return socket.socket(fileno=_FIRST_DESCRIPTOR + names.index(name))

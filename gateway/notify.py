"""Tell the service manager how we are: systemd's datagrams, written natively (sd_notify(3), sd_watchdog_enabled(3)).

Outside systemd there is no ``NOTIFY_SOCKET`` and every call is a no-op. A notification that cannot be delivered is dropped:
the service manager's own timeout decides then, and the gateway must not stop serving because of it.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping


class ServiceNotifier:
    """Sends state changes to the socket that ``environment`` names; ``watchdog_interval`` is in seconds, None when off."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        variables = os.environ if environment is None else environment
        address = variables.get("NOTIFY_SOCKET", "")
        #: A leading @ means Linux's abstract name space, where the name starts with a zero byte.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_interval = self._interval(variables)

    @staticmethod
    def _interval(variables: Mapping[str, str]) -> float | None:
        """Half of WATCHDOG_USEC (microseconds), as sd_watchdog_enabled(3) advises, if it is meant for this process."""
        microseconds = variables.get("WATCHDOG_USEC", "")
        meant_for = variables.get("WATCHDOG_PID", "")
        if not microseconds.isdecimal() or int(microseconds) == 0 or (meant_for and meant_for != str(os.getpid())):
            return None
        return int(microseconds) / 2_000_000

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, text: str) -> None:
        self._send(f"STATUS={text}")

    def stopping(self) -> None:
        self._send("STOPPING=1\nSTATUS=stopping")

    def watchdog(self) -> None:
        self._send("WATCHDOG=1")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.setblocking(False)
            channel.sendto(message.encode(), self._address)

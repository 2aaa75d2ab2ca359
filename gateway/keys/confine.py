"""What a child that handles secrets does first: dies with its parent, leaves no core dump, cannot be traced."""

from __future__ import annotations

import ctypes
import resource
import signal
import socket

from gateway.keys.frames import HEADER, MAX_PAYLOAD, Kind, frame

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_DUMPABLE = 4


def confine() -> None:
    """Call before any secret is received. The end of the socketpair is the second sign that the parent is gone."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # a hung vendor library would not see the socket close
    prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the parent decides


class Channel:
    """The child's end of the socketpair, blocking."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(True)

    def receive(self) -> tuple[Kind, bytes] | None:
        """The next request, or ``None`` when the parent is gone."""
        header = self._exactly(HEADER.size)
        if header is None:
            return None
        length, kind = HEADER.unpack(header)
        payload = self._exactly(length) if length <= MAX_PAYLOAD else None
        return None if payload is None else (Kind(kind), payload)

    def send(self, kind: Kind, payload: bytes) -> None:
        self._socket.sendall(frame(kind, payload))

    def _exactly(self, size: int) -> bytes | None:
        received = bytearray()
        while len(received) < size:
            try:
                part = self._socket.recv(size - len(received))
            except ConnectionError:
                return None
            if not part:
                return None
            received += part
        return bytes(received)

"""Streams of octets to devices: serial ports, TCP, SSH, Unix sockets, other programs.

``open_stream(address)`` opens any of them. Datagrams are no stream: :mod:`provisioning.transports.udp`.
"""

from __future__ import annotations

from provisioning.transports.registry import open_stream
from provisioning.transports.stream import Known, Stream

__all__ = ["Known", "Stream", "open_stream"]

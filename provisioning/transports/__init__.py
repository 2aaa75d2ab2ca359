"""Streams of octets to devices: serial ports, TCP, SSH, Unix sockets, other programs."""

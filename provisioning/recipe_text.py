"""Between the octets of the line and the text of a device: what a recipe uploads and what it captures. Pure."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Final

from gateway.errors import DeviceRefused
from provisioning.patterns import Pattern

#: What text from elsewhere may not hold when it goes into a command: quotes, and what a shell would take for its own.
_UNSAFE: Final = re.compile(r"[^ -~]|['\"`$]")
_LABELS: Final = {"certificate": "CERTIFICATE", "chain": "CERTIFICATE", "private_key": "PRIVATE KEY"}
_ARMOUR: Final = re.compile(r"-----BEGIN [A-Z0-9 ]{1,40}-----([^-]*)-----END ")


def safe_text(value: str, name: str) -> str:
    """``value``, unless it could end a quoted text in a command. Raises DeviceRefused."""
    if _UNSAFE.search(value):
        raise DeviceRefused(f"{name} has characters that no recipe can carry: quotes, $ or what is not printable ASCII")
    return value


def may_be_pem(source: str) -> bool:
    """Whether this name's octets have a PEM form."""
    return source in _LABELS


def chunks(value: str | bytes, source: str, encoding: str, size: int) -> list[str]:
    """What an upload sends, as texts of at most ``size`` characters; the lines of PEM stay as they are."""
    if encoding == "pem" and isinstance(value, bytes):
        return [line for element in _elements(value) for line in _pem(element, _LABELS[source])]
    octets = value.encode() if isinstance(value, str) else value
    if encoding == "text":
        return [line[at : at + size] for line in octets.decode().splitlines() for at in range(0, max(len(line), 1), size)]
    text = octets.hex() if encoding == "hex" else base64.b64encode(octets).decode()
    return [text[at : at + size] for at in range(0, len(text), size)]


def _pem(element: bytes, label: str) -> list[str]:
    text = base64.b64encode(element).decode()
    return [f"-----BEGIN {label}-----", *(text[at : at + 64] for at in range(0, len(text), 64)), f"-----END {label}-----"]


def _elements(octets: bytes) -> list[bytes]:
    """The DER elements that stand one behind the other."""
    found = []
    while octets:
        length, start = octets[1] if len(octets) > 1 else 0, 2
        if length & 0x80:
            start += length & 0x7F
            length = int.from_bytes(octets[2:start], "big")
        found.append(octets[: start + length])
        octets = octets[start + length :]
    return found


def decoded(text: str, encoding: str) -> bytes:
    """The octets that a captured text stands for; of PEM the first block. Raises ValueError."""
    if not text:
        return b""
    if encoding == "pem":
        armour = _ARMOUR.search(text)
        if armour is None:
            raise ValueError("no PEM")
        text = armour[1]
    text = "".join(text.split())
    if encoding == "hex":
        return bytes.fromhex(text)
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("no base64") from error


def taken(pattern: Pattern, text: str, values: Mapping[str, str]) -> str:
    """The group ``value`` of the first line that matches; empty when none does."""
    for line in text.split("\n"):
        if (found := pattern.search(line, values)) is not None:
            return found["value"] or ""
    return ""


def printable(text: str, hidden: tuple[str, ...]) -> str:
    """The end of what a device said, safe to show: without the secrets in it."""
    for secret in hidden:
        text = text.replace(secret, "...")
    line = " ".join(text.split())[-200:]
    return "".join(character if character.isprintable() else "?" for character in line) or "nothing"

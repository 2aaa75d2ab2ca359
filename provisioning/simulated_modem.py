"""A made-up modem for line integrators without hardware: AT commands, a P-256 key of its own, files that survive a restart.

No maker sells it: ``provisioning/recipes/at-modem.toml`` drives it and shows how such a recipe is written. Commands end with a
carriage return and are answered with lines and ``OK``, ``ERROR`` or ``+CME ERROR: N``; only ``AT+SYNC=TOKEN`` is answered with
``+SYNC: TOKEN`` alone.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import cast

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_der_private_key

from gateway.errors import MalformedRequest
from gateway.keys import durable
from gateway.pki.names import name_from_text

_COMMAND = re.compile(r"AT\+([A-Z]{1,16})(\?|=\"?([^\"]*)\"?)?")
_EXISTS, _ABSENT, _BAD_SUM, _LOCKED, _BAD_VALUE = 10, 11, 13, 14, 15
_MAX_CERTIFICATE = 8192
_PAGE = 64


class Cut(Exception):
    """The power went off in the middle of a write."""


class _Failed(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class Modem:
    """One modem. ``cut_at`` is the number of the write at which its power goes off, half of it done; 0 is never."""

    def __init__(self, folder: Path, *, slow_key_s: float = 0.0, cut_at: int = 0) -> None:
        self._folder = folder
        self._slow_key_s = slow_key_s
        self._cut_at = cut_at
        self._upload: tuple[str, bytearray] | None = None
        self.resets = False  # whether the last command was a reset
        self._commands: dict[str, Callable[[str, str], Awaitable[list[str]]]] = {
            "CGSN": self._chip,
            "CGMM": self._model,
            "SERIAL": self._serial,
            "KEYSTATE": self._key_state,
            "KEYGEN": self._key_gen,
            "CSR": self._csr,
            "CERTBEGIN": self._cert_begin,
            "CERTDATA": self._cert_data,
            "CERTEND": self._cert_end,
            "CERTR": self._cert_read,
            "SIGN": self._sign,
            "LOCK": self._lock,
            "RESET": self._reset,
        }

    def boot(self) -> None:
        """What is only in memory is gone."""
        self._upload = None
        self.resets = False

    async def answer(self, line: str) -> list[str]:
        """The lines that answer a command. Raises Cut."""
        found = _COMMAND.fullmatch(line.strip())
        if line.strip() in {"AT", "ATE0", "ATE1", ""}:
            return ["OK"] if line.strip() else []
        if found is None:
            return ["ERROR"]
        if found[1] == "SYNC":
            return [f"+SYNC: {found[3] or ''}"]
        command = self._commands.get(found[1])
        if command is None:
            return ["ERROR"]
        try:
            return [*await command(found[2] or "", found[3] or ""), "OK"]
        except _Failed as failure:
            return [f"+CME ERROR: {failure.code}"]

    def _read(self, name: str) -> bytes:
        path = self._folder / name
        return path.read_bytes() if path.exists() else b""

    def _write(self, name: str, content: bytes) -> None:
        """A made-up flash: a write within a page is whole or not done, a longer one may be half."""
        if self._read("locked"):
            raise _Failed(_LOCKED)
        self._cut_at -= 1
        if self._cut_at == 0:
            if len(content) > _PAGE:
                durable.replace(self._folder / name, content[: len(content) // 2])
            raise Cut
        durable.replace(self._folder / name, content)

    def _key(self) -> ec.EllipticCurvePrivateKey:
        try:
            return cast(ec.EllipticCurvePrivateKey, load_der_private_key(self._read("key"), None))
        except ValueError:  # none, or half of one
            raise _Failed(_ABSENT) from None

    def _has_key(self) -> bool:
        try:
            self._key()
        except _Failed:
            return False
        return True

    async def _chip(self, _: str, __: str) -> list[str]:
        return [self._read("chip").decode()]

    async def _model(self, _: str, __: str) -> list[str]:
        return ["SIM-MODEM 1"]

    async def _serial(self, sign: str, value: str) -> list[str]:
        if sign == "?":
            return [f"+SERIAL: {self._read('serial').decode()}"]
        if value.encode() != self._read("serial"):
            self._write("serial", value.encode())
        return []

    async def _key_state(self, _: str, __: str) -> list[str]:
        return [f"+KEYSTATE: {int(self._has_key())}"]

    async def _key_gen(self, _: str, value: str) -> list[str]:
        if value != "P256":
            raise _Failed(_BAD_VALUE)
        if self._has_key():
            raise _Failed(_EXISTS)
        await asyncio.sleep(self._slow_key_s)
        key = ec.generate_private_key(ec.SECP256R1())
        self._write("key", key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
        return []

    async def _csr(self, _: str, value: str) -> list[str]:
        try:
            builder = x509.CertificateSigningRequestBuilder(name_from_text(value))
        except MalformedRequest:
            raise _Failed(_BAD_VALUE) from None
        request = builder.sign(self._key(), hashes.SHA256())
        return [f"+CSR: {base64.b64encode(request.public_bytes(Encoding.DER)).decode()}"]

    async def _cert_begin(self, _: str, value: str) -> list[str]:
        if value not in {"0", "1"}:
            raise _Failed(_BAD_VALUE)
        self._upload = (value, bytearray())
        return []

    async def _cert_data(self, _: str, value: str) -> list[str]:
        if self._upload is None:
            raise _Failed(_ABSENT)
        try:
            self._upload[1].extend(bytes.fromhex(value))
        except ValueError:
            raise _Failed(_BAD_VALUE) from None
        if len(self._upload[1]) > _MAX_CERTIFICATE:
            raise _Failed(_BAD_VALUE)
        return []

    async def _cert_end(self, _: str, value: str) -> list[str]:
        if self._upload is None:
            raise _Failed(_ABSENT)
        slot, content = self._upload[0], bytes(self._upload[1])
        self._upload = None
        if value and hashlib.sha256(content).hexdigest() != value:
            raise _Failed(_BAD_SUM)
        if content != self._read(f"certificate-{slot}"):
            self._write(f"certificate-{slot}", content)
        return []

    async def _cert_read(self, _: str, value: str) -> list[str]:
        content = self._read(f"certificate-{value}") if value in {"0", "1"} else b""
        return [f"+CERT: {content.hex()}"] if content else []

    async def _sign(self, _: str, value: str) -> list[str]:
        try:
            message = bytes.fromhex(value)
        except ValueError:
            raise _Failed(_BAD_VALUE) from None
        return [f"+SIGN: {self._key().sign(message, ec.ECDSA(hashes.SHA256())).hex()}"]

    async def _lock(self, sign: str, value: str) -> list[str]:
        if sign == "?":
            return [f"+LOCK: {int(bool(self._read('locked')))}"]
        if value != "1":
            raise _Failed(_BAD_VALUE)
        self._write("locked", b"11")  # half of it is locked, too: a fuse does not go back
        return []

    async def _reset(self, _: str, __: str) -> list[str]:
        self.resets = True
        return []

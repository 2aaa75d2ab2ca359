"""Where a PIN comes from, and the promise that a refused PIN is never tried again.

A token counts wrong PINs and locks itself for ever, often after three. A daemon that restarts would burn them within seconds.
So every attempt is written down, durably, before it is made: a PIN that was refused, or whose first attempt was interrupted,
is not tried again by itself, whatever crashes, restarts or is plugged in again.

A PIN in a credential or file is read by the signer child alone. One that a person enters passes the daemon once, on its way to
the child, and is kept by neither after the login. The daemon knows a PIN by its Argon2id digest, the ledger by a keyed mark of
that.
"""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote

from argon2.low_level import Type, hash_secret_raw

from gateway.errors import ConfigError, IntegrityError, PinError
from gateway.keys import durable
from gateway.keys.wrapping import WrappingKey

_MAX_PIN_BYTES = 256
_CREDENTIAL_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
#: OWASP's smaller Argon2id setting; the ledger stores its HMAC under the wrapping key.
_ARGON2_PASSES = 2
_ARGON2_KIB = 19_456
_DIGEST_SIZE = 32
_MARK_SIZE = 16
_TRYING, _ACCEPTED, _REFUSED = "trying", "accepted", "refused"


@dataclass(frozen=True, slots=True)
class FilePin:
    """A systemd credential, or a file on another medium; it may appear later. The signer child reads it at each login."""

    path: Path


class OncePin:
    """A descriptor or a prompt: asked once, handed to the signer child, and forgotten. Later logins need ``unlock``."""

    def __init__(self, ask: Callable[[], str | None]) -> None:
        self._ask: Callable[[], str | None] | None = ask

    async def take(self) -> str | None:
        """The PIN at the first call, ``None`` at every other. Raises ConfigError."""
        if self._ask is None:
            return None
        ask, self._ask = self._ask, None
        return await asyncio.to_thread(ask)


PinSource: TypeAlias = FilePin | OncePin


def no_pin() -> OncePin:
    """No source: the technician enters the PIN."""
    return OncePin(lambda: None)


def pin_source(text: str, *, credentials: Path | None = None) -> PinSource:
    """Read the ``pin-source`` of a URI: ``credential:NAME``, ``file:/PATH``, ``fd:N``, ``prompt``, or empty for none.

    ``credentials`` is the directory systemd gave. Raises ConfigError.
    """
    kind, _, rest = text.partition(":")
    if not text:
        return no_pin()
    if kind == "credential" and _CREDENTIAL_NAME.fullmatch(rest):
        if credentials is None:
            raise ConfigError(f"pin-source names the credential {rest!r}, but systemd gave no credentials")
        return FilePin(credentials / rest)
    if kind == "file" and rest.startswith("/"):
        return FilePin(Path(unquote(rest)))  # three slashes (RFC 8089 section 2) are one to Path
    if kind == "fd" and rest.isdigit():
        return OncePin(lambda: _read_descriptor(int(rest)))
    if text == "prompt":
        return OncePin(lambda: getpass.getpass("PIN of the token: ") or None)
    raise ConfigError("pin-source is credential:NAME, file:/PATH, fd:NUMBER or prompt")


def read_pin(path: Path) -> str | None:
    """The PIN in a file; ``None`` while there is no file, or an empty one. For the signer child. Raises ConfigError."""
    try:
        with path.open("rb") as file:
            return _decode(file.read(_MAX_PIN_BYTES + 1))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(f"cannot read the PIN file {path.name}: {error.strerror}") from error


def _read_descriptor(descriptor: int) -> str | None:
    try:
        with os.fdopen(descriptor, "rb") as file:
            return _decode(file.read(_MAX_PIN_BYTES + 1))
    except OSError as error:
        raise ConfigError(f"cannot read the PIN from descriptor {descriptor}: {error.strerror}") from error


def _decode(content: bytes) -> str | None:
    try:
        pin = content.rstrip(b"\r\n").decode()
    except UnicodeDecodeError:
        raise ConfigError("the PIN is not UTF-8 text") from None
    check_pin(pin)
    return pin or None


def check_pin(pin: str) -> None:
    """Raises ConfigError for what cannot be a PIN."""
    if len(pin.encode()) > _MAX_PIN_BYTES or "\0" in pin:
        raise ConfigError(f"a PIN has at most {_MAX_PIN_BYTES} bytes and no NUL")


def pin_digest(pin: str, salt: bytes) -> bytes:
    """By what the daemon knows a PIN that it never sees. The signer child computes it: 20 ms and 19 MiB."""
    return hash_secret_raw(pin.encode(), salt, _ARGON2_PASSES, _ARGON2_KIB, 1, _DIGEST_SIZE, Type.ID)


class PinLedger:
    """What became of each PIN on each token, kept in one file. A PIN is named by its
    :func:`pin_digest` under :meth:`salt`. All methods block (fsync)."""

    def __init__(self, path: Path, wrapping: WrappingKey) -> None:
        self._path = path
        self._wrapping = wrapping

    def salt(self) -> bytes:
        """The salt of every digest, made on first use."""
        salt, marks = self._read()
        if not self._path.exists():
            self._write(salt, marks)
        return bytes.fromhex(salt)

    def begin(self, serial: str, digest: bytes, *, by_person: bool, last_try: bool) -> None:
        """Allow and note one attempt with a PIN on the token ``serial``; durable when it returns.

        Raises PinError, without any attempt, for a PIN that was refused before; for one whose first attempt was
        interrupted, unless a person enters it anew; and on a token's ``last_try``, unless a person enters the PIN or this
        PIN was accepted before.
        """
        salt, marks = self._read()
        mark = self._mark(serial, digest)
        known = marks.get(mark)
        if known == _REFUSED:
            raise PinError("this PIN was refused by the token before and is not tried again: enter another PIN")
        if known == _TRYING and not by_person:
            raise PinError("the first attempt with this PIN was interrupted: enter it again")
        if last_try and known != _ACCEPTED and not by_person:
            raise PinError("the token allows one last PIN attempt: enter the PIN yourself")
        if known != _ACCEPTED:
            marks[mark] = _TRYING
            self._write(salt, marks)

    def settle(self, serial: str, digest: bytes, *, accepted: bool) -> None:
        """Note how the attempt ended. Not called when that is unknown: then it stays an interrupted one."""
        salt, marks = self._read()
        mark, outcome = self._mark(serial, digest), _ACCEPTED if accepted else _REFUSED
        if marks.get(mark) != outcome:
            marks[mark] = outcome
            self._write(salt, marks)

    def _mark(self, serial: str, digest: bytes) -> str:
        # The key keeps a stolen ledger from being tried PIN by PIN: there are only so many of them.
        return self._wrapping.authenticate(b"pin\0" + serial.encode() + b"\0" + digest)[:_MARK_SIZE].hex()

    def _read(self) -> tuple[str, dict[str, str]]:
        try:
            table = json.loads(self._path.read_bytes())
            return str(table["salt"]), {str(mark): str(outcome) for mark, outcome in table["pins"].items()}
        except FileNotFoundError:
            return secrets.token_hex(16), {}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            # Starting over would allow refused PINs once more.
            raise IntegrityError(f"{self._path.name} is damaged; remove it only when you know the right PIN") from error

    def _write(self, salt: str, marks: dict[str, str]) -> None:
        durable.make_directory(self._path.parent)
        durable.replace(self._path, json.dumps({"salt": salt, "pins": marks}, indent=1).encode() + b"\n")

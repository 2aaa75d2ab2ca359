"""Who may use the REST interface: operators, known by a secret or by the key of a TLS client certificate.

``operators.json`` holds no secret::

    {"operators": [{"name": "anna", "role": "operator", "secret": "SHA-256 in hex", "client_key": "SHA-256 in hex"}]}

``secret`` is the digest of 256 random bits, so guessing is hopeless and a slow hash would protect nothing more; ``client_key``
that of the certificate's SubjectPublicKeyInfo. Either may be absent. A ``viewer`` reads, an ``operator`` changes. The file is
read again when it changes: an operator whose entry is removed is out at once.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.endpoints_file import write_whole
from gateway.errors import AlreadyExists, ConfigError, Forbidden, NotFound, Unauthenticated

VIEWER: Final = "viewer"
OPERATOR: Final = "operator"
#: So that a secret is recognised where it does not belong.
_MARK: Final = "edge-central-"
_SECRET_OCTETS = 32
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_BEARER = "bearer "


class UnknownOperator(Unauthenticated):
    hint = "Send Authorization: Bearer with the secret of an operator, or a client certificate whose key is registered."


class ReadsOnly(Forbidden):
    hint = "Ask somebody with the role operator."


@dataclass(frozen=True, slots=True)
class Operator:
    name: str
    role: str

    def check(self, *, changes: bool) -> None:
        """Raises Forbidden."""
        if changes and self.role != OPERATOR:
            raise ReadsOnly(f"{self.name} may read and change nothing")


@dataclass(frozen=True, slots=True)
class _Entry:
    operator: Operator
    secret: str
    client_key: str


class Operators:
    """The file ``path``; without one nobody is an operator."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int, int] | None = None
        self._entries: tuple[_Entry, ...] = ()

    def who(self, authorization: str, chain: Sequence[bytes]) -> Operator:
        """By the Authorization header field, else by the client's certificate (DER), whose chain TLS has verified.

        Raises Unauthenticated; ConfigError for a file that cannot be read, and then nobody gets in.
        """
        entries = self._current()
        if authorization[: len(_BEARER)].lower() == _BEARER:
            digest = hashlib.sha256(authorization[len(_BEARER) :].strip().encode()).hexdigest()
            for entry in entries:
                if entry.secret and secrets.compare_digest(entry.secret, digest):
                    return entry.operator
            raise UnknownOperator("nobody has this secret")
        if chain:
            digest = _client_key(chain[0])
            for entry in entries:
                if entry.client_key and entry.client_key == digest:
                    return entry.operator
        raise UnknownOperator("who asks is not known")

    def _current(self) -> tuple[_Entry, ...]:
        try:
            status = os.stat(self._path)
            seen = (status.st_mtime_ns, status.st_size, status.st_ino)
            if seen != self._seen:
                self._entries = _read(self._path.read_bytes())
                self._seen = seen
        except FileNotFoundError:
            self._entries, self._seen = (), None
        except OSError as error:
            raise ConfigError(f"{self._path} cannot be read: {error.strerror}") from error
        return self._entries


def add_operator(path: Path, name: str, role: str, *, certificate: bytes | None = None) -> str:
    """Enter an operator; returns the secret, which is nowhere else, or "" for one who has a ``certificate`` (DER).

    Raises AlreadyExists, ConfigError.
    """
    if not _NAME.fullmatch(name) or role not in (VIEWER, OPERATOR):
        raise ConfigError(f"an operator has a name of letters and digits, and the role {OPERATOR} or {VIEWER}")
    entries = _listed(path)
    if any(each["name"] == name for each in entries):
        raise AlreadyExists(f"there is an operator {name} already")
    secret = "" if certificate is not None else _MARK + secrets.token_urlsafe(_SECRET_OCTETS)
    known = {"name": name, "role": role}
    if certificate is not None:
        known["client_key"] = _client_key(certificate)
    else:
        known["secret"] = hashlib.sha256(secret.encode()).hexdigest()
    _write(path, [*entries, known])
    return secret


def remove_operator(path: Path, name: str) -> None:
    """From the next request on. Raises NotFound, ConfigError."""
    entries = _listed(path)
    left = [each for each in entries if each["name"] != name]
    if len(left) == len(entries):
        raise NotFound(f"there is no operator {name[:80]!r}")
    _write(path, left)


def _listed(path: Path) -> list[dict[str, str]]:
    """The entries as they stand in the file."""
    if not path.exists():
        return []
    content = path.read_bytes()
    _read(content)
    found: list[dict[str, str]] = json.loads(content)["operators"]
    return found


def _write(path: Path, entries: list[dict[str, str]]) -> None:
    write_whole(path, json.dumps({"operators": entries}, indent=1).encode() + b"\n", mode=0o600)


def _client_key(certificate: bytes) -> str:
    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except ValueError as error:
        raise UnknownOperator("the TLS client certificate cannot be read") from error
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _read(content: bytes) -> tuple[_Entry, ...]:
    try:
        listed = json.loads(content)["operators"]
        found = tuple(_entry(each) for each in listed)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError("the operators' file is not as it should be: edge-central operators writes it") from error
    if len({entry.operator.name for entry in found}) != len(found):
        raise ConfigError("the operators' file names somebody twice")
    return found


def _entry(each: dict[str, str]) -> _Entry:
    entry = _Entry(Operator(each["name"], each["role"]), each.get("secret", ""), each.get("client_key", ""))
    digests = [digest for digest in (entry.secret, entry.client_key) if digest]
    fits = _NAME.fullmatch(entry.operator.name) and entry.operator.role in (VIEWER, OPERATOR)
    if not fits or not digests or not all(_DIGEST.fullmatch(digest) for digest in digests):
        raise ValueError
    return entry

"""The key that wraps all other keys at rest: AES-256-GCM under 256 random bits.

Where it comes from, best first: a systemd credential ``wrapping-key`` (which systemd can seal to the TPM), a file protected
by a passphrase (Argon2id, RFC 9106), or a plain 0600 file beside the keys. The last one keeps a stolen backup of the
``*.key`` files useless, but not a stolen disk.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
from pathlib import Path

from argon2.low_level import Type, hash_secret_raw
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.errors import AlreadyExists, ConfigError, IntegrityError, PinError
from gateway.keys import durable

KEY_SIZE = 32
CREDENTIAL = "wrapping-key"
_NONCE_SIZE = 12  # NIST SP 800-38D section 5.2.1.1
_FORMAT = "edge-gateway-wrapping-1"
_FILE_LABEL = "wrapping-key"
#: RFC 9106 section 4, second recommended option (64 MiB, 3 passes): unlocking happens once per start.
_ARGON2_PASSES = 3
_ARGON2_KIB = 65_536
_ARGON2_LANES = 4


def credentials_directory() -> Path | None:
    """Where systemd put this service's credentials (systemd.exec(5), ``LoadCredential=``), if it did."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    return Path(directory) if directory else None


class WrappingKey:
    """Wraps secrets and authenticates small facts. Its ``repr`` shows nothing."""

    __slots__ = ("_aead", "_mac_key")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_SIZE:
            raise ConfigError(f"a wrapping key has {KEY_SIZE} bytes, not {len(key)}")
        self._aead = AESGCM(key)
        self._mac_key = hmac.digest(key, b"edge-gateway authentication key", "sha256")

    @classmethod
    def load_or_create(cls, path: Path, *, credentials: Path | None = None, passphrase: str | None = None) -> WrappingKey:
        """The credential ``wrapping-key`` if ``credentials`` holds one, else the file ``path``, made on first use.

        A ``passphrase`` protects the file; one that was given when the file was made is needed ever after. Raises
        PinError for a wrong or missing passphrase, ConfigError for a file or credential that is no wrapping key.
        """
        if credentials is not None and (credentials / CREDENTIAL).exists():
            return cls(_parse(_read(credentials / CREDENTIAL), "the credential wrapping-key"))
        if not path.exists():
            key = secrets.token_bytes(KEY_SIZE)
            content = key.hex().encode() + b"\n" if passphrase is None else _lock(key, passphrase)
            durable.make_directory(path.parent)
            try:
                durable.write_new(path, content)
            except AlreadyExists:
                pass  # another process was first: its key is the key
            else:
                return cls(key)
        content = _read(path)
        if content.startswith(b"{"):
            return cls(_unlock(content, passphrase))
        return cls(_parse(content, path.name))

    def wrap(self, name: str, secret: bytes) -> bytes:
        """``nonce || ciphertext || tag``, bound to ``name``: a file renamed to another key's name does not open."""
        nonce = secrets.token_bytes(_NONCE_SIZE)
        return nonce + self._aead.encrypt(nonce, secret, name.encode())

    def unwrap(self, name: str, wrapped: bytes) -> bytes:
        """The inverse of :meth:`wrap`. Raises IntegrityError when the bytes, the name or the wrapping key are others."""
        try:
            return self._aead.decrypt(wrapped[:_NONCE_SIZE], wrapped[_NONCE_SIZE:], name.encode())
        except (InvalidTag, ValueError):
            raise IntegrityError(f"the stored key {name!r} was changed or belongs to another wrapping key") from None

    def authenticate(self, message: bytes) -> bytes:
        """HMAC-SHA-256 under a key derived from this one: recognises a message without storing it."""
        return hmac.digest(self._mac_key, message, "sha256")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path.name}: {error.strerror}") from error


def _parse(content: bytes, source: str) -> bytes:
    """32 raw bytes, or the same as 64 hexadecimal digits with white space around."""
    if len(content) == KEY_SIZE:
        return content
    try:
        key = bytes.fromhex(content.decode("ascii"))
    except ValueError:
        key = b""
    if len(key) != KEY_SIZE:
        raise ConfigError(f"{source} is not a wrapping key: 32 bytes or 64 hexadecimal digits are expected")
    return key


def _derive(passphrase: str, salt: bytes) -> bytes:
    return hash_secret_raw(passphrase.encode(), salt, _ARGON2_PASSES, _ARGON2_KIB, _ARGON2_LANES, KEY_SIZE, Type.ID)


def _lock(key: bytes, passphrase: str) -> bytes:
    salt = secrets.token_bytes(16)
    wrapped = WrappingKey(_derive(passphrase, salt)).wrap(_FILE_LABEL, key)
    return json.dumps({"format": _FORMAT, "salt": salt.hex(), "wrapped": wrapped.hex()}).encode() + b"\n"


def _unlock(content: bytes, passphrase: str | None) -> bytes:
    if passphrase is None:
        raise PinError("the wrapping key is protected by a passphrase, and none was given")
    try:
        table = json.loads(content)
        if table["format"] != _FORMAT:
            raise ConfigError("the wrapping key file has an unknown format")
        salt, wrapped = bytes.fromhex(table["salt"]), bytes.fromhex(table["wrapped"])
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError("the wrapping key file is damaged") from error
    try:
        return WrappingKey(_derive(passphrase, salt)).unwrap(_FILE_LABEL, wrapped)
    except IntegrityError:
        raise PinError("the passphrase of the wrapping key is wrong") from None

"""Checkpoints of the journal as C2SP signed notes (c2sp.org/tlog-checkpoint, c2sp.org/signed-note). Pure.

::

    line.example/gateway-7            origin: who writes this log
    20852163                          number of records
    CsUYapGGPo4dkMgIAUqom/Xajj7h...   RFC 6962 root, base64

    — line.example/gateway-7 Az3grl... signature: base64(key ID || Ed25519 over the text above the empty line)

A *verifier key* (vkey) is ``name+hex(key ID)+base64(0x01 || public key)``, the text form that the C2SP tools read. Signatures
of other keys (a witness, central's receipt) may stand beside ours and are ignored here, as the specification asks.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gateway.errors import IntegrityError
from gateway.journal.merkle import HASH_BYTES

_ED25519 = b"\x01"  # signature type of signed-note
_DASH = "\u2014 "  # em dash and space
_MOST_SIGNATURES = 32  # signed-note: at least 16 must be accepted
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_NAME = re.compile(r"[^\s+]+")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The journal's state at one size."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The note text that is signed."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def _key_id(name: str, public: bytes) -> bytes:
    return sha256(name.encode() + b"\n" + _ED25519 + public).digest()[:4]


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or _CONTROL.search(name):
        raise ValueError("a key name is not empty and holds no space, plus or control character")


def verifier_key(name: str, public_key: Ed25519PublicKey) -> str:
    """The vkey of a key: what an auditor needs to check our checkpoints."""
    _check_name(name)
    public = public_key.public_bytes_raw()
    return f"{name}+{_key_id(name, public).hex()}+{base64.b64encode(_ED25519 + public).decode()}"


def read_verifier_key(vkey: str) -> tuple[str, Ed25519PublicKey]:
    """The name and key in a vkey. Raises IntegrityError unless it is exactly what :func:`verifier_key` writes."""
    try:
        name, _, encoded = vkey.split("+", 2)
        data = base64.b64decode(encoded, validate=True)
        key = Ed25519PublicKey.from_public_bytes(data[1:])
        if verifier_key(name, key) != vkey:
            raise ValueError("not canonical")
    except (ValueError, binascii.Error) as error:
        raise IntegrityError("not an Ed25519 verifier key of C2SP signed-note") from error
    return name, key


def sign_note(checkpoint: Checkpoint, key_name: str, private_key: Ed25519PrivateKey) -> str:
    """The checkpoint as a note with one signature."""
    return NoteSigner(key_name, private_key).sign(checkpoint)


class NoteSigner:
    """Signs checkpoints with one key; what depends only on the key is computed once."""

    def __init__(self, key_name: str, private_key: Ed25519PrivateKey) -> None:
        _check_name(key_name)
        self._key = private_key
        self._id = _key_id(key_name, private_key.public_key().public_bytes_raw())
        self._line = f"\n{_DASH}{key_name} "

    def sign(self, checkpoint: Checkpoint) -> str:
        origin = checkpoint.origin
        if not origin or "\n" in origin or _CONTROL.search(origin):
            raise ValueError("an origin is one line without control characters")
        text = checkpoint.text()
        signature = self._key.sign(text.encode())
        return f"{text}{self._line}{base64.b64encode(self._id + signature).decode()}\n"


def open_note(note: str, vkey: str) -> Checkpoint:
    """The checkpoint in ``note``. Raises IntegrityError unless the key of ``vkey`` signed exactly this text.

    A signature that claims to be ours and does not verify rejects the whole note, whatever else stands beside it.
    """
    name, key = read_verifier_key(vkey)
    text, separator, block = note.rpartition("\n\n")
    if not separator or not block.endswith("\n") or _CONTROL.search(note):
        raise IntegrityError("not a signed note: no text, empty line and signatures")
    text += "\n"
    lines = block[:-1].split("\n")
    if len(lines) > _MOST_SIGNATURES:
        raise IntegrityError("a signed note has too many signatures")
    key_id = _key_id(name, key.public_bytes_raw())
    verified = False
    for line in lines:
        who, signature = _signature_line(line)
        if who != name or signature[:4] != key_id:
            continue
        try:
            key.verify(signature[4:], text.encode())
        except InvalidSignature as error:
            raise IntegrityError("the signature of a checkpoint is wrong") from error
        verified = True
    if not verified:
        raise IntegrityError(f"a checkpoint carries no signature of {name}")
    return _parse(text)


def _signature_line(line: str) -> tuple[str, bytes]:
    name, space, encoded = line.removeprefix(_DASH).partition(" ")
    if not line.startswith(_DASH) or not space or not _NAME.fullmatch(name):
        raise IntegrityError("a signed note has a malformed signature line")
    try:
        signature = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error) as error:
        raise IntegrityError("a signature line is not base64") from error
    if len(signature) <= 4 or base64.b64encode(signature).decode() != encoded:
        raise IntegrityError("a signature line is too short or not canonical base64")
    return name, signature


def _parse(text: str) -> Checkpoint:
    lines = text[:-1].split("\n")
    if len(lines) < 3 or not all(lines) or not _SIZE.fullmatch(lines[1]):
        raise IntegrityError("a note is not a checkpoint: origin, size and root are expected")
    try:
        root = base64.b64decode(lines[2], validate=True)
    except (ValueError, binascii.Error) as error:
        raise IntegrityError("a checkpoint's root is not base64") from error
    if len(root) != HASH_BYTES or base64.b64encode(root).decode() != lines[2]:
        raise IntegrityError("a checkpoint's root is not a SHA-256 hash in canonical base64")
    return Checkpoint(lines[0], int(lines[1]), root)

"""Central's receipt: its cosignature under one of our checkpoints (c2sp.org/tlog-cosignature). Pure.

A receipt is the gateway's own signed note with one more signature line. Central signs ``cosignature/v1``, the time and the
note's text, so the line says: at that moment this whole journal, up to that size, lay with central. Signature type 0x04:
Ed25519, the line's octets are key ID, time in seconds (8 octets, big-endian), signature.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from hashlib import sha256

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gateway.errors import IntegrityError
from gateway.journal.checkpoint import Checkpoint, open_note, read_verifier_key

_TYPE = b"\x04"
_DASH = "\u2014 "
_TIME_OCTETS = 8
_ID_OCTETS = 4


@dataclass(frozen=True, slots=True)
class Receipt:
    """What central confirmed: ``checkpoint``, at ``time_s`` (seconds since the epoch, by central's clock)."""

    checkpoint: Checkpoint
    time_s: int


def _key_id(name: str, public_key: Ed25519PublicKey) -> bytes:
    return sha256(name.encode() + b"\n" + _TYPE + public_key.public_bytes_raw()).digest()[:_ID_OCTETS]


def _message(text: str, time_s: int) -> bytes:
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def cosign(note: str, key_name: str, private_key: Ed25519PrivateKey, time_s: int) -> str:
    """``note`` with a cosignature as its last line. The caller has checked the note."""
    text = note.partition("\n\n")[0] + "\n"
    signature = time_s.to_bytes(_TIME_OCTETS, "big") + private_key.sign(_message(text, time_s))
    line = base64.b64encode(_key_id(key_name, private_key.public_key()) + signature).decode()
    return f"{note}{_DASH}{key_name} {line}\n"


def open_receipt(note: str, gateway_key: str, central_key: str) -> Receipt:
    """The receipt in ``note``. Raises IntegrityError unless both the journal's key and central's (vkeys) signed it."""
    checkpoint = open_note(note, gateway_key)
    name, key = read_verifier_key(central_key)
    text, _, block = note.partition("\n\n")
    expected = _key_id(name, key)
    for line in block.splitlines():
        who, _, encoded = line.removeprefix(_DASH).partition(" ")
        data = base64.b64decode(encoded)  # open_note has refused what is none
        if who != name or data[:_ID_OCTETS] != expected:
            continue
        time_s = int.from_bytes(data[_ID_OCTETS : _ID_OCTETS + _TIME_OCTETS], "big")
        try:
            key.verify(data[_ID_OCTETS + _TIME_OCTETS :], _message(text + "\n", time_s))
        except InvalidSignature as error:
            raise IntegrityError("central's signature under a receipt is wrong") from error
        return Receipt(checkpoint, time_s)
    raise IntegrityError(f"a receipt carries no cosignature of {name}")

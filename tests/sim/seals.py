"""Signing for the simulation: cheap marks that nobody forges, or the real Ed25519 notes and receipts."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.errors import IntegrityError
from gateway.journal.checkpoint import Checkpoint, NoteSigner, open_note, verifier_key
from gateway.journal.cosignature import cosign, open_receipt
from gateway.journal.records import Record, decode, encode
from sync.wire import Batch

ORIGIN = "plant/1"


class CheapSeal:
    """Notes without cryptography. A body is a number, and what it means is looked up: hashing and trees stay real."""

    vkey = "cheap"

    def __init__(self) -> None:
        self._meanings: dict[bytes, Record] = {}

    def write(self, record: Record) -> bytes:
        body = b"record %d" % len(self._meanings)
        self._meanings[body] = record
        return body

    def meaning(self, body: bytes) -> Record:
        return self._meanings[body]

    def carry(self, batch: Batch) -> Batch:
        return batch

    def sign(self, checkpoint: Checkpoint) -> str:
        return f"{checkpoint.origin} {checkpoint.size} {checkpoint.root.hex()}"

    def read(self, note: str, vkey: str) -> Checkpoint:
        origin, size, root = note.split(" ")
        if vkey != self.vkey:
            raise IntegrityError("another key")
        return Checkpoint(origin, int(size), bytes.fromhex(root))

    def cosign(self, note: str) -> str:
        return note

    def open_receipt(self, note: str) -> Checkpoint:
        return self.read(note, self.vkey)


class RealSeal:
    """The real records, notes, receipts and batch octets."""

    _gateway = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
    _central = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
    vkey = verifier_key(ORIGIN, _gateway.public_key())
    _central_vkey = verifier_key("central", _central.public_key())
    _signer = NoteSigner(ORIGIN, _gateway)

    def write(self, record: Record) -> bytes:
        return encode(record)

    def meaning(self, body: bytes) -> Record:
        return decode(body)

    def carry(self, batch: Batch) -> Batch:
        return Batch.from_bytes(batch.to_bytes())

    def sign(self, checkpoint: Checkpoint) -> str:
        return self._signer.sign(checkpoint)

    def read(self, note: str, vkey: str) -> Checkpoint:
        return open_note(note, vkey)

    def cosign(self, note: str) -> str:
        return cosign(note, "central", self._central, 1_700_000_000)

    def open_receipt(self, note: str) -> Checkpoint:
        return open_receipt(note, self.vkey, self._central_vkey).checkpoint

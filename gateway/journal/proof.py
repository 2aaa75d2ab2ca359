"""The proof of one record, as a file that an auditor checks with the verifier key alone.

``docs/check_proof.py`` is that check in thirty lines. The file is JSON: the checkpoint note, the verifier key, the records'
canonical bytes with their place and audit path, and for an issued certificate the certificate itself. What the auditor
learns: these records are part of the log that the gateway signed, and this certificate is the one they describe.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from gateway.errors import IntegrityError
from gateway.journal.certificates import certificate_of
from gateway.journal.checkpoint import open_note
from gateway.journal.merkle import Frontier, verify_inclusion
from gateway.journal.records import Intent, Issued, decode, leaf_hash

_PAGE = 2048


@dataclass(frozen=True, slots=True)
class RecordProof:
    """One record's canonical bytes and its audit path (RFC 6962 section 2.1.1)."""

    index: int
    body: bytes
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Proof:
    """A checkpoint and records under it. With an Issued record come its Intent and the ``certificate`` (DER)."""

    note: str
    verifier_key: str
    records: tuple[RecordProof, ...]
    certificate: bytes | None

    @classmethod
    def of(cls, note: str, vkey: str, records: Sequence[RecordProof]) -> Proof:
        """A proof of these records; the certificate is put together from Issued and Intent when they are there."""
        certificate = None
        if len(records) == 2:
            issued, intent = (decode(proof.body).payload for proof in records)
            if isinstance(issued, Issued) and isinstance(intent, Intent):
                certificate = certificate_of(intent, issued)
        return cls(note, vkey, tuple(records), certificate)

    def to_json(self) -> str:
        """The proof file: one JSON object, octets in base64."""
        body: dict[str, object] = {
            "type": "edge-gateway-proof-v1",
            "verifier_key": self.verifier_key,
            "checkpoint": self.note,
            "records": [
                {"index": proof.index, "record": _text(proof.body), "path": [_text(node) for node in proof.path]}
                for proof in self.records
            ],
        }
        if self.certificate is not None:
            body["certificate"] = _text(self.certificate)
        return json.dumps(body, indent=1, ensure_ascii=False) + "\n"

    def check(self, vkey: str) -> None:
        """Raise IntegrityError unless the key of ``vkey`` signed a journal with these records and this certificate."""
        checkpoint = open_note(self.note, vkey)
        for proof in self.records:
            leaf = leaf_hash(proof.body)
            if not verify_inclusion(leaf, proof.index, checkpoint.size, proof.path, checkpoint.root):
                raise IntegrityError(f"record {proof.index} is not under the checkpoint")
            if decode(proof.body).seq != proof.index:
                raise IntegrityError(f"record {proof.index} says it is another one")
        if Proof.of(self.note, self.verifier_key, self.records).certificate != self.certificate:
            raise IntegrityError("the certificate is not the one that was recorded")


def _text(octets: bytes) -> str:
    return base64.b64encode(octets).decode()


async def range_root(leaves: Callable[[int, int], Awaitable[list[bytes]]], start: int, stop: int) -> bytes:
    """The root over the leaves ``start`` to ``stop``, fetched page by page so that the event loop and the writer breathe."""
    frontier = Frontier()
    for at in range(start, stop, _PAGE):
        for leaf in await leaves(at, min(at + _PAGE, stop)):
            frontier.append(leaf)
    return frontier.root()

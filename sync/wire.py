"""The messages between a gateway and central as bytes; docs/SYNC.md describes them for other implementers. Pure.

Two forms. A *statement* is a text or JSON body signed with Ed25519, for what must convict or oblige its author whoever carried
it: hello, urgent revocations, the desired document, joining, the manifest of a bundle. A *batch* carries records as they stand
in the journal, under a signed checkpoint; it is binary, because there are millions of them, and travels compressed (zstd).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, cast

from gateway.errors import MalformedRequest
from gateway.journal.statements import VERSION, base64_text, from_json, is_unicode, number_of, octets_of, text_of, to_json

#: A batch ends with whichever comes first; a single record may exceed the octets.
BATCH_RECORDS: Final = 500
BATCH_OCTETS: Final = 1 << 20
#: What a receiver accepts at most, uncompressed.
MOST_RECORDS: Final = 1000
MOST_OCTETS: Final = 8 << 20
MOST_STATEMENT_OCTETS: Final = 64 << 20

BATCH_TYPE: Final = "application/vnd.edge-gateway.batch+zstd"
STATEMENT_TYPE: Final = "application/vnd.edge-gateway.statement"

_MAGIC: Final = b"EGSYNC1\n"
_LENGTH: Final = 4


# Hello: who speaks, proven fresh by central's nonce.

HELLO: Final = "hello"
URGENT: Final = "urgent"


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of a session. ``checkpoint`` is the journal's head as a signed note; times in ms."""

    origin: str
    nonce: str  # what central just asked to have signed
    incarnation: str  # random hex, made anew by every start of the gateway
    checkpoint: str
    applied: int  # version of the desired document in force, 0 for none
    time_ms: int
    software: str

    def to_bytes(self) -> bytes:
        return to_json(
            {
                "applied": self.applied, "checkpoint": self.checkpoint, "incarnation": self.incarnation, "nonce": self.nonce,
                "origin": self.origin, "software": self.software, "time": self.time_ms,
            }
        )  # fmt: skip

    @classmethod
    def from_bytes(cls, data: bytes) -> Hello:
        """Raises MalformedRequest."""
        body = from_json(data)
        return cls(
            origin=text_of(body, "origin"), nonce=text_of(body, "nonce"), incarnation=text_of(body, "incarnation"),
            checkpoint=text_of(body, "checkpoint"), applied=number_of(body, "applied"), time_ms=number_of(body, "time"),
            software=text_of(body, "software"),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Welcome:
    """Central's answer to hello: where the journal ends there, and which document it should have."""

    session: str
    size: int
    root: bytes
    receipt: str  # the cosigned note of that size; empty for an empty journal
    desired: int

    def to_bytes(self) -> bytes:
        return to_json(
            {
                "desired": self.desired, "receipt": self.receipt, "root": base64_text(self.root), "session": self.session,
                "size": self.size,
            }
        )  # fmt: skip

    @classmethod
    def from_bytes(cls, data: bytes) -> Welcome:
        """Raises MalformedRequest."""
        body = from_json(data)
        return cls(
            session=text_of(body, "session"), size=number_of(body, "size"), root=octets_of(body, "root"),
            receipt=text_of(body, "receipt"), desired=number_of(body, "desired"),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Accepted:
    """Central's answer to a batch: everything up to the receipt's size lies there."""

    receipt: str
    desired: int

    def to_bytes(self) -> bytes:
        return to_json({"desired": self.desired, "receipt": self.receipt})

    @classmethod
    def from_bytes(cls, data: bytes) -> Accepted:
        """Raises MalformedRequest."""
        body = from_json(data)
        return cls(text_of(body, "receipt"), number_of(body, "desired"))


@dataclass(frozen=True, slots=True)
class Urgent:
    """Records that overtake the backlog: revocations, holds, a fence. They come again in their place.

    A release never overtakes: where a restore takes its record back, central would call good what the gateway holds.
    """

    origin: str
    records: tuple[bytes, ...]

    def to_bytes(self) -> bytes:
        return to_json({"origin": self.origin, "records": [record.decode() for record in self.records]})

    @classmethod
    def from_bytes(cls, data: bytes) -> Urgent:
        """Raises MalformedRequest."""
        body = from_json(data)
        records = body.get("records")
        if not isinstance(records, list) or not all(isinstance(each, str) and is_unicode(each) for each in records):
            raise MalformedRequest("records must be a list of texts")
        return cls(text_of(body, "origin"), tuple(cast(str, each).encode() for each in records))


# Batches.


@dataclass(frozen=True, slots=True)
class Batch:
    """Adjacent records and the checkpoint at their end. ``session`` is empty when it did not come over the network."""

    origin: str
    session: str
    start: int  # seq of the first record; with no records, the size that the checkpoint confirms
    checkpoint: str  # signed note at start + len(records)
    records: tuple[bytes, ...]
    applied: int = 0

    @property
    def stop(self) -> int:
        return self.start + len(self.records)

    def to_bytes(self) -> bytes:
        """Magic, then the header and every record, each after its length in 4 octets, big-endian."""
        header = to_json(
            {
                "applied": self.applied, "checkpoint": self.checkpoint, "count": len(self.records), "origin": self.origin,
                "session": self.session, "start": self.start,
            }
        )  # fmt: skip
        parts = [_MAGIC]
        for part in (header, *self.records):
            parts += (len(part).to_bytes(_LENGTH, "big"), part)
        return b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> Batch:
        """Raises MalformedRequest for bytes that :meth:`to_bytes` does not write, and for too many of them."""
        if not data.startswith(_MAGIC):
            raise MalformedRequest(f"not a batch of version {VERSION}")
        if len(data) > MOST_OCTETS:
            raise MalformedRequest(f"a batch has at most {MOST_OCTETS} octets")
        parts = _split(data)
        if not parts or len(parts) > MOST_RECORDS + 1:
            raise MalformedRequest(f"a batch has a header and at most {MOST_RECORDS} records")
        header = from_json(parts[0])
        batch = cls(
            origin=text_of(header, "origin"), session=text_of(header, "session"), start=number_of(header, "start"),
            checkpoint=text_of(header, "checkpoint"), records=tuple(parts[1:]), applied=number_of(header, "applied", 0),
        )  # fmt: skip
        if number_of(header, "count") != len(batch.records):
            raise MalformedRequest("a batch holds another number of records than its header says")
        return batch


def _split(data: bytes) -> list[bytes]:
    parts = []
    at, end = len(_MAGIC), len(data)
    while at < end:
        start = at + _LENGTH
        at = start + int.from_bytes(data[at:start], "big")
        if at > end:
            raise MalformedRequest("a batch ends in the middle of a record")
        parts.append(data[start:at])
    return parts

"""The tables of central's database as row types; how they are asked for is :mod:`sync.central.store`'s matter.

Each frozen class is a table and its fields are the columns: ``int``, ``str`` and ``bytes``, where 0 and "" stand for "none".
Those of production lines are in :mod:`sync.central.line_rows`. :data:`TABLES` says which columns are the key, and by which
others a table is looked through. Times are ms UTC by central's clock, but those that a record carries are the gateway's; serial
numbers have 20 octets (:func:`gateway.journal.tip.serial_column`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Final

from gateway.pki.crl import Reason
from sync.central.line_rows import Grant, Unit, WorkOrder
from sync.central.row import Row
from sync.conflicts import Word
from sync.ingest import Standing


@dataclass(frozen=True, slots=True)
class Journal(Row):
    """A registered gateway and where its journal stands. Written whole only by who holds its lock."""

    origin: str
    number: int  # short name in the records, from Transaction.next_number()
    name: str  # of the gateway, for people
    vkey: str
    client_key: bytes  # SHA-256 of the SubjectPublicKeyInfo of its TLS client certificate
    joined: int
    group: str = ""
    predecessor: str = ""  # origin of the journal that this one replaced
    closed: str = ""  # why nothing more is expected: retired by an operator, replaced, closed
    # The rest of sync.ingest.Standing; retired incarnations are rows of their own.
    size: int = 0
    frontier: bytes = Standing("", "").frontier
    receipt: str = ""
    nonce: str = ""
    session: str = ""
    incarnation: str = ""
    fenced: str = ""
    # As the gateway said last.
    seen: int = 0
    offset: int = 0  # its clock minus central's, ms
    head: int = 0  # how many records it had
    applied: int = 0  # version of the document in force there
    software: str = ""

    def standing(self, retired: frozenset[str] = frozenset()) -> Standing:
        """For :mod:`sync.ingest`; only a hello needs the retired incarnations."""
        return Standing(
            self.origin, self.vkey, self.size, self.frontier, self.receipt, self.nonce, self.session, self.incarnation,
            retired, self.fenced,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Retired(Row):
    """A start of a gateway that a later one replaced."""

    origin: str
    incarnation: str
    at: int


@dataclass(frozen=True, slots=True)
class Kept:
    """A record as it arrived. Only through ``append`` and ``records``, not by the general methods."""

    seq: int
    leaf: bytes
    body: bytes
    received: int


@dataclass(frozen=True, slots=True)
class Evidence(Row):
    """What convicted a gateway: its own signed note, and the message it came in."""

    digest: bytes  # SHA-256 of note and message
    origin: str
    reason: str
    note: str
    message: bytes
    at: int


@dataclass(frozen=True, slots=True)
class Quarantined(Row):
    """A record without a meaning yet: unknown to this version, or contradicting what is known."""

    origin: str
    seq: int
    reason: str
    at: int


@dataclass(frozen=True, slots=True)
class Certificate(Row):
    """A certificate (or a serial that must never be one) of a gateway's CA. Its DER is made from the two records."""

    serial: bytes
    issuer: bytes  # subjectKeyIdentifier of the CA
    origin: str
    generation: int
    state: str  # ISSUED or VOID
    intent: int  # seq
    closing: int  # seq of the issued or void record
    subject: str  # RFC 4514
    sans: str  # as gateway.pki.sans writes them, space between
    device: str  # serialNumber of the subject
    spki: bytes  # SHA-256
    profile: str
    requester: str
    policy_version: int
    not_before: int
    not_after: int
    issued: int  # time of the closing record
    predecessor: bytes = b""  # serial
    disputed: str = ""  # why central does not agree


ISSUED: Final = "issued"
VOID: Final = "void"


@dataclass(frozen=True, slots=True)
class Revocation(Row):
    """What one side says of a certificate, perhaps before central knows it; :mod:`sync.conflicts` merges both sides."""

    serial: bytes
    issuer: bytes
    side: str  # GATEWAY or CENTRAL
    origin: str
    generation: int
    reason: str  # as in the records; "" when this side lifted its hold or says nothing any more
    revoked_at: int
    by: str
    number: int  # that of its sync.conflicts.Word: for GATEWAY the seq of its record

    @property
    def word(self) -> Word:
        """For :mod:`sync.conflicts`."""
        return Word(self.number, Reason(self.reason) if self.reason else None, self.revoked_at)


GATEWAY: Final = "gateway"
CENTRAL: Final = "central"


@dataclass(frozen=True, slots=True)
class Ca(Row):
    """A CA certificate of a gateway: signed by central's root, or activated as the journal says."""

    digest: bytes  # SHA-256 of the certificate
    key_id: bytes  # its subjectKeyIdentifier
    origin: str
    certificate: bytes
    chain: bytes  # DER, one after the other, its issuer first
    not_after: int
    generation: int = 0  # once it is activated
    signed: int = 0  # when central's root signed it
    activated: int = 0  # time of the gateway's record


@dataclass(frozen=True, slots=True)
class Policy(Row):
    """A policy that was in force at a gateway, from its records."""

    origin: str
    version: int
    source: str
    digest: bytes
    expires: int
    since: int
    seq: int


@dataclass(frozen=True, slots=True)
class Tally(Row):
    """What a gateway spent of a quota, from its records."""

    origin: str
    name: str  # profile:NAME, token:ID
    used: int


@dataclass(frozen=True, slots=True)
class Alert(Row):
    """Something a person should look at; open while ``closed`` is 0."""

    kind: str
    origin: str
    about: str  # what tells it from others of its kind: a serial, a device, ""
    text: str
    opened: int
    closed: int = 0


@dataclass(frozen=True, slots=True)
class Document(Row):
    """The signed desired document of a gateway."""

    origin: str
    version: int
    issued: int
    expires: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Setting(Row):
    """A JSON text under a scope: ``central``, ``group:NAME``, ``gateway:ORIGIN``."""

    scope: str
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Code(Row):
    """A one-time code; used up by the first request, whose answer is kept to be repeated."""

    name: str  # sync.joining.code_name
    secret: bytes
    group: str
    made: int
    expires: int
    used: int = 0
    origin: str = ""
    request: bytes = b""  # SHA-256
    answer: bytes = b""


@dataclass(frozen=True, slots=True)
class Order(Row):
    """A command to a gateway; it stands in the desired document while its state is OPEN."""

    id: str
    origin: str
    do: str  # as in the desired document
    serial: bytes
    issuer: bytes
    generation: int
    reason: str
    revoked_at: int
    by: str
    made: int
    state: str = "open"  # then the outcome of command-done
    detail: str = ""
    finished: int = 0


OPEN: Final = "open"


@dataclass(frozen=True, slots=True)
class Event(Row):
    """Something in a journal that another part of central must act on, e.g. ``ca-requested``; open while ``done`` is 0."""

    kind: str
    origin: str
    seq: int
    generation: int
    content: bytes
    at: int
    done: int = 0


@dataclass(frozen=True, slots=True)
class Announced(Row):
    """The newest revocation list of each scope that a gateway's journal says was published; the list itself is a Crl."""

    issuer: bytes
    scope: str  # as in the record: "full", "delta", "3of8"
    origin: str
    number: int
    next_update: int
    digest: bytes  # SHA-256 of the list


@dataclass(frozen=True, slots=True)
class Crl(Row):
    """A revocation list as it was uploaded, or made here."""

    issuer: bytes
    name: str
    origin: str
    number: int
    this_update: int
    next_update: int
    digest: bytes  # SHA-256
    content: bytes


@dataclass(frozen=True, slots=True)
class RootIssuance(Row):
    """What central's own CA signs: planned here before the key is asked, then completed."""

    serial: bytes
    profile: str
    subject: str
    origin: str  # for whom; "" for central itself
    tbs: bytes
    not_after: int
    planned: int
    certificate: bytes = b""
    revoked: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Cursor(Row):
    """How far a reader has come in a journal: the seq it reads next."""

    reader: str
    origin: str
    position: int


@dataclass(frozen=True, slots=True)
class Action(Row):
    """What an operator did over the REST interface; ``status`` is 0 until it was answered."""

    id: str  # begins with the time, so they sort by it
    at: int
    operator: str
    action: str  # method and path
    detail: str  # the body, JSON, or the SHA-256 of other content
    status: int = 0  # as answered (HTTP)


@dataclass(frozen=True, slots=True)
class Answered(Row):
    """The answer to a change, repeated when the request is: its Idempotency-Key is used up."""

    operator: str
    key: str
    request: bytes  # SHA-256 of method, path and body
    status: int
    head: str  # JSON: the answer's header fields
    content: bytes
    at: int


@dataclass(frozen=True, slots=True)
class Table:
    """A row type as a table. ``indexes`` are columns asked for together by equality."""

    row: type[Row]
    name: str
    key: tuple[str, ...]
    indexes: tuple[tuple[str, ...], ...] = ()
    columns: tuple[tuple[str, type], ...] = field(init=False)

    def __post_init__(self) -> None:
        types: Mapping[str, type] = {"int": int, "str": str, "bytes": bytes}
        columns = tuple((each.name, types[str(each.type)]) for each in fields(self.row))  # type: ignore[arg-type]  # every row is a dataclass
        object.__setattr__(self, "columns", columns)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.columns)


TABLES: Final = (
    Table(Journal, "journal", ("origin",), (("client_key",), ("number",))),
    Table(Retired, "retired", ("origin", "incarnation")),
    Table(Evidence, "evidence", ("digest",), (("origin",),)),
    Table(Quarantined, "quarantined", ("origin", "seq")),
    # Serials begin with the time they were made, so this key grows at its end and sorts by age.
    Table(Certificate, "certificate", ("serial", "issuer"), (("spki",), ("device",), ("predecessor",))),
    Table(Revocation, "revocation", ("serial", "issuer", "side"), (("issuer",), ("origin",))),
    Table(Ca, "ca", ("digest",), (("key_id",), ("origin", "generation"))),
    Table(Policy, "policy", ("origin", "seq")),
    Table(Tally, "tally", ("origin", "name")),
    Table(Alert, "alert", ("kind", "origin", "about"), (("closed",),)),
    Table(Document, "document", ("origin",)),
    Table(Setting, "setting", ("scope", "name")),
    Table(Code, "code", ("name",)),
    Table(Order, "command", ("id",), (("origin", "state"), ("serial",))),
    Table(WorkOrder, "work_order", ("id",), (("scope",),)),
    Table(Grant, "work_grant", ("order", "origin"), (("origin",),)),
    Table(Unit, "unit", ("origin", "unit"), (("unit",), ("device",), ("order", "over"))),
    Table(Event, "event", ("kind", "origin", "seq"), (("kind", "done"),)),
    Table(Announced, "announced", ("issuer", "scope")),
    Table(Crl, "crl", ("issuer", "name")),
    Table(RootIssuance, "root_issuance", ("serial",), (("origin",),)),
    Table(Cursor, "cursor", ("reader", "origin")),
    Table(Action, "action", ("id",)),
    Table(Answered, "answered", ("operator", "key")),
)
TABLE_OF: Final = {table.row: table for table in TABLES}

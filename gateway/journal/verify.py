"""The full check of a journal, offline: every record, every column, every rule, and the signature over it all.

Reads the file once from front to back in bounded memory and trusts nothing in it: search columns, tallies and open intents are
recomputed from the records' bytes, and the records hang together by the Merkle root under the signed checkpoint. Without the
checkpoint key nobody can change, insert, remove or reorder a record so that this finds nothing; going back to an older signed
state as a whole is found by the anchor, or by whoever holds a later checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.errors import BadKey, IntegrityError, NotFound
from gateway.journal.anchor import AnchoredHead
from gateway.journal.archive import Archive, DamagedFile
from gateway.journal.certificates import certificate_of
from gateway.journal.checkpoint import Checkpoint, open_note, read_verifier_key
from gateway.journal.line_records import UnitEnded, UnitReserved, UnitStep, claims_of
from gateway.journal.merkle import Frontier
from gateway.journal.pruning import KINDS, newest_receipt
from gateway.journal.records import CaActivated, Genesis, Intent, Issued, Record, Released, Revoked, Void, decode
from gateway.journal.store import HeadRow
from gateway.journal.tip import Row, row_of, tally_changes
from gateway.pki.algorithms import PublicKey, SignatureAlgorithm, signature_is_valid

#: A journal that is wrong everywhere need not be listed to the end.
MOST_PROBLEMS = 1000
_PROGRESS_EVERY = 1000


@dataclass(frozen=True, slots=True)
class Problem:
    """One finding. ``seq`` is the record it is about, None for the journal as a whole."""

    seq: int | None
    text: str

    def __str__(self) -> str:
        return self.text if self.seq is None else f"record {self.seq}: {self.text}"


@dataclass(frozen=True, slots=True)
class Report:
    """``checkpoint`` is the signed head, when its signature holds; ``genesis`` the first record, when it can be read.

    ``anchored`` is how many records the anchor has seen, None without one; ``anchored_ms`` the time of the last of them.
    ``pruned`` bodies are empty below central's receipt (:mod:`gateway.journal.pruning`): of them the leaf hash alone is proved.
    """

    records: int
    certificates: int
    checkpoint: Checkpoint | None
    genesis: Genesis | None
    problems: tuple[Problem, ...]
    anchored: int | None = None
    anchored_ms: int = 0
    pruned: int = 0

    @property
    def clean(self) -> bool:
        return not self.problems


def verify(
    path: Path,
    *,
    vkey: str | None = None,
    public_key: Ed25519PublicKey | None = None,
    anchor: bytes | None = None,
    signatures: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Check the whole journal at ``path``, which no daemon may have open. Blocks.

    ``vkey`` or ``public_key`` is the key to trust; without one the journal's own statement is taken, which an attacker can
    replace together with everything else. ``anchor`` is the anchor's content. With ``signatures`` each certificate's
    signature is checked against its CA (about 70 us each). ``progress(done, total)`` is called now and then. Raises NotFound,
    OperatorError (in use).
    """
    if not path.exists():
        raise NotFound(f"there is no journal at {path}")
    check = _Check(vkey, public_key, anchor, signatures)
    try:
        with Archive(path) as archive:
            check.run(archive, progress)
    except DamagedFile as error:
        check.problem(None, f"the database file is damaged: {error}")
    return check.report()


class _Check:
    def __init__(self, vkey: str | None, public_key: Ed25519PublicKey | None, anchor: bytes | None, signatures: bool) -> None:
        self._vkey, self._public_key, self._anchor = vkey, public_key, anchor
        self._signatures = signatures
        self._problems: list[Problem] = []
        self._frontier = Frontier()
        self._records = self._certificates = self._time = 0
        self._genesis: Genesis | None = None
        self._checkpoint: Checkpoint | None = None
        self._open: dict[int, Intent] = {}
        self._tallies: dict[str, int] = {}
        self._units = _Units()
        self._authorities: dict[int, PublicKey] = {}
        self._anchored: Frontier | None = None
        self._root_at_anchor: bytes | None = None
        self._anchored_ms = 0
        self._pruned = 0
        self._receipt: Checkpoint | None = None
        self._root_at_receipt: bytes | None = None

    def problem(self, seq: int | None, text: str) -> None:
        if len(self._problems) < MOST_PROBLEMS:
            self._problems.append(Problem(seq, text))

    def report(self) -> Report:
        anchored = self._anchored.size if self._anchored is not None else None
        return Report(
            self._records, self._certificates, self._checkpoint, self._genesis, tuple(self._problems),
            anchored, self._anchored_ms, self._pruned,
        )  # fmt: skip

    def run(self, archive: Archive, progress: Callable[[int, int], None] | None) -> None:
        for text in archive.structure_problems():
            self.problem(None, text)
        total = archive.count()
        self._read_anchor()
        expected = 0
        for row in archive.rows():
            if row.seq != expected:
                self.problem(row.seq, f"record {expected} should stand here; records are missing or out of place")
                expected = row.seq
            self._check_row(row, archive)
            expected += 1
            self._records += 1
            if progress is not None and self._records % _PROGRESS_EVERY == 0:
                progress(self._records, total)
        if progress is not None:
            progress(self._records, total)
        self._check_head(archive)
        self._check_receipt()
        self._check_anchor()

    # Rows

    def _check_row(self, row: Row, archive: Archive) -> None:
        if self._anchored is not None and self._frontier.size == self._anchored.size:
            self._root_at_anchor = self._frontier.root()
        if self._receipt is not None and self._frontier.size == self._receipt.size:
            self._root_at_receipt = self._frontier.root()
        if row.body == b"":
            self._check_pruned(row, archive)
            return
        try:
            record = decode(row.body)
            derived = row_of(record, row.body)
        except (IntegrityError, ValueError) as error:
            self._frontier.append(row.leaf)
            self.problem(row.seq, f"cannot be read: {error}")
            return
        self._frontier.append(derived.leaf)
        for name, stored, computed in zip(Row._fields, row, derived, strict=True):
            if stored != computed:
                self.problem(row.seq, f"the column {name} is not what the record says")
        if record.time < self._time:
            self.problem(row.seq, "the time goes back")
        self._time = max(self._time, record.time)
        if self._anchored is not None and self._frontier.size == self._anchored.size:
            self._anchored_ms = self._time
        if (record.seq == 0) != isinstance(record.payload, Genesis):
            self.problem(row.seq, "a genesis record stands at the beginning, and only there")
        for name, change in tally_changes(record.payload):
            self._tallies[name] = self._tallies.get(name, 0) + change
        for text in self._units.take(record, archive):
            self.problem(record.seq, text)
        self._check_meaning(record, archive)

    def _check_pruned(self, row: Row, archive: Archive) -> None:
        self._frontier.append(row.leaf)
        self._pruned += 1
        if self._pruned == 1 and self._genesis is not None:
            self._receipt = newest_receipt(archive, self._genesis.verifier_key)
        if self._receipt is None:
            self.problem(row.seq, "its body is gone, and the journal holds no receipt of central for it")
        elif row.seq >= self._receipt.size:
            self.problem(row.seq, f"its body is gone, and central's receipt covers {self._receipt.size} records only")
        elif row.kind not in KINDS:
            self.problem(row.seq, "its body is gone, and records of its kind are never pruned")

    def _check_receipt(self) -> None:
        if self._receipt is None:
            return
        root = self._frontier.root() if self._receipt.size == self._frontier.size else self._root_at_receipt
        if root != self._receipt.root:
            self.problem(None, "central's receipt for what was pruned is of other records than these: the Merkle roots differ")

    def _check_meaning(self, record: Record, archive: Archive) -> None:
        payload = record.payload
        match payload:
            case Genesis():
                self._genesis = self._genesis or payload
            case CaActivated():
                self._learn_authority(record.seq, payload)
            case Intent():
                self._open[record.seq] = payload
                if archive.seq_of("intent", row_serial(record)) != record.seq:
                    self.problem(record.seq, f"the serial number {payload.serial} is planned twice or not in the index")
            case Issued():
                self._check_issued(record.seq, payload)
            case Void():
                intent = self._open.pop(payload.intent, None)
                if intent is None or intent.serial != payload.serial:
                    self.problem(
                        record.seq, f"voids record {payload.intent}, which is not an open intent with this serial number"
                    )
                elif intent.quota != payload.quota:
                    self.problem(record.seq, "gives back another quota than its intent spent")
            case Revoked() | Released():
                planned = archive.seq_of("intent", row_serial(record))
                if planned is None or planned > record.seq:
                    self.problem(record.seq, f"the serial number {payload.serial} was never planned here")
            case _:
                pass

    def _check_issued(self, seq: int, issued: Issued) -> None:
        self._certificates += 1
        intent = self._open.pop(issued.intent, None)
        if intent is None or intent.serial != issued.serial:
            self.problem(seq, f"completes record {issued.intent}, which is not an open intent with this serial number")
            return
        if intent.idempotency_key != issued.idempotency_key:
            self.problem(seq, "has another idempotency key than its intent")
        try:
            certificate_of(intent, issued)
        except IntegrityError as error:
            self.problem(seq, str(error))
            return
        if self._signatures:
            key = self._authorities.get(intent.generation)
            algorithm = SignatureAlgorithm[intent.algorithm]
            if key is None:
                self.problem(seq, f"was issued by CA generation {intent.generation}, which was never activated")
            elif not signature_is_valid(key, algorithm, issued.signature, intent.tbs):
                self.problem(seq, "the certificate's signature is not the CA's")

    def _learn_authority(self, seq: int, activated: CaActivated) -> None:
        try:
            key = x509.load_der_x509_certificate(activated.certificate).public_key()
        except (ValueError, BadKey) as error:
            if self._signatures:
                self.problem(seq, f"the CA certificate cannot be read: {error}")
            return
        if isinstance(key, PublicKey):
            self._authorities[activated.generation] = key

    # Head

    def _check_head(self, archive: Archive) -> None:
        heads = archive.heads()
        if len(heads) != 1:
            self.problem(None, f"the journal has {len(heads)} heads instead of one")
            return
        head = heads[0]
        if head.size != self._records:
            self.problem(None, f"the head says {head.size} records, there are {self._records}")
        if head.frontier != self._frontier.to_bytes():
            self.problem(None, "the Merkle frontier is not that of the records")
        if head.open_intents != tuple(self._open):
            self.problem(None, "the list of open intents is not that of the records")
        for text in self._units.compare(archive):
            self.problem(None, text)
        if not self._tallies_fit(archive.tallies()):
            self.problem(None, "the tallies of spent quota are not those of the records")
        self._check_note(head)

    def _tallies_fit(self, stored: dict[str, int]) -> bool:
        """What pruned intents spent nobody can count any more: then a tally may be higher, never lower."""
        if not self._pruned:
            return stored == self._tallies
        return all(stored.get(name, 0) >= used for name, used in self._tallies.items())

    def _check_note(self, head: HeadRow) -> None:
        try:
            vkey = self._trusted_vkey()
            checkpoint = open_note(head.note, vkey)
        except IntegrityError as error:
            self.problem(None, str(error))
            return
        self._checkpoint = checkpoint
        if self._genesis is not None and checkpoint.origin != self._genesis.origin:
            self.problem(None, "the checkpoint was signed for another origin")
        if checkpoint.size != self._records:
            self.problem(None, f"the signed checkpoint covers {checkpoint.size} records, there are {self._records}")
        elif checkpoint.root != self._frontier.root():
            self.problem(None, "the records are not those under the signed checkpoint: the Merkle roots differ")

    def _trusted_vkey(self) -> str:
        if self._genesis is None:
            if self._vkey is None:
                raise IntegrityError("no genesis record names the key that signs checkpoints")
            return self._vkey
        stated = self._genesis.verifier_key
        if self._vkey is not None and self._vkey != stated:
            raise IntegrityError("the journal names another checkpoint key than the trusted one")
        if self._public_key is not None and read_verifier_key(stated)[1] != self._public_key:
            raise IntegrityError("the journal names another checkpoint key than the trusted one")
        return stated

    # Anchor

    def _read_anchor(self) -> None:
        if self._anchor is None:
            return
        try:
            self._anchored = Frontier.from_bytes(AnchoredHead.from_bytes(self._anchor).frontier)
        except IntegrityError as error:
            self.problem(None, str(error))

    def _check_anchor(self) -> None:
        if self._anchored is None or self._anchor is None:
            return
        try:
            checkpoint, frontier = AnchoredHead.from_bytes(self._anchor).opened(
                self._trusted_vkey(), self._genesis.origin if self._genesis is not None else ""
            )
        except IntegrityError as error:
            self.problem(None, str(error))
            return
        root = self._frontier.root() if checkpoint.size == self._frontier.size else self._root_at_anchor
        if checkpoint.size > self._records:
            self.problem(None, f"the anchor has seen {checkpoint.size} records, this journal has only {self._records}")
        elif root != frontier.root():
            self.problem(None, f"the anchor's {checkpoint.size} records are not the beginning of this journal")


class _Units:
    """The units of the line: each one's chain of records, and what was claimed."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}
        self._claims = 0

    def take(self, record: Record, archive: Archive) -> Iterator[str]:
        payload = record.payload
        for name in claims_of(payload):
            self._claims += 1
            if archive.claim(name) != record.seq:
                yield "claims what another record claimed before, or its claim is not in the index"
        if isinstance(payload, UnitReserved):
            if payload.unit in self._last:
                yield f"begins unit {payload.unit} a second time"
            self._last[payload.unit] = record.seq
        elif isinstance(payload, UnitStep):
            if self._last.get(payload.unit) != payload.previous:
                yield f"does not follow the last record of unit {payload.unit}"
            self._last[payload.unit] = record.seq
            if isinstance(payload, UnitEnded):
                del self._last[payload.unit]

    def compare(self, archive: Archive) -> Iterator[str]:
        if archive.open_units() != set(self._last.values()):
            yield "the list of open units is not that of the records"
        if archive.claims() != self._claims:
            yield "the index of claims is not that of the records"


def row_serial(record: Record) -> bytes:
    serial = row_of(record, b"").serial
    return b"" if serial is None else serial

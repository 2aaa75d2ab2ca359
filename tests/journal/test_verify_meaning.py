"""What ``verify`` finds even when the checkpoint key signed it: records that contradict each other."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.journal.checkpoint import Checkpoint, sign_note, verifier_key
from gateway.journal.merkle import Frontier
from gateway.journal.records import CaActivated, Genesis, Intent, Payload, Record, Released, Revoked, Stopped, Void, encode
from gateway.journal.store import HeadRow, Store
from gateway.journal.tip import row_of, tally_changes
from gateway.journal.verify import verify
from gateway.pki.algorithms import SignatureAlgorithm
from gateway.pki.tbs import assemble
from tests.support.journal import CA_KEY, KEY, ORIGIN, START_MS, Place, intent, issue, issued

GENESIS = Genesis(ORIGIN, verifier_key(ORIGIN, KEY.public_key()), "00" * 16, "1")
PLAN = intent(1, quota=())
DONE = issued(Record(1, START_MS, PLAN))


async def _written(path: Path, payloads: list[Payload], *, step: int = 1, open_intents: tuple[int, ...] = ()) -> list[str]:
    """Write these payloads without any check, sign the head, and return what verify finds."""
    records = [Record(seq, START_MS + step * seq, payload) for seq, payload in enumerate(payloads)]
    rows = [row_of(record, encode(record)) for record in records]
    frontier = Frontier()
    tallies: dict[str, int] = {}
    for row, record in zip(rows, records, strict=True):
        frontier.append(row.leaf)
        for name, change in tally_changes(record.payload):
            tallies[name] = tallies.get(name, 0) + change
    note = sign_note(Checkpoint(ORIGIN, frontier.size, frontier.root()), ORIGIN, KEY)
    store = await Store.open(path, create=True)
    await store.write(rows, list(tallies.items()), HeadRow(frontier.size, frontier.to_bytes(), open_intents, note))
    await store.close()
    return [str(problem) for problem in verify(path).problems]


async def test_an_honest_story_has_no_problem(tmp_path: Path) -> None:
    assert not await _written(tmp_path / "j.db", [GENESIS, PLAN, DONE, Revoked(PLAN.serial, 1, "superseded", 1, "op")])


@pytest.mark.parametrize(
    ("story", "finding"),
    [
        ([Stopped()], "record 0: a genesis record stands at the beginning"),
        ([GENESIS, GENESIS], "record 1: a genesis record stands at the beginning"),
        ([GENESIS, DONE], "record 1: completes record 1"),
        ([GENESIS, PLAN, replace(DONE, serial="ff")], "record 2: completes record 1"),
        ([GENESIS, PLAN, replace(DONE, idempotency_key=b"x")], "record 2: has another idempotency key"),
        ([GENESIS, PLAN, replace(DONE, signature=b"x")], "record 2: TBS and signature do not make the certificate"),
        ([GENESIS, replace(PLAN, algorithm="MD5"), DONE], "record 2: unknown signature algorithm"),
        ([GENESIS, PLAN, Void(0, PLAN.serial, "why")], "record 2: voids record 0"),
        ([GENESIS, replace(PLAN, quota=("a",)), Void(1, PLAN.serial, "why")], "record 2: gives back another quota"),
        ([GENESIS, Revoked("ff", 1, "superseded", 1, "op")], "record 1: the serial number ff was never planned"),
        ([GENESIS, Released(PLAN.serial, 1, "op"), PLAN], "record 1: the serial number"),
        ([GENESIS, PLAN], "the list of open intents"),
    ],
    ids=range(12),
)
async def test_a_contradiction_is_named(tmp_path: Path, story: list[Payload], finding: str) -> None:
    assert any(text.startswith(finding) for text in await _written(tmp_path / "j.db", story))


async def test_a_time_that_goes_back_is_named(tmp_path: Path) -> None:
    assert "record 1: the time goes back" in await _written(tmp_path / "j.db", [GENESIS, Stopped()], step=-1)


def _ca_certificate() -> bytes:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "CA of the tests")])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).serial_number(1).public_key(CA_KEY.public_key())
    builder = builder.not_valid_before(datetime(2026, 1, 1, tzinfo=UTC)).not_valid_after(datetime(2027, 1, 1, tzinfo=UTC))
    return builder.sign(CA_KEY, hashes.SHA256()).public_bytes(Encoding.DER)


async def test_signatures_are_checked_against_the_ca_when_asked(place: Place) -> None:
    journal = await place.create()
    await issue(journal, 1)
    await journal.append(CaActivated(1, "software:ca", _ca_certificate(), (), "op"))
    await issue(journal, 2)
    (plan,) = await journal.append(intent(3))
    assert isinstance(plan.payload, Intent)
    other = replace(plan.payload, tbs=plan.payload.tbs[:-1] + b"\0")
    forged = issued(replace(plan, payload=other))
    await journal.append(replace(forged, certificate_digest=issued_digest(plan.payload, forged.signature)))
    await journal.append(CaActivated(2, "software:ca", b"not a certificate", (), "op"))
    await journal.close()
    assert verify(place.path).clean
    texts = [problem.text for problem in verify(place.path, signatures=True).problems]
    assert len(texts) == 3
    assert "never activated" in texts[0]
    assert "not the CA's" in texts[1]
    assert "cannot be read" in texts[2]


def issued_digest(plan: Intent, signature: bytes) -> bytes:
    """The digest of a certificate put together with somebody else's signature."""
    return sha256(assemble(plan.tbs, SignatureAlgorithm[plan.algorithm], signature)).digest()

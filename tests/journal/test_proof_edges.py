"""The proof file names its form, so that a later reader knows what it holds."""

from __future__ import annotations

import json

import pytest

from gateway.errors import IntegrityError
from gateway.journal.checkpoint import Checkpoint, sign_note, verifier_key
from gateway.journal.merkle import Frontier
from gateway.journal.proof import Proof, RecordProof
from gateway.journal.records import leaf_hash
from tests.support.journal import KEY, ORIGIN, Place, issue


async def test_a_proof_file_says_which_form_it_has(place: Place) -> None:
    journal = await place.create()
    await issue(journal, 1)
    proof = await journal.prove(1)
    await journal.close()
    form = json.loads(proof.to_json())
    assert form["type"] == "edge-gateway-proof-v1"
    assert form["verifier_key"] == verifier_key(ORIGIN, KEY.public_key())
    assert set(form) == {"type", "verifier_key", "checkpoint", "records"}


async def test_a_record_at_another_place_than_its_own_proves_nothing(place: Place) -> None:
    """A log that holds a record twice could show either; only its own number is its place."""
    journal = await place.create()
    await issue(journal, 1)
    proof = await journal.prove(1)
    await journal.close()
    (record,) = proof.records
    moved = Frontier()
    moved.append(leaf_hash(record.body))
    note = sign_note(Checkpoint(ORIGIN, 1, moved.root()), ORIGIN, KEY)
    vkey = verifier_key(ORIGIN, KEY.public_key())
    with pytest.raises(IntegrityError, match="says it is another one"):
        Proof(note, vkey, (RecordProof(0, record.body, ()),), None).check(vkey)

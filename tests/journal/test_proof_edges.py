"""The proof file names its form, so that a later reader knows what it holds."""

from __future__ import annotations

import json

from tests.support.journal import Place, issue


async def test_a_proof_file_says_which_form_it_has(place: Place) -> None:
    journal = await place.create()
    await issue(journal, 1)
    proof = await journal.prove(1)
    await journal.close()
    assert json.loads(proof.to_json())["type"] == "edge-gateway-proof-v1"

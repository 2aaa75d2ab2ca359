"""The start-up check: the signed head speaks of this journal, at this size, with this root."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from gateway.errors import IntegrityError
from gateway.journal.checkpoint import Checkpoint, open_note, sign_note, verifier_key
from tests.support.journal import KEY, ORIGIN, Place, issue


@pytest.mark.parametrize("changed", ["origin", "size", "root"])
async def test_a_head_signed_for_something_else_stops_the_start(place: Place, changed: str) -> None:
    journal = await place.create()
    await issue(journal, 1)
    await journal.close()
    with closing(sqlite3.connect(place.path)) as db, db:
        (note,) = db.execute("SELECT note FROM head").fetchone()
        honest = open_note(note, verifier_key(ORIGIN, KEY.public_key()))
        other = {
            "origin": Checkpoint("line.example/another", honest.size, honest.root),
            "size": Checkpoint(ORIGIN, honest.size + 1, honest.root),
            "root": Checkpoint(ORIGIN, honest.size, bytes(32)),
        }[changed]
        db.execute("UPDATE head SET note = ?", (sign_note(other, ORIGIN, KEY),))
    with pytest.raises(IntegrityError, match="contradict"):
        await place.open()

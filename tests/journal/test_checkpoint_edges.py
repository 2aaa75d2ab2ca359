"""The limits of a signed note, from both sides."""

from __future__ import annotations

import base64

import pytest

from gateway.errors import IntegrityError
from gateway.journal.checkpoint import Checkpoint, open_note, sign_note, verifier_key
from tests.support.journal import KEY, ORIGIN

VKEY = verifier_key(ORIGIN, KEY.public_key())
CHECKPOINT = Checkpoint(ORIGIN, 5, bytes(32))


def test_a_note_carries_up_to_32_signatures() -> None:
    note = sign_note(CHECKPOINT, ORIGIN, KEY)
    other = "\u2014 witness.example " + base64.b64encode(bytes(68)).decode() + "\n"
    assert open_note(note + other * 31, VKEY) == CHECKPOINT
    with pytest.raises(IntegrityError, match="too many"):
        open_note(note + other * 32, VKEY)


def test_a_signature_is_more_than_its_key_identifier() -> None:
    note = sign_note(CHECKPOINT, ORIGIN, KEY)
    line = "\u2014 witness.example {}\n"
    assert open_note(note + line.format(base64.b64encode(bytes(5)).decode()), VKEY) == CHECKPOINT
    with pytest.raises(IntegrityError, match="too short"):
        open_note(note + line.format(base64.b64encode(bytes(4)).decode()), VKEY)

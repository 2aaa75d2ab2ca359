"""Checkpoints are C2SP signed notes: known notes open, every deviation is refused."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.errors import IntegrityError
from gateway.journal.checkpoint import Checkpoint, open_note, read_verifier_key, sign_note, verifier_key
from tests.support.journal import KEY, ORIGIN

VKEY = verifier_key(ORIGIN, KEY.public_key())
CHECKPOINT = Checkpoint(ORIGIN, 20852163, bytes(range(32)))
NOTE = sign_note(CHECKPOINT, ORIGIN, KEY)
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))

#: From the documentation of Go's golang.org/x/mod/sumdb/note (BSD-3-Clause): its example key and signed note.
GO_VKEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\nthen you don't know what your problem is.\n\n"
    "\u2014 PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)


def test_a_note_opens_to_what_was_signed() -> None:
    assert open_note(NOTE, VKEY) == CHECKPOINT
    assert open_note(sign_note(Checkpoint(ORIGIN, 0, bytes(32)), ORIGIN, KEY), VKEY).size == 0


def test_the_key_and_signature_of_gos_note_package_are_understood() -> None:
    assert read_verifier_key(GO_VKEY)[0] == "PeterNeumann"
    with pytest.raises(IntegrityError, match="not a checkpoint"):  # the signature verifies; the text is a proverb
        open_note(GO_NOTE, GO_VKEY)
    with pytest.raises(IntegrityError, match="signature of a checkpoint is wrong"):
        open_note(GO_NOTE.replace("answer", "Answer"), GO_VKEY)


def test_the_form_is_that_of_the_specification() -> None:
    lines = NOTE.split("\n")
    assert lines[:2] == [ORIGIN, "20852163"]
    assert base64.b64decode(lines[2]) == CHECKPOINT.root
    assert lines[3] == ""
    assert lines[4].startswith(f"\u2014 {ORIGIN} ")
    assert lines[5:] == [""]


def test_signatures_of_others_are_ignored_but_ours_must_hold() -> None:
    witness = sign_note(CHECKPOINT, "witness.example/w1", OTHER).rpartition("\n\n")[2]
    assert open_note(NOTE + witness, VKEY) == CHECKPOINT
    text, _, ours = NOTE.rpartition("\n\n")
    assert open_note(f"{text}\n\n{witness}{ours}", VKEY) == CHECKPOINT
    with pytest.raises(IntegrityError, match="no signature"):
        open_note(f"{text}\n\n{witness}", VKEY)
    name, encoded = ours.split(" ")[1:]
    broken = bytearray(base64.b64decode(encoded))
    broken[-1] ^= 1
    with pytest.raises(IntegrityError, match="wrong"):
        open_note(f"{NOTE}\u2014 {name} {base64.b64encode(broken).decode()}\n", VKEY)


def test_the_same_name_with_another_key_is_another_signer() -> None:
    with pytest.raises(IntegrityError, match="no signature"):
        open_note(sign_note(CHECKPOINT, ORIGIN, OTHER), VKEY)


@pytest.mark.parametrize(
    "note",
    [
        "",
        "\n\n",
        NOTE[:-1],
        NOTE.replace("\u2014", "-"),
        NOTE.replace("\n\n", "\n"),
        NOTE.replace(" ", "\t"),
        NOTE.replace("\n\n", "\n\r\n"),
        NOTE + "\u2014 x\n",
        NOTE + "\u2014 x !!!!\n",
        NOTE + "\u2014 x AAAA\n",
        NOTE + "\u2014 x AAAAAAB=\n",
        NOTE + "\u2014 a+b AAAAAAAA\n",
        NOTE + "\u2014 x AAAAAAAA\n" * 40,
        NOTE + "\n",
    ],
)
def test_a_malformed_note_is_refused(note: str) -> None:
    with pytest.raises(IntegrityError):
        open_note(note, VKEY)


def _signed(text: str) -> str:
    full = sign_note(CHECKPOINT, ORIGIN, KEY)
    key_id = base64.b64decode(full.rstrip("\n").rpartition(" ")[2])[:4]
    return f"{text}\n\u2014 {ORIGIN} {base64.b64encode(key_id + KEY.sign(text.encode())).decode()}\n"


@pytest.mark.parametrize(
    "text",
    [
        f"{ORIGIN}\n5\n",
        f"{ORIGIN}\n05\n{base64.b64encode(bytes(32)).decode()}\n",
        f"{ORIGIN}\n-5\n{base64.b64encode(bytes(32)).decode()}\n",
        f"{ORIGIN}\n\u0665\n{base64.b64encode(bytes(32)).decode()}\n",
        f"{ORIGIN}\n5\n{base64.b64encode(bytes(31)).decode()}\n",
        f"{ORIGIN}\n5\n????\n",
        f"{ORIGIN}\n5\n{base64.b64encode(bytes(32)).decode()[:-2]}B=\n",
        f"{ORIGIN}\n\n5\n{base64.b64encode(bytes(32)).decode()}\n",
    ],
)
def test_a_signed_text_that_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(IntegrityError):
        open_note(_signed(text), VKEY)


def test_extension_lines_are_allowed() -> None:
    assert open_note(_signed(CHECKPOINT.text() + "extension\n"), VKEY) == CHECKPOINT


@pytest.mark.parametrize(
    "vkey", ["", "a+b", VKEY[:-1], VKEY.upper(), VKEY.replace("+", "+0", 1), f"{VKEY} ", "a b" + VKEY[len(ORIGIN) :]]
)
def test_a_malformed_verifier_key_is_refused(vkey: str) -> None:
    with pytest.raises(IntegrityError):
        read_verifier_key(vkey)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\u2003b", "a\x01b"])
def test_a_bad_key_name_is_not_signed_with(name: str) -> None:
    with pytest.raises(ValueError, match="key name"):
        sign_note(CHECKPOINT, name, KEY)


@pytest.mark.parametrize("origin", ["", "a\nb", "a\x1fb"])
def test_a_bad_origin_is_not_signed(origin: str) -> None:
    with pytest.raises(ValueError, match="origin"):
        sign_note(Checkpoint(origin, 1, bytes(32)), ORIGIN, KEY)

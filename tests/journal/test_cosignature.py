"""Receipts: what central's cosignature says, and that nothing else passes for one."""

from __future__ import annotations

import base64

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.errors import IntegrityError
from gateway.journal.checkpoint import Checkpoint, open_note, sign_note, verifier_key
from gateway.journal.cosignature import Receipt, cosign, open_receipt
from tests.support.journal import KEY, ORIGIN

CENTRAL_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(2, 34)))
VKEY = verifier_key(ORIGIN, KEY.public_key())
CENTRAL = verifier_key("central.example", CENTRAL_KEY.public_key())
CHECKPOINT = Checkpoint(ORIGIN, 5, bytes(range(32)))
NOTE = sign_note(CHECKPOINT, ORIGIN, KEY)
RECEIPT = cosign(NOTE, "central.example", CENTRAL_KEY, 1_700_000_000)


def test_a_receipt_says_what_lay_with_central_and_when() -> None:
    assert open_receipt(RECEIPT, VKEY, CENTRAL) == Receipt(CHECKPOINT, 1_700_000_000)
    assert RECEIPT.startswith(NOTE)
    assert open_note(RECEIPT, VKEY) == CHECKPOINT


def test_the_signed_message_and_the_line_are_those_of_the_specification() -> None:
    line = RECEIPT.splitlines()[-1]
    data = base64.b64decode(line.removeprefix("\u2014 central.example "))
    assert len(data) == 4 + 8 + 64
    assert int.from_bytes(data[4:12], "big") == 1_700_000_000
    message = f"cosignature/v1\ntime 1700000000\n{CHECKPOINT.text()}"
    CENTRAL_KEY.public_key().verify(data[12:], message.encode())


def test_a_note_without_the_cosignature_is_no_receipt() -> None:
    with pytest.raises(IntegrityError, match=r"no cosignature of central\.example"):
        open_receipt(NOTE, VKEY, CENTRAL)


@pytest.mark.parametrize(("name", "key"), [("central.example", OTHER_KEY), ("other.example", CENTRAL_KEY)])
def test_another_key_or_name_is_not_central(name: str, key: Ed25519PrivateKey) -> None:
    receipt = cosign(NOTE, name, key, 1)
    with pytest.raises(IntegrityError, match="no cosignature"):
        open_receipt(receipt, VKEY, CENTRAL)
    assert open_receipt(cosign(receipt, "central.example", CENTRAL_KEY, 2), VKEY, CENTRAL).time_s == 2


def changed(at: int) -> str:
    text, _, line = RECEIPT[:-1].rpartition("\u2014 central.example ")
    data = bytearray(base64.b64decode(line))
    data[at] ^= 1
    return f"{text}\u2014 central.example {base64.b64encode(bytes(data)).decode()}\n"


@pytest.mark.parametrize("at", [4, 11, 12, 75])
def test_time_and_signature_cannot_be_changed(at: int) -> None:
    with pytest.raises(IntegrityError, match="central's signature under a receipt is wrong"):
        open_receipt(changed(at), VKEY, CENTRAL)


def test_a_cosignature_that_is_cut_short_is_refused() -> None:
    line = RECEIPT.splitlines()[-1].removeprefix("\u2014 central.example ")
    for length in (5, 12, 40):
        short = base64.b64encode(base64.b64decode(line)[:length]).decode()
        with pytest.raises(IntegrityError):
            open_receipt(f"{NOTE}\u2014 central.example {short}\n", VKEY, CENTRAL)


def test_the_cosignature_of_another_checkpoint_does_not_fit() -> None:
    other = sign_note(Checkpoint(ORIGIN, 6, bytes(32)), ORIGIN, KEY)
    moved = other + RECEIPT.removeprefix(NOTE)
    with pytest.raises(IntegrityError, match="central's signature"):
        open_receipt(moved, VKEY, CENTRAL)


def test_a_receipt_of_another_gateway_is_refused() -> None:
    with pytest.raises(IntegrityError):
        open_receipt(RECEIPT, verifier_key(ORIGIN, OTHER_KEY.public_key()), CENTRAL)

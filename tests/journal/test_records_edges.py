"""What stands in journals already written never changes its name: kinds, keys, and what an absent key means."""

from __future__ import annotations

import dataclasses

import pytest

from gateway.journal.checkpoint import verifier_key
from gateway.journal.records import PAYLOADS, CaRequested, Genesis, Payload, Record, TokenRevoked, encode
from tests.support.journal import KEY

#: A key that may be left out has a question mark.
_KEYS = {
    "genesis": "origin verifier_key incarnation version predecessor?",
    "started": "version clean time_certain",
    "stopped": "",
    "ca-key-generated": "generation uri spki operator token_serial?",
    "ca-requested": "generation csr operator",
    "ca-activated": "generation uri certificate chain operator demo?",
    "policy-applied": "version source digest expires?",
    "token-created": "token_id verifier profile uses not_after operator subject? station?",
    "token-revoked": "token_id operator",
    "intent": "serial tbs algorithm generation profile protocol operation requester csr_digest spki_digest policy_version "
    "idempotency_key quota? leniencies? time_uncertain? station? predecessor?",
    "issued": "intent serial signature certificate_digest idempotency_key",
    "void": "intent serial reason quota?",
    "refused": "profile protocol requester csr_digest error reason",
    "waiting": "request_id profile protocol requester subject csr_digest idempotency_key",
    "decided": "request_id approved operator reason?",
    "revoked": "serial generation reason revoked_at by",
    "released": "serial generation by",
    "crl-published": "generation scope number this_update next_update digest entries",
    "operator-action": "action operator detail?",
    "joined": "central central_key root urls operator",
    "desired-applied": "version digest issued expires",
    "desired-refused": "version digest reason",
    "command-done": "command outcome detail?",
    "pruned": "receipt before",
    "fenced": "reason",
    "closed": "size root reason operator",
    "order-accepted": "order version document credit source operator?",
    "order-closed": "order operator reason",
    "unit-reserved": "unit order serial station quota attempt key_origin chip? chip_attempt? port? driver?",
    "unit-keyed": "unit previous spki_digest csr_digest evidence_digest? evidence_format?",
    "unit-moved": "unit previous order state by serial? detail? digest?",
    "unit-ended": "unit previous order state by reason? quota? digest?",
    "key-erased": "unit spki_digest reason",
}


def test_every_kind_is_listed_here() -> None:
    assert set(_KEYS) == set(PAYLOADS)


@pytest.mark.parametrize("kind", _KEYS)
def test_a_kind_keeps_its_name_and_its_keys(kind: str) -> None:
    shape = {field.name: field.default is not dataclasses.MISSING for field in dataclasses.fields(PAYLOADS[kind])}
    assert shape == {key.rstrip("?"): key.endswith("?") for key in _KEYS[kind].split()}


def test_an_absent_key_means_empty_false_or_zero() -> None:
    """An empty value is not written, so another default would change what is read back."""
    defaults = [field.default for cls in PAYLOADS.values() for field in dataclasses.fields(cls)]
    assert not any(default for default in defaults if default is not dataclasses.MISSING)


@pytest.mark.parametrize("name", ["", "a b", "a+b", "a\nb"])
def test_a_bad_key_name_has_no_verifier_key(name: str) -> None:
    with pytest.raises(ValueError, match="a key name"):
        verifier_key(name, KEY.public_key())


class _Text(str):
    __slots__ = ()


@pytest.mark.parametrize("payload", [TokenRevoked(_Text("t"), "o"), Genesis("o", "k", "i", _Text("1"))])
def test_a_subclass_of_text_is_no_text(payload: Payload) -> None:
    with pytest.raises(TypeError, match="expected text"):
        encode(Record(1, 1, payload))


def test_other_octets_are_no_bytes() -> None:
    with pytest.raises(TypeError, match="expected bytes"):
        encode(Record(1, 1, CaRequested(1, bytearray(b"x"), "o")))

"""Joining: a code that a person types, a request that only its holder can make, an answer that only its central can give."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadProofOfPossession, IntegrityError, MalformedRequest
from gateway.journal.checkpoint import verifier_key
from gateway.journal.statements import sign_statement, to_json
from gateway.pki.names import name_from_text
from sync import joining
from sync.joining import (
    BadCode,
    CodeUnknown,
    JoinAnswer,
    JoinRequest,
    WrongCentral,
    endorsement_message,
    is_origin,
    make_code,
    open_answer,
    open_request,
    read_code,
    request_code,
    sign_answer,
)
from tests.support.ceremony_root import ROOT_NAME, ca_certificate, root_certificate, root_key

SECRET = bytes(range(16))
ROOT = root_certificate()
CODE = make_code(SECRET, ROOT)
GATEWAY = Ed25519PrivateKey.from_private_bytes(bytes(32))
CENTRAL = Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
CENTRAL_VKEY = verifier_key("central", CENTRAL.public_key())
CA_KEY = ec.generate_private_key(ec.SECP256R1())
SUBJECT = name_from_text("CN=Plant 7 Issuing CA")


def csr(key: ec.EllipticCurvePrivateKey = CA_KEY) -> str:
    builder = x509.CertificateSigningRequestBuilder().subject_name(SUBJECT)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


REQUEST = JoinRequest(
    code=CODE.name, name="plant-7", origin="plant-7/1a2b", vkey=verifier_key("plant-7/1a2b", GATEWAY.public_key()),
    incarnation="1a2b3c4d", csr=csr(), client_key=hashlib.sha256(b"key").digest(), time_ms=5, predecessor="plant-7/0000",
)  # fmt: skip


# The code.


def test_a_code_is_read_as_it_was_shown() -> None:
    text = CODE.text()
    assert [len(group) for group in text.split("-")] == [4] * 14
    assert read_code(text) == CODE
    assert read_code(f"  {text.lower().replace('-', ' ')}\n") == CODE
    assert read_code(text.replace("O", "0").replace("I", "1").replace("B", "8")) == CODE


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=1, max_size=40))
def test_every_code_survives_the_way_through_text(secret: bytes, root: bytes) -> None:
    code = make_code(secret, root)
    assert read_code(code.text()) == code
    assert code.is_of(root)
    assert not code.is_of(root + b"x")


@given(st.integers(0, 55), st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"))
def test_one_mistyped_character_is_found(place: int, letter: str) -> None:
    letters = CODE.text().replace("-", "")
    typed = letters[:place] + letter + letters[place + 1 :]
    if typed == letters:
        assert read_code(typed) == CODE
    else:
        with pytest.raises(BadCode):
            read_code(typed)


@pytest.mark.parametrize(
    "text",
    ["", "ABCD", CODE.text()[:-1], CODE.text() + "A", "9" * 56, "é" * 56, "=" * 56, "A" * 5000],
    ids=["nothing", "too short", "one short", "one more", "digits", "accents", "padding", "endless"],
)
def test_what_is_no_code_says_what_to_do(text: str) -> None:
    with pytest.raises(BadCode) as caught:
        read_code(text)
    assert "again" in caught.value.hint


def test_the_name_of_a_code_is_not_its_secret() -> None:
    assert CODE.name not in CODE.text()
    assert make_code(bytes(16), ROOT).name != CODE.name
    with pytest.raises(ValueError, match="16 octets"):
        make_code(b"short", ROOT)


# The request.


def test_a_request_is_read_by_who_made_the_code() -> None:
    data = REQUEST.to_bytes(SECRET)
    assert request_code(data) == CODE.name
    assert open_request(data, SECRET) == REQUEST
    assert SECRET.hex() not in data.decode()


def test_a_request_with_another_codes_secret_is_refused() -> None:
    with pytest.raises(CodeUnknown):
        open_request(REQUEST.to_bytes(bytes(16)), SECRET)


@pytest.mark.parametrize("key", sorted(set(json.loads(REQUEST.to_bytes(SECRET))) - {"mac"}))
def test_a_changed_request_is_refused(key: str) -> None:
    body = json.loads(REQUEST.to_bytes(SECRET))
    body[key] = 2 if isinstance(body[key], int) else "x"
    with pytest.raises(CodeUnknown):
        open_request(to_json(body), SECRET)


def made(**changes: object) -> bytes:
    return replace(REQUEST, **changes).to_bytes(SECRET)  # type: ignore[arg-type]


OTHER_KEY = ec.generate_private_key(ec.SECP256R1())
BAD_POP = (
    x509.load_pem_x509_csr(csr().encode())
    .public_bytes(Encoding.DER)
    .replace(
        CA_KEY.public_key().public_numbers().x.to_bytes(32, "big") + CA_KEY.public_key().public_numbers().y.to_bytes(32, "big"),
        OTHER_KEY.public_key().public_numbers().x.to_bytes(32, "big")
        + OTHER_KEY.public_key().public_numbers().y.to_bytes(32, "big"),
    )
)
REFUSED = {
    "name with a space": made(name="plant 7"),
    "origin of two lines": made(origin="plant\n7"),
    "no origin": made(origin=""),
    "vkey of another kind": made(vkey="plant+00000000+AAAA"),
    "incarnation that is no hex": made(incarnation="x"),
    "itself as predecessor": made(predecessor=REQUEST.origin),
    "digest that is too short": made(client_key=b"short"),
    "no request of a CA": made(csr="none"),
    "no text": b"\xff",
    "no object": b"[]",
    "too long": made(csr="x" * 70_000),
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_a_request_that_makes_no_sense_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedRequest):
        open_request(data, SECRET)


def test_a_ca_key_without_proof_of_possession_is_refused() -> None:
    pem = x509.load_der_x509_csr(BAD_POP).public_bytes(Encoding.PEM).decode()
    with pytest.raises(BadProofOfPossession):
        open_request(made(csr=pem), SECRET)


def with_mac(body: dict[str, object]) -> bytes:
    body["mac"] = joining._mac(body, SECRET)  # type: ignore[arg-type]
    return to_json(body)  # type: ignore[arg-type]


def test_an_unknown_key_a_foreign_format_and_another_spelling_are_refused() -> None:
    body = json.loads(REQUEST.to_bytes(SECRET))
    del body["mac"]
    with pytest.raises(MalformedRequest, match="not known"):
        open_request(with_mac({**body, "more": 1}), SECRET)
    with pytest.raises(MalformedRequest, match="format 1 only"):
        open_request(with_mac({**body, "format": 2}), SECRET)
    with pytest.raises(MalformedRequest, match="spelling"):
        open_request(REQUEST.to_bytes(SECRET) + b" ", SECRET)
    with pytest.raises(MalformedRequest, match="no text"):
        open_request(REQUEST.to_bytes(SECRET).replace(b"plant-7/0000", b"\\ud800"), SECRET)


def test_an_origin_is_one_word() -> None:
    assert is_origin("plant-7/1a2b3c")
    assert not any(map(is_origin, ("", "plant 7", "plant+7", "plant\n7", "x" * 256)))


# The answer.


def answer(**changes: object) -> JoinAnswer:
    certificate = ca_certificate(SUBJECT, CA_KEY.public_key(), issuer=ROOT_NAME, issuer_key=root_key())
    fields: dict[str, object] = {
        "request": hashlib.sha256(REQUEST.to_bytes(SECRET)).digest(), "origin": REQUEST.origin, "central": "central",
        "vkey": CENTRAL_VKEY, "endorsement": endorsed(CENTRAL_VKEY), "root": ROOT, "urls": ("https://central:9443",),
        "certificate": certificate, "chain": (ROOT,), "desired": b"document",
    }  # fmt: skip
    return JoinAnswer(**fields | changes)  # type: ignore[arg-type]


def endorsed(vkey: str, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    return (key or root_key()).sign(endorsement_message(vkey), ec.ECDSA(hashes.SHA256()))


def opened(given: JoinAnswer, key: Ed25519PrivateKey = CENTRAL) -> JoinAnswer:
    return open_answer(sign_answer(given, "central", key), CODE, REQUEST.to_bytes(SECRET))


def test_an_answer_is_believed_when_everything_fits() -> None:
    for made_so in (answer(), answer(bundle_certificate="PEM")):
        assert opened(made_so) == made_so


def another_root() -> bytes:
    return root_certificate(end=timedelta(days=900))


FORGED = {
    "another central's root": (answer(root=another_root(), chain=(another_root(),)), CENTRAL, WrongCentral, "another central"),
    "a key that the root did not endorse": (
        answer(endorsement=endorsed(CENTRAL_VKEY, OTHER_KEY)), CENTRAL, WrongCentral, "not endorsed",
    ),
    "an endorsement for another key": (
        answer(endorsement=endorsed(REQUEST.vkey)), CENTRAL, WrongCentral, "not endorsed",
    ),
    "another signature under the answer": (answer(), GATEWAY, IntegrityError, "signature"),
    "another gateway's answer": (answer(origin="plant-8/1"), CENTRAL, IntegrityError, "another request"),
    "the answer to another request": (answer(request=bytes(32)), CENTRAL, IntegrityError, "another request"),
    "a certificate for another key": (
        answer(certificate=ca_certificate(SUBJECT, OTHER_KEY.public_key(), issuer=ROOT_NAME, issuer_key=root_key())),
        CENTRAL, IntegrityError, "another key",
    ),
    "a certificate of another issuer": (
        answer(certificate=ca_certificate(SUBJECT, CA_KEY.public_key(), issuer=SUBJECT, issuer_key=root_key())),
        CENTRAL, IntegrityError, "directly below",
    ),
    "a chain without the root": (answer(chain=()), CENTRAL, IntegrityError, "directly below"),
    "a certificate that another key signed": (
        answer(certificate=ca_certificate(SUBJECT, CA_KEY.public_key(), issuer=ROOT_NAME, issuer_key=OTHER_KEY)),
        CENTRAL, IntegrityError, "signature",
    ),
    "what is no CA": (
        answer(certificate=ca_certificate(SUBJECT, CA_KEY.public_key(), issuer=ROOT_NAME, issuer_key=root_key(), ca=False)),
        CENTRAL, IntegrityError, "certificate: ",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("given", "key", "error", "named"), FORGED.values(), ids=FORGED.keys())
def test_a_forged_answer_is_refused(given: JoinAnswer, key: Ed25519PrivateKey, error: type[IntegrityError], named: str) -> None:
    with pytest.raises(error, match=named):
        opened(given, key)


def test_an_answer_of_another_format_or_shape_is_refused() -> None:
    body = json.loads(answer().to_bytes())
    for key, value in {"format": 2, "chain": "x", "urls": [1], "request": "zz", "root": "%"}.items():
        statement = sign_statement(joining.JOINED, to_json({**body, key: value}), "central", CENTRAL)
        with pytest.raises(MalformedRequest):
            open_answer(statement, CODE, REQUEST.to_bytes(SECRET))


def test_too_many_octets_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "MOST_STATEMENT_OCTETS", 10)
    with pytest.raises(MalformedRequest, match="at most 10"):
        opened(answer())

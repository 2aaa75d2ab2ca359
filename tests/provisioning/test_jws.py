"""JSON Web Signatures: another implementation reads ours and we read its; what the RFCs print; and every way to be wrong."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws as other
from joserfc.jwk import ECKey, OKPKey, RSAKey

from gateway.errors import BadKey, IntegrityError, MalformedRequest, RequestError, TooLarge
from provisioning.jws import (
    MOST_OCTETS,
    Draft,
    Form,
    Party,
    algorithm_for,
    canonical,
    decode,
    encode,
    read,
    sign,
)
from tests.support.csrs import key_for
from tests.support.parties import KINDS, finished, issuers, party, party_key

# RFC 9864 deprecates the name in favour of Ed25519; what devices and tools read today is EdDSA.
pytestmark = pytest.mark.filterwarnings("ignore:EdDSA is deprecated:joserfc.errors.SecurityWarning")

PAYLOAD = '{"serial":"Ü-1"}'.encode()
ALGORITHMS = ["ES256", "ES384", "ES512", "EdDSA", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
KEYS = {"ES256": "p-256", "ES384": "p-384", "ES512": "p-521", "EdDSA": "ed25519", "R": "rsa-2048", "P": "rsa-2048"}


def key_of(algorithm: str):
    return party_key(KEYS.get(algorithm) or KEYS[algorithm[0]])


def others_key(algorithm: str):
    kind = {"E": ECKey, "R": RSAKey, "P": RSAKey}[algorithm[0]] if algorithm != "EdDSA" else OKPKey
    pem = key_of(algorithm).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return kind.import_key(pem)


REGISTRY = other.JWSRegistry(algorithms=ALGORITHMS, strict_check_header=False)


def ours(algorithm: str, form: Form, header: Mapping[str, str] | None = None) -> bytes:
    draft = Draft.of(PAYLOAD, {"typ": "test"}, algorithm, form=form, header=header)
    return draft.finish(sign(key_of(algorithm), algorithm, draft.signing_input))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("form", list(Form))
def test_another_implementation_verifies_what_we_sign(algorithm: str, form: Form) -> None:
    document = ours(algorithm, form)
    if form is Form.COMPACT:
        assert other.deserialize_compact(document, others_key(algorithm), registry=REGISTRY).payload == PAYLOAD
    else:
        assert other.deserialize_json(json.loads(document), others_key(algorithm), registry=REGISTRY).payload == PAYLOAD


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("form", list(Form))
def test_we_verify_what_another_implementation_signs(algorithm: str, form: Form) -> None:
    header = {"alg": algorithm}
    if form is Form.COMPACT:
        text = other.serialize_compact(header, PAYLOAD, others_key(algorithm), registry=REGISTRY)
    else:
        member = {"protected": header, "header": {"kid": "1"}}
        wanted = member if form is Form.FLATTENED else [member]
        text = json.dumps(other.serialize_json(wanted, PAYLOAD, others_key(algorithm), registry=REGISTRY))
    jws = read(text.encode())
    jws.parts[0].verify(jws.payload, key_of(algorithm).public_key())
    assert jws.payload == PAYLOAD


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("form", list(Form))
def test_a_document_that_was_changed_anywhere_is_refused(algorithm: str, form: Form) -> None:
    document = ours(algorithm, form)
    jws = read(document)
    key = key_of(algorithm).public_key()
    jws.parts[0].verify(jws.payload, key)
    changed_payload = document.replace(encode(PAYLOAD).encode(), encode(PAYLOAD + b" ").encode())
    changed_header = document.replace(jws.parts[0].protected.encode(), encode(b'{"alg":"%s"}' % algorithm.encode()).encode())
    signature = jws.parts[0].signature
    changed_signature = document.replace(encode(signature).encode(), encode(bytes([signature[0] ^ 1]) + signature[1:]).encode())
    for changed in (changed_payload, changed_header, changed_signature):
        assert changed != document
        other_jws = read(changed)
        with pytest.raises(IntegrityError):
            other_jws.parts[0].verify(other_jws.payload, key)


# Appendix A.2, A.3 and A.6 of RFC 7515, appendix A.4 of RFC 8037.
CLAIMS = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
RS256 = (
    "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4"
    "BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqv"
    "hJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw"
)
RSA_N = (
    "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOW"
    "vG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9k"
    "G4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"
)
ES256 = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"


def number(text: str) -> int:
    return int.from_bytes(decode(text))


RFC_RSA = rsa.RSAPublicNumbers(65537, number(RSA_N)).public_key()
RFC_EC = ec.EllipticCurvePublicNumbers(
    number("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"), number("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"), ec.SECP256R1()
).public_key()


def test_the_general_document_of_rfc_7515_verifies_and_is_written_the_same() -> None:
    document = {
        "payload": CLAIMS,
        "signatures": [
            {"protected": "eyJhbGciOiJSUzI1NiJ9", "header": {"kid": "2010-12-29"}, "signature": RS256},
            {
                "protected": "eyJhbGciOiJFUzI1NiJ9",
                "header": {"kid": "e9bc097a-ce51-4036-9562-d2ade882db0d"},
                "signature": ES256,
            },
        ],
    }
    jws = read(json.dumps(document).encode())
    jws.parts[0].verify(jws.payload, RFC_RSA)
    jws.parts[1].verify(jws.payload, RFC_EC)
    assert json.loads(jws.write(Form.GENERAL)) == document


def test_the_compact_documents_of_the_rfcs_verify() -> None:
    jws = read(f"eyJhbGciOiJFUzI1NiJ9.{CLAIMS}.{ES256}\n".encode())
    jws.parts[0].verify(jws.payload, RFC_EC)
    edwards = ed25519.Ed25519PublicKey.from_public_bytes(decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"))
    signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    jws = read(f"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.{signature}".encode())
    jws.parts[0].verify(b"Example of Ed25519 signing", edwards)


@pytest.mark.parametrize("kind", KINDS)
def test_a_party_signs_with_its_certificates_and_is_verified_by_them(kind: str) -> None:
    signer = party(kind)
    draft = Draft.of(PAYLOAD, {"x5c": signer.x5c, "x5t#S256": signer.thumbprint}, signer.algorithm, form=Form.GENERAL)
    jws = read(finished(draft, kind))
    certificate = jws.parts[0].verify_by_chain(jws.payload)
    assert certificate == x509.load_der_x509_certificate(signer.chain[0])
    assert jws.parts[0].chain == (signer.chain[0], *issuers())


def test_a_second_signature_leaves_the_first_as_it_is() -> None:
    first = read(ours("ES256", Form.GENERAL))
    draft = Draft.of(first.payload, {}, "EdDSA", form=Form.GENERAL, header={"note": "ours"}, others=first.parts)
    both = read(draft.finish(sign(key_of("EdDSA"), "EdDSA", draft.signing_input)))
    assert (both.parts[0], both.parts[1].header) == (first.parts[0], {"note": "ours"})
    both.parts[0].verify(both.payload, key_of("ES256").public_key())
    both.parts[1].verify(both.payload, key_of("EdDSA").public_key())
    with pytest.raises(MalformedRequest, match="general"):
        both.write(Form.FLATTENED)


def forged(header: dict[str, object], algorithm: str = "ES256", unprotected: object = None) -> bytes:
    protected = encode(json.dumps(header).encode())
    message = f"{protected}.{encode(PAYLOAD)}".encode()
    draft = Draft(PAYLOAD, protected, algorithm, Form.FLATTENED)
    assert draft.signing_input == message
    document = json.loads(draft.finish(sign(key_of(algorithm), algorithm, message)))
    return json.dumps(document | ({"header": unprotected} if unprotected else {})).encode()


@pytest.mark.parametrize("algorithm", ["none", "HS256", "RS256", "ES384", "ES999", "Es256", ""])
def test_a_signature_under_the_name_of_another_algorithm_is_refused(algorithm: str) -> None:
    jws = read(forged({"alg": algorithm}))
    with pytest.raises(IntegrityError):
        jws.parts[0].verify(jws.payload, key_of("ES256").public_key())


def test_the_newer_name_of_eddsa_is_read() -> None:
    jws = read(forged({"alg": "Ed25519"}, "EdDSA"))
    jws.parts[0].verify(jws.payload, key_of("EdDSA").public_key())


def test_a_weak_rsa_key_verifies_nothing() -> None:
    weak = key_for("rsa-1024")
    draft = Draft.of(PAYLOAD, {}, "RS256", form=Form.COMPACT)
    jws = read(draft.finish(sign(weak, "RS256", draft.signing_input)))
    with pytest.raises(IntegrityError):
        jws.parts[0].verify(jws.payload, weak.public_key())


@pytest.mark.parametrize(
    "header", [{}, {"alg": 1}, {"alg": None}, {"alg": "ES256", "crit": ["b64"], "b64": False}, {"alg": "ES256", "crit": []}]
)
def test_a_header_that_is_not_understood_is_refused(header: dict[str, object]) -> None:
    jws = read(forged(header))
    with pytest.raises(MalformedRequest):
        jws.parts[0].verify(jws.payload, key_of("ES256").public_key())


def test_crit_outside_the_protected_header_is_refused_as_well() -> None:
    jws = read(forged({"alg": "ES256"}, unprotected={"crit": ["exp"]}))
    with pytest.raises(MalformedRequest):
        jws.parts[0].verify(jws.payload, key_of("ES256").public_key())


CERTIFICATE = base64.b64encode(issuers()[0]).decode()


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "ES256"},
        {"alg": "ES256", "x5c": []},
        {"alg": "ES256", "x5c": "text"},
        {"alg": "ES256", "x5c": [1]},
        {"alg": "ES256", "x5c": ["!!"]},
        {"alg": "ES256", "x5c": ["AAAA"]},
        {"alg": "ES256", "x5c": [CERTIFICATE], "x5t#S256": "AAAA"},
    ],
)
def test_certificates_that_are_missing_or_wrong_verify_nothing(header: dict[str, object]) -> None:
    jws = read(forged(header))
    with pytest.raises(MalformedRequest):
        jws.parts[0].verify_by_chain(jws.payload)


def test_a_certificate_of_somebody_else_verifies_nothing() -> None:
    jws = read(forged({"alg": "ES256", "x5c": [CERTIFICATE]}))
    with pytest.raises(IntegrityError):
        jws.parts[0].verify_by_chain(jws.payload)


PROTECTED = encode(b'{"alg":"ES256"}')


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"a.b",
        b"a.b.c.d",
        "ü.a.b".encode(),
        b"{",
        b'{"payload":1}',
        b"{}",
        b'{"payload":"","payload":""}',
        b'{"payload":"","signature":""}',
        b'{"payload":"","protected":"e30","signature":1}',
        b'{"payload":"","protected":"e30","signature":"","header":[]}',
        b'{"payload":"","signatures":[]}',
        b'{"payload":"","signatures":{}}',
        b'{"payload":"","signatures":[1]}',
        b'{"payload":"","signature":"","signatures":[{"protected":"e30","signature":""}]}',
        b'{"payload":"=","protected":"e30","signature":""}',
        b'{"payload":"YQ==","protected":"e30","signature":""}',
        b'{"payload":"YR","protected":"e30","signature":""}',
        b'{"payload":"Y","protected":"e30","signature":""}',
        b'{"payload":"+/+/","protected":"e30","signature":""}',
        b'{"payload":"","protected":"W10","signature":""}',
        b'{"payload":"","protected":"%s","signature":"","header":{"alg":"ES256"}}' % PROTECTED.encode(),
        b'{"a":' * 100_000,
        b'{"payload":"\xff"}',
    ],
    ids=map(str, range(24)),
)
def test_what_is_no_signed_document_is_refused(document: bytes) -> None:
    with pytest.raises(MalformedRequest):
        read(document)


def test_sizes_are_bounded() -> None:
    with pytest.raises(TooLarge):
        read(b"{" + b" " * MOST_OCTETS)
    with pytest.raises(TooLarge):
        read(json.dumps({"payload": "", "signatures": [{"protected": "e30", "signature": ""}] * 65}).encode())


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode(errors="replace")))
def test_reading_anything_gives_a_document_or_a_request_error(octets: bytes) -> None:
    try:
        jws = read(octets)
    except RequestError:
        return
    assert len(jws.parts) > 0


@given(st.binary())
def test_base64url_is_undone(octets: bytes) -> None:
    assert decode(encode(octets)) == octets
    assert "=" not in encode(octets)


@pytest.mark.parametrize("label", ["p-256", "ed25519", "rsa-2048"])
def test_a_key_signs_with_its_own_algorithms_only(label: str) -> None:
    fitting = {"p-256": {"ES256"}, "ed25519": {"EdDSA"}, "rsa-2048": {name for name in ALGORITHMS if name[0] in "RP"}}[label]
    for algorithm in ALGORITHMS:
        if algorithm not in fitting:
            with pytest.raises(BadKey):
                sign(party_key(label), algorithm, b"")


def test_the_default_algorithms_are_those_of_the_signers() -> None:
    assert [algorithm_for(party_key(kind).public_key()) for kind in KINDS] == ["ES256", "ES384", "ES512", "RS256", "EdDSA"]
    assert algorithm_for(party_key("rsa-2048").public_key(), pss=True) == "PS256"
    for kind in ("secp256k1", "ml-dsa-44"):
        with pytest.raises(BadKey):
            algorithm_for(key_for(kind).public_key())


def test_signatures_that_are_not_der_are_no_ecdsa_signatures() -> None:
    with pytest.raises(MalformedRequest):
        Draft.of(PAYLOAD, {}, "ES256", form=Form.COMPACT).finish(b"x" * 64)


def test_the_compact_form_has_no_unprotected_header() -> None:
    with pytest.raises(MalformedRequest):
        ours("ES256", Form.COMPACT, {"kid": "1"})


def test_canonical_json_has_one_spelling() -> None:
    assert canonical({"b": [1, None, True], "a": "Ü\n\x7f/"}) == '{"a":"Ü\\n\x7f/","b":[1,null,true]}'.encode()
    with pytest.raises(MalformedRequest):
        canonical("\ud800")


def test_a_certificate_that_is_none_makes_no_party() -> None:
    with pytest.raises(MalformedRequest):
        Party((b"x",)).algorithm  # noqa: B018

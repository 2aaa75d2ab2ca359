"""The parts of the desired document: what is written is read again, and everything else is refused by name."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import GatewayError, MalformedRequest, OperatorError
from gateway.pki.crl import Reason
from sync import document
from sync.document import CaCertificate, Desired, PolicyPart, ReleaseCommand, RevokeCommand, recipient
from tests.support.ceremony_root import ROOT_NAME, ca_certificate, root_certificate, root_key


def pem(der: bytes) -> str:
    return x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()


def root_crl() -> bytes:
    certificate = x509.load_der_x509_certificate(root_certificate())
    builder = x509.CertificateRevocationListBuilder().issuer_name(ROOT_NAME).last_update(certificate.not_valid_before_utc)
    return builder.next_update(certificate.not_valid_after_utc).sign(root_key(), hashes.SHA256()).public_bytes(Encoding.DER)


def ocsp_csr(key: ec.EllipticCurvePrivateKey | None = None) -> str:
    key = key or ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(ROOT_NAME)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


@cache
def rsa_certificate() -> str:
    key = rsa.generate_private_key(65537, 2048).public_key()
    return pem(ca_certificate(ROOT_NAME, key, issuer=ROOT_NAME, issuer_key=root_key()))  # type: ignore[arg-type]


@cache
def full() -> Desired:
    root = pem(root_certificate())
    return Desired(
        origin="plant/7",
        version=3,
        issued=1_800_000_000_000,
        expires=1_900_000_000_000,
        policy=PolicyPart(2, {"plc": {"base": "ldevid", "quota": 7}}, "stop", 60, {"line": "plc"}, "plc"),
        allow_lists={"shipment-17.txt": "SN-1\n"},
        quotas={"plc": 5},
        makers=(root,),
        blocked_keys=frozenset({bytes(32), b"\1" * 32}),
        crls={"headquarters.crl": root_crl()},
        trust_lists=[{"any": ["thing"]}],
        orders={"17": 4},
        ca_certificates=(CaCertificate(root, (root,)),),
        ocsp_csr=ocsp_csr(),
        bundle_certificate=rsa_certificate(),
        commands=(
            RevokeCommand("c-1", 0xA1B2, 1, Reason.KEY_COMPROMISE, 1_790_000_000_000),
            ReleaseCommand("c-2", 0xFF, 2),
        ),
    )


def test_a_document_is_read_as_it_was_written() -> None:
    desired = full()
    assert Desired.from_bytes(desired.to_bytes()) == desired
    empty = Desired("plant/7", 1, 0)
    assert Desired.from_bytes(empty.to_bytes()) == empty


def test_what_a_document_leaves_out_is_empty() -> None:
    least = {"format": 1, "origin": "plant/7", "version": 1, "issued": 0, "expires": 0}
    assert Desired.from_bytes(spelled(least)) == Desired("plant/7", 1, 0)


def test_the_parts_that_are_kept_as_they_came_are_read_when_asked_for() -> None:
    desired = full()
    desired.check()
    assert desired.maker_certificates() == (root_certificate(),) or len(desired.maker_certificates()) == 1
    request = desired.ocsp_request()
    assert request is not None
    assert request.subject == ROOT_NAME
    assert len(desired.ca_certificates[0].ders()) == 2
    assert recipient(desired.bundle_certificate) == x509.load_pem_x509_certificate(rsa_certificate().encode()).public_bytes(
        Encoding.DER
    )
    assert Desired("plant/7", 1, 0).ocsp_request() is None
    Desired("plant/7", 1, 0).check()


def spelled(body: object) -> bytes:
    return json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def changed(change: Callable[[dict[str, Any]], object]) -> bytes:
    body = json.loads(full().to_bytes())
    change(body)
    return spelled(body)


def put(*path: str | int, value: object) -> bytes:
    def change(body: Any) -> None:
        for step in path[:-1]:
            body = body[step]
        body[path[-1]] = value

    return changed(change)


REFUSED = {
    "another format": (put("format", value=2), "newer software"),
    "format that is no number": (put("format", value=True), "format"),
    "unknown key": (put("qoutas", value={}), "qoutas"),
    "unknown key of the policy": (put("policy", "profile", value={}), "profile"),
    "unknown key of a command": (put("commands", 0, "serail", value="1"), "serail"),
    "unknown key of a release": (put("commands", 1, "reason", value="unspecified"), "reason"),
    "unknown key of a CA certificate": (put("ca_certificates", 0, "key", value=""), "key"),
    "unknown key of ocsp": (put("ocsp", "key", value=""), "key"),
    "no origin": (changed(lambda body: body.pop("origin")), "origin"),
    "version 0": (put("version", value=0), "version"),
    "a version below 0": (put("version", value=-1), "version"),
    "a version that is a fraction": (put("version", value=1.5), "version"),
    "policy that is a list": (put("policy", value=[]), "policy"),
    "profiles that are a list": (put("policy", "profiles", value=[]), "profiles"),
    "profile that is a text": (put("policy", "profiles", "plc", value="x"), "plc"),
    "clock_doubt of another kind": (put("policy", "clock_doubt", value="guess"), "clock_doubt"),
    "label that is a number": (put("policy", "labels", "line", value=1), "line"),
    "name without characters": (put("policy", "profiles", "", value={}), "profiles"),
    "allow-list that is no text": (put("allow_lists", "shipment-17.txt", value=1), "shipment-17.txt"),
    "quota below 0": (put("quotas", "plc", value=-1), "plc"),
    "makers that are no list": (put("makers", value="x"), "makers"),
    "blocked key that is no hex": (put("blocked_keys", 0, value="x"), "blocked_keys"),
    "blocked key that is too short": (put("blocked_keys", 0, value="00"), "blocked_keys"),
    "list with a path for a name": (put("crls", "../etc/x.crl", value=""), "crls"),
    "list that is not base64": (put("crls", "headquarters.crl", value="%"), "headquarters.crl"),
    "reader of bundles that is no text": (put("bundle_certificate", value=None), "bundle_certificate"),
    "ocsp that is a text": (put("ocsp", value="x"), "ocsp"),
    "command without id": (put("commands", 0, "id", value=""), "id"),
    "two commands with one id": (put("commands", 1, "id", value="c-1"), "same id"),
    "command that is unknown": (put("commands", 0, "do", value="reboot"), "reboot"),
    "serial with leading zero": (put("commands", 0, "serial", value="0a"), "serial"),
    "serial of 21 octets": (put("commands", 0, "serial", value="1" * 41), "serial"),
    "reason that no revocation has": (put("commands", 0, "reason", value="removeFromCRL"), "removeFromCRL"),
    "two spellings": (full().to_bytes() + b" ", "spelling"),
    "a key twice": (full().to_bytes().replace(b'"version":3', b'"version":2,"version":3', 1), "spelling"),
    "half a surrogate pair": (full().to_bytes().replace(b'"plant/7"', b'"\\ud800"', 1), "spelling"),
    "no JSON": (b"{", "JSON"),
    "no object": (b"[]", "object"),
}  # fmt: skip


@pytest.mark.parametrize(("data", "named"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_understood_is_refused_as_a_whole(data: bytes, named: str) -> None:
    with pytest.raises(MalformedRequest, match=named):
        Desired.from_bytes(data)


def test_lists_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(document, "MOST_ENTRIES", 1)
    Desired.from_bytes(Desired("plant/7", 1, 0, quotas={"a": 1}).to_bytes())
    with pytest.raises(MalformedRequest, match="quotas has more than 1"):
        Desired.from_bytes(Desired("plant/7", 1, 0, quotas={"a": 1, "b": 1}).to_bytes())
    with pytest.raises(MalformedRequest, match="makers has more than 1"):
        Desired.from_bytes(Desired("plant/7", 1, 0, makers=("a", "b")).to_bytes())


def dsa_ca() -> str:
    """A CA whose key is of a type that signs nothing here."""
    key = dsa.generate_private_key(2048)
    der = ca_certificate(ROOT_NAME, key.public_key(), issuer=ROOT_NAME, issuer_key=root_key())  # type: ignore[arg-type]
    return pem(der)


def strange_key_ca() -> str:
    """A CA whose key has an algorithm that nobody knows."""
    der = root_certificate()
    ec_key = bytes.fromhex("06072a8648ce3d0201")  # id-ecPublicKey
    return pem(der.replace(ec_key, ec_key[:-1] + b"\x7f"))


UNREADABLE: dict[str, tuple[Desired, str]] = {
    "maker": (Desired("o", 1, 0, makers=("no certificate",)), "PEM certificate"),
    "request": (Desired("o", 1, 0, ocsp_csr="no request"), "ocsp.csr"),
    "CA certificate": (Desired("o", 1, 0, ca_certificates=(CaCertificate("none", ()),)), "PEM certificate"),
    "key of the CA": (Desired("o", 1, 0, ca_certificates=(CaCertificate(dsa_ca(), ()),)), "not accepted"),
    "unknown key of the CA": (Desired("o", 1, 0, ca_certificates=(CaCertificate(strange_key_ca(), ()),)), "type"),
    "list": (Desired("o", 1, 0, crls={"a.crl": b"none"}), "a.crl"),
    "reader of bundles": (Desired("o", 1, 0, bundle_certificate="none"), "PEM certificate"),
    "reader of bundles with another key": (Desired("o", 1, 0, bundle_certificate=pem(root_certificate())), "RSA key"),
    "two readers of bundles": (Desired("o", 1, 0, bundle_certificate=2 * rsa_certificate()), "one certificate"),
    "reader of bundles with an unknown key": (Desired("o", 1, 0, bundle_certificate=strange_key_ca()), "RSA key"),
}


@pytest.mark.parametrize(("desired", "named"), UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_part_that_cannot_be_read_is_named(desired: Desired, named: str) -> None:
    with pytest.raises((MalformedRequest, OperatorError, GatewayError), match=named):
        desired.check()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(sorted(json.loads(full().to_bytes())))


@given(KEYS, JSON)
def test_no_value_at_any_place_is_more_than_an_error(key: str, value: object) -> None:
    try:
        data = put(key, value=value)
    except UnicodeEncodeError:
        return
    with suppress(MalformedRequest):
        Desired.from_bytes(data)


def test_base64_of_lists_is_the_plain_one() -> None:
    der = b"\xfb\xff"
    assert base64.b64encode(der) in Desired("o", 1, 0, crls={"a.crl": der}).to_bytes()

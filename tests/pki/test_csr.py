"""read_csr: every key type, every way of being malformed, each leniency switch."""

from __future__ import annotations

import hashlib
import subprocess
from dataclasses import replace
from functools import reduce
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadKey, BadProofOfPossession, MalformedRequest, RequestError, TooLarge
from gateway.pki import der, leniency
from gateway.pki.algorithms import sign
from gateway.pki.csr import read_csr
from gateway.pki.walk import content, elements, name_attributes
from tests.support.csrs import (
    KEY_TYPES,
    OID_CHALLENGE_PASSWORD,
    OID_EXTENSION_REQUEST,
    algorithm_of,
    attribute,
    encode_extension,
    extension,
    key_for,
    make_csr,
    name_der,
    sign_ec,
    sign_rsa,
    spki_of,
)

ALL = leniency.ALL_LENIENCIES
GOOD = make_csr(san=["DNS:a.example", "IP:192.0.2.7"], challenge="secret")


@pytest.mark.parametrize("key_type", KEY_TYPES)
def test_every_key_type_is_read_with_its_exact_bytes(key_type: str) -> None:
    data = make_csr(key_type, subject="CN=a,C=DE", san=["DNS:a.example"])
    request = read_csr(data)
    assert request.der == data
    assert request.spki == spki_of(key_for(key_type))
    assert request.subject_der == name_der("CN=a,C=DE")
    assert request.subject == x509.Name.from_rfc4514_string("CN=a,C=DE")
    assert request.san == (x509.DNSName("a.example"),)
    assert request.challenge_password is None
    assert request.leniencies == ()


def test_challenge_password_and_other_extensions_are_handed_over() -> None:
    usage = x509.ExtendedKeyUsage([x509.ObjectIdentifier("1.3.6.1.5.5.7.3.2")])
    request = read_csr(make_csr(challenge="s3cret", extensions=[encode_extension(usage), extension("1.2.3.4", b"\x05\x00")]))
    assert request.challenge_password == b"s3cret"
    assert [entry.oid.dotted_string for entry in request.extensions] == ["2.5.29.37", "1.2.3.4"]
    assert request.san == ()


@pytest.mark.parametrize(
    ("tag", "octets"), [(0x0C, "pä".encode()), (0x14, "pä".encode("latin-1")), (0x1E, "pä".encode("utf-16-be"))]
)
def test_challenge_password_becomes_utf8_whatever_its_type(tag: int, octets: bytes) -> None:
    data = make_csr(attributes=[attribute(OID_CHALLENGE_PASSWORD, der.tlv(tag, octets))])
    assert read_csr(data).challenge_password == "pä".encode()


def test_microsofts_extension_attribute_is_understood() -> None:
    names = encode_extension(x509.SubjectAlternativeName([x509.DNSName("a.example")]))
    data = make_csr(attributes=[attribute("1.3.6.1.4.1.311.2.1.14", der.sequence(names))])
    assert read_csr(data).san == (x509.DNSName("a.example"),)


def test_empty_subject_is_the_profiles_business() -> None:
    assert list(read_csr(make_csr(subject="")).subject) == []


OIDS = st.sampled_from(["2.5.4.3", "2.5.4.5", "2.5.4.6", "2.5.4.45", "1.3.6.1.4.1.311.60.2.1.3", "1.2.3.4"])
TEXTS = st.text(max_size=70).map(str.encode) | st.text(max_size=8).map(lambda text: text.encode("utf-16-be", "surrogatepass"))
VALUES = st.tuples(st.integers(0, 255), TEXTS | st.binary(max_size=5)) | st.tuples(st.sampled_from([12, 19, 22]), TEXTS)


@given(st.lists(st.lists(st.tuples(OIDS, VALUES), min_size=1, max_size=2), max_size=4))
def test_a_subject_that_was_accepted_can_be_read_later(name: list[list[tuple[str, tuple[int, bytes]]]]) -> None:
    rdns = [[der.sequence(der.oid(oid), der.tlv(tag, value)) for oid, (tag, value) in rdn] for rdn in name]
    subject = der.sequence(*map(der.set_of, rdns))
    try:
        request = read_csr(make_csr("ed25519", subject=subject))
    except MalformedRequest:
        return
    assert request.subject_der == subject
    assert request.subject.public_bytes() == subject
    assert request.subject is request.subject


def test_common_name_is_measured_in_characters() -> None:
    text = "ü" * 64
    assert (
        read_csr(make_csr(subject=der_name(("2.5.4.3", 0x0C, text.encode())))).subject.rdns[0].rfc4514_string() == f"CN={text}"
    )


@pytest.mark.parametrize("hash_", [hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_rsa_pss_signatures_with_sha2_are_verified(hash_: hashes.HashAlgorithm) -> None:
    assert read_csr(pss_csr(hash_)).public_key == key_for("rsa-2048").public_key()


def test_rsa_algorithm_without_null_is_understood() -> None:
    assert read_csr(make_csr("rsa-2048", algorithm=der.sequence(der.oid("1.2.840.113549.1.1.11")))).leniencies == ()


def test_blocked_keys_are_asked_for_by_digest_of_the_spki() -> None:
    seen: list[bytes] = []

    def blocked(digest: bytes) -> bool:
        seen.append(digest)
        return True

    with pytest.raises(BadKey, match="blocked"):
        read_csr(GOOD, blocked=blocked)
    assert seen == [hashlib.sha256(spki_of(key_for("p-256"))).digest()]


def test_a_request_for_another_subject_has_that_subjects_attributes() -> None:
    request = read_csr(GOOD)
    assert request.rdns == name_attributes(request.subject_der, *content(request.subject_der, der.SEQUENCE))
    other = der_name(("2.5.4.3", der.UTF8_STRING, b"another"))
    assert replace(request, subject_der=other).rdns == [[(der.oid("2.5.4.3")[2:], der.UTF8_STRING, b"another")]]


def der_name(*attributes: tuple[str, int, bytes]) -> bytes:
    return der.sequence(*(der.set_of([der.sequence(der.oid(oid), der.tlv(tag, value))]) for oid, tag, value in attributes))


def pss_csr(hash_: hashes.HashAlgorithm) -> bytes:
    key = key_for("rsa-2048")
    oid = {"sha1": "1.3.14.3.2.26", "sha224": "2.16.840.1.101.3.4.2.4"}.get(hash_.name) or {
        "sha256": "2.16.840.1.101.3.4.2.1",
        "sha384": "2.16.840.1.101.3.4.2.2",
        "sha512": "2.16.840.1.101.3.4.2.3",
    }[hash_.name]
    digest = der.sequence(der.oid(oid), der.null())
    mask = der.sequence(der.oid("1.2.840.113549.1.1.8"), digest)
    parameters = der.sequence(der.context(0, digest), der.context(1, mask), der.context(2, der.integer(hash_.digest_size)))
    information = info("rsa-2048")
    return make_csr(
        "rsa-2048",
        information=information,
        algorithm=der.sequence(der.oid("1.2.840.113549.1.1.10"), parameters),
        signature=sign_rsa(key, information, hash_, pss=True),
    )


def info(
    key_type: str = "p-256", *, version: bytes = b"\x02\x01\x00", subject: bytes | None = None, tail: bytes = b"\xa0\x00"
) -> bytes:
    return der.sequence(version, name_der("CN=a") if subject is None else subject, spki_of(key_for(key_type)), tail)


def signed(information: bytes, key_type: str = "p-256") -> bytes:
    return make_csr(key_type, information=information)


def with_subject(*attributes: tuple[str, int, bytes]) -> bytes:
    return make_csr(subject=der_name(*attributes))


def with_attributes(*attributes: bytes) -> bytes:
    return signed(info(tail=der.context(0, *attributes)))


def replaced_signature(signature: bytes, unused: int = 0) -> bytes:
    return der.sequence(info(), algorithm_of(key_for("p-256")).value, der.bit_string(signature, unused=unused))


SAN = encode_extension(x509.SubjectAlternativeName([x509.DNSName("a.example")]))
SIGNATURE = sign(key_for("p-256"), algorithm_of(key_for("p-256")), info())
P256 = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")
MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "one octet": b"0",
    "text": b"-----BEGIN CERTIFICATE REQUEST-----",
    "zeros": bytes(100),
    "ones": b"\xff" * 100,
    "null": b"\x05\x00",
    "empty sequence": b"\x30\x00",
    "set": b"\x31" + GOOD[1:],
    "certificate-like": der.sequence(
        der.sequence(der.context(0, der.integer(2)), der.integer(1)), der.sequence(), der.bit_string(b"")
    ),
    "extra octet behind": GOOD + b"\x00",
    "two requests": GOOD + GOOD,
    "inside another sequence": der.sequence(GOOD),
    "nested 1000 deep": bytes.fromhex("3080") * 1000,
    "nested definite": reduce(lambda inner, _: der.sequence(inner), range(400), b""),
    "length of nine octets": b"\x30\x89" + bytes(9),
    "length beyond the end": b"\x30\x84\x7f\xff\xff\xff" + GOOD[3:],
    "long-form length": b"\x30\x83\x00" + GOOD[2:],
    "information only": der.sequence(info()),
    "no signature": der.sequence(info(), P256),
    "four parts": der.sequence(info(), algorithm_of(key_for("p-256")).value, der.bit_string(SIGNATURE), der.null()),
    "signature as octet string": der.sequence(info(), algorithm_of(key_for("p-256")).value, der.octet_string(SIGNATURE)),
    "signature with unused bits": replaced_signature(SIGNATURE[:-1] + b"\x80", unused=7),
    "signature bit string empty": der.sequence(info(), algorithm_of(key_for("p-256")).value, b"\x03\x00"),
    "algorithm is an OID": der.sequence(info(), der.oid("1.2.840.10045.4.3.2"), der.bit_string(SIGNATURE)),
    "algorithm empty": der.sequence(info(), der.sequence(), der.bit_string(SIGNATURE)),
    "algorithm with two parameters": make_csr(algorithm=der.sequence(der.oid("1.2.840.10045.4.3.2"), der.null(), der.null())),
    "null parameters": make_csr(algorithm=der.sequence(der.oid("1.2.840.10045.4.3.2"), der.null())),
    "version 1": make_csr(version=1),
    "version 2": make_csr(version=2),
    "version 3": make_csr(version=3),
    "version -1": make_csr(version=-1),
    "version huge": make_csr(version=1 << 64),
    "version with leading zero": signed(info(version=b"\x02\x02\x00\x00")),
    "version empty": signed(info(version=b"\x02\x00")),
    "version missing": signed(info(version=b"")),
    "version boolean": signed(info(version=b"\x01\x01\x00")),
    "attributes missing": signed(info(tail=b"")),
    "attributes as SET": signed(info(tail=b"\x31\x00")),
    "attributes [1]": signed(info(tail=b"\xa1\x00")),
    "attributes primitive": signed(info(tail=b"\x80\x00")),
    "field behind attributes": signed(info(tail=b"\xa0\x00\x05\x00")),
    "subject is a SET": signed(info(subject=b"\x31\x00")),
    "subject missing": signed(info(subject=b"")),
    "rdn empty": make_csr(subject=der.sequence(der.tlv(0x31))),
    "rdn is a sequence": make_csr(subject=der.sequence(der.sequence(der.sequence(der.oid("2.5.4.3"), der.utf8_string("a"))))),
    "rdn attribute without value": make_csr(subject=der.sequence(der.set_of([der.sequence(der.oid("2.5.4.3"))]))),
    "rdn attribute not a sequence": make_csr(subject=der.sequence(der.set_of([der.oid("2.5.4.3")]))),
    "rdn type not an OID": make_csr(subject=der.sequence(der.set_of([der.sequence(der.integer(3), der.utf8_string("a"))]))),
    "too many rdns": make_csr(
        subject=der.sequence(*[der.set_of([der.sequence(der.oid("2.5.4.11"), der.utf8_string("a"))])] * 65)
    ),
    "rdn of 17 attributes": make_csr(
        subject=der.sequence(der.set_of(der.sequence(der.oid("2.5.4.11"), der.utf8_string(str(n))) for n in range(17)))
    ),
    "rdn in wrong order": make_csr(
        subject=der.sequence(
            der.tlv(
                0x31,
                der.sequence(der.oid("2.5.4.11"), der.utf8_string("a")),
                der.sequence(der.oid("2.5.4.3"), der.utf8_string("a")),
            )
        )
    ),
    "common name empty": with_subject(("2.5.4.3", 0x0C, b"")),
    "common name of 65 characters": with_subject(("2.5.4.3", 0x0C, b"a" * 65)),
    "common name of 65 umlauts": with_subject(("2.5.4.3", 0x0C, "ü".encode() * 65)),
    "common name of 20,000": with_subject(("2.5.4.3", 0x0C, b"a" * 20_000)),
    "long common name, not UTF-8": with_subject(("2.5.4.3", 0x0C, b"\xff" * 65)),
    "common name not UTF-8": with_subject(("2.5.4.3", 0x0C, b"\xff\xfe")),
    "common name integer": with_subject(("2.5.4.3", 0x02, b"\x01")),
    "common name odd BMP": with_subject(("2.5.4.3", 0x1E, b"\x00a\x00")),
    "country of one letter": with_subject(("2.5.4.6", 0x13, b"D")),
    "country of three letters": with_subject(("2.5.4.6", 0x13, b"DEU")),
    "country empty": with_subject(("2.5.4.6", 0x13, b"")),
    "country integer": with_subject(("2.5.4.6", 0x02, b"\x01")),
    "country two bytes not ASCII": with_subject(("2.5.4.6", 0x13, b"\xc3\xbc")),
    "attribute is an OID": with_attributes(der.oid("1.2.3")),
    "attribute empty": with_attributes(der.sequence()),
    "attribute without SET": with_attributes(der.sequence(der.oid(OID_CHALLENGE_PASSWORD), der.utf8_string("x"))),
    "attribute with three parts": with_attributes(der.sequence(der.oid("1.2.3"), der.tlv(0x31), der.null())),
    "attribute OID empty": with_attributes(der.sequence(b"\x06\x00", der.set_of([der.null()]))),
    "attribute OID truncated": with_attributes(der.sequence(b"\x06\x01\x80", der.set_of([der.null()]))),
    "17 attributes": make_csr(attributes=[attribute(f"1.2.3.{n}", der.null()) for n in range(17)]),
    "same attribute twice": make_csr(attributes=[attribute("1.2.3", der.null())] * 2),
    "two challenges": make_csr(attributes=[attribute(OID_CHALLENGE_PASSWORD, der.utf8_string(t)) for t in "ab"]),
    "two extension requests": make_csr(attributes=[attribute(OID_EXTENSION_REQUEST, der.sequence(SAN))], extensions=[SAN]),
    "extensions also in Microsoft's way": make_csr(
        attributes=[attribute("1.3.6.1.4.1.311.2.1.14", der.sequence(SAN))], extensions=[SAN]
    ),
    "unordered attributes": make_csr(san=["DNS:a.example"], challenge="x", ordered=False),
    "challenge without value": make_csr(attributes=[attribute(OID_CHALLENGE_PASSWORD)]),
    "challenge with two values": make_csr(
        attributes=[attribute(OID_CHALLENGE_PASSWORD, der.utf8_string("a"), der.utf8_string("b"))]
    ),
    "challenge empty": make_csr(challenge=""),
    "challenge of 256 characters": make_csr(challenge="x" * 256),
    "challenge not UTF-8": make_csr(attributes=[attribute(OID_CHALLENGE_PASSWORD, der.tlv(0x0C, b"\xff"))]),
    "challenge integer": make_csr(attributes=[attribute(OID_CHALLENGE_PASSWORD, der.integer(1))]),
    "extension request without value": make_csr(attributes=[attribute(OID_EXTENSION_REQUEST)]),
    "extension request with two values": make_csr(
        attributes=[attribute(OID_EXTENSION_REQUEST, der.sequence(SAN), der.sequence(extension("1.2.3", b"\x05\x00")))]
    ),
    "extension request is an integer": make_csr(attributes=[attribute(OID_EXTENSION_REQUEST, der.integer(1))]),
    "extension is an integer": make_csr(extensions=[der.integer(1)]),
    "extension twice": make_csr(extensions=[SAN, SAN]),
    "extension critical FALSE written": make_csr(
        extensions=[der.sequence(der.oid("1.2.3"), der.boolean(False), der.octet_string(der.null()))]
    ),
    "extension critical 01": make_csr(
        extensions=[der.sequence(der.oid("1.2.3"), b"\x01\x01\x01", der.octet_string(der.null()))]
    ),
    "extension without value": make_csr(extensions=[der.sequence(der.oid("1.2.3"))]),
    "33 extensions": make_csr(extensions=[extension(f"1.2.3.{n}", der.null()) for n in range(33)]),
    "san empty": make_csr(extensions=[extension("2.5.29.17", der.sequence())]),
    "san of 257 names": make_csr(san=[f"DNS:a{n}.example" for n in range(257)]),
    "san is an integer": make_csr(extensions=[extension("2.5.29.17", der.integer(1))]),
    "san with extra bytes": make_csr(extensions=[extension("2.5.29.17", der.sequence(der.tlv(0x82, b"a")) + b"\x00")]),
    "san DNS not ASCII": make_csr(extensions=[extension("2.5.29.17", der.sequence(der.tlv(0x82, b"\xff")))]),
    "san IP of five octets": make_csr(extensions=[extension("2.5.29.17", der.sequence(der.tlv(0x87, bytes(5))))]),
    "san x400Address": make_csr(extensions=[extension("2.5.29.17", der.sequence(der.tlv(0xA3, b"")))]),
    "san unknown tag": make_csr(extensions=[extension("2.5.29.17", der.sequence(der.tlv(0x89, b"a")))]),
    "key usage is a string": make_csr(extensions=[extension("2.5.29.15", der.utf8_string("a"))]),
    "basic constraints with negative pathLen": make_csr(
        extensions=[extension("2.5.29.19", der.sequence(der.boolean(True), der.integer(-1)))]
    ),
    "key missing": make_csr(spki=b""),
    "key is an integer": make_csr(spki=der.integer(5)),
    "key is an empty sequence": make_csr(spki=der.sequence()),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_requests_are_refused_with_a_reason(name: str) -> None:
    with pytest.raises(RequestError) as caught:
        read_csr(MALFORMED[name])
    assert isinstance(caught.value, MalformedRequest | BadKey)
    assert str(caught.value)


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_requests_never_crash_with_every_leniency_on(name: str) -> None:
    try:
        request = read_csr(MALFORMED[name], leniency=ALL)
    except RequestError:
        return
    assert request.leniencies  # what passes now says which switch let it pass


SHA256_OID = der.oid("2.16.840.1.101.3.4.2.1")
BAD_KEYS: dict[str, tuple[bytes, str]] = {
    "rsa-1024": (make_csr("rsa-1024"), "1024 bits"),
    "secp256k1": (make_csr(spki=spki_of(key_for("secp256k1"))), "secp256k1"),
    "key of unknown type": (
        make_csr(spki=der.sequence(der.sequence(der.oid("1.3.101.99")), der.bit_string(bytes(32)))),
        "cannot",
    ),
    "x25519": (make_csr(spki=der.sequence(der.sequence(der.oid("1.3.101.110")), der.bit_string(b"\x01" * 32))), "X25519"),
    "point at infinity": (make_csr(spki=der.sequence(P256, der.bit_string(b"\x00"))), "infinity"),
    "point not on the curve": (make_csr(spki=der.sequence(P256, der.bit_string(b"\x04" + b"\x01" * 64))), "cannot be used"),
    "md5WithRSA": (make_csr("rsa-2048", algorithm=bytes.fromhex("300d06092a864886f70d0101040500")), "1.2.840.113549.1.1.4"),
    "sha1WithRSA": (make_csr("rsa-2048", algorithm=bytes.fromhex("300d06092a864886f70d0101050500")), "csr-sha1-signature"),
    "ecdsa-with-SHA1": (make_csr(algorithm=bytes.fromhex("300906072a8648ce3d0401")), "csr-sha1-signature"),
    "ecdsa-with-SHA224": (make_csr(algorithm=der.sequence(der.oid("1.2.840.10045.4.3.1"))), "1.2.840.10045.4.3.1"),
    "unknown algorithm": (make_csr(algorithm=der.sequence(der.oid("1.2.3.4"))), "1.2.3.4"),
    "pss with sha224": (pss_csr(hashes.SHA224()), "SHA-256"),
    "pss with sha1": (pss_csr(hashes.SHA1()), "RsaPssParameters"),
    "pss with an unknown hash": (
        pss_csr(hashes.SHA256()).replace(SHA256_OID, der.oid("2.16.840.1.101.3.4.2.99")),
        "not accepted",
    ),
    "pss with bad parameters": (
        make_csr(
            "rsa-2048", algorithm=der.sequence(der.oid("1.2.840.113549.1.1.10"), der.sequence(der.context(2, der.null())))
        ),
        "RsaPss",
    ),
}


@pytest.mark.parametrize("name", BAD_KEYS)
def test_unacceptable_keys_and_algorithms_are_named(name: str) -> None:
    data, reason = BAD_KEYS[name]
    with pytest.raises((BadKey, MalformedRequest), match=reason):
        read_csr(data)


BAD_PROOFS = {
    "other signer": make_csr(signer=key_for("p-256", "other")),
    "signature of zeros": replaced_signature(bytes(64)),
    "signature empty": replaced_signature(b""),
    "signature truncated": replaced_signature(SIGNATURE[:-1]),
    "information changed": der.sequence(
        info(subject=name_der("CN=b")), algorithm_of(key_for("p-256")).value, der.bit_string(SIGNATURE)
    ),
    "another hash": make_csr(algorithm=bytes.fromhex("300a06082a8648ce3d040303")),
    "rsa algorithm on an ec key": make_csr(algorithm=bytes.fromhex("300d06092a864886f70d01010b0500")),
    "ec algorithm on an rsa key": make_csr("rsa-2048", algorithm=bytes.fromhex("300a06082a8648ce3d040302")),
    "ml-dsa-44 algorithm on ed25519": make_csr("ed25519", algorithm=bytes.fromhex("300b0609608648016503040311")),
    "rsa signature of another length": make_csr("rsa-2048", signature=bytes(255)),
}


@pytest.mark.parametrize("name", BAD_PROOFS)
def test_a_wrong_signature_is_no_proof_of_possession(name: str) -> None:
    with pytest.raises(BadProofOfPossession):
        read_csr(BAD_PROOFS[name])


def test_size_is_limited_before_anything_is_read() -> None:
    with pytest.raises(TooLarge, match="32769"):
        read_csr(bytes(32_769))
    with pytest.raises(TooLarge):
        read_csr(GOOD, max_size=len(GOOD) - 1)
    assert read_csr(GOOD, max_size=len(GOOD))


@pytest.mark.parametrize("switches", [frozenset[str](), ALL], ids=["strict", "lenient"])
def test_truncated_at_every_byte(switches: frozenset[str]) -> None:
    for length in range(len(GOOD)):
        with pytest.raises(MalformedRequest):
            read_csr(GOOD[:length], leniency=switches)


@pytest.mark.parametrize("switches", [frozenset[str](), ALL], ids=["strict", "lenient"])
def test_no_bit_flip_is_accepted(switches: frozenset[str]) -> None:
    for position in range(len(GOOD)):
        for bit in range(8):
            flipped = bytearray(GOOD)
            flipped[position] ^= 1 << bit
            with pytest.raises(RequestError):
                read_csr(bytes(flipped), leniency=switches)


@given(st.binary(max_size=300))
def test_random_bytes_give_a_request_error(data: bytes) -> None:
    with pytest.raises(RequestError):
        read_csr(data, leniency=ALL)


@given(st.integers(0, len(GOOD)), st.integers(0, len(GOOD)), st.binary(max_size=20))
def test_spliced_bytes_give_a_request_error(start: int, length: int, patch: bytes) -> None:
    data = GOOD[:start] + patch + GOOD[start + length :]
    if data != GOOD:
        with pytest.raises(RequestError):
            read_csr(data, leniency=ALL)


def indefinite(data: bytes) -> bytes:
    """The same value with indefinite lengths wherever an element is constructed."""
    out = b""
    start = 0
    for tag, begin, end in elements(data, 0, len(data)):
        out += b"%c\x80%b\x00\x00" % (tag, indefinite(data[begin:end])) if tag & 0x20 else data[start:end]
        start = end
    return out


def ber_csr(*, over_der: bool) -> bytes:
    """A request with indefinite lengths; its signature covers the DER or the BER form of the information."""
    key = key_for("p-256")
    information = info(tail=der.context(0, attribute(OID_EXTENSION_REQUEST, der.sequence(SAN))))
    covered = information if over_der else indefinite(information)
    tail = algorithm_of(key).value + der.bit_string(sign(key, algorithm_of(key), covered))
    return b"\x30\x80" + indefinite(information) + tail + b"\x00\x00"


def sha1_csr(key_type: str) -> bytes:
    information = info(key_type)
    key = key_for(key_type)
    if key_type == "p-256":
        signature, algorithm = sign_ec(key, information, hashes.SHA1()), bytes.fromhex("300906072a8648ce3d0401")
    else:
        signature, algorithm = sign_rsa(key, information, hashes.SHA1()), bytes.fromhex("300d06092a864886f70d0101050500")
    return make_csr(key_type, information=information, algorithm=algorithm, signature=signature)


def with_null(key_type: str) -> bytes:
    return make_csr(key_type, algorithm=der.sequence(algorithm_of(key_for(key_type)).value[2:], der.null()))


def rdn_unordered() -> bytes:
    pair = [der.sequence(der.oid(oid), der.utf8_string("a")) for oid in ("2.5.4.11", "2.5.4.3")]
    return make_csr(subject=der.sequence(der.tlv(0x31, *pair)))


LENIENT: dict[str, tuple[bytes, str]] = {
    "NULL parameters, P-256": (with_null("p-256"), leniency.CSR_NULL_PARAMETERS),
    "NULL parameters, P-384": (with_null("p-384"), leniency.CSR_NULL_PARAMETERS),
    "NULL parameters, Ed25519": (with_null("ed25519"), leniency.CSR_NULL_PARAMETERS),
    "BER, signature over DER": (ber_csr(over_der=True), leniency.CSR_BER),
    "BER, signature over BER": (ber_csr(over_der=False), leniency.CSR_BER),
    "BER, long-form length": (b"\x30\x84\x00\x00" + GOOD[2:4] + GOOD[4:], leniency.CSR_BER),
    "unordered attributes": (make_csr(san=["DNS:a.example"], challenge="x", ordered=False), leniency.CSR_UNORDERED_SET),
    "unordered RDN": (rdn_unordered(), leniency.CSR_UNORDERED_SET),
    "SHA-1 with RSA": (sha1_csr("rsa-2048"), leniency.CSR_SHA1_SIGNATURE),
    "SHA-1 with ECDSA": (sha1_csr("p-256"), leniency.CSR_SHA1_SIGNATURE),
    "version 1": (make_csr(version=1), leniency.CSR_VERSION),
    "version 2": (make_csr(version=2), leniency.CSR_VERSION),
    "no attributes": (signed(info(tail=b"")), leniency.CSR_NO_ATTRIBUTES),
    "exponent 3": (make_csr("rsa-2048-e3"), leniency.RSA_SMALL_EXPONENT),
}


@pytest.mark.parametrize("name", LENIENT)
def test_a_deviation_is_refused_naming_its_switch(name: str) -> None:
    data, switch = LENIENT[name]
    with pytest.raises((MalformedRequest, BadKey), match=switch):
        read_csr(data)
    with pytest.raises((MalformedRequest, BadKey), match=switch):
        read_csr(data, leniency=ALL - {switch})


@pytest.mark.parametrize("name", LENIENT)
def test_a_deviation_is_accepted_and_reported_with_its_switch(name: str) -> None:
    data, switch = LENIENT[name]
    request = read_csr(data, leniency=frozenset({switch}))
    assert request.leniencies == (switch,)
    assert request.der == data


@pytest.mark.parametrize("name", LENIENT)
def test_leniency_never_weakens_the_proof_of_possession(name: str) -> None:
    data, switch = LENIENT[name]
    start, end = content(der.ber_to_der(data, sort_sets=False), der.SEQUENCE)
    definite = der.ber_to_der(data, sort_sets=False)
    (_, signature_start, _) = elements(definite, start, end)[2]
    damaged = bytearray(data)
    at = data.rindex(definite[signature_start:]) + 12
    damaged[at] ^= 1
    with pytest.raises(BadProofOfPossession):
        read_csr(bytes(damaged), leniency=frozenset({switch}))


def test_strict_requests_need_no_leniency_even_where_allowed() -> None:
    assert read_csr(GOOD, leniency=ALL).leniencies == ()


def test_the_reader_of_a_lenient_request_gives_der_for_the_certificate() -> None:
    request = read_csr(ber_csr(over_der=True), leniency=ALL)
    assert request.subject_der == name_der("CN=a")
    assert request.spki == spki_of(key_for("p-256"))
    assert request.san == (x509.DNSName("a.example"),)


@pytest.mark.parametrize(
    "arguments", [["rsa:2048"], ["ec", "-pkeyopt", "ec_paramgen_curve:P-384"], ["ed25519"]], ids=lambda a: a[0]
)
def test_requests_of_openssl_are_read(tmp_path: Path, arguments: list[str]) -> None:
    out = tmp_path / "r.der"
    command = [
        "openssl",
        "req",
        "-new",
        "-nodes",
        "-subj",
        "/C=DE/O=Example/CN=plc-7",
        "-addext",
        "subjectAltName=DNS:a.example",
    ]
    command += ["-outform", "DER", "-out", str(out), "-keyout", str(tmp_path / "k.pem"), "-newkey", *arguments]
    subprocess.run(command, check=True, capture_output=True)
    request = read_csr(out.read_bytes())
    assert request.subject.rfc4514_string() == "CN=plc-7,O=Example,C=DE"
    assert request.san == (x509.DNSName("a.example"),)

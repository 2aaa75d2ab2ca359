"""Certification requests that no CA should sign: wrong, weak, broken or absurd, each as a body for EST."""

from __future__ import annotations

from functools import cache

from gateway.pki import der
from tests.support.csrs import (
    OID_CHALLENGE_PASSWORD,
    OID_EXTENSION_REQUEST,
    attribute,
    csr_attributes,
    extension,
    key_for,
    make_csr,
    new_key,
    spki_of,
)

_P256 = der.sequence(der.oid("1.2.840.10045.2.1"), der.oid("1.2.840.10045.3.1.7"))
_RSA = der.sequence(der.oid("1.2.840.113549.1.1.1"), der.null())
_SUBJECT = "CN=hostile"


@cache
def hostile_csrs() -> dict[str, bytes]:
    """Name -> DER."""
    good = make_csr(subject=_SUBJECT, san=["DNS:hostile.example"])
    found = _proofs(good) | _keys() | _names() | _contents() | _frames(good)
    for part in (1, 2, 3, 5, 8, 13, 21, 34, 55, 89):
        found[f"cut after {part} %"] = good[: len(good) * part // 100]
    for number in range(24):
        position = len(good) * (number + 1) // 25
        found[f"a bit turned at {position}"] = _flipped(good, position)
    return found


def _proofs(good: bytes) -> dict[str, bytes]:
    other = new_key()
    return {
        "signed by another key": make_csr(subject=_SUBJECT, signer=other),
        "an empty signature": make_csr(subject=_SUBJECT, signature=b""),
        "a signature of zeros": make_csr(subject=_SUBJECT, signature=bytes(70)),
        "an ECDSA signature of zeros": make_csr(subject=_SUBJECT, signature=der.sequence(der.integer(0), der.integer(0))),
        "an ECDSA signature of ones": make_csr(subject=_SUBJECT, signature=der.sequence(der.integer(1), der.integer(1))),
        "an RSA signature of ones": make_csr("rsa-2048", subject=_SUBJECT, signature=b"\xff" * 256),
        "the subject changed after signing": good.replace(b"hostile", b"manager", 1),
        "the key changed after signing": good.replace(spki_of(key_for("p-256")), spki_of(other)),
        "the name wanted changed after signing": good.replace(b"hostile.example", b"console.example"),
        "MD5": make_csr("rsa-2048", algorithm=bytes.fromhex("300d06092a864886f70d0101040500")),
        "SHA-1": make_csr("rsa-2048", algorithm=bytes.fromhex("300d06092a864886f70d0101050500")),
        "an unknown algorithm": make_csr(algorithm=der.sequence(der.oid("1.2.3.4"))),
        "an algorithm for another key": make_csr("rsa-2048", algorithm=bytes.fromhex("300a06082a8648ce3d040302")),
    }


def _keys() -> dict[str, bytes]:
    odd = (1 << 2047) | 1
    point = der.sequence(_P256, der.bit_string(b"\x04" + b"\x01" * 64))
    spkis = {
        "RSA of 15 bits": _rsa(32_767, 65_537),
        "RSA of 16,384 bits": _rsa((1 << 16_383) | 1, 65_537),
        "RSA with exponent 1": _rsa(odd, 1),
        "RSA with an even exponent": _rsa(odd, 65_536),
        "RSA with an even modulus": _rsa(1 << 2047, 65_537),
        "RSA with a negative modulus": _rsa(-odd, 65_537),
        "RSA with modulus 0": _rsa(0, 65_537),
        "secp256k1": spki_of(key_for("secp256k1")),
        "a point not on the curve": point,
        "the point at infinity": der.sequence(_P256, der.bit_string(b"\x00")),
        "a point cut short": der.sequence(_P256, der.bit_string(b"\x04" + b"\x01" * 40)),
        "a key of an unknown type": der.sequence(der.sequence(der.oid("1.3.101.99")), der.bit_string(bytes(32))),
        "X25519, which cannot sign": der.sequence(der.sequence(der.oid("1.3.101.110")), der.bit_string(b"\x09" * 32)),
        "no key": b"",
        "a number for a key": der.integer(5),
    }
    return {name: make_csr(subject=_SUBJECT, spki=spki) for name, spki in spkis.items()} | {
        "RSA of 1024 bits": make_csr("rsa-1024", subject=_SUBJECT),
        "RSA with exponent 3": make_csr("rsa-2048-e3", subject=_SUBJECT),
    }


def _names() -> dict[str, bytes]:
    wishes = {
        "an alternative name beyond ASCII": der.sequence(der.tlv(0x82, b"\xff")),
        "an address of five octets": der.sequence(der.tlv(0x87, bytes(5))),
        "an alternative name of an unknown kind": der.sequence(der.tlv(0x89, b"a")),
        "no alternative names": der.sequence(),
        "a number for alternative names": der.integer(1),
    }
    subjects = {
        "a subject of 1,000 names": der.sequence(*[_common_name(der.utf8_string(f"u{n}")) for n in range(1_000)]),
        "a common name of 10,000 letters": der.sequence(_common_name(der.utf8_string("a" * 10_000))),
        "a common name that is no UTF-8": der.sequence(_common_name(der.tlv(0x0C, b"\xff\xfe"))),
        "a number for a subject": der.integer(7),
    }
    found = {name: make_csr(extensions=[extension("2.5.29.17", value)]) for name, value in wishes.items()}
    found |= {name: make_csr(subject=subject) for name, subject in subjects.items()}
    return found | {"257 alternative names": make_csr(san=[f"DNS:a{n}.example" for n in range(257)])}


def _contents() -> dict[str, bytes]:
    twice = extension("2.5.29.17", der.sequence(der.tlv(0x82, b"a")))
    return {
        "an extension twice": make_csr(extensions=[twice, twice]),
        "33 extensions": make_csr(extensions=[extension(f"1.2.3.{n}", der.null()) for n in range(33)]),
        "an extension nested 2,000 deep": make_csr(extensions=[_nested(2_000)]),
        "a wish for extensions without any": make_csr(attributes=[attribute(OID_EXTENSION_REQUEST)]),
        "a number for extensions": make_csr(attributes=[attribute(OID_EXTENSION_REQUEST, der.integer(1))]),
        "a number for a challenge": make_csr(attributes=[attribute(OID_CHALLENGE_PASSWORD, der.integer(1))]),
        "attributes out of order": make_csr(san=["DNS:a.example"], challenge="secret", ordered=False),
        "an attribute twice": make_csr(attributes=[*csr_attributes(challenge="a"), *csr_attributes(challenge="b")]),
    }


def _frames(good: bytes) -> dict[str, bytes]:
    outside = der.sequence(der.sequence(der.context(0, der.integer(2))), _RSA, der.bit_string(bytes(64)))
    return {
        "version 3": make_csr(version=2),
        "version -1": make_csr(version=-1),
        "a request inside a request": make_csr(information=good),
        "the outside of a certificate": outside,
        "bytes behind the end": good + b"\x00",
        "indefinite length": b"\x30\x80" + good[4:] + b"\0\0",
    }


def _rsa(modulus: int, exponent: int) -> bytes:
    return der.sequence(_RSA, der.bit_string(der.sequence(der.integer(modulus), der.integer(exponent))))


def _common_name(value: bytes) -> bytes:
    """A RelativeDistinguishedName."""
    return der.set_of([der.sequence(der.oid("2.5.4.3"), value)])


def _nested(depth: int) -> bytes:
    inner = der.null()
    for _ in range(depth):
        inner = der.sequence(inner)
    return inner


def _flipped(request: bytes, position: int) -> bytes:
    return request[:position] + bytes((request[position] ^ 1,)) + request[position + 1 :]

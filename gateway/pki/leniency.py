"""Leniency switches for certification requests: named deviations of real devices, each refused unless a profile allows it.

A switch is off by default and reported in :attr:`gateway.pki.csr.CertificationRequest.leniencies` when it acted.
:func:`canonical_form` says which ones a request needs; what is verified stays the bytes that arrived. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.errors import MalformedRequest
from gateway.pki import der
from gateway.pki.algorithms import SignatureAlgorithm
from gateway.pki.walk import content, elements

#: ecdsa-with-SHA*, Ed25519 or ML-DSA carry NULL parameters where RFC 5758 section 3.2, RFC 8410 section 3 and RFC 9881 section
#: 2 want none (Nordic nRF91 modems).
CSR_NULL_PARAMETERS = "csr-null-parameters"
#: The request is BER: indefinite or long-form lengths, strings in pieces. Its signature may cover the BER or the DER bytes.
CSR_BER = "csr-ber"
#: The members of a SET OF are not in DER order (strongSwan with subjectAltName and challengePassword).
CSR_UNORDERED_SET = "csr-unordered-set"
#: The request's own signature uses SHA-1. The certificate never does.
CSR_SHA1_SIGNATURE = "csr-sha1-signature"
#: The version is written as 1 or 2 although only version 1, written as 0, exists (RFC 2986 section 4.1).
CSR_VERSION = "csr-version"
#: The attributes [0] are left out where RFC 2986 section 4.1 wants an empty set.
CSR_NO_ATTRIBUTES = "csr-no-attributes"
#: An RSA public exponent between 3 and 65535.
RSA_SMALL_EXPONENT = "rsa-small-exponent"

ALL_LENIENCIES = frozenset(
    {
        CSR_NULL_PARAMETERS,
        CSR_BER,
        CSR_UNORDERED_SET,
        CSR_SHA1_SIGNATURE,
        CSR_VERSION,
        CSR_NO_ATTRIBUTES,
        RSA_SMALL_EXPONENT,
    }
)

_WITHOUT_NULL = {
    der.sequence(algorithm.value[2:], der.null()): algorithm.value
    for algorithm in SignatureAlgorithm
    if not algorithm.name.startswith("RSA")
}
_VERSION_1 = der.integer(0)
_ODD_VERSIONS = (der.integer(1), der.integer(2))


@dataclass(frozen=True, slots=True)
class CanonicalForm:
    """A request as strict DER, ``signed`` the bytes its signature may cover, ``acted`` the switches that this took."""

    der: bytes
    signed: tuple[bytes, ...]
    acted: tuple[str, ...]


def canonical_form(data: bytes) -> CanonicalForm:
    """Undo every deviation that has a switch; bounded time. Raises MalformedRequest where even that does not help."""
    acted: list[str] = []
    definite = der.ber_to_der(data, sort_sets=False)
    signed = [der.first_element(data)]
    if definite != data:
        acted.append(CSR_BER)
        signed.append(der.first_element(definite))
    ordered = der.ber_to_der(definite)
    parts = _children(ordered)
    if len(parts) != 3:
        raise MalformedRequest("a certification request has three parts: information, algorithm, signature")
    information, algorithm, signature = parts
    if algorithm in _WITHOUT_NULL:
        acted.append(CSR_NULL_PARAMETERS)
        algorithm = _WITHOUT_NULL[algorithm]
    fields = _children(information)
    if len(fields) == 4:
        fields[3] = der.context(0, *sorted(_children(fields[3], 0xA0)))  # [0] IMPLICIT SET OF Attribute
    if ordered != definite or der.sequence(*fields) != information:
        acted.append(CSR_UNORDERED_SET)
    if fields and fields[0] in _ODD_VERSIONS:
        acted.append(CSR_VERSION)
        fields[0] = _VERSION_1
    if len(fields) == 3:
        acted.append(CSR_NO_ATTRIBUTES)
        fields.append(der.context(0))
    return CanonicalForm(der.sequence(der.sequence(*fields), algorithm, signature), tuple(signed), tuple(acted))


def _children(sequence: bytes, tag: int = der.SEQUENCE) -> list[bytes]:
    """The elements inside a SEQUENCE (or what else ``tag`` says), each with its header."""
    start, end = content(sequence, tag)
    children: list[bytes] = []
    for _, _, stop in elements(sequence, start, end):
        children.append(sequence[start:stop])
        start = stop
    return children

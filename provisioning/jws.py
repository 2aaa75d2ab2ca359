"""JSON Web Signatures (RFC 7515): compact, flattened and general serialization, with X.509 certificates. Pure.

Signing takes two steps, because the key may be in a token: a :class:`Draft` says which octets are to be signed, and makes the
document once it has the signature. A signature is taken as :meth:`gateway.keys.signer.Signer.sign` gives it, so an ECDSA one is
DER and becomes the fixed-length form of RFC 7518 section 3.4 here.

Algorithms: RFC 7518 section 3.1 and RFC 8037 (``EdDSA``; ``Ed25519`` of RFC 9864 is read as well). What is verified must name
its algorithm in the protected header, and the algorithm must be one of the given key's kind; ``none`` and the symmetric ones do
not exist here. There is no extension that we understand, so a header with ``crit`` is refused (section 4.1.11), and with it
unencoded payloads (RFC 7797). Nothing is fetched: ``jku``, ``x5u`` and ``jwk`` mean nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property, lru_cache
from typing import Final, TypeAlias, cast

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from gateway.errors import BadKey, IntegrityError, MalformedRequest, TooLarge
from gateway.pki.algorithms import PrivateKey

Json: TypeAlias = "str | int | float | bool | Sequence[Json] | Mapping[str, Json] | None"
Header: TypeAlias = Mapping[str, Json]

#: What is read at most: the chains of a few dozen parties.
MOST_OCTETS: Final = 1 << 20
MOST_SIGNATURES: Final = 64
_LEAST_RSA_BITS: Final = 2048  # RFC 7518 section 3.3

_CURVES: Final[dict[str, tuple[str, int, hashes.HashAlgorithm]]] = {
    "ES256": ("secp256r1", 32, hashes.SHA256()),
    "ES384": ("secp384r1", 48, hashes.SHA384()),
    "ES512": ("secp521r1", 66, hashes.SHA512()),
}
_RSA: Final[dict[str, hashes.HashAlgorithm]] = {
    "RS256": hashes.SHA256(),
    "RS384": hashes.SHA384(),
    "RS512": hashes.SHA512(),
    "PS256": hashes.SHA256(),
    "PS384": hashes.SHA384(),
    "PS512": hashes.SHA512(),
}
_EDWARDS: Final = ("EdDSA", "Ed25519")


class Form(Enum):
    """RFC 7515 sections 7.1, 7.2.2 and 7.2.1."""

    COMPACT = "compact"
    FLATTENED = "flattened"
    GENERAL = "general"


def encode(octets: bytes) -> str:
    """BASE64URL of RFC 7515 section 2: no padding."""
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    """Undoes :func:`encode`; one spelling only. Raises MalformedRequest."""
    try:
        octets = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedRequest("not base64url (RFC 7515 section 2)") from error
    if encode(octets) != text:
        raise MalformedRequest("not base64url without padding (RFC 7515 section 2)")
    return octets


def canonical(value: Json) -> bytes:
    """JSON in the one spelling of RFC 8785 for what we write: texts, integers below 2^53, no floating point, ASCII names."""
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise MalformedRequest("half of a surrogate pair is no text") from error


def algorithm_for(public_key: object, *, pss: bool = False) -> str:
    """The algorithm to sign with; that of :func:`gateway.pki.algorithms.default_algorithm` but for ``pss`` (RSASSA-PSS, which a
    :class:`~gateway.keys.signer.Signer` does not make). Raises BadKey where JOSE has none for this key."""
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        for name, (curve, _, _) in _CURVES.items():
            if public_key.curve.name == curve:
                return name
    elif isinstance(public_key, rsa.RSAPublicKey):
        return ("PS" if pss else "RS") + ("256" if public_key.key_size < 7680 else "384")
    elif isinstance(public_key, ed25519.Ed25519PublicKey):
        return "EdDSA"
    raise BadKey("JSON Web Signatures need a key of RSA, P-256, P-384, P-521 or Ed25519")


@dataclass(frozen=True, slots=True)
class Party:
    """Who signs: its certificate and those of its issuers (DER, each followed by its issuer)."""

    chain: tuple[bytes, ...]
    pss: bool = False

    @property
    def algorithm(self) -> str:
        """Raises BadKey, MalformedRequest."""
        return _algorithm(self.chain[0], self.pss)

    @property
    def x5c(self) -> list[str]:
        """RFC 7515 section 4.1.6: base64, not base64url."""
        return list(_base64(self.chain))

    @property
    def thumbprint(self) -> str:
        """RFC 7515 section 4.1.8, ``x5t#S256``."""
        return encode(hashlib.sha256(self.chain[0]).digest())


# A line signs some papers for each device, always as the same party.
@lru_cache(maxsize=16)
def _algorithm(certificate: bytes, pss: bool) -> str:
    return algorithm_for(_certificate(certificate).public_key(), pss=pss)


@lru_cache(maxsize=16)
def _base64(chain: tuple[bytes, ...]) -> tuple[str, ...]:
    return tuple(base64.b64encode(each).decode() for each in chain)


@dataclass(frozen=True)  # no slots: cached properties
class Part:
    """One party's signature, with its headers."""

    protected: str  # BASE64URL(UTF8(JWS Protected Header))
    signature: bytes  # as JOSE spells it
    header: Header = field(default_factory=dict)  # unprotected: nobody signed it

    @cached_property
    def protected_header(self) -> Header:
        """Raises MalformedRequest."""
        return read_object(decode(self.protected), "the protected header")

    @property
    def algorithm(self) -> str:
        """Raises MalformedRequest."""
        name = self.protected_header.get("alg")
        if not isinstance(name, str):
            raise MalformedRequest("the protected header names no algorithm (alg)")
        return name

    @cached_property
    def chain(self) -> tuple[bytes, ...]:
        """The certificates of ``x5c``, in DER; empty without. They are as the signer claims: nobody checked them.

        Raises MalformedRequest, also if ``x5t#S256`` is that of another certificate.
        """
        claimed = self.protected_header.get("x5c", [])
        if not isinstance(claimed, list) or not all(isinstance(each, str) for each in claimed):
            raise MalformedRequest("x5c is a list of certificates (RFC 7515 section 4.1.6)")
        try:
            chain = tuple(base64.b64decode(each, validate=True) for each in cast("list[str]", claimed))
        except (binascii.Error, ValueError) as error:
            raise MalformedRequest("a certificate in x5c is not base64") from error
        thumbprint = self.protected_header.get("x5t#S256")
        if chain and thumbprint is not None and thumbprint != encode(hashlib.sha256(chain[0]).digest()):
            raise MalformedRequest("x5t#S256 is not the thumbprint of the first certificate in x5c")
        return chain

    def verify(self, payload: bytes, public_key: object) -> None:
        """That the holder of ``public_key`` signed ``payload`` with this protected header.

        Raises IntegrityError if not; MalformedRequest for a header that cannot be understood.
        """
        if "crit" in self.protected_header or "crit" in self.header:
            raise MalformedRequest("the header has extensions that must be understood (crit), and none are known here")
        message = signing_input(self.protected, payload)
        if not _is_valid(self.algorithm, public_key, self.signature, message):
            raise IntegrityError("the signature is not one of this key over this content")

    def verify_by_chain(self, payload: bytes) -> x509.Certificate:
        """As :meth:`verify`, with the key of the first certificate in ``x5c``, which is returned. Whether to trust it is the
        caller's question. Raises IntegrityError, MalformedRequest."""
        if not self.chain:
            raise MalformedRequest("the header names no certificate (x5c)")
        certificate = _certificate(self.chain[0])
        try:
            key = certificate.public_key()
        except (ValueError, UnsupportedAlgorithm) as error:
            raise MalformedRequest("the certificate's key cannot be read") from error
        self.verify(payload, key)
        return certificate


@dataclass(frozen=True, slots=True)
class Jws:
    """A signed document as it was read. Nothing of it counts before a part was verified."""

    payload: bytes
    parts: tuple[Part, ...]

    def write(self, form: Form) -> bytes:
        """Raises MalformedRequest where this form cannot hold it."""
        if form is Form.GENERAL:
            return canonical({"payload": encode(self.payload), "signatures": [_members(part) for part in self.parts]})
        if len(self.parts) != 1:
            raise MalformedRequest("only the general serialization has other than one signature (RFC 7515 section 7.2.1)")
        (part,) = self.parts
        if form is Form.FLATTENED:
            return canonical({"payload": encode(self.payload), **_members(part)})
        if part.header:
            raise MalformedRequest("the compact serialization has no unprotected header (RFC 7515 section 7.1)")
        return signing_input(part.protected, self.payload) + b"." + encode(part.signature).encode()


@dataclass(frozen=True, slots=True)
class Draft:
    """A document that waits for its signature: sign :attr:`signing_input`, then :meth:`finish`."""

    payload: bytes
    protected: str
    algorithm: str
    form: Form
    header: Header = field(default_factory=dict)
    others: tuple[Part, ...] = ()  # signatures that are there already

    @classmethod
    def of(
        cls,
        payload: bytes,
        protected: Header,
        algorithm: str,
        *,
        form: Form,
        header: Header | None = None,
        others: Iterable[Part] = (),
    ) -> Draft:
        """``protected`` without ``alg``, which is put in."""
        whole = encode(canonical({**protected, "alg": algorithm}))
        return cls(payload, whole, algorithm, form, header or {}, tuple(others))

    @property
    def signing_input(self) -> bytes:
        return signing_input(self.protected, self.payload)

    def finish(self, signature: bytes) -> bytes:
        """The document. ``signature`` over :attr:`signing_input`: DER for ECDSA, else as it is. Raises MalformedRequest."""
        part = Part(self.protected, _as_jose(self.algorithm, signature), self.header)
        return Jws(self.payload, (*self.others, part)).write(self.form)


def signing_input(protected: str, payload: bytes) -> bytes:
    """The octets that are signed (RFC 7515 section 5.1): ASCII(protected || '.' || BASE64URL(payload))."""
    return f"{protected}.{encode(payload)}".encode()


def sign(private_key: PrivateKey, algorithm: str, message: bytes) -> bytes:
    """A signature by a software key, as :meth:`Draft.finish` wants it. Raises BadKey if key and algorithm do not fit."""
    if algorithm in _CURVES and isinstance(private_key, ec.EllipticCurvePrivateKey):
        if private_key.curve.name == _CURVES[algorithm][0]:
            return private_key.sign(message, ec.ECDSA(_CURVES[algorithm][2]))
    elif algorithm in _RSA and isinstance(private_key, rsa.RSAPrivateKey):
        return private_key.sign(message, _padding(algorithm), _RSA[algorithm])
    elif algorithm in _EDWARDS and isinstance(private_key, ed25519.Ed25519PrivateKey):
        return private_key.sign(message)
    raise BadKey(f"this key does not sign with {algorithm}")


def read(document: bytes) -> Jws:
    """Any of the three serializations. Raises MalformedRequest, TooLarge."""
    if len(document) > MOST_OCTETS:
        raise TooLarge(f"a signed document has at most {MOST_OCTETS} octets")
    if not document.lstrip().startswith(b"{"):
        pieces = _ascii(document).strip().split(".")
        if len(pieces) != 3:
            raise MalformedRequest("not a JSON Web Signature: neither JSON nor three parts with dots between them")
        return Jws(decode(pieces[1]), (_part(pieces[0], pieces[2], {}),))
    members = read_object(document, "the document")
    payload = members.get("payload")
    if not isinstance(payload, str):
        raise MalformedRequest("not a JSON Web Signature: it has no payload")
    if "signatures" not in members:
        return Jws(decode(payload), (_read_part(members),))
    signatures = members["signatures"]
    if "signature" in members or not isinstance(signatures, list) or not signatures:
        raise MalformedRequest("signatures is a list of at least one, and then there is no signature beside it")
    if len(signatures) > MOST_SIGNATURES:
        raise TooLarge(f"a signed document has at most {MOST_SIGNATURES} signatures")
    return Jws(decode(payload), tuple(_read_part(each) for each in signatures))


def _members(part: Part) -> dict[str, Json]:
    members: dict[str, Json] = {"protected": part.protected, "signature": encode(part.signature)}
    return {**members, "header": part.header} if part.header else members


def _read_part(members: Json) -> Part:
    if not isinstance(members, Mapping):
        raise MalformedRequest("a signature is an object")
    protected, signature, header = members.get("protected"), members.get("signature"), members.get("header", {})
    if not isinstance(protected, str) or not isinstance(signature, str) or not isinstance(header, Mapping):
        raise MalformedRequest("a signature has the texts protected and signature, and perhaps the object header")
    return _part(protected, signature, header)


def _part(protected: str, signature: str, header: Header) -> Part:
    part = Part(protected, decode(signature), header)
    if set(part.protected_header) & set(header):
        raise MalformedRequest("a name stands in both headers (RFC 7515 section 7.2.1)")
    return part


def read_object(octets: bytes, what: str) -> dict[str, Json]:
    """A JSON object without a repeated name at any depth (RFC 7515 section 4). Raises MalformedRequest."""
    try:
        value = json.loads(octets.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        raise MalformedRequest(f"{what} is not JSON, or has a name twice") from error
    if not isinstance(value, dict):
        raise MalformedRequest(f"{what} is no JSON object")
    return value


def _unique(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name stands twice")
    return members


def _ascii(octets: bytes) -> str:
    try:
        return octets.decode("ascii")
    except UnicodeDecodeError as error:
        raise MalformedRequest("not a JSON Web Signature") from error


def _certificate(encoded: bytes) -> x509.Certificate:
    try:
        return x509.load_der_x509_certificate(encoded)
    except ValueError as error:
        raise MalformedRequest("a certificate cannot be read") from error


def _as_jose(algorithm: str, signature: bytes) -> bytes:
    if algorithm not in _CURVES:
        return signature
    size = _CURVES[algorithm][1]
    try:
        r, s = decode_dss_signature(signature)
        return r.to_bytes(size) + s.to_bytes(size)
    except (ValueError, OverflowError) as error:
        raise MalformedRequest(f"not a DER signature for {algorithm}") from error


def _padding(algorithm: str) -> padding.AsymmetricPadding:
    """RFC 7518 sections 3.3 and 3.5: the salt is as long as the hash."""
    if algorithm.startswith("RS"):
        return padding.PKCS1v15()
    return padding.PSS(padding.MGF1(_RSA[algorithm]), padding.PSS.DIGEST_LENGTH)


def _is_valid(algorithm: str, public_key: object, signature: bytes, message: bytes) -> bool:
    """False also where key and algorithm do not belong together."""
    try:
        if algorithm in _CURVES and isinstance(public_key, ec.EllipticCurvePublicKey):
            curve, size, hash_ = _CURVES[algorithm]
            if public_key.curve.name != curve or len(signature) != 2 * size:
                return False
            encoded = encode_dss_signature(int.from_bytes(signature[:size]), int.from_bytes(signature[size:]))
            public_key.verify(encoded, message, ec.ECDSA(hash_))
        elif algorithm in _RSA and isinstance(public_key, rsa.RSAPublicKey):
            if public_key.key_size < _LEAST_RSA_BITS:
                return False
            public_key.verify(signature, message, _padding(algorithm), _RSA[algorithm])
        elif algorithm in _EDWARDS and isinstance(public_key, ed25519.Ed25519PublicKey):
            public_key.verify(signature, message)
        else:
            return False
    except InvalidSignature:
        return False
    return True

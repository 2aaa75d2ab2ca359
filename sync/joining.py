"""Joining: how a new gateway and central come to trust each other by one code that a person carries; docs/SYNC.md. Pure.

::

    gateway                                             central
      |        <-- code, by a person -----------------    |   make_code: a secret, and which root to believe
      |   JoinRequest, MAC with the secret ----------->   |   open_request: somebody who has the code asks
      |   <-- JoinAnswer, signed by central's key -----   |   sign_answer: its key endorsed by the root's key
      |   open_answer: the root is the code's, the key is the root's, the answer is the key's and to this request

The secret never travels, so the request may be carried by hand; whoever reads it can do nothing with it. The code's half of the
root's digest has 128 bits: as much as it takes to find another certificate with the same.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.errors import Conflict, Forbidden, GatewayError, IntegrityError, MalformedRequest
from gateway.journal.canonical import JsonValue
from gateway.journal.checkpoint import read_verifier_key
from gateway.journal.statements import (
    base64_text,
    from_json,
    number_of,
    octets_of,
    open_statement,
    sign_statement,
    text_of,
    to_json,
)
from gateway.pki.algorithms import default_algorithm, signature_is_valid
from gateway.pki.csr import CertificationRequest, read_csr
from gateway.pki.tbs import CaInfo, ca_info
from sync.wire import MOST_STATEMENT_OCTETS

JOINED: Final = "joined"
FORMAT: Final = 1
SECRET_OCTETS: Final = 16
#: A request has a CSR, a key and a few names.
MOST_REQUEST_OCTETS: Final = 64 << 10
_ROOT_OCTETS = 16
_GROUP = 4  # characters
_GROUPS = 14  # 13 for the 32 octets, one to check
#: What people type for letters that base32 (RFC 4648 section 6) has, because it has no such digits.
_LOOKALIKES = str.maketrans({"0": "O", "1": "I", "8": "B"})
_SPACE = re.compile(r"[\s-]+")
#: One line without space or plus, as a C2SP key name and checkpoint origin must be.
_NAME = re.compile(r"[^\s+\x00-\x1f\x7f]{1,255}")
_INCARNATION = re.compile(r"[0-9a-f]{8,64}")
_DIGEST_OCTETS = 32


class BadCode(MalformedRequest):
    """What was typed is no code."""

    hint = "Type the code again as central showed it, 14 groups of 4 characters; nothing was sent."


class CodeUnknown(Forbidden):
    """Central knows no such code, or no longer."""

    hint = "Let central make a new code (edge-central code) and join with that."


class CodeUsed(Conflict):
    """The code was good for one request, and this is another one."""

    hint = "A code joins one gateway once. Let central make a new one (edge-central code)."


class WrongCentral(IntegrityError):
    """Who answers is not the central that made the code."""

    hint = "Check central's address; if it is right, somebody stands between: tell the PKI team and do not join."


@dataclass(frozen=True, slots=True)
class JoinCode:
    """The one-time code. ``root_digest`` is the first half of the SHA-256 of central's CA certificate."""

    secret: bytes
    root_digest: bytes

    @property
    def name(self) -> str:
        """What both sides may call the code by, in logs and lists: it does not reveal the secret."""
        return code_name(self.secret)

    def text(self) -> str:
        """As it is shown: 13 groups of the 32 octets in base32, then a group that finds typing mistakes."""
        content = self.secret + self.root_digest
        letters = base64.b32encode(content).decode().rstrip("=") + _check_group(content)
        return "-".join(letters[start : start + _GROUP] for start in range(0, len(letters), _GROUP))

    def is_of(self, root: bytes) -> bool:
        """Whether ``root`` (DER) is the certificate that the code names."""
        return hmac.compare_digest(hashlib.sha256(root).digest()[:_ROOT_OCTETS], self.root_digest)


def make_code(secret: bytes, root: bytes) -> JoinCode:
    """The code of ``secret`` (16 random octets) for the central with the CA certificate ``root`` (DER)."""
    if len(secret) != SECRET_OCTETS:
        raise ValueError(f"the secret of a code has {SECRET_OCTETS} octets")
    return JoinCode(secret, hashlib.sha256(root).digest()[:_ROOT_OCTETS])


def read_code(text: str) -> JoinCode:
    """The code somebody typed: case, spaces and dashes do not matter. Raises BadCode."""
    letters = _SPACE.sub("", text[:1000]).upper().translate(_LOOKALIKES)
    if len(letters) != _GROUP * _GROUPS:
        raise BadCode(f"a code has {_GROUPS} groups of {_GROUP} characters; this has {len(letters)} characters in all")
    coded, check = letters[:-_GROUP], letters[-_GROUP:]
    try:
        content = base64.b32decode(coded + "====")
    except ValueError:
        raise BadCode("the code has a character that no code has: letters and the digits 2 to 7 are") from None
    code = JoinCode(content[:SECRET_OCTETS], content[SECRET_OCTETS:])
    if _check_group(content) != check or base64.b32encode(content).decode().rstrip("=") != coded:
        raise BadCode("the code is mistyped: its last group does not fit the others")
    return code


def code_name(secret: bytes) -> str:
    return base64.b32encode(hashlib.sha256(b"edge-gateway/code-name/v1\n" + secret).digest()[:5]).decode()


def _check_group(content: bytes) -> str:
    return base64.b32encode(hashlib.sha256(b"edge-gateway/code/v1\n" + content).digest()[:5]).decode()[:_GROUP]


# The request.


@dataclass(frozen=True, slots=True)
class JoinRequest:
    """A gateway asks to be registered. ``time_ms`` by its own clock, which may be wrong: it only informs."""

    code: str  # JoinCode.name
    name: str  # of the gateway, for people
    origin: str
    vkey: str  # signs the journal's checkpoints
    incarnation: str  # of the journal, as its genesis says
    csr: str  # PEM: the CA key to be certified
    client_key: bytes  # SHA-256 of the SubjectPublicKeyInfo of the key of its TLS client certificate
    time_ms: int
    predecessor: str = ""  # origin of the journal that this one replaces, when the gateway joins again

    def to_bytes(self, secret: bytes) -> bytes:
        """Canonical JSON with the MAC: HMAC-SHA-256 over the same JSON without it."""
        body = self._body()
        return to_json({**body, "mac": _mac(body, secret)})

    def _body(self) -> dict[str, JsonValue]:
        return {
            "format": FORMAT, "code": self.code, "name": self.name, "origin": self.origin, "vkey": self.vkey,
            "incarnation": self.incarnation, "csr": self.csr, "client_key": self.client_key.hex(), "time": self.time_ms,
            "predecessor": self.predecessor,
        }  # fmt: skip

    def certification_request(self) -> CertificationRequest:
        """The CA key with its proof of possession. Raises RequestError."""
        try:
            request = x509.load_pem_x509_csr(self.csr.encode())
        except ValueError as error:
            raise MalformedRequest("csr is no PEM certification request") from error
        return read_csr(request.public_bytes(Encoding.DER))


def request_code(data: bytes) -> str:
    """Which code a join request was made with, before anything of it is believed. Raises MalformedRequest."""
    return text_of(_bounded_json(data), "code")


def open_request(data: bytes, secret: bytes) -> JoinRequest:
    """The request in ``data``. Raises CodeUnknown unless somebody made it who has the code's ``secret``, MalformedRequest and
    the reasons of :func:`gateway.pki.csr.read_csr` for what is in it."""
    body = _bounded_json(data)
    mac = text_of(body, "mac")
    del body["mac"]
    if not hmac.compare_digest(_mac(body, secret).encode(), mac.encode()):
        raise CodeUnknown("the request was not made with this code, or was changed on its way")
    if number_of(body, "format") != FORMAT:
        raise MalformedRequest(f"this central reads join requests of format {FORMAT} only")
    request = JoinRequest(
        code=text_of(body, "code"), name=text_of(body, "name"), origin=text_of(body, "origin"), vkey=text_of(body, "vkey"),
        incarnation=text_of(body, "incarnation"), csr=text_of(body, "csr"), client_key=_digest(text_of(body, "client_key")),
        time_ms=number_of(body, "time"), predecessor=text_of(body, "predecessor"),
    )  # fmt: skip
    if request.to_bytes(secret) != data:
        raise MalformedRequest("the join request is not in its canonical spelling, or has keys that are not known here")
    _check_request(request)
    return request


def is_origin(text: str) -> bool:
    """Whether a journal's origin may be this text."""
    return _NAME.fullmatch(text) is not None


def _check_request(request: JoinRequest) -> None:
    for what, text in (("name", request.name), ("origin", request.origin), ("predecessor", request.predecessor or "-")):
        if not _NAME.fullmatch(text):
            raise MalformedRequest(f"{what} must be 1 to 255 characters without space, '+' and control characters")
    if not _INCARNATION.fullmatch(request.incarnation):
        raise MalformedRequest("incarnation must be lower-case hex")
    if request.predecessor == request.origin:
        raise MalformedRequest("a gateway joins again with a new journal: its origin must be another than the predecessor's")
    try:
        read_verifier_key(request.vkey)
    except IntegrityError as error:
        raise MalformedRequest(f"vkey: {error}") from error
    request.certification_request()


def _mac(body: dict[str, JsonValue], secret: bytes) -> str:
    try:
        return hmac.digest(secret, to_json(body), "sha256").hex()
    except (ValueError, RecursionError) as error:  # half a surrogate pair; nothing that to_bytes() writes
        raise MalformedRequest("the join request holds what no text can") from error


# The answer.


@dataclass(frozen=True, slots=True)
class JoinAnswer:
    """Central's answer. ``chain`` begins with ``root`` and goes up from there, where ``root`` is itself below a company's."""

    request: bytes  # SHA-256 of the request that is answered
    origin: str
    central: str  # its name
    vkey: str  # signs receipts and documents
    endorsement: bytes  # signature of the root's key over endorsement_message(vkey)
    root: bytes  # DER of the CA certificate that certified the sub-CA and central's TLS key
    urls: tuple[str, ...]
    certificate: bytes  # DER of the sub-CA
    chain: tuple[bytes, ...]  # DER
    desired: bytes  # the first signed document
    bundle_certificate: str = ""  # PEM: to whom bundles are encrypted until a document is in force; empty: to nobody

    def to_bytes(self) -> bytes:
        return to_json(
            {
                "format": FORMAT, "request": self.request.hex(), "origin": self.origin, "central": self.central,
                "vkey": self.vkey, "endorsement": base64_text(self.endorsement), "root": base64_text(self.root),
                "urls": list(self.urls), "certificate": base64_text(self.certificate),
                "chain": [base64_text(each) for each in self.chain], "desired": base64_text(self.desired),
                "bundle_certificate": self.bundle_certificate,
            }
        )  # fmt: skip

    @classmethod
    def from_bytes(cls, data: bytes) -> JoinAnswer:
        """Raises MalformedRequest."""
        body = from_json(data)
        if number_of(body, "format") != FORMAT:
            raise MalformedRequest(f"this gateway reads answers of format {FORMAT} only; it needs newer software")
        chain = [octets_of({"chain": each}, "chain") for each in _list(body, "chain")]
        return cls(
            request=_digest(text_of(body, "request")), origin=text_of(body, "origin"), central=text_of(body, "central"),
            vkey=text_of(body, "vkey"), endorsement=octets_of(body, "endorsement"), root=octets_of(body, "root"),
            urls=tuple(text_of({"urls": each}, "urls") for each in _list(body, "urls")),
            certificate=octets_of(body, "certificate"), chain=tuple(chain), desired=octets_of(body, "desired"),
            bundle_certificate=text_of(body, "bundle_certificate", ""),
        )  # fmt: skip


def endorsement_message(vkey: str) -> bytes:
    """What the root's key signs to say whose key signs for this central. No certificate begins so."""
    return f"edge-gateway/endorsement/v1\n{vkey}\n".encode()


def sign_answer(answer: JoinAnswer, key_name: str, key: Ed25519PrivateKey) -> bytes:
    """The answer as it travels."""
    return sign_statement(JOINED, answer.to_bytes(), key_name, key)


def open_answer(statement: bytes, code: JoinCode, request: bytes) -> JoinAnswer:
    """Central's answer to ``request``, after every check that a gateway can make before it believes central.

    In this order: the root is the one whose digest the code has; its key endorsed central's; that key signed the answer; it
    answers this request; the certified key is the one that was asked for, below that root. Raises WrongCentral, IntegrityError,
    MalformedRequest.
    """
    if len(statement) > MOST_STATEMENT_OCTETS:
        raise MalformedRequest(f"an answer has at most {MOST_STATEMENT_OCTETS} octets")
    claimed = JoinAnswer.from_bytes(statement.partition(b"\n\n")[2])
    if not code.is_of(claimed.root):
        raise WrongCentral("this is the answer of another central than the one that made the code")
    root = _ca(claimed.root, "root")
    if not signature_is_valid(
        root.public_key, default_algorithm(root.public_key), claimed.endorsement, endorsement_message(claimed.vkey)
    ):
        raise WrongCentral("central's key is not endorsed by the root that the code names")
    answer = JoinAnswer.from_bytes(open_statement(JOINED, statement, claimed.vkey))
    asked = open_request(request, code.secret)
    if answer.request != hashlib.sha256(request).digest() or answer.origin != asked.origin:
        raise IntegrityError("this answers another request than the one that was made here last")
    _check_certificate(answer, root, asked)
    return answer


def _check_certificate(answer: JoinAnswer, root: CaInfo, asked: JoinRequest) -> None:
    ca = _ca(answer.certificate, "certificate")
    if ca.public_key != asked.certification_request().public_key:
        raise IntegrityError("central certified another key than the one that was asked for")
    if ca.certificate.issuer != root.certificate.subject or not answer.chain or answer.chain[0] != answer.root:
        raise IntegrityError("the CA certificate does not lie directly below central's root")
    try:
        ca.certificate.verify_directly_issued_by(root.certificate)
    except (InvalidSignature, ValueError, TypeError) as error:
        raise IntegrityError("the signature of the CA certificate is not that of central's root") from error


def _ca(der: bytes, what: str) -> CaInfo:
    try:
        return ca_info(der)
    except GatewayError as error:
        raise IntegrityError(f"{what}: {error}") from error


def _bounded_json(data: bytes) -> dict[str, JsonValue]:
    if len(data) > MOST_REQUEST_OCTETS:
        raise MalformedRequest(f"a join request has at most {MOST_REQUEST_OCTETS} octets")
    return from_json(data)


def _list(body: dict[str, JsonValue], key: str) -> list[JsonValue]:
    value = body.get(key)
    if not isinstance(value, list):
        raise MalformedRequest(f"{key} must be a list")
    return value


def _digest(text: str) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != _DIGEST_OCTETS:
        raise MalformedRequest("a SHA-256 digest in hex is expected")
    return digest

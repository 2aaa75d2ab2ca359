"""One PKCS #11 token as the child process sees it. The only module that imports python-pkcs11.

python-pkcs11 initialises modules as single-threaded yet releases the interpreter lock, so everything here runs in the one
thread of the signer child. Keys are generated sensitive and non-extractable. Mechanisms are the plain ones that every token
has: CKM_ECDSA and CKM_RSA_PKCS over a digest made outside, so a signature moves a few bytes and is one C_SignInit operation.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import pkcs11
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa, utils
from pkcs11 import Attribute, KeyType, Mechanism, ObjectClass, TokenFlag
from pkcs11 import exceptions as errors

from gateway.keys.frames import Code, TokenInfo, TokenQuery
from gateway.keys.generation import EC_CURVES, PUBLIC_EXPONENT, RSA_BITS, public_to_der
from gateway.keys.signer import KeySpec
from gateway.pki import der
from gateway.pki.algorithms import SignatureAlgorithm

if TYPE_CHECKING:
    from pkcs11._pkcs11 import lib as Library  # the class behind the function pkcs11.lib

#: RFC 8017 section 9.2, note 1: DER of DigestInfo up to the digest.
_DIGEST_INFO = {
    SignatureAlgorithm.RSA_SHA256: bytes.fromhex("3031300d060960864801650304020105000420"),
    SignatureAlgorithm.RSA_SHA384: bytes.fromhex("3041300d060960864801650304020205000430"),
    SignatureAlgorithm.RSA_SHA512: bytes.fromhex("3051300d060960864801650304020305000440"),
}
#: DER of the namedCurve OBJECT IDENTIFIER in CKA_EC_PARAMS (RFC 5480 section 2.1.1.1, RFC 8410 section 3).
_EC_PARAMS = {
    KeySpec.P256: bytes.fromhex("06082a8648ce3d030107"),
    KeySpec.P384: bytes.fromhex("06052b81040022"),
    KeySpec.P521: bytes.fromhex("06052b81040023"),
    KeySpec.ED25519: bytes.fromhex("06032b6570"),
}
_CODES: tuple[tuple[type[errors.PKCS11Error], Code], ...] = (
    (errors.PinIncorrect, Code.PIN_INCORRECT),
    (errors.PinInvalid, Code.PIN_INCORRECT),
    (errors.PinLenRange, Code.PIN_INCORRECT),
    (errors.PinLocked, Code.PIN_LOCKED),
    (errors.MechanismInvalid, Code.UNSUPPORTED),
    (errors.MechanismParamInvalid, Code.UNSUPPORTED),
    (errors.FunctionNotSupported, Code.UNSUPPORTED),
    (errors.DomainParamsInvalid, Code.UNSUPPORTED),
    (errors.NoSuchKey, Code.NO_KEY),
)
#: A data object of ours: its sequence number, a checksum over number and content, the content.
_SEQUENCE_SIZE, _CHECKSUM_SIZE = 8, 8
_HEAD_SIZE = _SEQUENCE_SIZE + _CHECKSUM_SIZE
_TPM2_PKCS11 = "tpm2-software.github.io"  # CK_INFO.manufacturerID


class TokenFault(Exception):
    """Something the parent must know; it crosses the socketpair as its code. The text names no secret."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


@contextmanager
def _faults(what: str) -> Iterator[None]:
    try:
        yield
    except errors.PKCS11Error as error:
        code = next((code for kind, code in _CODES if isinstance(error, kind)), Code.TOKEN)
        raise TokenFault(code, f"{what}: {type(error).__name__}") from error


class Pkcs11Token:
    """An open token. Keys found on it are known by their number in this process."""

    def __init__(self, library: Library, token: pkcs11.Token) -> None:
        self._library = library
        self._token = token
        with _faults("opening a session"):
            self._session = token.open()
        self._logged_in = False
        self._keys: list[pkcs11.SignMixin] = []

    @classmethod
    def open(cls, query: TokenQuery) -> Pkcs11Token:
        """Find the one token that ``query`` names and open a session without login.

        Raises TokenFault: MODULE, ABSENT when no token is plugged in, OTHER_TOKEN when only others are, TOKEN when several fit.
        """
        library = _library(query.module)
        with _faults("looking for tokens"):
            tokens = list(_present(library))
        fitting = [token for token in tokens if _fits(token, query)]
        if len(fitting) == 1:
            return cls(library, fitting[0])
        if fitting:
            raise TokenFault(Code.TOKEN, f"{len(fitting)} tokens fit: name the serial number in the URI")
        if tokens:
            others = ", ".join(f"{token.label!r} (serial {_serial(token)})" for token in tokens[:4])
            raise TokenFault(Code.OTHER_TOKEN, f"another token is plugged in: {others}")
        raise TokenFault(Code.ABSENT, "the token is not plugged in")

    def close(self) -> None:
        """Give the session back. A token that is gone has closed it already."""
        with contextlib.suppress(errors.PKCS11Error):
            self._session.close()

    def info(self) -> TokenInfo:
        """Read afresh: the flags count wrong PINs, and a token that is gone says so here. Raises TokenFault."""
        with _faults("asking the token"):
            present = [slot.slot_id for slot in self._library.get_slots(token_present=True)]
            if self._token.slot.slot_id not in present:
                raise TokenFault(Code.TOKEN, "the token was unplugged")
            token = self._token.slot.get_token()
        if token.serial != self._token.serial:
            raise TokenFault(Code.TOKEN, "the token was exchanged")
        flags = token.flags
        return TokenInfo(
            serial=_serial(token),
            label=token.label,
            login_required=bool(flags & TokenFlag.LOGIN_REQUIRED),
            pin_count_low=bool(flags & TokenFlag.USER_PIN_COUNT_LOW),
            pin_final_try=bool(flags & TokenFlag.USER_PIN_FINAL_TRY),
            pin_locked=bool(flags & TokenFlag.USER_PIN_LOCKED),
            manufacturer=token.manufacturer_id.strip("\0 "),
            model=token.model.strip("\0 "),
        )

    def login(self, pin: str) -> None:
        """One C_Login. The session that logged in is kept: closing it would log out all others of this process."""
        with _faults("login"):
            try:
                session = self._token.open(user_pin=pin)
            except errors.UserAlreadyLoggedIn:
                session = self._token.open()
        self._session.close()
        self._session = session
        self._logged_in = True

    def find(self, label: str, identifier: bytes) -> tuple[int, bytes]:
        """The private key with this label and id: its number and SubjectPublicKeyInfo (empty if the token has none).

        Before login only the public half can be seen; the number is -1 then. Raises TokenFault NO_KEY.
        """
        with _faults("looking for the key"):
            public = self._objects(ObjectClass.PUBLIC_KEY, label, identifier)
            private = self._objects(ObjectClass.PRIVATE_KEY, label, identifier)
            if len(private) > 1 or len(public) > 1:
                raise TokenFault(Code.TOKEN, "several keys fit: name both object and id in the URI")
            encoded = _public_key(public[0]) if public else b""
            if not private:
                if encoded and not self._logged_in:
                    return -1, encoded
                raise TokenFault(Code.NO_KEY, f"there is no key {label or identifier.hex()!r} on the token")
            self._keys.append(cast(pkcs11.SignMixin, private[0]))
            return len(self._keys) - 1, encoded

    def sign(self, index: int, algorithm: SignatureAlgorithm, data: bytes) -> bytes:
        """One signature as X.509 wants it: ECDSA as DER Ecdsa-Sig-Value, all others raw."""
        key = self._keys[index]
        with _faults("signing"):
            if algorithm in _DIGEST_INFO:
                return key.sign(_DIGEST_INFO[algorithm] + data, mechanism=Mechanism.RSA_PKCS)
            if algorithm is SignatureAlgorithm.ED25519:
                return key.sign(data, mechanism=Mechanism.EDDSA)
            raw = key.sign(data, mechanism=Mechanism.ECDSA)
        half = len(raw) // 2  # PKCS #11 v2.40 section 2.3.1: r and s, each as long as the group order
        return utils.encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))

    def generate(self, spec: KeySpec, label: str, identifier: bytes) -> bytes:
        """Make a key pair that cannot leave the token; its SubjectPublicKeyInfo. Raises TokenFault EXISTS, UNSUPPORTED."""
        if spec not in RSA_BITS and spec not in _EC_PARAMS:
            raise TokenFault(Code.UNSUPPORTED, f"PKCS #11 tokens make no {spec.value} keys here")
        with _faults("looking for the key"):
            for half in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY):
                if self._objects(half, label, b"") or self._objects(half, "", identifier):
                    raise TokenFault(Code.EXISTS, f"a key with the label {label!r} or this id already exists")
        usage = pkcs11.MechanismFlag.SIGN | pkcs11.MechanismFlag.VERIFY
        if self._library.manufacturer_id == _TPM2_PKCS11:
            # tpm2-pkcs11 1.9 refuses a template that forbids encryption (attributes 0x104, 0x10a "mismatch"), for EC keys too.
            usage |= pkcs11.MechanismFlag.ENCRYPT | pkcs11.MechanismFlag.DECRYPT
        private = {
            Attribute.SENSITIVE: True,
            Attribute.EXTRACTABLE: False,
            Attribute.PRIVATE: True,
            Attribute.UNWRAP: None,  # None takes an attribute out: some tokens refuse to hear of what they cannot do
            Attribute.DERIVE: None,
        }
        public_half = {Attribute.PRIVATE: False, Attribute.WRAP: None}
        arguments: dict[str, Any] = {
            "id": identifier,
            "label": label,
            "store": True,
            "capabilities": usage,
            "private_template": private,
            "public_template": public_half,
        }
        with _faults(f"making a {spec.value} key"), self._token.open(rw=True) as session:
            if spec in RSA_BITS:
                public, _ = session.generate_keypair(KeyType.RSA, RSA_BITS[spec], **arguments)
            else:
                kind = KeyType.EC_EDWARDS if spec is KeySpec.ED25519 else KeyType.EC
                parameters = session.create_domain_parameters(kind, {Attribute.EC_PARAMS: _EC_PARAMS[spec]}, local=True)
                public, _ = parameters.generate_keypair(**arguments)
            return _public_key(public)

    def load_object(self, label: str) -> bytes:
        """The newest whole content stored under ``label``, empty when there is none."""
        with _faults("reading the data object"):
            found = self._data_objects(self._session, label)
        return found[-1][1] if found and found[-1][0] >= 0 else b""

    def store_object(self, label: str, content: bytes) -> None:
        """Keep ``content`` on the token, in two objects by turns: the newest whole one is never touched, so a cut between
        any two steps, or within one, leaves it. Values are not changed in place: SoftHSM2 makes that read-only."""
        with _faults("writing the data object"), self._token.open(rw=True) as session:
            found = self._data_objects(session, label)
            newest = max((sequence for sequence, _, _ in found), default=-1)
            for sequence, _, old in found:
                if sequence < newest or sequence < 0:  # the older one, or a torn one
                    old.destroy()
            head = (newest + 1).to_bytes(_SEQUENCE_SIZE, "big")
            session.create_object(
                {
                    Attribute.CLASS: ObjectClass.DATA,
                    Attribute.LABEL: label,
                    Attribute.TOKEN: True,
                    Attribute.PRIVATE: True,
                    Attribute.VALUE: head + _checksum(head, content) + content,
                }
            )

    def load_certificate(self, label: str, identifier: bytes) -> bytes:
        """The one certificate with this label and id; empty when there is none, or more than one is left from a cut."""
        with _faults("reading the certificate"):
            found = self._objects(ObjectClass.CERTIFICATE, label, identifier)
            return bytes(found[0][Attribute.VALUE]) if len(found) == 1 else b""

    def store_certificate(self, label: str, identifier: bytes, certificate_der: bytes) -> None:
        """Keep a certificate that everybody may read (PKCS #11 v2.40 section 4.6.3). The new one is there before others with
        its label and id go; a certificate that is there already is not written again."""
        certificate = x509.load_der_x509_certificate(certificate_der)
        with _faults("writing the certificate"), self._token.open(rw=True) as session:
            found = self._objects(ObjectClass.CERTIFICATE, label, identifier, session)
            others = [item for item in found if bytes(item[Attribute.VALUE]) != certificate_der]
            if len(found) == len(others):
                session.create_object(
                    {
                        Attribute.CLASS: ObjectClass.CERTIFICATE,
                        Attribute.CERTIFICATE_TYPE: pkcs11.CertificateType.X_509,
                        Attribute.TOKEN: True,
                        Attribute.PRIVATE: False,
                        Attribute.LABEL: label,
                        Attribute.ID: identifier,
                        Attribute.SUBJECT: certificate.subject.public_bytes(),
                        Attribute.ISSUER: certificate.issuer.public_bytes(),
                        Attribute.SERIAL_NUMBER: der.integer(certificate.serial_number),
                        Attribute.VALUE: certificate_der,
                    }
                )
            for item in others:
                item.destroy()

    def _objects(
        self, kind: ObjectClass, label: str, identifier: bytes, session: pkcs11.Session | None = None
    ) -> list[pkcs11.Object]:
        wanted: dict[Attribute, object] = {Attribute.CLASS: kind}
        if label:
            wanted[Attribute.LABEL] = label
        if identifier:
            wanted[Attribute.ID] = identifier
        return list((session or self._session).get_objects(wanted))

    @staticmethod
    def _data_objects(session: pkcs11.Session, label: str) -> list[tuple[int, bytes, pkcs11.Object]]:
        """(sequence, content, object) by sequence; the sequence is -1 where the value is torn."""
        found = []
        for item in session.get_objects({Attribute.CLASS: ObjectClass.DATA, Attribute.LABEL: label}):
            value = bytes(item[Attribute.VALUE])
            head, checksum, content = value[:_SEQUENCE_SIZE], value[_SEQUENCE_SIZE:_HEAD_SIZE], value[_HEAD_SIZE:]
            whole = checksum == _checksum(head, content)
            found.append((int.from_bytes(head, "big") if whole else -1, content, item))
        return sorted(found, key=lambda entry: entry[0])


def _library(path: str) -> Library:
    try:
        return pkcs11.lib(path)
    except errors.PKCS11Error as error:
        raise TokenFault(Code.MODULE, f"the PKCS #11 module {path} cannot be loaded: {error}") from error


def _present(library: Library) -> Iterator[pkcs11.Token]:
    for slot in library.get_slots(token_present=True):
        try:
            token = slot.get_token()
        except (errors.TokenNotPresent, errors.TokenNotRecognised):
            continue  # pulled in this moment, or a card of another kind
        if token.flags & TokenFlag.TOKEN_INITIALIZED:
            yield token


def _fits(token: pkcs11.Token, query: TokenQuery) -> bool:
    return (
        query.token in ("", token.label)
        and query.serial in ("", _serial(token))
        and query.manufacturer in ("", token.manufacturer_id)
        and query.model in ("", token.model)
        and query.slot_id in (None, token.slot.slot_id)
    )


def _checksum(head: bytes, content: bytes) -> bytes:
    return hashlib.sha256(head + content).digest()[:_CHECKSUM_SIZE]


def _serial(token: pkcs11.Token) -> str:
    return token.serial.decode("ascii", "replace").strip("\0 ")


def _public_key(public: pkcs11.Object) -> bytes:
    kind = public[Attribute.KEY_TYPE]
    if kind is KeyType.RSA:
        exponent = int.from_bytes(public[Attribute.PUBLIC_EXPONENT] or PUBLIC_EXPONENT.to_bytes(3, "big"), "big")
        return public_to_der(rsa.RSAPublicNumbers(exponent, int.from_bytes(public[Attribute.MODULUS], "big")).public_key())
    point = bytes(public[Attribute.EC_POINT])
    if kind is KeyType.EC_EDWARDS:
        return public_to_der(ed25519.Ed25519PublicKey.from_public_bytes(point[-32:]))
    spec = next((spec for spec, value in _EC_PARAMS.items() if value == bytes(public[Attribute.EC_PARAMS])), None)
    if spec is None or spec not in EC_CURVES:
        raise TokenFault(Code.UNSUPPORTED, "the key on the token has a curve that is not used here")
    curve = EC_CURVES[spec]
    # PKCS #11 wants the point inside an OCTET STRING, some tokens give it bare: its length is known either way.
    size = 1 + 2 * ((curve.key_size + 7) // 8)
    return public_to_der(ec.EllipticCurvePublicKey.from_encoded_point(curve, point[-size:]))

"""The manifest: one signed entry for each device, in the format of Microchip's "Trust Platform Manifest File". Pure.

Clouds and fleet tools that import such files can import ours. Sources: Microchip's document, sections 2.3 (array of entries),
2.4 (an entry is a flattened JSON Web Signature; ``alg``, ``kid`` and ``x5t#S256`` in its protected header, ``uniqueId`` again
unprotected, to be searched for), 2.5 (SecureElement), 2.6 (EntityName), 2.7 (PublicJWK). We keep the entries one a line (JSON
Lines), so that a file grows by appending; :func:`as_array` makes the array of section 2.3.

Entries are written as version 1 of SecureElement: of version 3 we do not know what its ``modelInfo`` holds. Keys of RSA and
Ed25519 are JSON Web Keys as well (RFC 7518 section 6.3, RFC 8037), which Microchip's document does not have.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gateway.errors import BadKey, MalformedRequest
from provisioning.jws import Draft, Form, Json, Jws, Party, canonical, encode, read, read_object
from provisioning.papers import ProducedDevice, check_party, moment

_VERSION: Final = 1
_CURVES: Final = {"secp256r1": ("P-256", 32), "secp384r1": ("P-384", 48), "secp521r1": ("P-521", 66)}


@dataclass(frozen=True, slots=True)
class Entity:
    """EntityName (2.6)."""

    organization: str
    unit: str = ""

    @property
    def json(self) -> dict[str, Json]:
        named: dict[str, Json] = {"organizationName": self.organization}
        return {**named, "organizationalUnitName": self.unit} if self.unit else named


def entry(device: ProducedDevice, party: Party, *, provisioner: Entity, distributor: Entity) -> Draft:
    """The device's entry, to be signed; its line is what :meth:`~provisioning.jws.Draft.finish` gives, without a line's end.

    ``uniqueId`` is the chip's, ``groupId`` the order, ``partNumber`` the product. Raises MalformedRequest, BadKey.
    """
    check_party(party.chain)
    if not device.finished_ms:
        raise MalformedRequest("an entry says when its device was provisioned, and nothing is known of that")
    payload: dict[str, Json] = {
        "version": _VERSION,
        "model": device.model or device.product,
        "partNumber": device.product,
        "manufacturer": Entity(device.manufacturer or provisioner.organization).json,
        "provisioner": provisioner.json,
        "distributor": distributor.json,
        "groupId": device.order,
        "provisioningTimestamp": moment(device.finished_ms),
        "uniqueId": device.chip,
        "publicKeySet": {"keys": [_jwk(device)]},
    }
    header: dict[str, Json] = {"typ": "JWT", "kid": _key_identifier(party.chain[0]), "x5t#S256": party.thumbprint}
    return Draft.of(canonical(payload), header, party.algorithm, form=Form.FLATTENED, header={"uniqueId": device.chip})


def as_array(lines: Iterable[bytes]) -> bytes:
    """The file of section 2.3, from entries one a line. Empty lines are left out. Raises MalformedRequest, TooLarge."""
    entries = [line.strip() for line in lines if line.strip()]
    for each in entries:
        read(each)
    return b"[" + b",\n".join(entries) + b"]\n"


def open_entry(line: bytes, signer: bytes) -> dict[str, Json]:
    """The SecureElement of an entry that the holder of the certificate ``signer`` (DER) signed.

    Raises MalformedRequest, TooLarge, IntegrityError, also where the unprotected ``uniqueId`` is another than the signed one.
    """
    check_party((signer,))
    jws: Jws = read(line)
    for part in jws.parts:
        part.verify(jws.payload, x509.load_der_x509_certificate(signer).public_key())
    element = read_object(jws.payload, "the entry")
    if any(part.header.get("uniqueId", element.get("uniqueId")) != element.get("uniqueId") for part in jws.parts):
        raise MalformedRequest("the entry's unprotected uniqueId is not the signed one")
    return element


def public_jwk(public_key: object) -> dict[str, Json]:
    """A public key as a JSON Web Key (RFC 7517; RFC 7518 section 6, RFC 8037). Raises BadKey."""
    if isinstance(public_key, ec.EllipticCurvePublicKey) and public_key.curve.name in _CURVES:
        name, size = _CURVES[public_key.curve.name]
        point = public_key.public_numbers()
        return {"kty": "EC", "crv": name, "x": encode(point.x.to_bytes(size)), "y": encode(point.y.to_bytes(size))}
    if isinstance(public_key, rsa.RSAPublicKey):
        numbers = public_key.public_numbers()
        return {"kty": "RSA", "n": encode(_shortest(numbers.n)), "e": encode(_shortest(numbers.e))}
    if isinstance(public_key, ed25519.Ed25519PublicKey):
        return {"kty": "OKP", "crv": "Ed25519", "x": encode(public_key.public_bytes_raw())}
    raise BadKey("there is no JSON Web Key for this kind of key")


def _jwk(device: ProducedDevice) -> Json:
    """The only key; in its ``x5c`` the device's certificate and its issuers without the root, as in Microchip's example."""
    try:
        key = x509.load_der_x509_certificate(device.certificate).public_key()
    except ValueError as error:
        raise MalformedRequest("the certificate cannot be read") from error
    chain = [base64.b64encode(each).decode() for each in (device.certificate, *device.chain[:-1])]
    return {"kid": "0", **public_jwk(key), "x5c": chain}


def _key_identifier(certificate: bytes) -> str:
    """``kid`` of section 2.4.1: the value of the signer's subject key identifier."""
    parsed = x509.load_der_x509_certificate(certificate)
    try:
        return encode(parsed.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest)
    except x509.ExtensionNotFound:
        return encode(x509.SubjectKeyIdentifier.from_public_key(parsed.public_key()).digest)


def _shortest(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8)

"""Subject alternative names as text and back, with the otherName types that devices need. Pure.

The text is ``KIND:value`` with the kinds of :func:`gateway.pki.extensions.kind_of`:

- ``DNS:plc-7.plant.example``, ``IP:192.0.2.7``, ``URI:urn:plc-7``, ``email:line3@plant.example``
- ``HMN:1.3.6.1.4.1.32473.1:0a1b``: hardwareModuleName, hardware type and serial number in hex (RFC 4108 section 5)
- ``PID:1.3.6.1.4.1.32473.2:4711``: permanentIdentifier, assigner and value; either may be empty (RFC 4043 section 2)
- ``UPN:device@plant.example``: Microsoft's userPrincipalName
- ``other:1.2.3.4:0c0161``: any other otherName, value as DER in hex; ``RID:1.2.3``: registeredID; ``DN:CN=a``: directoryName
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509

from gateway.errors import MalformedRequest
from gateway.pki import der
from gateway.pki.names import name_from_text, name_to_text

ON_HARDWARE_MODULE_NAME = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.4")
ON_PERMANENT_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.8.3")
ON_USER_PRINCIPAL_NAME = x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3")

MAX_SAN_TEXT = 4096
_HEX = re.compile(r"(?:[0-9A-Fa-f]{2})+")


@dataclass(frozen=True, slots=True)
class HardwareModuleName:
    """RFC 4108 section 5: the maker's OID for the kind of hardware, and the serial number's octets."""

    hardware_type: str
    serial_number: bytes

    def encode(self) -> bytes:
        return der.sequence(der.oid(self.hardware_type), der.octet_string(self.serial_number))

    @classmethod
    def decode(cls, data: bytes) -> HardwareModuleName:
        """Raises MalformedRequest."""
        outer = der.Reader(data, "hardwareModuleName", max_size=MAX_SAN_TEXT)
        inner = outer.enter(der.SEQUENCE)
        outer.finish()
        name = cls(inner.oid(), inner.octet_string())
        inner.finish()
        if not name.serial_number:
            raise MalformedRequest("hardwareModuleName: the serial number is empty")
        return name

    def general_name(self) -> x509.OtherName:
        return x509.OtherName(ON_HARDWARE_MODULE_NAME, self.encode())


@dataclass(frozen=True, slots=True)
class PermanentIdentifier:
    """RFC 4043 section 2: an identifier that stays with the device, and the OID of who assigned it; either may be absent."""

    value: str | None
    assigner: str | None

    def encode(self) -> bytes:
        return der.sequence(
            b"" if self.value is None else der.utf8_string(self.value),
            b"" if self.assigner is None else der.oid(self.assigner),
        )

    @classmethod
    def decode(cls, data: bytes) -> PermanentIdentifier:
        """Raises MalformedRequest."""
        outer = der.Reader(data, "permanentIdentifier", max_size=MAX_SAN_TEXT)
        inner = outer.enter(der.SEQUENCE)
        outer.finish()
        value = inner.utf8_string() if inner.next_tag() == der.UTF8_STRING else None
        assigner = inner.oid() if inner.next_tag() == der.OID else None
        inner.finish()
        return cls(value, assigner)

    def general_name(self) -> x509.OtherName:
        return x509.OtherName(ON_PERMANENT_IDENTIFIER, self.encode())


def user_principal_name(text: str) -> x509.OtherName:
    return x509.OtherName(ON_USER_PRINCIPAL_NAME, der.utf8_string(text))


def _decode_principal(data: bytes) -> str:
    reader = der.Reader(data, "userPrincipalName", max_size=MAX_SAN_TEXT)
    text = reader.utf8_string()
    reader.finish()
    return text


def san_from_text(text: str) -> x509.GeneralName:
    """The name that ``KIND:value`` says. Raises MalformedRequest."""
    kind, colon, value = text.partition(":")
    parse = _PARSERS.get(kind)
    if parse is None or not colon or len(text) > MAX_SAN_TEXT:
        raise MalformedRequest(f"not a name of the form {', '.join(f'{known}:…' for known in _PARSERS)}: {text[:80]!r}")
    if not value:
        raise MalformedRequest(f"the name {text!r} has no value")
    try:
        return parse(value)
    except ValueError as error:
        raise MalformedRequest(f"not a name of type {kind}: {value[:80]!r}: {error}") from error


def _parse_hardware(value: str) -> x509.GeneralName:
    hardware_type, _, serial = value.partition(":")
    return HardwareModuleName(hardware_type, _from_hex(serial)).general_name()


def _parse_permanent(value: str) -> x509.GeneralName:
    assigner, colon, identifier = value.partition(":")
    if not colon:
        raise ValueError("it is written PID:assigner-oid:value, either may be empty")
    return PermanentIdentifier(identifier or None, assigner or None).general_name()


def _parse_other(value: str) -> x509.GeneralName:
    dotted, _, content = value.partition(":")
    der.oid(dotted)
    return x509.OtherName(x509.ObjectIdentifier(dotted), _from_hex(content))


def _parse_registered(value: str) -> x509.GeneralName:
    der.oid(value)
    return x509.RegisteredID(x509.ObjectIdentifier(value))


def _from_hex(text: str) -> bytes:
    if not _HEX.fullmatch(text):
        raise ValueError("pairs of hexadecimal digits are expected")
    return bytes.fromhex(text)


_PARSERS: dict[str, Callable[[str], x509.GeneralName]] = {
    "DNS": x509.DNSName,
    "IP": lambda value: x509.IPAddress(ipaddress.ip_address(value)),
    "URI": x509.UniformResourceIdentifier,
    "email": x509.RFC822Name,
    "HMN": _parse_hardware,
    "PID": _parse_permanent,
    "UPN": user_principal_name,
    "other": _parse_other,
    "RID": _parse_registered,
    "DN": lambda value: x509.DirectoryName(name_from_text(value)),
}


def san_to_text(name: x509.GeneralName) -> str:
    """The text of ``name`` for people, logs and records; an otherName whose content is not what its type says as ``other:``."""
    match name:
        case x509.DNSName():
            return "DNS:" + name.value
        case x509.IPAddress():
            return f"IP:{name.value}"
        case x509.UniformResourceIdentifier():
            return "URI:" + name.value
        case x509.RFC822Name():
            return "email:" + name.value
        case x509.DirectoryName():
            return "DN:" + name_to_text(name.value)
        case x509.RegisteredID():
            return "RID:" + name.value.dotted_string
        case x509.OtherName():
            return _other_to_text(name)
    raise MalformedRequest(f"a name of type {type(name).__name__} has no text")


def _other_to_text(name: x509.OtherName) -> str:
    try:
        if name.type_id == ON_HARDWARE_MODULE_NAME:
            module = HardwareModuleName.decode(name.value)
            return f"HMN:{module.hardware_type}:{module.serial_number.hex()}"
        if name.type_id == ON_PERMANENT_IDENTIFIER:
            identifier = PermanentIdentifier.decode(name.value)
            return f"PID:{identifier.assigner or ''}:{identifier.value or ''}"
        if name.type_id == ON_USER_PRINCIPAL_NAME:
            return "UPN:" + _decode_principal(name.value)
    except MalformedRequest:
        pass  # the raw form below says what was really there
    return f"other:{name.type_id.dotted_string}:{name.value.hex()}"

"""Where a key lives, as one line of configuration: ``software:NAME`` or a PKCS #11 URI (RFC 7512). Pure.

A URI never holds a secret: ``pin-value`` is refused, ``pin-source`` names a place to read the PIN from.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass, replace
from urllib.parse import quote_from_bytes, unquote_to_bytes

from gateway.errors import ConfigError

_SOFTWARE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: RFC 7512 section 2.3: unreserved characters and pk11-res-avail may stand as they are; "/" and "?" only in the query.
_PATH_SAFE = ":[]@!$'()*+,="
_QUERY_SAFE = _PATH_SAFE + "/?|"
_ALLOWED = frozenset(string.ascii_letters + string.digits + "-._~%&" + _QUERY_SAFE)
_PATH_ATTRIBUTES = ("token", "manufacturer", "serial", "model", "slot-id", "object", "type", "id")
_QUERY_ATTRIBUTES = ("module-path", "module-name", "pin-source")
_MAX_LENGTH = 4096


@dataclass(frozen=True, slots=True)
class KeyUri:
    """A parsed key URI: a ``software`` name, or PKCS #11 attributes. Empty text and ``None`` mean "any"."""

    software: str = ""
    token: str = ""  # CKA label of the token
    manufacturer: str = ""
    serial: str = ""
    model: str = ""
    slot_id: int | None = None
    object: str = ""  # CKA_LABEL of the key
    type: str = ""  # only "private" makes sense for a key that signs
    id: bytes = b""  # CKA_ID of the key
    module_path: str = ""
    module_name: str = ""
    pin_source: str = ""

    @classmethod
    def parse(cls, text: str) -> KeyUri:
        """Raises ConfigError, saying what is wrong, for anything that is not exactly one key's URI."""
        if len(text) > _MAX_LENGTH:
            raise ConfigError(f"a key URI has at most {_MAX_LENGTH} characters")
        scheme, colon, rest = text.partition(":")
        if scheme == "software" and colon:
            if not _SOFTWARE_NAME.fullmatch(rest):
                raise ConfigError(f"{rest!r} is not a key name: up to 64 letters, digits, '.', '_' and '-' are")
            return cls(software=rest)
        if scheme != "pkcs11" or not colon:
            raise ConfigError("a key URI starts with 'software:' or 'pkcs11:'")
        return _parse_pkcs11(rest)

    @property
    def is_software(self) -> bool:
        return bool(self.software)

    def format(self) -> str:
        """The canonical text; parsing it gives an equal object."""
        if self.software:
            return f"software:{self.software}"
        path = [
            f"{name}={value}"
            for name, value in (
                ("token", _quote(self.token)),
                ("manufacturer", _quote(self.manufacturer)),
                ("serial", _quote(self.serial)),
                ("model", _quote(self.model)),
                ("slot-id", "" if self.slot_id is None else str(self.slot_id)),
                ("object", _quote(self.object)),
                ("type", _quote(self.type)),
                ("id", "".join(f"%{byte:02X}" for byte in self.id)),  # section 2.3: the id should be encoded whole
            )
            if value
        ]
        query = [
            f"{name}={quote_from_bytes(value.encode(), safe=_QUERY_SAFE)}"
            for name, value in (
                ("module-path", self.module_path),
                ("module-name", self.module_name),
                ("pin-source", self.pin_source),
            )
            if value
        ]
        return "pkcs11:" + ";".join(path) + ("?" + "&".join(query) if query else "")

    def __str__(self) -> str:
        return self.format()

    def token_only(self) -> KeyUri:
        """The same token and module without the key on it: equal for keys that share a token."""
        return replace(self, object="", type="", id=b"")


def _quote(text: str) -> str:
    return quote_from_bytes(text.encode(), safe=_PATH_SAFE + "&")


def _parse_pkcs11(rest: str) -> KeyUri:
    stray = set(rest) - _ALLOWED - {";"}
    if stray:
        raise ConfigError(f"a PKCS #11 URI must percent-encode {sorted(stray)[0]!r}")
    path, _, query = rest.partition("?")
    attributes = _attributes(path, ";", _PATH_ATTRIBUTES)
    queries = _attributes(query, "&", (*_QUERY_ATTRIBUTES, "pin-value"))
    if "pin-value" in queries:
        raise ConfigError("pin-value is refused: a PIN never stands in the configuration, use pin-source")
    slot = attributes.get("slot-id", b"")
    if slot and not slot.isdigit():
        raise ConfigError("slot-id is a decimal number")
    uri = KeyUri(
        token=_text(attributes, "token"),
        manufacturer=_text(attributes, "manufacturer"),
        serial=_text(attributes, "serial"),
        model=_text(attributes, "model"),
        slot_id=int(slot) if slot else None,
        object=_text(attributes, "object"),
        type=_text(attributes, "type"),
        id=attributes.get("id", b""),
        module_path=_text(queries, "module-path"),
        module_name=_text(queries, "module-name"),
        pin_source=_text(queries, "pin-source"),
    )
    if uri.type not in {"", "private"}:
        raise ConfigError("type is 'private' or absent: the URI names a key that signs")
    if uri.module_path and not uri.module_path.startswith("/"):
        raise ConfigError("module-path is an absolute path")
    if "/" in uri.module_name:
        raise ConfigError("module-name is a name without a path; use module-path")
    return uri


def _attributes(text: str, separator: str, known: tuple[str, ...]) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for item in text.split(separator) if text else ():
        name, equals, value = item.partition("=")
        if not equals:
            raise ConfigError(f"{item!r} in a PKCS #11 URI is not name=value")
        if name not in known:
            raise ConfigError(f"the PKCS #11 URI attribute {name!r} is not known here; known: {', '.join(known[:8])}")
        if name in found:  # section 2.3: an attribute must not stand twice
            raise ConfigError(f"the PKCS #11 URI attribute {name!r} stands twice")
        if re.search(r"%(?![0-9A-Fa-f]{2})", value):
            raise ConfigError(f"the value of {name!r} has a '%' without two hexadecimal digits")
        found[name] = unquote_to_bytes(value)
    return found


def _text(attributes: dict[str, bytes], name: str) -> str:
    value = attributes.get(name, b"")
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"the value of {name!r} is not UTF-8") from None
    if "\0" in text:
        raise ConfigError(f"the value of {name!r} holds a NUL character")
    return text

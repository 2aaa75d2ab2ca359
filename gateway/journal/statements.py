"""Signed statements and strict JSON: how whoever obliges or convicts somebody by a document writes it. Pure.

A *statement* is a body under a heading that says what kind it is and whose Ed25519 key signed all of that; docs/SYNC.md has the
form. The same octets mean the same wherever they lie: on the wire, in a file, in the journal.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.errors import IntegrityError, MalformedRequest
from gateway.journal.canonical import JsonValue
from gateway.journal.checkpoint import read_verifier_key

#: Of every statement. A side that meets another number says so and changes nothing.
VERSION: Final = 1


def sign_statement(kind: str, body: bytes, key_name: str, key: Ed25519PrivateKey) -> bytes:
    """``body`` under a heading that says what it is, whose key signed it, and the signature over all of that."""
    signed = f"edge-gateway/{kind}/v{VERSION}\n{key_name}\n".encode()
    return signed + base64.b64encode(key.sign(signed + body)) + b"\n\n" + body


def open_statement(kind: str, data: bytes, vkey: str) -> bytes:
    """The body of a statement of this kind. Raises IntegrityError unless the key of ``vkey`` signed it as such."""
    name, key = read_verifier_key(vkey)
    heading, separator, body = data.partition(b"\n\n")
    lines = heading.split(b"\n")
    if not separator or len(lines) != 3 or lines[0] != f"edge-gateway/{kind}/v{VERSION}".encode():
        raise IntegrityError(f"not a signed statement of kind {kind}, version {VERSION}")
    if lines[1] != name.encode():
        raise IntegrityError(f"this statement is signed by another than {name}")
    try:
        signature = base64.b64decode(lines[2], validate=True)
        if base64.b64encode(signature) != lines[2]:  # or whoever carries a statement could make another one of it
            raise binascii.Error("not canonical")
        key.verify(signature, lines[0] + b"\n" + lines[1] + b"\n" + body)
    except (InvalidSignature, binascii.Error) as error:
        raise IntegrityError(f"the signature of {name} under this statement is wrong") from error
    return body


def to_json(value: JsonValue) -> bytes:
    """Canonical: sorted keys, no white space, UTF-8."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def from_json(data: bytes) -> dict[str, JsonValue]:
    """The object in ``data``. Raises MalformedRequest."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedRequest("not JSON") from error
    if not isinstance(value, dict):
        raise MalformedRequest("a JSON object is expected")
    return value


def text_of(body: dict[str, JsonValue], key: str, default: str | None = None) -> str:
    """The text ``key`` of ``body``. Raises MalformedRequest."""
    value = body.get(key, default)
    if not isinstance(value, str) or not is_unicode(value):
        raise MalformedRequest(f"{key} must be a text")
    return value


def is_unicode(value: str) -> bool:
    """JSON can spell half of a surrogate pair, which no encoding and no database takes."""
    return value.isascii() or not any("\ud800" <= each <= "\udfff" for each in value)


def number_of(body: dict[str, JsonValue], key: str, default: int | None = None) -> int:
    """The number ``key`` of ``body``, 0 or more. Raises MalformedRequest."""
    value = body.get(key, default)
    if type(value) is not int or not 0 <= value < 1 << 63:
        raise MalformedRequest(f"{key} must be a whole number from 0")
    return value


def octets_of(body: dict[str, JsonValue], key: str) -> bytes:
    """The base64 text ``key`` of ``body`` as octets. Raises MalformedRequest."""
    try:
        return base64.b64decode(text_of(body, key), validate=True)
    except ValueError as error:  # binascii.Error, and another one for text that is not ASCII
        raise MalformedRequest(f"{key} must be base64") from error


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode()

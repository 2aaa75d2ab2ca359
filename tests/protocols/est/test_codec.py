"""EST wire forms: every wrapping that devices send is read, every other is refused with a reason; answers are exact."""

from __future__ import annotations

import base64
import email
import email.policy
import textwrap

import pytest
from cryptography import x509

from gateway.errors import MalformedRequest, NotFound, TooLarge, Unauthenticated, UnsupportedMediaType
from gateway.protocols.est import codec
from gateway.protocols.est.codec import EstOperation, EstPath, decode_basic, decode_request, parse_path
from tests.support.est_requests import csr_der
from tests.support.hostile_est import BODIES, CREDENTIALS, PATHS

DER = csr_der()
ONE_LINE = base64.b64encode(DER)
WRAPPED = "\n".join(textwrap.wrap(ONE_LINE.decode(), 64)).encode()


def armour(label: bytes, text: bytes = WRAPPED, end: bytes = b"\n") -> bytes:
    return b"-----BEGIN " + label + b"-----" + end + text + end + b"-----END " + label + b"-----" + end


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ("/.well-known/est/cacerts", EstPath(EstOperation.CACERTS)),
        ("/.well-known/est/cacerts/", EstPath(EstOperation.CACERTS)),
        ("/.well-known/est/line-3/simpleenroll", EstPath(EstOperation.SIMPLEENROLL, "line-3")),
        ("/.well-known/est/line-3/simpleenroll/", EstPath(EstOperation.SIMPLEENROLL, "line-3")),
        ("/.well-known/est/serverkeygen?x=1", EstPath(EstOperation.SERVERKEYGEN)),
    ],
)
def test_both_slash_forms_and_labels_are_understood(raw: str, path: EstPath) -> None:
    assert parse_path(raw) == path


@pytest.mark.parametrize("raw", PATHS)
def test_any_other_path_is_not_found(raw: str) -> None:
    with pytest.raises(NotFound):
        parse_path(raw)


@pytest.mark.parametrize(
    "body",
    [
        DER,
        ONE_LINE,
        ONE_LINE + b"\n",
        ONE_LINE + b"\r\n\r\n",
        b"\r\n" + ONE_LINE,
        WRAPPED,
        WRAPPED + b"\n",
        WRAPPED.replace(b"\n", b"\r\n"),
        armour(b"CERTIFICATE REQUEST"),
        armour(b"NEW CERTIFICATE REQUEST"),
        armour(b"CERTIFICATE REQUEST", ONE_LINE),
        armour(b"CERTIFICATE REQUEST", WRAPPED.replace(b"\n", b"\r\n"), b"\r\n"),
        b"\n" + armour(b"CERTIFICATE REQUEST") + b"\n\n",
    ],
)
@pytest.mark.parametrize("encoding", [None, "", "base64", "BASE64", "7bit"])
def test_every_wrapping_gives_the_same_request(body: bytes, encoding: str | None) -> None:
    assert decode_request(body, "application/pkcs10", encoding) == DER


@pytest.mark.parametrize("content_type", [None, "", "application/pkcs10", "Application/PKCS10 ; x=y", "application/x-pkcs10"])
def test_the_content_type_may_be_missing_or_pkcs10(content_type: str | None) -> None:
    assert decode_request(DER, content_type, "binary") == DER


@pytest.mark.parametrize("content_type", ["text/plain", "application/json", "application/pkcs7-mime", "multipart/mixed", "x"])
def test_another_content_type_is_unsupported(content_type: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        decode_request(DER, content_type, None)


@pytest.mark.parametrize("encoding", ["quoted-printable", "base65", "x-uuencode", "gzip"])
def test_another_transfer_encoding_is_unsupported(encoding: str) -> None:
    with pytest.raises(UnsupportedMediaType):
        decode_request(ONE_LINE, None, encoding)


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES.keys())
def test_a_malformed_body_is_refused_with_a_reason(body: bytes) -> None:
    with pytest.raises((MalformedRequest, TooLarge)) as caught:
        decode_request(body, "application/pkcs10", "base64")
    assert len(str(caught.value)) > 15


def test_text_declared_binary_is_refused() -> None:
    with pytest.raises(MalformedRequest, match="binary"):
        decode_request(ONE_LINE, None, "binary")


@pytest.mark.parametrize(
    ("body", "user_agent", "expected"),
    [
        (ONE_LINE, None, False),
        (ONE_LINE + b"\n", "curl/8", False),
        (WRAPPED, None, True),
        (DER[:1] + b"\n" + DER[1:], None, False),
        (DER, "Cisco LibEST 1.0", True),
        (b"", None, False),
        (b"", "libest", True),
    ],
)
def test_lines_are_for_clients_that_wrap_and_for_libest(body: bytes, user_agent: str | None, expected: bool) -> None:
    assert codec.wants_lines(body, user_agent) is expected


def test_an_answer_in_one_line_has_no_line_feed_at_all() -> None:
    assert codec.encode_body(DER, lines=False) == ONE_LINE


@pytest.mark.parametrize("length", [0, 1, 47, 48, 49, 96, 1000])
def test_an_answer_in_lines_begins_with_text_and_ends_each_line(length: int) -> None:
    text = codec.encode_body(bytes(length), lines=True)
    assert base64.b64decode(text) == bytes(length)
    assert all(len(line) <= 64 for line in text.split(b"\n"))
    assert not text.startswith(b"\n")
    assert text.endswith(b"\n") or length == 0


@pytest.mark.parametrize(
    ("user", "password"), [("device", "secret"), ("", "x"), ("plc", "a:b:c"), ("Ventilprüfstand", "grün"), ("id", "")]
)
def test_basic_credentials_are_utf8_and_split_at_the_first_colon(user: str, password: str) -> None:
    text = base64.b64encode(f"{user}:{password}".encode()).decode()
    assert decode_basic(f"Basic {text}") == (user, password)
    assert decode_basic(f"bAsIc  {text} ") == (user, password)


@pytest.mark.parametrize("header", CREDENTIALS)
def test_other_credentials_are_not_authenticated(header: str) -> None:
    with pytest.raises(Unauthenticated):
        decode_basic(header)


@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("lines", [False, True])
def test_a_key_and_its_certificate_are_two_mime_parts(encrypted: bool, lines: bool) -> None:
    key, certificate = bytes(range(200)), bytes(reversed(range(180)))
    body, content_type = codec.encode_key_and_certificate(key, certificate, encrypted=encrypted, lines=lines)
    message = email.message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body, policy=email.policy.HTTP)
    first, second = message.iter_parts()
    assert message.get_content_type() == "multipart/mixed"
    assert first.get_content_type() == ("application/pkcs7-mime" if encrypted else "application/pkcs8")
    assert first.get_param("smime-type") == ("server-generated-key" if encrypted else None)
    assert second.get_param("smime-type") == "certs-only"
    assert first.get_payload(decode=True) == key
    assert second.get_payload(decode=True) == certificate


def test_an_identical_answer_has_identical_bytes() -> None:
    assert codec.encode_key_and_certificate(b"k", b"c", encrypted=False, lines=False) == codec.encode_key_and_certificate(
        b"k", b"c", encrypted=False, lines=False
    )


def attribute_request(oid: str, value: bytes) -> bytes:
    return csr_der(attributes=[(x509.ObjectIdentifier(oid), value)])


def test_the_delivery_attributes_of_a_request_are_read() -> None:
    # cryptography writes attribute values as UTF8String, so the OCTET STRINGs are put in afterwards: same length, other tag.
    for oid, field in (("1.2.840.113549.1.9.16.2.54", "asymmetric_key_id"), ("1.2.840.113549.1.9.16.2.37", "symmetric_key_id")):
        request = attribute_request(oid, b"0123456789abcdefghij")
        request = request.replace(b"\x0c\x140123456789abcdefghij", b"\x04\x140123456789abcdefghij")
        assert getattr(codec.key_delivery(request), field) == b"0123456789abcdefghij"


def test_a_request_without_attributes_asks_for_no_delivery() -> None:
    assert codec.key_delivery(DER) == codec.KeyDelivery()


def test_capabilities_are_kept_as_they_came() -> None:
    request = attribute_request("1.2.840.113549.1.9.15", b"aes")
    assert codec.key_delivery(request).smime_capabilities == b"\x0c\x03aes"


def test_a_key_identifier_of_another_type_is_malformed() -> None:
    with pytest.raises(MalformedRequest):
        codec.key_delivery(attribute_request("1.2.840.113549.1.9.16.2.54", b"abc"))


@pytest.mark.parametrize(
    "request_hex",
    [
        "3000",  # nothing inside
        "3080",  # indefinite
        "3004",  # truncated
        "300a3008a006300430020500",  # an attribute of one element
    ],
)
def test_a_request_of_another_shape_is_malformed(request_hex: str) -> None:
    with pytest.raises(MalformedRequest):
        codec.key_delivery(bytes.fromhex(request_hex))


def test_a_request_without_any_field_asks_for_no_delivery() -> None:
    assert codec.key_delivery(bytes.fromhex("300430023000")) == codec.KeyDelivery()


def test_operations_know_their_methods() -> None:
    assert EstOperation.CSRATTRS.methods == ("GET", "HEAD")
    assert EstOperation.SIMPLEENROLL.methods == ("POST",)

"""ChangeSubjectName (RFC 6402 section 2.8): how a renewal asks for other names than those of the current certificate. Pure.

The names in the request itself stay the old ones, so that it is still recognised as the renewal it is (RFC 7030 section 4.2.2);
the attribute holds the new ones. RFC 6402 forgot a tag, so that subject and subjectAlt both begin like a SEQUENCE: erratum 3943
gave subjectAlt the tag [1]. Both ways are read; they can be told apart because a Name consists of SETs, GeneralNames of
context tags.
"""

from __future__ import annotations

from dataclasses import replace

from cryptography import x509

from gateway.errors import MalformedRequest
from gateway.pki import der
from gateway.pki.csr import MAX_NAMES, CertificationRequest
from gateway.pki.names import name_from_der
from gateway.pki.walk import content, elements

_CHANGE_SUBJECT_NAME = der.oid("1.3.6.1.5.5.7.7.36")
_EXTENSION_REQUEST = der.oid("1.2.840.113549.1.9.14")
_SUBJECT_ALT_NAME = der.oid("2.5.29.17")
_ATTRIBUTES = 0xA0  # [0] of CertificationRequestInfo
_TAGGED_NAMES = 0xA1  # [1] of erratum 3943
_CONTEXT_CLASS = 0x80
_EMPTY_NAME = der.sequence()


def renamed(request: CertificationRequest) -> CertificationRequest | None:
    """``request`` with the names that its ChangeSubjectName asks for; ``None`` without that attribute.

    A field that is absent there is empty afterwards, as RFC 6402 says: without ``subject`` the subject becomes empty, without
    ``subjectAlt`` the alternative names go. Raises MalformedRequest.
    """
    if _CHANGE_SUBJECT_NAME not in request.der:
        return None
    value = _attribute(request.der)
    if value is None:  # the octets of the identifier stood somewhere else
        return None
    subject, names = _fields(value)
    if subject is None and names is None:
        raise MalformedRequest("ChangeSubjectName holds neither a subject nor alternative names")
    subject_der = _EMPTY_NAME if subject is None else subject
    name_from_der(subject_der)
    return replace(request, subject_der=subject_der, san=() if names is None else _general_names(request, names))


def _attribute(request: bytes) -> bytes | None:
    """The value of ChangeSubjectName in a request that was read; a lenient reader may have let BER pass, which is refused."""
    information = elements(request, *content(request, der.SEQUENCE))[0]
    for tag, start, end in elements(request, *information[1:]):
        if tag != _ATTRIBUTES:
            continue
        for _, attribute_start, attribute_end in elements(request, start, end):
            if request.startswith(_CHANGE_SUBJECT_NAME, attribute_start):
                set_start = attribute_start + len(_CHANGE_SUBJECT_NAME)
                values = elements(request, *content(request, der.SET, set_start, attribute_end))
                if len(values) != 1 or values[0][0] != der.SEQUENCE:
                    raise MalformedRequest("ChangeSubjectName has exactly one value, a SEQUENCE")
                return request[values[0][1] : values[0][2]]
    return None


def _fields(value: bytes) -> tuple[bytes | None, bytes | None]:
    """The Name as DER, and the content of GeneralNames; ``None`` for one that is absent."""
    subject: bytes | None = None
    names: bytes | None = None
    at = 0
    for tag, start, end in elements(value, 0, len(value)):
        field, inside = value[at:end], value[start:end]
        at = end
        if tag == _TAGGED_NAMES and names is None:
            names = inside[slice(*content(inside, der.SEQUENCE))] if inside[:1] == b"\x30" else inside
        elif tag == der.SEQUENCE and inside and inside[0] & _CONTEXT_CLASS and names is None:
            names = inside
        elif tag == der.SEQUENCE and subject is None and names is None:
            subject = field
        else:
            raise MalformedRequest("ChangeSubjectName holds a subject, then alternative names, each at most once")
    return subject, names


def _general_names(request: CertificationRequest, names: bytes) -> tuple[x509.GeneralName, ...]:
    """GeneralNames as the library reads them, which it does inside a request only. The signature is of no interest here."""
    extension = der.sequence(_SUBJECT_ALT_NAME, der.octet_string(der.sequence(names)))
    attribute = der.sequence(_EXTENSION_REQUEST, der.set_of([der.sequence(extension)]))
    information = der.sequence(der.integer(0), _EMPTY_NAME, request.spki, der.context(0, attribute))
    carrier = der.sequence(information, _NO_ALGORITHM, der.bit_string(b""))
    try:
        found = x509.load_der_x509_csr(carrier).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, TypeError, x509.UnsupportedGeneralNameType) as error:
        raise MalformedRequest(f"the alternative names in ChangeSubjectName cannot be read: {str(error)[:200]}") from error
    if not 1 <= len(found) <= MAX_NAMES:
        raise MalformedRequest(f"ChangeSubjectName holds {len(found)} alternative names; it must be 1 to {MAX_NAMES}")
    return tuple(found)


_NO_ALGORITHM = bytes.fromhex("300a06082a8648ce3d040302")

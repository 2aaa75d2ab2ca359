"""Distinguished names as text (RFC 4514) and back. Pure.

In the text the most specific attribute comes first ("CN=plc-7,O=Acme,C=DE"), in the certificate last. Attribute types go by
the short names that profiles know (:data:`gateway.pki.profiles.SUBJECT_ATTRIBUTES`) or by their dotted OID.
"""

from __future__ import annotations

import warnings

from cryptography import x509

from gateway.errors import MalformedRequest
from gateway.pki import der
from gateway.pki.profiles import SUBJECT_ATTRIBUTES

MAX_NAME_TEXT = 2048

_NAME_TO_OID = {short: x509.ObjectIdentifier(dotted) for short, (dotted, _, _) in SUBJECT_ATTRIBUTES.items()}
_NAME_TO_OID["STREET"] = _NAME_TO_OID["street"]  # the spelling of RFC 4514 section 3
_OID_TO_NAME = {x509.ObjectIdentifier(dotted): short for short, (dotted, _, _) in SUBJECT_ATTRIBUTES.items()}


def name_from_text(text: str) -> x509.Name:
    """The name that ``text`` says; the empty text is the empty name. Raises MalformedRequest."""
    if len(text) > MAX_NAME_TEXT:
        raise MalformedRequest(f"a name of more than {MAX_NAME_TEXT} characters")
    try:
        return x509.Name.from_rfc4514_string(text, _NAME_TO_OID)
    except ValueError as error:
        raise MalformedRequest(f"not a distinguished name (as in CN=plc-7,O=Acme,C=DE): {text[:80]!r}: {error}") from error


#: What stands around the subject in a certification request: version, then some key, no attributes, no real signature.
_BEFORE_SUBJECT = der.integer(0)
_BEHIND_SUBJECT = der.sequence(der.sequence(der.oid("1.3.101.112")), der.bit_string(bytes(32))) + der.context(0)
_BEHIND_INFORMATION = der.sequence(der.oid("1.3.101.112")) + der.bit_string(b"")


def name_from_der(data: bytes) -> x509.Name:
    """The Name in ``data``, string types kept. Raises MalformedRequest.

    The library reads names only where they stand in a larger structure, so an empty request is put around this one.
    """
    information = der.sequence(_BEFORE_SUBJECT, data, _BEHIND_SUBJECT)
    try:
        # The library warns of a commonName of more than 64 *bytes*; the bound is in characters (RFC 5280 appendix A.1).
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return x509.load_der_x509_csr(der.sequence(information, _BEHIND_INFORMATION)).subject
    except (ValueError, TypeError) as error:
        raise MalformedRequest(f"not a distinguished name in DER: {str(error)[:200]}") from error


def name_to_text(name: x509.Name) -> str:
    """The RFC 4514 text of ``name``, for people, logs and records."""
    return name.rfc4514_string(_OID_TO_NAME)

"""The names in an IDevID. Pure.

IEEE 802.1AR-2018 clause 8.6: the subject names the device, with its serialNumber; clause 8.10.4: where there is a
subjectAltName it carries a hardwareModuleName (RFC 4108 section 5) with the serial number. OPC 10000-21 section 5.2 puts the
ProductInstanceUri there as a URI. What else goes into the certificate is the profile's matter.
"""

from __future__ import annotations

from dataclasses import replace

from cryptography import x509

from gateway.errors import MalformedRequest
from gateway.pki.csr import CertificationRequest
from gateway.pki.names import name_from_text
from gateway.pki.sans import san_from_text
from provisioning.orders import WorkOrder, filled


def values_of(order: WorkOrder, serial: str) -> dict[str, str]:
    """What templates may name."""
    return {"serial": serial, "product": order.product, "order": order.id}


def product_uri(order: WorkOrder, serial: str) -> str:
    """The unit's ProductInstanceUri and identification link; empty where the order has none."""
    return filled(order.uri, values_of(order, serial)) if order.uri else ""


def subject_of(order: WorkOrder, serial: str) -> str:
    """The subject as text (RFC 4514), its serialNumber last in the certificate and thus first here."""
    values = {name: _escaped(value) for name, value in values_of(order, serial).items()}
    parts = [filled(text, values) for text in order.subject]
    return ",".join(reversed([*parts, f"serialNumber={values['serial']}"]))


def named(order: WorkOrder, serial: str, request: CertificationRequest) -> CertificationRequest:
    """``request`` with the names that the order gives this unit, whatever the device wrote into it.

    Raises MalformedRequest where the order's templates make no name.
    """
    subject, san = names_of(order, serial)
    return replace(request, subject_der=subject.public_bytes(), san=san, extensions=())


def names_of(order: WorkOrder, serial: str) -> tuple[x509.Name, tuple[x509.GeneralName, ...]]:
    """Subject and alternative names of a unit. Raises MalformedRequest where the order's templates make none."""
    try:
        subject = name_from_text(subject_of(order, serial))
        san: list[x509.GeneralName] = []
        if order.hardware_type:
            san.append(san_from_text(f"HMN:{order.hardware_type}:{serial.encode().hex()}"))
        if order.uri:
            san.append(san_from_text(f"URI:{product_uri(order, serial)}"))
    except (ValueError, MalformedRequest) as error:
        raise MalformedRequest(f"order {order.id}: its templates make no name: {error}") from error
    return subject, tuple(san)


def _escaped(value: str) -> str:
    """For RFC 4514 section 2.4: what separates attributes elsewhere is only a character here."""
    escaped = "".join("\\" + sign if sign in ',+"\\<>;=' else sign for sign in value)
    if escaped[:1] in (" ", "#"):
        escaped = "\\" + escaped
    return escaped[:-1] + "\\ " if escaped.endswith(" ") else escaped

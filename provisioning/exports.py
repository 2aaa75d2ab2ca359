"""Lists of finished devices for other systems: a CSV file of an order, and AWS IoT's bulk registration. Pure."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from typing import Final

from gateway.errors import MalformedRequest
from provisioning.jws import canonical
from provisioning.papers import ProducedDevice, moment, particulars

COLUMNS: Final = (
    "order",
    "product",
    "serial",
    "uri",
    "chip",
    "key_origin",
    "key_type",
    "certificate_serial",
    "certificate_sha256",
    "spki_sha256",
    "not_after",
    "station",
    "port",
    "issued",
    "finished",
    "label_prints",
)
#: A spreadsheet takes a cell that begins so for a formula; such a cell is written with an apostrophe before it.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
#: thingName of AWS IoT's RegisterThing and CreateThing.
_THING: Final = re.compile(r"[a-zA-Z0-9:_-]{1,128}")


def order_csv(devices: Iterable[ProducedDevice]) -> Iterator[str]:
    """The lines of a CSV file (RFC 4180, with CRLF), the first with the names of the columns. Raises MalformedRequest."""
    yield _line(COLUMNS)
    for device in devices:
        own = particulars(device.certificate)
        yield _line((
            device.order, device.product, device.serial, device.uri, device.chip, device.key_origin.value, own.key_type,
            own.serial, own.digest, own.spki_digest, own.not_after, device.station, device.port,
            _time(device.reached("issued")), _time(device.finished_ms), str(len(device.prints)),
        ))  # fmt: skip


def aws_registration(devices: Iterable[ProducedDevice]) -> Iterator[bytes]:
    """Lines of newline-delimited JSON for AWS IoT's StartThingRegistrationTask, each with its line's end.

    The names are parameters of the customer's provisioning template: ``ThingName`` (the serial number), ``SerialNumber``,
    ``CertificatePem`` and ``CACertificatePem``. A ``CSR``, as in AWS's own example, would make AWS issue a second identity.
    Raises MalformedRequest for a serial number that cannot be the name of a thing.
    """
    for device in devices:
        if not _THING.fullmatch(device.serial):
            raise MalformedRequest(f"{device.serial!r} cannot be the name of a thing at AWS: letters, digits, ':', '_' and '-'")
        yield (
            canonical(
                {
                    "ThingName": device.serial,
                    "SerialNumber": device.serial,
                    "CertificatePem": pem(device.certificate),
                    "CACertificatePem": pem(device.chain[0]) if device.chain else None,
                }
            )
            + b"\n"
        )


def pem(certificate: bytes) -> str:
    """RFC 7468."""
    text = base64.b64encode(certificate).decode()
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]
    return "\n".join(("-----BEGIN CERTIFICATE-----", *lines, "-----END CERTIFICATE-----", ""))


def _time(ms: int | None) -> str:
    return moment(ms) if ms else ""


def _line(cells: Iterable[str]) -> str:
    return ",".join(map(_cell, cells)) + "\r\n"


def _cell(text: str) -> str:
    if text.startswith(_FORMULA):
        text = "'" + text
    return '"' + text.replace('"', '""') + '"' if any(mark in text for mark in ',"\r\n') else text

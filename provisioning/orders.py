"""Work orders: what may be made on this line, how many, and for how long. Pure.

A work order is a signed statement (:mod:`gateway.journal.statements`) of kind ``work-order`` whose body is canonical JSON.
Central signs it and sends it within the desired document, or somebody carries it as a file; the same octets count. An order
is for one gateway (``origin``) and replaces its earlier version only by a higher one, so nobody can play an old one
again. Reading is strict: a key that this version does not know may be a limit, so the order is refused as a whole.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.errors import Forbidden, IntegrityError, MalformedRequest
from gateway.journal.canonical import JsonValue
from gateway.journal.statements import from_json, number_of, open_statement, sign_statement, text_of, to_json
from gateway.pki.profiles import ALL_KEY_TYPES
from provisioning.device import KeyOrigin

KIND: Final = "work-order"
FORMAT: Final = 1
MOST_OCTETS: Final = 4 << 20
#: Entries of an allow-list in an order.
MOST_SERIALS: Final = 100_000
MOST_CREDIT: Final = 10_000_000
_MOST_DIGITS: Final = 18
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
#: A serial number becomes a PrintableString of the certificate (RFC 5280 appendix A.1: at most 64) and a part of file names.
_SERIAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ()+,.:=?-]{0,63}")
_HEX_DIGEST = re.compile(r"[0-9a-f]{64}")
_WILD = frozenset("*?[")
OVERDUE: Final = ("list", "revoke")
#: What a station must show before a unit counts as verified: the device's signature, or only what was read back from it.
READ_BACK: Final = "read-back"
PROOFS: Final = ("challenge", READ_BACK)


@dataclass(frozen=True, slots=True)
class NumberRange:
    """Serial numbers that the gateway gives out: ``prefix`` and a number of ``digits`` digits, from ``first`` to ``last``."""

    prefix: str
    first: int
    last: int
    digits: int

    def serial(self, index: int) -> str:
        """The serial number at ``index``, which counts from 0. Raises Forbidden beyond the end."""
        if not 0 <= index <= self.last - self.first:
            raise Forbidden("the order's range of serial numbers is used up; ask for an order with more of them")
        return f"{self.prefix}{self.first + index:0{self.digits}d}"

    def __contains__(self, serial: object) -> bool:
        if not isinstance(serial, str) or not serial.startswith(self.prefix):
            return False
        rest = serial[len(self.prefix) :]
        return (
            rest.isascii() and rest.isdigit() and self.first <= int(rest) <= self.last and self.serial_of(int(rest)) == serial
        )

    def serial_of(self, number: int) -> str:
        return f"{self.prefix}{number:0{self.digits}d}"


@dataclass(frozen=True, slots=True)
class WorkOrder:
    """One version of an order. Times in ms UTC. ``credit`` counts every unit that is begun, also those that are scrapped.

    ``subject`` and ``uri`` are templates with ``{serial}``, ``{product}`` and ``{order}``. ``stations`` are patterns for the
    names of ports and stations; none means any. ``recipe`` is the SHA-256 of the recipe's file in hexadecimal, empty where any
    will do. ``confirm_hours`` is how long a unit with a certificate may stay unconfirmed; ``overdue`` says what happens then.
    """

    id: str
    version: int
    origin: str
    product: str
    profile: str
    credit: int
    expires: int  # 0 for no end
    driver: str = ""  # empty: stations bring their own
    recipe: str = ""
    stations: tuple[str, ...] = ()
    numbers: NumberRange | None = None
    serials: tuple[str, ...] = ()  # serial numbers and patterns (*, ?, [) of them
    key_type: str = "p-256"
    key_origin: KeyOrigin = KeyOrigin.DEVICE
    subject: tuple[str, ...] = ("O={product}",)  # RDNs before the serialNumber
    hardware_type: str = ""  # OID for hardwareModuleName (RFC 4108); empty: none
    uri: str = ""  # OPC 10000-21 ProductInstanceUri, IEC 61406 identification link
    masa_url: str = ""  # RFC 8995
    lock: bool = True
    label: str = ""  # the name of a label template; empty: none
    ticket: bool = False  # write the OPC 10000-21 ticket to the device, too
    confirm_hours: int = 72
    overdue: str = "list"
    proof: str = "challenge"  # what stations must show of a device; one of PROOFS
    credit_after_receipt: bool = False  # for whoever signs: more credit only when the records of the used one are back

    def to_bytes(self) -> bytes:
        """The body: canonical JSON."""
        table: dict[str, JsonValue] = {"format": FORMAT}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, NumberRange):
                value = {"digits": value.digits, "first": value.first, "last": value.last, "prefix": value.prefix}
            elif isinstance(value, tuple):
                value = list(value)
            elif isinstance(value, KeyOrigin):
                value = value.value
            table[item.name] = value
        return to_json(table)

    @classmethod
    def from_bytes(cls, data: bytes) -> WorkOrder:
        """Raises MalformedRequest naming the key."""
        body = from_json(data)
        if number_of(body, "format") != FORMAT:
            raise MalformedRequest(f"this gateway reads work orders of format {FORMAT} only; it needs newer software")
        unknown = sorted(set(body) - {item.name for item in fields(cls)} - {"format"})
        if unknown:
            raise MalformedRequest(f"the work order has keys that this gateway does not know: {', '.join(unknown)[:100]}")
        if to_json(body) != data:
            raise MalformedRequest("the work order is not in its canonical spelling")
        origin = text_of(body, "key_origin")
        if origin not in {each.value for each in KeyOrigin}:
            raise MalformedRequest("key_origin must be 'device' or 'pool'")
        order = cls(
            id=text_of(body, "id"), version=number_of(body, "version"), origin=text_of(body, "origin"),
            product=text_of(body, "product"), profile=text_of(body, "profile"), credit=number_of(body, "credit"),
            expires=number_of(body, "expires"), driver=text_of(body, "driver"), recipe=text_of(body, "recipe"),
            stations=_texts(body, "stations"), numbers=_numbers(body.get("numbers")), serials=_texts(body, "serials"),
            key_type=text_of(body, "key_type"), key_origin=KeyOrigin(origin), subject=_texts(body, "subject"),
            hardware_type=text_of(body, "hardware_type"), uri=text_of(body, "uri"), masa_url=text_of(body, "masa_url"),
            lock=_flag(body, "lock"), label=text_of(body, "label"), ticket=_flag(body, "ticket"),
            confirm_hours=number_of(body, "confirm_hours"), overdue=text_of(body, "overdue"),
            proof=text_of(body, "proof", "challenge"),
            credit_after_receipt=_flag(body, "credit_after_receipt"),
        )  # fmt: skip
        order.check()
        return order

    def check(self) -> None:
        """Raise MalformedRequest unless the order can be carried out at all."""
        if not _ID.fullmatch(self.id):
            raise MalformedRequest("id: 1 to 63 letters, digits, '.', '_' and '-', beginning with a letter or digit")
        if self.version < 1:
            raise MalformedRequest("version begins with 1")
        if not self.product or len(self.product) > 64:
            raise MalformedRequest("product must be a text of 1 to 64 characters")
        if self.credit > MOST_CREDIT:
            raise MalformedRequest(f"credit must be at most {MOST_CREDIT}")
        if (self.numbers is None) == (not self.serials):
            raise MalformedRequest("an order has either numbers (a range) or serials (an allow-list)")
        if len(self.serials) > MOST_SERIALS:
            raise MalformedRequest(f"serials has at most {MOST_SERIALS} entries")
        for serial in (*self.serials, *(self._ends())):
            if not _SERIAL.fullmatch(serial.translate({ord(sign): None for sign in "*[]!"}) or "0"):
                raise MalformedRequest(f"{serial[:80]!r} is no serial number: letters, digits and ' ()+,.:=?-', at most 64")
        self._check_choices()
        for text in (*self.subject, self.uri):
            filled(text, {"serial": "1", "product": "p", "order": "o"})

    def _check_choices(self) -> None:
        if self.key_type not in ALL_KEY_TYPES:
            raise MalformedRequest(f"key_type: {self.key_type[:40]!r} is none of {', '.join(sorted(ALL_KEY_TYPES))}")
        if self.recipe and not _HEX_DIGEST.fullmatch(self.recipe):
            raise MalformedRequest("recipe must be a SHA-256 in lower-case hexadecimal")
        for name, value, choices in (("overdue", self.overdue, OVERDUE), ("proof", self.proof, PROOFS)):
            if value not in choices:
                raise MalformedRequest(f"{name} must be {' or '.join(map(repr, choices))}")

    def _ends(self) -> tuple[str, ...]:
        numbers = self.numbers
        if numbers is None:
            return ()
        if not (0 <= numbers.first <= numbers.last < 10**_MOST_DIGITS and 1 <= numbers.digits <= _MOST_DIGITS):
            raise MalformedRequest("numbers: first, last and digits do not fit each other")
        if self.credit > numbers.last - numbers.first + 1:
            raise MalformedRequest("numbers: the range has fewer serial numbers than the order has credit")
        return numbers.serial_of(numbers.first), numbers.serial_of(numbers.last)

    def allows(self, serial: str) -> bool:
        """Whether a unit with this serial number belongs to the order."""
        if not _SERIAL.fullmatch(serial):
            return False
        if self.numbers is not None:
            return serial in self.numbers
        return any(
            fnmatch.fnmatchcase(serial, entry) if not _WILD.isdisjoint(entry) else entry == serial for entry in self.serials
        )

    def is_for(self, station: str) -> bool:
        """Whether the port or station of this name may work on the order's units."""
        return not self.stations or any(fnmatch.fnmatchcase(station, pattern) for pattern in self.stations)

    def check_use(self, *, station: str, driver: str, recipe: str, now_ms: int) -> None:
        """Raise Forbidden with the reason why a unit cannot be begun there and now."""
        if self.expires and now_ms >= self.expires:
            raise Forbidden(f"order {self.id} has expired; ask for a new version of it")
        if not self.is_for(station):
            raise Forbidden(f"order {self.id} is not for station {station}")
        if self.driver and driver and self.driver != driver:
            raise Forbidden(f"order {self.id} is for devices of driver {self.driver}, not {driver}")
        if self.recipe and self.recipe != recipe:
            raise Forbidden(f"order {self.id} wants another recipe than the one at this port (SHA-256 {self.recipe[:16]}…)")


def sign_order(order: WorkOrder, key_name: str, key: Ed25519PrivateKey) -> bytes:
    """The order as it travels."""
    return sign_statement(KIND, order.to_bytes(), key_name, key)


def open_order(document: bytes, vkeys: Iterable[str]) -> WorkOrder:
    """The order in ``document``. Raises MalformedRequest; IntegrityError unless the key of one of the ``vkeys`` signed it."""
    if len(document) > MOST_OCTETS:
        raise MalformedRequest(f"a work order has at most {MOST_OCTETS} octets")
    refusal = IntegrityError("this gateway knows no key whose work orders count; set line.order_keys or join a central")
    for vkey in vkeys:
        try:
            return WorkOrder.from_bytes(open_statement(KIND, document, vkey))
        except IntegrityError as error:
            refusal = error
    raise refusal


def filled(template: str, values: Mapping[str, str]) -> str:
    """``template`` with its ``{name}`` filled in. Raises MalformedRequest for a name that is not in ``values``."""

    def value(match: re.Match[str]) -> str:
        name = match[1]
        if name not in values:
            raise MalformedRequest(f"{template[:80]!r}: there is no {{{name}}}; there are {', '.join(sorted(values))}")
        return values[name]

    return re.sub(r"\{(\w*)\}", value, template)


def _texts(body: dict[str, JsonValue], key: str) -> tuple[str, ...]:
    value = body.get(key)
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise MalformedRequest(f"{key} must be a list of texts")
    return tuple(str(each) for each in value)


def _flag(body: dict[str, JsonValue], key: str) -> bool:
    value = body.get(key)
    if not isinstance(value, bool):
        raise MalformedRequest(f"{key} must be true or false")
    return value


def _numbers(value: JsonValue) -> NumberRange | None:
    if value is None:
        return None
    if not isinstance(value, dict) or set(value) != {"prefix", "first", "last", "digits"}:
        raise MalformedRequest("numbers has prefix, first, last and digits")
    return NumberRange(
        text_of(value, "prefix"), number_of(value, "first"), number_of(value, "last"), number_of(value, "digits")
    )

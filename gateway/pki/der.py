"""Distinguished Encoding Rules (X.690): a writer, a strict reader for what strangers send, and a bounded BER normaliser. Pure.

The writer is a handful of functions that return complete TLVs (tag, length, content) as bytes. :class:`Reader` accepts DER
only: one-octet tags, definite lengths in their shortest form, nothing behind the last element, bounded size and depth. What
it refuses raises :class:`gateway.errors.MalformedRequest` (or TooLarge) with the reason. :func:`ber_to_der` is for devices
that send BER; it is used only where a leniency switch says so.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache

from gateway.errors import MalformedRequest, TooLarge

BOOLEAN, INTEGER, BIT_STRING, OCTET_STRING, NULL, OID = 0x01, 0x02, 0x03, 0x04, 0x05, 0x06
UTF8_STRING, PRINTABLE_STRING, IA5_STRING, UTC_TIME, GENERALIZED_TIME = 0x0C, 0x13, 0x16, 0x17, 0x18
SEQUENCE, SET = 0x30, 0x31

#: No structure the gateway reads nests deeper than a certificate inside a CMS message inside a CMS message.
MAX_DEPTH = 24
MAX_SIZE = 1 << 20
#: The first moment that UTCTime cannot express (RFC 5280 section 4.1.2.5), in milliseconds: 2050-01-01T00:00:00Z.
_YEAR_2050_MS = 2_524_608_000_000
#: RFC 5280 section 4.1.2.5.0: "no well-defined expiration date", in milliseconds: 9999-12-31T23:59:59Z.
END_OF_TIME_MS = 253_402_300_799_000

_OCTETS = tuple(bytes((octet,)) for octet in range(256))
_LONG_HEADER = struct.Struct(">BBH").pack


def tlv(tag: int, *parts: bytes) -> bytes:
    """One element: ``tag`` (one octet), the length of all parts together, the parts."""
    content = b"".join(parts)
    length = len(content)
    if length < 0x80:
        return _OCTETS[tag] + _OCTETS[length] + content
    if 0xFF < length <= 0xFFFF:  # certificates and what is around them: one call for the whole header
        return _LONG_HEADER(tag, 0x82, length) + content
    size = (length.bit_length() + 7) // 8
    return _OCTETS[tag] + _OCTETS[0x80 | size] + length.to_bytes(size, "big") + content


@lru_cache(maxsize=1024)
def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER. Raises ValueError for text that is not one."""
    arcs = [int(arc) for arc in dotted.split(".") if arc.isascii() and arc.isdigit()]
    if len(arcs) != dotted.count(".") + 1 or len(arcs) < 2 or arcs[0] > 2 or (arcs[0] < 2 and arcs[1] > 39):
        raise ValueError(f"not an object identifier: {dotted[:80]!r}")
    content = bytearray()
    for arc in [arcs[0] * 40 + arcs[1], *arcs[2:]]:
        septets = [arc & 0x7F]
        while arc := arc >> 7:
            septets.append(0x80 | arc & 0x7F)
        content += bytes(reversed(septets))
    return tlv(OID, bytes(content))


def oid_text(content: bytes) -> str:
    """The dotted form of an OBJECT IDENTIFIER's content octets. Raises MalformedRequest."""
    if not content or content[-1] & 0x80:
        raise MalformedRequest("an object identifier is empty or truncated")
    arcs: list[int] = []
    arc = 0
    for index, octet in enumerate(content):
        if octet == 0x80 and arc == 0 and (index == 0 or not content[index - 1] & 0x80):
            raise MalformedRequest("an object identifier is not in its shortest form")
        arc = arc << 7 | octet & 0x7F
        if arc.bit_length() > 128:
            raise MalformedRequest("an object identifier has an arc of more than 128 bits")
        if not octet & 0x80:
            arcs.append(arc)
            arc = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(str(value) for value in (first, arcs[0] - 40 * first, *arcs[1:]))


def integer(value: int) -> bytes:
    """An INTEGER in two's complement with no octet too many."""
    return tlv(INTEGER, value.to_bytes((value if value >= 0 else ~value).bit_length() // 8 + 1, "big", signed=True))


def boolean(value: bool) -> bytes:
    return b"\x01\x01\xff" if value else b"\x01\x01\x00"


def null() -> bytes:
    return b"\x05\x00"


def bit_string(content: bytes, *, unused: int = 0) -> bytes:
    """A BIT STRING whose last ``unused`` bits do not count; they must be zero in ``content``."""
    return tlv(BIT_STRING, bytes((unused,)), content)


def octet_string(*parts: bytes) -> bytes:
    return tlv(OCTET_STRING, *parts)


def utf8_string(text: str) -> bytes:
    return tlv(UTF8_STRING, text.encode())


def sequence(*elements: bytes) -> bytes:
    return tlv(SEQUENCE, *elements)


def set_of(elements: Iterable[bytes]) -> bytes:
    """A SET OF in DER: its elements in ascending order of their encodings (X.690 section 11.6)."""
    return tlv(SET, *sorted(elements))


def context(number: int, *parts: bytes, constructed: bool = True) -> bytes:
    """``[number]``: around whole elements when constructed (EXPLICIT, or an IMPLICIT SEQUENCE), else around content octets."""
    return tlv((0xA0 if constructed else 0x80) | number, *parts)


def time(time_ms: int) -> bytes:
    """A Time as certificates carry it: UTCTime before 2050, GeneralizedTime from then on, whole seconds (RFC 5280 4.1.2.5)."""
    return utc_time(time_ms) if time_ms < _YEAR_2050_MS else generalized_time(time_ms)


def utc_time(time_ms: int) -> bytes:
    return tlv(UTC_TIME, datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%y%m%d%H%M%SZ").encode())


def generalized_time(time_ms: int) -> bytes:
    moment = datetime.fromtimestamp(time_ms // 1000, UTC)
    return tlv(GENERALIZED_TIME, b"%04d" % moment.year, moment.strftime("%m%d%H%M%SZ").encode())


class Reader:
    """Reads the elements of ``data`` one after the other; :meth:`enter` gives a reader for what is inside one.

    Every method raises MalformedRequest when the next element is not what was asked for, and the constructor TooLarge.
    ``what`` names the structure in messages.
    """

    __slots__ = ("_data", "_depth", "_end", "_what", "position")

    def __init__(self, data: bytes, what: str = "DER", *, max_size: int = MAX_SIZE, max_depth: int = MAX_DEPTH) -> None:
        if len(data) > max_size:
            raise TooLarge(f"{what}: {len(data)} bytes are more than the {max_size} accepted")
        self._data = data
        self._what = what
        self._end = len(data)
        self._depth = max_depth
        #: Offset of the next element in the data of the outermost reader.
        self.position = 0

    def at_end(self) -> bool:
        return self.position == self._end

    def next_tag(self) -> int | None:
        """The tag octet of the next element, ``None`` at the end."""
        return self._data[self.position] if self.position < self._end else None

    def finish(self) -> None:
        """Refuse anything behind the last element read."""
        if self.position != self._end:
            raise self.malformed("there are extra bytes behind the last element")

    def malformed(self, reason: str) -> MalformedRequest:
        """The exception for ``reason``, named and placed; for callers that refuse a value themselves."""
        return MalformedRequest(f"{self._what}: {reason} (at byte {self.position})")

    def _header(self, tag: int | None) -> int:
        """Check the next element's header and step behind the element; the offset of its content."""
        data = self._data
        at = self.position
        if at + 2 > self._end:
            raise self.malformed("truncated" if at < self._end else "an element is missing")
        found = data[at]
        if tag is not None and found != tag:
            raise self.malformed(f"expected tag 0x{tag:02x}, found 0x{found:02x}")
        if found & 0x1F == 0x1F or found == 0:
            raise self.malformed(f"the tag octet 0x{found:02x} is not used here")
        length = data[at + 1]
        start = at + 2
        if length >= 0x80:
            if length == 0x80:
                raise self.malformed("an indefinite length is BER, not DER")
            size = length & 0x7F
            if size > 4:
                raise self.malformed("a length of more than four octets")
            start += size
            if start > self._end:
                raise self.malformed("truncated")
            length = int.from_bytes(data[at + 2 : start], "big")
            if length < 0x80 or not data[at + 2]:
                raise self.malformed("a length is not in its shortest form")
        if start + length > self._end:
            raise self.malformed("truncated: an element is longer than what holds it")
        self.position = start + length
        return start

    def read(self, tag: int) -> bytes:
        """The content octets of the next element, which must have this tag."""
        start = self._header(tag)
        return self._data[start : self.position]

    def raw(self, tag: int | None = None) -> bytes:
        """The next element as it is, header and content; its content is not looked at."""
        at = self.position
        self._header(tag)
        return self._data[at : self.position]

    def enter(self, tag: int) -> Reader:
        """A reader for the content of the next element, a constructed one; this reader goes on behind it."""
        start = self._header(tag)
        if self._depth <= 1:
            raise self.malformed("nested too deeply")
        inner = Reader.__new__(Reader)
        inner._data, inner._what, inner._depth = self._data, self._what, self._depth - 1
        inner.position, inner._end = start, self.position
        return inner

    def octets_since(self, position: int) -> bytes:
        """The bytes from ``position`` (an earlier value of :attr:`position`) up to here."""
        return self._data[position : self.position]

    def integer(self) -> int:
        content = self.read(INTEGER)
        if not content:
            raise self.malformed("an INTEGER without content")
        if len(content) > 1 and content[0] in (0, 0xFF) and (content[0] ^ content[1]) < 0x80:
            raise self.malformed("an INTEGER is not in its shortest form")
        return int.from_bytes(content, "big", signed=True)

    def boolean(self) -> bool:
        content = self.read(BOOLEAN)
        if content not in (b"\xff", b"\x00"):
            raise self.malformed("a BOOLEAN is neither TRUE (0xff) nor FALSE (0x00)")
        return content == b"\xff"

    def null(self) -> None:
        if self.read(NULL):
            raise self.malformed("a NULL with content")

    def oid(self) -> str:
        """The next OBJECT IDENTIFIER in dotted form."""
        return oid_text(self.read(OID))

    def octet_string(self) -> bytes:
        return self.read(OCTET_STRING)

    def bit_string(self) -> tuple[bytes, int]:
        """Content and number of unused bits at its end, which DER wants to be zero (X.690 section 11.2.1)."""
        content = self.read(BIT_STRING)
        unused = content[0] if content else 8
        if unused > 7 or (unused and (len(content) == 1 or content[-1] & (1 << unused) - 1)):
            raise self.malformed("a BIT STRING counts its unused bits wrongly")
        return content[1:], unused

    def signature(self) -> bytes:
        """A BIT STRING of whole octets, as signatures and public keys are."""
        content, unused = self.bit_string()
        if unused:
            raise self.malformed("a BIT STRING is not made of whole octets")
        return content

    def utf8_string(self) -> str:
        try:
            return self.read(UTF8_STRING).decode()
        except UnicodeDecodeError:
            raise self.malformed("a UTF8String is not UTF-8") from None

    def time(self) -> int:
        """The next UTCTime or GeneralizedTime in milliseconds, in the one form RFC 5280 section 4.1.2.5 allows for each."""
        tag = self.next_tag()
        text = self.read(GENERALIZED_TIME if tag == GENERALIZED_TIME else UTC_TIME)
        digits = text[:-1]
        if len(text) != (15 if tag == GENERALIZED_TIME else 13) or text[-1:] != b"Z" or not digits.isdigit():
            raise self.malformed("a time is not written as YYMMDDhhmmssZ or YYYYMMDDhhmmssZ")
        year = int(digits[:-10])
        if tag == UTC_TIME:
            year += 1900 if year >= 50 else 2000
        try:
            numbers = [int(digits[at : at + 2]) for at in range(len(digits) - 10, len(digits), 2)]
            moment = datetime(year, *numbers, tzinfo=UTC)  # type: ignore[misc, arg-type]
        except ValueError:
            raise self.malformed("a time that no calendar knows") from None
        return int(moment.timestamp()) * 1000


def ber_to_der(
    data: bytes, *, max_size: int = 65_536, max_depth: int = MAX_DEPTH, max_elements: int = 2048, sort_sets: bool = True
) -> bytes:
    """One BER element in DER: definite shortest lengths, strings in one piece, TRUE as 0xff, each SET in order.

    Raises MalformedRequest or TooLarge. The values stay what they were; a SET (as opposed to SET OF) is sorted as well,
    which DER wants too as long as its members have different tags. ``sort_sets`` false leaves their order alone.
    """
    if len(data) > max_size:
        raise TooLarge(f"{len(data)} bytes of BER are more than the {max_size} accepted")
    encoded, end = _BerNormaliser(data, max_elements, sort_sets).element(0, len(data), max_depth)
    if end != len(data):
        raise MalformedRequest("BER: there are extra bytes behind the last element")
    return encoded


def first_element(data: bytes) -> bytes:
    """The first element inside the outermost one, as its bytes stand in ``data`` (BER, as :func:`ber_to_der` accepted it)."""
    normaliser = _BerNormaliser(data, 2048, False)
    _, start, _ = normaliser.header(0, len(data))
    _, end = normaliser.element(start, len(data), MAX_DEPTH)
    return data[start:end]


class _BerNormaliser:
    def __init__(self, data: bytes, max_elements: int, sort_sets: bool) -> None:
        self._data = data
        self._elements_left = max_elements
        self._sort_sets = sort_sets

    def element(self, at: int, end: int, depth: int) -> tuple[bytes, int]:
        """The element at ``at`` in DER, and the offset behind it in BER."""
        self._elements_left -= 1
        if depth <= 0 or self._elements_left < 0:
            raise MalformedRequest("BER: nested too deeply or too many elements")
        tag, start, stop = self.header(at, end)
        if not tag & 0x20:
            if stop is None:
                raise MalformedRequest("BER: an indefinite length needs a constructed element")
            content = self._data[start:stop]
            if tag == BOOLEAN and len(content) == 1 and content != b"\x00":
                content = b"\xff"
            return tlv(tag, content), stop
        children: list[bytes] = []
        at = start
        while at < end if stop is None else at < stop:
            if stop is None and self._data[at : at + 2] == b"\x00\x00":
                return self._constructed(tag, children), at + 2
            child, at = self.element(at, end if stop is None else stop, depth - 1)
            children.append(child)
        if stop is None:
            raise MalformedRequest("BER: truncated, the end-of-contents octets are missing")
        return self._constructed(tag, children), stop

    def header(self, at: int, end: int) -> tuple[int, int, int | None]:
        """Tag, offset of the content, and offset behind it (``None`` for an indefinite length)."""
        data = self._data
        if at + 2 > end:
            raise MalformedRequest("BER: truncated")
        tag, length = data[at], data[at + 1]
        if tag & 0x1F == 0x1F or tag == 0:
            raise MalformedRequest(f"BER: the tag octet 0x{tag:02x} is not used here")
        start = at + 2
        if length == 0x80:
            return tag, start, None
        if length > 0x80:
            start += length & 0x7F
            if length & 0x7F > 8 or start > end:
                raise MalformedRequest("BER: a length is too long or truncated")
            length = int.from_bytes(data[at + 2 : start], "big")
        if start + length > end:
            raise MalformedRequest("BER: truncated, an element is longer than what holds it")
        return tag, start, start + length

    def _constructed(self, tag: int, children: list[bytes]) -> bytes:
        universal = tag & 0x1F if tag & 0xC0 == 0 else 0
        if universal in (SEQUENCE & 0x1F, SET & 0x1F) or not universal:
            return tlv(tag, *sorted(children)) if tag == SET and self._sort_sets else tlv(tag, *children)
        return tlv(universal, *self._pieces(universal, children))

    def _pieces(self, universal: int, children: list[bytes]) -> list[bytes]:
        """The contents of a string that came in pieces; each piece is a primitive string of the same type by now."""
        if universal not in _STRINGS:
            raise MalformedRequest(f"BER: type {universal} cannot be constructed")
        contents: list[bytes] = []
        unused = 0
        for child in children:
            piece = Reader(child, "BER").read(universal)
            if universal == BIT_STRING:
                if unused or not piece:
                    raise MalformedRequest("BER: only the last piece of a BIT STRING may have unused bits")
                unused = piece[0]
                piece = piece[1:]
            contents.append(piece)
        return [bytes((unused,)), *contents] if universal == BIT_STRING else contents


#: Universal types that BER may cut into pieces (X.690 sections 8.6, 8.7, 8.23).
_STRINGS = frozenset((BIT_STRING, OCTET_STRING, UTF8_STRING, 0x12, PRINTABLE_STRING, 0x14, IA5_STRING, 0x1A, 0x1C, 0x1E))

"""What the REST interface answers about certificates, journals and proofs."""

from __future__ import annotations

import base64

from gateway.errors import Conflict, MalformedRequest, NotFound
from gateway.journal.canonical import JsonValue
from gateway.journal.checkpoint import open_note
from gateway.journal.merkle import inclusion_ranges
from gateway.journal.proof import Proof, RecordProof, range_root
from gateway.journal.records import Issued, decode
from gateway.journal.tip import serial_column
from gateway.pki.crl import Reason
from gateway.web.unix_rest import serial_in
from sync.central.revocations import find_certificate, words
from sync.central.routes import JSON_TYPE, NUMBER, Call, Field, Parts, Reply, Route
from sync.central.rows import ISSUED, Certificate, Journal, Order
from sync.central.status import certificate_der
from sync.central.store import MOST_ROWS, CentralStore, Search
from sync.central.views import certificate_view, opaque, order_view, parts_of, record_view
from sync.conflicts import merged

#: Of a page, unless less is asked for.
PAGE = 100
_ISSUER = Field("issuer", "key identifier of the CA, where several have this serial number")
LIMIT = Field("limit", f"of the page, {PAGE} unless it is said, {MOST_ROWS} at most", NUMBER)
AFTER = Field("after", "the next of the page before")


def limit_of(call: Call) -> int:
    return min(max(call.number("limit", PAGE), 1), MOST_ROWS)


def page(items: list[JsonValue], following: str) -> Reply:
    return Reply({"items": items, "next": following})


# Certificates.


async def search(parts: Parts, call: Call) -> Reply:
    serial, after = call.text("serial"), call.text("after")
    wanted = Search(
        text=call.text("text"), serial=_serial_column(serial) if serial else b"", device=call.text("device"),
        spki=_hex(call.text("spki")), origin=call.text("origin"), profile=call.text("profile"),
    )  # fmt: skip
    begin = tuple(map(_hex, parts_of(after, 2))) if after else ()
    async with parts.store.transaction() as t:
        found = await t.search(wanted, after=(begin[0], begin[1]) if begin else None, limit=limit_of(call))
        items: list[JsonValue] = [certificate_view(row, merged(*await words(t, row))) for row in found.certificates]
    return page(items, opaque(found.after[0].hex(), found.after[1].hex()) if found.after else "")


async def certificate(parts: Parts, call: Call) -> Reply:
    async with parts.store.transaction() as t:
        row = await find_certificate(t, serial_in(call.path["serial"]), _hex(call.text("issuer")))
        view = certificate_view(row, merged(*await words(t, row)))
        view["der"] = base64.b64encode(await certificate_der(t, row)).decode() if row.state == ISSUED else ""
        orders = await t.select(Order, serial=row.serial, issuer=row.issuer)
        view["commands"] = [order_view(each) for each in sorted(orders, key=lambda each: each.made)]
    return Reply(view)


async def revoke(parts: Parts, call: Call) -> Reply:
    try:
        reason = Reason(call.text("reason"))
    except ValueError as error:
        raise MalformedRequest("this is no revocation reason of RFC 5280") from error
    return await _revoke(parts, call, reason)


async def hold(parts: Parts, call: Call) -> Reply:
    return await _revoke(parts, call, Reason.CERTIFICATE_HOLD)


async def _revoke(parts: Parts, call: Call, reason: Reason) -> Reply:
    since = call.number("revoked_at", 0)
    row, status = await parts.revocations.revoke(
        serial_in(call.path["serial"]), reason, call.operator, issuer=_hex(call.text("issuer")), revoked_at_ms=since or None
    )  # fmt: skip
    return Reply(certificate_view(row, status))


async def release(parts: Parts, call: Call) -> Reply:
    row, status = await parts.revocations.release(
        serial_in(call.path["serial"]), call.operator, issuer=_hex(call.text("issuer"))
    )  # fmt: skip
    return Reply(certificate_view(row, status))


# Journals.


async def records(parts: Parts, call: Call) -> Reply:
    journal = await journal_of(parts.store, call.path["origin"])
    after = call.text("after")
    if after and not (after.isdecimal() and len(after) < 17):
        raise MalformedRequest("this is no place that central gave out")
    start, most = min(int(after or 0), journal.size), limit_of(call)
    async with parts.store.transaction() as t:
        kept = await t.records(journal, start, most)
    following = kept[-1].seq + 1 if kept else start
    return page([record_view(each) for each in kept], str(following) if len(kept) == most else "")


async def receipt(parts: Parts, call: Call) -> Reply:
    journal = await journal_of(parts.store, call.path["origin"])
    return Reply({"verifier_key": journal.vkey, "size": journal.size, "receipt": journal.receipt})


async def proof(parts: Parts, call: Call) -> Reply:
    """The file that ``docs/check_proof.py`` checks, under central's newest receipt."""
    journal = await journal_of(parts.store, call.path["origin"])
    if not call.path["seq"].isdecimal() or len(call.path["seq"]) > 16:
        raise MalformedRequest("a record is named by its number")
    made = await prove(parts.store, journal, int(call.path["seq"]))
    return Reply(made.to_json().encode(), media=JSON_TYPE)


async def prove(store: CentralStore, journal: Journal, seq: int) -> Proof:
    """Raises NotFound for a record that is not here, Conflict before there is a receipt."""
    if not journal.receipt:
        raise Conflict("there is no receipt for this journal yet")
    size = open_note(journal.receipt, journal.vkey).size
    seqs = [seq]
    body = await _body(store, journal, seq, size)
    payload = decode(body).payload
    if isinstance(payload, Issued):
        seqs.append(payload.intent)

    async def leaves(start: int, stop: int) -> list[bytes]:
        async with store.transaction() as t:
            return await t.leaves(journal, start, stop)

    proven = []
    for each in seqs:
        path = [await range_root(leaves, start, stop) for start, stop in inclusion_ranges(each, size)]
        proven.append(RecordProof(each, await _body(store, journal, each, size), tuple(path)))
    return Proof.of(journal.receipt, journal.vkey, proven)


async def _body(store: CentralStore, journal: Journal, seq: int, size: int) -> bytes:
    async with store.transaction() as t:
        found = await t.records_at(journal, [seq]) if seq < size else []
    if not found:
        raise NotFound(f"central has no record {seq} of {journal.origin} under a receipt")
    return found[0].body


async def journal_of(store: CentralStore, origin: str) -> Journal:
    """Raises NotFound."""
    async with store.transaction() as t:
        journal = await t.find(Journal, origin)
    if journal is None:
        raise NotFound(f"there is no gateway {origin[:80]!r}")
    return journal


async def prove_certificate(parts: Parts, call: Call) -> Reply:
    async with parts.store.transaction() as t:
        row: Certificate = await find_certificate(t, serial_in(call.path["serial"]), _hex(call.text("issuer")))
    made = await prove(parts.store, await journal_of(parts.store, row.origin), row.closing)
    return Reply(made.to_json().encode(), media=JSON_TYPE)


def _serial_column(text: str) -> bytes:
    try:
        return serial_column(f"{serial_in(text):x}")
    except ValueError as error:
        raise MalformedRequest("a serial number has at most 20 octets") from error


def _hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise MalformedRequest("hexadecimal digits are expected") from error


_REASON = Field("reason", "of RFC 5280, e.g. keyCompromise", required=True)
_SINCE = Field("revoked_at", "since when, UTC ms; now unless it is said", NUMBER)
ROUTES = (
    Route(
        "GET", "/certificates", search, "Search the certificates of all gateways", "a page, newest first; may be short",
        query=(
            Field("text", "anywhere in subject or subject alternative names"), Field("serial", "hex"),
            Field("device", "serialNumber of the subject"), Field("spki", "SHA-256 of the SubjectPublicKeyInfo, hex"),
            Field("origin", "of the gateway"), Field("profile", "its name"), LIMIT, AFTER,
        ),
    ),
    Route(
        "GET", "/certificates/{serial}", certificate, "Read a certificate", "the certificate with its DER", query=(_ISSUER,)
    ),
    Route(
        "GET", "/certificates/{serial}/proof", prove_certificate, "Prove that a certificate is in the journal",
        "a proof file for docs/check_proof.py", query=(_ISSUER,),
    ),
    Route(
        "POST", "/certificates/{serial}/revoke", revoke, "Revoke a certificate, whichever gateway issued it",
        "the certificate as relying parties are told now", body=(_REASON, _SINCE, _ISSUER),
    ),
    Route(
        "POST", "/certificates/{serial}/hold", hold, "Put a certificate on hold",
        "the certificate as relying parties are told now", body=(_SINCE, _ISSUER),
    ),
    Route(
        "POST", "/certificates/{serial}/release", release, "Lift a hold", "the certificate as relying parties are told now",
        body=(_ISSUER,),
    ),
    Route(
        "GET", "/gateways/{origin}/records", records, "Download a journal, record by record", "a page of records as base64",
        query=(LIMIT, AFTER),
    ),
    Route("GET", "/gateways/{origin}/receipt", receipt, "The newest cosigned checkpoint", "a signed note, and with which key"),
    Route(
        "GET", "/gateways/{origin}/proofs/{seq}", proof, "Prove that a record is in the journal",
        "a proof file for docs/check_proof.py",
    ),
)  # fmt: skip

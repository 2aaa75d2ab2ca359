"""All that stations can ask, as one table."""

from __future__ import annotations

from typing import Final, TypeAlias

from gateway.web import routes
from gateway.web.routes import ANYTHING, NUMBER, TRUTH, Field
from provisioning.api import shift, shop_answers, unit_answers
from provisioning.api.visit import Visit
from provisioning.orders import MOST_OCTETS

Route: TypeAlias = routes.Route[Visit]
_MOST_CSR: Final = 65_536
_CHAIN: Final = "the certificate and its issuers up to the root: PEM, PKCS #7 or JSON, by Accept"
_UNIT: Final = "the unit; next says what its order wants then"
_CHIP: Final = Field(
    "chip", "the chip number of the device in hand: where it is not the unit's, the unit is put into quarantine"
)
_DETAIL: Final = Field("detail", "for the records, at most 300 characters")
_STORED: Final = Field("digest", "SHA-256 of the certificate (DER) as the device stores it, hex")
_DIGEST: Final = Field("digest", "SHA-256 of what was done, hex: for the records")
_REASON: Final = (Field("reason", "for the records", required=True),)


def _report(name: str, answer: unit_answers.Answer, summary: str, *more: Field) -> Route:
    return Route("POST", f"/units/{{unit}}/{name}", answer, summary, _UNIT, body=(*more, _DETAIL, _CHIP))


def _end(name: str, answer: unit_answers.Answer, summary: str) -> Route:
    return Route("POST", f"/units/{{unit}}/{name}", answer, summary, _UNIT, body=_REASON)


ROUTES: Final[tuple[Route, ...]] = (
    Route(
        "POST", "/units", unit_answers.open_unit, "Open the unit of a device; asked again it is the same one", _UNIT,
        body=(
            Field("order", "under which it is made", required=True),
            Field("serial", "the product's serial number; left out where the order gives out numbers"),
            Field("chip", "what its maker burned into the device: 1 to 128 printable characters"),
            Field("driver", "what kind of device the station works on, where the order wants one kind"),
            Field("recipe", "SHA-256 of the recipe that the station follows, hex"),
        ),
    ),
    Route(
        "GET", "/units", shop_answers.list_units, "List open units, or those that came to one end", "a page; may be short",
        query=(
            Field("order", "only of this order"), Field("state", "only in this state; an end gives units that are over"),
            Field("cursor", "the next of the page before"),
            Field("limit", "of the page, 100 unless it is said, at most 500", NUMBER),
        ),
    ),
    Route(
        "GET", "/units/{unit}", unit_answers.show, "Read a unit, or wait until it moves", _UNIT,
        query=(
            Field("wait", "seconds, at most 60", NUMBER),
            Field("after", "the seq that is known; the present one unless it is said", NUMBER),
        ),
    ),
    Route(
        "POST", "/units/{unit}/csr", unit_answers.certify, "Send the device's request, get its chain", _CHAIN,
        octets=_MOST_CSR, takes="application/pkcs10", media=unit_answers.PEM_TYPE,
    ),
    Route("GET", "/units/{unit}/chain", unit_answers.chain, "The chain again", _CHAIN, media=unit_answers.PEM_TYPE),
    Route(
        "GET", "/units/{unit}/challenge", unit_answers.challenge, "What the device must sign to be verified",
        "32 octets in base64, for one use; an earlier one does not count any more",
    ),
    _report("written", unit_answers.written, "The device has confirmed that certificate and chain are on its storage", _STORED),
    _report(
        "verified", unit_answers.verified, "After a reset the device holds its certificate and proves its key", _STORED,
        Field("challenge", "as it was given, base64"),
        Field("signature", "of the device over the challenge's octets, by the usual algorithm of its key; base64"),
    ),
    _report("locking", unit_answers.locking, "The irreversible step comes next"),
    _report(
        "locked", unit_answers.locked, "The device is locked", _DIGEST,
        Field("absent", "true for a device that has nothing to lock", TRUTH),
    ),
    _report(
        "labelled", unit_answers.labelled, "The label is on the device", _DIGEST,
        Field("again", "true counts another print", TRUTH),
    ),
    _report(
        "confirmed", unit_answers.confirmed, "The unit is done; its production record is signed",
        Field("model", "of the device"),
        Field("facts", "what the device says of itself, an object of texts; for the production record", ANYTHING),
    ),
    _end("scrap", unit_answers.scrap, "Give the unit up for good; its certificate is revoked"),
    _end("rework", unit_answers.rework, "Give the unit up; the device may begin anew"),
    _end("release", unit_answers.release, "Give up a unit without a certificate; its credit comes back"),
    _end("quarantine", unit_answers.quarantine, "Set the unit aside until a person decides"),
    Route("GET", "/orders", shop_answers.list_orders, "List the orders for this station", "all of them, with their balance"),
    Route("GET", "/orders/{order}", shop_answers.show_order, "Read an order", "the order with its balance"),
    Route("POST", "/orders", shop_answers.import_order, "Bring a signed work order", "the order", octets=MOST_OCTETS),
    Route("GET", "/ports", shop_answers.list_ports, "The gateway's own ports", "all of them"),
    Route(
        "GET", "/events", shop_answers.events, "Watch units and ports (server-sent events); goes on after Last-Event-ID",
        "events unit, port, lost", media=shop_answers.EVENTS_TYPE,
    ),
    Route(
        "GET", "/shift-report", shift.report, "What was done under each order by each station since a time",
        "rows, and whether each order's account adds up",
        query=(
            Field("since", "UTC ms", NUMBER, required=True), Field("until", "UTC ms; now unless it is said", NUMBER),
            Field("format", "json or csv"),
        ),
    ),
)  # fmt: skip

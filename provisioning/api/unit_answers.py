"""One unit: opened, given its certificate, moved on by what its station reports, ended."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Final, TypeAlias

from cryptography import x509

from gateway.errors import Conflict, Forbidden, MalformedRequest, WrongDevice
from gateway.journal.canonical import JsonValue
from gateway.journal.statements import octets_of
from gateway.pki import cms
from gateway.pki.algorithms import PublicKey, default_algorithm, signature_is_valid
from gateway.protocols.est.codec import decode_request
from gateway.web.routes import Call, Reply
from provisioning.api.challenges import LIFETIME_MS
from provisioning.api.visit import (
    NotAcceptable,
    Visit,
    check_going,
    check_not_at_port,
    chip_in,
    digest_in,
    href,
    reason_in,
)  # fmt: skip
from provisioning.device import Csr, Delivery, Device, KeyOrigin
from provisioning.exports import pem
from provisioning.orders import WorkOrder
from provisioning.station import State, Unit, check_move
from provisioning.units import Place

#: RFC 8555 section 9.1; RFC 8551 section 3.2.1.
PEM_TYPE: Final = "application/pem-certificate-chain"
PKCS7_TYPE: Final = "application/pkcs7-mime; smime-type=certs-only"
JSON_TYPE: Final = "application/json"
_MOST_FACTS, _MOST_FACT = 32, 200
_LONGEST_WAIT_S: Final = 60

_Deed: TypeAlias = Callable[[Visit, Call, Unit, WorkOrder], Awaitable[Unit]]
Answer: TypeAlias = Callable[[Visit, Call], Awaitable[Reply]]


async def open_unit(visit: Visit, call: Call) -> Reply:
    """The device's open unit, or a new one; credit is taken when this is answered."""
    shop, serial, chip = visit.shop, call.text("serial"), chip_in(call)
    recipe = digest_in(call, "recipe").hex()
    if not serial and not chip:
        raise MalformedRequest("give serial or chip, or both: without either, asking again would begin another unit")
    order = visit.order(call.text("order"))
    async with AsyncExitStack() as turns:
        for name in sorted(f"{kind}:{text}" for kind, text in (("chip", chip), ("serial", serial)) if text):
            await turns.enter_async_context(shop.turns.of(name))
        for known in (shop.units.by_chip(chip), shop.units.by_serial(serial)):
            if known is None:
                continue
            if known.order != order.id:
                raise Conflict(f"this device is being made under order {known.order}, not under {order.id}")
            check_not_at_port(known)
            if known.chip and not chip:
                raise Conflict(f"{known.serial} belongs to a device with a chip number: say which device this is")
        place = Place(visit.station.name, driver=call.text("driver"), recipe=recipe)
        return visit.reply(await shop.units.reserve(order.id, place, serial=serial, chip=chip))


async def show(visit: Visit, call: Call) -> Reply:
    """At once, or as soon as its record ``after`` is not its last one any more."""
    unit = await visit.find(call)
    wait, after = min(call.number("wait", 0), _LONGEST_WAIT_S), call.number("after", unit.seq)
    if wait and unit.is_open and unit.seq <= after:
        await visit.shop.feed.moved(unit.id, wait)
        unit = await visit.find(call)
    return visit.reply(unit)


async def certify(visit: Visit, call: Call) -> Reply:
    """KEYED and ISSUED in one call. The same request, or another one for the same key, gets the same certificate."""
    _media(call)
    der = decode_request(call.content, call.head.get("Content-Type"), call.head.get("Content-Transfer-Encoding"))
    async with visit.turn(call) as found:
        unit = found
        if unit.key_origin is not KeyOrigin.DEVICE:
            raise Forbidden(f"order {unit.order} has its keys made by the gateway, which loads them at its own ports only")
        check_going(unit)
        check_not_at_port(unit)
        csr = Csr(der)
        unit = await visit.shop.units.keyed(unit, csr)
        if unit.state is not State.CONFIRMED:
            unit = await visit.shop.units.issue(unit, csr)
    return await _delivered(visit, call, unit)


async def chain(visit: Visit, call: Call) -> Reply:
    unit = await visit.find(call)
    check_going(unit)
    return await _delivered(visit, call, unit)


async def challenge(visit: Visit, call: Call) -> Reply:
    unit = await visit.find(call)
    check_going(unit)
    given = visit.shop.challenges.give(unit.id)
    return Reply({"challenge": base64.b64encode(given).decode(), "seconds": LIFETIME_MS // 1000})


def _media(call: Call) -> str:
    """The form that the station wants. Raises NotAcceptable."""
    wanted = call.head.get("Accept", "").lower()
    for media in (PEM_TYPE, PKCS7_TYPE, JSON_TYPE):
        if media.partition(";")[0] in wanted:
            return media
    if not wanted or "*/*" in wanted or "application/*" in wanted:
        return PEM_TYPE
    raise NotAcceptable(f"certificates are given as {PEM_TYPE}, application/pkcs7-mime or {JSON_TYPE}")


async def _delivered(visit: Visit, call: Call, unit: Unit) -> Reply:
    media, order = _media(call), visit.shop.units.orders.get(unit.order)
    delivery = await visit.shop.units.delivery(unit)
    certificates = (delivery.certificate, *delivery.chain)
    head = {"Content-Location": f"{href(unit)}/chain", "Vary": "Accept"}
    if media == PEM_TYPE:
        return Reply("".join(map(pem, certificates)).encode(), media=media, head=head)
    if media == PKCS7_TYPE:
        return Reply(cms.certs_only(certificates), media=media, head=head)
    ticket = await visit.shop.finisher.ticket(order, unit) if order.ticket else b""
    content: dict[str, JsonValue] = {
        "unit": visit.shown(unit), "certificate": _base64(delivery.certificate),
        "chain": [_base64(each) for each in delivery.chain], "sha256": hashlib.sha256(delivery.certificate).hexdigest(),
        "ticket": _base64(ticket),
    }  # fmt: skip
    return Reply(content, head=head)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# Reports: what the station did at the device.


def report(to: State, deed: _Deed) -> Answer:
    """The answer to "the unit has come to ``to``". Told again it changes nothing, as long as the unit goes on."""

    async def answer(visit: Visit, call: Call) -> Reply:
        async with visit.turn(call) as unit:
            check_going(unit)
            await visit.check_device(call, unit)
            reprint = to is State.LABELLED and call.body.get("again") is True and unit.is_open
            if any(state is to for state, _ in unit.times) and not reprint:
                return visit.reply(unit)
            check_not_at_port(unit)
            return visit.reply(await deed(visit, call, unit, visit.shop.units.orders.get(unit.order)))

    return answer


async def _written(visit: Visit, call: Call, unit: Unit, order: WorkOrder) -> Unit:
    digest = await _digest_of_certificate(visit, call, unit)
    return await visit.shop.units.move(unit, State.WRITTEN, visit.station.name, detail=call.text("detail"), digest=digest)


async def _verified(visit: Visit, call: Call, unit: Unit, order: WorkOrder) -> Unit:
    """What counts: the device's signature over a challenge of this unit, by the key in its certificate; or, where the order
    says so, the digest of the certificate that was read back after a reset."""
    if unit.state is not State.WRITTEN:
        raise Conflict(f"unit {unit.id} is {unit.state.value}; it is verified after it was written")
    digest = await _digest_of_certificate(visit, call, unit)
    delivery, detail = await visit.shop.units.delivery(unit), call.text("detail")
    if "signature" in call.body or "challenge" in call.body:
        await _check_signature(visit, call, unit, delivery)
    elif order.proof != "read-back":
        raise Conflict(f"order {order.id} wants the device's signature over a challenge (challenge, signature)")
    elif not digest:
        raise MalformedRequest("digest is missing: the SHA-256 of the certificate that was read back from the device")
    else:
        detail = f"the certificate was read back; the key was not proved. {detail}".strip()
    by, proven = visit.station.name, hashlib.sha256(delivery.certificate).digest()
    return await visit.shop.units.verified(unit, by, proven, detail)


async def _check_signature(visit: Visit, call: Call, unit: Unit, delivery: Delivery) -> None:
    """Raises Conflict for a challenge that is none; WrongDevice, with the unit in quarantine, for a signature that is none."""
    challenge_octets, signature = octets_of(dict(call.body), "challenge"), octets_of(dict(call.body), "signature")
    if not signature:
        raise MalformedRequest("signature is empty")
    visit.shop.challenges.take(unit.id, challenge_octets)
    key = x509.load_der_x509_certificate(delivery.certificate).public_key()
    if isinstance(key, PublicKey) and signature_is_valid(key, default_algorithm(key), signature, challenge_octets):
        return
    reason = "the device's key is not the one in its certificate"
    await visit.shop.units.quarantine(unit, reason, visit.station.name)
    raise WrongDevice(reason)


async def _digest_of_certificate(visit: Visit, call: Call, unit: Unit) -> bytes:
    """What the device says it stores, where the station tells. Raises Conflict where that is another certificate."""
    digest = digest_in(call)
    if digest and digest != hashlib.sha256((await visit.shop.units.delivery(unit)).certificate).digest():
        raise Conflict("this is not the SHA-256 of the unit's certificate (DER): write it again and read it back")
    return digest


async def _locking(visit: Visit, call: Call, unit: Unit, order: WorkOrder) -> Unit:
    return await visit.shop.units.move(unit, State.LOCKING, visit.station.name, detail=call.text("detail"))


async def _locked(visit: Visit, call: Call, unit: Unit, order: WorkOrder) -> Unit:
    detail = call.text("detail")
    if unit.state is State.VERIFIED:
        if call.body.get("absent") is not True:
            raise Conflict("report locking before the irreversible step; a device that has no lock is locked with absent: true")
        detail = f"this kind of device has no lock. {detail}".strip()
    by, digest = visit.station.name, digest_in(call)
    return await visit.shop.units.move(unit, State.LOCKED, by, detail=detail, digest=digest)


async def _labelled(visit: Visit, call: Call, unit: Unit, order: WorkOrder) -> Unit:
    _check_lock(unit, order)
    by, digest = visit.station.name, digest_in(call)
    return await visit.shop.units.move(unit, State.LABELLED, by, detail=call.text("detail"), digest=digest)


async def _confirmed(visit: Visit, call: Call, unit: Unit, order: WorkOrder) -> Unit:
    """The production record is written first, so that no unit is confirmed without one."""
    device = Device(unit.chip, unit.serial, call.text("model"), _facts_in(call))
    _check_lock(unit, order)
    if order.label and not unit.prints:
        raise Conflict(f"order {order.id} wants a label on the device before it is confirmed")
    check_move(unit, State.CONFIRMED)
    digest = await visit.shop.finisher.conclude(order, unit, device)
    return await visit.shop.units.confirm(unit, visit.station.name, digest)


def _check_lock(unit: Unit, order: WorkOrder) -> None:
    if order.lock and not any(state is State.LOCKED for state, _ in unit.times):
        raise Conflict(f"order {order.id} wants the device locked first; unit {unit.id} is {unit.state.value}")


def _facts_in(call: Call) -> dict[str, str]:
    """What the device says of itself, for the production record. Raises MalformedRequest."""
    facts = call.body.get("facts", {})
    if not isinstance(facts, dict) or len(facts) > _MOST_FACTS:
        raise MalformedRequest(f"facts must be an object of at most {_MOST_FACTS} texts")
    found = {}
    for name, value in facts.items():
        if not isinstance(value, str) or not all(0 < len(text) <= _MOST_FACT and text.isprintable() for text in (name, value)):
            raise MalformedRequest(f"facts holds printable texts of 1 to {_MOST_FACT} characters")
        found[name] = value
    return found


written, verified, locking = report(State.WRITTEN, _written), report(State.VERIFIED, _verified), report(State.LOCKING, _locking)
locked, labelled = report(State.LOCKED, _locked), report(State.LABELLED, _labelled)
confirmed = report(State.CONFIRMED, _confirmed)


# Ends, and quarantine.


def end(to: State) -> Answer:
    """The answer to "give this unit up". A certificate is revoked in the same transaction."""

    async def answer(visit: Visit, call: Call) -> Reply:
        reason = reason_in(call)
        async with visit.turn(call) as unit:
            if not unit.is_open:
                if unit.state is to or (unit.state is State.RELEASED and not unit.certificate):
                    return visit.reply(unit)
                raise Conflict(f"unit {unit.id} is over: {unit.state.value}")
            return visit.reply(await visit.shop.units.give_up(unit, to, visit.station.name, reason))

    return answer


async def quarantine(visit: Visit, call: Call) -> Reply:
    reason = reason_in(call)
    async with visit.turn(call) as unit:
        if not unit.is_open:
            raise Conflict(f"unit {unit.id} is over: {unit.state.value}")
        return visit.reply(await visit.shop.units.quarantine(unit, reason, visit.station.name))


scrap, rework, release = end(State.SCRAPPED), end(State.REWORKED), end(State.RELEASED)

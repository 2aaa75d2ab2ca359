"""Units made durable: every move of a unit is one transaction of the journal, whoever asks for it.

The supervisor of the ports, the stations' REST interface and the file drop all move units through this one class. It holds
the open units in memory, as the journal has them; the journal itself settles who wins where two move one unit at once.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from gateway.authority.authority import Authority
from gateway.authority.quota import Exhausted
from gateway.authority.requests import (
    EnrollmentRequest,
    Issued,
    Lane,
    Operation,
    Pending,
    Refused,
    Requester,
    RequesterKind,
    unit_key,
)  # fmt: skip
from gateway.errors import Conflict, Forbidden, IntegrityError, NotFound, NotReady, QuotaExhausted, Unavailable, WrongDevice
from gateway.journal import records
from gateway.journal.certificates import certificate_of
from gateway.journal.line_records import (
    KeyErased,
    UnitEnded,
    UnitKeyed,
    UnitMoved,
    UnitReserved,
    chip_claim,
    end_claim,
    key_claim,
    serial_claim,
    unit_claim,
)
from gateway.journal.records import Payload, Record
from gateway.pki.crl import Reason
from gateway.pki.csr import CertificationRequest, read_csr
from provisioning.device import Csr, Delivery, KeyOrigin
from provisioning.idevid import named
from provisioning.order_book import Balance, OrderBook, order_quota
from provisioning.orders import WorkOrder
from provisioning.station import CERTIFIED, State, Unit, advance, begin, check_move

_log = logging.getLogger(__name__)
PROTOCOL = "line"
_DETAIL_LENGTH = 300


@dataclass(frozen=True, slots=True)
class Place:
    """Where a unit is worked on. ``station`` names it in the records; ``recipe`` is the SHA-256 of the recipe in use, hex."""

    station: str
    port: str = ""
    driver: str = ""
    recipe: str = ""


class Units:
    """The open units. Raises Unavailable and its kinds wherever the journal does."""

    def __init__(self, authority: Authority, orders: OrderBook) -> None:
        self._authority, self.orders = authority, orders
        self._journal, self._ledger, self._clock = authority.journal, authority.ledger, authority.clock
        self._units: dict[str, Unit] = {}
        self._chips: dict[str, str] = {}  # chip and serial number -> unit, of those that are open
        self._serials: dict[str, str] = {}
        self._watchers: list[Callable[[Unit], None]] = []

    @classmethod
    async def load(cls, authority: Authority, orders: OrderBook) -> Units:
        """Take up every unit that is open. Raises IntegrityError."""
        units = cls(authority, orders)
        for seq in authority.journal.head.open_units.values():
            units._index(await units._read(seq))
        return units

    @property
    def open(self) -> Mapping[str, Unit]:
        return MappingProxyType(self._units)

    def watch(self, watcher: Callable[[Unit], None]) -> None:
        """Call ``watcher`` with every unit that moved; it must be quick and must not raise."""
        self._watchers.append(watcher)

    def by_chip(self, chip: str) -> Unit | None:
        return self._units.get(self._chips.get(chip, ""))

    def by_serial(self, serial: str) -> Unit | None:
        return self._units.get(self._serials.get(serial, ""))

    async def get(self, name: str) -> Unit:
        """The unit of this name, open or over. Raises NotFound."""
        if name in self._units:
            return self._units[name]
        found = await self._journal.claimed(unit_claim(name), end_claim(name))
        seq = found.get(end_claim(name))
        if seq is None:
            raise NotFound(f"there is no unit {name[:100]!r}")
        return await self._read(seq)

    async def latest_of(self, serial: str) -> Unit | None:
        """The last unit that was begun with this serial number."""
        _, unit = await self._attempts(lambda attempt: serial_claim(serial, attempt))
        return unit

    async def latest_with(self, chip: str) -> Unit | None:
        """The last unit that was begun with this device."""
        _, unit = await self._attempts(lambda attempt: chip_claim(chip, attempt))
        return unit

    async def _read(self, seq: int) -> Unit:
        """The unit whose chain ends, for now, with record ``seq``."""
        chain: list[Record] = []
        while True:
            record = await self._journal.get(seq)
            if record is None:
                raise IntegrityError(f"record {seq} of a unit is missing")
            chain.append(record)
            if isinstance(record.payload, UnitReserved):
                break
            if not isinstance(record.payload, UnitKeyed | UnitMoved | UnitEnded):
                raise IntegrityError(f"record {seq} is none of a unit")
            seq = record.payload.previous
        unit = begin(chain.pop())
        while chain:
            unit = advance(unit, chain.pop())
        return unit

    # Beginning

    async def reserve(self, order_id: str, place: Place, *, serial: str = "", chip: str = "") -> Unit:
        """The open unit of this device, or a new one: credit is taken and the serial number belongs to it when this returns.

        ``serial`` is empty where the order gives out numbers. Raises NotFound or Forbidden (order), QuotaExhausted (credit used
        up), Conflict (the device or number has its identity already), WrongDevice (number and chip belong to different units;
        an open one is put into quarantine).
        """
        order = self.orders.get(order_id)
        if not order.is_for(place.station):  # before it can put anybody's unit into quarantine
            raise Forbidden(f"order {order.id} is not for station {place.station}")
        known = await self._known(serial, chip, place)
        if known is not None:
            return known
        self.orders.in_force(order_id)
        order.check_use(station=place.station, driver=place.driver, recipe=place.recipe, now_ms=self._clock.now_ms())
        serial = self.orders.check_serial(order, serial) if serial else ""
        quota = (order_quota(order.id),)
        try:
            self._ledger.reserve(quota)
        except Exhausted as error:
            raise QuotaExhausted(f"the credit of order {order.id}, {order.credit}, is used up") from error
        try:
            serial, attempt, chip_attempt = await self._numbers(order, serial, chip)
            (record,) = await self._journal.append(
                UnitReserved(
                    unit=f"{order.id}/{serial}/{attempt}", order=order.id, serial=serial, station=place.station, quota=quota,
                    attempt=attempt, key_origin=order.key_origin.value, chip=chip, chip_attempt=chip_attempt, port=place.port,
                    driver=place.driver,
                )
            )  # fmt: skip
        except BaseException:
            self._ledger.release(quota)
            raise
        self._ledger.commit(quota)
        return self._adopt(begin(record))

    async def _known(self, serial: str, chip: str, place: Place) -> Unit | None:
        """The open unit of this very device. Raises WrongDevice where the device is not the one of the unit."""
        by_chip, by_serial = self.by_chip(chip), self.by_serial(serial)
        unit = by_chip or by_serial
        if unit is None:
            return None
        if by_serial is not None and by_serial is not by_chip and chip != by_serial.chip:
            what = f"device {chip} says it is {serial}, which belongs to device {by_serial.chip or 'without a chip number'}"
            await self.quarantine(by_serial, what, place.station)
            raise WrongDevice(what)
        if serial and by_chip is not None and by_chip.serial != serial:
            raise WrongDevice(f"this device is being made as {by_chip.serial}, not as {serial}")
        return unit

    async def _numbers(self, order: WorkOrder, serial: str, chip: str) -> tuple[str, int, int]:
        """Serial number, its attempt, and that of the chip. Raises Conflict where either has its identity."""
        chip_attempt = 0
        if chip:
            chip_attempt, before = await self._attempts(lambda attempt: chip_claim(chip, attempt))
            if before is not None:
                if before.state is State.CONFIRMED:
                    raise Conflict(f"this device has its identity already: {before.serial}, order {before.order}")
                serial = serial or (before.serial if before.order == order.id else "")
        if not serial:
            serial = await self.orders.next_number(order)
        attempt, before = await self._attempts(lambda attempt: serial_claim(serial, attempt))
        if before is not None and before.state is State.CONFIRMED:
            raise Conflict(f"serial number {serial} was given to a device already (order {before.order})")
        return serial, attempt, chip_attempt

    async def _attempts(self, claim: Callable[[int], bytes]) -> tuple[int, Unit | None]:
        """(the next free attempt, the unit of the one before)."""
        attempt, last = 1, None
        while (found := await self._journal.claimed(claim(attempt))) and (seq := found.get(claim(attempt))) is not None:
            record = await self._journal.get(seq)
            if record is None or not isinstance(record.payload, UnitReserved):
                raise IntegrityError(f"record {seq} claims a unit's number and begins none")
            last, attempt = await self.get(record.payload.unit), attempt + 1
        return attempt, last

    # Going on

    def request_of(self, unit: Unit, csr: Csr) -> CertificationRequest:
        """The CSR, read and with its proof of possession checked. Raises RequestError."""
        rule = self._authority.rule(self.orders.get(unit.order).profile)
        return read_csr(csr.der, leniency=rule.leniency)

    async def keyed(self, unit: Unit, csr: Csr) -> Unit:
        """The unit's key is that of ``csr``. Asked again it must be the same key.

        Raises RequestError for a CSR that proves nothing; WrongDevice, with the unit in quarantine, for a key that belongs to
        another unit or is another than before.
        """
        request = self.request_of(unit, csr)
        digest = hashlib.sha256(request.spki).digest()
        if unit.state is not State.RESERVED:
            if digest != unit.spki_digest:
                await self._stop(unit, "the device's key is not the one that this unit began with")
            return unit
        claim = key_claim(digest)
        evidence = hashlib.sha256(csr.evidence).digest() if csr.evidence else b""
        keyed = UnitKeyed(
            unit.id, unit.seq, digest, hashlib.sha256(csr.der).digest(), evidence, csr.evidence_format if evidence else ""
        )
        try:
            (record,) = await self._journal.append(keyed)
        except Conflict:
            owner = (await self._journal.claimed(claim)).get(claim)
            if owner is None or await self._owner(owner) == unit.id:
                raise  # somebody else moved the unit
            await self._stop(unit, f"the device's key was seen before, with {await self._whose(owner)}")
        return self._adopt(advance(unit, record))

    async def _owner(self, seq: int) -> str:
        record = await self._journal.get(seq)
        return record.payload.unit if record and isinstance(record.payload, UnitKeyed) else ""

    async def _whose(self, seq: int) -> str:
        owner = await self._owner(seq)
        return f"unit {owner}" if owner else "another unit"

    async def issue(self, unit: Unit, csr: Csr) -> Unit:
        """The unit with its certificate: the same one however often this is asked.

        Raises RequestError where policy refuses, Unavailable; NotReady while a person must approve.
        """
        if unit.state in CERTIFIED:
            return unit
        check_move(unit, State.ISSUED)
        order = self.orders.get(unit.order)
        request = self.request_of(unit, csr)
        if hashlib.sha256(request.spki).digest() != unit.spki_digest:
            await self._stop(unit, "the device's key is not the one that this unit began with")
        outcome = await self._authority.enroll(
            EnrollmentRequest(
                csr=named(order, unit.serial, request), profile=order.profile,
                requester=Requester(RequesterKind.ORDER, f"unit:{unit.id}"), operation=Operation.ENROLL, protocol=PROTOCOL,
                lane=Lane.LINE, unit=unit.id, since_ms=unit.began_ms,
            )
        )  # fmt: skip
        match outcome:
            case Refused(error=error):
                raise error
            case Pending(retry_after=seconds):
                raise NotReady("a person must approve this unit's certificate first", retry_after=seconds)
            case Issued(serial=serial):
                return await self.move(unit, State.ISSUED, unit.station, certificate=f"{serial:x}")

    async def delivery(self, unit: Unit, ticket: bytes = b"") -> Delivery:
        """What the device is given. Raises Conflict while there is no certificate."""
        if not unit.certificate:
            raise Conflict(f"unit {unit.id} has no certificate yet")
        intent = issued = None
        for record in await self._journal.by_serial(int(unit.certificate, 16)):
            if isinstance(record.payload, records.Intent):
                intent = record.payload
            elif isinstance(record.payload, records.Issued):
                issued = record.payload
        if intent is None or issued is None:
            raise IntegrityError(f"the records of certificate {unit.certificate} are missing")
        generation = self._authority.generations.get(intent.generation)
        if generation is None:
            raise IntegrityError(f"there is no CA generation {intent.generation}")
        chain = (generation.certificate, *generation.chain)
        return Delivery(certificate_of(intent, issued), chain, unit.serial, ticket)

    async def move(
        self, unit: Unit, to: State, by: str, *, detail: str = "", digest: bytes = b"", certificate: str = "",
        also: Iterable[Payload] = (),
    ) -> Unit:  # fmt: skip
        """The unit in another state; ``also`` is recorded in the same transaction. Raises Conflict."""
        check_move(unit, to)
        return await self._record_move(unit, to, by, detail=detail, digest=digest, certificate=certificate, also=also)

    async def _record_move(
        self, unit: Unit, to: State, by: str, *, detail: str = "", digest: bytes = b"", certificate: str = "",
        also: Iterable[Payload] = (),
    ) -> Unit:  # fmt: skip
        moved = UnitMoved(unit.id, unit.seq, unit.order, to.value, by, certificate, detail[:_DETAIL_LENGTH], digest)
        record, *_ = await self._journal.append(moved, *also)
        return self._adopt(advance(unit, record))

    async def verified(self, unit: Unit, by: str, digest: bytes, detail: str = "") -> Unit:
        """The device proved that it holds certificate and key: the gateway's own copy of the key is destroyed."""
        pooled = unit.key_origin is KeyOrigin.POOL
        erased = (KeyErased(unit.id, unit.spki_digest, "delivered"),) if pooled else ()
        unit = await self.move(unit, State.VERIFIED, by, detail=detail, digest=digest, also=erased)
        if pooled:
            await self._authority.pool.erase(unit.id.encode())
        return unit

    # Ending

    async def quarantine(self, unit: Unit, reason: str, by: str) -> Unit:
        """Nothing more is done with the unit until a person decides. A unit that is there already stays as it is."""
        unit = self._units.get(unit.id, unit)
        if unit.state is State.QUARANTINE or not unit.is_open:
            return unit
        _log.warning("unit %s is in quarantine: %s", unit.id, reason)
        return await self.move(unit, State.QUARANTINE, by, detail=reason)

    async def _stop(self, unit: Unit, reason: str) -> None:
        await self.quarantine(unit, reason, unit.station)
        raise WrongDevice(reason)

    async def confirm(self, unit: Unit, by: str, digest: bytes) -> Unit:
        """The unit is done. ``digest`` is the SHA-256 of its signed production record. Raises Conflict."""
        check_move(unit, State.CONFIRMED)
        return await self._end(unit, State.CONFIRMED, by, "", digest=digest)

    async def give_up(self, unit: Unit, to: State, by: str, reason: str) -> Unit:
        """Release, rework or scrap. A certificate is revoked in the same transaction; a unit without one is released, whatever
        was asked, and only then its credit comes back. Raises Conflict for a move that is none.
        """
        unit = await self._with_hidden_certificate(unit)
        if not unit.certificate:
            to = State.RELEASED
        check_move(unit, to)
        return await self._end(unit, to, by, reason, quota=() if unit.certificate else (order_quota(unit.order),))

    async def _with_hidden_certificate(self, unit: Unit) -> Unit:
        """A crash may have come between the record of the certificate and that of the unit: then it is told now."""
        if unit.certificate or unit.state not in (State.KEYED, State.QUARANTINE):
            return unit
        found = await self._journal.find_issued(unit_key(unit.id), unit.began_ms)
        if found is None or not isinstance(found[1].payload, records.Issued):
            return unit
        return await self._record_move(unit, State.ISSUED, "gateway", certificate=found[1].payload.serial)

    async def _end(
        self, unit: Unit, to: State, by: str, reason: str, *, quota: tuple[str, ...] = (), digest: bytes = b""
    ) -> Unit:
        ended = UnitEnded(unit.id, unit.seq, unit.order, to.value, by, reason[:_DETAIL_LENGTH], quota, digest)
        if unit.certificate and to is not State.CONFIRMED:
            await self._authority.revoker.revoke(int(unit.certificate, 16), Reason.CESSATION_OF_OPERATION, by, because=(ended,))
            seq = (await self._journal.claimed(end_claim(unit.id)))[end_claim(unit.id)]
            record = await self._journal.get(seq)
        else:
            (record,) = await self._journal.append(ended)
        if record is None:
            raise IntegrityError(f"the end of unit {unit.id} is missing")
        self._ledger.refund(quota)
        if unit.key_origin is KeyOrigin.POOL:
            await self._authority.pool.erase(unit.id.encode())
        return self._adopt(advance(unit, record))

    def unconfirmed_too_long(self) -> list[Unit]:
        """Units with a certificate, or in quarantine, that stayed open for longer than their order wants."""
        now_ms, found = self._clock.now_ms(), []
        for unit in self._units.values():
            hours = self.orders.get(unit.order).confirm_hours
            certified = unit.state in CERTIFIED or unit.state is State.QUARANTINE
            if certified and hours and now_ms - unit.began_ms >= hours * 3_600_000:
                found.append(unit)
        return found

    async def end_overdue(self) -> None:
        """Scrap those among them whose order says so: a certificate that nobody confirmed ends revoked."""
        for unit in self.unconfirmed_too_long():
            order = self.orders.get(unit.order)
            if order.overdue != "revoke" or not unit.certificate:
                continue
            reason = f"not confirmed within {order.confirm_hours} hours"
            try:
                await self.give_up(unit, State.SCRAPPED, "gateway", reason)
            except (Conflict, Unavailable) as error:
                _log.warning("unit %s is overdue and could not be scrapped: %s", unit.id, error)

    def balance(self, order: str) -> Balance:
        """The order's account. Raises NotFound."""
        mine = [unit for unit in self._units.values() if unit.order == order]
        certified = sum(bool(unit.certificate) for unit in mine)
        return self.orders.balance(order, len(mine) - certified, certified)

    def _index(self, unit: Unit) -> None:
        if unit.is_open:
            self._units[unit.id] = unit
            self._serials[unit.serial] = unit.id
            if unit.chip:
                self._chips[unit.chip] = unit.id
        else:
            self._units.pop(unit.id, None)
            self._serials.pop(unit.serial, None)
            self._chips.pop(unit.chip, None)

    def _adopt(self, unit: Unit) -> Unit:
        self._index(unit)
        for watcher in self._watchers:
            watcher(unit)
        return unit

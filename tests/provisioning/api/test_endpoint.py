"""The stations' interface over real TLS: who may, what a unit's life looks like from a station, what is refused and how."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from gateway.journal.line_records import OrderAccepted, UnitEnded
from gateway.journal.verify import verify
from gateway.pki.crl import Reason
from provisioning.api.endpoint import LineLimits
from provisioning.api.openapi import text
from provisioning.device import KeyOrigin
from provisioning.orders import NumberRange
from provisioning.station import State
from tests.support.line import order_of, signed, states
from tests.support.stations import Answer, BenchDevice, Station, counter

# Who asks.


async def test_nobody_is_let_in_without_a_station_s_certificate_or_token(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of()]) as it:
        device_token = await it.token_station(station=False)
        wrong = Station(it, token=("nobody", "wrong"))
        device = await it.station("device", profile="tls-client")
        size = it.size
        for station, status in ((Station(it), 401), (wrong, 401), (device_token, 403), (device, 403)):
            for method, path in (("GET", "/units"), ("POST", "/units"), ("GET", "/nothing"), ("GET", "/events")):
                answer = await station.ask(method, path, {} if method == "POST" else None)
                assert (answer.status, answer.json["status"]) == (status, status), answer.content
        assert it.size == size


async def test_a_body_is_not_read_before_it_is_known_who_asks(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of()]) as it:
        reader, writer = await asyncio.open_connection("localhost", it.port, ssl=it.context(), family=2)
        writer.write(b"POST /api/v1/line/units HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n")  # and no body
        async with asyncio.timeout(4):  # the listener waits 5 seconds for a body
            assert b" 401 " in await reader.readline()
        writer.close()


async def test_a_revoked_or_expired_station_is_out_at_once(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of()]) as it:
        one, two = await it.station("bench-1"), await it.station("bench-2")
        assert (await one.get("/units")).status == 200
        assert one.files is not None
        serial = x509.load_pem_x509_certificate(one.files[0].read_bytes()).serial_number
        await it.world.authority.revoker.revoke(serial, Reason.KEY_COMPROMISE, "test")
        assert (await one.get("/units")).status == 401
        assert (await two.get("/units")).status == 200
        it.world.clock.advance(31 * 86_400_000)
        assert "has expired" in (await two.get("/units")).detail


async def test_a_token_makes_units_of_its_own_profile_only(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of()]) as it:
        good, other = await it.token_station("idevid"), await it.token_station("ldevid")
        assert (await good.made(BenchDevice("chip-1")))["state"] == "confirmed"
        answer = await other.post("/units", {"order": "O-1", "chip": "chip-2"})
        assert (answer.status, "this station's token is for ldevid" in answer.detail) == (403, True)
        assert (await other.get("/units")).json["items"] == []


async def test_a_station_touches_the_units_of_its_orders_and_no_others(tmp_path: Path) -> None:
    ours = order_of(stations=("station:bench-*",))
    theirs = order_of(id="O-2", stations=("station:other-*",), numbers=NumberRange("X-", 1, 10, 5), credit=5)
    async with counter(tmp_path, orders=[ours, theirs]) as it:
        one, two, other = await it.station("bench-1"), await it.station("bench-2"), await it.station("other-1")
        unit = await one.opened(BenchDevice("chip-1"))
        size = it.size
        for method, path in (
            ("GET", unit), ("POST", f"{unit}/csr"), ("GET", f"{unit}/chain"), ("GET", f"{unit}/challenge"),
            ("POST", f"{unit}/written"), ("POST", f"{unit}/confirmed"), ("GET", "/orders/O-1"),
        ):  # fmt: skip
            body = BenchDevice("chip-1").csr() if path.endswith("csr") else None
            answer = await other.ask(method, path, body)
            assert (answer.status, answer.detail) == (403, "order O-1 is not for station station:other-1"), path
        answer = await other.post(f"{unit}/scrap", {"reason": "mine now"})
        assert answer.status == 403
        assert [each["id"] for each in (await other.get("/orders")).json["items"]] == ["O-2"]
        assert (await other.get("/units")).json["items"] == []
        answer = await other.post("/units", {"order": "O-2", "chip": "chip-1"})  # a device of ours under their order
        assert (answer.status, "is being made under order O-1" in answer.detail) == (409, True)
        assert it.size == size
        again = await two.post("/units", {"order": "O-1", "chip": "chip-1"})  # another bench of the same order goes on
        assert (again.status, again.json["station"]) == (200, "station:bench-1")


# The life of a unit.


async def test_a_unit_lives_as_at_a_port_of_the_gateway(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of(label="plate")]) as it:
        station, device = await it.station(), BenchDevice("chip-1")
        opened = await station.done("/units", {"order": "O-1", "chip": "chip-1"})
        assert (opened["unit"], opened["state"], opened["next"]) == ("O-1/SN-00001/1", "reserved", "obtain-key")
        unit, (certificate, *issuers) = await station.certified(device)
        assert [each.value for each in certificate.subject.get_attributes_for_oid(x509.NameOID.SERIAL_NUMBER)] == ["SN-00001"]
        assert certificate.public_key() == device.key.public_key()
        certificate.verify_directly_issued_by(issuers[0])
        assert issuers[-1].issuer == issuers[-1].subject
        digest = hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()
        assert (await station.done(f"{unit}/written", {"digest": digest, "chip": "chip-1"}))["next"] == "verify"
        proof = device.prove((await station.get(f"{unit}/challenge")).json["challenge"])
        assert (await station.done(f"{unit}/verified", proof))["next"] == "begin-lock"
        assert (await station.done(f"{unit}/locking"))["next"] == "lock"
        assert (await station.done(f"{unit}/locked", {"detail": "fuse 3"}))["next"] == "label"
        assert (await station.done(f"{unit}/labelled", {"digest": "ab" * 32}))["next"] == "confirm"
        done = await station.done(f"{unit}/confirmed", {"model": "PLC", "facts": {"firmware": "1.2"}})
        assert (done["state"], done["next"], it.finisher.concluded) == ("confirmed", "nothing", ["SN-00001"])
        found = await it.units.get("O-1/SN-00001/1")
        assert states(found) == [
            State.RESERVED, State.KEYED, State.ISSUED, State.WRITTEN, State.VERIFIED, State.LOCKING, State.LOCKED,
            State.LABELLED, State.CONFIRMED,
        ]  # fmt: skip
        assert not it.balance()
        order = (await station.get("/orders/O-1")).json
        assert (order["begun"], order["issued"], order["confirmed"], order["open"], order["faults"]) == (1, 1, 1, 0, [])
    assert verify(tmp_path / "journal.db", signatures=True).clean


async def test_told_again_everything_gets_the_same_answer_and_changes_nothing(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of()]) as it:
        station, device = await it.station(), BenchDevice("chip-1")
        await station.made(device)
        opened = await station.post("/units", {"order": "O-1", "chip": "chip-1"})
        assert (opened.status, "has its identity already: SN-00001" in opened.detail) == (409, True)
        unit, size = "/units/O-1%2FSN-00001%2F1", it.size
        first = await station.post(f"{unit}/csr", device.csr())
        assert first.content == (await station.post(f"{unit}/csr", device.csr(Encoding.PEM))).content
        assert first.content == (await station.get(f"{unit}/chain")).content
        for report in ("written", "verified", "locking", "locked", "confirmed"):
            assert (await station.done(f"{unit}/{report}"))["state"] == "confirmed"
        assert it.size == size


async def test_the_chain_comes_as_pem_pkcs7_or_json(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of(ticket=True)]) as it:
        station = await it.station()
        unit, pem = await station.certified(BenchDevice("chip-1"))
        seven = await station.get(f"{unit}/chain", Accept="application/pkcs7-mime")
        assert {each.serial_number for each in pkcs7.load_der_pkcs7_certificates(seven.content)} == {
            each.serial_number for each in pem
        }
        told = (await station.get(f"{unit}/chain", Accept="application/json")).json
        assert told["sha256"] == hashlib.sha256(pem[0].public_bytes(Encoding.DER)).hexdigest()
        assert told["ticket"] == "dGlja2V0IG9mIFNOLTAwMDAx"
        assert (await station.get(f"{unit}/chain", Accept="image/png")).status == 406


async def test_one_key_one_body_one_answer(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of()]) as it:
        station, other = await it.station(), await it.station("bench-2")
        body = {"order": "O-1", "chip": "chip-1"}
        first = await station.post("/units", body, Idempotency_Key="a-key-of-mine")
        unit = str(first.json["href"]).removeprefix("/api/v1/line")
        await station.post(f"{unit}/csr", BenchDevice("chip-1").csr())
        again = await station.post("/units", body, Idempotency_Key="a-key-of-mine")
        assert (again.content, again.head["Idempotent-Replayed"]) == (first.content, "true")
        changed = await station.post("/units", body | {"chip": "chip-2"}, Idempotency_Key="a-key-of-mine")
        assert (changed.status, changed.json["title"]) == (422, "KeyReused")
        assert (await other.post("/units", body, Idempotency_Key="a-key-of-mine")).json["state"] == "issued"
        assert it.world.journal.head.tallies["order:O-1"] == 1
        missing = await station.post("/units", body, Idempotency_Key="")
        assert (missing.status, "Idempotency-Key" in missing.detail) == (400, True)


async def test_the_same_request_many_times_at_once_makes_one_unit_with_one_certificate(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of()]) as it:
        station, device = await it.station(), BenchDevice("chip-1")
        opened = await asyncio.gather(*(station.opened(device) for _ in range(8)))
        assert len(set(opened)) == 1
        chains = await asyncio.gather(*(station.post(f"{opened[0]}/csr", device.csr()) for _ in range(8)))
        assert {(each.status, each.content) for each in chains} == {(200, chains[0].content)}
        assert it.world.journal.head.tallies["order:O-1"] == 1
        assert not it.balance()


async def test_what_the_order_wants_is_not_left_out(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of(label="plate")]) as it:
        station = await it.station()
        unit = await station.verified(BenchDevice("chip-1"))
        assert "wants the device locked first" in (await station.post(f"{unit}/confirmed")).detail
        assert "report locking before" in (await station.post(f"{unit}/locked")).detail
        await station.done(f"{unit}/locked", {"absent": True})
        assert "wants a label" in (await station.post(f"{unit}/confirmed")).detail
        await station.done(f"{unit}/labelled")
        assert (await station.done(f"{unit}/labelled"))["prints"] == 1
        assert (await station.done(f"{unit}/labelled", {"again": True}))["prints"] == 2
        assert (await station.done(f"{unit}/confirmed"))["state"] == "confirmed"


async def test_steps_are_not_taken_out_of_order(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of()]) as it:
        station = await it.station()
        unit = await station.opened(BenchDevice("chip-1"))
        size = it.size
        for step in ("written", "verified", "locking", "locked", "labelled", "confirmed"):
            assert (await station.post(f"{unit}/{step}")).status == 409, step
        assert (await station.get(f"{unit}/chain")).status == 409
        assert it.size == size
        assert it.finisher.concluded == []


# What counts as verified.


async def test_a_challenge_counts_once_for_its_unit_for_a_while(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of()]) as it:
        station, one, two = await it.station(), BenchDevice("chip-1"), BenchDevice("chip-2")
        units = [(await station.certified(device))[0] for device in (one, two)]
        for unit in units:
            await station.done(f"{unit}/written")
        challenges = [(await station.get(f"{unit}/challenge")).json["challenge"] for unit in units]
        size = it.size
        swapped = await station.post(f"{units[0]}/verified", one.prove(challenges[1]))
        assert (swapped.status, "was not given for this unit" in swapped.detail) == (409, True)
        newer = (await station.get(f"{units[0]}/challenge")).json["challenge"]
        assert (await station.post(f"{units[0]}/verified", one.prove(challenges[0]))).status == 409
        assert "wants the device's signature" in (await station.post(f"{units[0]}/verified", {"digest": ""})).detail
        assert it.size == size
        await station.done(f"{units[0]}/verified", one.prove(newer))


async def test_a_cloned_or_exchanged_device_is_found_by_the_challenge(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of()]) as it:
        station, device = await it.station(), BenchDevice("chip-1")
        unit, _ = await station.certified(device)
        await station.done(f"{unit}/written")
        challenge = (await station.get(f"{unit}/challenge")).json["challenge"]
        answer = await station.post(f"{unit}/verified", BenchDevice("chip-1").prove(challenge))
        assert (answer.status, answer.detail) == (409, "the device's key is not the one in its certificate")
        assert (await station.get(unit)).json["state"] == "quarantine"
        for path in ("written", "verified", "confirmed", "csr"):
            refused = await station.post(f"{unit}/{path}", device.csr() if path == "csr" else None)
            assert (refused.status, "is in quarantine: the device's key" in refused.detail) == (409, True), path
        ended = await station.done(f"{unit}/scrap", {"reason": "cloned"})
        assert ended["state"] == "scrapped"
        assert it.world.authority.status.find(int(ended["certificate"], 16), 1) is not None
        assert not it.balance()


async def test_a_read_back_digest_counts_only_where_the_order_says_so(tmp_path: Path) -> None:
    lenient = order_of(id="O-2", proof="read-back", numbers=NumberRange("X-", 1, 10, 5), credit=5)
    async with counter(tmp_path, orders=[order_of(), lenient]) as it:
        station = await it.station()
        for order, status in (("O-1", 409), ("O-2", 200)):
            unit, (certificate, *_) = await station.certified(BenchDevice(f"chip of {order}"), order)
            await station.done(f"{unit}/written")
            wrong = await station.post(f"{unit}/verified", {"digest": "00" * 32})
            assert (wrong.status, "is not the SHA-256 of the unit's certificate" in wrong.detail) == (409, True)
            digest = hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()
            assert (await station.post(f"{unit}/verified", {"digest": digest})).status == status
        assert "the key was not proved" in (await station.get(unit)).json["detail"]


# The wrong device.


async def test_an_exchanged_device_is_quarantined_with_a_sentence(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of()]) as it:
        station = await it.station()
        unit, _ = await station.certified(BenchDevice("chip-1"))
        answer = await station.post(f"{unit}/written", {"chip": "chip-9"})
        assert (answer.status, answer.detail) == (409, "the device was exchanged: this is chip-9, the unit is chip-1")
        assert "Set the device aside" in answer.json["hint"]
        shown = (await station.get(unit)).json
        assert (shown["state"], shown["detail"], shown["next"]) == ("quarantine", answer.detail, "wait")


async def test_a_cloned_key_is_quarantined_and_says_whose_it_is(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of()]) as it:
        station, golden = await it.station(), BenchDevice("chip-1")
        await station.certified(golden)
        unit = await station.opened(BenchDevice("chip-2"))
        answer = await station.post(f"{unit}/csr", golden.csr())
        assert (answer.status, answer.detail) == (409, "the device's key was seen before, with unit O-1/SN-00001/1")
        assert (await station.get(unit)).json["state"] == "quarantine"
        assert (await station.done(f"{unit}/release", {"reason": "golden image"}))["state"] == "released"
        assert it.world.journal.head.tallies["order:O-1"] == 1


async def test_another_key_than_before_is_quarantined(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of()]) as it:
        station = await it.station()
        unit, _ = await station.certified(BenchDevice("chip-1"))
        answer = await station.post(f"{unit}/csr", BenchDevice("chip-1").csr())
        assert (answer.status, "is not the one that this unit began with" in answer.detail) == (409, True)
        assert (await station.get(unit)).json["state"] == "quarantine"


async def test_a_repeated_serial_number_is_quarantined(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of()]) as it:
        station = await it.station()
        unit = await station.opened(BenchDevice("chip-1"), serial="SN-00007")
        answer = await station.post("/units", {"order": "O-1", "serial": "SN-00007", "chip": "chip-2"})
        assert (answer.status, "which belongs to device chip-1" in answer.detail) == (409, True)
        assert (await station.get(unit)).json["state"] == "quarantine"


async def test_a_station_that_forgets_to_name_the_chip_harms_nothing(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of()]) as it:
        station = await it.station()
        unit = await station.opened(BenchDevice("chip-1"), serial="SN-00007")
        answer = await station.post("/units", {"order": "O-1", "serial": "SN-00007"})
        assert (answer.status, "say which device this is" in answer.detail) == (409, True)
        assert (await station.get(unit)).json["state"] == "reserved"


# Ends.


@pytest.mark.parametrize(("how", "state"), [("scrap", "scrapped"), ("rework", "reworked")])
async def test_giving_up_a_certified_unit_revokes_its_certificate(tmp_path: Path, how: str, state: str) -> None:
    async with counter(tmp_path, orders=[order_of()]) as it:
        station = await it.station()
        unit = await station.verified(BenchDevice("chip-1"))
        released = await station.post(f"{unit}/release", {"reason": "no"})
        assert (released.status, "it cannot" in released.detail) == (409, True)
        ended = await station.done(f"{unit}/{how}", {"reason": "scratched"})
        assert (ended["state"], ended["detail"]) == (state, "scratched")
        assert it.world.authority.status.find(int(ended["certificate"], 16), 1) is not None
        assert (await station.done(f"{unit}/{how}", {"reason": "again"}))["detail"] == "scratched"
        for path in ("written", "confirmed"):
            assert (await station.post(f"{unit}/{path}")).status == 409
        assert (await station.get(f"{unit}/chain")).status == 409
        assert len(it.world.of_kind(UnitEnded)) == 1
        assert not it.balance()


async def test_a_reason_is_wanted(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of()]) as it:
        station = await it.station()
        unit = await station.opened(BenchDevice("chip-1"))
        for how in ("scrap", "rework", "release", "quarantine"):
            for body in ({}, {"reason": " "}):
                assert (await station.post(f"{unit}/{how}", body)).status == 400
        assert (await station.done(f"{unit}/quarantine", {"reason": "smells"}))["detail"] == "smells"
        assert (await station.done(f"{unit}/quarantine", {"reason": "still"}))["detail"] == "smells"


# Orders.


async def test_over_production_is_refused_at_the_edge_of_the_credit(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of(credit=40)]) as it:
        stations = [await it.station(f"bench-{number}") for number in range(64)]

        async def make(number: int) -> tuple[int, str]:
            device = BenchDevice(f"chip-{number}")
            answer = await stations[number].post("/units", {"order": "O-1", "chip": device.chip})
            if answer.status != 200:
                return answer.status, answer.detail
            unit = str(answer.json["href"]).removeprefix("/api/v1/line")
            return (await stations[number].post(f"{unit}/csr", device.csr())).status, ""

        outcomes = await asyncio.gather(*(make(number) for number in range(64)))
        assert sorted(outcomes)[:40] == [(200, "")] * 40
        assert sorted(outcomes)[40:] == [(403, "the credit of order O-1, 40, is used up")] * 24
        order = (await stations[0].get("/orders/O-1")).json
        assert (order["begun"], order["issued"], order["open"], order["faults"]) == (40, 40, 40, [])


async def test_orders_that_do_not_count_are_refused_with_the_reason(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    async with counter(tmp_path, orders=[order_of(version=3)]) as it:
        station = await it.station()
        size = it.size
        foreign = order_of(id="O-9", origin="gateway.elsewhere/1")
        good = signed(order_of(id="O-9"))
        for document, status, sentence in (
            (signed(order_of(id="O-9"), Ed25519PrivateKey.generate()), 403, "the signature of orders.test"),
            (good.replace(b'"credit":100', b'"credit":999'), 403, "the signature of orders.test"),
            (signed(foreign), 403, "for gateway 'gateway.elsewhere/1'"),
            (signed(order_of(version=2)), 403, "version 2 of order O-1 is older than version 3"),
            (signed(order_of(version=3, credit=5)), 409, "has another content in its version 3"),
            (b"nonsense", 403, "not a signed statement"),
            (b"", 403, "not a signed statement"),
        ):
            answer = await station.post("/orders", document)
            assert (answer.status, sentence in answer.detail) == (status, True), answer.content
        assert it.size == size
        assert (await station.post("/orders", good)).json["id"] == "O-9"
        assert (await station.post("/orders", good)).status == 200
        (accepted,) = it.world.of_kind(OrderAccepted)[-1:]
        assert isinstance(accepted, OrderAccepted)
        assert (accepted.order, accepted.operator) == ("O-9", "station:bench-1")


async def test_an_order_that_is_over_or_for_others_begins_nothing(tmp_path: Path) -> None:
    expired = order_of(id="O-2", expires=1, numbers=NumberRange("X-", 1, 10, 5), credit=5)
    pooled = order_of(id="O-3", key_origin=KeyOrigin.POOL, numbers=NumberRange("Y-", 1, 10, 5), credit=5)
    recipe = order_of(id="O-4", recipe="ab" * 32, driver="esp32", numbers=NumberRange("Z-", 1, 10, 5), credit=5)
    async with counter(tmp_path, orders=[order_of(), expired, pooled, recipe]) as it:
        station = await it.station()
        await it.units.orders.close("O-1", "test", "done")
        size = it.size
        for body, status, sentence in (
            ({"order": "O-1"}, 403, "order O-1 is closed"),
            ({"order": "O-2"}, 403, "order O-2 has expired"),
            ({"order": "O-4"}, 403, "wants another recipe"),
            ({"order": "O-4", "driver": "linux", "recipe": "ab" * 32}, 403, "for devices of driver esp32"),
            ({"order": "O-4", "recipe": "ab"}, 400, "recipe must be a SHA-256"),
            ({"order": "O-404"}, 404, "there is no order"),
            ({"order": "O-3", "serial": "SN-00001"}, 403, "does not belong to order O-3"),
        ):
            answer = await station.post("/units", {"chip": "c"} | body)
            assert (answer.status, sentence in answer.detail) == (status, True), answer.content
        assert it.size == size
        unit = await station.opened(BenchDevice("chip-1"), "O-3")
        answer = await station.post(f"{unit}/csr", BenchDevice("chip-1").csr())
        assert (answer.status, "has its keys made by the gateway" in answer.detail) == (403, True)


# Lists, limits, description.


async def test_units_are_listed_page_by_page(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of()]) as it:
        station = await it.station()
        for number in range(7):
            await station.opened(BenchDevice(f"chip-{number}"))
        for number in range(1, 6):
            unit = f"/units/O-1%2FSN-{number:05}%2F1"
            await station.done(f"{unit}/release", {"reason": "none"})
        for state, expected in (("", [6, 7]), ("reserved", [6, 7]), ("keyed", []), ("released", [1, 2, 3, 4, 5])):
            found, cursor = [], ""
            while True:
                answer = (await station.get(f"/units?order=O-1&state={state}&limit=2&cursor={cursor}")).json
                assert len(answer["items"]) <= 2
                found += [int(each["serial"][3:]) for each in answer["items"]]
                if not (cursor := answer["next"].replace("/", "%2F")):
                    break
            assert found == expected, state


async def test_one_station_cannot_take_all_places(tmp_path: Path) -> None:
    limits = LineLimits(watching=2)
    async with counter(tmp_path, orders=[order_of()], limits=limits) as it:
        one, two = await it.station(), await it.station("bench-2")
        unit = await one.opened(BenchDevice("chip-1"))

        async def wait() -> Answer:
            while (answer := await one.get(f"{unit}?wait=60")).status == 503:  # the loop below takes places, too
                pass
            return answer

        waiting = [asyncio.create_task(wait()) for _ in range(2)]
        while (answer := await one.get(f"{unit}?wait=1")).status == 200:  # until both have taken their places
            pass
        assert (answer.status, answer.head["Retry-After"]) == (503, "1")
        assert (await two.get(f"{unit}?wait=1")).status == 200
        assert (await one.get(unit)).status == 200
        await one.done(f"{unit}/quarantine", {"reason": "enough"})
        assert {(await each).json["state"] for each in waiting} == {"quarantine"}


async def test_a_body_that_is_too_long_is_refused(tmp_path: Path) -> None:
    async with counter(tmp_path, orders=[order_of()]) as it:
        station = await it.station()
        answer = await station.post("/units", {"order": "x" * 70_000})
        assert (answer.status, answer.json["title"]) == (413, "TooLarge")


async def test_the_openapi_document_is_the_one_in_docs(tmp_path: Path) -> None:
    """``.venv/bin/python -m provisioning.api.openapi > docs/line-openapi.json`` after a change."""
    assert Path("docs/line-openapi.json").read_text(encoding="utf-8") == text()
    async with counter(tmp_path) as it:
        assert (await Station(it).get("/openapi.json")).json == json.loads(text())

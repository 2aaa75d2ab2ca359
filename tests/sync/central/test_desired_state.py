"""The document of each gateway: made of settings, commands and what central knows; a new version only when it differs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gateway.errors import ConfigError, Conflict, MalformedRequest, NotFound, RequestError
from gateway.pki.crl import Reason
from gateway.pki.tbs import ca_info
from sync.central.authority import ROOT_LIST
from sync.central.desired_state import ALL, BLOCKED, UNDESIRABLE, UNKNOWN_DOCUMENT
from sync.central.rows import (
    CENTRAL,
    GATEWAY,
    ISSUED,
    Alert,
    Ca,
    Certificate,
    Document,
    Event,
    Journal,
    Order,
    Revocation,
    Setting,
)
from sync.central.store import desired_topic
from sync.desired import Desired, ReleaseCommand, RevokeCommand, open_desired
from tests.support.authority import DAY_MS
from tests.support.central import Central, NewGateway, central

GATEWAY_7 = NewGateway()
SERIAL = 0xABCDEF


async def document(one: Central, origin: str = GATEWAY_7.origin) -> Desired:
    async with one.store.transaction() as t:
        found = await t.find(Document, origin)
    assert found is not None
    desired = open_desired(found.content, one.authority.identity.vkey)
    assert (found.version, found.issued, found.expires) == (desired.version, desired.issued, desired.expires)
    return desired


async def test_the_same_content_is_the_same_version(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        await one.join(GATEWAY_7)
        assert await one.desired.refresh_all() == 0
        assert not await one.desired.refresh(GATEWAY_7.origin)
        assert (await document(one)).version == 1
        with pytest.raises(NotFound):
            await one.desired.refresh("nobody")


async def test_a_setting_is_a_new_version_at_once_and_wakes_who_waits(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        await one.join(GATEWAY_7)
        with one.store.listening(desired_topic(GATEWAY_7.origin)) as news:
            news.clear()
            await one.desired.set(ALL, "quotas", {"ldevid": 100})
            assert news.is_set()
        desired = await document(one)
        assert (desired.version, desired.quotas) == (2, {"ldevid": 100})
        await one.desired.set(ALL, "quotas", None)
        assert (await document(one)).quotas == {}


async def test_the_narrower_scope_wins(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        await one.join(GATEWAY_7, group="line-3")
        other = NewGateway("plant-8/1", "CN=Plant 8")
        await one.join(other)
        key = ["00" * 32, "11" * 32, "22" * 32]
        plc = {"base": "ldevid"}
        await one.desired.set(ALL, "quotas", {"ldevid": 1, "tls-server": 1})
        await one.desired.set("group:line-3", "quotas", {"ldevid": 2})
        await one.desired.set(f"gateway:{GATEWAY_7.origin}", "quotas", {"idevid": 3})
        await one.desired.set(ALL, "blocked_keys", key[:2])
        await one.desired.set("group:line-3", "blocked_keys", key[1:])
        await one.desired.set(ALL, "policy", {"profiles": {"plc": plc, "hmi": plc}, "labels": {"a": "plc"}})
        await one.desired.set("group:line-3", "policy", {"profiles": {"plc": {**plc, "quota": 7}}, "clock_doubt": "stop"})
        await one.desired.set(ALL, "trust_lists", {"17": 1})
        await one.desired.set("group:line-3", "trust_lists", {"18": 1})
        desired = await document(one)
        assert desired.quotas == {"ldevid": 2, "tls-server": 1, "idevid": 3}
        assert desired.blocked_keys == {bytes.fromhex(each) for each in key}
        assert desired.policy is not None
        assert desired.policy.profiles == {"plc": {**plc, "quota": 7}, "hmi": plc}
        assert (desired.policy.labels, desired.policy.clock_doubt) == ({"a": "plc"}, "stop")
        assert desired.trust_lists == {"18": 1}
        assert (await document(one, other.origin)).quotas == {"ldevid": 1, "tls-server": 1}
        assert await one.desired.settings("group:line-3") == {
            "quotas": {"ldevid": 2}, "blocked_keys": key[1:], "trust_lists": {"18": 1},
            "policy": {"profiles": {"plc": {**plc, "quota": 7}}, "clock_doubt": "stop"},
        }  # fmt: skip


async def test_the_policys_version_is_that_of_its_last_change(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        await one.join(GATEWAY_7)

        async def versions() -> tuple[int, int]:
            desired = await document(one)
            return desired.version, desired.policy.version if desired.policy else 0

        assert await versions() == (1, 0)
        await one.desired.set(ALL, "policy", {"profiles": {"plc": {"base": "ldevid"}}})
        assert await versions() == (2, 2)
        await one.desired.set(ALL, "trust_lists", {"17": 1})
        assert await versions() == (3, 2)
        await one.desired.set(ALL, "quotas", {"plc": 1})
        assert await versions() == (4, 4)
        await one.desired.set(ALL, "policy", None)
        await one.desired.set(ALL, "policy", {"profiles": {"plc": {"base": "ldevid"}}})
        assert await versions() == (6, 6)


@pytest.mark.parametrize(
    ("scope", "name", "value", "error"),
    [
        (ALL, "qoutas", {}, NotFound),
        ("group", "quotas", {}, NotFound),
        ("gateway:nobody", "quotas", {}, NotFound),
        (ALL, "quotas", {"plc": -1}, MalformedRequest),
        (ALL, "quotas", [], MalformedRequest),
        (ALL, "policy", [], MalformedRequest),
        (ALL, "policy", {"profiles": {"plc": {"qouta": 1}}}, ConfigError),
        (ALL, "policy", {"profiles": {"plc": {}}, "more": 1}, MalformedRequest),
        (ALL, "makers", ["none"], MalformedRequest),
        (ALL, "trust_lists", {"a": "\ud800"}, MalformedRequest),
    ],
)
async def test_a_setting_that_no_gateway_could_apply_is_not_taken(
    tmp_path: Path, scope: str, name: str, value: object, error: type[Exception]
) -> None:
    async with central(tmp_path) as one:
        await one.join(GATEWAY_7)
        with pytest.raises(error):
            await one.desired.set(scope, name, value)  # type: ignore[arg-type]
        assert await one.desired.refresh_all() == 0
        async with one.store.transaction() as t:
            assert not [row for row in await t.select(Setting) if row.name == name]


async def test_settings_that_make_no_document_together_are_an_alert_until_they_do(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        await one.join(GATEWAY_7)
        await one.desired.set(
            ALL, "policy", {"profiles": {"plc": {"base": "ldevid", "allow": {"files": {"CN": "shipment.txt"}}}}}
        )
        async with one.store.transaction() as t:
            (alert,) = await t.select(Alert, kind=UNDESIRABLE, closed=0)
        assert "shipment.txt" in alert.text
        assert (await document(one)).version == 1
        await one.desired.set(ALL, "allow_lists", {"shipment.txt": "SN-1\n"})
        assert (await document(one)).version == 2
        async with one.store.transaction() as t:
            assert not await t.select(Alert, kind=UNDESIRABLE, closed=0)


async def test_what_others_put_into_the_database_is_found(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        await one.join(GATEWAY_7)
        await one.desired.refresh_all()
        async with one.store.transaction() as t:
            await t.put(Setting(ALL, BLOCKED + "33" * 32, "shared by two devices"))
        assert await one.desired.refresh_all() == 1
        assert (await document(one)).blocked_keys == {b"\x33" * 32}
        async with one.store.transaction() as t:
            (ca,) = await t.select(Ca)
            assert len((await document_in(t, one)).ca_certificates) == 1
            await t.change(Ca, ca.digest, activated=5)
        assert await one.desired.refresh_all() == 1
        assert not (await document(one)).ca_certificates
        published = await one.authority.publish_list()
        assert await one.desired.refresh_all() == 1
        assert (await document(one)).crls == {ROOT_LIST: published.content}
        await one.registry.fence(GATEWAY_7.origin, "cloned")
        async with one.store.transaction() as t:
            await t.put(Setting(ALL, BLOCKED + "44" * 32, ""))
        assert await one.desired.refresh_all() == 0


async def document_in(t: object, one: Central) -> Desired:
    found = await t.find(Document, GATEWAY_7.origin)  # type: ignore[attr-defined]
    return open_desired(found.content, one.authority.identity.vkey)


async def test_a_document_is_renewed_when_half_its_time_is_over(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        await one.join(GATEWAY_7)
        before = await document(one)
        assert before.expires == before.issued + 90 * DAY_MS
        one.clock.advance(44 * DAY_MS)
        await one.desired.refresh_all()
        assert (await document(one)).version == 1
        one.clock.advance(DAY_MS)
        await one.desired.refresh_all()
        after = await document(one)
        assert (after.version, after.expires) == (2, before.expires + 45 * DAY_MS)


async def test_centrals_ocsp_key_is_to_be_certified(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        await one.join(GATEWAY_7)
        await one.join(NewGateway("plant-8/1", "CN=Plant 8"))
        first, second = await document(one), await document(one, "plant-8/1")
        request = first.ocsp_request()
        assert request is not None
        assert request.public_key == one.authority.ocsp_key.public_key()
        assert first.ocsp_csr == second.ocsp_csr


# Revoking anywhere.


async def journalled(one: Central) -> Certificate:
    """A certificate of the joined gateway, as the projection writes it."""
    answer = await one.join(GATEWAY_7)
    row = Certificate(
        serial=SERIAL.to_bytes(20, "big"), issuer=ca_info(answer.certificate).key_identifier, origin=GATEWAY_7.origin,
        generation=1, state=ISSUED, intent=5, closing=6, subject="CN=plc", sans="", device="", spki=b"", profile="ldevid",
        requester="", policy_version=1, not_before=0, not_after=1 << 42, issued=1,
    )  # fmt: skip
    async with one.store.transaction() as t:
        await t.put(row)
    return row


async def edge_says(one: Central, row: Certificate, reason: str, number: int) -> None:
    async with one.store.transaction() as t:
        await t.put(Revocation(row.serial, row.issuer, GATEWAY, row.origin, 1, reason, 5, "operator", number))


async def test_a_revocation_is_a_command_and_centrals_word_at_once(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        row = await journalled(one)
        found, status = await one.revocations.revoke(SERIAL, Reason.KEY_COMPROMISE, "anna", revoked_at_ms=7)
        assert (found, status.reason, status.revoked_ms) == (row, Reason.KEY_COMPROMISE, 7)
        (command,) = (await document(one)).commands
        assert command == RevokeCommand(command.id, SERIAL, 1, Reason.KEY_COMPROMISE, 7)
        async with one.store.transaction() as t:
            (word,) = await t.select(Revocation)
        assert (word.side, word.by, word.reason) == (CENTRAL, "anna", "keyCompromise")
        await one.revocations.revoke(SERIAL, Reason.KEY_COMPROMISE, "anna", revoked_at_ms=7)
        assert (await document(one)).commands == (command,)
        async with one.store.transaction() as t:
            await t.change(Order, command.id, state="done")
        await one.desired.refresh_all()
        assert (await document(one)).commands == ()


async def test_what_the_gateway_revoked_already_is_no_command(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        row = await journalled(one)
        await edge_says(one, row, "superseded", 9)
        _, status = await one.revocations.revoke(SERIAL, Reason.CESSATION_OF_OPERATION, "anna")
        assert (status.reason, status.revoked_ms) == (Reason.SUPERSEDED, 5)
        assert (await document(one)).commands == ()


async def test_a_hold_is_lifted_by_central_whoever_set_it(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        row = await journalled(one)
        with pytest.raises(Conflict, match="not revoked"):
            await one.revocations.release(SERIAL, "anna")
        await edge_says(one, row, "certificateHold", 9)
        _, status = await one.revocations.release(SERIAL, "anna")
        assert status is None
        (command,) = (await document(one)).commands
        assert command == ReleaseCommand(command.id, SERIAL, 1)
        await one.revocations.revoke(SERIAL, Reason.SUPERSEDED, "anna")
        with pytest.raises(Conflict, match="superseded"):
            await one.revocations.release(SERIAL, "anna")


async def test_central_orders_its_hold_also_where_the_gateway_holds_already(tmp_path: Path) -> None:
    """Or the gateway's operators would lift their own hold, and with it central's."""
    async with central(tmp_path) as one:
        row = await journalled(one)
        await edge_says(one, row, "certificateHold", 9)
        for _ in range(2):
            _, status = await one.revocations.revoke(SERIAL, Reason.CERTIFICATE_HOLD, "anna")
            assert (status.reason, status.revoked_ms) == (Reason.CERTIFICATE_HOLD, 5)
        (command,) = (await document(one)).commands
        assert command == RevokeCommand(command.id, SERIAL, 1, Reason.CERTIFICATE_HOLD, 5)
        async with one.store.transaction() as t:
            await t.change(Order, command.id, state="done")
        await one.revocations.revoke(SERIAL, Reason.CERTIFICATE_HOLD, "anna")
        assert (await document(one)).commands == ()  # the gateway has recorded it


async def test_a_revocation_is_dated_back_to_the_hold_that_stands(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        await journalled(one)
        held_ms = one.clock.now_ms()
        await one.revocations.revoke(SERIAL, Reason.CERTIFICATE_HOLD, "anna")
        one.clock.advance(60_000)
        _, status = await one.revocations.revoke(SERIAL, Reason.SUPERSEDED, "anna")
        assert (status.reason, status.revoked_ms) == (Reason.SUPERSEDED, held_ms)
        command = (await document(one)).commands[-1]
        assert isinstance(command, RevokeCommand)
        assert command.revoked_at == held_ms


async def test_commands_stand_in_the_order_of_the_decisions(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        await journalled(one)
        await one.revocations.revoke(SERIAL, Reason.CERTIFICATE_HOLD, "anna")
        one.clock.advance(1)
        await one.revocations.release(SERIAL, "anna")
        hold, release = (await document(one)).commands
        assert isinstance(hold, RevokeCommand)
        assert isinstance(release, ReleaseCommand)


async def test_what_cannot_be_revoked(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        row = await journalled(one)
        for serial in (SERIAL + 1, 0, 1 << 170):
            with pytest.raises(NotFound):
                await one.revocations.revoke(serial, Reason.SUPERSEDED, "anna")
        with pytest.raises(NotFound):
            await one.revocations.revoke(SERIAL, Reason.SUPERSEDED, "anna", issuer=b"another")
        with pytest.raises(RequestError, match="future"):
            await one.revocations.revoke(SERIAL, Reason.SUPERSEDED, "anna", revoked_at_ms=one.clock.now_ms() + 1)
        with pytest.raises(RequestError, match="release"):
            await one.revocations.revoke(SERIAL, Reason.REMOVE_FROM_CRL, "anna")
        async with one.store.transaction() as t:
            await t.put(replace(row, issuer=b"two"))
        with pytest.raises(Conflict, match="which one"):
            await one.revocations.revoke(SERIAL, Reason.SUPERSEDED, "anna")


async def test_a_restored_central_goes_on_above_what_its_gateway_has_and_says_so(tmp_path: Path) -> None:
    """A gateway takes only a higher version, so numbers that were given before the restore must not come again."""
    async with central(tmp_path) as one:
        answer = await one.join(NewGateway())
        origin = open_desired(answer.desired, one.authority.identity.vkey).origin
        await one.desired.refresh_all()
        async with one.store.transaction() as t:
            await t.change(Journal, origin, applied=7)
        assert await one.desired.refresh_all() == 1
        async with one.store.transaction() as t:
            document = await t.find(Document, origin)
            assert [alert.kind for alert in await t.select(Alert, closed=0)] == ["gap"]
        assert document is not None
        assert document.version == 8
        assert await one.desired.refresh_all() == 0


@pytest.mark.parametrize(("unknown", "version"), [(1, 2), (9, 10)])
async def test_a_document_that_this_central_did_not_make_is_overtaken(tmp_path: Path, unknown: int, version: int) -> None:
    """After a restore central makes a version again that the gateway has with another content, and would not take."""
    async with central(tmp_path) as one:
        await one.join(GATEWAY_7)
        await one.desired.refresh_all()
        event = Event(UNKNOWN_DOCUMENT, GATEWAY_7.origin, 20, 0, b"%d" % unknown, 1)
        async with one.store.transaction() as t:
            await t.add(event)
        assert await one.desired.refresh_all() == 1
        assert (await document(one)).version == version
        async with one.store.transaction() as t:
            await t.add(replace(event, seq=30, content=b"1"))  # from the backlog: overtaken long ago
            assert [alert.kind for alert in await t.select(Alert, closed=0)] == ["gap"]
        assert await one.desired.refresh_all() == 0
        async with one.store.transaction() as t:
            assert await t.count(Event, kind=UNKNOWN_DOCUMENT, done=0) == 0

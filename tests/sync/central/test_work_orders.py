"""Work orders at central: defined once, signed for each gateway, more credit only as its records come back."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.errors import Conflict, Forbidden, GatewayError, IntegrityError, MalformedRequest, NotFound
from gateway.journal.canonical import JsonValue
from gateway.journal.statements import open_statement
from provisioning.orders import WorkOrder, open_order, sign_order
from sync.central.grants import ENDED, body_of, credit_tally
from sync.central.line_rows import Grant
from sync.central.rows import Document, Journal, Tally
from sync.desired import open_desired
from tests.support.central import Central, NewGateway, central

ONE = NewGateway("plant-7/1", "CN=Plant 7")
TWO = NewGateway("plant-8/1", "CN=Plant 8")
ORDER: dict[str, JsonValue] = {
    "id": "WO-17", "quantity": 1000, "credit": 100, "credit_after_receipt": True, "product": "PLC-4711", "profile": "idevid",
    "serials": ["SN-*"],
}  # fmt: skip


async def delivered(one: Central, origin: str = ONE.origin) -> list[WorkOrder]:
    """The work orders in a gateway's document, opened as the gateway does it: two signatures."""
    vkey = one.authority.identity.vkey
    async with one.store.transaction() as t:
        document = await t.find(Document, origin)
    assert document is not None
    orders = open_desired(document.content, vkey).orders
    if orders is None:
        return []
    assert isinstance(orders, list)
    return [open_order(str(each).encode(), [vkey]) for each in orders]


async def used(one: Central, units: int, origin: str = ONE.origin) -> None:
    """The gateway's records say that it began so many units, and central has projected them."""
    async with one.store.transaction() as t:
        await t.put(Tally(origin, credit_tally("WO-17"), units))
    await one.desired.refresh_all()


async def test_an_order_is_delivered_as_a_signed_statement_which_is_the_file_that_is_carried_too(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        await one.join(ONE)
        assert await delivered(one) == []
        await one.orders.define(f"gateway:{ONE.origin}", ORDER, "anna")
        (body,) = await delivered(one)
        assert body == WorkOrder(
            "WO-17", 1, ONE.origin, "PLC-4711", "idevid", 100, 0, serials=("SN-*",), credit_after_receipt=True
        )  # fmt: skip
        carried = await one.orders.export("WO-17", ONE.origin)
        vkey = one.authority.identity.vkey
        assert open_order(carried, [vkey]) == body
        with pytest.raises(IntegrityError):  # another kind of statement by the same key is no order
            open_statement("desired", carried, vkey)
        with pytest.raises(IntegrityError):  # nor is an order that another key signed
            open_order(sign_order(body, "central.example", ONE.checkpoint_key), [vkey])


async def test_the_same_order_again_is_the_same_statement_and_no_new_document(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        await one.join(ONE)
        await one.orders.define(f"gateway:{ONE.origin}", ORDER, "anna")
        before = await one.orders.export("WO-17", ONE.origin)
        await one.orders.define(f"gateway:{ONE.origin}", ORDER, "anna")
        await one.desired.set("central", "quotas", {"ldevid": 5})
        assert await one.orders.export("WO-17", ONE.origin) == before
        assert await one.desired.refresh_all() == 0


async def test_a_changed_order_has_a_higher_version(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        await one.join(ONE)
        await one.orders.define(f"gateway:{ONE.origin}", ORDER, "anna")
        made = await one.orders.define(f"gateway:{ONE.origin}", {**ORDER, "product": "PLC-4712"}, "anna")
        assert (made["revision"], made["body"]) == (2, {**ORDER, "product": "PLC-4712"})
        (body,) = await delivered(one)
        assert (body.version, body.product, body.credit) == (2, "PLC-4712", 100)


async def test_more_credit_is_granted_only_after_the_records_of_the_used_credit_are_back(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        await one.join(ONE)
        await one.orders.define(f"gateway:{ONE.origin}", ORDER, "anna")
        for units, version, credit in ((49, 1, 100), (50, 2, 150), (90, 2, 150), (150, 3, 250), (240, 4, 340), (980, 5, 1000)):
            await used(one, units)
            (body,) = await delivered(one)
            assert (body.version, body.credit) == (version, credit), units
        await used(one, 1000)
        (body,) = await delivered(one)
        assert (body.version, body.credit) == (5, 1000)  # and never more than was ordered


async def test_without_receipts_credit_stays_until_the_operator_gives_more(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        await one.join(ONE)
        order = {**ORDER, "credit_after_receipt": False}
        await one.orders.define(f"gateway:{ONE.origin}", order, "anna")
        await used(one, 100)
        assert (await delivered(one))[0].credit == 100
        await one.orders.define(f"gateway:{ONE.origin}", {**order, "credit": 300}, "anna")
        assert (await delivered(one))[0].credit == 300
        await one.orders.define(f"gateway:{ONE.origin}", {**order, "credit": 50}, "anna")
        assert (await delivered(one))[0].credit == 300  # it may have been used already, where nobody can see it


async def test_gateways_of_a_group_share_the_quantity(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        await one.join(ONE, group="line-3")
        await one.join(TWO, group="line-3")
        order = {**ORDER, "quantity": 150}
        await one.orders.define("group:line-3", order, "anna")
        given = [(await delivered(one, each.origin))[0].credit for each in (ONE, TWO)]
        assert sorted(given) == [50, 100]
        more = ONE if given[0] == 50 else TWO
        await used(one, 50, more.origin)
        assert (await delivered(one, more.origin))[0].credit == 50  # the rest is held by the other one
        other = TWO if more is ONE else ONE
        async with one.store.transaction() as t:  # which then says that it begins nothing more, after ten units
            await t.put(Tally(other.origin, credit_tally("WO-17"), 10))
            await t.change(Grant, "WO-17", other.origin, over=1)
        await one.desired.refresh_all()
        assert (await delivered(one, more.origin))[0].credit == 140
        third = NewGateway("plant-9/1", "CN=Plant 9")
        await one.join(third, group="line-3")
        await one.desired.refresh_all()
        assert await delivered(one, third.origin) == []  # nothing is left for it


async def test_a_gateway_that_joins_a_group_gets_its_orders(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        await one.orders.define("group:line-3", ORDER, "anna")
        await one.join(ONE)
        assert await delivered(one) == []
        await one.registry.set_group(ONE.origin, "line-3")
        await one.desired.refresh_all()
        assert (await delivered(one))[0].id == "WO-17"


async def test_a_closed_order_is_sent_once_more_as_one_that_has_ended_and_cannot_be_changed(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        await one.join(ONE)
        await one.join(TWO)
        await one.orders.define(f"gateway:{ONE.origin}", ORDER, "anna")
        await one.orders.close("WO-17", "enough (anna)")
        (order,) = await delivered(one)
        assert (order.version, order.credit) == (2, 100)
        with pytest.raises(Forbidden, match="expired"):  # as the gateway looks at it, whatever its clock says
            order.check_use(station="", driver="", recipe="", now_ms=ENDED)
        assert open_order(await one.orders.export("WO-17", ONE.origin), [one.authority.identity.vkey]) == order
        async with one.store.transaction() as t:  # its records say that it knows
            await t.change(Grant, "WO-17", ONE.origin, accepted=2, over=5)
        await one.desired.refresh_all()
        assert await delivered(one) == []
        assert (await one.orders.order("WO-17"))["closed"] == "enough (anna)"
        with pytest.raises(Conflict, match="enough"):
            await one.orders.define(f"gateway:{ONE.origin}", ORDER, "anna")
        await one.orders.close("WO-17", "again (bert)")
        assert (await one.orders.order("WO-17"))["closed"] == "enough (anna)"


async def test_a_restored_central_numbers_its_orders_above_what_the_gateway_has(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        await one.join(ONE)
        await one.orders.define(f"gateway:{ONE.origin}", ORDER, "anna")
        async with one.store.transaction() as t:  # what its record said: a version that nobody here remembers
            await t.change(Grant, "WO-17", ONE.origin, accepted=7, credit=400)
        await used(one, 120)
        (body,) = await delivered(one)
        assert (body.version, body.credit) == (8, 400)


@pytest.mark.parametrize(
    ("scope", "change", "error", "said"),
    [
        ("central", {}, NotFound, "group:NAME or gateway:ORIGIN"),
        ("gateway:nobody/1", {}, NotFound, "no gateway"),
        ("group:line-3", {"id": "../../x"}, MalformedRequest, "id"),
        ("group:line-3", {"id": 17}, MalformedRequest, "id must be"),
        ("group:line-3", {"quantity": 0}, MalformedRequest, "quantity"),
        ("group:line-3", {"quantity": True}, MalformedRequest, "quantity"),
        ("group:line-3", {"credit": 2000}, MalformedRequest, "more than the quantity"),
        ("group:line-3", {"credit_after_receipt": "yes"}, MalformedRequest, "true or false"),
        ("group:line-3", {"numbers": {"prefix": "A", "first": 1, "last": 9, "digits": 3}}, MalformedRequest, "its own range"),
        ("group:line-3", {"serials": []}, MalformedRequest, "either numbers"),
        ("group:line-3", {"profile": ""}, MalformedRequest, "needs profile"),
        ("group:line-3", {"colour": "red"}, MalformedRequest, "does not know: colour"),
        ("group:line-3", {"serials": ["S" * 60] * 70_000}, MalformedRequest, "at most 4 MiB"),
        ("group:line-3", {"version": 9}, MalformedRequest, "version is written by central"),
        ("group:line-3", {"origin": "plant-8/1"}, MalformedRequest, "origin is written by central"),
    ],
)
async def test_an_order_that_cannot_be_meant_is_not_taken(
    tmp_path: Path, scope: str, change: dict[str, JsonValue], error: type[GatewayError], said: str
) -> None:
    async with central(tmp_path) as one:
        with pytest.raises(error, match=said):
            await one.orders.define(scope, {**ORDER, **change}, "anna")
        assert await one.orders.orders() == []


async def test_a_groups_order_says_how_much_each_gateway_gets(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        without = {name: value for name, value in ORDER.items() if name != "credit"} | {"quantity": 10}
        with pytest.raises(MalformedRequest, match="how much each"):
            await one.orders.define("group:line-3", without, "anna")
        await one.join(ONE)
        await one.orders.define(f"gateway:{ONE.origin}", without, "anna")
        assert (await delivered(one))[0].credit == 10  # one gateway alone gets all of it


async def test_an_order_is_for_one_scope_for_ever(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        await one.join(ONE)
        await one.orders.define("group:line-3", ORDER, "anna")
        with pytest.raises(Conflict, match="group:line-3"):
            await one.orders.define(f"gateway:{ONE.origin}", ORDER, "anna")
        with pytest.raises(NotFound, match="grants"):
            await one.orders.export("WO-17", ONE.origin)
        for call in (one.orders.order("WO-18"), one.orders.close("WO-18", ""), one.orders.export("WO-18", ONE.origin)):
            with pytest.raises(NotFound, match="no order"):
                await call


async def test_what_became_of_an_order_is_counted_over_its_gateways(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        await one.join(ONE, group="line-3")
        await one.join(TWO, group="line-3")
        await one.orders.define("group:line-3", ORDER, "anna")
        async with one.store.transaction() as t:
            for origin, number in ((ONE.origin, 40), (TWO.origin, 2)):
                tally = credit_tally("WO-17")
                await t.put(
                    Tally(origin, tally, number), Tally(origin, f"{tally}/issued", number - 1),
                    Tally(origin, f"{tally}/confirmed", number // 2), Tally(origin, f"{tally}/scrapped", 1),
                )  # fmt: skip
        order = await one.orders.order("WO-17")
        assert {name: order[name] for name in ("granted", "used", "issued", "confirmed", "scrapped")} == {
            "granted": 200, "used": 42, "issued": 40, "confirmed": 21, "scrapped": 2
        }  # fmt: skip
        gateways = order["gateways"]
        assert isinstance(gateways, list)
        assert [each["used"] for each in gateways if isinstance(each, dict)] == [40, 2]


async def test_a_gateway_that_was_fenced_gets_nothing_new_and_keeps_its_share_from_others(tmp_path: Path) -> None:
    async with central(tmp_path) as one:
        await one.join(ONE, group="line-3")
        await one.join(TWO, group="line-3")
        await one.orders.define("group:line-3", {**ORDER, "quantity": 150}, "anna")
        first = (await delivered(one, ONE.origin))[0].credit
        fenced, other = (ONE, TWO) if first == 100 else (TWO, ONE)
        async with one.store.transaction() as t:
            await t.change(Journal, fenced.origin, fenced="cloned")
        await used(one, 50, other.origin)
        assert (await delivered(one, other.origin))[0].credit == 50
        assert body_of(await one.orders.export("WO-17", fenced.origin)).credit == 100

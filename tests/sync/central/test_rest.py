"""The REST interface over real TLS: who may, what is refused how, changes that happen once, and all that can be asked."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.errors import AlreadyExists, ConfigError, NotFound
from gateway.journal.proof import Proof, RecordProof
from gateway.journal.records import CaRequested
from sync.bundle import DESIRED, DOWN, RECEIPT, UP, BundleReader, BundleWriter
from sync.central.openapi import text
from sync.central.operators import add_operator, remove_operator
from sync.central.rest import KEPT_MS, forget_answers
from sync.central.rest_answers import ROUTES
from sync.central.rows import Action, Alert, Answered, Order
from sync.joining import read_code
from tests.support.central import NewGateway
from tests.support.desk import Answer, Desk, open_desk, place
from tests.support.edge import Edge
from tests.support.served_central import Device, Joined, client_certificate, joined


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with open_desk(tmp_path) as made:
        yield made


@pytest.fixture
async def gateway(desk: Desk) -> Joined:
    """Has sent its whole journal: three certificates, of which the first is revoked."""
    edge = Edge()
    for number in range(1, 4):
        edge.issue(number, device=f"SN-{number}")
    edge.revoke(1)
    made = await joined(desk.served, edge, group="line-3")
    await desk.served.ingest.carried(edge.origin, edge.batch(0))
    await desk.served.project()
    return made


# Who asks.


@pytest.mark.parametrize("secret", ["", "wrong", "edge-central-wrong"])
async def test_nobody_else_gets_in(desk: Desk, secret: str) -> None:
    desk.secret = secret
    for method, path in (("GET", "/gateways"), ("POST", "/codes"), ("GET", "/nothing")):
        answer = await desk.ask(method, path)
        assert (answer.status, answer.head["WWW-Authenticate"]) == (401, 'Bearer realm="edge-central"')
        assert answer.json["type"] == "urn:edge-central:problem:UnknownOperator"


async def test_a_viewer_reads_and_changes_nothing(desk: Desk) -> None:
    desk.secret = add_operator(desk.file, "vera", "viewer")
    await desk.get("/gateways")
    assert (await desk.post("/codes", {})).status == 403
    assert (await desk.get("/codes")).items == []


async def test_an_operator_who_is_removed_is_out_at_once(desk: Desk) -> None:
    await desk.get("/gateways")
    desk.file.write_text('{"operators": []}')
    assert (await desk.ask("GET", "/gateways")).status == 401
    desk.file.unlink()
    assert (await desk.ask("GET", "/gateways")).status == 401


@pytest.mark.parametrize(
    "content", ["", "{}", '{"operators": [{"name": "a"}]}', '{"operators": [{"name": "a", "role": "king"}]}']
)
async def test_with_a_broken_file_nobody_gets_in(desk: Desk, content: str) -> None:
    desk.file.write_text(content)
    assert (await desk.ask("GET", "/gateways")).status == 409


async def test_a_client_certificate_counts_when_its_key_is_registered(desk: Desk, gateway: Joined) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = client_certificate("olga", key, gateway.answer.certificate, gateway.edge.ca_key)
    desk.secret, desk.device = "", Device(key, certificate, gateway.device.chain)
    assert (await desk.ask("GET", "/gateways")).status == 401
    assert add_operator(desk.file, "olga", "operator", certificate=certificate) == ""
    assert (await desk.post("/codes", {})).status == 201
    desk.device = gateway.device  # below the same root, and no operator
    assert (await desk.ask("GET", "/gateways")).status == 401


async def test_the_file_holds_no_secret_and_each_name_once(desk: Desk) -> None:
    assert desk.secret not in desk.file.read_text()
    assert desk.file.stat().st_mode & 0o777 == 0o600
    with pytest.raises(AlreadyExists):
        add_operator(desk.file, "anna", "viewer")
    add_operator(desk.file, "otto", "viewer")
    remove_operator(desk.file, "anna")
    assert (await desk.ask("GET", "/gateways")).status == 401
    with pytest.raises(NotFound):
        remove_operator(desk.file, "anna")
    for name, role in (("two words", "viewer"), ("emma", "king")):
        with pytest.raises(ConfigError):
            add_operator(desk.file, name, role)


# Requests.


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nothing", None, 404),
        ("GET", "/gateways/", None, 404),
        ("GET", "/gateways/nobody", None, 404),
        ("DELETE", "/gateways", None, 405),
        ("GET", "/gateways?limit=-1", None, 400),
        ("GET", "/gateways?limits=1", None, 400),
        ("GET", "/gateways?after=x", None, 400),
        ("GET", "/alerts?open=maybe", None, 400),
        ("GET", "/certificates?serial=zz", None, 400),
        ("GET", f"/certificates?serial={'f' * 42}", None, 400),
        ("GET", "/certificates?spki=zz", None, 400),
        ("GET", "/certificates/0", None, 400),
        ("GET", "/certificates?text=%00", None, 400),
        ("GET", "/gateways/%00", None, 404),
        ("GET", "/gateways?after=WyJcdTAwMDAiXQ", None, 400),
        ("POST", "/codes", b'{"group": "\\u0000"}', 400),
        ("POST", "/codes", b'{"group": "\\ud800"}', 400),
        ("GET", "/certificates/77", None, 404),
        ("POST", "/codes", {"group": 7}, 400),
        ("POST", "/codes", {"hours": 0}, 400),
        ("POST", "/codes", {"hours": True}, 400),
        ("POST", "/codes", {"hour": 1}, 400),
        ("POST", "/codes", ["hours"], 400),
        ("POST", "/codes", b"{", 400),
        ("POST", "/codes", b"[" * 100_000, 400),
        ("POST", "/codes", bytes(2 << 20), 413),
        ("POST", "/certificates/77/revoke", {}, 400),
        ("POST", "/certificates/77/revoke", {"reason": "boredom"}, 400),
        ("POST", "/certificates/77/revoke", {"reason": "superseded"}, 404),
        ("POST", "/gateways/nobody/fence", {"reason": "x"}, 404),
        ("POST", "/gateways/nobody/close", {"reason": "x", "revoke": "boredom"}, 400),
        ("POST", "/alerts/x/close", {}, 400),
        ("POST", "/bundles", b"no bundle", 400),
        ("GET", "/settings/everything", None, 404),
    ],
)
async def test_what_is_wrong_is_a_problem_document(desk: Desk, method: str, path: str, body: object, status: int) -> None:
    answer = await desk.ask(method, path, body)
    assert (answer.status, answer.head["Content-Type"]) == (status, "application/problem+json")
    assert answer.json["status"] == status
    assert answer.json["detail"]
    assert answer.json["hint"]
    assert ("Allow" in answer.head) == (status == 405)


async def test_a_change_needs_a_key_and_comes_from_here(desk: Desk) -> None:
    assert (await desk.post("/codes", {}, Idempotency_Key="")).status == 400
    assert (await desk.post("/codes", {}, Sec_Fetch_Site="cross-site")).status == 403
    assert (await desk.post("/codes", {}, Sec_Fetch_Site="same-origin")).status == 201
    assert len((await desk.get("/codes")).items) == 1


async def test_the_same_request_is_carried_out_once(desk: Desk) -> None:
    first = await desk.post("/codes", {"group": "a"}, Idempotency_Key="key-number-1")
    again = await desk.post("/codes", {"group": "a"}, Idempotency_Key="key-number-1")
    assert (again.status, again.json, again.head["Idempotent-Replayed"]) == (201, first.json, "true")
    assert len((await desk.get("/codes")).items) == 1
    other = await desk.post("/codes", {"group": "b"}, Idempotency_Key="key-number-1")
    assert other.status == 422
    desk.secret = add_operator(desk.file, "otto", "operator")
    assert (await desk.post("/codes", {"group": "a"}, Idempotency_Key="key-number-1")).json != first.json


async def test_a_refusal_is_not_remembered_and_answers_are_for_a_day(desk: Desk) -> None:
    store, clock = desk.served.central.store, desk.served.clock
    assert (await desk.post("/codes", {"hours": 0}, Idempotency_Key="key-number-2")).status == 400
    await desk.post("/codes", {"hours": 1}, Idempotency_Key="key-number-2")
    assert await forget_answers(store, clock.now_ms()) == 0
    clock.advance(KEPT_MS)
    await desk.post("/codes", {"hours": 1}, Idempotency_Key="key-number-2")
    assert len((await desk.get("/codes")).items) == 2
    clock.advance(KEPT_MS)
    assert await forget_answers(store, clock.now_ms()) == 1
    async with store.transaction() as t:
        assert await t.count(Answered) == 0


async def test_every_change_is_in_the_trail_with_its_outcome(desk: Desk) -> None:
    await desk.post("/codes", {"group": "a"})
    await desk.post("/certificates/77/revoke", {"reason": "superseded"})
    await desk.post("/bundles", b"no bundle")
    trail = (await desk.get("/actions")).items
    assert [(each["operator"], each["action"], each["status"]) for each in trail] == [
        ("anna", "POST /codes", 201),
        ("anna", "POST /certificates/77/revoke", 404),
        ("anna", "POST /bundles", 400),
    ]
    assert trail[0]["detail"] == '{"group": "a"}'
    assert str(trail[2]["detail"]).startswith("sha256 ")
    page = (await desk.get("/actions?limit=1")).json
    assert (await desk.get(f"/actions?limit=1&after={page['next']}")).items == trail[1:2]


async def test_a_change_that_fails_inside_is_in_the_trail_as_such(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(**_: object) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(desk.served.central.registry, "make_code", broken)
    assert (await desk.post("/codes", {})).status == 500
    async with desk.served.central.store.transaction() as t:
        assert [each.status for each in await t.select(Action)] == [500]


# The document.


def test_the_openapi_document_is_the_one_in_docs() -> None:
    """``.venv/bin/python -m sync.central.openapi > docs/central-openapi.json`` after a change."""
    assert Path("docs/central-openapi.json").read_text(encoding="utf-8") == text(ROUTES)


def test_each_operation_has_a_name_of_its_own() -> None:
    operations = [each["operationId"] for path in json.loads(text(ROUTES))["paths"].values() for each in path.values()]
    assert len(set(operations)) == len(operations) == len(ROUTES)


async def test_the_document_is_there_for_everybody(desk: Desk) -> None:
    desk.secret = ""
    assert (await desk.get("/openapi.json")).json == json.loads(text(ROUTES))


# Gateways and codes.


async def test_gateways_are_listed_page_by_page(desk: Desk, gateway: Joined) -> None:
    for name in ("two", "three"):
        await joined(desk.served, Edge(name))
    everything = (await desk.get("/gateways")).json
    assert everything["next"] == ""
    found: list[object] = []
    following = ""
    for _ in range(3):
        page = (await desk.get(f"/gateways?limit=1&after={following}")).json
        found += page["items"]  # type: ignore[operator]
        following = str(page["next"])
    assert found == everything["items"]
    assert (await desk.get(f"/gateways?limit=1&after={following}")).json == {"items": [], "next": ""}


async def test_a_gateway_is_read_fenced_grouped_and_closed(desk: Desk, gateway: Joined) -> None:
    at = f"/gateways/{place(gateway.edge.origin)}"
    view = (await desk.get(at)).json
    assert (view["records"], view["group"], view["quarantined"]) == (gateway.edge.size, "line-3", 0)
    assert view["tallies"] == {"profile:tls-client": 3}
    assert (await desk.ask("PUT", f"{at}/group", {"group": "line-4"})).json["group"] == "line-4"
    assert (await desk.get("/groups")).items == [{"group": "line-4", "gateways": 1}]
    assert (await desk.post(f"{at}/fence", {"reason": "stolen"})).json["fenced"] == "stolen (anna)"
    closed = await desk.post(f"{at}/close", {"reason": "scrapped", "revoke": "cessationOfOperation"})
    assert closed.json["closed"] == "scrapped (anna)"
    assert (await desk.get("/groups")).items == [{"group": "line-4", "gateways": 0}]


async def test_a_code_that_is_made_here_joins_a_gateway(desk: Desk) -> None:
    made = (await desk.post("/codes", {"group": "line-3", "hours": 2})).json
    code = read_code(str(made["code"]))
    listed = (await desk.get("/codes")).content
    assert str(made["code"]).encode() not in listed
    assert made["expires"] == desk.served.clock.now_ms() + 2 * 3_600_000
    assert (await desk.ask("DELETE", f"/codes/{code.name}")).status == 204
    assert (await desk.ask("DELETE", f"/codes/{code.name}")).status == 404


async def test_a_ca_key_that_waits_is_approved(desk: Desk, gateway: Joined) -> None:
    at = f"/gateways/{place(gateway.edge.origin)}"
    assert (await desk.post(f"{at}/approve")).status == 404
    request = NewGateway(subject=f"CN=CA of {gateway.edge.name}").csr().public_bytes(Encoding.DER)
    gateway.edge.add(CaRequested(2, request, "operator"))
    await desk.served.ingest.carried(gateway.edge.origin, gateway.edge.batch(0))
    await desk.served.project()
    assert (await desk.post(f"{at}/approve")).status == 200
    desired = (await desk.get(f"{at}/desired")).json
    assert desired["document"]["ca_certificates"]  # type: ignore[index]


# Settings.


async def test_a_setting_is_changed_by_who_has_read_it(desk: Desk, gateway: Joined) -> None:
    at = "/settings/group:line-3/quotas"
    assert (await desk.ask("GET", at)).status == 404
    assert (await desk.ask("PUT", at, {"value": {"tls-client": 7}})).status == 428
    assert (await desk.ask("PUT", at, {"value": {"tls-client": 7}}, If_Match='"x"')).status == 412
    made = await desk.ask("PUT", at, {"value": {"tls-client": 7}}, If_None_Match="*")
    assert made.status == 200
    assert (await desk.ask("PUT", at, {"value": {"tls-client": 8}}, If_None_Match="*")).status == 412
    read = await desk.get(at)
    assert (read.json, read.head["ETag"]) == ({"value": {"tls-client": 7}}, made.head["ETag"])
    changed = await desk.ask("PUT", at, {"value": {"tls-client": 9}}, If_Match=read.head["ETag"])
    assert changed.status == 200
    assert (await desk.ask("PUT", at, {"value": {"tls-client": 1}}, If_Match=read.head["ETag"])).status == 412
    document = (await desk.get(f"/gateways/{place(gateway.edge.origin)}/desired")).json["document"]
    assert document["quotas"] == {"tls-client": 9}  # type: ignore[index]
    listed = (await desk.get("/settings/group:line-3")).json
    assert listed == {"quotas": {"value": {"tls-client": 9}, "etag": changed.head["ETag"]}}
    assert (await desk.ask("DELETE", at, If_Match=changed.head["ETag"])).status == 204
    assert (await desk.get("/settings/group:line-3")).json == {}


@pytest.mark.parametrize(
    ("at", "value", "status"),
    [
        ("/settings/central/quota", {"a": 1}, 404),
        ("/settings/gateway:nobody/quotas", {"a": 1}, 404),
        ("/settings/central/quotas", {"a": -1}, 400),
        ("/settings/central/quotas", None, 400),
        ("/settings/central/policy", {"profiles": {"x": {"kind": "y"}}}, 400),
    ],
)
async def test_a_setting_that_no_gateway_could_apply_is_refused(desk: Desk, at: str, value: object, status: int) -> None:
    answer = await desk.ask("PUT", at, {"value": value}, If_None_Match="*")
    assert answer.status == status
    assert (await desk.get("/settings/central")).json == {}


# Certificates.


async def test_certificates_are_found_whoever_issued_them(desk: Desk, gateway: Joined) -> None:
    two = await joined(desk.served, Edge("two"))
    two.edge.issue(9, device="SN-9")
    await desk.served.ingest.carried(two.edge.origin, two.edge.batch(0))
    await desk.served.project()
    assert len((await desk.get("/certificates")).items) == 4
    for query, count in (
        ("text=DEVICE-3", 1), ("device=SN-9", 1), (f"origin={place(two.edge.origin)}", 1), ("profile=tls-client", 4),
        (f"serial={gateway.edge.serial(2):x}", 1), ("text=nothing", 0),
    ):  # fmt: skip
        assert len((await desk.get(f"/certificates?{query}")).items) == count, query
    first = (await desk.get("/certificates?limit=3")).json
    rest = (await desk.get(f"/certificates?limit=3&after={first['next']}")).json
    assert len([*first["items"], *rest["items"]]) == 4  # type: ignore[misc]


async def test_a_certificate_is_revoked_held_and_released(desk: Desk, gateway: Joined) -> None:
    at = f"/certificates/{gateway.edge.serial(2):x}"
    view = (await desk.get(at)).json
    certificate = x509.load_der_x509_certificate(base64.b64decode(str(view["der"])))
    assert (certificate.serial_number, view["state"]) == (gateway.edge.serial(2), "issued")
    assert (await desk.post(f"{at}/hold", {})).json["reason"] == "certificateHold"
    desk.served.clock.advance(5000)
    assert (await desk.post(f"{at}/release", {})).json["state"] == "issued"
    desk.served.clock.advance(5000)
    assert (await desk.post(f"{at}/release", {})).status == 409
    since = desk.served.clock.now_ms() - 1000
    revoked = (await desk.post(f"{at}/revoke", {"reason": "keyCompromise", "revoked_at": since})).json
    assert (revoked["state"], revoked["reason"], revoked["revoked_at"]) == ("revoked", "keyCompromise", since)
    assert (await desk.post(f"{at}/revoke", {"reason": "superseded", "revoked_at": since + 10**9})).status == 400
    async with desk.served.central.store.transaction() as t:
        assert {each.by for each in await t.select(Order)} == {"anna"}
    commands = (await desk.get(at)).json["commands"]
    assert [each["do"] for each in commands] == ["revoke", "release", "revoke"]  # type: ignore[attr-defined]


# Journals and proofs.


async def test_a_journal_is_downloaded_as_it_was_written(desk: Desk, gateway: Joined) -> None:
    at, found, following = f"/gateways/{place(gateway.edge.origin)}/records", [], ""
    while True:
        page = (await desk.get(f"{at}?limit=4&after={following}")).json
        found += [base64.b64decode(each["record"]) for each in page["items"]]  # type: ignore[attr-defined]
        following = str(page["next"])
        if not following:
            break
    assert found == gateway.edge.records
    assert (await desk.get(f"{at}?after={10**15}")).json == {"items": [], "next": ""}
    assert (await desk.ask("GET", f"{at}?after=x")).status == 400
    receipt = (await desk.get(f"/gateways/{place(gateway.edge.origin)}/receipt")).json
    assert (receipt["size"], receipt["verifier_key"]) == (gateway.edge.size, gateway.edge.vkey)


async def test_a_proof_convinces_who_has_only_the_verifier_key(desk: Desk, gateway: Joined) -> None:
    edge = gateway.edge
    by_record = await desk.get(f"/gateways/{place(edge.origin)}/proofs/0")
    by_serial = await desk.get(f"/certificates/{edge.serial(3):x}/proof")
    for answer, count in ((by_record, 1), (by_serial, 2)):
        read = _proof(answer)
        read.check(edge.vkey)
        assert len(read.records) == count
    assert _proof(by_serial).certificate is not None
    assert (await desk.ask("GET", f"/gateways/{place(edge.origin)}/proofs/{edge.size}")).status == 404
    assert (await desk.ask("GET", f"/gateways/{place(edge.origin)}/proofs/-1")).status == 400
    empty = await joined(desk.served, Edge("empty"))
    assert (await desk.ask("GET", f"/gateways/{place(empty.edge.origin)}/proofs/0")).status == 409


def _proof(answer: Answer) -> Proof:
    body = answer.json
    records = [
        RecordProof(each["index"], base64.b64decode(each["record"]), tuple(map(base64.b64decode, each["path"])))
        for each in body["records"]  # type: ignore[attr-defined]
    ]
    return Proof.of(str(body["checkpoint"]), str(body["verifier_key"]), records)


# Alerts.


async def test_alerts_say_what_to_do_and_are_closed_by_a_person(desk: Desk) -> None:
    store, now_ms = desk.served.central.store, desk.served.clock.now_ms()
    async with store.transaction() as t:
        await t.put(Alert("silence", "plant/one", "", "no contact", now_ms), Alert("new-kind", "plant/ä", "x/y", "?", now_ms))
    found = (await desk.get("/alerts")).items
    assert [(each["kind"], each["severity"]) for each in found] == [("new-kind", "warning"), ("silence", "warning")]
    for each in found:
        assert set(each["do"]) == set(each["title"]) == {"en", "de"}  # type: ignore[call-overload]
        assert (await desk.post(f"/alerts/{each['id']}/close", {})).status == 204
    assert (await desk.get("/alerts")).items == []
    page = (await desk.get("/alerts?open=false&limit=1")).json
    assert len((await desk.get(f"/alerts?open=false&limit=5&after={page['next']}")).items) == 1
    unknown = base64.urlsafe_b64encode(b'["a","b","c"]').decode()
    assert (await desk.post(f"/alerts/{unknown}/close", {})).status == 404


# Bundles.


def _bundle(edge: Edge, stop: int | None = None, *, key_of: Edge | None = None) -> bytes:
    writer = BundleWriter()
    writer.add_batch(edge.batch(0, stop))
    facts = {"origin": edge.origin, "start": 0, "stop": stop or edge.size, "size": edge.size, "made": 5}
    return writer.finish(UP, facts, edge.origin, (key_of or edge).key)  # type: ignore[arg-type]


async def test_a_bundle_is_taken_and_answered(desk: Desk) -> None:
    made = await joined(desk.served, Edge("carried"))
    made.edge.issue(1)
    for _ in range(2):
        answer = await desk.post("/bundles", _bundle(made.edge))
        assert answer.status == 200
        assert answer.head["Edge-Records"] == f"0-{made.edge.size}/{made.edge.size}"
        reader = BundleReader(answer.content)
        manifest = reader.verified(DOWN, desk.served.central.authority.identity.vkey)
        assert (manifest.origin, manifest.stop) == (made.edge.origin, made.edge.size)
        assert reader.entry(RECEIPT) is not None
        assert reader.entry(DESIRED) is not None
    again = await desk.ask("GET", f"/gateways/{place(made.edge.origin)}/bundle")
    assert BundleReader(again.content).entry(RECEIPT) == reader.entry(RECEIPT)


async def test_a_bundle_that_is_not_the_gateways_changes_nothing(desk: Desk) -> None:
    made = await joined(desk.served, Edge("carried"))
    assert (await desk.post("/bundles", _bundle(made.edge, key_of=Edge("two")))).status == 422
    assert (await desk.post("/bundles", _bundle(Edge("stranger")))).status == 404
    cut = _bundle(made.edge)[:-200]
    assert (await desk.post("/bundles", cut)).status == 400
    assert (await desk.get(f"/gateways/{place(made.edge.origin)}")).json["records"] == 0


async def test_one_bundle_at_a_time(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await joined(desk.served, Edge("carried"))
    content = _bundle(made.edge)
    take = desk.served.bundles.take
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(archive: bytes) -> object:
        begun.set()
        await go_on.wait()
        return await take(archive)

    monkeypatch.setattr(desk.served.bundles, "take", slow)
    first = asyncio.create_task(desk.post("/bundles", content))
    await asyncio.wait_for(begun.wait(), 30)
    second = asyncio.create_task(desk.post("/bundles", content))
    await asyncio.wait({second}, timeout=20)
    go_on.set()
    assert ((await second).status, (await second).head.get("Retry-After")) == (503, "5")
    assert (await first).status == 200
    assert (await desk.post("/bundles", content)).status == 200


async def test_the_same_key_twice_at_once_is_one_change(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = desk.served.central.registry
    make = registry.make_code
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(**words: object) -> object:
        begun.set()
        await go_on.wait()
        return await make(**words)  # type: ignore[arg-type]

    monkeypatch.setattr(registry, "make_code", slow)
    first = asyncio.create_task(desk.post("/codes", {}, Idempotency_Key="key-number-3"))
    await asyncio.wait_for(begun.wait(), 30)
    second = asyncio.create_task(desk.post("/codes", {}, Idempotency_Key="key-number-3"))
    await asyncio.wait({second}, timeout=20)
    go_on.set()
    assert (await second).status == 409
    assert (await first).status == 201
    assert len((await desk.get("/codes")).items) == 1


async def test_a_long_answer_is_made_again_instead_of_kept(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    made = await joined(desk.served, Edge("carried"))
    content = _bundle(made.edge)
    first = await desk.post("/bundles", content, Idempotency_Key="key-number-4")
    again = await desk.post("/bundles", content, Idempotency_Key="key-number-4")
    assert (again.content, again.head["Idempotent-Replayed"]) == (first.content, "true")
    monkeypatch.setattr("sync.central.rest.MOST_KEPT", 100)
    for _ in range(2):
        long = await desk.post("/bundles", content, Idempotency_Key="key-number-5")
        assert long.status == 200
        assert "Idempotent-Replayed" not in long.head

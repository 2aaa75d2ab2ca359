"""What records mean, without a database."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.errors import IntegrityError
from gateway.journal.records import CaRequested, CrlPublished, PolicyApplied, Record, Released, Void
from gateway.journal.tip import serial_column
from gateway.pki.crl import Reason
from sync.central.projection import Issuer, Known, clashes, needed_intents, project, read_names, readable
from sync.central.rows import ISSUED, VOID, Kept
from sync.conflicts import DuplicateIdentity, Identity, SharedKey
from tests.support.edge import START_MS, Edge


def records_of(edge: Edge) -> list[Record]:
    records, aside = readable(Kept(seq, b"", body, 0) for seq, body in enumerate(edge.records))
    assert not aside
    return records


def known(edge: Edge, **changes: object) -> Known:
    return replace(Known(edge.origin, {1: Issuer(edge.key_id, edge.ca_key.public_key())}), **changes)  # type: ignore[arg-type]


# Reading.


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"kind":"from-the-future","seq":3,"time":1}', "not a journal record"),
        (b"\xff\x00", "not a journal record"),
        (b"", "not a journal record"),
        (b'{"kind": "stopped","seq":3,"time":1}', "canonical"),
        (b'{"kind":"stopped","seq":4,"time":1}', "record 4"),
        (b'{"kind":"fenced","reason":"a\\u0000b","seq":3,"time":1}', "NUL"),
    ],
)
def test_what_cannot_be_read_is_set_aside_with_the_reason(body: bytes, said: str) -> None:
    good = Kept(2, b"", b'{"kind":"stopped","seq":2,"time":1}', 0)
    records, aside = readable([good, Kept(3, b"", body, 0)])
    assert [record.seq for record in records] == [2]
    assert said in aside[3]


def test_intents_are_asked_for_where_they_are_not_among_the_records() -> None:
    edge = Edge()
    last = edge.issue(1)
    records = records_of(edge)
    assert needed_intents(records) == set()
    assert needed_intents(records[last:]) == {last - 1}


# Certificates.


def test_an_issued_certificate_becomes_a_row_with_all_that_is_searched_for() -> None:
    edge = Edge()
    seq = edge.issue(5, device="SN-5", predecessor=4)
    done = project(records_of(edge), known(edge))
    (row,) = done.certificates.values()
    assert (row.serial, row.issuer, row.origin) == (serial_column(f"{edge.serial(5):x}"), edge.key_id, edge.origin)
    assert (row.state, row.generation, row.intent, row.closing) == (ISSUED, 1, seq - 1, seq)
    assert (row.subject, row.sans, row.device) == ("serialNumber=SN-5,CN=device-5", "DNS:device-5.example", "SN-5")
    assert (row.profile, row.requester, row.policy_version, row.disputed) == ("tls-client", "token:1", 1, "")
    assert (row.not_before, row.not_after) == (START_MS, START_MS + 365 * 86_400_000)
    assert row.predecessor == serial_column(f"{edge.serial(4):x}")
    assert done.identities[0].device == "SN-5"
    assert not done.aside


def test_an_intent_from_earlier_is_enough() -> None:
    edge = Edge()
    last = edge.issue(1)
    records = records_of(edge)
    done = project(records[last:], known(edge, intents={last - 1: records[last - 1]}, policies=records[1:2]))
    assert len(done.certificates) == 1
    assert not done.aside


def test_a_void_serial_has_a_row_and_gives_its_quota_back() -> None:
    edge = Edge()
    edge.issue(1)
    edge.void(2)
    done = project(records_of(edge), known(edge))
    assert [row.state for row in done.certificates.values()] == [ISSUED, VOID]
    assert done.tallies == {"profile:tls-client": 1}


def test_a_certificate_without_a_device_id_is_no_identity() -> None:
    edge = Edge()
    edge.issue(1)
    assert project(records_of(edge), known(edge)).identities == []


def test_a_certificate_that_the_ca_did_not_sign_is_forged() -> None:
    edge = Edge()
    intent = edge.plan(1)
    seq = edge.add(edge.sign(intent, edge.add(intent), key=Edge("two").ca_key))
    done = project(records_of(edge), known(edge))
    assert "not signed" in done.forged[seq]
    assert seq in done.aside
    assert not done.certificates
    assert len(project(records_of(edge), known(edge), verify=False).certificates) == 1


def contradictions() -> dict[str, object]:
    def other_serial(edge: Edge) -> None:
        intent = edge.plan(1)
        edge.add(replace(edge.sign(intent, edge.add(intent)), serial="7"))

    def other_tbs(edge: Edge) -> None:
        intent = edge.plan(1, serial="7")
        edge.add(edge.sign(intent, edge.add(intent)))

    def other_key(edge: Edge) -> None:
        edge.issue(1, spki_digest=bytes(32))

    def other_digest(edge: Edge) -> None:
        intent = edge.plan(1)
        edge.add(replace(edge.sign(intent, edge.add(intent)), certificate_digest=bytes(32)))

    def no_tbs(edge: Edge) -> None:
        edge.issue(1, tbs=b"\x30\x00")

    def no_algorithm(edge: Edge) -> None:
        edge.issue(1, algorithm="NONE")

    def no_generation(edge: Edge) -> None:
        edge.issue(1, generation=2)

    def no_serial(edge: Edge) -> None:
        intent = replace(edge.plan(1), predecessor="not hex")
        edge.add(edge.sign(intent, edge.add(intent)))

    def no_intent(edge: Edge) -> None:
        edge.add(Void(0, "7", "why"))

    def other_quota(edge: Edge) -> None:
        intent = edge.plan(1)
        edge.add(Void(edge.add(intent), intent.serial, "why", ("another",)))

    def long_profile(edge: Edge) -> None:
        edge.issue(1, profile="x" * 256)

    def no_reason(edge: Edge) -> None:
        edge.revoke(1, "bad mood")

    def unknown_ca(edge: Edge) -> None:
        edge.add(Released("7", 9, "operator"))

    return {name: each for name, each in locals().items() if callable(each)}


@pytest.mark.parametrize("name", contradictions())
def test_a_record_that_contradicts_is_set_aside_and_the_next_one_is_not(name: str) -> None:
    edge = Edge()
    contradictions()[name](edge)  # type: ignore[operator]
    bad = edge.size - 1
    edge.issue(50)
    done = project(records_of(edge), known(edge))
    assert bad in done.aside
    assert not done.forged
    assert [row.subject for row in done.certificates.values()] == ["CN=device-50"]


def test_a_quota_with_a_name_too_long_counts_nothing() -> None:
    edge = Edge()
    intent = edge.plan(1, quota=("a", "x" * 256))
    seq = edge.add(intent)
    done = project(records_of(edge), known(edge))
    assert seq in done.aside
    assert done.tallies == {}


def test_a_name_that_nobody_can_read_is_an_integrity_error() -> None:
    with pytest.raises(IntegrityError, match="cannot be read"):
        read_names(b"\x30\x03\x02\x01\x00", "7")


def test_a_certificate_without_alternative_names_has_none() -> None:
    edge = Edge()
    tbs = edge.ca.tbs_certificate_bytes
    assert read_names(tbs, "7").sans == ""


# Policy.


def test_a_certificate_is_judged_by_the_policy_version_in_its_record() -> None:
    edge = Edge()
    edge.issue(1, policy_version=9)
    edge.add(PolicyApplied(9, "central", bytes(32), START_MS + 1))
    edge.now_ms += 3_600_000
    edge.issue(2, policy_version=9)
    edge.issue(3)
    done = project(records_of(edge), known(edge))
    assert [row.disputed for row in done.certificates.values()] == [
        "issued under version 9 of the policy, which was not in force",
        "issued after version 9 of the policy had expired",
        "",
    ]
    assert [row.version for row in done.policies] == [1, 9]


# Words, events, lists.


def test_the_words_about_a_certificate_are_joined() -> None:
    edge = Edge()
    edge.revoke(1, "certificateHold")
    edge.add(Released(f"{edge.serial(1):x}", 1, "operator"))
    edge.revoke(2, "superseded", by="first")
    last = edge.revoke(2, "keyCompromise", by="second")
    done = project(records_of(edge), known(edge))
    first, second = done.words.values()
    assert first[0].reason is None
    assert (second[0].reason, second[0].number, second[1:]) == (Reason.KEY_COMPROMISE, last, (1, "second"))


def test_a_request_for_a_ca_certificate_is_an_event() -> None:
    edge = Edge()
    seq = edge.add(CaRequested(2, b"csr", "operator"))
    (event,) = project(records_of(edge), known(edge)).events
    assert (event.kind, event.seq, event.generation, event.content) == ("ca-requested", seq, 2, b"csr")


def test_of_each_list_the_highest_number_counts() -> None:
    edge = Edge()
    for scope, number in (("full", 5), ("full", 7), ("full", 6), ("delta", 8)):
        edge.add(CrlPublished(1, scope, number, 1, 2, bytes(32), 0))
    edge.add(CrlPublished(1, "x" * 300, 9, 1, 2, bytes(32), 0))
    done = project(records_of(edge), known(edge))
    assert {(row.scope, row.number) for row in done.announced.values()} == {("full", 7), ("delta", 8)}
    assert list(done.aside) == [edge.size - 1]


def test_a_record_that_means_nothing_here_is_not_set_aside() -> None:
    edge = Edge()
    done = project(records_of(edge), known(edge))
    assert (done.aside, done.certificates) == ({}, {})


# Identities.


def identity(number: int, device: str, key: str, origin: str = "a") -> Identity:
    return Identity(number, origin, f"{number:x}", device, key.encode())


def test_one_duplicate_and_one_shared_key_are_found_for_each_new_certificate() -> None:
    before = [identity(1, "dev-1", "k1", "b"), identity(2, "dev-2", "k2", "b"), identity(3, "dev-1", "k3", "b")]
    new = [identity(10, "dev-1", "k2"), identity(11, "dev-9", "k9")]
    found = clashes(new, before)
    assert [type(each) for each in found] == [DuplicateIdentity, SharedKey]
    assert {each.second.serial for each in found} == {"a"}


def test_two_new_certificates_are_compared_with_each_other() -> None:
    (found,) = clashes([identity(1, "dev-1", "k"), identity(2, "dev-2", "k")], [])
    assert isinstance(found, SharedKey)


def test_a_device_with_thousands_of_keys_costs_no_more_than_one() -> None:
    """The same answer as comparing with all of them: of two different keys, one differs from any third."""
    before = [identity(number, "dev", f"k{number}", "b") for number in range(3_000)]
    new = [identity(10_000 + number, "dev", f"k{number}") for number in range(500)]
    assert len(clashes(new, before)) == 500


def test_a_key_of_thousands_of_devices_costs_no_more_than_one() -> None:
    before = [identity(number, f"dev{number}", "k") for number in range(3_000)]
    new = [identity(10_000 + number, f"dev{number}", "k") for number in range(500)]
    assert len(clashes(new, before)) == 500


def test_a_new_key_from_the_same_gateway_and_a_known_one_from_another_are_fine() -> None:
    assert clashes([identity(2, "dev", "k2"), identity(3, "dev", "k1", "b")], [identity(1, "dev", "k1")]) == [
        DuplicateIdentity(identity(2, "dev", "k2"), identity(3, "dev", "k1", "b"))
    ]
    assert clashes([identity(2, "dev", "k2")], [identity(1, "dev", "k1")]) == []
    assert clashes([identity(2, "dev", "k1", "b")], [identity(1, "dev", "k1")]) == []

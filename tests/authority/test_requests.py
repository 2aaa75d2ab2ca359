"""Which requests are one and the same."""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import replace

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from gateway.authority.requests import EnrollmentRequest, Lane, Operation, Requester, RequesterKind
from gateway.pki.csr import CertificationRequest
from tests.support.authority import device_csr

TOKEN = Requester(RequesterKind.TOKEN, "token:a")


def asked(csr: CertificationRequest | None = None, **changes: object) -> EnrollmentRequest:
    request = EnrollmentRequest(csr or device_csr(), "ldevid", TOKEN, Operation.ENROLL, "est")
    return replace(request, **changes)  # type: ignore[arg-type]


def with_san(*names: x509.GeneralName) -> EnrollmentRequest:
    return asked(replace(device_csr(), san=names))


def test_a_retry_that_signed_its_csr_anew_is_the_same_request() -> None:
    first, second = device_csr(), device_csr()
    assert first.der != second.der
    assert asked(first).idempotency_key == asked(second).idempotency_key


@pytest.mark.parametrize(
    "changes",
    [{"operation": Operation.REENROLL}, {"protocol": "scep"}, {"lane": Lane.LINE}],
    ids=["operation", "protocol", "lane"],
)
def test_how_it_was_asked_does_not_make_another_request(changes: dict[str, object]) -> None:
    assert asked(**changes).idempotency_key == asked().idempotency_key


@pytest.mark.parametrize(
    "other",
    [
        asked(profile="tls-client"),
        asked(transaction=b"1"),
        asked(requester=replace(TOKEN, identity="token:b")),
        asked(device_csr(key=1)),
        asked(device_csr("CN=other,serialNumber=SN-7")),
        asked(device_csr(san=["DNS:a.example"])),
    ],
    ids=["profile", "transaction", "identity", "key", "subject", "san"],
)
def test_what_is_asked_by_whom_makes_another_request(other: EnrollmentRequest) -> None:
    assert other.idempotency_key != asked().idempotency_key


NAMES: list[x509.GeneralName] = [
    x509.DNSName("a"),
    x509.RFC822Name("a"),
    x509.UniformResourceIdentifier("a"),
    x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    x509.IPAddress(ipaddress.ip_address("::1")),
    x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
    x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x05\x00"),
    x509.OtherName(x509.ObjectIdentifier("1.2.4"), b"\x05\x00"),
    x509.DirectoryName(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a")])),
]


def test_every_kind_of_name_tells_requests_apart() -> None:
    assert len({with_san(name).idempotency_key for name in NAMES}) == len(NAMES)


@given(st.lists(st.sampled_from(NAMES), max_size=4), st.lists(st.sampled_from(NAMES), max_size=4))
def test_two_lists_of_names_share_a_key_only_if_equal(one: list[x509.GeneralName], two: list[x509.GeneralName]) -> None:
    assert (with_san(*one).idempotency_key == with_san(*two).idempotency_key) == (one == two)


def test_the_parts_cannot_be_shifted_into_each_other() -> None:
    one = asked(profile="ab", requester=replace(TOKEN, identity="c"))
    two = asked(profile="b", requester=replace(TOKEN, identity="ca"))
    assert one.idempotency_key != two.idempotency_key


def test_the_journal_gets_the_digest_of_the_csr_as_received() -> None:
    request = asked()
    assert request.csr_digest == hashlib.sha256(request.csr.der).digest()


def test_the_key_of_a_request_stays_the_same_over_updates() -> None:
    """It stands in the journal: a retry after an update must find what was issued before it."""
    csr = replace(device_csr(), spki=b"spki", subject_der=b"subject", san=(x509.DNSName("a.example"),))
    parts = (b"token:a", b"ldevid", b"spki", b"subject", b"", b"DNSName:a.example")
    expected = hashlib.sha256(b"".join(len(part).to_bytes(4, "big") + part for part in parts)).digest()
    assert asked(csr).idempotency_key == expected


def test_the_line_goes_before_renewals_and_these_before_the_rest() -> None:
    assert [lane.name for lane in sorted(set(Lane))] == ["LINE", "RENEWAL", "BULK"]


def test_the_words_of_the_journal_and_of_the_configuration_stay() -> None:
    """An auditor reads the operations in old records, an operator wrote the requesters into the policy."""
    assert [operation.value for operation in Operation] == ["enroll", "reenroll", "server-keygen"]
    kinds = ["idevid", "own-certificate", "station", "token", "order", "operator", "gateway"]
    assert [kind.value for kind in RequesterKind] == kinds

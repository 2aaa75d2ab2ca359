"""What a gateway does with a document from central: every way not to obey, and the policy it ends up with."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.authority.policy import ClockDoubt, Policy
from gateway.authority.policy_tables import policy_from_tables
from gateway.errors import ConfigError, IntegrityError, MalformedRequest
from gateway.journal.checkpoint import verifier_key
from sync import desired as module
from sync.desired import (
    Apply,
    InForce,
    NothingNew,
    PolicyPart,
    RefuseDocument,
    judge,
    open_desired,
    policy_of,
    sign_desired,
)
from tests.sync.test_document import full

KEY = Ed25519PrivateKey.from_private_bytes(bytes(32))
OTHER = Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
VKEY = verifier_key("central", KEY.public_key())
NOW = 1_850_000_000_000
LOCAL = policy_from_tables({"plc": {"base": "ldevid", "quota": 100}}, b"local" * 6 + b"xx", 4)
OWN = {"gateway-tls": {"base": "tls-server", "requesters": []}}


def decide(document: bytes, *, version: int = 0, digest: bytes = b"", now_ms: int = NOW) -> module.Verdict:
    return judge(InForce(VKEY, version, digest), document, "plant/7", now_ms, local=LOCAL, own=OWN)


def refusal(document: bytes, **in_force: int) -> RefuseDocument:
    verdict = decide(document, **in_force)
    assert isinstance(verdict, RefuseDocument)
    assert verdict.digest == hashlib.sha256(document).digest()
    return verdict


def test_a_newer_document_is_applied() -> None:
    document = sign_desired(full(), "central", KEY)
    verdict = decide(document, version=2)
    assert isinstance(verdict, Apply)
    assert (verdict.desired, verdict.digest) == (full(), hashlib.sha256(document).digest())
    assert verdict.policy.version == 2


def test_the_document_in_force_is_nothing_new() -> None:
    document = sign_desired(full(), "central", KEY)
    assert decide(document, version=3, digest=hashlib.sha256(document).digest()) == NothingNew()


def test_another_content_of_the_same_version_is_refused() -> None:
    verdict = refusal(sign_desired(full(), "central", KEY), version=3)
    assert (verdict.version, "another content" in verdict.reason) == (3, True)


def test_an_older_document_is_refused() -> None:
    assert "older" in refusal(sign_desired(full(), "central", KEY), version=4).reason


def test_a_document_that_another_key_signed_is_refused_without_believing_its_version() -> None:
    verdict = refusal(sign_desired(full(), "central", OTHER))
    assert (verdict.version, "signature" in verdict.reason) == (0, True)


def test_a_changed_octet_is_refused() -> None:
    assert "signature" in refusal(sign_desired(full(), "central", KEY).replace(b'"plc":5', b'"plc":6')).reason


def test_a_document_for_another_gateway_is_refused() -> None:
    assert "plant/8" in refusal(sign_desired(replace(full(), origin="plant/8"), "central", KEY)).reason


def test_an_expired_document_is_refused() -> None:
    document = sign_desired(full(), "central", KEY)
    assert isinstance(decide(document, now_ms=full().expires - 1), Apply)
    assert "expired" in refusal(document, now_ms=full().expires).reason
    assert isinstance(decide(sign_desired(replace(full(), expires=0), "central", KEY)), Apply)


def test_a_document_with_one_part_that_cannot_be_read_is_refused_as_a_whole() -> None:
    verdict = refusal(sign_desired(replace(full(), makers=("none",)), "central", KEY))
    assert (verdict.version, "PEM" in verdict.reason) == (3, True)


@pytest.mark.parametrize(
    ("part", "named"),
    [
        (PolicyPart(1, {"plc": {"qouta": 1}}), "qouta"),
        (PolicyPart(1, {"gateway-tls": {}}), "gateway-tls"),
        (PolicyPart(1, {}, labels={"line": "nothing"}), "nothing"),
        (PolicyPart(1, {}, default_profile="nothing"), "nothing"),
        (PolicyPart(1, {"plc": {"base": "ldevid", "allow": {"files": {"CN": "missing.txt"}}}}), "missing.txt"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(part: PolicyPart, named: str) -> None:
    assert named in refusal(sign_desired(replace(full(), policy=part, quotas={}), "central", KEY)).reason


def test_too_many_octets_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_STATEMENT_OCTETS", 10)
    with pytest.raises(MalformedRequest, match="at most 10"):
        open_desired(sign_desired(full(), "central", KEY), VKEY)


def test_a_statement_of_another_kind_is_no_document() -> None:
    with pytest.raises(IntegrityError):
        open_desired(module.sign_statement("joined", full().to_bytes(), "central", KEY), VKEY)


# The policy.


def policy(**changes: object) -> Policy:
    return policy_of(replace(full(), **changes), LOCAL, OWN)  # type: ignore[arg-type]


def test_the_documents_policy_takes_the_place_of_the_local_one() -> None:
    made = policy()
    assert (made.version, made.expires_ms, made.clock_doubt, made.clock_tolerance_ms) == (
        2, full().expires, ClockDoubt.STOP, 60_000,
    )  # fmt: skip
    assert made.rule("plc").quota == 5  # the granted number goes before the one in the table
    assert made.rule("gateway-tls").requesters == frozenset()
    assert made.blocked_keys == full().blocked_keys


def test_an_allow_list_comes_with_the_document() -> None:
    table = {"base": "ldevid", "allow": {"files": {"CN": "shipment-17.txt"}}}
    assert policy(policy=PolicyPart(1, {"plc": table})).rule("plc").allow.values["CN"] == {"SN-1"}


def test_without_a_policy_the_local_one_counts_with_what_central_grants() -> None:
    made = policy(policy=None)
    assert (made.version, made.expires_ms) == (4, full().expires)
    assert made.rule("plc").quota == 5
    assert policy(policy=None, quotas={}).rule("plc").quota == 100
    assert made.blocked_keys == full().blocked_keys


def test_a_quota_for_a_profile_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="plx"):
        policy(quotas={"plx": 1})


def test_the_digest_tells_policies_apart() -> None:
    made = [
        policy(), policy(policy=None), policy(quotas={}), policy(blocked_keys=frozenset()), policy(allow_lists={}),
        policy_of(replace(full(), policy=None), replace(LOCAL, digest=bytes(32))),
    ]  # fmt: skip
    assert len({each.digest for each in made}) == len(made)
    assert policy(version=9, issued=1, commands=()).digest == policy().digest

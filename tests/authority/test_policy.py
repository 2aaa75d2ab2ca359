"""Every reason to say no, and that nothing else is one."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from gateway.authority.policy import (
    NAME_CHANGE,
    REENROLL_SUBJECT_CHANGE,
    RENEW_AFTER_EXPIRY,
    Allow,
    Decision,
    Deny,
    LintLevel,
    NeedsApproval,
    Policy,
    ProfileRule,
    allow_list,
    check_standing,
    decide,
    token_names,
)
from gateway.authority.requests import EnrollmentRequest, Holder, Operation, Requester, RequesterKind, TokenGrant
from gateway.errors import BadKey, Forbidden, GatewayError, NotFound, Unauthenticated
from gateway.pki.csr import CertificationRequest
from gateway.pki.extensions import general_name
from gateway.pki.profiles import BUILTIN_PROFILES
from tests.support.authority import GATEWAY, OPERATOR, START_MS, device_csr, policy_of

CSR = device_csr("CN=plc-7,serialNumber=SN-7", ["DNS:plc-7.example"])
PLAIN = device_csr("CN=plc-7,serialNumber=SN-7")
ENDS_MS = START_MS + 1_000_000


def holder(csr: CertificationRequest = CSR, **changes: object) -> Holder:
    made = Holder(
        subject_der=csr.subject_der,
        names=frozenset(general_name(name) for name in csr.san),
        device_serial="SN-7",
        spki=b"another key",
        not_after_ms=ENDS_MS,
        serial=1,
        profile="ldevid",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def own(csr: CertificationRequest = CSR, **changes: object) -> Requester:
    return Requester(RequesterKind.OWN, "own:1", holder=holder(csr, **changes))


def idevid(**changes: object) -> Requester:
    return Requester(RequesterKind.IDEVID, "idevid:1", holder=holder(profile="", **changes))


def station(**changes: object) -> Requester:
    return Requester(RequesterKind.STATION, "station:1", holder=holder(**{"profile": "station", **changes}))


def token(subject: str = "", *, profile: str = "ldevid", spent: bool = False) -> Requester:
    return Requester(RequesterKind.TOKEN, "token:t", token=TokenGrant("t", profile, subject, spent))


def decision(
    requester: Requester,
    csr: CertificationRequest = CSR,
    *,
    policy: Policy | None = None,
    profile: str = "ldevid",
    operation: Operation = Operation.ENROLL,
    now_ms: int = START_MS,
    **table: object,
) -> Decision:
    """What ``policy`` (or one whose rule for ``profile`` has the keys ``table``) says."""
    request = EnrollmentRequest(csr, profile, requester, operation, "est")
    return decide(policy or policy_of({profile: table}), request, now_ms=now_ms)


def allowed(answer: Decision) -> tuple[str, ...]:
    assert isinstance(answer, Allow), answer
    return answer.leniencies


def denied(answer: Decision, error: type[GatewayError], text: str) -> None:
    assert isinstance(answer, Deny), answer
    assert type(answer.error) is error
    assert text in str(answer.error)


# The policy and the key.


def test_an_unknown_profile_is_not_found() -> None:
    denied(decision(OPERATOR, profile="plc", policy=policy_of()), NotFound, "'plc'")


def test_a_key_type_the_profile_does_not_list_is_a_bad_key() -> None:
    denied(decision(OPERATOR, key_types=["p-384"]), BadKey, "p-384")


def test_a_blocked_key_is_refused_even_to_the_gateway() -> None:
    policy = policy_of(blocked_keys=frozenset({hashlib.sha256(CSR.spki).digest()}))
    for requester in (OPERATOR, GATEWAY):
        assert isinstance(answer := decision(requester, policy=policy), Deny)
        assert isinstance(answer.error, BadKey)


def test_blocking_one_key_leaves_the_others() -> None:
    allowed(decision(OPERATOR, policy=policy_of(blocked_keys=frozenset({bytes(32)}))))


@pytest.mark.parametrize(("now_ms", "good"), [(ENDS_MS - 1, True), (ENDS_MS, False)])
def test_an_expired_policy_issues_nothing_more(now_ms: int, good: bool) -> None:
    answer = decision(OPERATOR, policy=policy_of(expires_ms=ENDS_MS), now_ms=now_ms)
    if good:
        allowed(answer)
    else:
        denied(answer, Forbidden, "expired")


def test_an_expired_policy_does_not_stop_the_gateways_own_certificates() -> None:
    allowed(decision(GATEWAY, policy=policy_of(expires_ms=1)))


def test_the_gateway_is_bound_by_no_list_and_no_approval() -> None:
    allowed(decision(GATEWAY, requesters=["idevid"], approval=True, allow={"serialNumber": ["other"]}))


# Who may ask.


@pytest.mark.parametrize("requester", [OPERATOR, token(), own(), idevid(), station()], ids=lambda each: each.kind.name)
def test_a_requester_of_a_kind_that_is_not_listed_is_forbidden(requester: Requester) -> None:
    others = [kind.value for kind in RequesterKind if kind not in (requester.kind, RequesterKind.GATEWAY)]
    denied(decision(requester, requesters=others), Forbidden, requester.kind.value)


@pytest.mark.parametrize("requester", [OPERATOR, token(), own(), idevid(), station()], ids=lambda each: each.kind.name)
def test_every_listed_kind_gets_an_ldevid(requester: Requester) -> None:
    assert allowed(decision(requester)) == ()


@pytest.mark.parametrize("requester", [token(), idevid()], ids=lambda each: each.kind.name)
def test_re_enrolment_needs_the_certificate_that_is_renewed(requester: Requester) -> None:
    denied(decision(requester, operation=Operation.REENROLL), Forbidden, "simpleenroll")


# Renewal, RFC 7030 section 4.2.2.


@pytest.mark.parametrize("operation", [Operation.ENROLL, Operation.REENROLL])
def test_a_renewal_must_not_change_the_subject(operation: Operation) -> None:
    csr = device_csr("CN=other,serialNumber=SN-7", ["DNS:plc-7.example"])
    denied(decision(own(), csr, operation=operation), Forbidden, "subject differs")


@pytest.mark.parametrize("san", [[], ["DNS:other.example"], ["DNS:plc-7.example", "DNS:other.example"]])
def test_a_renewal_must_not_change_the_alternative_names(san: list[str]) -> None:
    csr = device_csr("CN=plc-7,serialNumber=SN-7", san)
    denied(decision(own(), csr, operation=Operation.REENROLL), Forbidden, "subjectAltName differs")


@pytest.mark.parametrize("csr", [device_csr("CN=x,serialNumber=SN-7"), PLAIN], ids=["subject", "san"])
def test_a_switch_lets_a_renewal_change_its_names_and_says_so(csr: CertificationRequest) -> None:
    answer = decision(own(), csr, operation=Operation.REENROLL, leniency=[REENROLL_SUBJECT_CHANGE])
    assert allowed(answer) == (REENROLL_SUBJECT_CHANGE,)


def test_a_switch_that_did_not_have_to_act_is_not_named() -> None:
    assert allowed(decision(own(), leniency=[REENROLL_SUBJECT_CHANGE, RENEW_AFTER_EXPIRY])) == ()


def test_changed_names_are_still_bound_by_the_allow_list() -> None:
    csr = device_csr("CN=plc-7,serialNumber=SN-8")
    answer = decision(own(), csr, leniency=[REENROLL_SUBJECT_CHANGE], allow={"serialNumber": ["SN-7"]})
    denied(answer, Forbidden, "SN-8")


def test_names_that_the_profile_adds_need_not_be_asked_for_again() -> None:
    asked, held = device_csr("CN=plc-7"), device_csr("CN=plc-7", ["DNS:plc-7"])
    allowed(decision(own(held, profile="tls-server"), asked, profile="tls-server", operation=Operation.REENROLL))


@pytest.mark.parametrize(
    ("late_ms", "switch", "text"),
    [
        (0, False, ""),
        (1, False, "has expired"),
        (1, True, ""),
        (3_600_000, True, ""),
        (3_600_001, True, "too long ago"),
    ],
)
def test_an_expired_certificate_is_renewed_only_within_its_grace(late_ms: int, switch: bool, text: str) -> None:
    leniency = [RENEW_AFTER_EXPIRY] if switch else []
    answer = decision(own(), operation=Operation.REENROLL, now_ms=ENDS_MS + late_ms, leniency=leniency, renew_grace="1h")
    if text:
        denied(answer, Forbidden, text)
    else:
        assert allowed(answer) == ((RENEW_AFTER_EXPIRY,) if late_ms else ())


@pytest.mark.parametrize("requester", [own(spki=CSR.spki), idevid(spki=CSR.spki)], ids=lambda each: each.kind.name)
def test_a_profile_may_want_a_new_key(requester: Requester) -> None:
    allowed(decision(requester))
    denied(decision(requester, allow_key_reuse=False), BadKey, "key")


@pytest.mark.parametrize("requester", [own(), idevid()], ids=lambda each: each.kind.name)
def test_a_new_key_is_good_for_a_profile_that_wants_one(requester: Requester) -> None:
    allowed(decision(requester, allow_key_reuse=False))


def test_a_requester_whose_certificate_was_not_read_is_not_known() -> None:
    for kind in (RequesterKind.OWN, RequesterKind.IDEVID):
        denied(decision(Requester(kind, "x")), Unauthenticated, "not read")


# Another profile, another kind of certificate.


def test_a_certificate_does_not_entitle_to_another_profile() -> None:
    denied(decision(own(), profile="tls-client"), Forbidden, "does not entitle")


def test_a_rule_may_name_profiles_whose_holders_may_ask_for_it() -> None:
    policy = policy_of({"tls-client": {"from_profiles": ["ldevid"], "subject_allowed": ["CN", "serialNumber"]}})
    allowed(decision(own(), profile="tls-client", policy=policy))
    csr = device_csr("CN=other,serialNumber=SN-7")
    denied(decision(own(), csr, profile="tls-client", policy=policy), Forbidden, "subject differs")


def test_an_ldevid_never_becomes_a_station() -> None:
    denied(decision(own(), profile="station"), Forbidden, "does not entitle")


@pytest.mark.parametrize("requester", [idevid(), station(), own(profile="other")], ids=lambda each: each.kind.name)
def test_an_expired_certificate_proves_nothing_for_a_first_one(requester: Requester) -> None:
    answer = decision(requester, now_ms=ENDS_MS + 1, leniency=[RENEW_AFTER_EXPIRY])
    denied(answer, Forbidden, "requester has expired")


def test_an_idevid_speaks_only_for_its_own_serial_number() -> None:
    denied(decision(idevid(), device_csr("CN=x,serialNumber=SN-8")), Forbidden, "'SN-7'")
    denied(decision(idevid(), device_csr("CN=x")), Forbidden, "'SN-7'")
    denied(decision(idevid(device_serial=None)), Forbidden, "no serialNumber")


def test_a_rule_may_unbind_the_serial_number_of_an_idevid() -> None:
    allowed(decision(idevid(), device_csr("CN=x,serialNumber=SN-8"), bind_serial=False))


def test_a_station_asks_for_devices_with_any_names_within_the_allow_list() -> None:
    csr = device_csr("CN=x,serialNumber=SN-99")
    allowed(decision(station(), csr))
    allowed(decision(station(), csr, operation=Operation.REENROLL))
    denied(decision(station(), csr, allow={"serialNumber": ["SN-1*"]}), Forbidden, "SN-99")


def test_a_station_with_a_token_needs_no_certificate() -> None:
    requester = Requester(RequesterKind.STATION, "token:t", token=TokenGrant("t", "ldevid"))
    allowed(decision(requester))
    denied(decision(requester, profile="idevid"), Forbidden, "not for profile")


def test_a_station_renews_its_own_certificate_under_the_rules_of_renewal() -> None:
    csr = device_csr("CN=station-1")
    requester = Requester(RequesterKind.STATION, "station:1", holder=holder(csr, profile="station"))
    table = {"requesters": ["station"]}
    allowed(decision(requester, csr, profile="station", **table))
    denied(decision(requester, device_csr("CN=station-2"), profile="station", **table), Forbidden, "subject differs")


# Tokens.


def test_a_token_is_good_for_its_profile_only() -> None:
    denied(decision(token(profile="tls-client")), Forbidden, "not for profile ldevid")


def test_a_spent_token_is_good_for_nothing_new() -> None:
    denied(decision(token(spent=True)), Unauthenticated, "used up")


def test_a_token_requester_without_a_token_is_not_known() -> None:
    denied(decision(Requester(RequesterKind.TOKEN, "token:t")), Unauthenticated, "no token")


@pytest.mark.parametrize(
    ("subject", "csr", "fits"),
    [
        ("CN=plc-7,serialNumber=SN-7", CSR, True),
        ("CN=plc-7", CSR, False),
        ("CN=", CSR, False),
        ("=", CSR, False),
        ("SN-7", CSR, True),
        ("SN-?", CSR, True),
        ("SN-8", CSR, False),
        ("plc-7", CSR, False),
        ("plc-*", device_csr("CN=plc-7"), True),
        ("plc-*", device_csr("O=Acme"), False),
        ("*", device_csr("CN=a,CN=b"), False),
    ],
)
def test_a_token_is_bound_to_its_subject(subject: str, csr: CertificationRequest, fits: bool) -> None:
    assert token_names(TokenGrant("t", "ldevid", subject), csr) is fits


def test_a_token_for_another_subject_is_forbidden() -> None:
    denied(decision(token("SN-8")), Forbidden, "another subject")
    allowed(decision(token("SN-7")))


# Allow-lists.


@pytest.mark.parametrize(
    ("allow", "text"),
    [
        ({"serialNumber": ("SN-7",)}, ""),
        ({"serialNumber": ("SN-1", "SN-[0-9]")}, ""),
        ({"serialNumber": ("sn-7",)}, "'SN-7'"),
        ({"serialNumber": ("SN",)}, "'SN-7'"),
        ({"serialNumber": ("N-7*",)}, "'SN-7'"),
        ({"serialNumber": ()}, "'SN-7'"),
        ({"CN": ("plc-*",)}, ""),
        ({"CN": ("pump-*",)}, "'plc-7'"),
        ({"DNS": ("*.EXAMPLE",)}, ""),
        ({"DNS": ("plc-7.example",)}, ""),
        ({"DNS": ("*.plant",)}, "'plc-7.example'"),
        ({"IP": ("10.*",)}, ""),
        ({"CN": ("plc-7",), "DNS": ("no",)}, "DNS"),
    ],
)
def test_an_allow_list_binds_the_kinds_it_lists(allow: dict[str, tuple[str, ...]], text: str) -> None:
    entries = allow_list(allow)
    assert entries
    if text:
        with pytest.raises(Forbidden, match=text):
            entries.check(CSR)
    else:
        entries.check(CSR)


@pytest.mark.parametrize("kind", ["serialNumber", "CN"])
def test_a_listed_subject_attribute_must_be_there(kind: str) -> None:
    with pytest.raises(Forbidden, match=f"needs {kind}"):
        allow_list({kind: ("*",)}).check(device_csr("O=Acme"))


def test_every_value_of_a_listed_kind_must_match() -> None:
    names = allow_list(
        {"DNS": ("a.example",), "IP": ("10.0.0.*",), "URI": ("urn:a:*",), "email": ("*@a.example",), "CN": ("a",)}
    )
    names.check(device_csr("CN=a", ["DNS:A.example", "IP:10.0.0.7", "URI:urn:a:1", "email:X@A.example"]))
    for other in ("DNS:b.example", "IP:10.0.1.7", "URI:urn:b:1", "email:x@b.example"):
        with pytest.raises(Forbidden):
            names.check(device_csr("CN=a", ["DNS:a.example", other]))
    with pytest.raises(Forbidden):
        names.check(device_csr("CN=a,CN=b"))


def test_entries_without_a_wildcard_are_looked_up_and_not_searched() -> None:
    """A list of a hundred thousand serial numbers must not cost more than one of ten."""
    entries = allow_list({"serialNumber": ("SN-1", "SN-2", "SN-[34]", "X?", "Y*")})
    assert entries.values == {"serialNumber": {"SN-1", "SN-2"}}
    assert len(entries.patterns["serialNumber"]) == 3


def test_an_empty_allow_list_binds_nobody() -> None:
    assert not allow_list({})
    allow_list({}).check(CSR)


# A person's word.


def test_a_rule_may_want_a_persons_approval_for_first_certificates() -> None:
    assert isinstance(decision(token(), approval=True), NeedsApproval)
    assert isinstance(decision(idevid(), approval=True), NeedsApproval)


def test_renewals_and_operators_need_no_approval() -> None:
    allowed(decision(own(), approval=True))
    allowed(decision(OPERATOR, approval=True))


def test_what_is_denied_never_waits_for_a_person() -> None:
    assert isinstance(decision(token(spent=True), approval=True), Deny)


def test_leniencies_of_the_csr_are_passed_on() -> None:
    csr = replace(CSR, leniencies=("csr-ber",))
    assert allowed(decision(OPERATOR, csr)) == ("csr-ber",)
    answer = decision(own(), csr, now_ms=ENDS_MS + 1, leniency=[RENEW_AFTER_EXPIRY])
    assert allowed(answer) == ("csr-ber", RENEW_AFTER_EXPIRY)
    assert allowed(decision(GATEWAY, csr)) == ("csr-ber",)


def test_an_attribute_that_is_no_text_matches_no_text() -> None:
    from cryptography import x509

    bits = x509.NameAttribute(x509.NameOID.X500_UNIQUE_IDENTIFIER, b"\x00\x01", x509.name._ASN1Type.BitString)
    assert not token_names(TokenGrant("t", "ldevid", "x"), replace(CSR, subject_der=x509.Name([bits]).public_bytes()))


def test_a_station_renews_its_own_certificate_where_holders_of_the_profile_may_renew() -> None:
    """A station is the holder of its certificate like everybody else; the builtin profile lists holders and no stations."""
    csr = device_csr("CN=station-1")
    requester = Requester(RequesterKind.STATION, "station:1", holder=holder(csr, profile="station"))
    allowed(decision(requester, csr, profile="station", operation=Operation.REENROLL))
    denied(decision(requester, device_csr("CN=station-2"), profile="station"), Forbidden, "subject differs")
    denied(decision(requester, csr, profile="station", requesters=["token"]), Forbidden, "not given to")


def test_a_station_makes_no_other_station() -> None:
    other = Requester(RequesterKind.STATION, "station:1", holder=holder(profile="line-3"))
    denied(decision(other, device_csr("CN=station-9"), profile="station"), Forbidden, "not given to")
    unnamed = Requester(RequesterKind.STATION, "token:t", token=TokenGrant("t", "station"))
    denied(decision(unnamed, device_csr("CN=station-9"), profile="station"), Forbidden, "not given to")


def test_where_the_gateway_makes_the_key_the_one_in_the_request_is_not_looked_at() -> None:
    policy = policy_of({"ldevid": {"key_types": ["rsa-2048"], "allow_key_reuse": False}})
    request = EnrollmentRequest(CSR, "ldevid", own(spki=CSR.spki), Operation.SERVER_KEYGEN, "est")
    assert isinstance(decide(policy, request, now_ms=START_MS), Deny)
    assert isinstance(decide(policy, request, now_ms=START_MS, key_follows=True), Allow)
    strange = replace(request, requester=own(device_csr("CN=other")))
    assert isinstance(decide(policy, strange, now_ms=START_MS, key_follows=True), Deny)


# What counts before everything else.


@pytest.mark.parametrize("profile", ["ldevid", "tls-client"])
def test_an_objection_to_the_certificate_is_the_answer(profile: str) -> None:
    requester = replace(idevid(), objection="revoked by its maker")
    denied(decision(requester, PLAIN, profile=profile), Forbidden, "revoked by its maker")


def test_a_certificate_with_a_blocked_key_proves_nothing() -> None:
    blocked = frozenset({hashlib.sha256(b"another key").digest()})
    for requester in (own(), idevid(), station()):
        denied(decision(requester, policy=policy_of(blocked_keys=blocked)), Forbidden, "key of the requester's certificate")
    allowed(decision(own(), policy=policy_of(blocked_keys=frozenset({bytes(32)})), operation=Operation.REENROLL))


def test_a_blocked_key_counts_before_an_earlier_answer() -> None:
    policy = policy_of(blocked_keys=frozenset({hashlib.sha256(CSR.spki).digest()}))
    check_standing(policy, OPERATOR)
    with pytest.raises(BadKey):
        check_standing(policy, OPERATOR, CSR.spki)


# A certificate that is none of a TLS client.


def test_a_servers_certificate_renews_itself_and_nothing_else() -> None:
    requester = own(renews_only=True)
    allowed(decision(requester, operation=Operation.REENROLL))
    for operation in (Operation.ENROLL, Operation.SERVER_KEYGEN):
        denied(decision(requester, operation=operation), Forbidden, "none of a TLS client")
    denied(decision(requester, profile="tls-client", from_profiles=["ldevid"]), Forbidden, "none of a TLS client")
    denied(decision(own(profile="station", renews_only=True)), Forbidden, "none of a TLS client")
    for csr in (PLAIN, device_csr("CN=plc-8,serialNumber=SN-7", ["DNS:plc-7.example"])):
        switch = {"leniency": [REENROLL_SUBJECT_CHANGE]}
        denied(decision(requester, csr, operation=Operation.REENROLL, **switch), Forbidden, "differs")
        assert allowed(decision(own(), csr, operation=Operation.REENROLL, **switch)) == (REENROLL_SUBJECT_CHANGE,)


def test_a_servers_certificate_changes_no_names() -> None:
    denied(rename(own(renews_only=True), allow_name_change=True), Forbidden, "none of a TLS client")


def test_a_station_without_client_usage_asks_for_no_device() -> None:
    denied(decision(station(renews_only=True)), Forbidden, "none of a TLS client")


# ChangeSubjectName (RFC 6402 section 2.8).

NEW = device_csr("CN=plc-8,serialNumber=SN-7", ["DNS:plc-8.example"])


def rename(
    requester: Requester,
    new: CertificationRequest = NEW,
    *,
    signed: CertificationRequest = CSR,
    operation: Operation = Operation.REENROLL,
    **table: object,
) -> Decision:
    request = EnrollmentRequest(new, "ldevid", requester, operation, "est", renamed_from=signed)
    return decide(policy_of({"ldevid": table}), request, now_ms=START_MS)


def test_a_change_of_names_needs_the_rule_and_is_recorded() -> None:
    denied(rename(own()), Forbidden, "does not permit a change of names")
    assert allowed(rename(own(), allow_name_change=True)) == (NAME_CHANGE,)


def test_a_change_of_names_begins_with_the_current_ones() -> None:
    denied(rename(own(), signed=PLAIN, allow_name_change=True), Forbidden, "subjectAltName differs")
    denied(rename(own(), signed=NEW, allow_name_change=True), Forbidden, "subject differs")


@pytest.mark.parametrize(
    ("subject", "device_serial", "good"),
    [
        ("CN=plc-8,serialNumber=SN-7", "SN-7", True),
        ("CN=plc-8,serialNumber=SN-8", "SN-7", False),
        ("CN=plc-8", "SN-7", False),
        ("CN=plc-8", None, True),
        ("CN=plc-8,serialNumber=SN-8", None, False),
    ],
)
def test_a_change_of_names_keeps_the_serial_number(subject: str, device_serial: str | None, good: bool) -> None:
    requester = own(device_serial=device_serial)
    answer = rename(requester, device_csr(subject), allow_name_change=True)
    if good:
        allowed(answer)
    else:
        denied(answer, Forbidden, "keep the subject's serialNumber")
    allowed(rename(requester, device_csr(subject), allow_name_change=True, bind_serial=False))


def test_new_names_must_be_on_the_allow_list() -> None:
    allow = {"DNS": ["plc-7.example"]}
    denied(rename(own(), allow_name_change=True, allow=allow), Forbidden, "plc-8.example")


def test_only_the_certificate_being_renewed_changes_names() -> None:
    for requester in (token(), idevid(), station(), own(profile="tls-client"), OPERATOR):
        answer = rename(requester, operation=Operation.ENROLL, allow_name_change=True, from_profiles=["tls-client"])
        denied(answer, Forbidden, "ChangeSubjectName")


def test_addresses_of_people_are_compared_without_regard_to_case() -> None:
    names = allow_list({"email": ("Anna@Example.com", "*@Plant.example")})
    for address in ("anna@example.COM", "bert@PLANT.example"):
        names.check(device_csr(san=[f"email:{address}"]))
    with pytest.raises(Forbidden, match="email"):
        names.check(device_csr(san=["email:anna@example.org"]))


def test_a_rule_without_more_words_is_the_safe_one() -> None:
    rule = ProfileRule(BUILTIN_PROFILES["ldevid"], frozenset())
    assert (rule.bind_serial, rule.allow_key_reuse, rule.lint) == (True, True, LintLevel.ERROR)
    assert (rule.allow_name_change, rule.station, rule.approval, rule.leniency, rule.from_profiles) == (
        False, False, False, frozenset(), frozenset(),
    )  # fmt: skip
    assert (rule.quota, rule.retry_window_s, rule.renew_grace_s) == (None, 86_400, 30 * 86_400)


def test_the_words_of_the_records_stay() -> None:
    assert (REENROLL_SUBJECT_CHANGE, RENEW_AFTER_EXPIRY, NAME_CHANGE) == (
        "reenroll-subject-change", "renew-after-expiry", "name-change",
    )  # fmt: skip

"""From TOML to a policy: every key, and a clear word about every mistake."""

from __future__ import annotations

import re
import tomllib

import pytest

from gateway.authority.policy import ClockDoubt, LintLevel
from gateway.authority.policy_tables import BUILTIN_RULES, allow_files, blocked_keys_of, entries_of, policy_from_tables
from gateway.authority.requests import RequesterKind
from gateway.errors import ConfigError, Forbidden, NotFound
from gateway.pki.profiles import BUILTIN_PROFILES
from tests.support.authority import device_csr, policy_of

FULL = """
[plc]
base = "ldevid"
description = "controllers"
key_types = ["p-256"]
validity = "90d"
requesters = ["idevid", "own-certificate"]
quota = 5000
approval = true
lint = "warning"
leniency = ["renew-after-expiry", "csr-ber"]
retry_window = "2h"
renew_grace = "30d"
allow_key_reuse = false
bind_serial = false
from_profiles = ["ldevid"]
station = true
approval_retry = 5
[plc.allow]
serialNumber = ["SN-2026-*"]
files = { serialNumber = "shipment.txt" }
"""


def test_every_key_reaches_the_rule() -> None:
    tables = tomllib.loads(FULL)
    assert allow_files(tables) == ("shipment.txt",)
    policy = policy_from_tables(tables, b"d" * 32, 3, files={"shipment.txt": "# spare parts\nSN-1\n\n SN-2 \n"}, expires_ms=9)
    rule = policy.rule("plc")
    assert (policy.version, policy.digest, policy.expires_ms) == (3, b"d" * 32, 9)
    assert rule.profile.name == "plc"
    assert rule.profile.validity == 90 * 86_400
    assert rule.profile.san_allowed == BUILTIN_PROFILES["ldevid"].san_allowed
    assert rule.key_types == {"p-256"}
    assert rule.requesters == {RequesterKind.IDEVID, RequesterKind.OWN}
    assert (rule.quota, rule.approval, rule.lint) == (5000, True, LintLevel.WARNING)
    assert rule.leniency == {"renew-after-expiry", "csr-ber"}
    assert (rule.retry_window_s, rule.renew_grace_s, rule.approval_retry_s) == (7200, 30 * 86_400, 5)
    assert (rule.allow_key_reuse, rule.bind_serial, rule.station) == (False, False, True)
    assert rule.from_profiles == {"ldevid"}
    for serial in ("SN-2026-4", "SN-1", "SN-2"):
        rule.allow.check(device_csr(f"serialNumber={serial}"))
    with pytest.raises(Forbidden):
        rule.allow.check(device_csr("serialNumber=SN-3"))


def test_without_tables_every_builtin_profile_has_its_rule() -> None:
    policy = policy_of()
    assert set(policy.rules) == set(BUILTIN_PROFILES)
    for name, requesters in BUILTIN_RULES.items():
        assert policy.rule(name).requesters == requesters
    assert [name for name, rule in policy.rules.items() if rule.station] == ["station"]
    assert (policy.clock_doubt, policy.clock_tolerance_ms, policy.expires_ms) == (ClockDoubt.MARK, 300_000, 0)
    for rule in policy.rules.values():
        assert (rule.lint, rule.leniency, rule.quota, rule.approval) == (LintLevel.ERROR, frozenset(), None, False)
        assert not rule.allow


def test_an_idevid_is_never_given_to_a_device_itself() -> None:
    requesters = policy_of().rule("idevid").requesters
    assert requesters == {RequesterKind.ORDER, RequesterKind.STATION, RequesterKind.OPERATOR}


def test_a_profile_takes_the_rule_of_its_base() -> None:
    policy = policy_of({"line-3": {"base": "station"}, "plc": {"base": "idevid"}, "own": {}})
    assert policy.rule("line-3").station
    assert policy.rule("plc").requesters == BUILTIN_RULES["idevid"]
    assert RequesterKind.IDEVID not in policy.rule("own").requesters


def test_a_profile_that_is_not_there_is_not_found() -> None:
    with pytest.raises(NotFound):
        policy_of().rule("x")


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({"qouta": 1}, r"profile\.plc: unknown key 'qouta'; did you mean 'quota'\?"),
        ({"subject_alowed": []}, "did you mean 'subject_allowed'"),
        ({"zzzzzzzz": 1}, "known are"),
        ({"quota": -1}, r"profile\.plc\.quota must be a whole number"),
        ({"quota": True}, r"profile\.plc\.quota must be a whole number"),
        ({"quota": "5"}, r"profile\.plc\.quota must be a whole number"),
        ({"approval": 1}, r"profile\.plc\.approval must be true or false"),
        ({"station": "yes"}, r"profile\.plc\.station must be true or false"),
        ({"lint": "errors"}, r"profile\.plc\.lint: unknown choice 'errors'; did you mean 'error'"),
        ({"lint": 5}, r"profile\.plc\.lint must be a text"),
        ({"leniency": ["renew-after-expire"]}, r"profile\.plc\.leniency: .* did you mean 'renew-after-expiry'"),
        ({"leniency": "csr-ber"}, r"profile\.plc\.leniency must be a list"),
        ({"leniency": [5]}, r"profile\.plc\.leniency must be a text"),
        ({"requesters": ["idevids"]}, r"profile\.plc\.requesters: .* did you mean 'idevid'"),
        ({"requesters": ["gateway"]}, r"profile\.plc\.requesters: unknown requester 'gateway'"),
        ({"requesters": [""]}, r"profile\.plc\.requesters must be a text"),
        ({"retry_window": "1 hour"}, r"profile\.plc\.retry_window: '1 hour' is not a duration"),
        ({"renew_grace": -5}, r"profile\.plc\.renew_grace must be a whole number"),
        ({"allow": []}, r"profile\.plc\.allow must be a table"),
        ({"allow": {"serialnumber": []}}, r"profile\.plc\.allow: .* did you mean 'serialNumber'"),
        ({"allow": {"CN": "a"}}, r"profile\.plc\.allow\.CN must be a list"),
        ({"allow": {"files": {"dns": "a"}}}, r"profile\.plc\.allow\.files: unknown key 'dns'"),
        ({"allow": {"files": {"DNS": 1}}}, r"profile\.plc\.allow\.files\.DNS must be a text"),
        ({"allow": {"files": {"DNS": "a.txt"}}}, r"a\.txt was not read"),
        ({"from_profiles": ["ldevit"]}, r"profile\.plc\.from_profiles: .* did you mean 'ldevid'"),
        ({"base": "no-such"}, "base must be one of"),
        ({"validity": "soon"}, "soon"),
    ],
)
def test_a_mistake_is_named_with_its_path(table: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        policy_of({"plc": table})


@pytest.mark.parametrize("table", [{"allow": 5}, {"allow": {"files": []}}, {"allow": {"files": {"CN": 5}}}])
def test_a_mistake_in_the_names_of_files_is_found_before_they_are_read(table: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=r"profile\.plc\.allow"):
        allow_files({"plc": table})


def test_a_file_named_twice_is_read_once() -> None:
    assert allow_files({"a": {"allow": {"files": {"CN": "x", "DNS": "x"}}}, "b": {}}) == ("x",)


def test_the_lines_of_a_file_are_its_entries() -> None:
    assert entries_of("\ufeff# no\na\r\n  b \n\n#c\n".removeprefix("\ufeff")) == ("a", "b")


def test_a_list_of_blocked_keys_is_one_digest_a_line() -> None:
    text = f"# leaked with firmware 1.3\n{'0a' * 32}\n\n  {'FF' * 32}  \n"
    assert blocked_keys_of(text) == {b"\x0a" * 32, b"\xff" * 32}


@pytest.mark.parametrize("entry", ["0a" * 31, "0a" * 33, "xx" * 32, "0a" * 32 + " firmware 1.3", ":".join(["0a"] * 32)])
def test_an_entry_that_is_no_digest_is_named(entry: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(entry[:60])):
        blocked_keys_of(f"{'0a' * 32}\n{entry}\n")


def test_names_may_change_only_where_the_table_says_so() -> None:
    policy = policy_from_tables({"ldevid": {"allow_name_change": True}}, b"", 1)
    assert policy.rule("ldevid").allow_name_change
    assert not policy.rule("tls-client").allow_name_change


def test_a_rule_names_the_subject_attributes_that_its_allow_list_needs() -> None:
    policy = policy_from_tables({"ldevid": {"allow": {"serialNumber": ["SN-*"], "DNS": ["a"]}}}, b"", 1)
    assert policy.rule("ldevid").subject_wanted == {"serialNumber"}
    assert policy.rule("tls-client").subject_wanted == frozenset()


def test_a_profile_is_named_by_its_table_alone() -> None:
    with pytest.raises(ConfigError, match="unknown key 'name'"):
        policy_from_tables({"plc": {"base": "idevid", "name": "other"}}, bytes(32), 1)

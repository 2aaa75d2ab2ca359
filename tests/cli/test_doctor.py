"""Each thing that can be wrong is said in words with what to do; a sound report says nothing."""

from __future__ import annotations

import copy

import pytest

from gateway.cli.context import JsonObject
from gateway.cli.doctor import findings

NOW = 1_790_000_000_000
DAY = 86_400_000
SOUND: JsonObject = {
    "now": NOW,
    "clock_behind": 0,
    "journal": {"origin": "plant-7/1a2b", "state": "ok", "detail": "", "disk_used_percent": 10},
    "generations": [
        {
            "number": 1, "state": "active", "subject": "CN=x", "not_after": NOW + 300 * DAY, "demo": False,
            "uri": "software:ca", "key": "up", "key_detail": "",
        }
    ],
    "crls": [{"name": "1.crl", "failure": "", "degraded": False, "next_update": NOW + DAY}],
    "maker_crls": [{"maker": "acme", "name": "acme.crl", "failure": "", "degraded": False, "next_update": NOW + DAY}],
    "blocked_keys_failure": "",
    "delegated_failures": {},
    "waiting": 0,
    "central": {
        "joined": True, "heard": NOW - DAY // 2, "receipt_time": NOW - DAY, "waiting": 7, "trouble": "", "refused": "",
        "refused_version": 0, "expires": NOW + 80 * DAY,
    },
}  # fmt: skip

WRONG = [
    (("journal", "state"), "failed", "the journal is failed", "restart"),
    (("journal", "state"), "full", "the journal is full", "Free space"),
    (("journal", "state"), "fenced", "the journal is fenced", "PKI team"),
    (("journal", "state"), "fenced", "the journal is fenced", "init --predecessor plant-7/1a2b"),
    (("journal", "state"), "warning", "the journal is warning", "anchor"),
    (("journal", "disk_used_percent"), 85, "85 % full", "Free space"),
    (("clock_behind",), 3_600_000, "3600 seconds behind", "Set the clock"),
    (("now",), 0, "1970-01-01", "Set the clock"),
    (("generations",), [], "there is no active CA", "ca keygen"),
    (("generations", 0, "state"), "requested", "there is no active CA", "ca import"),
    (("generations", 0, "key"), "down", "software:ca is down", "Plug the token in"),
    (("generations", 0, "key"), "pin-needed", "is pin-needed", "ca unlock"),
    (("generations", 0, "key"), "pin-blocked", "is pin-blocked", "never tried again"),
    (("generations", 0, "key"), "wrong-token", "is wrong-token", "the token that holds"),
    (("generations", 0, "not_after"), NOW - 1, "certificate ended on", "ca renew"),
    (("generations", 0, "not_after"), NOW + 10 * DAY, "ends in 10 days", "ca renew"),
    (("generations", 0, "demo"), True, "demo with throw-away keys", "NOT FOR PRODUCTION"),
    (("crls", 0, "degraded"), True, "1.crl is not fresh", "key or the disk"),
    (("maker_crls", 0, "degraded"), True, "acme.crl of maker acme is not fresh: it ended", "from the maker"),
    (("blocked_keys_failure",), "line 3", "blocked keys is not taken: line 3", "read again"),
    (("delegated_failures",), {"tls": "the token is away"}, "no fresh certificate for tls: the token is away", "CA's key"),
    (("waiting",), 3, "3 requests wait", "edge-gateway waiting"),
    (("central", "heard"), 0, "central was not reached since the start; 7 records wait", "edge-gateway export"),
    (("central", "heard"), NOW - 3 * DAY, "central was not reached since 20", "Nothing is lost"),
    (("central", "trouble"), "records differ", "central: records differ", "PKI team"),
    (("central", "refused"), "it is older", "document 0 was refused: it is older", "stays in force"),
    (("central", "expires"), NOW, "what central granted ended on", "edge-gateway export"),
    (("central", "expires"), NOW + 3 * DAY, "what central granted ends on", "before"),
]


def test_what_does_not_wait_needs_no_central_and_a_gateway_on_its_own_none() -> None:
    report = copy.deepcopy(SOUND)
    report["central"] = {**report["central"], "heard": 0, "receipt_time": 0, "waiting": 0}  # type: ignore[dict-item]
    assert findings(report) == []
    report["central"] = {"joined": False}
    assert findings(report) == []


def test_a_joined_gateway_renews_its_ca_by_itself_so_it_warns_later() -> None:
    report = copy.deepcopy(SOUND)
    report["generations"][0]["not_after"] = NOW + 30 * DAY  # type: ignore[index,call-overload]
    assert findings(report) == []
    report["central"] = {"joined": False}
    assert any("ends in 30 days" in each.what for each in findings(report))


def test_an_anchor_out_of_reach_is_said_once_and_also_on_a_full_disk() -> None:
    for state, count in (("warning", 1), ("full", 2)):
        report = copy.deepcopy(SOUND)
        trouble = "The anchor pkcs11:token=x is out of reach: plug in the token"
        report["journal"] = {
            "state": state, "detail": trouble, "disk_used_percent": 10,
            "anchor": {"name": "pkcs11:token=x", "records": 0, "written": 0, "trouble": trouble},
        }  # fmt: skip
        found = findings(report)
        assert len(found) == count
        assert found[0].what == trouble
        assert "by itself" in found[0].do


def test_a_closed_journal_is_not_called_fenced_and_says_what_is_left_to_do() -> None:
    for joined, waiting, do in ((True, 7, "7 records wait"), (True, 0, "switch it off"), (False, 7, "switch it off")):
        report = copy.deepcopy(SOUND)
        report["journal"] = {"origin": "plant-7/1a2b", "state": "fenced", "detail": "x", "disk_used_percent": 10}
        central = {"joined": joined, "closed": "new hardware", "waiting": waiting}
        report["central"] = {**SOUND["central"], **central} if joined else central  # type: ignore[dict-item,assignment]
        (found,) = findings(report)
        assert found.what == "this journal was closed: new hardware"
        assert do in found.do
        assert "--predecessor" not in found.do


def test_a_gateway_on_its_own_that_was_fenced_is_not_told_to_join() -> None:
    report = copy.deepcopy(SOUND)
    report["journal"] = {"origin": "plant-7/1a2b", "state": "fenced", "detail": "it is old", "disk_used_percent": 10}
    report["central"] = {"joined": False, "closed": ""}
    (found,) = findings(report)
    assert found.what == "the journal is fenced: it is old"
    assert "join" not in found.do


def test_a_sound_gateway_has_no_findings() -> None:
    assert findings(SOUND) == []


@pytest.mark.parametrize(("path", "value", "what", "do"), WRONG, ids=[f"{'.'.join(map(str, w[0]))}={w[1]}" for w in WRONG])
def test_what_is_wrong_is_said_with_what_to_do(path: tuple[str | int, ...], value: object, what: str, do: str) -> None:
    report = copy.deepcopy(SOUND)
    place: object = report
    for step in path[:-1]:
        place = place[step]  # type: ignore[index]
    place[path[-1]] = value  # type: ignore[index]
    found = findings(report)
    assert any(what in each.what and do in each.do for each in found), found

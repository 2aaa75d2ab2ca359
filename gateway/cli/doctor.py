"""``doctor``: looks at everything that can be wrong and says in words what it is and what to do.

The facts come from the gateway's report where it can be opened, and from the file system in any case. What :func:`findings`
does not name is in order.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import dataclass

from gateway import settings
from gateway.cli.ceremony import date
from gateway.cli.context import Context, JsonObject
from gateway.cli.control_client import control
from gateway.errors import GatewayError
from gateway.journal.canonical import JsonValue

_DAY_MS = 86_400_000
#: A sub-CA's renewal goes through headquarters; that takes weeks.
_CA_WARNING_MS = 60 * _DAY_MS
#: Central certifies the next CA key by itself, well before that.
_JOINED_CA_WARNING_MS = 20 * _DAY_MS
#: Being out of reach is normal; what piles up must still be carried to central some day.
_SILENCE_MS = _DAY_MS
_DOCUMENT_WARNING_MS = 14 * _DAY_MS
_DISK_WARNING_PERCENT = 80
_CLOCK_TOLERANCE_MS = 1000
_OLDEST_SANE_MS = 1_735_689_600_000  # 2025-01-01: before this program existed

_KEY_ADVICE = {
    "down": "Plug the token in; signing resumes by itself within seconds.",
    "pin-needed": "Enter the PIN: edge-gateway ca unlock",
    "pin-blocked": "Find the right PIN first, then: edge-gateway ca unlock. A refused PIN is never tried again.",
    "wrong-token": "Plug in the token that holds this CA's key.",
}
_JOURNAL_ADVICE = {
    "warning": "Free space on the disk, or bring the anchor's medium back.",
    "full": "Free space on the disk; revoking still works.",
    "failed": "Look at the disk (dmesg), then restart: the gateway verifies its whole journal.",
}


@dataclass(frozen=True, slots=True)
class Finding:
    what: str
    do: str


async def examine(context: Context) -> tuple[list[Finding], JsonObject]:
    """Everything that is wrong with the gateway of ``context``, and its report; empty when it cannot be opened."""
    found = list(_files(context))
    try:
        async with control(context) as gateway:
            report = await gateway.get("/status")
    except GatewayError as error:
        return [*found, Finding(f"the gateway cannot be opened: {error}", error.hint)], {}
    return [*found, *findings(report)], report


def _files(context: Context) -> Iterator[Finding]:
    """What the file system shows, also where no gateway can be opened."""
    state = context.state
    if not state.is_dir():
        return
    if stat.S_IMODE(state.stat().st_mode) & 0o077:
        yield Finding(f"others may look into the state directory {state}", f"chmod 700 {state}")
    wrapping = state / "keys" / "wrapping.key"
    if wrapping.exists() and stat.S_IMODE(wrapping.stat().st_mode) & 0o077:
        yield Finding(f"others may read the wrapping key {wrapping}", f"chmod 600 {wrapping}; then consider it known")
    anchor = settings.journal_options(context.config).anchor
    if anchor is not None and anchor.parent.is_dir() and anchor.parent.stat().st_dev == state.stat().st_dev:
        yield Finding(
            "the anchor lies on the same medium as the journal, so a disk that was copied back would not be noticed",
            "Set journal.anchor to a path on another medium, or to a token.",
        )


def findings(report: JsonObject) -> list[Finding]:
    """What a report says is wrong."""
    return [*_journal(report), *_clock(report), *_ca(report), *_status(report), *_central(report), *_line(report)]


def _journal(report: JsonObject) -> Iterator[Finding]:
    journal = report["journal"] if isinstance(report["journal"], dict) else {}
    state, used = str(journal.get("state")), _number(journal.get("disk_used_percent"))
    anchor = journal.get("anchor")
    trouble = str(anchor["trouble"]) if isinstance(anchor, dict) else ""
    if trouble:
        yield Finding(trouble, "Bring the medium of journal.anchor back; it is compared and written again by itself.")
    if state == "warning" and trouble and used < _DISK_WARNING_PERCENT:
        return
    if state == "fenced":
        yield _ended(report, journal)
    elif state in _JOURNAL_ADVICE:
        yield Finding(f"the journal is {state}: {journal.get('detail')}".rstrip(": "), _JOURNAL_ADVICE[state])
    elif used >= _DISK_WARNING_PERCENT:
        yield Finding(f"the disk is {used} % full", _JOURNAL_ADVICE["warning"])


def _ended(report: JsonObject, journal: JsonObject) -> Finding:
    """A journal that issues nothing any more: closed here, or stopped by central or by its anchor."""
    central = report["central"] if isinstance(report["central"], dict) else {}
    if closed := central.get("closed"):
        what, waiting = f"this journal was closed: {closed}", _number(_joined(report).get("waiting", 0))
        if waiting:
            return Finding(what, f"{waiting} records wait for central: let it be reached, or edge-gateway export FILE.")
        return Finding(what, "Nothing is left to do here: switch it off. What it issued stays valid.")
    again = "edge-gateway init, a new CA key and its certificate"
    if _joined(report):
        again = f"edge-gateway init --predecessor {journal.get('origin', 'ORIGIN')}, then join with a new code"
    return Finding(
        f"the journal is fenced: {journal.get('detail')}".rstrip(": "),
        "Keep the disk as it is and call the PKI team; what it issued stays valid. To issue again, begin in another state"
        f" directory: {again}.",
    )


def _clock(report: JsonObject) -> Iterator[Finding]:
    behind = _number(report["clock_behind"])
    if behind > _CLOCK_TOLERANCE_MS:
        yield Finding(
            f"the clock stands {behind // 1000} seconds behind the journal", "Set the clock; no NTP is needed for that."
        )
    if _number(report["now"]) < _OLDEST_SANE_MS:
        yield Finding(f"the clock says {date(report['now'])}", "Set the clock before the first certificate is issued.")


def _ca(report: JsonObject) -> Iterator[Finding]:
    generations = [each for each in _list(report["generations"]) if isinstance(each, dict)]
    if not any(each["state"] == "active" for each in generations):
        step = "ca csr and ca import" if generations else "ca keygen"
        yield Finding("there is no active CA, so nothing is issued", f"Go on with the ceremony: edge-gateway {step}")
    for each in generations:
        if each["state"] != "active":
            continue
        key, left = str(each["key"]), _number(each["not_after"]) - _number(report["now"])
        if key in _KEY_ADVICE:
            yield Finding(f"the CA's key {each['uri']} is {key}: {each['key_detail']}".rstrip(": "), _KEY_ADVICE[key])
        if left <= 0:
            yield Finding(f"the CA's certificate ended on {date(each['not_after'])}", "Get a new one: edge-gateway ca renew")
        elif left < (_JOINED_CA_WARNING_MS if _joined(report) else _CA_WARNING_MS):
            yield Finding(
                f"the CA's certificate ends in {left // _DAY_MS} days",
                "Begin now: edge-gateway ca renew, ca csr, then ca import",
            )
        if each["demo"]:
            yield Finding("this is a demo with throw-away keys", "NOT FOR PRODUCTION: set up a gateway with edge-gateway init.")


def _status(report: JsonObject) -> Iterator[Finding]:
    for each in _list(report["crls"]):
        if isinstance(each, dict) and each["degraded"]:
            cause = each["failure"] or f"it ended on {date(each['next_update'])}"
            yield Finding(f"the revocation list {each['name']} is not fresh: {cause}", "Mend the CA's key or the disk first.")
    for each in _list(report["maker_crls"]):
        if isinstance(each, dict) and each["degraded"]:
            cause = each["failure"] or f"it ended on {date(each['next_update'])}"
            yield Finding(
                f"the list {each['name']} of maker {each['maker']} is not fresh: {cause}", "Bring a newer one from the maker."
            )
    if failure := report["blocked_keys_failure"]:
        yield Finding(f"the file of blocked keys is not taken: {failure}", "Correct the file; it is read again by itself.")
    failures = report["delegated_failures"]
    for name, reason in (failures if isinstance(failures, dict) else {}).items():
        yield Finding(
            f"the gateway has no fresh certificate for {name}: {reason}", "Mend the CA's key first; it is asked for again."
        )
    if waiting := _number(report["waiting"]):
        yield Finding(f"{waiting} requests wait for a person", "edge-gateway waiting, then approve or deny")


def _line(report: JsonObject) -> Iterator[Finding]:
    line = report.get("line")
    if not isinstance(line, dict):
        return
    for each in _list(line["ports"]):
        if isinstance(each, dict) and each["state"] == "fault":
            yield Finding(f"port {each['port']}: {each['sentence']}", str(each["hint"]))
    for each in _list(line["quarantined"]):
        if isinstance(each, dict):
            yield Finding(
                f"{each['serial']} is in quarantine: {each['detail']}",
                f"Set the device aside, then: edge-gateway unit release, rework or scrap {each['serial']} --reason ...",
            )
    for each in _list(line["overdue"]):
        if isinstance(each, dict) and each["state"] != "quarantine":
            yield Finding(
                f"{each['serial']} has had its certificate since {date(each['began'])} and is {each['state']}, not confirmed",
                "Find the device and finish it, or: edge-gateway unit scrap.",
            )
    for each in _list(line["orders"]):
        for fault in _list(each["faults"]) if isinstance(each, dict) else ():
            yield Finding(f"the account of an order does not add up: {fault}", "Keep the disk as it is and call the PKI team.")


def _joined(report: JsonObject) -> JsonObject:
    """What the report says of central; empty for a gateway on its own."""
    central = report["central"]
    return central if isinstance(central, dict) and central["joined"] else {}


def _central(report: JsonObject) -> Iterator[Finding]:
    central = _joined(report)
    if not central:
        return
    now, heard, waiting = _number(report["now"]), _number(central["heard"]), _number(central["waiting"])
    if waiting and now - heard > _SILENCE_MS:
        since = f"since {date(heard)}" if heard else "since the start"
        yield Finding(
            f"central was not reached {since}; {waiting} records wait for it",
            "Check the cable and the address; or carry them: edge-gateway export FILE. Nothing is lost meanwhile.",
        )
    if central["trouble"]:
        yield Finding(f"central: {central['trouble']}", "Tell the PKI team; what waits is kept.")
    if central["refused"]:
        yield Finding(
            f"central's document {central['refused_version']} was refused: {central['refused']}",
            "Tell the PKI team; the one before stays in force.",
        )
    if expires := _number(central["expires"]):
        if now >= expires:
            yield Finding(
                f"what central granted ended on {date(expires)}, so nothing is issued",
                "Let the gateway reach central, or carry a bundle there and its answer back: edge-gateway export, import.",
            )
        elif expires - now < _DOCUMENT_WARNING_MS:
            yield Finding(
                f"what central granted ends on {date(expires)}", "Let the gateway reach central before, or carry a bundle."
            )


def _number(value: JsonValue) -> int:
    return value if isinstance(value, int) else 0


def _list(value: JsonValue) -> list[JsonValue]:
    return value if isinstance(value, list) else []

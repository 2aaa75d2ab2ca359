"""``status | doctor | verify | backup | restore``: looking after a gateway."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from gateway import settings
from gateway.app import CONTROL_SOCKET, checkpoint_public_key, journal_anchor
from gateway.cli.ceremony import date
from gateway.cli.context import Context, ExitCode, JsonObject
from gateway.cli.control_client import control
from gateway.cli.doctor import examine
from gateway.errors import AlreadyExists, PinError, Unavailable
from gateway.journal.backup import manifest_path
from gateway.journal.backup import restore as restore_journal
from gateway.journal.canonical import JsonValue
from gateway.journal.verify import Report
from gateway.journal.verify import verify as verify_journal
from gateway.keys import durable
from gateway.web.unix_client import daemon_answers


async def status(context: Context) -> int:
    async with control(context) as gateway:
        answer = await gateway.get("/status")
    context.show(answer, _words(answer))
    return ExitCode.OK


def _words(report: JsonObject) -> str:
    journal = report["journal"] if isinstance(report["journal"], dict) else {}
    behind = f", {report['clock_behind']} ms behind the journal" if report["clock_behind"] else ""
    anchor = _anchor_of(report)
    lines = [
        f"journal    {journal.get('state')}, {journal.get('size')} records, disk {journal.get('disk_used_percent')} % used",
        *([f"           {journal['detail']}"] if journal.get("detail") else []),
        *([_anchor_words(anchor, report)] if anchor else []),
        f"clock      {date(report['now'])}{behind}",
    ]
    for each in _objects(report["generations"]):
        demo = "  NOT FOR PRODUCTION" if each["demo"] else ""
        state = f"generation {each['number']} {each['state']}, key {each['key'] or each['uri']}"
        lines.append(f"CA         {state}, until {date(each['not_after'])}{demo}")
    for each in _objects(report["crls"]):
        freshness = f"good until {date(each['next_update'])}" if each["next_update"] else "not signed yet"
        lines.append(f"CRL        {each['name']}: number {each['number']}, {each['entries']} entries, {freshness}")
    lines.append(f"requests   {report['waiting']} wait for approval, {report['in_the_making']} in the making")
    lines.append(f"tokens     {report['tokens']} are good")
    return "\n".join(lines)


def _objects(value: JsonValue) -> list[JsonObject]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


async def doctor(context: Context) -> int:
    findings, report = await examine(context)
    anchor = _anchor_of(report)
    result: JsonObject = {"findings": [{"what": each.what, "do": each.do} for each in findings], "anchor": anchor}
    words = "\n".join(f"- {each.what}\n    {each.do}" for each in findings) or "all is well"
    context.show(result, f"{words}\n{_anchor_words(anchor, report)}" if anchor else words)
    return ExitCode.EVIDENCE if findings else ExitCode.OK


def _anchor_of(report: JsonObject) -> JsonObject:
    """What a report says of the journal's anchor; empty when there is none."""
    journal = report.get("journal")
    anchor = journal.get("anchor") if isinstance(journal, dict) else None
    return anchor if isinstance(anchor, dict) else {}


def _anchor_words(anchor: JsonObject, report: JsonObject) -> str:
    """Which anchor, how much it has seen, how old that is."""
    if not anchor["written"]:
        return f"anchor     {anchor['name']}, not written since the start"
    age = (int(str(report["now"])) - int(str(anchor["written"]))) // 1000
    return f"anchor     {anchor['name']}, {anchor['records']} records, written {age} s ago"


async def verify(context: Context) -> int:
    """The journal itself when no daemon has it, else a copy of it made by the daemon.

    The anchor may be ahead of a copy, so it says something about the journal itself only; the daemon compares it all the time.
    """
    if not daemon_answers(context.state / CONTROL_SOCKET):
        name, content, trouble = await _read_anchor(context)
        report = await _verify_file(context, settings.journal_options(context.config).path, content)
        if report.anchored is not None:
            words = f"anchor     {name}, {report.anchored} records, the last of {date(report.anchored_ms)}"
        else:
            words = f"NOT compared with the anchor {name}: {trouble or 'there is none'}"
        return _show_report(context, report, words)
    with tempfile.TemporaryDirectory(prefix="verify-", dir=context.state) as folder:
        copy = Path(folder, "journal.db")
        async with control(context) as gateway:
            await gateway.post("/backups", {"target": str(copy)})
            status = await gateway.get("/status")
        anchor = _anchor_of(status)
        words = _anchor_words(anchor, status) if anchor else "the journal has no anchor"
        return _show_report(context, await _verify_file(context, copy, None), f"{words}; the daemon compares it")


async def _read_anchor(context: Context) -> tuple[str, bytes | None, str]:
    """The anchor's name, what it holds, and why it cannot be read."""
    async with journal_anchor(context.config) as anchor:
        if anchor is None:
            return "", None, ""
        try:
            return anchor.name, await anchor.load(), ""
        except (Unavailable, PinError, OSError) as error:
            return anchor.name, None, str(error)


async def _verify_file(context: Context, path: Path, anchor: bytes | None) -> Report:
    def progress(done: int, total: int) -> None:
        context.progress(f"{done} of {total} records, {done * 100 // max(total, 1)} %")

    vkey = context.text("key") or None
    report = await asyncio.to_thread(
        verify_journal,
        path,
        vkey=vkey,
        public_key=None if vkey else checkpoint_public_key(context.config),
        anchor=anchor,
        signatures=True,
        progress=progress,
    )
    context.end_progress()
    return report


def _show_report(context: Context, report: Report, anchor: str) -> int:
    problems: list[JsonValue] = [str(problem) for problem in report.problems]
    checkpoint = report.checkpoint
    result: JsonObject = {
        "clean": report.clean,
        "records": report.records,
        "certificates": report.certificates,
        "root": checkpoint.root.hex() if checkpoint is not None else "",
        "origin": report.genesis.origin if report.genesis is not None else "",
        "problems": problems,
        "anchored": report.anchored,
        "pruned": report.pruned,
    }
    if report.clean:
        words = f"the journal is whole: {report.records} records, {report.certificates} certificates, root {result['root']}"
        if report.pruned:
            words += f"\nof {report.pruned} old records only the hashes are left: central has confirmed that it has them"
    else:
        words = "the journal is NOT as it was written:\n" + "\n".join(f"- {problem}" for problem in problems)
    context.show(result, f"{words}\n{anchor}")
    return ExitCode.OK if report.clean else ExitCode.EVIDENCE


async def backup(context: Context) -> int:
    target = _backup_file(context.path("target"))
    async with control(context) as gateway:
        answer = await gateway.post("/backups", {"target": str(target)})
    context.show(
        answer,
        f"{answer['size']} records are in {target}, described by {manifest_path(target).name}\n"
        f"the wrapped keys lie in {context.state / 'keys'}; keep a copy of them, and of the wrapping key apart from both",
    )
    return ExitCode.OK


def _backup_file(target: Path) -> Path:
    return target / "journal.backup" if target.is_dir() else target


async def restore(context: Context) -> int:
    source = context.path("source")
    options = settings.journal_options(context.config)
    if daemon_answers(context.state / CONTROL_SOCKET):
        raise AlreadyExists("a gateway runs in this state directory")
    await asyncio.to_thread(durable.make_directory, context.state)
    manifest = await asyncio.to_thread(restore_journal, source, options.path, context.text("key") or None)
    context.show(
        {"size": manifest.size, "root": manifest.root},
        f"{manifest.size} records were verified and restored\n"
        f"put the keys back into {context.state / 'keys'}, then: edge-gateway doctor",
    )
    return ExitCode.OK

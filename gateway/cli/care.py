"""``status | doctor | verify | backup | restore``: looking after a gateway."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from gateway import settings
from gateway.app import checkpoint_public_key
from gateway.cli.ceremony import date
from gateway.cli.context import Context, ExitCode, JsonObject
from gateway.cli.control_client import control, daemon_answers
from gateway.cli.doctor import examine
from gateway.errors import AlreadyExists
from gateway.journal.backup import manifest_path
from gateway.journal.backup import restore as restore_journal
from gateway.journal.canonical import JsonValue
from gateway.journal.verify import Report
from gateway.journal.verify import verify as verify_journal
from gateway.keys import durable


async def status(context: Context) -> int:
    async with control(context) as gateway:
        answer = await gateway.get("/status")
    context.show(answer, _words(answer))
    return ExitCode.OK


def _words(report: JsonObject) -> str:
    journal = report["journal"] if isinstance(report["journal"], dict) else {}
    behind = f", {report['clock_behind']} ms behind the journal" if report["clock_behind"] else ""
    lines = [
        f"journal    {journal.get('state')}, {journal.get('size')} records, disk {journal.get('disk_used_percent')} % used",
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
    findings = await examine(context)
    result: JsonObject = {"findings": [{"what": each.what, "do": each.do} for each in findings]}
    words = "\n".join(f"- {each.what}\n    {each.do}" for each in findings)
    context.show(result, words or "all is well")
    return ExitCode.EVIDENCE if findings else ExitCode.OK


async def verify(context: Context) -> int:
    """The journal itself when no daemon has it, else a copy of it made by the daemon."""
    if not daemon_answers(context.state):
        return _show_report(context, await _verify_file(context, settings.journal_options(context.config).path))
    with tempfile.TemporaryDirectory(prefix="verify-", dir=context.state) as folder:
        copy = Path(folder, "journal.db")
        async with control(context) as gateway:
            await gateway.post("/backups", {"target": str(copy)})
        return _show_report(context, await _verify_file(context, copy))


async def _verify_file(context: Context, path: Path) -> Report:
    def progress(done: int, total: int) -> None:
        context.progress(f"{done} of {total} records, {done * 100 // max(total, 1)} %")

    vkey = context.text("key") or None
    report = await asyncio.to_thread(
        verify_journal,
        path,
        vkey=vkey,
        public_key=None if vkey else checkpoint_public_key(context.config),
        anchor=_anchor(context, path),
        signatures=True,
        progress=progress,
    )
    context.end_progress()
    return report


def _anchor(context: Context, path: Path) -> bytes | None:
    """The anchor's content; it may be ahead of a copy, so it says something about the journal itself only."""
    options = settings.journal_options(context.config)
    anchor = options.opened_anchor()
    return anchor.load() if anchor is not None and path == options.path else None


def _show_report(context: Context, report: Report) -> int:
    problems: list[JsonValue] = [str(problem) for problem in report.problems]
    checkpoint = report.checkpoint
    result: JsonObject = {
        "clean": report.clean,
        "records": report.records,
        "certificates": report.certificates,
        "root": checkpoint.root.hex() if checkpoint is not None else "",
        "origin": report.genesis.origin if report.genesis is not None else "",
        "problems": problems,
    }
    if report.clean:
        words = f"the journal is whole: {report.records} records, {report.certificates} certificates, root {result['root']}"
    else:
        words = "the journal is NOT as it was written:\n" + "\n".join(f"- {problem}" for problem in problems)
    context.show(result, words)
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
    if daemon_answers(context.state):
        raise AlreadyExists("a gateway runs in this state directory")
    await asyncio.to_thread(durable.make_directory, context.state)
    manifest = await asyncio.to_thread(restore_journal, source, options.path, context.text("key") or None)
    context.show(
        {"size": manifest.size, "root": manifest.root},
        f"{manifest.size} records were verified and restored\n"
        f"put the keys back into {context.state / 'keys'}, then: edge-gateway doctor",
    )
    return ExitCode.OK

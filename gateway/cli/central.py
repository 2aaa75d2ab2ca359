"""``join | central | export | import | close``: this gateway and its central."""

from __future__ import annotations

import base64

from gateway.cli.ceremony import date
from gateway.cli.context import Context, ExitCode, JsonObject, read_input, read_secret, write_output
from gateway.cli.control_client import control
from gateway.errors import ConfigError

_CODE = "the one-time code from central"


async def join(context: Context) -> int:
    """Over the network with an address; by files with ``--request`` and, later, ``--answer``."""
    url, request, answer = context.text("url"), context.text("request"), context.text("answer")
    if sum(map(bool, (url, request, answer))) != 1:
        raise ConfigError("join takes central's address, or --request FILE, or --answer FILE")
    carried = read_input(answer) if answer else b""
    code = read_secret(context.text("code"), _CODE)
    body: JsonObject = {"url": url, "code": code, "subject": context.text("subject")}
    async with control(context) as gateway:
        if request:
            made = await gateway.post("/central/join-request", body)
            write_output(request, base64.b64decode(str(made["request"])))
            context.show({"request": request}, f"carry {request} to central, then: edge-gateway join --answer FILE")
            return ExitCode.OK
        if answer:
            joined = await gateway.post("/central/join-answer", {**body, "answer": base64.b64encode(carried).decode()})
        else:
            joined = await gateway.post("/central/join", body)
    context.show(joined, f"joined {joined['central']}; the CA {joined['subject']} is good until {date(joined['not_after'])}")
    return ExitCode.OK


async def status(context: Context) -> int:
    async with control(context) as gateway:
        report = await (gateway.post("/central/now") if context.flag("now") else gateway.get("/central"))
    if not report["joined"]:
        context.show(report, "this gateway belongs to no central: edge-gateway join URL")
        return ExitCode.OK
    lines = [
        f"central    {report['central']}, {report['link']}{': ' + str(report['trouble']) if report['trouble'] else ''}",
        f"records    {report['confirmed']} of {report['size']} confirmed by central, {report['waiting']} wait",
        f"receipt    {date(report['receipt_time']) if report['receipt_time'] else 'none yet'}",
        f"document   version {report['applied']}{_until(report)}",
    ]
    if ended := _ended(report):
        lines.append(f"journal    {ended}; nothing is issued any more, edge-gateway doctor says what to do")
    if report["refused"]:
        lines.append(f"           version {report['refused_version']} was refused: {report['refused']}")
    context.show(report, "\n".join(lines))
    return ExitCode.OK


def _ended(report: JsonObject) -> str:
    if report["closed"]:
        return f"closed: {report['closed']}"
    return f"fenced: {report['fenced']}" if report["fenced"] else ""


def _until(report: JsonObject) -> str:
    return f", good until {date(report['expires'])}" if report["expires"] else ""


async def export_bundle(context: Context) -> int:
    since = context.number("since", -1)
    body: JsonObject = {"target": str(context.path("target")), "since": None if since < 0 else since}
    body["plain"] = context.flag("plain")
    async with control(context) as gateway:
        made = await gateway.post("/central/export", body)
    readers = "for central alone" if made["encrypted"] else "NOT encrypted"
    words = f"{made['target']}: records {made['start']} to {made['stop']}, {made['octets']} octets, {readers}"
    context.show(made, f"{words}; carry it to central, nothing is lost when it is lost")
    return ExitCode.OK


async def import_bundle(context: Context) -> int:
    async with control(context) as gateway:
        done = await gateway.post("/central/import", {"source": str(context.path("source"))})
    context.show(done, f"central has confirmed {done['confirmed']} records; document version {done['applied']} is in force")
    return ExitCode.OK


async def close(context: Context) -> int:
    if not context.flag("yes"):
        raise ConfigError("closing a journal is final: nothing is issued from it any more; say --yes")
    async with control(context) as gateway:
        done = await gateway.post("/central/close", {"reason": context.text("reason")})
    context.show(done, f"the journal ends with {done['size']} records; let central receive them, or export them")
    return ExitCode.OK

"""``ca keygen | csr | import | status | renew | unlock``: how the CA comes to life, each step journalled.

Every step answers with the text that the operator prints and signs by hand.
"""

from __future__ import annotations

import base64
import datetime
import sys

from gateway.cli.context import Context, ExitCode, JsonObject, read_input, read_pin, write_output
from gateway.cli.control_client import control
from gateway.journal.canonical import JsonValue


async def keygen(context: Context) -> int:
    async with control(context) as gateway:
        step = await gateway.post("/ca/keygen", {"key_type": context.text("key_type"), "adopt": context.flag("adopt")})
    _show(context, step, "next: edge-gateway ca csr")
    return ExitCode.OK


async def csr(context: Context) -> int:
    async with control(context) as gateway:
        step = await gateway.post("/ca/csr", {"subject": context.text("subject")})
    output = context.text("output")
    write_output(output, _pem("CERTIFICATE REQUEST", base64.b64decode(str(step["der"]))))
    if output == "-":
        print(step["protocol"], file=sys.stderr)
    else:
        _show(context, step, f"{output} goes to headquarters; next: edge-gateway ca import")
    return ExitCode.OK


async def activate(context: Context) -> int:
    pem = read_input(context.text("certificates")).decode("ascii", "replace")
    async with control(context) as gateway:
        step = await gateway.post("/ca/import", {"pem": pem})
    _show(context, step, f"generation {step['generation']} is active")
    return ExitCode.OK


async def renew(context: Context) -> int:
    body: JsonObject = {"key": context.text("key"), "key_type": context.text("key_type")}
    async with control(context) as gateway:
        step = await gateway.post("/ca/renew", body)
    _show(context, step, "the present generation issues until the import; next: edge-gateway ca csr")
    return ExitCode.OK


async def status(context: Context) -> int:
    async with control(context) as gateway:
        answer = await gateway.get("/ca")
    generations = answer["generations"]
    lines = [_generation(each) for each in (generations if isinstance(generations, list) else [])]
    context.show(answer, "\n".join(lines) or "there is no CA yet; next: edge-gateway ca keygen")
    return ExitCode.OK


async def unlock(context: Context) -> int:
    pin = read_pin(context.text("pin"))
    async with control(context) as gateway:
        answer = await gateway.post("/ca/unlock", {"pin": pin, "key": context.text("key")})
    context.show(answer, f"the token is {answer['key']}")
    return ExitCode.OK


def _show(context: Context, step: JsonObject, following: str) -> None:
    context.show(step, f"{step['protocol']}\n{following}")


def _generation(each: JsonValue) -> str:
    if not isinstance(each, dict):
        return ""
    words = [f"generation {each['number']}", str(each["state"])]
    if each["subject"]:
        words.append(str(each["subject"]))
        words.append(f"until {date(each['not_after'])}")
    words.append(f"key {each['uri']} {each['key']}".rstrip())
    return "  ".join(words)


def date(time_ms: JsonValue) -> str:
    """A time in UTC milliseconds for people."""
    seconds = time_ms / 1000 if isinstance(time_ms, int) else 0
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")


def _pem(label: str, der: bytes) -> bytes:
    text = base64.b64encode(der).decode()
    lines = [text[start : start + 64] for start in range(0, len(text), 64)]  # RFC 7468 section 2
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()

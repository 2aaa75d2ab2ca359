"""``ca keygen | csr | import | status | renew | unlock``: how the CA comes to life, each step journalled."""

from __future__ import annotations

from gateway.cli.context import Context, ExitCode, JsonObject, read_input, read_pin, write_output
from gateway.cli.control_client import control
from gateway.journal.records import JsonValue


async def keygen(context: Context) -> int:
    async with control(context) as gateway:
        answer = await gateway.post("/ca/keygen", {"key_type": context.text("key_type")})
    context.show(answer, f"generation {answer['generation']}: a key is in {answer['uri']}\nnext: edge-gateway ca csr")
    return ExitCode.OK


async def csr(context: Context) -> int:
    async with control(context) as gateway:
        answer = await gateway.post("/ca/csr", {"subject": context.text("subject")})
    output = context.text("output")
    pem = str(answer["pem"])
    if output != "-":
        write_output(output, pem.encode())
    words = pem.rstrip("\n") if output == "-" else f"written to {output}; send it to headquarters, then: edge-gateway ca import"
    context.show(answer, words)
    return ExitCode.OK


async def activate(context: Context) -> int:
    pem = read_input(context.text("certificates")).decode("ascii", "replace")
    async with control(context) as gateway:
        answer = await gateway.post("/ca/import", {"pem": pem})
    context.show(answer, f"generation {answer['generation']} is active: {answer['subject']}")
    return ExitCode.OK


async def renew(context: Context) -> int:
    body: JsonObject = {"key": context.text("key"), "key_type": context.text("key_type")}
    async with control(context) as gateway:
        answer = await gateway.post("/ca/renew", body)
    context.show(
        answer,
        f"generation {answer['generation']} is prepared in {answer['uri']}; the current one issues until the import\n"
        "next: edge-gateway ca csr",
    )
    return ExitCode.OK


async def status(context: Context) -> int:
    async with control(context) as gateway:
        answer = await gateway.get("/ca")
    generations = answer["generations"]
    lines = [_generation(each) for each in (generations if isinstance(generations, list) else [])]
    context.show(answer, "\n".join(lines) or "there is no CA yet; next: edge-gateway ca keygen")
    return ExitCode.OK


def _generation(each: JsonValue) -> str:
    if not isinstance(each, dict):
        return ""
    validity = f"{each['state']}  {each['subject']}  until {each['not_after']}"
    return f"generation {each['number']}  {validity}  key {each['uri']} {each['key']}"


async def unlock(context: Context) -> int:
    pin = read_pin(context.text("pin"))
    async with control(context) as gateway:
        answer = await gateway.post("/ca/unlock", {"pin": pin})
    context.show(answer, f"the token is {answer['key']}")
    return ExitCode.OK

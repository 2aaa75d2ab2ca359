"""``token create | list | revoke``."""

from __future__ import annotations

from gateway.cli.ceremony import date
from gateway.cli.context import Context, ExitCode, JsonObject
from gateway.cli.control_client import control


async def create(context: Context) -> int:
    wish: JsonObject = {
        "profile": context.text("profile"),
        "uses": context.number("uses", context.config.tokens.uses),
        "hours": context.number("hours", context.config.tokens.validity_hours),
        "subject": context.text("subject"),
        "station": context.flag("station"),
    }
    async with control(context) as gateway:
        token = await gateway.post("/tokens", wish)
    context.show(
        token, f"user   {token['token_id']}\nsecret {token['secret']}\nThe secret is shown this once and stored nowhere."
    )
    return ExitCode.OK


async def show(context: Context) -> int:
    async with control(context) as gateway:
        answer = await gateway.get("/tokens")
    tokens = answer["tokens"]
    lines = [_line(token) for token in (tokens if isinstance(tokens, list) else []) if isinstance(token, dict)]
    context.show(answer, "\n".join(lines) or "there are no tokens")
    return ExitCode.OK


def _line(token: JsonObject) -> str:
    state = (
        "revoked"
        if token["revoked"]
        else f"{token['remaining']} of {token['uses']} uses left, until {date(token['not_after'])}"
    )
    station = "  station" if token["station"] else ""
    return f"{token['token_id']}  {token['profile']}{station}  {state}"


async def revoke(context: Context) -> int:
    async with control(context) as gateway:
        answer = await gateway.delete(f"/tokens/{context.text('token')}")
    context.show(answer, f"token {context.text('token')} is revoked")
    return ExitCode.OK

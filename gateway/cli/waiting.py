"""``waiting | approve | deny``: requests that a profile holds back for a person."""

from __future__ import annotations

from gateway.cli.context import Context, ExitCode, printable
from gateway.cli.control_client import control


async def show(context: Context) -> int:
    async with control(context) as gateway:
        answer = await gateway.get("/requests")
    requests = answer["requests"]
    lines = [
        printable(f"{each['request_id']}  {each['profile']}  {each['subject']}  from {each['requester']}", lines=False)
        for each in (requests if isinstance(requests, list) else [])
        if isinstance(each, dict)
    ]
    context.show(answer, "\n".join(lines) or "nothing waits")
    return ExitCode.OK


async def approve(context: Context) -> int:
    return await _decide(context, approved=True, reason="")


async def deny(context: Context) -> int:
    return await _decide(context, approved=False, reason=context.text("reason"))


async def _decide(context: Context, *, approved: bool, reason: str) -> int:
    request_id = context.text("request")
    async with control(context) as gateway:
        answer = await gateway.post(f"/requests/{request_id}/decision", {"approved": approved, "reason": reason})
    after = "approved; the device gets its certificate when it asks again" if approved else "denied"
    context.show(answer, f"request {request_id} is {after}")
    return ExitCode.OK

"""``run | demo | init``: the commands that make a gateway and keep it working."""

from __future__ import annotations

from gateway import app
from gateway.cli import demo_setup
from gateway.cli.context import Context, ExitCode


async def run(context: Context) -> int:
    await app.serve(context.config)
    return ExitCode.OK


async def demo(context: Context) -> int:
    config = await demo_setup.prepare(context.config)
    await app.serve(config, demo=True)
    return ExitCode.OK


async def init(context: Context) -> int:
    head = await app.initialise(context.config)
    context.show(
        {"state": str(context.state), "origin": head.origin, "verifier_key": head.verifier_key},
        f"a new gateway is in {context.state}\njournal {head.origin}\nits public key, for auditors: {head.verifier_key}\n"
        "next: edge-gateway ca keygen",
    )
    return ExitCode.OK

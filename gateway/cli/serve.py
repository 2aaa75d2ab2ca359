"""``run | demo | init``: the commands that make a gateway and keep it working."""

from __future__ import annotations

from pathlib import Path

from gateway import app
from gateway import demo as demonstration
from gateway.cli.context import Context, ExitCode, read_pin
from gateway.config import load_config

#: Where a demo that is not told otherwise keeps everything.
DEFAULT_DEMO_STATE = Path(".state").absolute()


async def run(context: Context) -> int:
    await app.serve(context.config)
    return ExitCode.OK


async def demo(context: Context) -> int:
    """Everything a demo needs is made in the state directory at the first start, by default ``./.state``."""
    state = context.path("state") if context.text("state") else DEFAULT_DEMO_STATE
    config = load_config(demonstration.write_configuration(state)).with_state(state)
    await app.prepare_demo(config)
    await app.serve(config, demonstration=True)
    return ExitCode.OK


async def init(context: Context) -> int:
    pin = read_pin(context.text("pin")) if context.text("pin") else ""
    predecessor = context.text("predecessor")
    identity = await app.initialise(context.config, pin=pin, predecessor=predecessor)
    following = f"edge-gateway join, with a new code; it replaces {predecessor}" if predecessor else "edge-gateway ca keygen"
    context.show(
        {
            "state": str(context.state), "origin": identity.origin, "verifier_key": identity.verifier_key,
            "predecessor": predecessor,
        },
        f"a new gateway is in {context.state}\njournal {identity.origin}\n"
        f"its public key, for auditors: {identity.verifier_key}\n"
        f"next: {following}",
    )  # fmt: skip
    return ExitCode.OK

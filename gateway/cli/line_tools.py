"""``simulate | recipe``: what line integrators use without a gateway.

The tools are programs of their own below :mod:`provisioning`, which the command line does not know: it becomes them.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn

from gateway.cli.context import Context

_OPTIONS = ("count", "kind", "directory", "seed", "slow_key")


async def simulate(context: Context) -> int:
    """Runs until Ctrl-C."""
    words = [word for name in _OPTIONS for word in (f"--{name.replace('_', '-')}", str(getattr(context.arguments, name)))]
    _become("provisioning.simulator", *words, *(word for fault in context.arguments.fault for word in ("--fault", str(fault))))


async def recipe(context: Context) -> int:
    _become("provisioning.recipe_check", context.text("file"))


def _become(module: str, *words: str) -> NoReturn:
    """This process goes on as ``python -m module``."""
    sys.stdout.flush()
    # -P: the working directory is no place to load code from.
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *words])  # noqa: S606

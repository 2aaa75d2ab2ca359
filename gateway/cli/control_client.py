"""The command line's side of the control socket: REST over ``STATE/control.sock``.

While the daemon runs it does the work. Without it a command opens the very same gateway without its network listeners, for
the length of the command, and talks to it in the same way; the journal's exclusive lock keeps the two apart.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.app import CONTROL_SOCKET, opened
from gateway.cli.context import Context
from gateway.web.unix_client import ControlClient, connected, daemon_answers


@asynccontextmanager
async def control(context: Context) -> AsyncIterator[ControlClient]:
    """A client of the running daemon, or of a gateway opened for this command. Raises what opening a gateway raises."""
    if daemon_answers(context.state / CONTROL_SOCKET):
        async with connected(context.state / CONTROL_SOCKET) as client:
            yield client
        return
    async with opened(context.config), connected(context.state / CONTROL_SOCKET) as client:
        yield client

"""Reads the command line and the configuration, runs one command, turns an error into words and an exit code."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import resource
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from gateway.cli.context import Context, ExitCode, exit_code, report
from gateway.cli.parser import build_parser
from gateway.config import Config, load_config
from gateway.errors import GatewayError, OperatorError
from gateway.telemetry.logs import set_up_logging

#: Where ``demo`` keeps the configuration that it makes, so that every command with ``--state`` finds it again.
STATE_CONFIG = "config.toml"
_DESCRIPTORS = 65_536


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = build_parser().parse_args(argv)
    _set_limits()
    try:
        context = _context(arguments)
        set_up_logging(context.config.gateway.log_level if arguments.serves else "warning")
        handler: Callable[[Context], Awaitable[int]] = arguments.handler
        return asyncio.run(_run(handler, context))
    except GatewayError as error:
        report(error, as_json=arguments.json)
        return exit_code(error)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of our output has gone; there is nobody to tell
        return ExitCode.REFUSED
    except OSError as error:  # a directory of another user, a disk that is gone: a person needs words, not a traceback
        report(OperatorError(f"{error.filename or 'the system'}: {error.strerror or error}"), as_json=arguments.json)
        return ExitCode.REFUSED
    except KeyboardInterrupt:
        return 130  # 128 + SIGINT, as shells say it


def _set_limits() -> None:
    """What the service unit sets as well: no core file, which would put keys from memory on the disk, and descriptors for as
    many connections as the configuration allows; shells give 1,024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _DESCRIPTORS)
    with contextlib.suppress(ValueError, OSError):  # a sandbox that forbids it has limits of its own
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _run(handler: Callable[[Context], Awaitable[int]], context: Context) -> int:
    return await handler(context)


def _context(arguments: argparse.Namespace) -> Context:
    """The configuration: ``--config``, else the one inside the state directory (a demo's), else the defaults."""
    state: Path | None = arguments.state.absolute() if arguments.state else None
    path: Path | None = arguments.config
    if path is None and state is not None and (state / STATE_CONFIG).exists():
        path = state / STATE_CONFIG
    config = load_config(path) if path is not None else Config()
    if state is not None:
        config = config.with_state(state)
    return Context(arguments, config, path, arguments.json)
